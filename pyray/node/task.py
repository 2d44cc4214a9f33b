"""What the scheduler knows of one task."""

from __future__ import annotations

from pyray.node.resources import Allocation, Entry, ShapeQueue

# A task's states. It is known from its submission until it has finished or is lost.
QUEUED, GIVEN, RUNNING, BLOCKED, RESUMING = range(5)
STATES = ("queued", "given out", "running", "blocked", "waiting to go on")


class Task:
    """One task, from its submission on."""

    __slots__ = ("allocation", "entry", "opener", "shape", "state", "worker")

    def __init__(self, shape: ShapeQueue, entry: Entry) -> None:
        self.shape = shape
        self.entry = entry
        self.state = QUEUED
        self.worker: int | None = None
        self.allocation: Allocation | None = None  # from the state "given out" on
        self.opener = False  # see TokenAccount.take
