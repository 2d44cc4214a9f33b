"""A small explicit-state model checker: every interleaving, every crash, x86's and ARM's buffers.

A model is a set of processes, each a generator that yields one access to shared memory at a time,
as the code that it stands for does, and gets its result back:

>>> def worker(me):
...     if (yield cas("state", READY, CLAIMED + me)):
...         yield add("ran", 1)

`check` goes through all states that can be reached.  In each the model's `always` must hold, and
where nothing can go on its `finally_`; a process that sleeps in a futex then sleeps for ever, since
time limits are not modelled: what holds here holds without them.

What a process knows (its generators' places and local variables) and the memory are the state, so
loops are no matter.  A generator cannot be copied: to go on from a state, one is run anew with the
results that led there, and what it does next is remembered.

Memory orders, by the names of `atomics.h`:

- "tso", x86-64: plain, relaxed and release stores stand in a queue of the process's, from which
  they reach memory later, in order.  `store` (sequentially consistent) and read-modify-writes empty
  it.
- "weak", a part of what ARM may do besides: relaxed stores leave the queue in any order; `store`
  stands in the queue too, until the next `load` (but not `load_relaxed`), behind all before it.
  Loads are not reordered with one another.
- "sc": nothing is.
"""

from __future__ import annotations

import dis
import functools
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

Op = tuple[Any, ...]
Process = Generator[Op, Any, None]


# ---- what a process may do ---------------------------------------------------------------------


def load(name: str) -> Op:
    return ("load", name)


def load_relaxed(name: str) -> Op:
    return ("load_relaxed", name)


def store(name: str, value: Any) -> Op:
    return ("store", name, value)


def store_release(name: str, value: Any) -> Op:
    return ("release", name, value)


def store_relaxed(name: str, value: Any) -> Op:
    return ("relaxed", name, value)


def cas(name: str, expected: Any, new: Any) -> Op:
    return ("rmw", name, lambda v: (v == expected, new if v == expected else v), expected, new)


def add(name: str, n: int) -> Op:
    """The value before."""
    return ("rmw", name, lambda v: (v, v + n), "+", n)


def or_(name: str, bits: int) -> Op:
    return ("rmw", name, lambda v: (v, v | bits), "|", bits)


def and_(name: str, bits: int) -> Op:
    return ("rmw", name, lambda v: (v, v & bits), "&", bits)


def xchg(name: str, new: Any) -> Op:
    return ("rmw", name, lambda v: (v, new), "=", new)


def sleep(name: str, expected: Any) -> Op:
    """futex_wait without a time limit."""
    return ("sleep", name, expected)


def wake(name: str) -> Op:
    """futex_wake of all who sleep there."""
    return ("wake", name)


def until(condition: Callable[[Mapping[str, Any]], bool]) -> Op:
    """Goes on once this holds: what the model does not look into. ("crashed" names the dead.)"""
    return ("until", condition)


class Violation(AssertionError):
    """The model does what it must not; with the steps that lead there."""


@dataclass
class Model:
    """What is to be checked.

    Attributes
    ----------
    memory : dict
        Shared variables and their first values.
    processes : dict
        Name to a function that gives the generator.
    always : callable, optional
        Given the memory, raises or gives False where something is wrong.
    finally_ : callable, optional
        The same, where nothing can go on; given the memory and the names of those that sleep.
    mortal : iterable of str
        Processes that may be killed between any two steps; one in each run.
    """

    memory: dict[str, Any]
    processes: dict[str, Callable[[], Process]]
    always: Callable[[Mapping[str, Any]], bool] | None = None
    finally_: Callable[[Mapping[str, Any], list[str]], bool] | None = None
    mortal: Iterable[str] = ()
    limit: int = 400_000


class _Memory(Mapping[str, Any]):
    """A state's memory, by names."""

    def __init__(self, names: Mapping[str, int], values: tuple[Any, ...], crashed: str) -> None:
        self.names, self.values_, self.crashed = names, values, crashed

    def __getitem__(self, name: str) -> Any:
        if name == "crashed":
            return self.crashed
        return self.values_[self.names[name]]

    def __iter__(self) -> Any:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@functools.cache
