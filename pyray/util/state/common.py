"""The records that the state API gives out, and filters on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

# Fields whose values are words of Ray's, in which case counts for nothing.
_WORDS = frozenset(
    {"state", "type", "status", "task_status", "reference_type", "worker_type", "error_type"}
)


class StateSchema:
    """A record whose fields are attributes and items: ``task.state``, ``task["state"]``."""

    def __getitem__(self, name: str) -> Any:
        if name not in self.columns():
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self.columns()

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns())

    def __len__(self) -> int:
        return len(self.columns())

    def keys(self) -> list[str]:
        """Names of the fields."""
        return self.columns()

    def get(self, name: str, default: Any = None) -> Any:
        """A field's value, or `default` if there is no such field."""
        return getattr(self, name) if name in self.columns() else default

    def asdict(self) -> dict[str, Any]:
        """The record as a dictionary."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def columns(cls) -> list[str]:
        """Names of the fields."""
        return [field.name for field in fields(cls)]  # type: ignore[arg-type]


@dataclass
class TaskState(StateSchema):
    """One attempt at a task: a function's, a method's call, or an actor's constructor.

    Times are in ms since the epoch; None where they are not known, or have not come. `worker_id`
    and `worker_pid` are of the process that runs or ran it. `required_resources` are known of tasks
    that have not ended.
    """

    task_id: str
    attempt_number: int
    name: str
    state: str
    job_id: str
    actor_id: str | None
    type: str
    func_or_class_name: str
    parent_task_id: str
    node_id: str | None
    worker_id: str | None
    worker_pid: int | None
    error_type: str | None
    language: str = "PYTHON"
    required_resources: dict[str, float] | None = None
    runtime_env_info: dict[str, Any] | None = None
    placement_group_id: str | None = None
    events: list[dict[str, Any]] | None = None
    profiling_data: dict[str, Any] | None = None
    creation_time_ms: int | None = None
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    task_log_info: dict[str, Any] | None = None
    error_message: str | None = None
    is_debugger_paused: bool | None = None
    call_site: str | None = None
    label_selector: dict[str, str] | None = None


@dataclass
class ActorState(StateSchema):
    """An actor; the last 512 that have died are among them."""

    actor_id: str
    class_name: str
    state: str
    job_id: str
    name: str
    node_id: str | None
    pid: int
    ray_namespace: str
    serialized_runtime_env: str | None = None
    required_resources: dict[str, float] | None = None
    death_cause: dict[str, str] | None = None
    is_detached: bool = False
    placement_group_id: str | None = None
    repr_name: str = ""
    num_restarts: int = 0
    num_restarts_due_to_lineage_reconstruction: int = 0
    num_restarts_due_to_node_preemption: int = 0
    call_site: str | None = None
    label_selector: dict[str, str] | None = None


@dataclass
class ObjectState(StateSchema):
    """An object, as one process holds it: there is a record for each process that does.

    `object_size` is in bytes, 0 while the value is not there. `pid` and `type` are the holder's;
    `owner_pid` is that of the process that made the id. `spilled` says whether the value lies on
    disk.
    """

    object_id: str
    object_size: int
    task_status: str
    attempt_number: int
    reference_type: str
    call_site: str
    type: str
    pid: int
    ip: str
    state: str = "SEALED"
    owner_pid: int = 0
    spilled: bool = False


@dataclass
class StoreState(StateSchema):
    """The object store: what it holds in memory, and on disk.

    All figures but `spilled_objects` are bytes, of whole blocks where they say what is used.
    `spilled_objects` and `spilled_bytes` are what has gone from memory to disk since the session
    began, `direct_bytes` what went there at once, since there was no room for it in memory.
    `spill_directory` is None if nothing can be spilled.
    """

    memory_total: int
    memory_used: int
    spill_directory: str | None
    spill_total: int
    spill_used: int
    spilled_objects: int
    spilled_bytes: int
    direct_bytes: int


@dataclass
class WorkerState(StateSchema):
    """A worker process, or the driver; the last 1,000 workers that have ended are among them.

    Times are in ms since the epoch.
    """

    worker_id: str
    is_alive: bool
    worker_type: str
    exit_type: str | None
    node_id: str
    ip: str
    pid: int
    exit_detail: str | None = None
    worker_launch_time_ms: int | None = None
    worker_launched_time_ms: int | None = None
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    debugger_port: int | None = None
    num_paused_threads: int | None = None


@dataclass
class NodeState(StateSchema):
    """The machine."""

    node_id: str
    node_ip: str
    is_head_node: bool
    state: str
    node_name: str
    resources_total: dict[str, float]
    labels: dict[str, str]
    state_message: str | None = None
    start_time_ms: int | None = None
    end_time_ms: int | None = None


@dataclass
class JobState(StateSchema):
    """The session."""

    job_id: str
    type: str
    status: str
    entrypoint: str
    submission_id: str | None = None
    message: str | None = None
    error_type: str | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    driver_info: dict[str, Any] | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None


@dataclass
class PlacementGroupState(StateSchema):
    """A placement group; the last 512 that were removed are among them."""

    placement_group_id: str
    name: str
    creator_job_id: str
    state: str
    bundles: list[dict[str, Any]] | None = None
    is_detached: bool = False
    stats: dict[str, Any] | None = None


def make_filter(
    filters: Iterable[Any] | None, cls: type[StateSchema], what: str
) -> Callable[[StateSchema], bool]:
    """A function that says whether a record passes all filters.

    Raises
    ------
    TypeError, ValueError
        They are not triples of a field's name, "=" or "!=", and a value.
    """
    if isinstance(filters, (str, dict)) or not isinstance(filters, (Iterable, type(None))):
        raise TypeError(
            f"{what}: filters is a list of triples like ('state', '=', 'RUNNING'), not {filters!r}"
        )
    tests = []
    for one in filters or ():
        if isinstance(one, str) or not isinstance(one, (tuple, list)) or len(one) != 3:
            raise TypeError(
                f"{what}: a filter is a triple like ('state', '=', 'RUNNING'), not {one!r}"
            )
        name, predicate, value = one
        if name not in cls.columns():
            raise ValueError(
                f"{what}: there is no field {name!r} to filter by; there are "
                f"{', '.join(cls.columns())}"
            )
        if predicate not in ("=", "!="):
            raise ValueError(f"{what}: a filter's predicate is '=' or '!=', not {predicate!r}")
        tests.append((name, predicate == "=", value))
    return lambda record: all(
        _same(name, getattr(record, name), value) == wanted for name, wanted, value in tests
    )


def _same(name: str, found: Any, wanted: Any) -> bool:
    """Whether a field has a value, which may be given as text."""
    if found == wanted:
        return True
    if not isinstance(wanted, str):
        return False
    if isinstance(found, str):
        return name in _WORDS and found.lower() == wanted.lower()
    if isinstance(found, bool) or found is None:
        return str(found).lower() == wanted.lower()
    return isinstance(found, (int, float)) and str(found) == wanted
