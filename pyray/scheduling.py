"""Where a task or an actor is to run: what ``scheduling_strategy`` may be.

There is one machine, so of Ray's strategies only placement groups make a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyray._core.annotations import Any

__all__ = [
    "OLD_OPTIONS",
    "DoesNotExist",
    "Exists",
    "GroupHandle",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupID",
    "PlacementGroupSchedulingStrategy",
    "check_bundle_index",
    "check_strategy",
    "old_options",
]

ID_BYTES = 18


class PlacementGroupID:
    """The id of a placement group: 14 bytes of its own, and the session's job id.

    Parameters
    ----------
    binary : bytes
        18 bytes.
    """

    __slots__ = ("_binary",)

    def __init__(self, binary: Any) -> None:
        if not isinstance(binary, bytes) or len(binary) != ID_BYTES:
            raise ValueError(f"a placement group's id has {ID_BYTES} bytes, unlike {binary!r}")
        self._binary = binary

    @classmethod
    def from_hex(cls, text: str) -> PlacementGroupID:
        """The id of which `hex` gave this."""
        return cls(bytes.fromhex(text))

    @classmethod
    def nil(cls) -> PlacementGroupID:
        """The id that no group has."""
        return cls(b"\xff" * ID_BYTES)

    def binary(self) -> bytes:
        """Its 18 bytes."""
        return self._binary

    def hex(self) -> str:
        """The same in 36 hexadecimal digits."""
        return self._binary.hex()

    def is_nil(self) -> bool:
        """Whether it is the id that no group has."""
        return self._binary == b"\xff" * ID_BYTES

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroupID) and self._binary == other._binary

    def __hash__(self) -> int:
        return hash(self._binary)

    def __repr__(self) -> str:
        return f"PlacementGroupID({self.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroupID, (self._binary,)


class GroupHandle:
    """What is known of a placement group wherever it is named: `pyray.placement.PlacementGroup`.

    Parameters
    ----------
    id : PlacementGroupID
    bundle_cache : list of dict, optional
        Its bundles; without them they are asked for when they are needed.
    """

    def __init__(
        self, id: PlacementGroupID, bundle_cache: Sequence[Mapping[str, float]] | None = None
    ) -> None:
        if not isinstance(id, PlacementGroupID):
            raise TypeError(f"a placement group's id is a PlacementGroupID, not {id!r}")
        self.id = id
        self.bundle_cache = None if bundle_cache is None else [dict(b) for b in bundle_cache]

    @property
    def is_empty(self) -> bool:
        """Whether it stands for no group."""
        return self.id.is_nil()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupHandle) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


class PlacementGroupSchedulingStrategy:
    """Run in a placement group.

    Parameters
    ----------
    placement_group : PlacementGroup or None
        None: in none, even if the task that submits runs in one and captures its children.
    placement_group_bundle_index : int, default -1
        Which bundle; -1: any that has room.
    placement_group_capture_child_tasks : bool, optional
        Whether tasks and actors that it submits run in the same group, if they say nothing else;
        default: as in the task that submits it.

    Examples
    --------
    >>> import pyray as ray
    >>> from pyray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
    >>> @ray.remote
    ... def f():
    ...     return ray.util.get_current_placement_group() is not None
    >>> group = ray.util.placement_group([{"CPU": 1}])
    >>> strategy = PlacementGroupSchedulingStrategy(group)
    >>> ray.get(f.options(scheduling_strategy=strategy).remote())
    True
    >>> ray.util.remove_placement_group(group)
    """

    def __init__(
        self,
        placement_group: GroupHandle | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def __repr__(self) -> str:
        return (
            f"PlacementGroupSchedulingStrategy({self.placement_group!r}, "
            f"{self.placement_group_bundle_index}, {self.placement_group_capture_child_tasks})"
        )


class NodeAffinitySchedulingStrategy:
    """Run on a certain machine; there is one.

    Parameters
    ----------
    node_id : str
        Its id, as ``ray.nodes()`` and the runtime context tell it.
    soft : bool
        Whether to run here if it is another machine's; else that is an error at the call.
    """

    def __init__(
        self,
        node_id: Any,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        if not isinstance(node_id, str) and hasattr(node_id, "hex"):
            node_id = node_id.hex()
        self.node_id: str = node_id
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"


class _Values:
    """What a label is compared with."""

    def __init__(self, *values: str) -> None:
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"a label's value is a string, not {value!r}")
        self.values = list(values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class In(_Values):
    """The label has one of these values."""


class NotIn(_Values):
    """The label has none of these values."""


class Exists:
    """The machine has the label."""


class DoesNotExist:
    """The machine has no such label."""


class NodeLabelSchedulingStrategy:
    """Run on a machine with certain labels: accepted, without effect.

    Parameters
    ----------
    hard, soft : dict of str to In, NotIn, Exists or DoesNotExist
        What its labels must be, and should be.
    """

    def __init__(self, hard: Mapping[str, Any], *, soft: Mapping[str, Any] | None = None) -> None:
        for what, labels in (("hard", hard), ("soft", soft or {})):
            if not isinstance(labels, Mapping):
                raise ValueError(f"{what} is a dict of label to condition, not {labels!r}")
            for label, condition in labels.items():
                if not isinstance(label, str):
                    raise ValueError(f"{what}: a label is a string, not {label!r}")
                if not isinstance(condition, (In, NotIn, Exists, DoesNotExist)):
                    raise ValueError(
                        f"{what}[{label!r}] is In, NotIn, Exists or DoesNotExist, not {condition!r}"
                    )
        if not hard and not soft:
            raise ValueError("NodeLabelSchedulingStrategy needs a label in hard or in soft")
        self.hard = dict(hard)
        self.soft = dict(soft or {})


def check_bundle_index(group: GroupHandle | None, index: Any, what: str) -> None:
    """Raise unless there is such a bundle, as far as that is known here.

    Raises
    ------
    TypeError
        It is no number.
    ValueError
        There is none.
    """
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"{what}: placement_group_bundle_index is a whole number, not {index!r}")
    if group is None or group.is_empty:
        if index != -1:
            raise ValueError(f"{what}: placement_group_bundle_index is {index} without a group")
        return
    count = None if group.bundle_cache is None else len(group.bundle_cache)
    if index < -1 or (count is not None and index >= count):
        most = "" if count is None else f" to {count - 1}"
        raise ValueError(
            f"{what}: the placement group has no bundle {index}: they are 0{most}, and -1 is any"
        )


def check_strategy(value: Any, what: str) -> Any:
    """A value of ``scheduling_strategy``, or an error that says what is wrong with it.

    Raises
    ------
    TypeError, ValueError
        It is none.
    """
    if isinstance(value, str):
        if value not in ("DEFAULT", "SPREAD"):
            raise ValueError(f"{what}: scheduling_strategy is 'DEFAULT' or 'SPREAD', not {value!r}")
    elif isinstance(value, PlacementGroupSchedulingStrategy):
        group = value.placement_group
        if group is not None and not isinstance(group, GroupHandle):
            raise TypeError(f"{what}: placement_group is a PlacementGroup or None, not {group!r}")
        check_bundle_index(group, value.placement_group_bundle_index, what)
        captures = value.placement_group_capture_child_tasks
        if captures is not None and not isinstance(captures, bool):
            raise TypeError(
                f"{what}: placement_group_capture_child_tasks is True, False or None, not "
                f"{captures!r}"
            )
    elif isinstance(value, NodeAffinitySchedulingStrategy):
        if not isinstance(value.node_id, str):
            raise TypeError(f"{what}: a node's id is a string, not {value.node_id!r}")
        if not isinstance(value.soft, bool):
            raise TypeError(f"{what}: soft is True or False, not {value.soft!r}")
    elif value is not None and not isinstance(value, NodeLabelSchedulingStrategy):
        raise TypeError(
            f"{what}: scheduling_strategy is 'DEFAULT', 'SPREAD', or one of those in "
            f"pyray.util.scheduling_strategies, not {value!r}"
        )
    return value


def old_options(given: Mapping[str, Any], what: str) -> Any:
    """The strategy that ``placement_group`` and the options that went with it stand for.

    Raises
    ------
    TypeError, ValueError
        They make no sense, or ``scheduling_strategy`` is there as well.
    """
    group = given.get("placement_group", "default")
    index = given.get("placement_group_bundle_index", -1)
    captures = given.get("placement_group_capture_child_tasks")
    if isinstance(group, str) and group == "default":
        check_bundle_index(None, index, what)
        return given.get("scheduling_strategy")
    if given.get("scheduling_strategy") is not None:
        raise ValueError(f"{what}: give scheduling_strategy or placement_group, not both")
    return PlacementGroupSchedulingStrategy(group, index, captures)


#: Older options, which `old_options` understands.
OLD_OPTIONS = (
    "placement_group",
    "placement_group_bundle_index",
    "placement_group_capture_child_tasks",
)
