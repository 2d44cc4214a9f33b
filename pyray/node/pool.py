"""The scheduler's messages, and its policy on how many worker processes there should be.

The messages are what `pyray.node.scheduler` takes and gives: events are facts, in the past tense
or as a level that holds now; instructions are orders to the shell. Tasks, workers and shapes are
whatever integers the shell knows them by.

`Pool` counts processes; which of them runs what is decided in the scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyray.node.resources import Allocation

__all__ = [
    "Assign",
    "AssignFailed",
    "Assigned",
    "CapReached",
    "Dropped",
    "Event",
    "FailTask",
    "FastBlocked",
    "FastDemand",
    "Instruction",
    "NeedWorker",
    "Pool",
    "PoolBroken",
    "ReleaseTokens",
    "Requeue",
    "ResumeWorker",
    "ShapeRegistered",
    "ShapeRejected",
    "StartWorker",
    "Started",
    "StopWorker",
    "TaskCancelled",
    "TaskFinished",
    "TaskLost",
    "TaskSubmitted",
    "TaskUrgent",
    "Tick",
    "TokensAcquired",
    "WantTokens",
    "WorkerBlocked",
    "WorkerDied",
    "WorkerReady",
    "WorkerUnblocked",
]


# ------------------------------------------------------------------ events about tasks


@dataclass(frozen=True, slots=True)
class ShapeRegistered:
    """Tasks of this shape will come. `ShapeRejected` answers one that can never run.

    `request` is a dictionary of amounts by resource; a malformed one raises from `handle`.
    """

    shape_id: int
    request: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TaskSubmitted:
    """A task is ready to run: its arguments are there.

    Attributes
    ----------
    task, shape_id : int
        The task's handle, and its registered shape.
    depth : int
        How many tasks it is nested in.
    urgent : bool
        A blocked worker awaits it.
    front : bool
        Put it before its equals: it comes back through no fault of its own.
    """

    task: int
    shape_id: int
    depth: int = 0
    urgent: bool = False
    front: bool = False


@dataclass(frozen=True, slots=True)
class TaskUrgent:
    """A blocked worker has begun to await this task. Ignored if the task is not known here."""

    task: int


@dataclass(frozen=True, slots=True)
class TaskCancelled:
    """Forget this task if it is still queued (then `Dropped`); otherwise nothing happens."""

    task: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """Answers `Assign`: this worker has the task now."""

    task: int
    worker: int


@dataclass(frozen=True, slots=True)
class AssignFailed:
    """Answers `Assign`: no worker is idle. The task goes back to where it stood."""

    task: int


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """A task ended, well or badly, and its worker is idle (or gone on to the fast path)."""

    task: int
    worker: int


@dataclass(frozen=True, slots=True)
class TaskLost:
    """A task's worker died; for tasks of the fast path too, which the scheduler doesn't know.

    Answered by `Requeue` or `FailTask`.

    Attributes
    ----------
    task : int
        The task.
    started : bool
        Whether it had begun to run. One that had not is queued again at no charge.
    attempt : int
        0 the first time.
    max_retries : int
        -1: without limit.
    """

    task: int
    started: bool
    attempt: int
    max_retries: int


@dataclass(frozen=True, slots=True)
class WorkerBlocked:
    """A worker's task waits for others: it gives back its CPUs and keeps everything else.

    Ignored for workers that run nothing known here (report those with `FastBlocked`).
    """

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerUnblocked:
    """Its wait is over. It must not go on before `ResumeWorker`."""

    worker: int


# ------------------------------------------------------------------- events about CPUs


@dataclass(frozen=True, slots=True)
class TokensAcquired:
    """The shell took so many tokens out of the ledger for the node.

    What it was asked for (`WantTokens`) is thereby so many fewer.
    """

    count: int


@dataclass(frozen=True, slots=True)
class FastDemand:
    """What the fast path's queue looks like now. Until told, it is taken to be empty.

    Attributes
    ----------
    tokens : int
        How many tokens it could use: tasks that are ready and tasks that run. 0 if none is ready.
    urgent : bool
        Whether a blocked worker awaits its first task.
    depth : int
        That task's depth.
    """

    tokens: int
    urgent: bool = False
    depth: int = 0


# ---------------------------------------------------------------- events about workers


@dataclass(frozen=True, slots=True)
class Started:
    """The session begins: send it once, first."""


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker came up and is idle.

    Sent again for a worker that is known, it says "idle now"; useful while
    `Scheduler.short_of_workers`, allowed always.
    """

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker process has ended, whatever the reason; what its task held is free.

    A worker that never sent `WorkerReady` counts as a failed start. What becomes of the task is
    asked separately, with `TaskLost`.
    """

    worker: int


@dataclass(frozen=True, slots=True)
class NeedWorker:
    """On the fast path there is ready work and a free token, but no idle worker to wake.

    `count` is how many workers are missing now (not how many more than last time); 0 withdraws.
    Each worker that comes up lowers it by one.
    """

    count: int = 1


@dataclass(frozen=True, slots=True)
class FastBlocked:
    """How many workers are blocked now in tasks that never passed through the node."""

    count: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes. Once a second is enough, oftener is harmless.

    Attributes
    ----------
    now : float
        Seconds on a clock that never goes backwards.
    idle_workers : int
        Workers that are idle at this moment and have not been told to stop.
    """

    now: float
    idle_workers: int


