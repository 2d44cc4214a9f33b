"""The scheduler's messages: what `pyray.node.scheduler` takes and gives.

Events are facts, in the past tense or as a level that holds now; instructions are orders to the
shell. Tasks, workers and shapes are whatever integers the shell knows them by.

A *dedicated* shape's tasks each want a process of their own (an actor's, or one with an
environment of its own) instead of an idle worker of the pool.  A *lasting* one's keep what they are
given for as long as they like (an actor's).

A *placement group* is reserved whole when its turn among the queued tasks has come, and from then
on tasks of shapes in that group take from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyray.frozen import Frozen
from pyray.node.resources import Allocation

__all__ = [
    "Assign",
    "AssignFailed",
    "AssignRefused",
    "Assigned",
    "CapReached",
    "DedicatedDied",
    "Dropped",
    "EndWorker",
    "Event",
    "FailTask",
    "FastBlocked",
    "FastDemand",
    "GroupGone",
    "GroupRemoved",
    "GroupRequested",
    "GroupReserved",
    "Instruction",
    "NeedWorker",
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
    "TokensLent",
    "WantTokens",
    "WorkerBlocked",
    "WorkerDied",
    "WorkerReady",
    "WorkerUnblocked",
]


# ------------------------------------------------------------------ events about tasks


class ShapeRegistered(Frozen):
    """Tasks of this shape will come. `ShapeRejected` answers one that can never run.

    `request` is a dictionary of amounts by resource; a malformed one raises from `handle`.
    Tasks of a `dedicated` shape never run on workers of the pool.

    Attributes
    ----------
    lasting, keeps_cpus : bool
        Whether its tasks keep what they are given for good, and CPUs too.
    group, bundle : int
        The placement group that they run in, 0 for none, and the bundle, -1 for any.
    """

    shape_id: int
    request: Mapping[str, object]
    dedicated: bool = False
    lasting: bool = False
    keeps_cpus: bool = False
    group: int = 0
    bundle: int = -1


class TaskSubmitted(Frozen):
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


class TaskUrgent(Frozen):
    """A blocked worker has begun to await this task. Ignored if the task is not known here."""

    task: int


class TaskCancelled(Frozen):
    """Forget this task if it is still queued (then `Dropped`); otherwise nothing happens."""

    task: int


class GroupRequested(Frozen):
    """A placement group is to be reserved; `GroupReserved` answers when it is.

    Malformed bundles, and such as exceed what the session has, raise from `handle`.

    Attributes
    ----------
    group : int
        Its number, 1 or more, never used again.
    bundles : sequence of mapping
        Amounts by resource, of each.
    depth : int
        As a task's.
    """

    group: int
    bundles: Sequence[Mapping[str, object]]
    depth: int = 0


class GroupRemoved(Frozen):
    """A placement group is to go, whether it is reserved or not, and all tasks in it.

    Its resources come back when the last task has gone. Ignored if it is not known.
    """

    group: int


class Assigned(Frozen):
    """Answers `Assign`: this worker has the task now."""

    task: int
    worker: int


class AssignFailed(Frozen):
    """Answers `Assign`: no worker is idle. The task goes back to where it stood.

    For a task of a dedicated shape: no process can be started now, but some are about to end. No
    other such task is tried before one has ended or become idle, or a `Tick` has come.
    """

    task: int


class AssignRefused(Frozen):
    """Answers `Assign`: nothing can run this task, and it need be run no more.

    The shell has made it fail, or found it finished.
    """

    task: int


class TaskFinished(Frozen):
    """A task ended, well or badly, and its worker is idle (or gone on to the fast path)."""

    task: int
    worker: int


class TaskLost(Frozen):
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


class WorkerBlocked(Frozen):
    """A worker's task waits for others: it gives back its CPUs and keeps everything else.

    Ignored for workers that run nothing known here (report those with `FastBlocked`).
    """

    worker: int


class WorkerUnblocked(Frozen):
    """Its wait is over. It must not go on before `ResumeWorker`."""

    worker: int


# ------------------------------------------------------------------- events about CPUs


class TokensAcquired(Frozen):
    """The shell took so many tokens out of the ledger for the node.

    What it was asked for (`WantTokens`) is thereby so many fewer.
    """

    count: int


class FastDemand(Frozen):
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


class Started(Frozen):
    """The session begins: send it once, first."""


class WorkerReady(Frozen):
    """A worker came up and is idle.

    Sent again for a worker that is known, it says "idle now"; useful while
    `Scheduler.short_of_workers`, allowed always.
    """

    worker: int


class WorkerDied(Frozen):
    """A worker process has ended, whatever the reason; what its task held is free.

    A worker that never sent `WorkerReady` counts as a failed start. What becomes of the task is
    asked separately, with `TaskLost`.
    """

    worker: int


class DedicatedDied(Frozen):
    """A worker outside the pool has ended, whatever the reason; what its task held is free.

    The scheduler knows such a worker from the first `Assigned` of a dedicated shape's task to it.
    What becomes of the task is asked separately, with `TaskLost`.
    """

    worker: int


class NeedWorker(Frozen):
    """On the fast path there is ready work and a free token, but no idle worker to wake.

    `count` is how many workers are missing now (not how many more than last time); 0 withdraws.
    Each worker that comes up lowers it by one.
    """

    count: int = 1


class FastBlocked(Frozen):
    """How many workers are blocked now in tasks that never passed through the node."""

    count: int


class Tick(Frozen):
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


class ShapeRejected(Frozen):
    """No task of this shape can ever run here; `reason` says what was asked and what there is."""

    shape_id: int
    reason: str


class Assign(Frozen):
    """Give this task to an idle worker, or to a dedicated one if its shape is `dedicated`.

    Answer with `Assigned`, `AssignFailed` or, for a dedicated shape, `AssignRefused`. `gpu_ids` are
    indices 0 .. n-1 of the session's GPUs.
    """

    task: int
    gpu_ids: tuple[int, ...]
    allocation: Allocation
    dedicated: bool = False


class ResumeWorker(Frozen):
    """This worker's task has its CPUs again and goes on."""

    worker: int


