"""Objects: who holds, who waits, who is told, where they lie: `objects.pyx`, `futures.pyx`,
`shared_arrays.pyx`, `spilling.pyx`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from checker import (
    Model,
    Process,
    add,
    and_,
    cas,
    load,
    load_relaxed,
    or_,
    sleep,
    store,
    store_relaxed,
    store_release,
    until,
    wake,
    xchg,
)  # fmt: skip

CREATED, SEALED, FREEING, OPEN = "created", "sealed", "freeing", "open"


# ---- hold, unhold, try_free --------------------------------------------------------------------


def holders(crash: bool = False, broken: str = "") -> Model:
    """A holds an object, hands it to B, B hands it to C; each lets go when the next one holds it.

    It is freed once, and not while somebody holds it. A and C have their bits in one word, B in
    another: nobody can look at both at once. State: (status, version).

    With `crash` one of them dies at any step, and the node then clears the bits that it had.
    """
    word = {"A": "bits0", "B": "bits1", "C": "bits0"}
    bit = {"A": 1, "B": 1, "C": 2}

    def try_free() -> Process:
        while True:
            state = yield load("state")
            if state[0] == FREEING:
                return
            left = yield load("bits0")
            if left:
                return
            left = yield load("bits1")
            if left:
                return
            if broken == "free without a look at the version":
                now = yield load("state")
                if now[0] == SEALED:
                    yield store("state", (FREEING, 0))
                    yield add("freed", 1)
                    return
            elif (yield cas("state", state, (FREEING, 0))):
                yield add("freed", 1)
                return

    def hold(me: str) -> Process:
        yield or_(word[me], bit[me])
        while True:
            state = yield load("state")
            if state[0] == FREEING:
                yield and_(word[me], ~bit[me])
                return False  # type: ignore[return-value]
            if broken == "the version stays":
                return True  # type: ignore[return-value]
            if (yield cas("state", state, (state[0], state[1] + 1))):
                return True  # type: ignore[return-value]

    def unhold(me: str) -> Process:
        yield and_(word[me], ~bit[me])
        yield from try_free()

    def process(me: str, before: str, after: str) -> Process:
        if before:
            yield until(lambda m: m["at"] == me or m["crashed"] == before)
            at = yield load("at")
            if at != me:
                return
            there = yield from hold(me)
            # Whoever handed it on may have died since, and with it what it held.
            if not there:
                assert crash, "it is gone though it was held"
                return
            yield store("holds" + me, 1)
            freed = yield load("freed")
            assert not freed, "freed while it is held"
        if after:
            yield store("at", after)
            yield until(lambda m: m["holds" + after] or m["crashed"] == after)
        yield from unhold(me)

    def node(dead: str) -> Process:
        yield until(lambda m: m["crashed"] == dead)
        yield and_(word[dead], ~bit[dead])
        yield from try_free()

    def once(m: Mapping[str, Any]) -> bool:
        return bool(m["freed"] <= 1)

    def in_the_end(m: Mapping[str, Any], asleep: list[str]) -> bool:
        if crash and m["crashed"]:
            # One that dies between the swap to FREEING and the free is the kill points' affair.
            return m["state"][0] == FREEING
        return m["freed"] == 1 and all(p.startswith("node") for p in asleep)

    memory: dict[str, Any] = {
        "state": (SEALED, 0), "bits0": 1, "bits1": 0, "at": "A", "freed": 0, "holdsA": 1,
        "holdsB": 0, "holdsC": 0,
    }  # fmt: skip
    processes: dict[str, Callable[[], Process]] = {
        "A": lambda: process("A", "", "B"),
        "B": lambda: process("B", "A", "C"),
        "C": lambda: process("C", "B", ""),
    }
    if crash:
        processes |= {f"node after {p}": lambda p=p: node(p) for p in "ABC"}
    return Model(memory, processes, once, in_the_end, "ABC" if crash else ())


# ---- wait_for and sleep_on against seal and bump -----------------------------------------------


def waiting(objects: int = 2, need: int = 2, others: bool = False, broken: str = "") -> Model:
    """A process waits for `need` of so many objects, each sealed by a process of its own; with
    `others`, another one waits for the first of them too. Nobody sleeps for ever."""
    parties = [1, 2] if others else [1]
    everybody = 9  # PR_WAITER_MULTI

    def register_waiter(me: int, o: int) -> Process:
        while True:
            w = yield load(f"waiter{o}")
            if w in (me, everybody):
                break
            if (yield cas(f"waiter{o}", w, me if w == 0 else everybody)):
                break
        if broken == "no second look":
            return False  # type: ignore[return-value]
        state = yield load(f"state{o}")
        return state == SEALED  # type: ignore[return-value]

    def sleep_on(me: int, target: int) -> Process:
        while True:
            events = yield load(f"events{me}")  # where it spins
            if events >= target:
                return
            if broken == "parked in the buffer":
                yield store_relaxed(f"parked{me}", 1)
            else:
                yield store(f"parked{me}", 1)
            if broken == "asleep on the events":
                yield sleep(f"events{me}", events)
                yield store(f"parked{me}", 0)
                continue
            if broken != "parked without a look":
                events = yield load(f"events{me}")
                if events >= target:
                    yield store(f"parked{me}", 0)
                    return
            yield sleep(f"parked{me}", 1)
            yield store(f"parked{me}", 0)

    def wait_for(me: int, which: int, enough: int) -> Process:
        while True:
            events = yield load(f"events{me}")
            yield store(f"target{me}", 99)
            ready = 0
            o = 0
            while o < which and ready < enough:
                state = yield load(f"state{o}")
                if state == SEALED:
                    ready += 1
                else:
                    there = yield from register_waiter(me, o)
                    ready += bool(there)
                o += 1
            if ready >= enough:
                return
            yield store(f"target{me}", events + enough - ready)
            if broken == "events read late":
                events = yield load(f"events{me}")
                yield store(f"target{me}", events + enough - ready)
            yield from sleep_on(me, events + enough - ready)

    def bump(p: int) -> Process:
        n = yield add(f"events{p}", 1)
        target = yield load(f"target{p}")
        if n + 1 >= target:
            parked = yield load(f"parked{p}")
            if parked:
                if (yield cas(f"parked{p}", 1, 0)):
                    yield wake(f"events{p}" if broken == "asleep on the events" else f"parked{p}")

    def seal(o: int) -> Process:
        if broken == "waiter before the seal":
            w = yield load(f"waiter{o}")
            yield cas(f"state{o}", CREATED, SEALED)
        else:
            yield cas(f"state{o}", CREATED, SEALED)
            w = yield load(f"waiter{o}")
        if w == everybody:
            for p in parties:
                yield from bump(p)
        elif w:
            yield from bump(w)

    memory: dict[str, Any] = {}
    for o in range(objects):
        memory[f"state{o}"], memory[f"waiter{o}"] = CREATED, 0
    for p in parties:
        memory[f"events{p}"] = memory[f"parked{p}"] = memory[f"target{p}"] = 0
    processes: dict[str, Callable[[], Process]] = {
        f"sealer {o}": lambda o=o: seal(o) for o in range(objects)
    }
    processes["waiter"] = lambda: wait_for(1, objects, need)
    if others:
        processes["other"] = lambda: wait_for(2, 1, 1)
    return Model(memory, processes)


# ---- await_object against seal and tell_dependents ---------------------------------------------


def dependents(tasks: str = "T", broken: str = "") -> Model:
    """T awaits two objects, U one of them, and two processes seal them. Each task becomes ready
    once, and none stays behind. A link on an object's list is the task that comes first."""
    needs = {t: {"T": ("X", "Y"), "U": ("X",)}[t] for t in tasks}

    def task_ready(task: str) -> Process:
        for o in needs[task]:
            ready = yield load("ready" + task + o)
            if not ready:
                return
        state = yield load("state" + task)
        if state == "waiting":
            if broken == "ready without swap":
                yield store("state" + task, "ready")
                yield add("queued" + task, 1)
            elif (yield cas("state" + task, "waiting", "ready")):
                yield add("queued" + task, 1)

    def walk(task: str, o: str) -> Process:
        while task:
            after = yield load_relaxed("next" + task + o)
            yield store("ready" + task + o, 1)
            yield from task_ready(task)
            task = after

    def tell_dependents(o: str) -> Process:
        while True:
            first = yield load("list" + o)
            if not first:
                return
            if (yield cas("list" + o, first, "")):
                yield from walk(first, o)
                return

    def await_object(task: str, o: str) -> Process:
        while True:
            state = yield load("state" + o)
            if state == SEALED:
                yield store("ready" + task + o, 1)
                return
            first = yield load("list" + o)
            yield store_relaxed("next" + task + o, first)
            if (yield cas("list" + o, first, task)):
                break
        if broken == "no second look":
            return
        state = yield load("state" + o)
        if state == SEALED:
            yield from tell_dependents(o)

    def submit(task: str) -> Process:
        yield store("state" + task, "waiting")
        for o in needs[task]:
            yield from await_object(task, o)
        yield from task_ready(task)

    def seal(o: str) -> Process:
        yield cas("state" + o, CREATED, SEALED)
        first = yield load("list" + o)
        if first:
            yield from tell_dependents(o)

    def in_the_end(m: Mapping[str, Any], asleep: list[str]) -> bool:
        return not asleep and all(m["queued" + t] == 1 for t in tasks)

    memory: dict[str, Any] = {"stateX": CREATED, "stateY": CREATED, "listX": "", "listY": ""}
    for task, awaited in needs.items():
        memory["state" + task], memory["queued" + task] = "new", 0
        for o in awaited:
            memory["next" + task + o], memory["ready" + task + o] = "", 0
    return Model(
        memory,
        {
            **{f"submitter of {t}": lambda t=t: submit(t) for t in tasks},
            **{f"sealer of {o}": lambda o=o: seal(o) for o in needs[tasks[0]]},
        },
        lambda m: all(m["queued" + t] <= 1 for t in tasks), in_the_end,
    )  # fmt: skip


