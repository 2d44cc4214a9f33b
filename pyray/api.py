"""init, get, put, wait and the other functions of the public interface.

`get` and `wait` are the core's own: what they need of the session is there, or they raise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pyray import identity, session
from pyray._core import control, liveness, running, shm, store, tasks, waiting
from pyray._core.annotations import TYPE_CHECKING, Any
from pyray._core.store import ObjectID
from pyray._core.waiting import get, wait
from pyray.exceptions import SessionError
from pyray.ray_context import RayContext

__all__ = [
    "arrow_stream",
    "available_resources",
    "cluster_resources",
    "get",
    "get_gpu_ids",
    "init",
    "is_initialized",
    "nodes",
    "processes",
    "put",
    "shutdown",
    "wait",
]

if TYPE_CHECKING:
    from typing import TypeVar

    _T = TypeVar("_T")
else:
    _T = Any


def init(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    resources: Mapping[str, float] | None = None,
    object_store_memory: int | None = None,
    memory_limit: int | None = None,
    ignore_reinit_error: bool = False,
    namespace: str | None = None,
    log_to_driver: bool = True,
    logging_level: int | str | None = None,
    local_mode: bool = False,
    runtime_env: Mapping[str, Any] | None = None,
    spill_directory: str | os.PathLike[str] | None = None,
    max_spill_bytes: int | None = None,
    object_spilling_directory: str | os.PathLike[str] | None = None,
    _memory: int | None = None,
    **cluster_only: Any,
) -> RayContext:
    """Begin a session: start the node process, which starts the workers.

    Called by itself, with default options, at the first use of anything that needs a session.

    Parameters
    ----------
    address : str, optional
        ``"local"``, ``"auto"`` or None; there is no cluster to connect to.
    num_cpus : int, optional
        CPUs to hand out, 256 at most; default: those that this process may use.
    num_gpus : int, optional
        GPUs to hand out; default: those that there are, less what CUDA_VISIBLE_DEVICES hides.
    resources : dict of str to float, optional
        Custom resources by name.
    object_store_memory : int, optional
        Bytes of memory for objects; default 30% of what is available. What does not fit goes to
        disk, see `max_spill_bytes`.
    memory_limit : int, optional
        Bytes that the session's processes may have besides the object store, the driver's own
        included: if they exceed it, the newest task that can be retried is ended. Default: what the
        machine and the cgroup allow.
    ignore_reinit_error : bool, default False
        Do nothing if there is a session already.
    namespace : str, optional
        Name space of named actors.
    log_to_driver : bool, default True
        Whether what tasks print appears here.
    logging_level : int or str, optional
        Level of `logging` in the workers; default INFO.
    local_mode : bool, default False
        Run every task at once in this process, for debugging.
    runtime_env : dict, optional
        What all workers are to have besides what this process has: ``env_vars``, ``working_dir``,
        ``py_modules``; see `pyray.runtime_env.RuntimeEnv`.
    spill_directory : str or os.PathLike, optional
        Directory for the objects that do not fit in memory, on a disk with room for them; default:
        that for temporary files. Nothing ever has a name there.
    max_spill_bytes : int, optional
        Bytes that they may take there; 0: nothing is spilled. Default: what the disk has free, less
        256 MiB, and 128 GiB at most.
    object_spilling_directory : str or os.PathLike, optional
        Ray's name of `spill_directory`.
    _memory : int, optional
        Bytes of the resource ``memory`` to hand out; default: 70% of the machine's.
    **cluster_only
        Options of Ray's that mean something on a cluster only, accepted without effect.

    Returns
    -------
    RayContext
        A dict of ``node_pid``, ``num_cpus``, ``num_gpus``, ``object_store_memory`` and the like; as
        a context manager it calls `shutdown` at the end of the block.

    Raises
    ------
    SessionError
        There is a session already, the node process did not come up, or `spill_directory` cannot be
        used.
    TypeError, ValueError
        An unknown option or a bad value.

    Examples
    --------
    >>> import pyray as ray
    >>> info = ray.init(num_cpus=2, ignore_reinit_error=True)
    >>> ray.is_initialized()
    True
    """
    if spill_directory is None:
        spill_directory = object_spilling_directory
    unknown = sorted(set(cluster_only) - session.CLUSTER_ONLY)
    if unknown:
        raise TypeError(
            f"init has no option {unknown[0]!r}; there are num_cpus, num_gpus, resources, "
            "object_store_memory, memory_limit, spill_directory, max_spill_bytes, "
            "ignore_reinit_error, namespace, log_to_driver, logging_level, runtime_env and "
            "local_mode"
        )
    if address not in (None, "local", "auto"):
        raise ValueError(
            f"pyray runs on this machine only; address is 'local', 'auto' or None, not {address!r} "
            "(the number of CPUs is num_cpus=)"
        )
    _whole("num_cpus", num_cpus, 0, 256)
    _whole("num_gpus", num_gpus, 0, 1024)
    _whole("_memory", _memory, 0, 1 << 46)
    _whole("object_store_memory", object_store_memory, 1, 1 << 46)
    _whole("memory_limit", memory_limit, 1, 1 << 46)
    _whole("max_spill_bytes", max_spill_bytes, 0, 1 << 44)
    if spill_directory is not None:
        path = os.fspath(spill_directory) if isinstance(spill_directory, os.PathLike) else None
        spill_directory = spill_directory if path is None else path
        if not isinstance(spill_directory, str):
            raise TypeError(f"init: spill_directory is a path, not {spill_directory!r}")
        if not spill_directory or "\0" in spill_directory:
            raise ValueError(f"init: spill_directory is a path, not {spill_directory!r}")
    from pyray.options import check_options

    checked = check_options({"resources": resources, "runtime_env": runtime_env}, "init")
    if shm.forked():
        liveness.check()
    existing = session.current()
    if existing is not None and liveness.is_broken():
        session.shutdown()
        existing = None
    if existing is not None:
        if not ignore_reinit_error:
            raise SessionError(
                "init was called already (perhaps by itself, at first use); call shutdown() first, "
                "or pass ignore_reinit_error=True"
            )
    else:
        existing = session.start(
            num_cpus,
            num_gpus,
            resources,
            object_store_memory,
            log_to_driver,
            logging_level,
            local_mode,
            namespace,
            _memory,
            memory_limit,
            checked["runtime_env"],
            spill_directory,
            max_spill_bytes,
        )
    node = getattr(existing, "node", None)
    return RayContext(
        address="local",
        node_id=identity.node_id(),
        node_ip_address=identity.ADDRESS,
        node_pid=node.pid if node is not None else None,
        num_cpus=existing.config["num_cpus"],
        num_gpus=existing.config["num_gpus"],
        object_store_memory=store.object_stats()["total"],
    )


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"init: {name} is a whole number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"init: {name} is between {low} and {high}, not {value}")


def shutdown() -> None:
    """End the session: all its processes end, and its memory goes once no array looks into it.

    Does nothing without a session. Called at exit too.

    Examples
    --------
    >>> import pyray as ray
    >>> ray.shutdown()
    >>> ray.is_initialized()
    False
    """
    session.shutdown()


def is_initialized() -> bool:
    """Whether there is a session.

    Examples
    --------
    >>> import pyray as ray
    >>> ray.shutdown()
    >>> ray.is_initialized()
    False
    """
    return session.is_initialized()


def put(value: _T) -> ObjectID[_T]:
    """Place a value in the object store.

    Parameters
    ----------
    value : object
        Anything that can be serialized; arrays are stored so that `get` needs no copy.

    Returns
    -------
    ObjectID

    Raises
    ------
    SerializationError
        Some part of it cannot be serialized; the message says which.
    ObjectStoreFullError
        There is no room.

    Examples
    --------
    >>> import pyray as ray
    >>> ray.get(ray.put([1, 2]))
    [1, 2]
    """
    session.require()
    return tasks.put(value)


def get_gpu_ids() -> list[Any]:
    """The GPUs of the task or actor that calls this, as CUDA_VISIBLE_DEVICES names them.

    Returns
    -------
    list of int or str
        Numbers where they are numbers, else the strings of the user's list; empty in the driver and
        in tasks that asked for none.

    Examples
    --------
    >>> import pyray as ray
    >>> ray.get_gpu_ids()
    []
    """
    if not isinstance(session.current(), session.WorkerSession):
        return []
    # An actor has its own for life, between calls and in whatever thread.
    has = identity.actor_here() is not None or running.running_shaped()
    names = control.my_gpus().partition(";")[0] if has else ""
    return [int(n) if n.isdigit() else n for n in names.split(",") if n]


def cluster_resources() -> dict[str, float]:
    """All resources of the session, by name; ``memory`` in bytes.

    Examples
    --------
    >>> import pyray as ray
    >>> ray.cluster_resources()["CPU"] >= 1
    True
    """
    totals: dict[str, float] = session.require().call("resources")[0]
    return _with_store(totals)


def available_resources() -> dict[str, float]:
    """Resources that no running task holds, by name; those of which nothing is left are absent.

    Examples
    --------
    >>> import pyray as ray
    >>> ray.available_resources()["CPU"] <= ray.cluster_resources()["CPU"]
    True
    """
    available: dict[str, float] = session.require().call("resources")[1]
    return {k: v for k, v in _with_store(available, available=True).items() if v}


def nodes() -> list[dict[str, Any]]:
    """The machines of the session: a list of one.

    Returns
    -------
    list of dict
        ``NodeID``, ``Alive``, ``NodeManagerAddress``, ``NodeManagerHostname``, ``Resources`` (as
        `cluster_resources`) and Ray's other keys; ports are 0, since nothing listens.

    Examples
    --------
    >>> import pyray as ray
    >>> [node["Alive"] for node in ray.nodes()]
    [True]
    """
    import platform

    resources = cluster_resources()
    node = identity.node_id()
    return [
        {
            "NodeID": node,
            "Alive": True,
            "NodeManagerAddress": identity.ADDRESS,
            "NodeManagerHostname": platform.node(),
            "NodeManagerPort": 0,
            "ObjectManagerPort": 0,
            "ObjectStoreSocketName": "",
            "RayletSocketName": "",
            "MetricsExportPort": 0,
            "NodeName": identity.ADDRESS,
            "RuntimeEnvAgentPort": 0,
            "DeathReason": 0,
            "DeathReasonMessage": "",
            "alive": True,
            "Resources": resources,
            "Labels": {"ray.io/node-id": node},
        }
    ]


def _with_store(resources: dict[str, float], available: bool = False) -> dict[str, float]:
    stats = store.object_stats()
    size = stats["total"] - stats["used"] if available else stats["total"]
    return {**resources, "object_store_memory": float(size)}


def arrow_stream(ref: ObjectID) -> bytes:
    """An object as an Arrow IPC stream, for ``pyarrow.ipc.open_stream``; waits for the object.

    Parameters
    ----------
    ref : ObjectID
        Any object.

    Returns
    -------
    bytes
        Schema, record batch (a union of tokens that spell the value out in preorder) and a tensor
        per array.

    Examples
    --------
    >>> import pyray as ray, pyarrow as pa
    >>> reader = pa.ipc.open_stream(ray.arrow_stream(ray.put([1, 2])))
    >>> reader.read_next_batch().num_rows > 0
    True
    """
    session.require()
    from pyray._core import serializer

    data, compact = waiting.arrow_parts(ref)
    return serializer.to_arrow_stream(data, compact)


def processes() -> list[int]:
    """Process IDs of the session: the driver's, the node's and the workers'."""
    current = session.require()
    pids = [os.getpid()]
    node = getattr(current, "node", None)
    if node is not None:
        pids.append(node.pid)
    pids += [w["pid"] for w in current.call("workers")]
    return pids
