"""Tasks that there are and that there were, with their names: for the timeline and the state API.

Numbers come out of shared memory, where this process reads them itself; the node is asked once for
what only it knows, the methods' names of actors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from pyray import definitions, session
from pyray._core import census, events, ids

# How long a reader waits for tasks to have ended whose results are there: that takes microseconds,
# unless their worker is stopped or gets no CPU.
SETTLE_SECONDS = 0.2

NORMAL, CREATION, METHOD = "NORMAL_TASK", "ACTOR_CREATION_TASK", "ACTOR_TASK"

# What must be added to the monotonic clock to have the time of day, in ns: one figure for all that
# this process says, so that its times fit together.
_offset = time.time_ns() - time.monotonic_ns()


class Attempt(NamedTuple):
    """One attempt at a task.

    Attributes
    ----------
    id, parent : bytes
        The task's id and that of the one that submitted it.
    number : int
        0 for the first attempt.
    state : str
        In Ray's words.
    start, end : int
        In ns since the epoch; 0 where it is not known, or has not come.
    actor : int
        Handle of the actor, or 0.
    function : int
        Number of the definition, or of the method.
    creates : bool
        Whether it makes the actor.
    pid, slot : int
        Of the process that runs or ran it; 0: none.
    shape : int or None
        Of its resources, where that is still known.
    error : str or None
        Sort of the failure.
    """

    id: bytes
    parent: bytes
    number: int
    state: str
    start: int
    end: int
    actor: int
    function: int
    creates: bool
    pid: int
    slot: int
    shape: int | None
    error: str | None

    @property
    def kind(self) -> str:
        """Ray's word for the sort of task."""
        if not self.actor:
            return NORMAL
        return CREATION if self.creates else METHOD


def wall(ns: int) -> int:
    """The time of day, in ns since the epoch, of a time on the monotonic clock; 0 stays 0."""
    return ns + _offset if ns else 0


def attempts() -> Iterator[Attempt]:
    """All attempts that are known: those that have not ended first, then the others, latest first.

    Each process remembers its last 16,383 ends. Parents' ids are those of their first attempts.
    """
    session.require()
    again = _retried()
    _settle()
    seen: set[tuple[bytes, int]] = set()
    made: list[Attempt] = []
    for chunk in range(1, census.chunks()):
        for task in census.tasks_in(chunk):
            attempt = _live(task, again)
            if attempt.creates and attempt.state == "FINISHED":
                made.append(attempt)  # the record stays with the actor; its end is told below
                continue
            seen.add((attempt.id, attempt.number))
            yield attempt
    # After the live ones: of those that end meanwhile none is lost.
    for attempt in sorted(_ended(again), key=lambda a: a.end, reverse=True):
        key = (attempt.id, attempt.number)
        if key not in seen:
            seen.add(key)
            yield attempt
    yield from (a for a in made if (a.id, a.number) not in seen)


def ended() -> list[Attempt]:
    """Attempts that have ended, in no order; those whose results are there included."""
    session.require()
    again = _retried()
    _settle()
    return list(_ended(again))


def _settle() -> None:
    """Wait until tasks whose results are there have ended, as far as others see."""
    limit = time.monotonic() + SETTLE_SECONDS
    for chunk in range(1, census.chunks()):
        while census.ending_in(chunk):
            if time.monotonic() > limit:
                return
            time.sleep(0.0005)


def _retried() -> dict[bytes, bytes]:
    """Tasks by the ids that what their later attempts submit hashes from."""
    most: dict[bytes, int] = {}
    for chunk in range(1, census.chunks()):
        for task, retries in census.retried_in(chunk):
            most[task] = max(retries, most.get(task, 0))
    for process in range(events.processes()):
        for event in events.read(process, True):
            most[event[0]] = max(event[2], most.get(event[0], 0))
    return {ids.task_id(task, k << 32): task for task, n in most.items() for k in range(1, n + 1)}


_STATES = {
    census.WAITING: "PENDING_ARGS_AVAIL",
    census.READY: "PENDING_NODE_ASSIGNMENT",
    census.AT_NODE: "PENDING_NODE_ASSIGNMENT",
    census.CLAIMED: "SUBMITTED_TO_WORKER",
    census.RUNNING: "RUNNING",
    census.ENDING: "FINISHED",
}


def _live(task: census.LiveTask, again: dict[bytes, bytes]) -> Attempt:
    number, parent, retries, status, slot, start, actor, creates, function, shape = task
    state = _STATES.get(status, "NIL")
    if state == "SUBMITTED_TO_WORKER" and actor and not creates:
        state = "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"
    return Attempt(
        id=number,
        parent=again.get(parent, parent),
        number=retries,
        state=state,
        start=wall(start),
        end=0,
        actor=actor,
        function=function,
        creates=creates,
        pid=census.process(slot)[0] if slot else 0,
        slot=slot or 0,
        shape=shape,
        error=None,
    )


def _ended(again: dict[bytes, bytes]) -> Iterator[Attempt]:
    for process in range(events.processes()):
        for event in events.read(process):
            number, parent, retries, start, end, actor, function, pid, slot, flags = event
            error = _error(flags, actor) if flags & events.FAILED else None
            yield Attempt(
                id=number,
                parent=again.get(parent, parent),
                number=retries,
                state="FAILED" if error else "FINISHED",
                start=wall(start),
                end=wall(end),
                actor=actor,
                function=function,
                creates=bool(flags & events.CREATES),
                pid=pid,
                slot=slot,
                shape=None,
                error=error,
            )


def _error(flags: int, actor: int) -> str:
    if flags & events.CANCELLED:
        return "TASK_CANCELLED"
    if flags & (events.DIED | events.NEVER):
        if actor:
            return "ACTOR_DIED"
        return "WORKER_DIED" if flags & events.DIED else "OWNER_DIED"
    return "TASK_EXECUTION_EXCEPTION"


class Names:
    """Names of what tasks run, and ids of actors."""

    def __init__(self) -> None:
        self._functions: dict[int, str] = {}
        self._actors: dict[int, tuple[str, str, list[str]]] = dict(
            session.require().call("state", "names")
        )

    def actor_id(self, actor: int) -> str | None:
        """An actor's id; None for no actor, and one that died long ago."""
        return self._actors[actor][0] if actor in self._actors else None

    def class_of(self, actor: int) -> str:
        """The name of an actor's class."""
        return self._actors[actor][1] if actor in self._actors else "a dead actor"

    def of(self, attempt: Attempt) -> str:
        """A function's name or its option ``name``, ``Class.method``, or ``Class.__init__``."""
        number = attempt.function
        if not attempt.actor:
            name = self._functions.get(number)
            if name is None:
                name = self._functions[number] = definitions.name_of(number)
            return name
        name = self.class_of(attempt.actor)
        if attempt.creates:
            return f"{name}.__init__"
        methods = self._actors[attempt.actor][2] if attempt.actor in self._actors else []
        return f"{name}.{methods[number] if number < len(methods) else '?'}"
