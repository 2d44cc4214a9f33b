"""The session of this process: what it knows, how it begins and ends."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Mapping

from pyray import protocol, runtime_env, spilling, tell
from pyray._core import by_reference, control, futures, liveness, room, shm, store, tasks, waiting
from pyray._core import spilling as core_spilling
from pyray._core.annotations import TYPE_CHECKING, Any
from pyray.exceptions import InfeasibleResourcesError, SessionError
from pyray.held_back import HeldBack

if TYPE_CHECKING:
    from pyray.node_process import NodeProcess

MAX_PROCESSES = 250
RECORD_BYTES = 2 << 30
STOP_SECONDS = 5.0
# So many shapes are known here by number; others are asked for again.
SHAPES_KNOWN = 10_000
# A wait that takes so long says once what it waits for.
LONG_WAIT_SECONDS = 10.0

# Options of Ray's init that mean something on a cluster only: accepted, without effect.
CLUSTER_ONLY = frozenset(
    {
        "configure_logging", "dashboard_host", "dashboard_port", "include_dashboard",
        "job_config", "labels", "log_to_driver_filter", "logging_config", "logging_format",
        "storage", "_node_ip_address", "_plasma_directory",
        "_redis_password", "_redis_username", "_system_config", "_temp_dir",
        "_metrics_export_port", "_tracing_startup_hook", "_enable_object_reconstruction",
        "enable_resource_isolation", "system_reserved_cpu",
        "system_reserved_memory", "cgroup_path", "_cgroup_path",
        "_driver_object_store_memory", "proxy_server_url",
    }
)  # fmt: skip

store.set_unseen(tell.unseen)
waiting.set_doing(tell.doing)
core_spilling.set_teller(tell.spilling)


def _shared_array_class() -> Any:
    # When somebody makes such an array, or is sent one: numpy comes with it.
    from pyray import shared

    return shared.SharedArray


by_reference.set_loader(_shared_array_class)
tell.set_namer(lambda task: str(require().call("task_name", task)))

_current: Session | WorkerSession | None = None
_lock = threading.RLock()


class Resources:
    """What both kinds of session know about resources: shapes by number."""

    config: dict[str, Any]

    def __init__(self) -> None:
        self._shapes: dict[Any, int] = {}

    def call(self, operation: str, *args: Any) -> Any:
        raise NotImplementedError

    def environment(self, own: Mapping[str, Any] | None) -> str | None:
        """The environment of what is submitted here with `own` as its ``runtime_env``, for `shape`.

        None where that is the session's, which all workers have.
        """
        inherited: str | None = self.config["runtime_env"]
        if own:
            merged = runtime_env.merge(runtime_env.from_text(inherited), own)
            inherited = runtime_env.to_text(merged)
        return None if inherited == self.config["session_env"] else inherited

    def shape(
        self,
        request: dict[str, float],
        name: str,
        dedicated: bool = False,
        env: str | None = None,
        *,
        place: Any = None,
        keeps_cpus: bool = False,
    ) -> int:
        """Number of a shape of resources; 0 is one CPU, on any worker.

        Parameters
        ----------
        request : dict of str to float
            Amounts by resource.
        name : str
            Whose it is, for errors.
        dedicated : bool
            Whether each task has a process of its own, which ends with it.
        env : str, optional
            Runtime environment, as `environment` gives it: its tasks share processes with no
            others.
        place : pyray.placement.Place, optional
            Where in a placement group.
        keeps_cpus : bool
            Of an actor: whether it keeps its CPUs for life.

        Raises
        ------
        InfeasibleResourcesError
            It is more than the session, or the bundle, has in all.
        """
        plain = not dedicated and env is None and place is None
        if plain and request == {"CPU": 1} and self.config["num_cpus"] >= 1:
            return 0
        key = (frozenset(request.items()), dedicated, env, place, keeps_cpus)
        number = self._shapes.get(key)
        if number is None:
            number, reason = self.call("shape", request, dedicated, env, place, keeps_cpus)
            if number is None:
                advice = tell.how_to_have(request, self.config)
                if place is not None:
                    advice = tell.how_to_fit(place.captures and place.bundle == -1)
                raise InfeasibleResourcesError(f"{name} {reason}; {advice}")
            if len(self._shapes) >= SHAPES_KNOWN:
                self._shapes.clear()  # mostly of placement groups that have gone
            self._shapes[key] = number
        return number


class WorkerSession(Resources):
    """The session as a worker sees it."""

    local_mode = False

    def __init__(self, node: Any, config: dict[str, Any]) -> None:
        super().__init__()
        self._node = node
        self.config = config

    def call(self, operation: str, *args: Any) -> Any:
        return self._node.call(operation, *args)


class Session(Resources):
    """The driver's session.

    Parameters
    ----------
    config : dict
        As `pyray.node.loop.Loop` reads it.
    memory, spill : int
        Descriptors of the session's memory, and of its spill file or -1.
    """

    def __init__(self, config: dict[str, Any], memory: int, spill: int = -1) -> None:
        super().__init__()
        self.config = config
        self.local_mode: bool = config["local_mode"]
        self._long_waits: dict[int, float] = {}
        self._telling: threading.Thread | None = None
        self.node: NodeProcess | None = None
        shm.attach(memory, 0, spill)
        core_spilling.set_directory(*config["spill"])
        try:
            tasks.reset()
            if not self.local_mode:
                from pyray.node_process import NodeProcess

                self.node = NodeProcess(config, memory, spill)
        except BaseException:
            shm.detach()
            raise
        control.set_bell(-1 if self.node is None else self.node.bell)

    def call(self, operation: str, *args: Any) -> Any:
        """The node's answer to a call; raises what it raises there."""
        if self.node is None:
            return self._answer_locally(operation, *args)
        return self.node.call(operation, *args)

    def _answer_locally(self, operation: str, *args: Any) -> Any:
        totals = {
            "CPU": float(self.config["num_cpus"]),
            **({"GPU": float(self.config["num_gpus"])} if self.config["num_gpus"] else {}),
            **{k: float(v) for k, v in self.config["resources"].items()},
        }
        if operation == "resources":
            return totals, dict(totals)
        if operation == "shape":
            request = args[0]
            short = [k for k, v in request.items() if v > totals.get(k, 0.0)]
            if short:
                return None, (
                    f"asks for {', '.join(f'{k} {request[k]:g}' for k in short)}; this session has "
                    f"{', '.join(f'{k} {totals.get(k, 0.0):g}' for k in short)}"
                )
            return 0, None
        return []

    # ---- waiting ---------------------------------------------------------------------------

    def on_tick(self, seconds: float, ids: list[Any]) -> None:
        """Called some ten times a second by a wait that takes long."""
        tasks.sweep()
        me = threading.get_ident()
        if seconds < LONG_WAIT_SECONDS:
            self._long_waits.pop(me, None)
            return
        if me in self._long_waits or self.local_mode:
            return
        self._long_waits[me] = seconds
        missing = [i for i in ids if not store.is_ready(i)]
        if not missing:
            return
        import logging

        try:
            task = store.task_of(missing[0])
            where = self.call("explain", task) if task else self.call("explain_ref", missing[0])
        except Exception:
            where = "unknown"
        logging.getLogger("pyray").warning(
            "waiting for %.0f s for %d of %d objects; the first: %s",
            seconds,
            len(missing),
            len(ids),
            where,
        )

    def on_interrupt(self, ids: list[Any]) -> None:
        """Called when Ctrl-C has ended a wait: what it waited for is not wanted any more.

        In a thread of its own: another Ctrl-C must not cut the message in two, and nothing is to
        keep the user from the prompt.
        """
        behind = {store.task_of(i) for i in ids if not store.is_ready(i)} - {0}
        if not behind or self.node is None:
            return
        frame = protocol.pickled(protocol.INTERRUPT, list(behind))
        self._telling = threading.Thread(target=self.node.tell, args=(frame,), daemon=True)
        try:
            self._telling.start()
        except RuntimeError:
            return  # the interpreter ends, and the session with it

    # ---- the end ---------------------------------------------------------------------------

    def hurry(self) -> None:
        """Ctrl-C while the session begins or ends: nothing is worth waiting for."""
        if self.node is not None:
            self.node.kill()

    def stop(self) -> None:
        """End all processes and let go of the memory; views that are still alive keep theirs."""
        if self.node is not None:
            self.node.stopping = True
        if shm.attached():
            control.stop_all()  # threads of ours that wait are to raise
        if self._telling is not None and self._telling.ident is not None:
            self._telling.join(STOP_SECONDS)
        futures.stop(STOP_SECONDS)
        if self.node is not None:
            self.node.stop(STOP_SECONDS)
        # Calls of other threads that are under way see that the session has ended, or finish.
        deadline = time.monotonic() + STOP_SECONDS
        while shm.inflight() and time.monotonic() < deadline:
            time.sleep(0.001)
        if shm.inflight():
            shm.retire()  # let go of the memory only with the process
            return
        shm.detach()
        tasks.reset()


