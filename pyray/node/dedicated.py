"""Workers outside the pool: each is an actor's, or runs the tasks of one runtime environment.

They are forked with their first task in hand.  One of an environment is used again for the next
task of the same environment, and ends when it has been idle for a while; an *exclusive* one (an
actor's) has one task in its life.  The cap on processes counts them, and the pool's own workers
always have room beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from pyray import definitions
from pyray._core import control
from pyray.exceptions import ProcessLimitError, WorkerCrashedError
from pyray.node import messages as m
from pyray.node.workers import SHAPED_RUNS, TASK_NODE, Given, Worker

# How long a worker of an environment waits for another task of it.
IDLE_SECONDS = 3.0
# What is told to end may take so long before it no longer counts as room to come.
ENDING_SECONDS = 2.0
# How often a process may die before it takes up its first task.
FALSE_STARTS = 5
# What a worker takes at most from its task's end to being ready for the next.
NEARLY_SECONDS = 0.005


class Dedicated:
    """Finds, starts and retires the workers outside the pool.

    Parameters
    ----------
    workers : mapping of int to Worker
        The shell's: all workers by slot.
    limit : int
        Most processes at once, the pool's included.
    reserved : int
        How many of them the pool can always have.
    start : callable
        ``start(given)`` forks a worker, or raises OSError.
    task_ended : callable
        ``task_ended(worker)`` tells the scheduler that a worker is through with its task.
    """

    def __init__(
        self,
        workers: Mapping[int, Worker],
        limit: int,
        reserved: int,
        start: Callable[[Given], Worker],
        task_ended: Callable[[Worker], None],
    ) -> None:
        self._workers = workers
        self._limit = limit
        self._reserved = reserved
        self._start = start
        self._task_ended = task_ended
        self._false_starts: dict[int, int] = {}

    # ---- giving out ------------------------------------------------------------------------

    def assign(self, task: int, lease: str, exclusive: bool, env: str | None) -> m.Event:
        """Have a process run the task; the event that tells the scheduler what came of it."""
        view = control.task_view(task)
        if view is None or view[0] != TASK_NODE:
            return m.AssignRefused(task)  # its submitter died, or it was cancelled
        worker = None if exclusive else self._find(env)
        if worker is not None:
            if worker.task is not None:
                self._task_ended(worker)  # it was quicker than the news of its last task's end
            control.assign_open(worker.slot, task, lease)
        elif not self._room():
            if self._room_to_come():
                return m.AssignFailed(task)
            return self._refuse(task, view[5], f"the session has its limit of {self._limit}")
        else:
            try:
                worker = self._start(Given(task, lease, exclusive, env))
            except OSError as error:
                return self._refuse(task, view[5], f"the system refuses one: {error}")
        worker.task = task
        worker.given += 1
        worker.state = SHAPED_RUNS
        return m.Assigned(task, worker.slot)

    def _find(self, env: str | None) -> Worker | None:
        """A worker of this environment that is ready for a task."""
        deadline = time.monotonic() + NEARLY_SECONDS
        while True:
            near = False
            for w in self._workers.values():
                if not w.dedicated or w.exclusive or w.env != env or w.retired:
                    continue
                if control.is_open(w.slot):
                    return w
                _, blocked, _, current, _ = control.process_view(w.slot)
                near = near or (w.up and not blocked and current == 0)
            if not near or time.monotonic() > deadline:
                return None
            time.sleep(0.0001)  # a fork takes far longer, and the worker may want this CPU

    def _refuse(self, task: int, function: int, why: str) -> m.Event:
        name = definitions.name_of(function)
        counts = f"{len(self._workers) - self._pool()} outside the pool, {self._pool()} in it"
        text = (
            f"{name} needs a worker process of its own, and {why} (there are {counts}): end actors "
            "that are no longer needed, or use fewer different runtime environments at once"
        )
        control.fail(task, ProcessLimitError(text))
        return m.AssignRefused(task)

    # ---- how many --------------------------------------------------------------------------

    def _pool(self) -> int:
        return sum(not w.dedicated for w in self._workers.values())

    def _room(self) -> bool:
        pool = self._pool()
        return len(self._workers) - pool + max(pool, self._reserved) < self._limit

    def _room_to_come(self) -> bool:
        """At the limit: whether a process ends soon, or can be made to. If this never answered no
        where all wait for each other, they would wait for ever; it is asked again at each tick."""
        now = time.monotonic()
        if any(w.retired and now - w.retired < ENDING_SECONDS for w in self._workers.values()):
            return True
        if self.retire_one():
            return True
        surplus = self._pool() > self._reserved
        if surplus and (slot := control.retire_idle()) is not None:
            self._workers[slot].retired = now
            return True
        for w in self._workers.values():
            if (w.dedicated and not w.exclusive and w.task) or (surplus and not w.dedicated):
                blocked = control.process_view(w.slot)[1]
                if not blocked and not w.retired:
                    return True  # it is idle sooner or later, or blocks
        return False

    def moving(self) -> bool:
        """Whether some worker outside the pool runs something and does not wait for others."""
        for w in self._workers.values():
            if w.dedicated:
                _, blocked, _, current, _ = control.process_view(w.slot)
                given = w.task is not None and not w.exclusive
                if not blocked and (current or given or not w.up):
                    return True
        return False

    # ---- ends ------------------------------------------------------------------------------

    def idle(self) -> list[Worker]:
        """Workers of environments that wait for another task, those that wait longest first."""
        found = [
            w
            for w in self._workers.values()
            if w.dedicated and not w.exclusive and w.task is None and not w.retired
        ]
        return sorted(found, key=lambda w: w.idle_since)

    def retire_one(self) -> bool:
        """Tell the worker that has been idle longest to end, if there is one."""
        for w in self.idle():
            self._retire(w)
            return True
        return False

    def _retire(self, worker: Worker) -> None:
        control.retire(worker.slot)
        worker.retired = time.monotonic()

    def ended(self, worker: Worker, task: int) -> None:
        """A worker outside the pool is through with its task."""
        self._false_starts.pop(task, None)
        worker.idle_since = time.monotonic()
        if worker.exclusive:
            self._retire(worker)
        elif len(self.idle()) > max(2, self._reserved):
            self.retire_one()

    def tick(self, now: float) -> None:
        """Retire what has been idle for long."""
        for w in self.idle():
            if now - w.idle_since >= IDLE_SECONDS:
                self._retire(w)

    def died_before(self, worker: Worker, task: int, what: str) -> bool:
        """A worker died before it took up the task; whether that is to be tried again."""
        if worker.given > 1:
            return True  # it was idle, and is no witness against the task
        count = self._false_starts[task] = self._false_starts.get(task, 0) + 1
        if count < FALSE_STARTS:
            return True
        del self._false_starts[task]
        view = control.task_view(task)
        if view is not None:
            name = definitions.name_of(view[5])
            text = (
                f"{name} was not started: {count} worker processes in a row ended while they "
                f"started for it; the last (pid={worker.pid}) {what}. Their output says why"
            )
            control.fail(task, WorkerCrashedError(text, name, worker.pid))
        return False
