"""When a worker has ended: what it had is taken back, and its task is run again or fails."""

from __future__ import annotations

from pyray._core import cancelling, control, recovery
from pyray.exceptions import (
    OutOfMemoryError,
    OwnerDiedError,
    WorkerCrashedError,
    describe_exit,
)
from pyray.node import messages as m
from pyray.node.actors import Actor
from pyray.node.shell import Shell
from pyray.node.state import Remembered
from pyray.node.workers import TASK_NODE, Worker


class Deaths:
    """Clears up after workers.

    Parameters
    ----------
    shell : Shell
        It says here what the scheduler decides about tasks that are lost with their workers.
    past : Remembered
        Where the dead are written down.
    """

    def __init__(self, shell: Shell, past: Remembered) -> None:
        self._shell = shell
        self._past = past
        # The worker whose task the scheduler decides about, and how it ended.
        self._lost: tuple[Worker, str] | None = None
        shell.on_lost = self._decided

    def clear_up(self, worker: Worker, last: bool) -> None:
        """Clear up after a worker that has been reaped.

        Parameters
        ----------
        worker : Worker
        last : bool
            Whether the session ends: then nothing is replaced, or run again.
        """
        shell, slot = self._shell, worker.slot
        # What an actor had taken is settled with the actor.
        # Now: what follows may fork another actor into this slot.
        actor = shell.actors.leave(slot)
        lost = None if actor is not None else control.lost_task(slot)
        ended = cancelling.ids_of(lost[0]) if lost else []
        worker.close()
        # While it is being cleared up the worker is still in the books.
        what = shell.watch.ended(worker, describe_exit(worker.code)[0], actor is not None)
        self._past.worker_ended(worker, what, worker.code)
        owner = OwnerDiedError(
            f"the worker that submitted this task (pid={worker.pid}) {what} before the task started"
        )
        recovery.recover(slot, owner, worker.forced)
        del shell.workers[slot]
        if last:
            return
        shell.feed(m.DedicatedDied(slot) if worker.dedicated else m.WorkerDied(slot))
        if worker.task is not None and self._given_again(worker, worker.task, actor, what):
            actor = None
        shell.groups.creator_ended(slot if actor else -1, ended)
        if actor is not None:
            said = shell.actors.process_ended(actor, slot, worker.code, what)
            if said is not None:
                name, line = said
                shell.say(line, worker.pid, name)
        if lost is not None:
            task, started = lost
            if started and worker.forced is None:
                self._say_crash(worker, task, what)
            self._task_lost(worker, task, started, what)
        # It may have promised the node a token that it did not come to hand over.
        shell.count_tokens()
        control.want_tokens(shell.scheduler.wanted_tokens)
        control.wake_everyone()
        shell.look()

    def _given_again(self, worker: Worker, task: int, actor: Actor | None, what: str) -> bool:
        """Have a task placed again if the worker died before it took it up; whether that is so."""
        shell = self._shell
        shape = shell.shaped.pop(task, 0)
        view = control.task_view(task)
        if view is None or view[0] != TASK_NODE:
            return False
        if worker.dedicated and not shell.dedicated.died_before(worker, task, what):
            return False
        if not shell.actors.not_taken_up(actor):
            return False
        shell.submit(task, shape, view[4], front=True)
        return True

    def _say_crash(self, worker: Worker, task: int, what: str) -> None:
        """A line in the driver's output, since nobody may ever get the task's result."""
        view = control.task_view(task)
        if view is not None:
            name = self._shell.name_of(task)
            line = f"this worker {what} while it ran {name}"
            again = view[2] < 0 or view[1] < view[2]
            if again and not cancelling.cancelled(task):
                line += f"; the task is run again (retry {view[1] + 1} of {view[2]})"
            self._shell.say(line, worker.pid, name)

    def _task_lost(self, worker: Worker, task: int, started: bool, what: str) -> None:
        shell = self._shell
        view = control.task_view(task)
        if view is not None and shell.groups.removed(view[3]):
            control.fail(task, shell.groups.error_of(view[3], shell.name_of(task)))
        elif view is not None:
            self._lost = worker, what
            shell.feed(m.TaskLost(task, started, view[1], view[2]))
            self._lost = None

    def _decided(self, i: m.Requeue | m.FailTask) -> None:
        """The scheduler has decided about a task that was lost with its worker."""
        assert self._lost is not None
        worker, what = self._lost
        if isinstance(i, m.FailTask):
            self._fail(i.task, worker, what)
            return
        self._shell.shaped.pop(i.task, None)
        if cancelling.cancelled(i.task):
            self._fail(i.task, worker, what)
        elif worker.shortage is not None:
            self._shell.watch.hold(i.task, i.attempt, worker.shortage)
        else:
            control.requeue(i.task, i.attempt)

    def _fail(self, task: int, worker: Worker, what: str) -> None:
        view = control.task_view(task)
        if view is None:
            return
        pid, name, short = worker.pid, self._shell.name_of(task), worker.shortage
        if cancelling.cancelled(task):
            forced = worker.forced is not None
            how = "by force: its worker" if forced else "while it ran, and its worker"
            cancelling.fail_cancelled(task, name, f"was cancelled {how} (pid={pid}) {what}")
            return
        how = "was ended because memory ran short" if short is not None else what
        text = f"task {name}: its worker (pid={pid}) {how} while it ran"
        if view[1]:
            text += f", as in {view[1]} attempt(s) before"
        _, signal_name, exit_code = describe_exit(worker.code)
        error = WorkerCrashedError(text, name, pid, signal_name, exit_code)
        if short is not None:
            text += f": {short.text}"
            error = OutOfMemoryError(text, name, pid, signal_name, None, short.memory, short.limit)
        control.fail(task, error)
