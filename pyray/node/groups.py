"""The node's book of placement groups: making, naming and removing them.

When one is reserved, and what runs in it, is the scheduler's business.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pyray import tell
from pyray._core import actors as core
from pyray._core.store import ObjectID
from pyray.exceptions import InfeasibleResourcesError, TaskPlacementGroupRemoved
from pyray.node import messages as m
from pyray.node.bundles import Group
from pyray.node.resources import ResourceRequest
from pyray.node.scheduler import Scheduler
from pyray.placement import Place, PlacementGroup, counted
from pyray.scheduling import PlacementGroupID

# Removed groups that are remembered, for those who ask.
REMEMBERED = 512
PENDING, CREATED, REMOVED = "PENDING", "CREATED", "REMOVED"


class Record:
    """What the node knows of one group.

    Attributes
    ----------
    number : int
        The scheduler's number for it.
    spec : dict
        What its creator said.
    asked, waited : float
        When that was, on the monotonic clock, and how long it took to be reserved, in seconds.
    ready : ObjectID or None
        What is sealed when it is reserved, once somebody has asked for it.
    shapes : list of int
        Shapes of tasks in it.
    """

    def __init__(self, number: int, spec: dict[str, Any]) -> None:
        self.number = number
        self.spec = spec
        self.id: str = spec["id"]
        self.bundles = [counted(bundle) for bundle in spec["bundles"]]
        self.state = PENDING
        self.asked = time.monotonic()
        self.waited = 0.0
        self.ready: ObjectID | None = None
        self.shapes: list[int] = []

    @property
    def label(self) -> str:
        """For messages: its name if it was given one, and its id."""
        name = self.spec["name"]
        return f"{name!r} ({self.id})" if name else self.id

    def handle(self) -> PlacementGroup:
        """What users have of it."""
        return PlacementGroup(PlacementGroupID.from_hex(self.id), self.spec["bundles"])

    def told(self) -> dict[str, Any]:
        """In plain values, for those who ask."""
        pending = self.state == PENDING
        return {
            "id": self.id,
            "name": self.spec["name"],
            "bundles": self.spec["bundles"],
            "strategy": self.spec["strategy"],
            "detached": self.spec["detached"],
            "state": self.state,
            "waited": time.monotonic() - self.asked if pending else self.waited,
        }


class Groups:
    """All placement groups of the session.

    Parameters
    ----------
    scheduler : Scheduler
        For questions only.
    feed : callable
        ``feed(event)`` tells the scheduler something.
    forget_shapes : callable
        ``forget_shapes(numbers)``: nobody is to be given these shapes any more.
    config : dict
        The session's.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        feed: Callable[[m.Event], None],
        forget_shapes: Callable[[set[int]], None],
        config: dict[str, Any],
    ) -> None:
        self._scheduler = scheduler
        self._feed = feed
        self._forget_shapes = forget_shapes
        self._config = config
        self.by_id: dict[str, Record] = {}
        self.by_number: dict[int, Record] = {}
        self._by_shape: dict[int, Record] = {}
        self._gone: deque[Record] = deque()
        self._numbers = 0
        self.pending = 0

    # ---- calls -----------------------------------------------------------------------------

    def create(self, spec: dict[str, Any]) -> None:
        """Make a new group."""
        if spec["name"] and self.named(spec["name"]) is not None:
            raise ValueError(
                f"there is a placement group named {spec['name']!r} already; "
                "get_placement_group() finds it, and remove_placement_group() frees the name"
            )
        record = Record(self._numbers + 1, spec)
        request = Group(record.number, record.bundles).request
        if reason := self._scheduler.why_infeasible(request):
            advice = tell.how_to_have(request.as_dict(), self._config)
            raise InfeasibleResourcesError(f"the placement group {reason}; {advice}")
        self._numbers += 1
        self.by_id[record.id] = self.by_number[record.number] = record
        self.pending += 1
        self._feed(m.GroupRequested(record.number, record.bundles, spec["depth"]))

    def ready(self, id: str, slot: int) -> ObjectID:
        """What is ready when the group is, lent to the process in this slot."""
        record = self.by_id.get(id)
        if record is None or record.state == REMOVED:
            ref = core.new_ref()
            self._seal_removed(ref, record)
        else:
            if record.ready is None:
                record.ready = core.new_ref()
                if record.state == CREATED:
                    self._seal(record)
            ref = record.ready
        core.node_lend(ref, slot)
        return ref

    def remove(self, id: str) -> None:
        """Remove a group, and end what runs in it."""
        record = self.by_id.get(id)
        if record is None or record.state == REMOVED:
            return
        if record.state == PENDING:
            self.pending -= 1
            record.waited = time.monotonic() - record.asked
        record.state = REMOVED
        if record.ready is not None:
            self._seal_removed(record.ready, record)
            record.ready = None
        self._gone.append(record)
        if len(self._gone) > REMEMBERED:
            old = self._gone.popleft()
            del self.by_id[old.id], self.by_number[old.number]
            for shape in old.shapes:
                del self._by_shape[shape]
        self._feed(m.GroupRemoved(record.number))
        self._forget_shapes(set(record.shapes))

    def numbered(self, number: int) -> dict[str, Any]:
        """The group of this number."""
        record = self.by_number.get(number)
        if record is None:
            raise TaskPlacementGroupRemoved("this task's placement group has been removed")
        return record.told()

    def table(self, id: str | None) -> list[dict[str, Any]]:
        """What there is to know of a group, or of all."""
        if id is None:
            return [record.told() for record in self.by_id.values()]
        record = self.by_id.get(id)
        return [] if record is None else [record.told()]

    def named(self, name: str) -> dict[str, Any] | None:
        """The group of this name."""
        for record in self.by_id.values():
            if record.spec["name"] == name and record.state != REMOVED:
                return record.told()
        return None

    # ---- what runs in them -----------------------------------------------------------------

    def find(self, place: Place, request: dict[str, float]) -> tuple[Record | None, str | None]:
        """The group of a place, None if it has been removed; and why what is asked does not fit."""
        record = self.by_id.get(place.group)
        if record is None or record.state == REMOVED:
            return record, None
        if place.bundle >= len(record.bundles):
            most = len(record.bundles) - 1
            raise ValueError(f"placement group {record.label} has bundles 0 to {most}")
        asked = ResourceRequest.from_dict(counted(request))
        reason = Group(record.number, record.bundles).why_not(place.bundle, asked)
        return record, reason and f"{reason} (placement group {record.label})"

    def add_shape(self, record: Record | None, shape: int) -> bool:
        """There is a shape of tasks in this group; whether that is to be told the scheduler."""
        if record is None:
            return False  # removed so long ago that it is forgotten
        self._by_shape[shape] = record
        record.shapes.append(shape)
        return record.state != REMOVED

    def of_shapes(self) -> dict[int, str]:
        """Ids of groups by shapes of tasks in them."""
        return {shape: record.id for shape, record in self._by_shape.items()}

    def removed(self, shape: int) -> bool:
        """Whether tasks of this shape were in a group that has been removed."""
        record = self._by_shape.get(shape)
        return record is not None and record.state == REMOVED

    def label_of(self, shape: int) -> str:
        """The group of a shape, for messages."""
        record = self._by_shape.get(shape)
        return "one of long ago" if record is None else record.label

    def error_of(self, shape: int, name: str) -> TaskPlacementGroupRemoved:
        """What a task of this shape raises after its group has been removed."""
        return TaskPlacementGroupRemoved(
            f"task {name} was in placement group {self.label_of(shape)}, which has been removed"
        )

    # ---- what happens ----------------------------------------------------------------------

    def reserved(self, number: int) -> None:
        """The scheduler has reserved a group."""
        record = self.by_number[number]
        self.pending -= 1
        record.state = CREATED
        record.waited = time.monotonic() - record.asked
        if record.ready is not None:
            self._seal(record)

    def creator_ended(self, slot: int, ids: list[bytes]) -> None:
        """An actor is gone, by its slot, or a task died with its process, by its ids."""
        for record in list(self.by_id.values()):
            spec = record.spec
            if not spec["detached"] and (spec["slot"] == slot or spec["creator"] in ids):
                self.remove(record.id)

    def explain(self, ref: ObjectID) -> str:
        """What an object waits for that no task makes."""
        for record in self.by_id.values():
            if record.ready is not None and record.ready == ref and record.state == PENDING:
                why = self._scheduler.why_waiting(-record.number)
                return f"placement group {record.label} is not reserved: {why}"
        return "unknown"

    def _seal(self, record: Record) -> None:
        assert record.ready is not None
        try:
            core.seal_ref(record.ready, record.handle(), False)
        except Exception:
            # The store is full; what fits into the record itself always does.
            core.seal_ref(record.ready, None, False)

    def _seal_removed(self, ref: ObjectID, record: Record | None) -> None:
        label = "" if record is None else f" {record.label}"
        error = TaskPlacementGroupRemoved(f"placement group{label} has been removed")
        try:
            core.seal_ref(ref, error, True)
        except Exception:
            core.seal_ref(ref, "it has been removed", True)
