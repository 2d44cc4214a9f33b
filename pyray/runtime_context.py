"""What a task, an actor or the driver can ask about itself."""

from __future__ import annotations

from pyray import api, definitions, identity, placement, runtime_env, session
from pyray._core import census, ids, running, shm, store, tasks
from pyray._core.annotations import Any
from pyray._core.hex_id import HexID
from pyray.actor_handle import ActorHandle, rebuild_handle
from pyray.frozen import Frozen

__all__ = ["RuntimeContext", "get_runtime_context"]

# Resources by shape, of this process's present session.
_shapes: dict[int, dict[str, float]] = {}
_epoch = -1


class _Task(Frozen):
    """The task that asks."""

    id: str
    cancelled: bool
    creates: bool
    name: str
    function: str
    resources: dict[str, float]


class RuntimeContext:
    """What there is to know about the calling code: its task, actor, worker, node and job.

    Made by :func:`pyray.get_runtime_context`; each method looks anew, so one object serves for any
    number of tasks.

    Notes
    -----
    *Which task asks.* In a process that runs one task at a time, that one: threads that it has
    started are taken for it too, and a thread that outlives its task for the next one. In an actor
    with threads or async methods, where several calls run side by side, a context variable tells:
    coroutines and `asyncio.to_thread` have it, while a thread made with `threading` belongs to no
    task, unless it runs in `contextvars.copy_context`. What a call has left behind when it ended
    belongs to no task either; it is still the actor's.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote(num_cpus=0.5)
    ... def who():
    ...     context = ray.get_runtime_context()
    ...     return context.get_task_name(), context.get_assigned_resources()
    >>> ray.get(who.remote())
    ('who', {'CPU': 0.5})
    """

    # ---- ids -------------------------------------------------------------------------------

    def get_job_id(self) -> str:
        """The job's id: that of the session, 8 hexadecimal digits."""
        session.require()
        return identity.job_id()

    def get_node_id(self) -> str:
        """This machine's id in this session: 40 hexadecimal digits."""
        session.require()
        return identity.node_id()

    def get_worker_id(self) -> str:
        """This process's id, in the driver too: 40 hexadecimal digits."""
        session.require()
        return identity.worker_id()

    def get_task_id(self) -> str | None:
        """The running task's id, 40 hexadecimal digits; None in the driver.

        It is the same each time the task is run again, and `ObjectRef.task_id` of its results.
        """
        task = _task()
        return None if task is None else task.id

    def get_actor_id(self) -> str | None:
        """The id of the actor that this process is, 32 hexadecimal digits; None elsewhere."""
        handle = _local_actor()
        if handle is not None:
            return str(handle._actor_id)
        actor = _actor()
        return None if actor is None else str(actor.id)

    # ---- names -----------------------------------------------------------------------------

    def get_task_name(self) -> str | None:
        """The running task's name: its option ``name`` or its function's, ``Class.method`` in an
        actor; None in the driver."""
        task = _task()
        return None if task is None else task.name

    def get_task_function_name(self) -> str | None:
        """Module and qualified name of what the running task calls; None in the driver."""
        task = _task()
        return None if task is None else task.function

    def get_actor_name(self) -> str | None:
        """The name that the actor was given, "" if none was; None outside of actors."""
        handle = _local_actor()
        if handle is not None:
            return str(handle._pyray_settings["options"]["name"] or "")
        actor = _actor()
        return None if actor is None else str(actor.options["name"] or "")

    @property
    def namespace(self) -> str:
        """The session's name space of actors' names; "" is the one that has no name."""
        return session.require().config["namespace"] or ""

    # ---- the actor -------------------------------------------------------------------------

    @property
    def current_actor(self) -> ActorHandle:
        """A handle of the actor that this process is.

        The actor does not keep itself alive by it. Passed to others it is a handle like any.

        Raises
        ------
        RuntimeError
            This is no actor.
        """
        handle: ActorHandle | None = _local_actor()
        if handle is not None:
            return handle
        actor = _actor()
        if actor is None:
            raise RuntimeError(
                "current_actor is there in an actor only, and this is "
                + ("a task of a function" if _task() else "the driver or a thread of its own")
            )
        spec = actor.spec
        found: ActorHandle = rebuild_handle(
            store.weak(spec["ref"]), actor.number, spec["interface"], spec["settings"]
        )
        return found

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor has been made again after its process died (``max_restarts``)."""
        actor = _actor()
        return actor is not None and actor.spec["restarts"] > 0

    # ---- what it has -----------------------------------------------------------------------

    def get_assigned_resources(self) -> dict[str, float]:
        """Resources that the task, or the actor for its life, holds: amounts by name.

        Amounts may be fractions; ``memory`` is in bytes. Empty in the driver, and for what an actor
        does not hold once it has been placed (its CPU, if it did not ask for any).
        """
        task = _task()
        if task is not None:
            return task.resources
        actor = _actor()
        return {} if actor is None else _held_by(actor)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """GPUs that the task or actor holds: ``{"GPU": ["0", "1"]}``, as CUDA_VISIBLE_DEVICES
        names them."""
        session.require()
        return {"GPU": [str(name) for name in api.get_gpu_ids()]}

    def get_node_labels(self) -> dict[str, str]:
        """Labels of this machine."""
        return {"ray.io/node-id": self.get_node_id()}

    def get_placement_group_id(self) -> str | None:
        """The id of the placement group that the task or actor runs in; None if in none."""
        group = placement.get_current_placement_group()
        return None if group is None else group.id.hex()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what is submitted here goes into the same placement group, if it says nothing
        else."""
        session.require()
        return tasks.captor() != 0

    def get_runtime_env_string(self) -> str:
        """The runtime environment as JSON; ``"{}"`` if there is none."""
        current = session.require()
        if current.local_mode:
            from pyray import local_mode

            if local_mode.running:
                return runtime_env.to_text(local_mode.running[-1].env) or "{}"
        text: str | None = current.config["runtime_env"]
        return text or "{}"

    @property
    def runtime_env(self) -> runtime_env.RuntimeEnv:
        """The runtime environment: the session's, with what the task or actor was given."""
        text = self.get_runtime_env_string()
        return runtime_env.from_text(text) or runtime_env.RuntimeEnv()

    @property
    def current_placement_group_id(self) -> HexID | None:
        """`get_placement_group_id`, with ``.hex()`` and ``.binary()``."""
        found = self.get_placement_group_id()
        return None if found is None else HexID(found)

    @property
    def gcs_address(self) -> str:
        """The word local: there is no cluster whose address it could be."""
        return "local"

    # ---- cancelling ------------------------------------------------------------------------

    def is_canceled(self) -> bool:
        """Whether somebody has cancelled the running task; False in the driver."""
        task = census.calling_task() if session.current() is not None else None
        return task is not None and task[2]

    def is_cancelled(self) -> bool:
        """The same as `is_canceled`."""
        return self.is_canceled()

    # ---- names that Ray has left behind ----------------------------------------------------

    @property
    def job_id(self) -> HexID:
        """`get_job_id`, with ``.hex()`` and ``.binary()``; deprecated in Ray."""
        return HexID(self.get_job_id())

    @property
    def node_id(self) -> HexID:
        """`get_node_id`, likewise."""
        return HexID(self.get_node_id())

    @property
    def task_id(self) -> HexID | None:
        """`get_task_id`, likewise."""
        found = self.get_task_id()
        return None if found is None else HexID(found)

    @property
    def actor_id(self) -> HexID | None:
        """`get_actor_id`, likewise."""
        found = self.get_actor_id()
        return None if found is None else HexID(found)

    def get(self) -> dict[str, Any]:
        """Job, node, name space, and task and actor where there are such; deprecated in Ray."""
        found: dict[str, Any] = {
            "job_id": self.job_id,
            "node_id": self.node_id,
            "namespace": self.namespace,
        }
        for name, value in (("task_id", self.task_id), ("actor_id", self.actor_id)):
            if value is not None:
                found[name] = value
        return found


