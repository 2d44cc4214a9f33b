"""What is built on the public interface: pools of actors, queues, iterators, helpers.

Each of them lives in a module of its own and uses ``pyray`` as any script would.  A name that is to
be had as ``ray.util.NAME`` needs one line below; modules that are heavier (`queue` needs asyncio,
`multiprocessing` the standard library's module of that name) are imported when first asked for.
"""

from __future__ import annotations

from typing import Any

from pyray.actor import list_named_actors
from pyray.serialization import deregister_serializer, register_serializer
from pyray.util.actor_pool import ActorPool
from pyray.util.check_serialize import inspect_serializability
from pyray.util.helpers import as_completed, map_unordered

# The module of this name is to be had by ``from pyray.util.placement_group import ...``; as an
# attribute of this package the name is the function's, as in Ray.
from pyray.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "get_current_placement_group",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]


def __getattr__(name: str) -> Any:
    """Import a module of this package when it is asked for: ``ray.util.queue.Queue``."""
    import importlib

    if not name.startswith("_"):
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
