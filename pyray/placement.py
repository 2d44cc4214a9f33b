"""Placement groups: making, awaiting, finding and removing them, and what runs in one.

See ``docs/resources.md``. The public names are in `pyray.util.placement_group`; what reserves is
in the node: `pyray.node.groups`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import NoneType

from pyray import identity, session
from pyray._core import actors, shm, store, tasks, waiting
from pyray._core.annotations import Any
from pyray._core.store import ObjectID
from pyray.exceptions import (
    ForeignObjectError,
    InfeasibleResourcesError,
    TaskPlacementGroupRemoved,
)
from pyray.frozen import Frozen
from pyray.options import check_amount
from pyray.scheduling import (
    ID_BYTES,
    GroupHandle,
    NodeAffinitySchedulingStrategy,
    PlacementGroupID,
    PlacementGroupSchedulingStrategy,
    check_bundle_index,
)

__all__ = [
    "Place",
    "PlacementGroup",
    "counted",
    "get_current_placement_group",
    "get_placement_group",
    "place_of",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
# Counted by the object store itself, not among the resources that tasks take.
_UNCOUNTED = "object_store_memory"

# Groups by their numbers at the node, as this process has come to know them.
_by_number: dict[int, PlacementGroup] = {}
_epoch = -1
# In local_mode: what the node would know.
_local: dict[str, dict[str, Any]] = {}
_GONE = {"state": "REMOVED"}


class Place(Frozen):
    """Where in a placement group something is to run."""

    group: str
    bundle: int
    captures: bool


class PlacementGroup(GroupHandle):
    """A handle of a placement group; made by :func:`pyray.util.placement_group`.

    Can be passed to tasks and actors. It does not keep the group alive: that lasts until it is
    removed, its creator dies, or the session ends.

    Attributes
    ----------
    id : PlacementGroupID
    """

    _ready: tuple[int, ObjectID[Any]] | None = None

    @staticmethod
    def empty() -> PlacementGroup:
        """A handle that stands for no group."""
        return PlacementGroup(PlacementGroupID.nil(), [])

    def ready(self) -> ObjectID[PlacementGroup]:
        """An ObjectID that is ready when the group is reserved; its value is the group.

        Raises
        ------
        TaskPlacementGroupRemoved
            From ``get``: the group has been removed, or is before it could be reserved.
        """
        current = _session_of(self)
        known = self._ready
        if known is not None and known[0] == shm.epoch() and not store.is_ready(known[1]):
            return known[1]
        found: ObjectID[PlacementGroup]
        if not current.local_mode:
            found = current.call("group_ready", self.id.hex(), shm.self_slot())
        elif _local.get(self.id.hex(), _GONE)["state"] == "REMOVED":
            found = tasks.put_result(_removed(self), True)
        else:
            found = tasks.put(self)
        self._ready = shm.epoch(), found
        return found

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Wait until the group is reserved; whether it is.

        Parameters
        ----------
        timeout_seconds : float
            After which it returns False.

        Raises
        ------
        TaskPlacementGroupRemoved
            The group has been removed.
        """
        ref = self.ready()
        found, _ = waiting.wait([ref], num_returns=1, timeout=timeout_seconds)
        if found:
            waiting.get(ref)
        return bool(found)

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The bundles: amounts by resource."""
        if self.bundle_cache is None:
            table = placement_group_table(self)
            bundles = table.get("bundles", {})
            self.bundle_cache = [dict(bundles[i]) for i in sorted(bundles)]
        return [dict(bundle) for bundle in self.bundle_cache]

    @property
    def bundle_count(self) -> int:
        """How many bundles there are."""
        return len(self.bundle_specs)

    def __repr__(self) -> str:
        if self.is_empty:
            return "PlacementGroup(none)"
        bundles = "" if self.bundle_cache is None else f", {self.bundle_cache}"
        return f"PlacementGroup({self.id.hex()}{bundles})"

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.id, self.bundle_cache)


def _removed(group: GroupHandle) -> TaskPlacementGroupRemoved:
    return TaskPlacementGroupRemoved(f"placement group {group.id.hex()} has been removed")


def _session_of(group: Any) -> Any:
    """This process's session, if the group is of it."""
    if not isinstance(group, GroupHandle):
        raise TypeError(f"a PlacementGroup is needed, not {group!r}")
    if group.is_empty:
        raise ValueError("PlacementGroup.empty() stands for no group")
    current = session.require()
    if group.id.binary()[-4:].hex() != identity.job_id():
        raise ForeignObjectError(
            f"placement group {group.id.hex()} is of another session, and ended with it"
        )
    return current


