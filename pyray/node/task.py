"""What the scheduler knows of one task."""

from __future__ import annotations

from pyray.node.resources import Allocation, Entry, ShapeQueue

# A task's states. It is known from its submission until it has finished or is lost. A placement
# group is a task, too: it is queued, and then reserved until it is removed.
QUEUED, GIVEN, RUNNING, BLOCKED, RESUMING, RESERVED = range(6)
STATES = ("queued", "given out", "running", "blocked", "waiting to go on", "reserved")
# Those in which it has its CPUs, or a place among those without.
WITH_CPUS = (GIVEN, RUNNING, RESERVED)


class Task:
    """One task, from its submission on."""

    __slots__ = ("allocation", "bare", "entry", "opener", "shape", "state", "worker")

    def __init__(self, shape: ShapeQueue, entry: Entry) -> None:
        self.shape = shape
        self.entry = entry
        self.state = QUEUED
        self.worker: int | None = None
        self.allocation: Allocation | None = None  # from the state "given out" on
        self.opener = False  # see TokenAccount.take
        self.bare = False  # it runs without its CPUs, which others have for good
