"""The shell of the scheduler: tells it what happens to tasks and workers, and does what it says.

What happens is found in shared memory, by looking: that costs those who do it nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pyray import definitions, machine, protocol
from pyray._core import cancelling, control, holds, recovery, tasks
from pyray.node import messages as m
from pyray.node.actors import Actors
from pyray.node.dedicated import Dedicated
from pyray.node.groups import Groups
from pyray.node.resources import from_units
from pyray.node.scheduler import Scheduler, SchedulerConfig
from pyray.node.shapes import Shapes
from pyray.node.watch import Watch
from pyray.node.workers import (
    PROC_ALIVE,
    SHAPED_ACTOR,
    SHAPED_BLOCKED,
    SHAPED_NONE,
    SHAPED_RUNS,
    SHAPED_WANTS,
    TASK_NODE,
    Given,
    Worker,
    seize,
)

# A worker that has been between two tasks for so long is not going to take the next soon.
STUCK_SECONDS = 0.05


class Shell:
    """The scheduler, the books of what it does not know, and the way between them.

    Parameters
    ----------
    config : dict
        The session's.
    max_workers : int
        Most workers at once.
    fork : callable
        ``fork(given)`` starts a worker, for a first task or None, and enters it in `workers`; or
        raises OSError.
    send : callable
        ``send(frame)``: to the driver.
    listen : callable
        ``listen(fd)``: call ``watch.pressed`` from now on when the kernel says so there.

    Attributes
    ----------
    workers : dict of int to Worker
        All of them, by slot.
    shaped : dict of int to int
        Of each task that the scheduler knows, its shape.
    on_lost : callable
        Carries out what the scheduler says of a task that is lost with its worker: `Deaths` does.
    """

    def __init__(
        self,
        config: dict[str, Any],
        max_workers: int,
        fork: Callable[[Given | None], Worker],
        send: Callable[[bytes], None],
        listen: Callable[[int], None],
    ) -> None:
        self.config = config
        self._fork = fork
        self._send = send
        self.workers: dict[int, Worker] = {}
        self.shaped: dict[int, int] = {}
        self.on_lost: Callable[[m.Requeue | m.FailTask], None]
        size = config["num_cpus"]
        self.scheduler = Scheduler(
            SchedulerConfig(
                num_cpus=size,
                num_gpus=config["num_gpus"],
                resources=config["resources"],
                max_workers=max_workers,
            )
        )
        limit = self.scheduler.process_limit
        self.dedicated = Dedicated(self.workers, limit, size, fork, self._task_ended)
        self.actors = Actors(config["namespace"], self.submit, self.forget)
        self.groups = Groups(
            self.scheduler, self.feed, lambda numbers: self.shapes.forget(numbers), config
        )
        self.shapes = Shapes(self.scheduler, self.groups, self.feed)
        self.watch = Watch(config, self.workers, self.actors, self.name_of, self.say, listen)
        self._events: deque[m.Event] = deque()
        self._standstill: m.CapReached | None = None  # one that something may still end
        self._sweeps = 0
        self._fast_blocked = 0
        self._short_since = 0.0  # since when fewer tokens are asked for than the scheduler wants
        self._released = False
        self._refused = ""  # why the last worker could not be forked

    def name_of(self, task: int) -> str:
        """What a task runs: a function, ``Class.method``, or ``Class.__init__``."""
        actor, creates, number = control.task_target(task)
        if actor:
            return self.actors.name_of(actor, creates, number)
        return definitions.name_of(number)

    def say(self, line: str, pid: int = 0, name: str = "node") -> None:
        """A line in the driver's output: a worker's, or the node's own."""
        self._send(protocol.output(2, pid or os.getpid(), name.encode(), line.encode()))

    def submit(self, task: int, shape: int, depth: int, front: bool = False) -> None:
        """Have the scheduler place a task."""
        self.shaped[task] = shape
        self.feed(m.TaskSubmitted(task, shape, depth, front=front))

    def forget(self, task: int) -> None:
        """Have the scheduler forget a task that it has not placed."""
        self.feed(m.TaskCancelled(task))

    # ---- at times --------------------------------------------------------------------------

    def needs_ticks(self) -> bool:
        """Whether `tick` is to be called.

        Nothing ticks in an idle session: it is to use no CPU at all.
        """
        return (
            sum(not w.dedicated for w in self.workers.values()) > self.config["num_cpus"]
            or bool(self.dedicated.idle())
            or self._standstill is not None
            or recovery.pending()
            or bool(self.shaped)
            or bool(self.groups.pending)
            or holds.duties()
            or tasks.holding()
        )

    def takes_turns(self) -> bool:
        """Whether the fast path and tasks of other shapes take turns: then `look` is to be called
        often."""
        return self.scheduler.deferring or self.scheduler.wanted_tokens > 0

    def tick(self) -> None:
        """Do what time alone brings about."""
        self.look()  # nobody rings when a worker's wait is over
        recovery.release_empty()
        tasks.sweep()
        self.dedicated.tick(time.monotonic())
        if self._standstill is not None:
            self._refuse(self._standstill)
        self.feed(m.Tick(time.monotonic(), control.idle_workers()))

    # ---- shared memory has news ------------------------------------------------------------

    def look(self) -> None:
        """Find out what has changed in shared memory and tell the scheduler."""
        news = control.new_shaped_tasks()
        if news or self.shaped or self.groups.pending:
            # First, since what follows is decided by it.
            ready, depth = control.fast_queue()
            running = control.token_counts()[2]
            self.feed(m.FastDemand(ready + running if ready else 0, depth=depth))
        self._look_at_workers()
        for task, shape, depth in news:
            if self.watch.holds(task):
                continue
            if task in self.shaped:
                self.feed(m.TaskUrgent(task))
            else:
                self.submit(task, shape, depth)
        self.actors.look()
        self.count_tokens()
        self._collect_tokens()
        self._renew_wish()
        if control.take_spawn_request():
            if control.idle_workers():
                control.look_again()
            elif not self._somebody_will_look():
                self.feed(m.NeedWorker(1))
        elif self.scheduler.short_of_workers and control.idle_workers():
            for w in self.workers.values():
                if w.up and w.task is None and not w.dedicated:
                    self.feed(m.WorkerReady(w.slot))
                    break
        if self._sweeps != control.sweeps():
            self._sweeps = control.sweeps()
            tasks.sweep()
            recovery.release_empty()
            self._send(protocol.frame(protocol.SWEEP))
            control.wake_workers()

    def _somebody_will_look(self) -> bool:
        """Whether some worker is between two tasks: it looks for work before it parks, so another
        is not needed. One that has been there for long is stopped, and does not count."""
        now = time.monotonic()
        found = False
        for w in self.workers.values():
            _, blocked, _, current, ran = control.process_view(w.slot)
            if current or blocked or w.task is not None or w.retired or w.dedicated:
                continue
            if w.between is None or w.between[0] != ran:
                w.between = (ran, now)
            found = found or now - w.between[1] < STUCK_SECONDS
        return found

    def _look_at_workers(self) -> None:
        blocked = 0
        for w in list(self.workers.values()):
            status, is_blocked, shaped, _, _ = control.process_view(w.slot)
            if not w.up and status == PROC_ALIVE:
                w.up = True
                if not w.dedicated:
                    self.feed(m.WorkerReady(w.slot))
                    continue  # it may have been given a task by now, so what was read is old
            if w.task is None:
                blocked += is_blocked and not w.dedicated
                continue
            if w.state == SHAPED_RUNS and shaped == SHAPED_ACTOR:
                w.state = SHAPED_ACTOR
                # From here on it costs the node nothing: it blocks for good.
                self.shaped.pop(w.task, None)
                self.feed(m.WorkerBlocked(w.slot))
            if w.state == SHAPED_RUNS and shaped in (SHAPED_BLOCKED, SHAPED_WANTS):
                w.state = SHAPED_BLOCKED
                self.feed(m.WorkerBlocked(w.slot))
            if w.state == SHAPED_BLOCKED and shaped == SHAPED_WANTS:
                w.state = SHAPED_WANTS
                self.feed(m.WorkerUnblocked(w.slot))
            if shaped == SHAPED_NONE:
                self._task_ended(w)
        if blocked != self._fast_blocked:
            self._fast_blocked = blocked
            self.feed(m.FastBlocked(blocked))

    def _task_ended(self, worker: Worker) -> None:
        """A worker is through with the task that it was given."""
        task, worker.task = worker.task, None
        assert task is not None
        self.feed(m.TaskFinished(task, worker.slot))
        if worker.dedicated:
            self.dedicated.ended(worker, task)
        shape = self.shaped.pop(task, 0)
        view = control.task_view(task)
        if view is not None and view[0] == TASK_NODE:
            # A retry after an exception: its worker has queued it again.
            self.submit(task, shape, view[4])

    def count_tokens(self) -> None:
        """Tell the scheduler of tokens that workers have handed to the node."""
        extra = control.token_counts()[1] - self.scheduler.held_tokens
        if extra > 0:
            self.feed(m.TokensAcquired(extra))

    def _renew_wish(self) -> None:
        """Who hands a token in counts it off the wish first, and may be stopped before it comes."""
        wanted, now = self.scheduler.wanted_tokens, time.monotonic()
        if control.wanted_tokens() >= wanted:
            self._short_since = 0.0
        elif not self._short_since:
            self._short_since = now
        elif now - self._short_since > STUCK_SECONDS:
            self._short_since = 0.0
            control.want_tokens(wanted)

    def _collect_tokens(self) -> None:
        """Take free tokens for what the scheduler wants; workers hand in others between tasks."""
        wanted = control.wanted_tokens()
        if wanted:
            got = control.take_tokens(wanted)
            if got:
                control.want_tokens(wanted - got)
                self.feed(m.TokensAcquired(got))

    # ---- the scheduler ---------------------------------------------------------------------

    def feed(self, event: m.Event) -> None:
        """Hand the scheduler an event, and carry out what it says, and what follows from that."""
        self._events.append(event)
        if len(self._events) > 1:
            return  # the call that is under way will come to it
        while self._events:
            self._released = False
            for instruction in self.scheduler.handle(self._events[0]):
                self._carry_out(instruction)
            self._events.popleft()

    def _carry_out(self, i: m.Instruction) -> None:
        match i:
            case m.Assign():
                self._assign(i)
            case m.ResumeWorker():
                self.workers[i.worker].state = SHAPED_RUNS
                control.resume(i.worker)
            case m.WantTokens():
                control.want_tokens(i.count)
                if not self._released:
                    self._collect_tokens()
            case m.ReleaseTokens():
                # What was given back is the fast path's turn: it is not taken again at once.
                self._released = True
                control.give_tokens(i.count)
            case m.StartWorker():
                self._start_worker()
            case m.StopWorker():
                slot = control.retire_idle()
                if slot is not None:
                    self.workers[slot].retired = time.monotonic()
            case m.Requeue() | m.FailTask():
                self.on_lost(i)
            case m.Dropped():
                self.shaped.pop(i.task, None)
            case m.GroupReserved():
                self.groups.reserved(i.group)
            case m.GroupGone():
                self._group_gone(i.task)
            case m.EndWorker():
                self._end_worker(i.worker, i.task)
            case m.TokensLent():
                control.lend_tokens(i.count)
            case m.CapReached():
                self._refuse(i)
            case m.PoolBroken():
                text = (
                    f"{i.failures} workers in a row ended while they were starting; their output "
                    f"above says why{self._refused}"
                )
                if not any(w.up and not w.dedicated for w in self.workers.values()):
                    self._send(protocol.frame(protocol.FATAL, text.encode()))

    def _assign(self, i: m.Assign) -> None:
        gpus = ",".join(self.config["gpus"][g] for g in i.gpu_ids)
        cpus = from_units(i.allocation.request.cpus)
        exclusive, env, group = self.shapes.kinds[self.shaped[i.task]]
        lease = f"{gpus};{cpus:g};{group}"
        if i.dedicated:
            answer = self.dedicated.assign(i.task, lease, exclusive, env)
            if isinstance(answer, m.Assigned):
                self.actors.placed(i.task, answer.worker, self.workers[answer.worker].pid)
            elif isinstance(answer, m.AssignRefused):
                del self.shaped[i.task]
                self.actors.refused(i.task)
            self._events.append(answer)
            return
        slot = control.assign(i.task, lease)
        deadline = time.monotonic() + 0.0005
        while slot is None and self._about_to_park() and time.monotonic() < deadline:
            slot = control.assign(i.task, lease)
        if slot is None:
            self._events.append(m.AssignFailed(i.task))
            return
        worker = self.workers[slot]
        if worker.task is not None:
            self._task_ended(worker)  # it parked before its last task's end was seen here
        worker.task = i.task
        worker.state = SHAPED_RUNS
        self._events.append(m.Assigned(i.task, slot))

    def _group_gone(self, task: int) -> None:
        """A task was to run in a placement group that has been removed."""
        view = control.task_view(task)
        shape = self.shaped.pop(task, 0) if view is None else view[3]
        self.shaped.pop(task, None)
        actor = self.actors.by_task.get(task)
        if actor is not None:
            self.actors.end_with_group(actor, self.groups.label_of(shape))
        elif view is not None:
            control.fail_queued(task, self.groups.error_of(shape, self.name_of(task)))

    def _end_worker(self, slot: int, task: int) -> None:
        """End a worker that runs a task in a placement group that has been removed."""
        worker, view = self.workers.get(slot), control.task_view(task)
        actor = self.actors.by_slot.get(slot)
        if worker is None or view is None:
            return
        if actor is not None:
            self.actors.end_with_group(actor, self.groups.label_of(view[3]))
            return
        if control.fail_queued(task, self.groups.error_of(view[3], self.name_of(task))):
            return  # it was not there yet, and will find nothing to do
        if seize(worker, lambda: control.has_claimed(slot, task)):
            worker.forced = cancelling.ids_of(task)
            os.kill(worker.pid, signal.SIGKILL)

    def _about_to_park(self) -> bool:
        """Whether some worker looks for work at this moment: it gives up after some 50 us."""
        return any(
            w.up
            and w.task is None
            and not (w.retired or w.dedicated)
            and not control.process_view(w.slot)[3]
            for w in self.workers.values()
        )

    def _refuse(self, i: m.CapReached) -> None:
        """Nothing can move at the limit of processes: the wait of the deepest task is to raise."""
        self._standstill = None
        if not self.scheduler.at_standstill:
            return
        if self.dedicated.moving() or self.dedicated.retire_one():
            self._standstill = i  # what moves outside the pool may end it: look again later
            return
        blocked = [w.slot for w in self.workers.values() if control.process_view(w.slot)[1]]
        if blocked:
            control.refuse(max(blocked, key=control.depth_of), i.cap)

    def _start_worker(self) -> None:
        try:
            self._fork(None)
        except OSError as error:
            # One worker fewer, not the end of the session.
            self._refused = f"; the system refused one: {error}{machine.which_limit(error)}"
            self._events.append(m.WorkerDied(-1))