# ---- the bridge's ring: note_done against collect ----------------------------------------------


def done_ring(broken: str = "") -> Model:
    """Two processes seal an object each that a bridge awaits; a ring of two. It learns of each,
    and sleeps no longer than until the last. (What a lap loses, or a death, its look at everything
    finds, which a clock brings about.)"""
    slots, objects = 2, 2

    def seal(o: int) -> Process:
        yield cas(f"state{o}", CREATED, SEALED)
        w = yield load(f"waiter{o}")
        if not w:
            return
        if broken == "event before the note":
            yield from bump()
        i = yield add("tail", 1)
        yield store(f"slot{i % slots}", o + 1)
        if broken != "event before the note":
            yield from bump()

    def bump() -> Process:
        n = yield add("events", 1)
        target = yield load("target")
        if n + 1 >= target:
            parked = yield load("parked")
            if parked:
                if (yield cas("parked", 1, 0)):
                    yield wake("parked")

    def bridge() -> Process:
        left = 0
        for o in range(objects):
            yield cas(f"waiter{o}", 0, 1)
            state = yield load(f"state{o}")
            if state != SEALED:
                left |= 1 << o
        head = 0
        while left:
            seen = yield load("events")
            tail = yield load("tail")
            while head != tail:
                handle = yield xchg(f"slot{head % slots}", 0)
                if handle == 0:
                    break  # it is being written; the event after it wakes us
                head += 1
                left &= ~(1 << (handle - 1))
            if not left:
                return
            yield store("target", seen + 1)
            while True:
                yield store("parked", 1)
                events = yield load("events")
                if events < seen + 1:
                    yield sleep("parked", 1)
                yield store("parked", 0)
                events = yield load("events")
                if events >= seen + 1:
                    break

    memory: dict[str, Any] = {"tail": 0, "events": 0, "target": 0, "parked": 0}
    for i in range(slots):
        memory[f"slot{i}"] = 0
    for o in range(objects):
        memory[f"state{o}"], memory[f"waiter{o}"] = CREATED, 0
    processes: dict[str, Callable[[], Process]] = {
        f"sealer {o}": lambda o=o: seal(o) for o in range(objects)
    }
    processes["bridge"] = bridge
    return Model(memory, processes)


