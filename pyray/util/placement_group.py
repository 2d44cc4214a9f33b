"""Placement groups under the names that Ray has for them; see `pyray.placement`."""

from __future__ import annotations

from pyray.placement import (
    STRATEGIES,
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from pyray.scheduling import GroupHandle, PlacementGroupSchedulingStrategy, check_bundle_index

__all__ = [
    "VALID_PLACEMENT_GROUP_STRATEGIES",
    "PlacementGroup",
    "PlacementGroupSchedulingStrategy",
    "check_placement_group_index",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

VALID_PLACEMENT_GROUP_STRATEGIES = set(STRATEGIES)


def check_placement_group_index(placement_group: GroupHandle, bundle_index: int) -> None:
    """Raise unless the group has this bundle; -1 is any.

    Raises
    ------
    TypeError, ValueError
        It has not.
    """
    check_bundle_index(placement_group, bundle_index, "check_placement_group_index")
