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

**The fast path** queues for the same CPUs unseen. `FastDemand` describes its queue in one line,
and it is treated as one more queue: ahead of a shaped task it keeps the CPUs it can use; level
with it the two take turns, because tokens freed by a shaped task go back before more are wanted.

Between two events nothing can be started that has not been (the state is a fixed point), which
is why most events need not look at the queues at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heapreplace
from typing import Any

from pyray.node import pool as m
from pyray.node.resources import (
    CPU,
    GPU,
    UNITS,
    Allocation,
    Entry,
    ResourcePool,
    ResourceRequest,
    SchedulerConfig,
    ShapeQueue,
    TokenAccount,
    format_amount,
    from_units,
    to_units,
    tokens_for,
)

__all__ = ["Scheduler", "SchedulerConfig"]

# Stands in for CPU in the books of tasks that ask for none: a place among those that may run.
_PLACE = "a place for a task without CPUs"

# A task's states. It is known here from its submission until it has finished or is lost.
_QUEUED, _GIVEN, _RUNNING, _BLOCKED, _RESUMING = range(5)
_STATES = ("queued", "given out", "running", "blocked", "waiting to go on")

_CHAIN_LIMIT = 16
_HISTORY = 24


class _Task:
    """What is known of one task."""

    __slots__ = ("allocation", "entry", "opener", "shape", "state", "worker")

    def __init__(self, shape: ShapeQueue, entry: Entry) -> None:
        self.shape = shape
        self.entry = entry
        self.state = _QUEUED
        self.worker: int | None = None
        self.allocation: Allocation | None = None  # from the state "given out" on
        self.opener = False  # see TokenAccount.take


