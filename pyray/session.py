"""The session of this process: starting the node, talking to it, ending it."""

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
from pyray._core.annotations import Any
from pyray.child import Child, above_standard
from pyray.exceptions import (
    InfeasibleResourcesError,
    NodeDiedError,
    SessionError,
    describe_exit,
)
from pyray.held_back import HeldBack

MAX_PROCESSES = 250
RECORD_BYTES = 2 << 30
START_SECONDS = 30.0
STOP_SECONDS = 5.0
# How long the driver looks for what is left of a session whose node died.
LEFT_BEHIND_SECONDS = 2.0
# How often the driver looks whether it may let go of what tasks needed, while some need something;
# less often if the look takes more than a fiftieth of that.
SWEEP_SECONDS = 0.2
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
        As `pyray.node.shell.Shell` reads it.
    memory, spill : int
        Descriptors of the session's memory, and of its spill file or -1.
    """

    def __init__(self, config: dict[str, Any], memory: int, spill: int = -1) -> None:
        super().__init__()
        self.config = config
        self.local_mode: bool = config["local_mode"]
        self._replies: dict[int, bytes] = {}
        self._interrupted: set[int] = set()  # calls whose replies nobody waits for any more
        self._reply_arrived = threading.Condition()
        self._numbers = 0
        self._send_lock = threading.Lock()
        self._hello = threading.Event()
        self._failure: str | None = None
        self._stopping = False
        self._long_waits: dict[int, float] = {}
        self._telling: threading.Thread | None = None
        self.node: Child | None = None
        self._sock: protocol.Socket | None = None
        self._reader: threading.Thread | None = None
        self._bell = -1
        self._holding = -1  # eventfd: tasks have come to need something that is held for them
        shm.attach(memory, 0, spill)
        core_spilling.set_directory(*config["spill"])
        try:
            tasks.reset()
            if not self.local_mode:
                self._start_node(memory, spill)
        except BaseException:
            self._abandon()
            raise
        control.set_bell(self._bell)

    def _start_node(self, memory: int, spill: int) -> None:
        if not sys.executable:
            raise SessionError(
                "sys.executable is empty, so pyray cannot start its node process; set it to the "
                "path of this Python before init()"
            )
        self._sock, theirs = protocol.socketpair()
        theirs = _above_standard(theirs)
        self._bell = above_standard(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._holding = above_standard(os.eventfd(0, os.EFD_CLOEXEC))
        entry = os.path.join(os.path.dirname(os.path.abspath(__file__)), "node", "__main__.py")
        arguments = [memory, theirs.fileno(), self._bell, os.getpid(), spill]
        inherited = [memory, theirs.fileno(), self._bell] + [spill] * (spill >= 0)
        command = [sys.executable, "-P", entry, *map(str, arguments)]
        # From its very start, so that its forks' /proc/PID/environ shows it, and inherited by all
        # that tasks start: the driver finds them by it should the node die.
        mark = {protocol.SESSION_VARIABLE: self.config["mark"]}
        try:
            self.node = Child(command, inherited, mark)
        except OSError as error:
            from pyray import machine

            raise SessionError(
                f"starting the node process with {command[0]} failed: {error}"
                f"{machine.which_limit(error)}"
            ) from None
        finally:
            theirs.close()
        try:
            self._sock.sendall(protocol.pickled(protocol.CONFIG, self.config))
        except OSError:
            pass  # it has ended already; the reader finds out how
        tasks.set_hold_fd(self._holding)
        self._reader = threading.Thread(target=self._read, name="pyray-reader", daemon=True)
        self._reader.start()

    def _abandon(self) -> None:
        """It could not be started: leave nothing."""
        tasks.set_hold_fd(-1)
        if self.node is not None:
            self.node.kill()
            self.node.wait()
            self.node.close()
        if self._sock is not None:
            self._sock.close()
        for fd in (self._bell, self._holding):
            if fd >= 0:
                os.close(fd)
        shm.detach()

    def wait_until_up(self) -> None:
        """Wait for the node's first word."""
        if self.local_mode:
            return
        if not self._hello.wait(START_SECONDS) or self._failure:
            reason = self._failure or f"it did not answer within {START_SECONDS:g} s"
            raise SessionError(f"the node process did not come up: {reason}")

    # ---- what the node says ----------------------------------------------------------------

    def _await_frame(self) -> None:
        """Wait until the node says something; meanwhile let go of what finished tasks needed."""
        import select

        assert self._sock is not None
        waiting_for = select.poll()
        waiting_for.register(self._sock.fileno(), select.POLLIN)
        waiting_for.register(self._holding, select.POLLIN)
        pause = SWEEP_SECONDS if tasks.held_tasks() else None
        while True:
            ready = waiting_for.poll(None if pause is None else pause * 1000)
            if any(fd != self._holding for fd, _ in ready):
                return
            if ready:
                os.eventfd_read(self._holding)
                pause = SWEEP_SECONDS
                continue
            began = time.monotonic()
            held = tasks.held_tasks()
            pause = max(SWEEP_SECONDS, 50 * (time.monotonic() - began)) if held else None

    def _read(self) -> None:
        assert self._sock is not None
        while True:
            self._await_frame()
            try:
                got = protocol.read_frame(self._sock)
            except (OSError, ValueError):
                got = None
            if got is None:
                break
            kind, payload = got
            if kind == protocol.OUTPUT:
                self._print(payload)
            elif kind == protocol.REPLY:
                number, body = protocol.split(payload)
                with self._reply_arrived:
                    if number in self._interrupted:
                        self._interrupted.discard(number)
                        protocol.discard(body)
                        continue
                    self._replies[number] = body
                    self._reply_arrived.notify_all()
            elif kind == protocol.HELLO:
                self._hello.set()
            elif kind == protocol.SWEEP:
                tasks.sweep()
            elif kind == protocol.FATAL:
                self._broken(payload.decode())
        if not self._stopping:
            self._broken(self._how_node_ended())

    def _how_node_ended(self) -> str:
        assert self.node is not None
        code = self.node.wait(1.0)
        if code is None:
            return f"its connection to the driver (pid={os.getpid()}) broke"
        return f"process {self.node.pid} {describe_exit(code)[0]}"

    def _broken(self, reason: str) -> None:
        self._failure = reason
        self._hello.set()
        liveness.break_session(
            f"the session's node process is gone ({reason}), and with it workers, queued tasks and "
            "results that were not fetched; call init() to start anew"
        )
        with self._reply_arrived:
            self._reply_arrived.notify_all()
        self._kill_left_behind()

    def _kill_left_behind(self) -> None:
        """Kill what the node left when it died: workers go with it, their children may not.

        What is being forked or executed at this moment is not seen by one look, so there is another
        until there have been two that found nothing.
        """
        deadline = time.monotonic() + LEFT_BEHIND_SECONDS
        nothing = 0
        while nothing < 2 and time.monotonic() < deadline:
            nothing = 0 if self._kill_marked() else nothing + 1
            time.sleep(0.01)

    def _kill_marked(self) -> bool:
        """Kill all processes of the session; whether there were any."""
        import signal

        mark = f"{protocol.SESSION_VARIABLE}={self.config['mark']}".encode()
        found = False
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                with open(f"/proc/{name}/environ", "rb") as f:
                    if mark in f.read().split(b"\0"):
                        os.kill(int(name), signal.SIGKILL)
                        found = True
            except OSError:
                continue  # gone meanwhile, or another user's
        return found

    def _print(self, payload: bytes) -> None:
        if not self.config["log_to_driver"]:
            return
        stream, pid, name, line = protocol.split_output(payload)
        out = sys.stdout if stream == 1 else sys.stderr
        try:
            out.write(f"({name} pid={pid}) {line}\n")
            out.flush()
        except (AttributeError, OSError, ValueError):
            return  # closed, or replaced by something that cannot be written to

    # ---- what the node is asked ------------------------------------------------------------

    def call(self, operation: str, *args: Any) -> Any:
        """The node's answer to a call; raises what it raises there."""
        if self.local_mode:
            return self._answer_locally(operation, *args)
        import pickle

        liveness.check()
        assert self._sock is not None
        with self._send_lock:
            self._numbers += 1
            number = self._numbers
            try:
                self._sock.sendall(protocol.call(number, operation, args))
            except OSError:
                self._reply_arrived_or_gone()
        with self._reply_arrived:
            try:
                while number not in self._replies:
                    if self._failure or self._stopping:
                        liveness.check()
                        raise SessionError("the session was shut down during this call")
                    self._reply_arrived.wait(1.0)
                body = self._replies.pop(number)
            except BaseException:
                # Ctrl-C: what comes is not to stay here, and an actor with it.
                if self._replies.pop(number, None) is None:
                    self._interrupted.add(number)
                raise
        ok, value = pickle.loads(body)
        if ok:
            return value
        try:
            raise value
        finally:
            # Or this frame and the error would keep each other, and the caller's ids, until the
            # garbage collector comes.
            del value

    def _reply_arrived_or_gone(self) -> None:
        """Its socket is closed: give the reader a moment to find out why, and raise that."""
        deadline = time.monotonic() + 1.0
        while self._failure is None and time.monotonic() < deadline:
            time.sleep(0.001)
        liveness.check()
        raise NodeDiedError("the session's node process does not answer; call init() to start anew")

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
        if not behind or self.local_mode:
            return
        frame = protocol.pickled(protocol.INTERRUPT, list(behind))
        self._telling = threading.Thread(target=self._tell, args=(frame,), daemon=True)
        try:
            self._telling.start()
        except RuntimeError:
            return  # the interpreter ends, and the session with it

    def _tell(self, frame: bytes) -> None:
        assert self._sock is not None
        with self._send_lock:
            try:
                self._sock.sendall(frame)
            except OSError:
                return  # the node is gone

    # ---- the end ---------------------------------------------------------------------------

    def hurry(self) -> None:
        """Ctrl-C while the session begins or ends: nothing is worth waiting for."""
        if self.node is not None:
            self.node.kill()

    def stop(self) -> None:
        """End all processes and let go of the memory; views that are still alive keep theirs."""
        self._stopping = True
        if shm.attached():
            control.stop_all()  # threads of ours that wait are to raise
        if self._telling is not None and self._telling.ident is not None:
            self._telling.join(STOP_SECONDS)
        futures.stop(STOP_SECONDS)
        if self._sock is not None:
            try:
                self._sock.sendall(protocol.frame(protocol.STOP))
            except OSError:
                pass
            if self._reader is not None and self._reader is not threading.current_thread():
                self._reader.join(STOP_SECONDS)
        if self.node is not None:
            if self.node.wait(STOP_SECONDS) is None:
                self.node.kill()
                self.node.wait()
            if self.node.returncode != 0:
                self._kill_left_behind()
            self.node.close()
        if self._sock is not None:
            self._sock.close()
        control.set_bell(-1)
        tasks.set_hold_fd(-1)
        for fd in (self._bell, self._holding):
            if fd >= 0:
                os.close(fd)
        # Calls of other threads that are under way see that the session has ended, or finish.
        deadline = time.monotonic() + STOP_SECONDS
        while shm.inflight() and time.monotonic() < deadline:
            time.sleep(0.001)
        if shm.inflight():
            shm.retire()  # let go of the memory only with the process
            return
        shm.detach()
        tasks.reset()


def _above_standard(sock: protocol.Socket) -> protocol.Socket:
    return protocol.Socket(fileno=above_standard(sock.detach()))


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

            session.wait_until_up()
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