def _live(code: CodeType) -> dict[int, tuple[str, ...]]:
    """By instruction: the local variables that may still be read after it. What else they hold is
    no part of the state, which makes for a tenth of the states."""
    listing = list(dis.get_instructions(code))
    index = {one.offset: i for i, one in enumerate(listing)}
    after: list[list[int]] = []
    for i, one in enumerate(listing):
        follows = [] if one.opname.startswith(_ENDS) else [i + 1] * (i + 1 < len(listing))
        if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs:
            follows.append(index[one.argval])
        after.append(follows)
    live: list[frozenset[str]] = [frozenset()] * (len(listing) + 1)
    changed = True
    while changed:
        changed = False
        for i in range(len(listing) - 1, -1, -1):
            one = listing[i]
            names = frozenset().union(*(live[k] for k in after[i]))
            # One instruction may do two things from 3.13 on.
            parts = re.findall("LOAD_FAST|STORE_FAST|DELETE_FAST", one.opname)
            args = one.argval if len(parts) > 1 else (one.argval,) * len(parts)
            for part, name in reversed(list(zip(parts, args, strict=True))):
                names = names | {name} if part == "LOAD_FAST" else names - {name}
            if names != live[i]:
                live[i] = names
                changed = True
    return {
        one.offset: tuple(sorted(frozenset().union(*(live[k] for k in after[i]))))
        for i, one in enumerate(listing)
    }