class Scheduler:
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
        self._workers = m.Pool(config.num_cpus, cap, config.idle_seconds, config.max_start_failures)

        self._shapes: dict[int, ShapeQueue] = {}
        self._active: dict[ShapeQueue, None] = {}  # those with queued tasks
        self._tasks: dict[int, _Task] = {}
        self._on_worker: dict[int, int] = {}  # the task that each worker runs
        self._blocked: set[int] = set()  # tasks
        self._resuming: set[int] = set()  # tasks that want their CPUs back
        self._queued = 0
        self._numbers = 0  # the next in sequence, and the last before the first
        self._fronts = -1

        self._cpu = TokenAccount(config.num_cpus)
        self._places_used = 0
        self._demand = m.FastDemand(0)
        self._deferring = False

        self._history: dict[int, deque[str]] = {}
        self._handlers: dict[type, Callable[[Any, list[m.Instruction]], bool]] = {
            m.ShapeRegistered: self._on_shape_registered,
            m.TaskSubmitted: self._on_task_submitted,
            m.TaskUrgent: self._on_task_urgent,
            m.TaskCancelled: self._on_task_cancelled,
            m.Assigned: self._on_assigned,
            m.AssignFailed: self._on_assign_failed,
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
            self._place(out)
        if self._workers.decide(out, len(self._blocked)):
            out.append(self._standstill())
        return out

    # ------------------------------------------------------------------ events: tasks
    # Each returns whether something might be placed now that could not be before.

    def _on_shape_registered(self, event: m.ShapeRegistered, out: list[m.Instruction]) -> bool:
        request = ResourceRequest.from_dict(event.request)
        rejected = self.why_infeasible(request)
        if event.shape_id in self._shapes:
            if self._shapes[event.shape_id].request != request:
                raise ValueError(f"shape {event.shape_id} is already registered as another one")
        else:
            self._shapes[event.shape_id] = ShapeQueue(request, rejected)
        if rejected:
            out.append(m.ShapeRejected(event.shape_id, rejected))
        return False

    def _on_task_submitted(self, event: m.TaskSubmitted, out: list[m.Instruction]) -> bool:
        handle = event.task
        if handle in self._tasks:
            raise ValueError(f"task {handle} is already {_STATES[self._tasks[handle].state]}")
        shape = self._shapes[event.shape_id]
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
        self._tasks[handle] = task = _Task(shape, entry)
        self._note(handle, "submitted")
        return self._enqueue(task)

    def _on_task_urgent(self, event: m.TaskUrgent, out: list[m.Instruction]) -> bool:
        task = self._tasks.get(event.task)
        if task is None or task.entry[0] == 0:
            return False
        self._note(event.task, "made urgent")
        queued = task.state == _QUEUED
        if queued:
            self._dequeue(task)
        task.entry = (0, *task.entry[1:])
        return self._enqueue(task) if queued else task.state == _RESUMING

    def _on_task_cancelled(self, event: m.TaskCancelled, out: list[m.Instruction]) -> bool:
        task = self._tasks.get(event.task)
        if task is None or task.state != _QUEUED:
            return False
        self._forget(event.task, task)
        out.append(m.Dropped(event.task))
        return True

    def _on_assigned(self, event: m.Assigned, out: list[m.Instruction]) -> bool:
        task = self._tasks.get(event.task)
        if task is None or task.state != _GIVEN:
            raise ValueError(f"task {event.task} was not to be assigned")
        if event.worker in self._on_worker:
            other = self._on_worker[event.worker]
            raise ValueError(f"worker {event.worker} has task {other}: not free for {event.task}")
        task.state = _RUNNING
        task.worker = event.worker
        self._on_worker[event.worker] = event.task
        self._note(event.task, "assigned to a worker")
        return False

    def _on_assign_failed(self, event: m.AssignFailed, out: list[m.Instruction]) -> bool:
        task = self._tasks.get(event.task)
        if task is None or task.state != _GIVEN:
            raise ValueError(f"task {event.task} was not to be assigned")
        self._give_back(task)
        task.state = _QUEUED
        self._enqueue(task)
        self._note(event.task, "found no idle worker")
        self._workers.assign_failed()
        return True

    def _on_task_finished(self, event: m.TaskFinished, out: list[m.Instruction]) -> bool:
        task = self._tasks.get(event.task)
        if task is None or task.worker != event.worker:
            return False  # of an attempt that is lost already
        self._forget(event.task, task)
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
        if handle is None or self._tasks[handle].state not in (_RUNNING, _RESUMING):
            return False
        task = self._tasks[handle]
        if task.state == _RUNNING:
            self._give_back_cpu(task)
        self._wait(handle, task, _BLOCKED)
        return True

    def _on_worker_unblocked(self, event: m.WorkerUnblocked, out: list[m.Instruction]) -> bool:
        handle = self._on_worker.get(event.worker)
        if handle is None or self._tasks[handle].state != _BLOCKED:
            return False
        self._wait(handle, self._tasks[handle], _RESUMING)
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
        handle = self._on_worker.get(event.worker)
        if handle is None:
            return False
        self._forget(handle, self._tasks[handle])
        return True

    def _on_tick(self, event: m.Tick, out: list[m.Instruction]) -> bool:
        usable = self._workers.worker_idle(event.idle_workers)
        blocked, no_cpu = len(self._blocked), self._places_used
        self._workers.tick(out, event.now, event.idle_workers, blocked, no_cpu)
        return usable

    # ----------------------------------------------------------------------- placing

    def _place(self, out: list[m.Instruction]) -> None:
        """Resume and start whatever can be, in order; then settle how many tokens to hold."""
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
            request = task.shape.request
            lacking = closed.intersection(request.kinds)
            lacking.update(view.short_of(request))
            if not request.cpu and self._places_used >= self._places:
                lacking.add(_PLACE)
            if not lacking and request.cpu:
                fits, goal, level = self._admit(entry, request.cpu)
                if not fits:
                    lacking.add(CPU)
                    target, turns = goal, level
                    self._deferring = not goal
            if not lacking:
                if not self._workers.may_assign:
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

    def _resume(self, closed: set[str], out: list[m.Instruction]) -> int:
        """Let blocked tasks go on; the tokens to be held for those that can't yet."""
        waiting = 0
        for handle in sorted(self._resuming, key=lambda h: self._tasks[h].entry):
            task = self._tasks[handle]
            cpu = task.shape.request.cpu
            kind = CPU if cpu else _PLACE
            if cpu:
                fits = tokens_for(self._cpu.used + cpu) <= self._cpu.held
            else:
                fits = self._places_used < self._places
            if fits and kind not in closed:
                self._take_cpu(task)
                self._resuming.remove(handle)
                task.state = _RUNNING
                self._note(handle, "resumed")
                assert task.worker is not None
                out.append(m.ResumeWorker(task.worker))
            else:
                closed.add(kind)
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

    def _assign(self, task: _Task, view: ResourcePool, out: list[m.Instruction]) -> None:
        """Start the first task of its shape's queue, with what is free in `view`."""
        request, handle = task.shape.request, task.entry[3]
        gpu_ids = view.take(request)
        if view is not self._pool:
            self._pool.take_exactly(request, gpu_ids)
        self._dequeue(task)
        task.state = _GIVEN
        task.allocation = Allocation(request, gpu_ids)
        self._take_cpu(task)
        self._workers.assigning()
        self._note(handle, f"given out with {request}, GPUs {gpu_ids}")
        out.append(m.Assign(handle, gpu_ids, task.allocation))

    # ------------------------------------------------------------------------- books

    def _take_cpu(self, task: _Task) -> None:
        if cpu := task.shape.request.cpu:
            task.opener = self._cpu.take(cpu)
        else:
            self._places_used += 1

    def _give_back_cpu(self, task: _Task) -> None:
        if cpu := task.shape.request.cpu:
            self._cpu.give(cpu, task.opener, unused=task.state == _GIVEN)
        else:
            self._places_used -= 1

    def _give_back(self, task: _Task) -> None:
        """Take back everything that a task was given and still has."""
        assert task.allocation is not None
        if task.state in (_GIVEN, _RUNNING):
            self._give_back_cpu(task)
        self._pool.give(task.allocation)
        task.allocation = None

    def _wait(self, handle: int, task: _Task, state: int) -> None:
        """Put a task without CPUs among the blocked, or among those that wait to go on."""
        task.state = state
        self._blocked.discard(handle)
        self._resuming.discard(handle)
        (self._blocked if state == _BLOCKED else self._resuming).add(handle)
        self._note(handle, _STATES[state])

    def _forget(self, handle: int, task: _Task) -> None:
        """A task is no longer the scheduler's: finished, lost or cancelled."""
        if task.state == _QUEUED:
            self._dequeue(task)
        else:
            self._give_back(task)
            self._blocked.discard(handle)
            self._resuming.discard(handle)
        if task.worker is not None:
            del self._on_worker[task.worker]
        del self._tasks[handle]
        self._history.pop(handle, None)

    def _enqueue(self, task: _Task) -> bool:
        """Queue a task; whether it is now the first of its shape."""
        task.shape.push(task.entry)
        self._queued += 1
        self._active[task.shape] = None
        return task.shape.head() is task.entry

    def _dequeue(self, task: _Task) -> None:
        """Take a task out of its queue."""
        task.shape.discard(task.entry[3])
        self._queued -= 1
        if not task.shape:
            del self._active[task.shape]

    def _note(self, handle: int, what: str) -> None:
        if self.config.debug:
            self._history.setdefault(handle, deque(maxlen=_HISTORY)).append(what)

    def _standstill(self) -> m.CapReached:
        deepest = sorted(self._blocked, key=lambda h: self._tasks[h].entry[1:])[:_CHAIN_LIMIT]
        pool = self._workers
        live, fast = len(pool.live), pool.fast_blocked
        return m.CapReached(pool.cap, live, fast, tuple(deepest), self._queued)

    # --------------------------------------------------------------------- questions

    @property
    def held_tokens(self) -> int:
        """Tokens that the node holds."""
        return self._cpu.held

    @property
    def deferring(self) -> bool:
        """Whether a task is kept waiting only by `FastDemand`, which must hence be kept true."""
        return self._deferring

    @property
    def short_of_workers(self) -> bool:
        """Whether assignments wait for a worker to be seen idle."""
        return not self._workers.may_assign

    def totals(self) -> dict[str, float]:
        """What the session has, as `cluster_resources` reports it."""
        return {name: from_units(n) for name, n in self._total_units().items() if n}

    def available(self, free_tokens: int) -> dict[str, float]:
        """What is not in use; as in Ray, what is used up is left out.

        Parameters
        ----------
        free_tokens : int
            Tokens that the node does not hold and no task uses, idle leases included.
        """
        return {name: from_units(n) for name, n in self._free_units(free_tokens).items() if n}

    def why_infeasible(self, request: ResourceRequest | Mapping[str, object]) -> str | None:
        """Say why a request can never be met, or None if it can."""
        if not isinstance(request, ResourceRequest):
            request = ResourceRequest.from_dict(request)
        total = self._total_units()
        asked = request.units()
        if all(n <= total.get(name, 0) for name, n in asked.items()):
            return None
        there = ", ".join(format_amount(name, total.get(name, 0)) for name in asked)
        return f"asks for {request}; this session has {there}"

    def why_waiting(self, task: int, free_tokens: int = 0) -> str | None:
        """Say what a task lacks, for the line on a long wait; None if it isn't waiting here.

        `free_tokens` as in `available`.
        """
        known = self._tasks.get(task)
        if known is None or known.state not in (_QUEUED, _RESUMING):
            return None
        request = known.shape.request
        if known.state == _RESUMING:
            return f"waits to get {format_amount(CPU, request.cpu)} back"
        free = self._free_units(free_tokens)
        there = ", ".join(format_amount(name, free[name]) for name in request.units())
        return f"asks for {request}" + (f"; free now: {there}" if there else "")

    def _total_units(self) -> dict[str, int]:
        config = self.config
        return {CPU: config.num_cpus * UNITS, GPU: config.num_gpus * UNITS, **self._pool.total}

    def _free_units(self, free_tokens: int) -> dict[str, int]:
        cpu = (free_tokens + self._cpu.held) * UNITS - self._cpu.used
        return {CPU: cpu, GPU: sum(self._pool.gpu_free), **self._pool.free}

    def validate(self) -> None:
        """Check every invariant.

        Raises
        ------
        AssertionError
            Telling what is wrong, and with ``debug`` what the task went through.
        """
        states: list[list[int]] = [[] for _ in _STATES]
        for handle, task in self._tasks.items():
            states[task.state].append(handle)
            story = f"task {handle} ({_STATES[task.state]}): {list(self._history.get(handle, ()))}"
            placed = task.state != _QUEUED
            assert task.entry[3] == handle, f"under a wrong number: {story}"
            assert (task.allocation is not None) == placed, f"wrong allocation: {story}"
            on_worker = task.state in (_RUNNING, _BLOCKED, _RESUMING)
            assert (task.worker is not None) == on_worker, f"wrong worker: {story}"
            if task.worker is not None:
                found = self._on_worker.get(task.worker)
                assert found == handle, f"its worker {task.worker} has {found}: {story}"
            queued = task.shape.live.get(handle) is task.entry
            assert queued != placed, f"{'' if queued else 'not '}in its queue: {story}"
            assert (handle in self._blocked) == (task.state == _BLOCKED), f"not so: {story}"
            assert (handle in self._resuming) == (task.state == _RESUMING), f"not so: {story}"
        placed_count = sum(len(s) for s in states[_RUNNING:])
        assert len(self._on_worker) == placed_count, f"workers with unknown tasks {self._on_worker}"
        assert len(self._blocked) == len(states[_BLOCKED]), "unknown tasks are blocked"
        assert len(self._resuming) == len(states[_RESUMING]), "unknown tasks wait to go on"
        assert self._queued == len(states[_QUEUED]), "the count of queued tasks is wrong"
        assert set(self._history) <= set(self._tasks), "a history outlived its task"
        for shape in self._shapes.values():
            shape.validate()
            assert (shape in self._active) == bool(shape), f"wrongly (in)active: {shape.request}"
        assert self._queued == sum(map(len, self._shapes.values())), "unknown tasks are queued"
        running = [self._tasks[h] for h in states[_GIVEN] + states[_RUNNING]]
        self._cpu.validate(sum(task.shape.request.cpu for task in running))
        assert self._places_used == sum(not t.shape.request.cpu for t in running) <= self._places
        self._pool.validate(t.allocation for t in self._tasks.values() if t.allocation)
        if self._cpu.want or self._cpu.held > self._cpu.in_use:
            waiting = [self._tasks[h] for h in states[_QUEUED] + states[_RESUMING]]
            cpus = [t for t in waiting if t.shape.request.cpu]
            assert cpus, f"{self._cpu.want} tokens wanted or kept, and nothing waits for a CPU"
        self._workers.validate()