# ---- the one session of this process -----------------------------------------------------------


def current() -> Session | WorkerSession | None:
    """This process's session, if there is one."""
    return _current


def require() -> Session | WorkerSession:
    """This process's session; started now, with default options, if there is none."""
    if _current is not None:
        liveness.check()
        return _current
    if shm.forked():
        liveness.check()
    return start()


def become_worker(node: Any, config: dict[str, Any]) -> None:
    """In a freshly forked worker: this process's session is its node's."""
    global _current
    _current = WorkerSession(node, config)


def is_initialized() -> bool:
    """Whether there is a session that can be used."""
    return _current is not None and not shm.forked() and not liveness.is_broken()


def start(
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    resources: Mapping[str, float] | None = None,
    object_store_memory: int | None = None,
    log_to_driver: bool = True,
    logging_level: Any = None,
    local_mode: bool = False,
    namespace: str | None = None,
    memory_total: int | None = None,
    memory_limit: int | None = None,
    env: Mapping[str, Any] | None = None,
    spill_directory: str | None = None,
    max_spill_bytes: int | None = None,
) -> Session:
    """Begin a session; see `pyray.init` for the parameters."""
    global _current
    with _lock, HeldBack() as held:
        if _current is not None and not liveness.is_broken():
            assert isinstance(_current, Session)
            return _current  # another thread was quicker
        if shm.inflight():
            raise SessionError(
                "a call of the session before is still under way in another thread; wait for it "
                "before init()"
            )
        from pyray import machine
        from pyray.child import above_standard

        gpus = machine.gpu_names(num_gpus)
        cpus = machine.cpus() if num_cpus is None else num_cpus
        if not local_mode and (why := machine.why_not_start(cpus)) is not None:
            raise SessionError(f"a session cannot be started: {why}")
        try:
            cwd = os.getcwd()
        except FileNotFoundError:
            raise SessionError(
                "the current directory has been deleted, and tasks are to run in it; change to "
                "another one before init()"
            ) from None
        config: dict[str, Any] = {
            "num_cpus": cpus,
            "num_gpus": len(gpus),
            "gpus": gpus,
            "resources": {"memory": memory_total or machine.task_memory(), **(resources or {})},
            "memory_limit": memory_limit,
            "memory_share": machine.usage_threshold(),
            "memory_refresh": machine.refresh_seconds(),
            "max_workers": MAX_PROCESSES,
            "log_to_driver": log_to_driver,
            "logging_level": _level(logging_level),
            "local_mode": local_mode,
            "namespace": namespace,
            "sys_path": [cwd if p == "" else p for p in sys.path],
            "cwd": cwd,
            "mark": os.urandom(8).hex(),
            # Of this process; a worker that has one of its own has that in the first place.
            "runtime_env": runtime_env.to_text(env),
            "session_env": runtime_env.to_text(env),
        }
        size = object_store_memory or machine.default_store_memory()
        spill = spilling.open_file(spill_directory, max_spill_bytes)
        config["spill"] = (spill.directory, spill.reason)
        spill_fd = spill.fd
        try:
            if spill_fd >= 0:
                spill_fd = above_standard(spill_fd)
            memory = above_standard(shm.create(size, RECORD_BYTES, config["num_cpus"], spill.size))
            # From here on both are the mapping's to close.
            taken, spill_fd = spill_fd, -1
            session = Session(config, memory, taken)
        except (OSError, MemoryError, RuntimeError) as error:
            if spill_fd >= 0:
                os.close(spill_fd)
            if isinstance(error, SessionError):
                raise
            raise SessionError(
                f"starting a session with an object store of {size} bytes failed: {error}"
                f"{machine.which_limit(error)}"
            ) from None
        if spill.reason and max_spill_bytes:
            import logging

            logging.getLogger("pyray").warning(
                "of max_spill_bytes=%d only %d can be used: %s",
                max_spill_bytes,
                spill.size,
                spill.reason,
            )
        _current = session
        held.hurry = session.hurry
        room.set_guard(machine.why_not_grow)
        waiting.set_tick(session.on_tick)
        waiting.set_interrupted(session.on_interrupt)
        _set_hooks()
        atexit.unregister(shutdown)
        atexit.register(shutdown)
        try:
            import cloudpickle  # noqa: F401  (needed soon; the node takes longer to start)

            if session.node is not None:
                session.node.wait_until_up()
            held.let_through()
        except BaseException:
            shutdown()
            raise
        return session


def _set_hooks() -> None:
    from pyray import definitions
    from pyray._core import serializer

    serializer.set_hooks(
        store.ObjectID,
        store.pack,
        store.unpack,
        definitions.export_value,
        definitions.import_definition,
    )


def _level(level: Any) -> int:
    import logging

    if level is None:
        return logging.INFO
    if isinstance(level, str):
        number = logging.getLevelName(level.upper())
        if not isinstance(number, int):
            raise ValueError(f"logging_level {level!r} is not one of logging's levels")
        return number
    return int(level)


def shutdown() -> None:
    """End the session, if there is one; called at exit too. May be called any number of times."""
    global _current
    if shm.forked():
        return  # the parent's session is not ours to end
    with _lock, HeldBack() as held:
        session, _current = _current, None
        if isinstance(session, WorkerSession):
            _current = session
            raise SessionError("shutdown() is called in the driver, not in a task")
        if session is not None:
            held.hurry = session.hurry
            atexit.unregister(shutdown)
            session.stop()
