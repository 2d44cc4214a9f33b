"""Calls of actors: `mailboxes.pyx`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from checker import (
    Model,
    Op,
    Process,
    add,
    and_,
    cas,
    load,
    or_,
    sleep,
    store,
    store_relaxed,
    store_release,
    wake,
)  # fmt: skip

READY, CLAIMED = 2, 3


# ---- parking: box_push against next_call, look and take ----------------------------------------


def parking(calls: int = 2, callers: int = 1, broken: str = "") -> Model:
    """Callers enter calls; the actor runs them, looks once more, and sleeps. In the end it has run
    each once. (`spin` is left out: it only makes sleeping rarer.)"""

    def box_push(c: int) -> Process:
        n = 0
        while n < calls:
            yield store_release(f"call{c}.{n}", READY)
            yield store(f"tail{c}", n + 1)
            bits = yield load("waiting")
            if not bits & (1 << c):
                yield or_("waiting", 1 << c)
            parked = yield load("parked")
            if parked:
                yield add("wake", 1)
                parked = yield load("parked")
                if parked:
                    yield wake("wake")
            n += 1

    def take(c: int, at: int) -> Process:
        """Whether a call was claimed."""
        tail = yield load(f"tail{c}")
        if at >= tail:
            return False  # type: ignore[return-value]
        claimed = yield cas(f"call{c}.{at}", READY, CLAIMED)
        assert claimed, "an entry before the tail that is not there"
        yield add("ran", 1)
        return True  # type: ignore[return-value]

    def look(at: tuple[int, ...], held: int, last: bool) -> Process:
        """(whose call was claimed, or None; callers to be looked at without being told)"""
        bits = yield load("waiting")
        bits |= held
        c = 0
        while c < callers:
            if bits & (1 << c):
                got = yield from take(c, at[c])
                if not got and (last or callers > 2):
                    if broken == "bit cleared after the look":
                        got = yield from take(c, at[c])
                        yield and_("waiting", ~(1 << c))
                    elif broken == "bit cleared, and no look":
                        yield and_("waiting", ~(1 << c))
                    else:
                        yield and_("waiting", ~(1 << c))
                        got = yield from take(c, at[c])
                    if got:
                        held |= 1 << c  # from now on we look here whatever `waiting` says
                    else:
                        held &= ~(1 << c)
                if got:
                    return c, held  # type: ignore[return-value]
            c += 1
        return None, held  # type: ignore[return-value]

    def next_call() -> Process:
        at = (0,) * callers
        held = 0
        while True:
            c, held = yield from look(at, held, False)
            while c is None:
                seen = yield load("wake")
                if broken == "parked after the look":
                    c, held = yield from look(at, held, True)
                    yield store("parked", 1)
                elif broken == "parked in the buffer":
                    yield store_relaxed("parked", 1)
                    c, held = yield from look(at, held, False)
                else:
                    yield store("parked", 1)
                    c, held = yield from look(at, held, True)
                if c is None:
                    yield sleep("wake", seen)
                yield store("parked", 0)
            at = (*at[:c], at[c] + 1, *at[c + 1 :])

    def in_the_end(m: Mapping[str, Any], asleep: list[str]) -> bool:
        return asleep == ["actor"] and m["ran"] == calls * callers

    memory: dict[str, Any] = {"waiting": 0, "parked": 0, "wake": 0, "ran": 0}
    processes: dict[str, Callable[[], Process]] = {}
    for c in range(callers):
        memory[f"tail{c}"] = 0
        for n in range(calls):
            memory[f"call{c}.{n}"] = 0
        processes[f"caller {c}"] = lambda c=c: box_push(c)
    processes["actor"] = next_call
    return Model(memory, processes, None, in_the_end)


# ---- segments: box_room against entry_at -------------------------------------------------------


def segments(crash: bool = False, broken: str = "") -> Model:
    """A caller enters seven calls, two to a segment, and uses segments again once their calls are
    done; then they are full of other things. The actor finds each call under its number, or learns
    that it is done, and no chain of segments leads it astray.

    `first` is (index, slot) of the oldest segment that is there; a segment's word 0 is the next
    one's slot. With `crash` the caller dies anywhere, and the node closes its mailbox and gives its
    segments to others.
    """
    size, calls = 2, 7
    slots = ("a", "b", "c")

    def fill(slot: str, next_: Any, what: str) -> Process:
        """Somebody else uses the memory."""
        write = store_relaxed if broken == "plain stores to what is used again" else store_release
        yield write(slot + "0", next_)
        yield write(slot + "1", what)

    def box_push() -> Process:
        own = ("a",)  # by index, from the oldest
        oldest = 0
        free = ("b", "c")
        n = 0
        while n < calls:
            k = n // size
            if n % size == 0 and k >= oldest + len(own):
                # box_room
                while len(own) > 1:
                    head = yield load("head")
                    if (oldest + 1) * size > head:
                        break
                    slot = own[0]
                    own = own[1:]
                    oldest += 1
                    if broken == "used again before it is said":
                        yield from fill(slot, "junk", "junk")
                    yield store("first", (oldest, own[0]))
                    free = (*free, slot)
                    yield from fill(slot, "junk", "junk")
                if not free:
                    return  # full: the call is refused
                slot = free[0]
                free = free[1:]
                yield store_release(slot + "0", "")
                yield store(own[-1] + "0", slot)
                own = (*own, slot)
            slot = own[k - oldest]
            yield store_release(slot + str(1 + n % size), n)
            yield store("tail", n + 1)
            n += 1

    def entry_at(at: int) -> Process:
        k = at // size
        while True:
            first = yield load("first")
            if first[0] > k:
                return None  # type: ignore[return-value]
            index, slot = first
            while index < k and slot in slots:
                slot = yield load(slot + "0")
                index += 1
            entry = None
            if slot in slots:
                entry = yield load(slot + str(1 + at % size))
            if broken == "no second look":
                return entry  # type: ignore[return-value]
            again = yield load("first")
            if again == first:
                return entry  # type: ignore[return-value]

    def actor() -> Process:
        at = 0
        while at < calls:
            yield until_more(at)
            entry = yield from entry_at(at)
            dead = yield load("closed")
            assert entry == at or dead, f"call {at} was read as {entry!r}"
            at += 1
            yield store("head", at)

    def second() -> Process:
        """Another look at the same mailbox: `settle`, or the node that counts what waits."""
        at = 0
        while at < size:
            yield until_more(at)
            entry = yield from entry_at(at)
            dead = yield load("closed")
            assert entry in (at, None) or dead, f"call {at} was read as {entry!r}"
            at += 1

    def until_more(at: int) -> Op:
        return ("until", lambda m: m["tail"] > at)

    def node() -> Process:
        """close_boxes"""
        yield ("until", lambda m: m["crashed"] == "caller")
        tail = yield load("tail")
        yield store("closed", True)
        yield store("first", (tail // size + 1, ""))
        for slot in slots:
            yield from fill(slot, "junk", "junk")

    memory: dict[str, Any] = {"tail": 0, "head": 0, "first": (0, "a"), "closed": False}
    for slot in slots:
        memory |= {slot + "0": "", slot + "1": "junk", slot + "2": "junk"}
    processes = {"caller": box_push, "actor": actor}
    if crash:
        processes["node"] = node
    else:
        processes["settle"] = second
    return Model(memory, processes, None, lambda m, asleep: True, ["caller"] if crash else ())