# ---- shared arrays: seal_open against hold -----------------------------------------------------


def seal_open(broken: str = "") -> Model:
    """A makes a shared array an object, if nobody else holds it; B, to whom A has given it, holds
    it and writes to it as long as it is open. What is sealed nobody writes to."""

    def owner() -> Process:
        state = yield load("state")
        others = yield load("bitsB")
        if others:
            return
        if broken == "without the version":
            now = yield load("state")
            if now[0] == OPEN:
                yield store("state", (SEALED, now[1]))
        else:
            yield cas("state", state, (SEALED, state[1]))

    def other() -> Process:
        yield or_("bitsB", 1)
        while True:
            state = yield load("state")
            if (yield cas("state", state, (state[0], state[1] + 1))):
                break
        state = yield load("state")
        if state[0] == OPEN:
            yield store("writes", 1)
            yield store("writes", 0)
            yield and_("bitsB", 0)

    def never_both(m: Mapping[str, Any]) -> bool:
        return not (m["writes"] and m["state"][0] == SEALED)

    return Model(
        {"state": (OPEN, 0), "bitsB": 0, "writes": 0}, {"A": owner, "B": other}, never_both
    )


# ---- spilling: pin_place against move ----------------------------------------------------------


def spilling(spillers: int = 1, readers: int = 2, broken: str = "") -> Model:
    """Processes read an object while others move it to disk and give its old place to somebody
    else. What a reader looks at, with its pin there, is the object as long as it looks.

    `off`: (place, mover); the old place is "A", the copies "B1", "B2".
    """

    def settle_place() -> Process:
        while True:
            off = yield load("off")
            if not off[1]:
                return off  # type: ignore[return-value]
            yield cas("off", off, (off[0], 0))

    def reader(me: int) -> Process:
        while True:
            off = yield from settle_place()
            if off[0] != "A":
                return  # it stays where it is
            if broken == "pin in the buffer":
                yield store_relaxed(f"pin{me}", 1)
            else:
                yield or_(f"pin{me}", 1)
            if broken == "no second look":
                break
            now = yield load("off")
            if now == off:
                break
            yield and_(f"pin{me}", 0)
        there = yield load_relaxed("A")
        assert there == "object", "a look at memory that is another's"
        there = yield load_relaxed("A")
        assert there == "object", "the memory became another's under a look"
        yield and_(f"pin{me}", 0)

    def spiller(me: int) -> Process:
        there = yield load_relaxed("A")
        yield store_release(f"B{me}", there)
        mark = ("A", me)
        if not (yield cas("off", ("A", 0), mark)):
            return
        r = 0
        while r < readers and broken != "pins not looked at":
            pin = yield load(f"pin{r}")
            if pin:
                yield cas("off", mark, ("A", 0))
                return
            r += 1
        if broken == "readers leave the mark":
            yield store("off", (f"B{me}", 0))
        elif not (yield cas("off", mark, (f"B{me}", 0))):
            return
        # The old block is free, and somebody else's at once.
        yield store_release("A", "another")

    def copied(m: Mapping[str, Any]) -> bool:
        place = m["off"][0]
        return bool(m[place] == "object")

    memory: dict[str, Any] = {"off": ("A", 0), "A": "object"}
    processes: dict[str, Callable[[], Process]] = {}
    for r in range(readers):
        memory[f"pin{r}"] = 0
        processes[f"reader {r}"] = lambda r=r: reader(r)
    for me in range(1, spillers + 1):
        memory[f"B{me}"] = ""
        processes[f"spiller {me}"] = lambda me=me: spiller(me)
    return Model(memory, processes, copied)