# ---- making and removing -----------------------------------------------------------------------


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: str = "PACK",
    name: str | None = "",
    lifetime: str | None = None,
    _max_cpu_fraction_per_node: float = 1.0,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
) -> PlacementGroup:
    """Reserve resources together, in bundles, for tasks and actors that are to run in them.

    Returns at once; the group is reserved when all of it is free at a time. Meanwhile tasks in it
    wait.

    Parameters
    ----------
    bundles : list of dict
        Amounts by resource of each bundle: ``[{"CPU": 1}, {"CPU": 1, "GPU": 0.5}]``.
    strategy : str
        ``"PACK"``, ``"SPREAD"`` and ``"STRICT_PACK"`` are the same on one machine;
        ``"STRICT_SPREAD"`` is for one bundle only, since no two can be on different machines.
    name : str, optional
        For :func:`get_placement_group`.
    lifetime : str, optional
        ``"detached"``: until it is removed, or the session ends. None: one that an actor makes ends
        with the actor's process, too; one that a task makes if the task's process dies under it.
    _max_cpu_fraction_per_node, _soft_target_node_id, bundle_label_selector
        Accepted, without effect.

    Returns
    -------
    PlacementGroup

    Raises
    ------
    TypeError, ValueError
        Bundles, or something else, that make no sense; or there is a group of that name.
    InfeasibleResourcesError
        The bundles ask for more than the session has in all, or for different machines.

    Examples
    --------
    >>> import pyray as ray
    >>> group = ray.util.placement_group([{"CPU": 1}])
    >>> group.wait(10), group.bundle_count
    (True, 1)
    >>> @ray.remote
    ... def double(x):
    ...     return 2 * x
    >>> strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, 0)
    >>> ray.get(double.options(scheduling_strategy=strategy).remote(4))
    8
    >>> ray.util.remove_placement_group(group)
    """
    wanted = _check_bundles(bundles)
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is one of {', '.join(STRATEGIES)}, not {strategy!r}")
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime is 'detached' or None, not {lifetime!r}")
    if not isinstance(name, (str, NoneType)):
        raise TypeError(f"a placement group's name is a string, not {name!r}")
    if strategy == "STRICT_SPREAD" and len(wanted) > 1:
        raise InfeasibleResourcesError(
            f"a STRICT_SPREAD placement group of {len(wanted)} bundles needs as many machines, and "
            "there is one: use SPREAD"
        )
    current = session.require()
    id = PlacementGroupID(os.urandom(ID_BYTES - 4) + bytes.fromhex(identity.job_id()))
    spec = {
        "id": id.hex(),
        "bundles": wanted,
        "strategy": strategy,
        "name": name or "",
        "detached": lifetime == "detached",
        # Who dies with it: an actor's process, by its slot, or a task.
        "slot": shm.self_slot() if identity.actor_here() is not None else 0,
        "creator": tasks.current_task_id(),
        "depth": actors.depth() + 1,
    }
    if current.local_mode:
        _create_locally(spec, current)
    else:
        current.call("create_group", spec)
    return PlacementGroup(id, wanted)


