"""The node's watch over memory: it reads what there is and ends whom `memory` names.

It looks only while something runs: some times a second where there is plenty, oftener close to a
limit.  Where the kernel tells of pressure (PSI) it looks then too, from when half is in use.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from pyray import machine
from pyray._core import actors as core
from pyray._core import cancelling, control, store
from pyray.node.actors import Actors
from pyray.node.memory import Candidate, Limit, Shortage, choose, gigabytes, pause, worst
from pyray.node.workers import TASK_NODE, Worker, children, seize

# A process that was killed gives its memory back within this, or it is not waited for any more.
ENDING_SECONDS = 2.0
# The first look after a rest, from when the node has heard that something runs.
FIRST_SECONDS = 0.05
# Looks that find nothing running before the watch ends, until something runs again.
IDLE_LOOKS = 1
# What was ended waits for room for what it had, or until nothing else runs; no longer than this
# the first time, twice as long the second time, and so on.
BACK_SECONDS = 10.0
BACK_PAUSE = 0.1
# Pressure is told if tasks have waited for memory for so many microseconds within as many: what an
# unprivileged process may ask for. (The kernel overwrites the last byte.)
PRESSURE = b"some 200000 2000000\0"
PAGE = os.sysconf("SC_PAGE_SIZE")
OTHERS_NAMED = 5


class Held:
    """A task that waits to be run again.

    Attributes
    ----------
    task, attempt : int
        Which, and how often it has been run.
    memory : int
        Bytes that it had.
    until : float
        When it is run in any case.
    """

    def __init__(self, task: int, attempt: int, memory: int) -> None:
        self.task = task
        self.attempt = attempt
        self.memory = memory
        self.until = time.monotonic() + BACK_SECONDS * 2 ** min(10, attempt - 1)


class Watch:
    """Looks after the memory of a session.

    Parameters
    ----------
    config : dict
        The session's: ``memory_limit`` (bytes, or None), ``memory_share`` and ``memory_refresh``.
    workers : mapping of int to Worker
        The shell's: all workers by slot.
    actors : Actors
    name_of : callable
        ``name_of(task)``: what a task runs.
    say : callable
        ``say(line)``: a line for the driver's output.
    listen : callable
        ``listen(fd)``: call `pressed` from now on when the kernel says so there.
    """

    def __init__(
        self,
        config: dict[str, Any],
        workers: Mapping[int, Worker],
        actors: Actors,
        name_of: Callable[[int], str],
        say: Callable[[str], None],
        listen: Callable[[int], None],
    ) -> None:
        self._own: int | None = config["memory_limit"]
        self._share: float = config["memory_share"]
        self._longest: float = config["memory_refresh"]
        self._driver = os.getppid()
        self._workers = workers
        self._actors = actors
        self._name_of = name_of
        self._say = say
        self._listen = listen
        self._next = 0.0  # when to look; 0: not known yet
        self._idle = 0
        self._ending: tuple[Worker, float] | None = None
        self._said = False
        # When something runs, since it takes half a millisecond; None: not known yet.
        self._kills = None if self._longest else machine.oom_kills()
        self._held: dict[int, Held] = {}
        self._released = 0.0
        self.fd: int | None = None  # with which the kernel tells of pressure; -1: it does not
        self.alarm = -1
        if self._longest:
            self.alarm = control.make_alarm()
        else:
            control.leave_unwatched()

    def _pressure(self) -> int:
        """A descriptor with which the kernel tells of pressure, or -1."""
        for path in (*(f"{d}/memory.pressure" for d in machine.cgroups()[:1]), _PSI):
            try:
                fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                os.write(fd, PRESSURE)
            except OSError:
                os.close(fd)
                continue
            return fd
        return -1

    # ---- when ------------------------------------------------------------------------------

    def due(self) -> float | None:
        """Seconds until `look` is to be called; None: no need to."""
        if not self._longest or not control.watched():
            return None
        now = time.monotonic()
        if not self._next:
            self._next = now + FIRST_SECONDS
        return max(0.0, self._next - now)

    def woken(self) -> None:
        """Something runs after a rest: `due` says when to look."""
        with contextlib.suppress(BlockingIOError):  # a worker has just set the timer anew
            os.read(self.alarm, 8)
        self._count_kills()

    def _count_kills(self) -> None:
        """How many there were before, so that the next one is noticed."""
        if self._kills is None:
            self._kills = machine.oom_kills()

    def pressed(self) -> None:
        """The kernel tells that processes wait for memory."""
        if self._longest:
            self._next = 0.0
            self._look()

    def look(self) -> None:
        """Look at memory if it is time to, and end a worker if it runs short."""
        if time.monotonic() >= self._next > 0:
            self._look()

    def _look(self) -> None:
        began = time.thread_time()
        self._count_kills()
        limits = self._limits()
        # Not before: closing it takes the kernel ten milliseconds, at the end of each session.
        if self.fd is None and any(limit.used > limit.size // 2 for limit in limits):
            self.fd = self._pressure()
            if self.fd >= 0:
                self._listen(self.fd)
        if not self._waits():
            self._release(limits)
            over = worst(limits)
            if over is not None and (over := self._sure(over)) is not None:
                self._end_one(over)
        active = self._held or self._ending or self._something_runs()
        self._idle = 0 if active else self._idle + 1
        if self._idle >= IDLE_LOOKS:
            self._idle = 0
            self._next = 0.0
            control.unwatch()
            return
        rest = pause(limits, time.thread_time() - began, self._longest)
        if self._held:
            rest = min(rest, BACK_PAUSE)
        self._next = time.monotonic() + rest

    def _something_runs(self) -> bool:
        # An actor that runs several calls at once has no current one.
        return any(map(control.current_of, self._workers)) or any(
            core.node_busy(actor.handle) for actor in self._actors.by_slot.values()
        )

    def _waits(self) -> bool:
        """Whether one that was killed is still to give its memory back."""
        if self._ending is None:
            return False
        worker, until = self._ending
        if self._workers.get(worker.slot) is worker and time.monotonic() < until:
            return True
        self._ending = None
        return False

    # ---- how much --------------------------------------------------------------------------

    def _limits(self) -> list[Limit]:
        found = [
            Limit(what, size, size - machine.memory_to_spare(size, self._share), used)
            for what, size, used in machine.memory_limits()
        ]
        if self._own is not None:
            used = sum(_memory_of(pid) for pid in self._processes())
            found.append(Limit(_OWN, self._own, self._own, used))
        return found

    def _sure(self, over: Limit) -> Limit | None:
        """The limit, if it is still exceeded when pages that processes share count once."""
        if over.what != _OWN:
            return over
        used = sum(_exact_memory_of(pid) for pid in self._processes())
        return Limit(over.what, over.size, over.most, used) if used > over.most else None

    def _processes(self) -> list[int]:
        return [self._driver, os.getpid(), *_descendants(os.getpid())]

    # ---- ending one ------------------------------------------------------------------------

    def _end_one(self, over: Limit) -> None:
        found = [self._candidate(w) for w in self._workers.values() if w.up and w.running]
        chosen = choose([c for c in found if self._has_run(c)], over.size)
        if chosen is None:
            if not self._said:
                self._said = True
                self._say(
                    f"memory is short: {_in_use(over)}; no task of this session has enough of it "
                    "to be ended for that"
                )
            return
        worker = self._workers[chosen.slot]
        below = _descendants(worker.pid)
        actor = self._actors.by_slot.get(worker.slot)
        # Between two of its tasks it might take up another, which has done nothing.
        if actor is None and not seize(worker, lambda: self._task(worker) == chosen.task):
            return
        text = (
            f"it had {gigabytes(chosen.memory)}; {_in_use(over)}; of the rest "
            f"{self._others(chosen, found)}. Let fewer such tasks run at a time (num_cpus=, "
            "memory=), or have them take less"
        )
        worker.shortage = Shortage(text, chosen.memory, over.size)
        for pid in (worker.pid, *below):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        self._ending = worker, time.monotonic() + ENDING_SECONDS

    def _has_run(self, candidate: Candidate) -> bool:
        """Otherwise the one in its place would have as much memory."""
        return candidate.task != 0 or control.process_view(candidate.slot)[4] > 0

    def _task(self, worker: Worker) -> int:
        return control.current_of(worker.slot) or worker.task or 0

    def _candidate(self, worker: Worker) -> Candidate:
        memory = _memory_of(worker.pid) + sum(map(_memory_of, _descendants(worker.pid)))
        actor = self._actors.by_slot.get(worker.slot)
        if actor is not None:
            began = int(worker.began * 1e9)
            return Candidate(worker.slot, worker.pid, memory, actor.handle, actor.left(), began)
        task = self._task(worker)
        view = control.task_view(task) if task else None
        again = view is not None and (view[2] < 0 or view[1] < view[2])
        if task and cancelling.cancelled(task):
            again = True  # nobody wants what it would give
        return Candidate(worker.slot, worker.pid, memory, task, again, control.began(worker.slot))

    def _others(self, chosen: Candidate, found: list[Candidate]) -> str:
        """Who else has how much, in words."""
        others = sorted(found, key=lambda c: -c.memory)
        named = [(self._what(c), c.pid, c.memory) for c in others if c is not chosen]
        named.insert(0, ("the driver", self._driver, _memory_of(self._driver)))
        parts = [f"{what} (pid={pid}) had {gigabytes(n)}" for what, pid, n in named[:OTHERS_NAMED]]
        rest = named[OTHERS_NAMED:]
        if rest:
            n = sum(n for _, _, n in rest)
            parts.append(f"{len(rest)} more workers had {gigabytes(n)}")
        used = store.object_stats()["used"]
        return ", ".join([*parts, f"the object store {gigabytes(used)}"])

    def _what(self, candidate: Candidate) -> str:
        actor = self._actors.by_slot.get(candidate.slot)
        if actor is not None:
            return actor.name
        known = candidate.task and control.task_view(candidate.task) is not None
        return self._name_of(candidate.task) if known else "an idle worker"

    # ---- when a worker has ended -----------------------------------------------------------

    def ended(self, worker: Worker, what: str, at_length: bool) -> str:
        """How a worker has ended, given what its exit status says of it."""
        if (short := worker.shortage) is not None:
            text = short.text if at_length else f"it had {gigabytes(short.memory)}"
            return f"was ended because memory ran short ({text})"
        if worker.code != -signal.SIGKILL or worker.forced is not None:
            return what
        kills = machine.oom_kills()
        counted, self._kills = self._kills is not None and kills > self._kills, kills
        if not counted:
            return what
        return (
            f"{what}, likely by the kernel's out-of-memory killer (it had up to "
            f"{gigabytes(worker.peak)}, shared memory that it read included)"
        )

    # ---- running it again ------------------------------------------------------------------

    def hold(self, task: int, attempt: int, shortage: Shortage) -> None:
        """Keep a task that is to be run again until there is room for what it had."""
        control.hold_back(task, attempt)
        self._held[task] = Held(task, attempt, shortage.memory)
        soon = time.monotonic() + BACK_PAUSE
        self._next = min(self._next or soon, soon)

    def holds(self, task: int) -> bool:
        """Whether a task waits here."""
        return task in self._held

    def _release(self, limits: list[Limit]) -> None:
        now = time.monotonic()
        for held in list(self._held.values()):
            view = control.task_view(held.task)
            if view is None or view[0] != TASK_NODE:
                del self._held[held.task]  # cancelled, or nobody is left who wants it
        if not self._held:
            return
        room = min((limit.most - limit.used for limit in limits), default=0)
        busy = any(
            control.process_view(slot)[3] and not control.process_view(slot)[1]
            for slot in self._workers
        )
        for held in list(self._held.values()):
            # One at a time: what the one before takes cannot be seen yet.
            if now < held.until and (now < self._released + 1 or (busy and room < held.memory)):
                continue
            del self._held[held.task]
            self._released = now
            control.requeue(held.task, held.attempt)
            control.look_again()


_PSI = "/proc/pressure/memory"
_OWN = "the session"


def _in_use(over: Limit) -> str:
    if over.what == _OWN:
        return f"the session's processes used {gigabytes(over.used)} of its memory_limit of " + (
            gigabytes(over.size)
        )
    return (
        f"{gigabytes(over.used)} of {over.what}'s {gigabytes(over.size)} were in use, "
        f"{gigabytes(over.most)} may be"
    )


def _memory_of(pid: int) -> int:
    """Bytes of a process's that nobody can have but it; what it shares since a fork counts too."""
    try:
        with open(f"/proc/{pid}/statm", "rb", 0) as f:
            words = f.read().split()
    except OSError:
        return 0
    return (int(words[1]) - int(words[2])) * PAGE if len(words) > 2 else 0


def _exact_memory_of(pid: int) -> int:
    """The same, but pages that several processes share count for each by its part."""
    found = machine.fields(f"/proc/{pid}/smaps_rollup", "Pss_Anon:")[0]
    return found or _memory_of(pid)


def _descendants(pid: int) -> list[int]:
    found = children(pid)
    for child in found:
        found.extend(children(child))
    return found