class Dropped(Frozen):
    """A cancelled task was still queued, and is forgotten."""

    task: int


class Requeue(Frozen):
    """Queue a lost task again as this attempt.

    Shaped tasks with `TaskSubmitted` (``front=True`` is fair), others on the fast path.
    """

    task: int
    attempt: int


class FailTask(Frozen):
    """Make a task fail; `reason` is the scheduler's part of the message."""

    task: int
    reason: str


class GroupReserved(Frozen):
    """A placement group has what it asked for."""

    group: int


class GroupGone(Frozen):
    """Make a task fail: the placement group that it was to run in has been removed."""

    task: int


class TokensLent(Frozen):
    """So many tokens are now with tasks and groups that keep them for as long as they like.

    Where that is all of them, who waits for a token of the ledger to go on waits in vain.
    """

    count: int


class WantTokens(Frozen):
    """From now on collect up to so many further tokens; 0 withdraws. Absolute, not added."""

    count: int


class ReleaseTokens(Frozen):
    """Give so many of the node's tokens back to the ledger, to ready fast tasks first."""

    count: int


# ------------------------------------------------------------- instructions on workers


class StartWorker(Frozen):
    """Fork one worker. Answer with `WorkerReady`, or `WorkerDied` if it never came up."""


class StopWorker(Frozen):
    """Retire one idle worker; if none is idle any more, do nothing. Answer: `WorkerDied`."""


class EndWorker(Frozen):
    """End this worker, which runs a task in a placement group that is removed.

    Answer as for any that dies; or with `TaskFinished` if it was through with the task.
    """

    worker: int
    task: int


class CapReached(Frozen):
    """Work is ready, every process is blocked, and there may be no more of them.

    Sent once per standstill. Nothing will move unless the shell fails something.

    Attributes
    ----------
    cap, live : int
        Processes allowed, and alive in the pool.
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


class PoolBroken(Frozen):
    """So many workers in a row died while starting that no more will be tried.

    A `WorkerReady`, from one still coming up, lifts it.
    """

    failures: int


Event = (
    ShapeRegistered
    | TaskSubmitted
    | TaskUrgent
    | TaskCancelled
    | GroupRequested
    | GroupRemoved
    | Assigned
    | AssignFailed
    | AssignRefused
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
    | DedicatedDied
    | Tick
)

Instruction = (
    ShapeRejected
    | Assign
    | ResumeWorker
    | Dropped
    | Requeue
    | FailTask
    | GroupReserved
    | GroupGone
    | TokensLent
    | WantTokens
    | ReleaseTokens
    | StartWorker
    | StopWorker
    | EndWorker
    | CapReached
    | PoolBroken
)
