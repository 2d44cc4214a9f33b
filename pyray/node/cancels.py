"""Cancelling tasks: what the node does for ``cancel``, and when Ctrl-C has ended a wait.

All of it happens here, in one thread: no two cancellations meet, and nobody else fails a task that
is not its own.
"""

from __future__ import annotations

import heapq
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping

from pyray._core import cancelling, control
from pyray.node.workers import TASK_NODE, TASK_WAITING, Worker, seize

# What an interrupt in the driver may take of the node's time before it looks at other things.
SLICE_SECONDS = 0.005
# A process that no signal has reached yet is sent another one after so long, then after twice that,
# and so on. It may have gone into a blocking call just when the first one came.
AGAIN_SECONDS = 0.05
AGAIN_SECONDS_AT_MOST = 1.0


class Cancels:
    """Carries out cancellations.

    Parameters
    ----------
    workers : mapping of int to Worker
        The shell's: all workers by slot.
    name_of : callable
        ``name_of(task)``: what a task runs.
    forget : callable
        ``forget(task)``: have the scheduler forget a task that it has not placed.
    """

    def __init__(
        self,
        workers: Mapping[int, Worker],
        name_of: Callable[[int], str],
        forget: Callable[[int], None],
    ) -> None:
        self._workers = workers
        self._name_of = name_of
        self._forget = forget
        self._condemned: list[Worker] = []
        # Tasks that are to be interrupted, and have not been yet: (when to try again, pause, task).
        self._unheard: list[tuple[float, float, int]] = []
        # After a Ctrl-C: tasks to be looked at, and those of them that run.
        self._behind: deque[int] = deque()
        self._begun: deque[int] = deque()
        self._seen: set[int] = set()

    # ---- ray.cancel ------------------------------------------------------------------------

    def cancel(self, task: int, force: bool, recursive: bool) -> None:
        """Cancel a task, if it is not over.

        Raises
        ------
        ValueError
            It is a call of an actor, and was to be ended by force.
        """
        about = cancelling.about(task)
        if about is None:
            return
        if force and about[3]:
            raise ValueError(
                f"cancel(force=True) is not for a call of an actor, as {self._name_of(task)} is: "
                "its process is the actor, with its state. Cancel without force, or end the actor "
                "with kill()"
            )
        self._all([task], force, recursive)

    def children(self, task: int) -> None:
        """Cancel what a cancelled task has submitted, which ends now."""
        if ids := cancelling.ids_of(task):
            self._all(cancelling.children_of(set(ids)), False, True)

    def _all(self, level: list[int], force: bool, recursive: bool) -> None:
        """Cancel tasks, their children, and so on: parents first, so that they do not fail with
        their children's errors."""
        while level:
            ids: list[bytes] = []
            begun = []
            # First what has not begun, or it would begin where a sibling of it is stopped.
            for task in level:
                its = self._unbegun(task, recursive)
                if its is None:
                    begun.append(task)
                else:
                    ids += its
            for task in begun:
                ids += self._one(task, force, recursive)
            level = cancelling.children_of(set(ids)) if ids and recursive else []
        # Only now, when they had no time to submit more.
        for worker in self._condemned:
            os.kill(worker.pid, signal.SIGKILL)
        self._condemned.clear()
        control.look_again()

    def _unbegun(self, task: int, recursive: bool) -> list[bytes] | None:
        """Cancel a task if it has not begun: the ids that its children know it by, from attempts
        before; None if it has begun."""
        about = cancelling.about(task)
        if about is None or about[2]:
            return []  # over, or it makes an actor, which is ended by kill()
        ids = cancelling.ids_of(task) if recursive else []
        return ids if self._drop(task) else None

    def _one(self, task: int, force: bool, recursive: bool) -> list[bytes]:
        """Cancel one task: the ids that its children know it by, if it has begun."""
        while True:
            ids = self._unbegun(task, recursive)
            if ids is not None:
                return ids
            about = cancelling.about(task)
            if about is None:
                return []
            call = about[3]
            ids = cancelling.ids_of(task) if recursive else []
            slot = cancelling.stop(task, recursive)
            if slot == 0:
                return []  # it is over
            if slot == 1:
                continue  # queued again meanwhile
            worker = self._workers.get(slot)
            if worker is None:
                return ids  # dead: what comes after that sees that it is cancelled
            if force and not call and self._seize(worker, task):
                self._condemned.append(worker)
            else:
                self._interrupt(worker, task, AGAIN_SECONDS)
            return ids

    def _interrupt(self, worker: Worker, task: int, pause: float) -> None:
        cancelling.interrupt(worker.pid)
        if cancelling.unheard(task):
            heapq.heappush(self._unheard, (time.monotonic() + pause, pause, task))

    @property
    def again(self) -> float | None:
        """Seconds until `interrupt_again` is to be called; None: no need to."""
        return max(0.0, self._unheard[0][0] - time.monotonic()) if self._unheard else None

    def interrupt_again(self) -> None:
        """Signal those again that no signal has reached."""
        while self._unheard and self._unheard[0][0] <= time.monotonic():
            _, pause, task = heapq.heappop(self._unheard)
            worker = self._workers.get(cancelling.unheard(task))
            if worker is not None:
                self._interrupt(worker, task, min(2 * pause, AGAIN_SECONDS_AT_MOST))

    def _drop(self, task: int) -> bool:
        """Fail a task if it has not begun; whether it had not."""
        status = cancelling.drop(task, self._name_of(task))
        if status == TASK_NODE:
            self._forget(task)
        return bool(status)

    def _seize(self, worker: Worker, task: int) -> bool:
        """Stop a process in order to kill it, if it runs the task; whether it does."""
        if not seize(worker, lambda: cancelling.runs(task, worker.slot)):
            return False
        worker.forced = cancelling.ids_of(task)
        return True

    # ---- Ctrl-C ----------------------------------------------------------------------------

    def interrupted(self, tasks: list[int]) -> None:
        """Cancel what an interrupted wait of the driver's waited for, by and by: see `work`."""
        self._behind.extend(tasks)

    @property
    def busy(self) -> bool:
        """Whether `work` is to be called."""
        return bool(self._behind or self._begun)

    def work(self) -> None:
        """Do a slice of it: first what has not begun, that it does not begin meanwhile."""
        deadline = time.monotonic() + SLICE_SECONDS
        while time.monotonic() < deadline:
            if self._behind:
                self._look_behind(self._behind.popleft())
            elif self._begun:
                self._all([self._begun.popleft()], False, True)
            else:
                self._seen.clear()
                control.look_again()
                return

    def _look_behind(self, task: int) -> None:
        about = cancelling.about(task)
        if task in self._seen or about is None:
            return
        self._seen.add(task)
        status, attempt, _, _ = about
        if status == TASK_WAITING:
            self._behind.extend(cancelling.awaited_by(task))
        if attempt or not self._drop(task):
            self._begun.append(task)