def _check_bundles(bundles: Any) -> list[dict[str, float]]:
    example = 'a list of dicts such as [{"CPU": 1}, {"CPU": 1, "GPU": 1}]'
    if not isinstance(bundles, (list, tuple)) or not bundles:
        raise ValueError(f"bundles is {example}, not {bundles!r}")
    found = []
    for i, bundle in enumerate(bundles):
        if not isinstance(bundle, Mapping):
            raise ValueError(f"bundles is {example}; bundle {i} is {bundle!r}")
        for name, amount in bundle.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"bundle {i}: a resource's name is a string, not {name!r}")
            check_amount(amount, name, f"bundle {i}")
            if name == "GPU" and amount > 1 and amount % 1:
                raise ValueError(f"bundle {i}: GPU above 1 is a whole number, not {amount!r}")
        if not any(bundle.values()):
            raise ValueError(f"bundle {i} asks for nothing: {bundle!r}")
        found.append(dict(bundle))
    return found


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Remove a placement group: its actors and running tasks are killed, and its resources free.

    Returns at once. Tasks that were to run in it, and tasks and actors that run, raise
    TaskPlacementGroupRemoved or ActorPlacementGroupRemoved. Removing it again does nothing.

    Parameters
    ----------
    placement_group : PlacementGroup

    Examples
    --------
    >>> import pyray as ray
    >>> group = ray.util.placement_group([{"CPU": 1}])
    >>> ray.util.remove_placement_group(group)
    >>> ray.util.placement_group_table(group)["state"]
    'REMOVED'
    """
    current = _session_of(placement_group)
    placement_group._ready = None
    if current.local_mode:
        if found := _local.get(placement_group.id.hex()):
            found["state"] = "REMOVED"
    else:
        current.call("remove_group", placement_group.id.hex())


# ---- finding -----------------------------------------------------------------------------------


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What there is to know of a placement group, or of all of them by id.

    Parameters
    ----------
    placement_group : PlacementGroup, optional

    Returns
    -------
    dict
        ``placement_group_id``, ``name``, ``bundles`` and ``bundles_to_node_id`` (both by index),
        ``strategy``, ``state`` (``"PENDING"``, ``"CREATED"`` or ``"REMOVED"``) and ``stats``, with
        times in milliseconds. Empty for a group that was removed long ago: the last 512 are
        remembered.

    Examples
    --------
    >>> import pyray as ray
    >>> group = ray.util.placement_group([{"CPU": 1}], name="mine")
    >>> table = ray.util.placement_group_table(group)
    >>> table["name"], table["bundles"]
    ('mine', {0: {'CPU': 1}})
    >>> ray.util.remove_placement_group(group)
    """
    if placement_group is None:
        return {told["id"]: table_of(told) for told in told_of_groups()}
    _session_of(placement_group)
    id = placement_group.id.hex()
    tables = [table_of(told) for told in told_of_groups(id) if told["id"] == id]
    return tables[0] if tables else {}


def told_of_groups(id: str | None = None) -> list[dict[str, Any]]:
    """What the node tells of a placement group, or of all: see `pyray.node.groups.Record.told`."""
    current = session.require()
    if current.local_mode:
        return [told for told in _local.values() if told["epoch"] == shm.epoch()]
    found: list[dict[str, Any]] = current.call("group_table", id)
    return found


def table_of(told: dict[str, Any]) -> dict[str, Any]:
    """The same with Ray's keys."""
    created, node = told["state"] == "CREATED", identity.node_id()
    latency = told["waited"] * 1000
    return {
        "placement_group_id": told["id"],
        "name": told["name"],
        "bundles": dict(enumerate(told["bundles"])),
        "bundles_to_node_id": dict.fromkeys(range(len(told["bundles"])), node if created else ""),
        "strategy": told["strategy"],
        "state": told["state"],
        "stats": {
            "end_to_end_creation_latency_ms": latency,
            "scheduling_latency_ms": latency,
            "scheduling_attempt": 1,
            "highest_retry_delay_ms": 0.0,
            "scheduling_state": {"PENDING": "QUEUED", "CREATED": "FINISHED"}.get(
                told["state"], "REMOVED"
            ),
        },
    }


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """A handle of the placement group of this name.

    Parameters
    ----------
    placement_group_name : str

    Raises
    ------
    ValueError
        There is none, or the name is empty.

    Examples
    --------
    >>> import pyray as ray
    >>> group = ray.util.placement_group([{"CPU": 1}], name="workers")
    >>> ray.util.get_placement_group("workers") == group
    True
    >>> ray.util.remove_placement_group(group)
    """
    name: Any = placement_group_name
    if not isinstance(name, str) or not name:
        raise ValueError(f"a placement group's name is a string that is not empty, not {name!r}")
    current = session.require()
    if current.local_mode:
        found = next((told for told in _local.values() if told["name"] == name), None)
    else:
        found = current.call("named_group", name)
    if found is None or found["state"] == "REMOVED":
        raise ValueError(f"there is no placement group named {name!r}; it may have been removed")
    return PlacementGroup(PlacementGroupID.from_hex(found["id"]), found["bundles"])