_ENDS = ("RETURN_", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD")


class _Locals:
    """What a process's generators do next, by where they stand; each place worked out once."""

    def __init__(self, make: Callable[[], Process]) -> None:
        self.make = make
        self.ids: dict[Any, int] = {}
        self.history: list[tuple[Any, ...]] = []
        self.ops: list[Op | None] = []
        self.after: dict[tuple[int, Any], int] = {}
        self.start = self._place(())

    def _place(self, history: tuple[Any, ...]) -> int:
        generator: Any = self.make()
        op: Op | None
        try:
            op = next(generator)
            for result in history:
                op = generator.send(result)
        except StopIteration:
            op = None
        except AssertionError as error:
            op = ("failed", str(error))
        key: Any = None
        if op is not None and op[0] != "failed":
            frames = []
            inner = generator
            while inner is not None:
                frame = inner.gi_frame
                known = frame.f_locals
                live = _live(frame.f_code)[frame.f_lasti]
                frames.append((frame.f_code, frame.f_lasti, *[known.get(n) for n in live]))
                inner = inner.gi_yieldfrom
            # The op too: what it is to write was worked out before.
            rest = op[3:] if op[0] == "rmw" else () if op[0] == "until" else op[2:]
            key = (*frames, op[0], rest, op[1] if op[0] != "until" else None)
        elif op is not None:
            key = op
        generator.close()
        place = self.ids.get(key)
        if place is None:
            place = self.ids[key] = len(self.history)
            self.history.append(history)
            self.ops.append(op)
        return place

    def go_on(self, place: int, result: Any) -> int:
        found = self.after.get((place, result))
        if found is None:
            found = self.after[place, result] = self._place((*self.history[place], result))
        return found


def check(model: Model, order: str = "tso") -> int:
    """Go through all states; how many there are. Raises Violation."""
    names = {name: i for i, name in enumerate(model.memory)}
    who = list(model.processes)
    machines = [_Locals(make) for make in model.processes.values()]
    mortal = {who.index(name) for name in model.mortal}
    # memory, place of each, queue of each, asleep of each, the dead one
    first = (
        tuple(model.memory.values()),
        tuple(m.start for m in machines),
        ((),) * len(who),
        (False,) * len(who),
        "",
    )
    came: dict[Any, Any] = {first: None}
    line = deque([first])

    def trace(state: Any, why: str) -> Violation:
        steps: list[str] = []
        while came[state] is not None:
            state, step = came[state]
            steps.append(step)
        return Violation(f"{why} [{order}], after:\n  " + "\n  ".join(reversed(steps)))

    while line:
        state = line.popleft()
        memory, places, _, _, dead = state
        view = _Memory(names, memory, dead)
        if model.always is not None:
            try:
                if model.always(view) is False:
                    raise trace(state, "what must always hold does not")
            except AssertionError as error:
                if isinstance(error, Violation):
                    raise
                raise trace(state, str(error)) from None
        for i, place in enumerate(places):
            op = machines[i].ops[place]
            if op is not None and op[0] == "failed":
                raise trace(state, f"{who[i]}: {op[1]}")
        moved = False
        for new, step, counts in _successors(state, view, names, who, machines, mortal, order):
            moved = moved or counts
            if new not in came:
                came[new] = (state, step)
                line.append(new)
        if len(came) > model.limit:
            raise RuntimeError(f"more than {model.limit} states")
        if not moved:
            sleepers = [
                who[i] for i in range(len(who))
                if machines[i].ops[places[i]] is not None and who[i] != dead
            ]  # fmt: skip
            if model.finally_ is not None:
                try:
                    if model.finally_(view, sleepers) is False:
                        raise trace(
                            state, f"what must hold in the end does not; asleep: {sleepers}"
                        )
                except AssertionError as error:
                    if isinstance(error, Violation):
                        raise
                    raise trace(state, f"{error}; asleep: {sleepers}") from None
            elif sleepers:
                raise trace(state, f"asleep for ever: {sleepers}")
    return len(came)


def _successors(
    state: Any,
    view: _Memory,
    names: dict[str, int],
    who: list[str],
    machines: list[_Locals],
    mortal: set[int],
    order: str,
) -> Iterable[tuple[Any, str, bool]]:
    memory, places, queues, asleep, dead = state

    def put(values: tuple[Any, ...], i: int, value: Any) -> tuple[Any, ...]:
        return (*values[:i], value, *values[i + 1 :])

    for p, machine in enumerate(machines):
        name, queue = who[p], queues[p]
        # A store that stands in the queue reaches memory, whether its process lives or not.
        for k, (kind, at, value) in enumerate(queue):
            if k and (order == "tso" or kind != "relaxed" or any(a == at for _, a, _ in queue[:k])):
                continue
            new = (put(memory, at, value), places, put(queues, p, queue[:k] + queue[k + 1 :]),
                   asleep, dead)  # fmt: skip
            yield new, f"{name}: (stored)", True
        if name == dead:
            continue
        op = machine.ops[places[p]]
        if op is None:
            continue
        if p in mortal and not dead:
            yield (memory, places, queues, put(asleep, p, False), name), f"{name}: killed", False
        kind = op[0]
        if kind == "until":
            if op[1](view):
                yield (memory, put(places, p, machine.go_on(places[p], None)), queues, asleep,
                       dead), f"{name}: goes on", True  # fmt: skip
            continue
        at = names[op[1]]
        result: Any = None
        after, waiting, sleeping = memory, queue, asleep
        if kind in ("load", "load_relaxed"):
            if kind == "load" and any(k == "store" for k, _, _ in queue):
                continue
            result = memory[at]
            for _, a, value in queue:
                if a == at:
                    result = value
        elif kind in ("relaxed", "release", "store"):
            if order == "sc" or (kind == "store" and order == "tso"):
                if queue:
                    continue
                after = put(memory, at, op[2])
            else:
                waiting = (*queue, (kind, at, op[2]))
                if len(waiting) > 6:
                    continue
        elif queue:
            continue  # what follows empties the queue first
        elif kind == "rmw":
            result, value = op[2](memory[at])
            after = put(memory, at, value)
        elif kind == "sleep":
            if asleep[p]:
                continue
            if memory[at] == op[2]:
                yield (memory, places, queues, put(asleep, p, True), dead), f"{name}: sleeps", True
                continue
        elif kind == "wake":
            for q, other in enumerate(machines):
                there = other.ops[places[q]]
                if asleep[q] and there is not None and there[:2] == ("sleep", op[1]):
                    sleeping = put(sleeping, q, False)
                    places = put(places, q, other.go_on(places[q], None))
            new = (memory, put(places, p, machine.go_on(places[p], None)), queues, sleeping, dead)
            yield new, f"{name}: wake {op[1]}", True
            places = state[1]
            continue
        shown = f"{name}: {kind} {op[1]}"
        if kind in ("relaxed", "release", "store"):
            shown += f" := {op[2]!r}"
        elif result is not None:
            shown += f" -> {result!r}" + (f", now {after[at]!r}" if kind == "rmw" else "")
        yield (after, put(places, p, machine.go_on(places[p], result)), put(queues, p, waiting),
               sleeping, dead), shown, True  # fmt: skip
