"""list_…, get_… and summarize_…: see `pyray.util.state`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from pyray.util.state import tell
from pyray.util.state.common import (
    ActorState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    StateSchema,
    StoreState,
    TaskState,
    WorkerState,
    make_filter,
)

LIMIT = 100
TIMEOUT = 30

Filters = Iterable[tuple[str, str, Any]] | None
_S = TypeVar("_S", bound=StateSchema)


def _list(
    find: Callable[[], Iterator[_S]], cls: type[_S], what: str, filters: Filters, limit: int
) -> list[_S]:
    passes = make_filter(filters, cls, what)
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"{what}: limit is a whole number, not {limit!r}")
    if limit < 1:
        raise ValueError(f"{what}: limit is 1 or more, not {limit}")
    found = list(islice(filter(passes, find()), limit + 1))
    if len(found) > limit:
        del found[limit:]
        logging.getLogger("pyray").warning(
            "%s: there are more than %d; pass a larger limit to see them", what, limit
        )
    return found


def _one(find: Callable[[], Iterator[_S]], key: str, value: Any, what: str) -> list[_S]:
    if not isinstance(value, (str, int)) or isinstance(value, bool) or not value:
        raise TypeError(f"{what}: takes an id, in hexadecimal digits, not {value!r}")
    return [record for record in find() if getattr(record, key) == value]


def list_tasks(
    address: str | None = None,
    filters: Filters = None,
    limit: int = LIMIT,
    timeout: int = TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[TaskState]:
    """Tasks: those that have not ended, then the last that have, latest first.

    Parameters
    ----------
    address, timeout, raise_on_missing_output
        As in Ray, where they are about a service that is asked; without effect.
    filters : list of tuple, optional
        Triples of a field's name, ``"="`` or ``"!="``, and its value, also as text; a record is
        listed if all of them hold.
    limit : int, default 100
        Most records to list; a line in the log says if there are more.
    detail : bool, default False
        Without effect: every field is filled that is known.

    Returns
    -------
    list of TaskState
        One for each attempt. Their fields are attributes and items. ``state`` is
        ``PENDING_ARGS_AVAIL``, ``PENDING_NODE_ASSIGNMENT``, ``SUBMITTED_TO_WORKER``,
        ``PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY`` (taken by its actor, but not begun),
        ``RUNNING``, ``FINISHED`` or ``FAILED``.

    Raises
    ------
    TypeError, ValueError
        A bad filter or limit.

    Examples
    --------
    >>> import pyray as ray
    >>> from pyray.util.state import list_tasks
    >>> @ray.remote
    ... def f():
    ...     pass
    >>> ref = f.remote()
    >>> ray.get(ref)
    >>> [t.state for t in list_tasks(filters=[("task_id", "=", ref.task_id())])]
    ['FINISHED']
    """
    return _list(tell.tasks, TaskState, "list_tasks", filters, limit)


def list_actors(
    address: str | None = None,
    filters: Filters = None,
    limit: int = LIMIT,
    timeout: int = TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[ActorState]:
    """Actors, the last that have died included; parameters as in `list_tasks`.

    ``state`` is ``DEPENDENCIES_UNREADY``, ``PENDING_CREATION``, ``ALIVE``, ``RESTARTING`` or
    ``DEAD``.

    Examples
    --------
    >>> from pyray.util.state import list_actors
    >>> list_actors(filters=[("class_name", "=", "Nobody")])
    []
    """
    return _list(tell.actors, ActorState, "list_actors", filters, limit)


def list_objects(
    address: str | None = None,
    filters: Filters = None,
    limit: int = LIMIT,
    timeout: int = TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[ObjectState]:
    """Objects, once for each process that holds one; parameters as in `list_tasks`.

    ``reference_type`` says what the process holds it for: ``ACTOR_HANDLE``,
    ``USED_BY_PENDING_TASK`` (an argument of a task that it submitted), ``CAPTURED_IN_OBJECT`` (its
    id is in a value), else ``LOCAL_REFERENCE``.

    Examples
    --------
    >>> import pyray as ray
    >>> from pyray.util.state import list_objects
    >>> ref = ray.put(b"x" * 5000)
    >>> [o.reference_type for o in list_objects(filters=[("object_id", "=", ref.hex())])]
    ['LOCAL_REFERENCE']
    """
    return _list(tell.objects, ObjectState, "list_objects", filters, limit)


def list_workers(
    address: str | None = None,
    filters: Filters = None,
    limit: int = LIMIT,
    timeout: int = TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[WorkerState]:
    """The driver and the workers, the last that have ended included; parameters as in `list_tasks`.

    Examples
    --------
    >>> from pyray.util.state import list_workers
    >>> [w.is_alive for w in list_workers(filters=[("worker_type", "=", "DRIVER")])]
    [True]
    """
    return _list(tell.workers, WorkerState, "list_workers", filters, limit)


def list_nodes(
    address: str | None = None,
    filters: Filters = None,
    limit: int = LIMIT,
    timeout: int = TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[NodeState]:
    """This machine; parameters as in `list_tasks`.

    Examples
    --------
    >>> from pyray.util.state import list_nodes
    >>> [node.state for node in list_nodes()]
    ['ALIVE']
    """
    return _list(tell.nodes, NodeState, "list_nodes", filters, limit)


def list_jobs(
    address: str | None = None,
    filters: Filters = None,
    limit: int = LIMIT,
    timeout: int = TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[JobState]:
    """The session; parameters as in `list_tasks`.

    Examples
    --------
    >>> from pyray.util.state import list_jobs
    >>> [job.status for job in list_jobs()]
    ['RUNNING']
    """
    return _list(tell.jobs, JobState, "list_jobs", filters, limit)


def list_placement_groups(
    address: str | None = None,
    filters: Filters = None,
    limit: int = LIMIT,
    timeout: int = TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> list[PlacementGroupState]:
    """Placement groups, the last that were removed included; parameters as in `list_tasks`.

    ``state`` is ``PENDING``, ``CREATED`` or ``REMOVED``; `bundles` has their amounts.

    Examples
    --------
    >>> import pyray as ray
    >>> from pyray.util.state import list_placement_groups
    >>> group = ray.util.placement_group([{"CPU": 1}], name="mine")
    >>> [(g.name, g.bundles[0]["unit_resources"]) for g in list_placement_groups()]
    [('mine', {'CPU': 1.0})]
    >>> ray.util.remove_placement_group(group)
    """
    return _list(tell.groups, PlacementGroupState, "list_placement_groups", filters, limit)


# ---- one ---------------------------------------------------------------------------------------


def get_task(
    id: str, address: str | None = None, timeout: int = TIMEOUT
) -> TaskState | list[TaskState] | None:
    """A task by its id: `ObjectRef.task_id` of its results, or the context's `get_task_id`.

    Returns
    -------
    TaskState, list of TaskState, or None
        A list, first attempt first, if it was run more than once; None if it is not known, or not
        any more.

    Examples
    --------
    >>> from pyray.util.state import get_task
    >>> get_task("00" * 20) is None
    True
    """
    records = _one(lambda: tell.tasks(id), "task_id", id, "get_task")
    found = sorted(records, key=lambda t: t.attempt_number)
    if len(found) > 1:
        return found
    return found[0] if found else None


def get_actor(id: str, address: str | None = None, timeout: int = TIMEOUT) -> ActorState | None:
    """An actor by its id, or None."""
    return next(iter(_one(tell.actors, "actor_id", id, "get_actor")), None)


def get_objects(id: str, address: str | None = None, timeout: int = TIMEOUT) -> list[ObjectState]:
    """An object by its id, once for each process that holds it."""
    return _one(tell.objects, "object_id", id, "get_objects")


def get_object(id: str, address: str | None = None, timeout: int = TIMEOUT) -> ObjectState | None:
    """The first of `get_objects`, or None."""
    return next(iter(_one(tell.objects, "object_id", id, "get_object")), None)


def get_worker(id: str, address: str | None = None, timeout: int = TIMEOUT) -> WorkerState | None:
    """A worker by its id, or None."""
    return next(iter(_one(tell.workers, "worker_id", id, "get_worker")), None)


def get_node(id: str, address: str | None = None, timeout: int = TIMEOUT) -> NodeState | None:
    """The machine by its id, or None."""
    return next(iter(_one(tell.nodes, "node_id", id, "get_node")), None)


def get_job(id: str, address: str | None = None, timeout: int = TIMEOUT) -> JobState | None:
    """The session by its job id, or None."""
    return next(iter(_one(tell.jobs, "job_id", id, "get_job")), None)


def get_placement_group(
    id: str, address: str | None = None, timeout: int = TIMEOUT
) -> PlacementGroupState | None:
    """A placement group by its id, or None."""
    key = "placement_group_id"
    return next(iter(_one(tell.groups, key, id, "get_placement_group")), None)


def get_store() -> StoreState:
    """What the object store holds, in memory and on disk, and how much it has spilled so far.

    Not in Ray, where ``ray memory`` prints something of the sort.

    Returns
    -------
    StoreState

    Examples
    --------
    >>> import pyray as ray
    >>> from pyray.util.state import get_store
    >>> found = get_store()
    >>> found.memory_used <= found.memory_total
    True
    """
    return tell.store()


# ---- summaries ---------------------------------------------------------------------------------


def summarize_tasks(
    address: str | None = None,
    timeout: int = TIMEOUT,
    raise_on_missing_output: bool = True,
) -> dict[str, Any]:
    """How many attempts at tasks there are, by name and state.

    Returns
    -------
    dict
        ``["cluster"]["summary"][name]`` has ``func_or_class_name``, ``type`` and ``state_counts``;
        ``["cluster"]`` also has ``total_tasks``, ``total_actor_tasks`` and
        ``total_actor_scheduled``.

    Examples
    --------
    >>> from pyray.util.state import summarize_tasks
    >>> summarize_tasks()["cluster"]["summary_by"]
    'func_name'
    """
    summary: dict[str, dict[str, Any]] = {}
    kinds: Counter[str] = Counter()
    for task in tell.tasks():
        kinds[task.type] += 1
        entry = summary.setdefault(
            task.func_or_class_name,
            {
                "func_or_class_name": task.func_or_class_name,
                "type": task.type,
                "state_counts": {},
            },
        )
        counts = entry["state_counts"]
        counts[task.state] = counts.get(task.state, 0) + 1
    return {
        "cluster": {
            "summary": summary,
            "total_tasks": kinds["NORMAL_TASK"],
            "total_actor_tasks": kinds["ACTOR_TASK"],
            "total_actor_scheduled": kinds["ACTOR_CREATION_TASK"],
            "summary_by": "func_name",
        }
    }


def summarize_actors(
    address: str | None = None,
    timeout: int = TIMEOUT,
    raise_on_missing_output: bool = True,
) -> dict[str, Any]:
    """How many actors there are, by class and state.

    Returns
    -------
    dict
        ``["cluster"]["summary"][class_name]`` has ``class_name`` and ``state_counts``;
        ``["cluster"]`` also has ``total_actors``.

    Examples
    --------
    >>> from pyray.util.state import summarize_actors
    >>> summarize_actors()["cluster"]["summary_by"]
    'class'
    """
    summary: dict[str, dict[str, Any]] = {}
    total = 0
    for actor in tell.actors():
        total += 1
        entry = summary.setdefault(
            actor.class_name, {"class_name": actor.class_name, "state_counts": {}}
        )
        counts = entry["state_counts"]
        counts[actor.state] = counts.get(actor.state, 0) + 1
    return {"cluster": {"summary": summary, "total_actors": total, "summary_by": "class"}}


def summarize_objects(
    address: str | None = None,
    timeout: int = TIMEOUT,
    raise_on_missing_output: bool = True,
) -> dict[str, Any]:
    """How many objects there are and what they take, in all: call sites are not recorded.

    Returns
    -------
    dict
        ``["cluster"]["summary"]["disabled"]`` has ``total_objects``, ``total_size_mb`` (10**6
        bytes), ``total_num_workers``, ``total_num_nodes``, ``task_state_counts`` and
        ``ref_type_counts``; ``["cluster"]`` has the totals once more.

    Examples
    --------
    >>> from pyray.util.state import summarize_objects
    >>> summarize_objects()["cluster"]["callsite_enabled"]
    False
    """
    sizes: dict[str, int] = {}
    states: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    pids = set()
    for record in tell.objects():
        if record.object_id not in sizes:
            states[record.task_status] += 1
        sizes[record.object_id] = record.object_size
        kinds[record.reference_type] += 1
        pids.add(record.pid)
    total = {"total_objects": len(sizes), "total_size_mb": sum(sizes.values()) / 1e6}
    entry = {
        **total,
        "total_num_workers": len(pids),
        "total_num_nodes": 1 if sizes else 0,
        "task_state_counts": dict(states),
        "ref_type_counts": dict(kinds),
    }
    return {
        "cluster": {
            "summary": {"disabled": entry} if sizes else {},
            **total,
            "callsite_enabled": False,
            "summary_by": "callsite",
        }
    }