# ------------------------------------------------------- instructions on tasks and CPUs


@dataclass(frozen=True, slots=True)
class ShapeRejected:
    """No task of this shape can ever run here; `reason` says what was asked and what there is."""

    shape_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Give this task to an idle worker. Answer with `Assigned` or `AssignFailed`.

    `gpu_ids` are indices 0 .. n-1 of the session's GPUs.
    """

    task: int
    gpu_ids: tuple[int, ...]
    allocation: Allocation


@dataclass(frozen=True, slots=True)
class ResumeWorker:
    """This worker's task has its CPUs again and goes on."""

    worker: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A cancelled task was still queued, and is forgotten."""

    task: int


@dataclass(frozen=True, slots=True)
class Requeue:
    """Queue a lost task again as this attempt.

    Shaped tasks with `TaskSubmitted` (``front=True`` is fair), others on the fast path.
    """

    task: int
    attempt: int


@dataclass(frozen=True, slots=True)
class FailTask:
    """Make a task fail; `reason` is the scheduler's part of the message."""

    task: int
    reason: str


@dataclass(frozen=True, slots=True)
class WantTokens:
    """From now on collect up to so many further tokens; 0 withdraws. Absolute, not added."""

    count: int


@dataclass(frozen=True, slots=True)
class ReleaseTokens:
    """Give so many of the node's tokens back to the ledger, to ready fast tasks first."""

    count: int


# ------------------------------------------------------------- instructions on workers


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Fork one worker. Answer with `WorkerReady`, or `WorkerDied` if it never came up."""


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Retire one idle worker; if none is idle any more, do nothing. Answer: `WorkerDied`."""


@dataclass(frozen=True, slots=True)
class CapReached:
    """Work is ready, every process is blocked, and there may be no more of them.

    Sent once per standstill. Nothing will move unless the shell fails something.

    Attributes
    ----------
    cap, live : int
        Processes allowed, and alive.
    fast_blocked : int
        Blocked workers whose tasks the node does not know.
    chain : tuple of int
        Blocked tasks that it knows, deepest first (the first few).
    queued : int
        Shaped tasks that wait in queues.
    """

    cap: int
    live: int
    fast_blocked: int
    chain: tuple[int, ...]
    queued: int


@dataclass(frozen=True, slots=True)
class PoolBroken:
    """So many workers in a row died while starting that no more will be tried.

    A `WorkerReady`, from one still coming up, lifts it.
    """

    failures: int


Event = (
    ShapeRegistered
    | TaskSubmitted
    | TaskUrgent
    | TaskCancelled
    | Assigned
    | AssignFailed
    | TaskFinished
    | TaskLost
    | WorkerBlocked
    | WorkerUnblocked
    | TokensAcquired
    | FastDemand
    | FastBlocked
    | Started
    | NeedWorker
    | WorkerReady
    | WorkerDied
    | Tick
)

Instruction = (
    ShapeRejected
    | Assign
    | ResumeWorker
    | Dropped
    | Requeue
    | FailTask
    | WantTokens
    | ReleaseTokens
    | StartWorker
    | StopWorker
    | CapReached
    | PoolBroken
)


# -------------------------------------------------------------------------- the policy


