"""The worker process, from the fork to its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from pyray import definitions, protocol, runtime_env
from pyray._core import interrupts, running, serializer, shm, store, tasks
from pyray._core.errors import NodeDiedError
from pyray._core.serial_errors import DefinitionNotFoundError
from pyray.worker import environment
from pyray.worker.errors import make_error
from pyray.worker.output import TaskOutput

# How long `work` looks for work before it comes back here to do its chores: soon after tasks have
# run, seldom when nothing happens.
BUSY_SECONDS = 0.05
IDLE_SECONDS = 5.0
# How long an actor that ends waits for others to begin the calls that it has made.
ACTORS_SECONDS = 60.0


class NodeLink:
    """Calls from a worker to the node; one at a time.

    Parameters
    ----------
    sock : protocol.Socket
        This worker's end of a socket pair.
    """

    def __init__(self, sock: protocol.Socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._number = 0
        # What has come of a reply stays here should an interrupt end the wait for the rest.
        self._frames = protocol.Frames()
        self._replies: list[tuple[int, bytes]] = []
        self.broken = False  # no call can be made any more

    def call(self, operation: str, *args: Any) -> Any:
        """What the node answers; raises what it raises."""
        with self._lock:
            self._number += 1
            # Half a message, or an answer that nobody reads, would spoil all that follow.
            interrupts.hold_back()
            try:
                self._sock.sendall(protocol.call(self._number, operation, args))
                number, body = self._next_reply()
                while number != self._number:
                    protocol.discard(body)  # of a call that was interrupted
                    number, body = self._next_reply()
            except (OSError, ValueError) as error:
                self.broken = True
                raise NodeDiedError(
                    f"this worker (pid={os.getpid()}) has lost its connection to the node process "
                    f"({error}): that has ended, or something in a task has written to its socket"
                ) from None
            finally:
                interrupts.let_through()
        return protocol.value_of(body)

    def _next_reply(self) -> tuple[int, bytes]:
        while not self._replies:
            data = self._sock.recv(1 << 20)
            if not data:
                raise ConnectionResetError("it was closed during this call")
            self._replies += self._frames.feed(data)
        return protocol.split(self._replies.pop(0)[1])


def main(slot: int, out: int, err: int, link: int, config: dict[str, Any], ready: int) -> None:
    """Be a worker until the session ends.  Never returns.

    Parameters
    ----------
    slot : int
        This process's number in the session.
    out, err, link : int
        Pipes for what is printed, and the socket to the node.
    config : dict
        What `init` was told.
    ready : int
        The parent's pid, to notice that it died before the kernel was told to tell us.
    """
    code = 1
    try:
        _become_worker(slot, out, err, link, config, ready)
        code = _loop()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                continue
        # Not sys.exit: that would wait for what the user's code left behind, children included.
        os._exit(code)


def _become_worker(
    slot: int, out: int, err: int, link: int, config: dict[str, Any], parent: int
) -> None:
    shm.die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, interrupts.on_signal)
    signal.signal(interrupts.SIGNAL, interrupts.on_signal)
    sys.unraisablehook = interrupts.on_unraisable
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    sys.stdout = sys.__stdout__ = TaskOutput(1)  # type: ignore[misc, assignment]
    sys.stderr = sys.__stderr__ = TaskOutput(2)  # type: ignore[misc, assignment]
    shm.set_process_name("pyray worker")
    _go_first()
    environment.set_up(runtime_env.from_text(config["runtime_env"]))
    _limit_threads(os.environ, 1)
    if config["num_gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import logging

    logging.basicConfig(
        level=config["logging_level"], format="%(levelname)s:%(name)s:%(message)s", force=True
    )
    from pyray import session

    node = NodeLink(protocol.Socket(fileno=link))
    session.become_worker(node, config)
    interrupts.set_children(lambda task: node.call("cancel_children", task))
    running.set_worker_callbacks(load_function, make_error, before_shaped_task)
    serializer.set_hooks(
        store.ObjectID,
        store.pack,
        store.unpack,
        definitions.export_value,
        definitions.import_definition,
    )
    shm.adopt(slot)
    tasks.reset()


def _go_first() -> None:
    """Should the kernel have to kill somebody for memory, then a worker, whose task can be run
    again, and not the driver. What the worker starts has it from here."""
    try:
        with open("/proc/self/oom_score_adj", "wb", 0) as f:
            f.write(b"1000")
    except OSError:
        return  # there is no /proc, or not for us


def _loop() -> int:
    from pyray import session
    from pyray._core import control

    seconds = BUSY_SECONDS
    control.ring()
    while True:
        try:
            ran = running.work(seconds)
        except running.WorkerExit as e:
            _drain()
            return int(e.code)
        except running.BecomeActor as e:
            task = e.task
            break
        if control.stopping():
            return 0
        current: Any = session.current()
        if current._node.broken:
            _drain()
            return 1  # another one can call the node
        sys.stdout.flush()
        sys.stderr.flush()
        holding = tasks.sweep_idly()
        seconds = BUSY_SECONDS if ran or holding else IDLE_SECONDS
    # Out of the handler, or whatever the actor raises would be told as raised while handling that.
    from pyray.worker import actor

    code = actor.live(task)
    _drain(ACTORS_SECONDS)
    return code


def _drain(seconds: float = float("inf")) -> None:
    """Before an orderly end: wait for tasks that this process submitted to be started, and for
    those that need what it holds to be done, since they would fail with it.

    An actor waits only so many seconds for what other actors are to do first: that may in turn wait
    for what only its own end makes free.
    """
    import time

    from pyray._core import control

    control.set_blocked(True)
    pause = 0.001
    limit = time.monotonic() + seconds
    while tasks.unfinished_business(time.monotonic() < limit) and not control.stopping():
        time.sleep(pause)
        pause = min(0.05, pause * 1.5)


def load_function(number: int) -> Any:
    """A function by its number, ready to be called."""
    environment.require(lambda: definitions.name_of(number))
    try:
        function, extra = definitions.load(number)
        if isinstance(function, int):
            function = definitions.import_definition(function)
    except Exception as problem:
        name = definitions.name_of(number)
        error = DefinitionNotFoundError(
            f"{name} could not be loaded in a worker: {problem!r}. What it refers to must be "
            "importable there (sys.path is taken over at init), or be a plain function or class of "
            "the script"
        )
        error.task_name = name
        raise error from problem
    name, retry, max_calls = extra or ("", None, 0)
    if not name:
        name = getattr(function, "__name__", "task")
    return running.Function(function, name, retry, max_calls)


def before_shaped_task(lease: str) -> None:
    """Apply what a task with resources of its own was given; afterwards, the default again.

    Parameters
    ----------
    lease : str
        Separated by semicolons: GPU ids as CUDA_VISIBLE_DEVICES wants them; the number of CPUs,
        which is how many threads numerical libraries may use; and the number of the placement group
        that it is in, if any, with a plus if that captures what is submitted here.
    """
    from pyray import session

    gpus, cpus, group = lease.split(";")
    tasks.set_group(int(group.rstrip("+") or 0), group.endswith("+"))
    if session.require().config["num_gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    _limit_threads(os.environ, max(1, int(float(cpus))), override=True)


_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_set_by_us: set[str] = set()


def _limit_threads(environment: Any, n: int, override: bool = False) -> None:
    """Numerical libraries use as many threads as the task has CPUs, unless the user said otherwise.

    The variables count when the library is loaded; one that is loaded already is told through
    threadpoolctl, where that is installed.
    """
    for name in _THREAD_VARIABLES:
        if name not in environment or name in _set_by_us:
            environment[name] = str(n)
            _set_by_us.add(name)
    if override and "numpy" in sys.modules and _set_by_us:
        try:
            import threadpoolctl  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            return
        threadpoolctl.threadpool_limits(n)
