"""The scheduler: a pure state machine, events in, instructions out.

It places *shaped* tasks: those that ask for anything but one CPU. (Tasks of the default shape
go from submitter to worker through shared memory and never come here.) There is no I/O in it,
no clock, no thread and no chance, so a test can drive it with any sequence of events and call
`Scheduler.validate` after each.

**CPUs.** The only ledger of CPUs is the row of tokens in shared memory. To run a shaped task on
CPUs the node must hold tokens itself: the scheduler says how many more it wants (`WantTokens`),
the shell collects them and reports `TokensAcquired`, and tokens that are of no use here go back
(`ReleaseTokens`). Fractions are cut out of the tokens held.

**Order.** Workers that wait to go on come first, then urgent tasks, then deeper ones, then first
in, first out. A task that does not fit closes the kinds of resource that it is short of to all
that are behind it, and sets aside its share of the kinds that there is enough of: so whatever it
waits for can only become more, and it starts in the end. CPUs are the exception: none are set
aside for a task that still lacks something else, since a CPU comes back within a task's time and
would idle meanwhile, perhaps for hours beside a busy GPU.

**Dedicated** shapes' tasks want a process outside the pool each: a new one, or an idle one that
suits. Whether there is one is the shell's to find out, so what such tasks lack is never a worker
of the pool, and their workers are no part of its counts. One that is an actor counts as blocked
for good once it has come up without CPUs to hold: it keeps everything else until it dies.

**Placement groups** stand in line with the tasks, see `pyray.node.reserving`; so do tasks in them,
which ask for what their group has. There too is what becomes of those that wait for something that
an actor or a group keeps.

**The fast path** queues for the same CPUs unseen. `FastDemand` describes its queue in one line,
and it is treated as one more queue: ahead of a shaped task it keeps the CPUs it can use; level
with it the two take turns, because tokens freed by a shaped task go back before more are wanted.

Between two events nothing can be started that has not been (the state is a fixed point), which
is why most events need not look at the queues at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heapreplace
from typing import Any

from pyray.node import messages as m
from pyray.node.audit import audit
from pyray.node.bundles import Group
from pyray.node.pool import Pool
from pyray.node.reserving import Reserving
from pyray.node.resources import (
    CPU,
    Allocation,
    Entry,
    ResourcePool,
    ResourceRequest,
    SchedulerConfig,
    ShapeQueue,
    to_units,
)
from pyray.node.task import BLOCKED, GIVEN, QUEUED, RESUMING, RUNNING, STATES, WITH_CPUS, Task
from pyray.node.tokens import TokenAccount, tokens_for

__all__ = ["Scheduler", "SchedulerConfig"]

# Stands in for CPU in the books of tasks that ask for none: a place among those that may run.
_PLACE = "a place for a task without CPUs"
# What tasks of dedicated shapes are short of at the limit of processes.
_PROCESS = "a process"

_CHAIN_LIMIT = 16
_HISTORY = 24


class Scheduler(Reserving):
    """Decides what runs, with what, on how many workers.

    Parameters
    ----------
    config : SchedulerConfig
        What there is to give.

    Notes
    -----
    Instructions must be carried out in order, and every event that this causes handled after the
    call that gave them has returned: `handle` is not re-entrant.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        limit = config.zero_cpu_limit
        self._places = 4 * config.num_cpus + 4 if limit is None else limit
        others = {name: to_units(name, value) for name, value in config.resources.items()}
        self._pool = ResourcePool(config.num_gpus, {name: n for name, n in others.items() if n})
        cap = max(config.max_workers, config.num_cpus + 1)
        self._workers = Pool(config.num_cpus, cap, config.idle_seconds, config.max_start_failures)

        self._shapes: dict[int, ShapeQueue] = {}
        self._active: dict[ShapeQueue, None] = {}  # those with queued tasks
        self._parked: dict[ShapeQueue, None] = {}  # those of them that wait for what lasts
        self._tasks: dict[int, Task] = {}
        self._on_worker: dict[int, int] = {}  # the task that each worker runs
        self._blocked: set[int] = set()  # tasks on workers of the pool
        self._apart: set[int] = set()  # and blocked ones on dedicated workers
        self._resuming: set[int] = set()  # tasks that want their CPUs back
        self._queued = 0
        self._numbers = 0  # the next in sequence, and the last before the first
        self._fronts = -1

        self._cpu = TokenAccount(config.num_cpus)
        self._places_used = 0
        self._places_apart = 0  # those of them that tasks on dedicated workers have
        self._dedicated: set[int] = set()  # workers outside the pool
        self._asked: set[int] = set()  # tasks given out that may each make it one more
        self._no_process = False  # none can be started until one ends
        self._demand = m.FastDemand(0)
        self._deferring = False
        self._groups: dict[int, Group] = {}
        self._lasting: set[int] = set()  # tasks that keep what they have, and reserved groups
        self._beyond = None  # what they leave, once worked out: see `_besides_lasting`
        self._lent = 0  # tokens that they hold, as the shell has been told

        self._history: dict[int, deque[str]] = {}
        self._handlers: dict[type, Callable[[Any, list[m.Instruction]], bool]] = {
            m.ShapeRegistered: self._on_shape_registered,
            m.TaskSubmitted: self._on_task_submitted,
            m.TaskUrgent: self._on_task_urgent,
            m.TaskCancelled: self._on_task_cancelled,
            m.GroupRequested: self._on_group_requested,
            m.GroupRemoved: self._on_group_removed,
            m.Assigned: self._on_assigned,
            m.AssignFailed: self._on_assign_failed,
            m.AssignRefused: self._on_assign_refused,
            m.TaskFinished: self._on_task_finished,
            m.TaskLost: self._on_task_lost,
            m.WorkerBlocked: self._on_worker_blocked,
            m.WorkerUnblocked: self._on_worker_unblocked,
            m.TokensAcquired: self._on_tokens_acquired,
            m.FastDemand: self._on_fast_demand,
            m.FastBlocked: self._on_fast_blocked,
            m.Started: self._on_started,
            m.NeedWorker: self._on_need_worker,
            m.WorkerReady: self._on_worker_ready,
            m.WorkerDied: self._on_worker_died,
            m.DedicatedDied: self._on_dedicated_died,
            m.Tick: self._on_tick,
        }

    def handle(self, event: m.Event) -> list[m.Instruction]:
        """Take in one event.

        Returns
        -------
        list of Instruction
            What to do now, in this order.
        """
        out: list[m.Instruction] = []
        if self._handlers[type(event)](event, out):
            while self._place(out):
                pass
        self._tell_lent(out)
        self._workers.apart = len(self._dedicated) + len(self._asked)
        if self._workers.decide(out, len(self._blocked)):
            out.append(self._standstill())
        return out

    # ------------------------------------------------------------------ events: tasks
    # Each returns whether something might be placed now that could not be before.

    def _on_shape_registered(self, event: m.ShapeRegistered, out: list[m.Instruction]) -> bool:
        request = ResourceRequest.from_dict(event.request)
        if event.group:
            group = self._groups[event.group]
            if group.removed:
                return False  # its tasks will be told
            rejected = group.why_not(event.bundle, request)
            request = group.request_in(event.bundle, request)
        else:
            rejected = self.why_infeasible(request)
        if event.shape_id in self._shapes:
            known = self._shapes[event.shape_id]
            if (known.request, known.dedicated) != (request, event.dedicated):
                raise ValueError(f"shape {event.shape_id} is already registered as another one")
        else:
            self._shapes[event.shape_id] = ShapeQueue(
                request, rejected, event.dedicated, event.lasting, event.keeps_cpus, event.group
            )
            if event.group:
                group.shapes.append(event.shape_id)
        if rejected:
            out.append(m.ShapeRejected(event.shape_id, rejected))
        return False

    def _on_task_submitted(self, event: m.TaskSubmitted, out: list[m.Instruction]) -> bool:
        handle = event.task
        if handle in self._tasks:
            raise ValueError(f"task {handle} is already {STATES[self._tasks[handle].state]}")
        shape = self._shapes.get(event.shape_id)
        if shape is None:
            out.append(m.GroupGone(handle))  # those of groups that have gone are forgotten
            return False
        if shape.rejected:
            out.append(m.FailTask(handle, shape.rejected))
            return False
        if event.front:
            number = self._fronts
            self._fronts -= 1
        else:
            number = self._numbers
            self._numbers += 1
        entry = (0 if event.urgent else 1, -event.depth, number, handle)
        self._tasks[handle] = task = Task(shape, entry)
        self._note(handle, "submitted")
        return self._enqueue(task)

    def _on_task_urgent(self, event: m.TaskUrgent, out: list[m.Instruction]) -> bool:
        task = self._tasks.get(event.task)
        if task is None or task.entry[0] == 0:
            return False
        self._note(event.task, "made urgent")
        queued = task.state == QUEUED
        if queued:
            self._dequeue(task)
        task.entry = (0, *task.entry[1:])
        return self._enqueue(task) if queued else task.state == RESUMING

    def _on_task_cancelled(self, event: m.TaskCancelled, out: list[m.Instruction]) -> bool:
        task = self._tasks.get(event.task)
        if task is None or task.state != QUEUED:
            return False
        self._forget(event.task, task)
        out.append(m.Dropped(event.task))
        return True

    def _on_assigned(self, event: m.Assigned, out: list[m.Instruction]) -> bool:
        task = self._tasks.get(event.task)
        if task is None or task.state != GIVEN:
            raise ValueError(f"task {event.task} was not to be assigned")
        if event.worker in self._on_worker:
            other = self._on_worker[event.worker]
            raise ValueError(f"worker {event.worker} has task {other}: not free for {event.task}")
        if task.shape.dedicated:
            self._dedicated.add(event.worker)
            self._asked.discard(event.task)
        elif event.worker in self._dedicated:
            raise ValueError(f"worker {event.worker} is not of the pool: not for {event.task}")
        task.state = RUNNING
        task.worker = event.worker
        self._on_worker[event.worker] = event.task
        self._note(event.task, "assigned to a worker")
        if self._is_gone(task):
            out.append(m.EndWorker(event.worker, event.task))
        return False

    def _on_assign_failed(self, event: m.AssignFailed, out: list[m.Instruction]) -> bool:
        task = self._tasks.get(event.task)
        if task is None or task.state != GIVEN:
            raise ValueError(f"task {event.task} was not to be assigned")
        if self._is_gone(task):
            self._forget(event.task, task)
            out.append(m.GroupGone(event.task))
        else:
            self._give_back(task)
            task.state = QUEUED
            self._enqueue(task)
            self._note(event.task, "found no idle worker")
        if task.shape.dedicated:
            self._asked.discard(event.task)
            self._no_process = True
        else:
            self._workers.assign_failed()
        return True

    def _on_assign_refused(self, event: m.AssignRefused, out: list[m.Instruction]) -> bool:
        task = self._tasks.get(event.task)
        if task is None or task.state != GIVEN or not task.shape.dedicated:
            raise ValueError(f"task {event.task} was not to be assigned")
        self._forget(event.task, task)
        return True

    def _on_task_finished(self, event: m.TaskFinished, out: list[m.Instruction]) -> bool:
        task = self._tasks.get(event.task)
        if task is None or task.worker != event.worker:
            return False  # of an attempt that is lost already
        self._forget(event.task, task)
        if task.shape.dedicated:
            self._no_process = False
        else:
            self._workers.worker_idle()
        return True

    def _on_task_lost(self, event: m.TaskLost, out: list[m.Instruction]) -> bool:
        handle = event.task
        limit = event.max_retries
        if not event.started:
            out.append(m.Requeue(handle, event.attempt))
        elif limit < 0 or event.attempt < limit:
            out.append(m.Requeue(handle, event.attempt + 1))
        else:
            used = f"{event.attempt} of {limit} retries had been used" if limit else "no retries"
            out.append(m.FailTask(handle, f"its worker died; {used}"))
        task = self._tasks.get(handle)
        if task is None:
            return False
        self._forget(handle, task)
        return True

    def _on_worker_blocked(self, event: m.WorkerBlocked, out: list[m.Instruction]) -> bool:
        handle = self._on_worker.get(event.worker)
        if handle is None or self._tasks[handle].state not in (RUNNING, RESUMING):
            return False
        task = self._tasks[handle]
        if task.state == RUNNING:
            self._give_back_cpu(task)
        self._wait(handle, task, BLOCKED)
        return True

    def _on_worker_unblocked(self, event: m.WorkerUnblocked, out: list[m.Instruction]) -> bool:
        handle = self._on_worker.get(event.worker)
        if handle is None or self._tasks[handle].state != BLOCKED:
            return False
        self._wait(handle, self._tasks[handle], RESUMING)
        return True

    # ------------------------------------------------------- events: CPUs and workers

    def _on_tokens_acquired(self, event: m.TokensAcquired, out: list[m.Instruction]) -> bool:
        self._cpu.acquire(event.count)
        return True

    def _on_fast_demand(self, event: m.FastDemand, out: list[m.Instruction]) -> bool:
        changed = event != self._demand
        self._demand = event
        return changed

    def _on_fast_blocked(self, event: m.FastBlocked, out: list[m.Instruction]) -> bool:
        self._workers.fast_blocked = event.count
        return False

    def _on_started(self, event: m.Started, out: list[m.Instruction]) -> bool:
        self._workers.started = True
        return False

    def _on_need_worker(self, event: m.NeedWorker, out: list[m.Instruction]) -> bool:
        self._workers.need(event.count)
        return False

    def _on_worker_ready(self, event: m.WorkerReady, out: list[m.Instruction]) -> bool:
        self._workers.ready(event.worker)
        return True

    def _on_worker_died(self, event: m.WorkerDied, out: list[m.Instruction]) -> bool:
        self._workers.died(event.worker)
        return self._process_gone(event.worker)

    def _on_dedicated_died(self, event: m.DedicatedDied, out: list[m.Instruction]) -> bool:
        self._dedicated.discard(event.worker)
        return self._process_gone(event.worker)

    def _process_gone(self, worker: int) -> bool:
        news, self._no_process = self._no_process, False
        handle = self._on_worker.get(worker)
        if handle is None:
            return news
        self._forget(handle, self._tasks[handle])
        return True

    def _on_tick(self, event: m.Tick, out: list[m.Instruction]) -> bool:
        usable = self._workers.worker_idle(event.idle_workers) or self._no_process
        self._no_process = False
        blocked, no_cpu = len(self._blocked), self._places_used - self._places_apart
        self._workers.tick(out, event.now, event.idle_workers, blocked, no_cpu)
        return usable

    # ----------------------------------------------------------------------- placing

    def _place(self, out: list[m.Instruction]) -> bool:
        """Resume and start whatever can be, in order; then settle how many tokens to hold.

        Returns
        -------
        bool
            True after a group was reserved: there is more to give now, so it is to be called again.
        """
        closed: set[str] = set()  # kinds that something ahead is short of
        target = self._resume(closed, out)
        turns = False  # whether the fast path is level with what waits for CPUs
        self._deferring = False
        view = self._pool  # what is free, less what is set aside
        heads = [entry for shape in self._active if (entry := shape.head())]
        heapify(heads)
        while heads:
            entry = heads[0]
            task = self._tasks[entry[3]]
            shape, request = task.shape, task.shape.request
            lacking = closed.intersection(request.kinds)
            lacking.update(view.short_of(request))
            if shape.place and self._places_used >= self._places:
                lacking.add(_PLACE)
            if shape.dedicated and self._no_process:
                lacking.add(_PROCESS)
            goal, level = target, turns
            if not lacking and request.cpu:
                fits, goal, level = self._admit(entry, request.cpu)
                if not fits:
                    lacking.add(CPU)
            elif not lacking:
                lacking.update(self._pool.short_of_seats(request))
            if not lacking:
                if shape.reserves:
                    self._reserve(task, view, out)
                    return True
                if not (shape.dedicated or self._workers.may_assign):
                    if request.cpu:  # it has all but a worker; nothing may overtake it
                        target = tokens_for(self._cpu.used + request.cpu)
                    break
                self._assign(task, view, out)
                if following := task.shape.head():
                    heapreplace(heads, following)
                else:
                    heappop(heads)
                continue
            heappop(heads)
            if self._waits_for_lasting(request):
                del self._active[shape]
                self._parked[shape] = None
                continue
            if CPU in lacking - closed:
                target, turns = goal, level
                self._deferring = not goal
            closed |= lacking
            if not lacking.issuperset(request.kinds - {CPU}):
                if view is self._pool:
                    view = view.copy()
                view.take(request, skip=lacking)
        release, want = self._cpu.settle(target, turns)
        if release:
            out.append(m.ReleaseTokens(release))
        if want is not None:
            out.append(m.WantTokens(want))
        return False

    def _resume(self, closed: set[str], out: list[m.Instruction]) -> int:
        """Let blocked tasks go on; the tokens to be held for those that can't yet."""
        waiting = 0
        for handle in sorted(self._resuming, key=lambda h: self._tasks[h].entry):
            task = self._tasks[handle]
            request = task.shape.request
            cpu = request.cpu
            kinds = {name for name, _ in request.seats} or {CPU if cpu else _PLACE}
            if cpu:
                fits = tokens_for(self._cpu.used + cpu) <= self._cpu.held
            elif request.seats:
                fits = not self._pool.short_of_seats(request)
            else:
                fits = self._places_used < self._places
            fits = fits and closed.isdisjoint(kinds)
            if fits or self._cpus_are_gone(request):
                task.bare = not fits
                self._take_cpu(task)
                self._resuming.remove(handle)
                task.state = RUNNING
                self._note(handle, "resumed")
                assert task.worker is not None
                out.append(m.ResumeWorker(task.worker))
            else:
                closed |= kinds
                waiting += cpu
        if not waiting:
            return 0
        return min(self.config.num_cpus, tokens_for(self._cpu.used + waiting))

    def _admit(self, entry: Entry, units: int) -> tuple[bool, int, bool]:
        """See whether there is CPU for a task that has all else.

        Returns
        -------
        fits : bool
            Whether it may start.
        goal : int
            If not, how many tokens must be held; 0: it must let the fast path go first.
        level : bool
            Whether it takes turns with the fast path.
        """
        cpu, demand = self._cpu, self._demand
        need = tokens_for(cpu.used + units)  # more than there are, if others must end first
        fast = (0 if demand.urgent else 1, -demand.depth)
        if not demand.tokens or entry[:2] < fast:
            return need <= cpu.held, min(need, cpu.total), False
        if entry[:2] == fast:
            return cpu.fits_turn(units), cpu.turn_target(units), True
        most = cpu.total - demand.tokens
        fits = units <= cpu.gap or need <= min(cpu.held, most)
        return fits, need if need <= most else 0, False

    def _assign(self, task: Task, view: ResourcePool, out: list[m.Instruction]) -> None:
        """Start the first task of its shape's queue, with what is free in `view`."""
        request, handle = task.shape.request, task.entry[3]
        gpus = view.take(request)
        if view is not self._pool:
            self._pool.take_exactly(request, gpus)
        self._dequeue(task)
        task.state = GIVEN
        task.allocation = Allocation(request, gpus)
        self._take_cpu(task)
        if task.shape.lasting:
            self._lasting.add(handle)
        dedicated = task.shape.dedicated
        if dedicated:
            self._asked.add(handle)
        else:
            self._workers.assigning()
        self._note(handle, f"given out with {request}, GPUs {gpus}")
        out.append(m.Assign(handle, task.allocation.gpu_ids, task.allocation, dedicated))

    # ------------------------------------------------------------------------- books

    def _give_back(self, task: Task) -> None:
        """Take back everything that a task was given and still has."""
        assert task.allocation is not None
        if task.state in WITH_CPUS:
            self._give_back_cpu(task)
        self._pool.give(task.allocation)
        task.allocation = None
        if task.shape.lasting:
            self._lasting.discard(task.entry[3])
            self._lasting_changed()

    def _wait(self, handle: int, task: Task, state: int) -> None:
        """Put a task without CPUs among the blocked, or among those that wait to go on."""
        task.state = state
        blocked = self._apart if task.shape.dedicated else self._blocked
        blocked.discard(handle)
        self._resuming.discard(handle)
        (blocked if state == BLOCKED else self._resuming).add(handle)
        self._note(handle, STATES[state])

    def _forget(self, handle: int, task: Task) -> None:
        """A task is no longer the scheduler's: finished, lost or cancelled."""
        if task.state == QUEUED:
            self._dequeue(task)
        else:
            self._give_back(task)
            self._blocked.discard(handle)
            self._apart.discard(handle)
            self._asked.discard(handle)
            self._resuming.discard(handle)
        if task.worker is not None:
            del self._on_worker[task.worker]
        del self._tasks[handle]
        self._history.pop(handle, None)
        if self._is_gone(task):
            self._release_if_left(self._groups[task.shape.group])

    def _enqueue(self, task: Task) -> bool:
        """Queue a task; whether it is now the first of its shape."""
        task.shape.push(task.entry)
        self._queued += 1
        if task.shape not in self._parked:
            self._active[task.shape] = None
        return task.shape.head() is task.entry

    def _dequeue(self, task: Task) -> None:
        """Take a task out of its queue."""
        task.shape.discard(task.entry[3])
        self._queued -= 1
        if not task.shape:
            self._active.pop(task.shape, None)
            self._parked.pop(task.shape, None)

    def _note(self, handle: int, what: str) -> None:
        if self.config.debug:
            self._history.setdefault(handle, deque(maxlen=_HISTORY)).append(what)

    def _standstill(self) -> m.CapReached:
        deepest = sorted(self._blocked, key=lambda h: self._tasks[h].entry[1:])[:_CHAIN_LIMIT]
        pool = self._workers
        live, fast = len(pool.live), pool.fast_blocked
        return m.CapReached(pool.cap, live, fast, tuple(deepest), self._queued)

    def validate(self) -> None:
        """Check every invariant.

        Raises
        ------
        AssertionError
            Telling what is wrong, and with ``debug`` what the task went through.
        """
        audit(self)