_context = RuntimeContext()


def get_runtime_context() -> RuntimeContext:
    """What the calling code can know about itself: task, actor, worker, node, job.

    Returns
    -------
    RuntimeContext
        The same object each time; it looks anew whenever it is asked something.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... def f():
    ...     return ray.get_runtime_context().get_task_id()
    >>> ref = f.remote()
    >>> ray.get(ref) == ref.task_id()
    True
    >>> ray.get_runtime_context().get_task_id() is None
    True
    """
    session.require()
    return _context


def _actor() -> Any:
    session.require()
    return identity.actor_here()


def _local_actor() -> Any:
    """The actor whose method runs, in local_mode."""
    if not session.require().local_mode:
        return None
    from pyray import local_actor

    return local_actor.running[-1] if local_actor.running else None


def _task() -> _Task | None:
    if session.require().local_mode:
        return _local_task()
    found = census.calling_task()
    if found is None:
        return None
    number, _, cancelled, shape, _, creates = found
    actor = identity.actor_here()
    name = running.current_name()
    if actor is not None:
        cls = definitions.import_definition(actor.spec["class"])
        name = f"{actor.name}.__init__" if creates else name
        function = f"{cls.__module__}.{cls.__qualname__}.{name.rpartition('.')[2]}"
        resources = _held_by(actor)
    else:
        function = _qualified(running.current_function(), name)
        resources = {"CPU": 1.0} if shape == 0 else _amounts(_shape(shape))
    return _Task(number.hex(), cancelled, creates, name, function, resources)


def _qualified(function: Any, name: str) -> str:
    module = getattr(function, "__module__", None) or "builtins"
    return f"{module}.{getattr(function, '__qualname__', name)}"


def _amounts(request: dict[str, float]) -> dict[str, float]:
    return {name: float(amount) for name, amount in request.items() if amount}


def _held_by(actor: Any) -> dict[str, float]:
    """What an actor holds: the CPUs that it did not ask for only until it is made."""
    request = _amounts(actor.spec["request"])
    if actor.made and not actor.spec["keeps_cpus"]:
        request.pop("CPU", None)
    return request


def _shape(number: int) -> dict[str, float]:
    global _epoch
    if _epoch != shm.epoch():
        _shapes.clear()
        _epoch = shm.epoch()
    if number not in _shapes:
        _shapes.update(session.require().call("state", "shapes"))
    return _shapes.get(number, {})  # none if its placement group has been removed meanwhile


def _local_task() -> _Task | None:
    from pyray import local_mode

    if not local_mode.running:
        return None
    call = local_mode.running[-1]
    handle = _local_actor()
    function = _qualified(call.function, call.name)
    if handle is not None:
        cls = handle.__dict__["_pyray_class"]
        function = f"{cls.__module__}.{cls.__qualname__}.{call.name.rpartition('.')[2]}"
    # Nothing runs beside it, so these are no task's but here.
    task = ids.task_id(shm.root_id(), (1 << 40) + call.number).hex()
    return _Task(task, False, call.name.endswith(".__init__"), call.name, function, call.resources)