def get_current_placement_group() -> PlacementGroup | None:
    """The placement group that the task or actor that calls this runs in; None if in none.

    Examples
    --------
    >>> import pyray as ray
    >>> ray.util.get_current_placement_group() is None
    True
    """
    session.require()
    number = tasks.group()
    return _group_by_number(number) if number else None


def _group_by_number(number: int) -> PlacementGroup:
    global _epoch
    if _epoch != shm.epoch():
        _by_number.clear()
        _epoch = shm.epoch()
    found = _by_number.get(number)
    if found is None:
        told = session.require().call("numbered_group", number)
        found = PlacementGroup(PlacementGroupID.from_hex(told["id"]), told["bundles"])
        _by_number[number] = found
        if len(_by_number) > 100:
            del _by_number[next(iter(_by_number))]
    return found


# ---- running in one ----------------------------------------------------------------------------


def place_of(options: Mapping[str, Any], name: str) -> Place | None:
    """Where what has these options is to run: in a placement group, or anywhere.

    Parameters
    ----------
    options : mapping
        With ``scheduling_strategy``.
    name : str
        Whose they are, for errors.

    Raises
    ------
    InfeasibleResourcesError
        It is to run on another machine.
    ForeignObjectError
        Its placement group is of another session.
    ValueError
        There is no such bundle.
    """
    strategy = options["scheduling_strategy"]
    captor = tasks.captor()
    if strategy is None:
        return Place(_group_by_number(captor).id.hex(), -1, True) if captor else None
    if isinstance(strategy, NodeAffinitySchedulingStrategy):
        here = identity.node_id()
        if strategy.node_id != here and not strategy.soft:
            raise InfeasibleResourcesError(
                f"{name} is to run on node {strategy.node_id!r}, and this is the only one: {here}; "
                "soft=True runs it here"
            )
        return None
    if not isinstance(strategy, PlacementGroupSchedulingStrategy):
        return None
    group, index = strategy.placement_group, strategy.placement_group_bundle_index
    if group is None or group.is_empty:
        return None
    _session_of(group)
    if group.bundle_cache is None and isinstance(group, PlacementGroup):
        group.bundle_specs  # noqa: B018  (asks for them)
    check_bundle_index(group, index, name)
    captures = strategy.placement_group_capture_child_tasks
    return Place(group.id.hex(), index, bool(captor) if captures is None else captures)


# ---- local_mode --------------------------------------------------------------------------------


def _create_locally(spec: dict[str, Any], current: Any) -> None:
    """In local_mode tasks run one at a time, so every group is there at once."""
    for id in [id for id, told in _local.items() if told["epoch"] != shm.epoch()]:
        del _local[id]
    taken = {told["name"] for told in _local.values() if told["state"] != "REMOVED"}
    if spec["name"] in taken - {""}:
        raise ValueError(f"there is a placement group named {spec['name']!r} already")
    current.shape(sum_of(spec["bundles"]), "the placement group")
    _local[spec["id"]] = {**spec, "state": "CREATED", "waited": 0.0, "epoch": shm.epoch()}


def sum_of(bundles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the bundles ask for together."""
    amounts: dict[str, float] = {}
    for bundle in bundles:
        for name, n in counted(bundle).items():
            amounts[name] = amounts.get(name, 0) + n
    return amounts


def counted(amounts: Mapping[str, float]) -> dict[str, float]:
    """What of a bundle the scheduler counts."""
    return {name: n for name, n in amounts.items() if name != _UNCOUNTED}