class Pool:
    """Counts worker processes and decides when to start and retire them.

    Parameters
    ----------
    size : int
        Workers that should always be there: one per CPU.
    cap : int
        Most processes at once, starting ones included.
    idle_seconds : float
        How long a surplus must last before it is retired.
    max_start_failures : int
        Workers that may die while starting, in a row, before it gives up.
    """

    __slots__ = (
        "broken",
        "cap",
        "cap_told",
        "failures",
        "fast_blocked",
        "fast_need",
        "idle_seconds",
        "live",
        "max_start_failures",
        "permits",
        "size",
        "started",
        "starting",
        "surplus",
        "surplus_since",
        "unmet",
    )

    def __init__(self, size: int, cap: int, idle_seconds: float, max_start_failures: int) -> None:
        self.size = size
        self.cap = cap
        self.idle_seconds = idle_seconds
        self.max_start_failures = max_start_failures
        self.live: set[int] = set()
        self.starting = 0
        self.started = False
        self.failures = 0  # starts that failed since the last that succeeded
        self.broken = False
        self.fast_blocked = 0
        self.fast_need = 0  # as NeedWorker said, less those that came up since
        self.unmet = 0  # assignments that found no idle worker, less workers freed since
        self.permits = 0  # assignments that may be tried while `unmet`
        self.cap_told = False
        self.surplus = 0  # smallest surplus since `surplus_since`
        self.surplus_since: float | None = None

    # An assignment is tried in the belief that some worker is idle; nobody can know, since the
    # fast path takes and leaves workers without asking. Where that failed, no more are tried
    # than workers have since been seen to become idle.

    @property
    def may_assign(self) -> bool:
        """Whether an assignment has a chance to find an idle worker."""
        return self.unmet == 0 or self.permits > 0

    def assigning(self) -> None:
        """An assignment is being tried."""
        if self.permits:
            self.permits -= 1

    def assign_failed(self) -> None:
        """It found no idle worker."""
        self.unmet += 1
        self.permits = 0

    def worker_idle(self, count: int = 1) -> bool:
        """Workers were seen idle; whether assignments that waited for one may now be tried."""
        usable = min(count, self.unmet)
        self.unmet -= usable
        self.permits = self.permits + usable if self.unmet else 0
        return usable > 0

    def need(self, count: int) -> None:
        """The fast path lacks this many workers now."""
        self.fast_need = max(0, count)

    def ready(self, worker: int) -> None:
        """A worker came up, or is idle again."""
        if worker not in self.live:
            self.live.add(worker)
            self.starting = max(0, self.starting - 1)
            self.failures = 0
            self.broken = False
            self.fast_need = max(0, self.fast_need - 1)
        self.worker_idle()

    def died(self, worker: int) -> None:
        """A worker ended."""
        if worker in self.live:
            self.live.remove(worker)
        elif self.starting:
            self.starting -= 1
            self.failures += 1

    def decide(self, out: list[Instruction], blocked: int) -> bool:
        """Start what is missing.

        Parameters
        ----------
        out : list
            Where instructions go.
        blocked : int
            Blocked workers whose tasks the scheduler knows.

        Returns
        -------
        bool
            Whether everything has just come to stand still at the cap.
        """
        if not self.started:
            return False
        if self.failures >= self.max_start_failures and not self.broken:
            self.broken = True
            out.append(PoolBroken(self.failures))
        need = self.fast_need + self.unmet
        processes = len(self.live) + self.starting
        if not self.broken:
            # One that is coming up covers a need, whatever it was started for.
            missing = max(self.size - processes, need - self.starting)
            for _ in range(min(missing, self.cap - processes)):
                self.starting += 1
                processes += 1
                out.append(StartWorker())
        stuck = (
            need > 0
            and not self.starting
            and processes >= self.cap
            and blocked + self.fast_blocked >= len(self.live)
        )
        news = stuck and not self.cap_told
        self.cap_told = stuck
        return news

    def tick(
        self, out: list[Instruction], now: float, idle: int, blocked: int, no_cpu: int
    ) -> None:
        """Retire workers that have been too many for `idle_seconds`.

        Blocked workers, and those whose tasks use no CPU (`no_cpu`), are no capacity: the pool's
        size is kept in workers besides them.
        """
        capacity = len(self.live) - blocked - self.fast_blocked - no_cpu
        surplus = min(idle, capacity - self.size)
        if surplus <= 0 or self.fast_need or self.unmet:
            self.surplus_since = None
        elif self.surplus_since is None:
            self.surplus_since, self.surplus = now, surplus
        else:
            self.surplus = min(self.surplus, surplus)
            if now - self.surplus_since >= self.idle_seconds:
                out.extend([StopWorker()] * self.surplus)
                self.surplus_since = None

    def validate(self) -> None:
        """Check the counts.

        Raises
        ------
        AssertionError
            With the figures.
        """
        figures = f"({len(self.live)} live, {self.starting} starting, cap {self.cap})"
        assert self.starting >= 0, f"fewer than none are starting {figures}"
        assert min(self.unmet, self.permits, self.fast_need) >= 0, figures
        assert not (self.permits and not self.unmet), f"permits that limit nothing {figures}"
