"""The node process as the driver has it: starting it, talking and listening to it, ending it."""

from __future__ import annotations

import os
import sys
import threading
import time

from pyray import protocol
from pyray._core import control, liveness, tasks
from pyray._core.annotations import Any
from pyray.child import Child, above_standard
from pyray.exceptions import NodeDiedError, SessionError, describe_exit

START_SECONDS = 30.0
# How long the driver looks for what is left of a session whose node died.
LEFT_BEHIND_SECONDS = 2.0
# How often the driver looks whether it may let go of what tasks needed, while some need something;
# less often if the look takes more than a fiftieth of that.
SWEEP_SECONDS = 0.2


class NodeProcess:
    """A node that has been started; a thread listens to it.

    Parameters
    ----------
    config : dict
        The session's, as `pyray.node.loop.Loop` reads it.
    memory, spill : int
        Descriptors of the session's memory, and of its spill file or -1.

    Attributes
    ----------
    bell : int
        Descriptor by which it is told that shared memory has news for it.
    stopping : bool
        Whether the session ends: so it is no fault that the node does.

    Raises
    ------
    SessionError, OSError
        It cannot be started. Nothing is left of it.
    """

    def __init__(self, config: dict[str, Any], memory: int, spill: int) -> None:
        if not sys.executable:
            raise SessionError(
                "sys.executable is empty, so pyray cannot start its node process; set it to the "
                "path of this Python before init()"
            )
        self.bell = -1
        self.stopping = False
        self._config = config
        self._replies: dict[int, bytes] = {}
        self._interrupted: set[int] = set()  # calls whose replies nobody waits for any more
        self._reply_arrived = threading.Condition()
        self._numbers = 0
        self._send_lock = threading.Lock()
        self._hello = threading.Event()
        self._failure: str | None = None
        self._holding = -1  # eventfd: tasks have come to need something that is held for them
        self._child: Child | None = None
        self._reader = threading.Thread(target=self._read, name="pyray-reader", daemon=True)
        self._sock, theirs = protocol.socketpair()
        try:
            self._start(_above_standard(theirs), memory, spill)
        except BaseException:
            self.kill()
            self._let_go()
            raise

    def _start(self, theirs: protocol.Socket, memory: int, spill: int) -> None:
        try:
            self.bell = above_standard(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            self._holding = above_standard(os.eventfd(0, os.EFD_CLOEXEC))
            entry = os.path.join(os.path.dirname(os.path.abspath(__file__)), "node", "__main__.py")
            arguments = [memory, theirs.fileno(), self.bell, os.getpid(), spill]
            inherited = [memory, theirs.fileno(), self.bell] + [spill] * (spill >= 0)
            command = [sys.executable, "-P", entry, *map(str, arguments)]
            # From its very start, so that its forks' /proc/PID/environ shows it, and inherited by
            # all that tasks start: the driver finds them by it should the node die.
            mark = {protocol.SESSION_VARIABLE: self._config["mark"]}
            try:
                self._child = Child(command, inherited, mark)
            except OSError as error:
                from pyray import machine

                raise SessionError(
                    f"starting the node process with {command[0]} failed: {error}"
                    f"{machine.which_limit(error)}"
                ) from None
        finally:
            theirs.close()
        try:
            self._sock.sendall(protocol.pickled(protocol.CONFIG, self._config))
        except OSError:
            pass  # it has ended already; the reader finds out how
        tasks.set_hold_fd(self._holding)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process ID."""
        assert self._child is not None
        return self._child.pid

    def wait_until_up(self) -> None:
        """Wait for its first word.

        Raises
        ------
        SessionError
            There is none within `START_SECONDS`, or the node has ended.
        """
        if not self._hello.wait(START_SECONDS) or self._failure:
            reason = self._failure or f"it did not answer within {START_SECONDS:g} s"
            raise SessionError(f"the node process did not come up: {reason}")

    # ---- what it says ----------------------------------------------------------------------

    def _await_frame(self) -> None:
        """Wait until it says something; meanwhile let go of what finished tasks needed."""
        import select

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
        if not self.stopping:
            self._broken(self._how_it_ended())

    def _how_it_ended(self) -> str:
        assert self._child is not None
        code = self._child.wait(1.0)
        if code is None:
            return f"its connection to the driver (pid={os.getpid()}) broke"
        return f"process {self.pid} {describe_exit(code)[0]}"

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

    def _print(self, payload: bytes) -> None:
        if not self._config["log_to_driver"]:
            return
        stream, pid, name, line = protocol.split_output(payload)
        out = sys.stdout if stream == 1 else sys.stderr
        try:
            out.write(f"({name} pid={pid}) {line}\n")
            out.flush()
        except (AttributeError, OSError, ValueError):
            return  # closed, or replaced by something that cannot be written to

    # ---- what it is asked ------------------------------------------------------------------

    def call(self, operation: str, *args: Any) -> Any:
        """Its answer to a call; raises what it raises there."""
        liveness.check()
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
                    if self._failure or self.stopping:
                        liveness.check()
                        raise SessionError("the session was shut down during this call")
                    self._reply_arrived.wait(1.0)
                body = self._replies.pop(number)
            except BaseException:
                # Ctrl-C: what comes is not to stay here, and an actor with it.
                if self._replies.pop(number, None) is None:
                    self._interrupted.add(number)
                raise
        return protocol.value_of(body)

    def _reply_arrived_or_gone(self) -> None:
        """Its socket is closed: give the reader a moment to find out why, and raise that."""
        deadline = time.monotonic() + 1.0
        while self._failure is None and time.monotonic() < deadline:
            time.sleep(0.001)
        liveness.check()
        raise NodeDiedError("the session's node process does not answer; call init() to start anew")

    def tell(self, frame: bytes) -> None:
        """Send it what it does not answer."""
        with self._send_lock:
            try:
                self._sock.sendall(frame)
            except OSError:
                return  # it is gone

    # ---- its end ---------------------------------------------------------------------------

    def kill(self) -> None:
        """End it at once; `stop` does the rest."""
        if self._child is not None:
            self._child.kill()

    def stop(self, seconds: float) -> None:
        """Have it end, or end it after so long, and all that is left of its session with it."""
        assert self._child is not None
        try:
            self._sock.sendall(protocol.frame(protocol.STOP))
        except OSError:
            pass
        if self._reader is not threading.current_thread():
            self._reader.join(seconds)
        if self._child.wait(seconds) is None:
            self._child.kill()
            self._child.wait()
        if self._child.returncode != 0:
            self._kill_left_behind()
        self._let_go()

    def _let_go(self) -> None:
        if self._child is not None:
            self._child.wait()
            self._child.close()
        self._sock.close()
        control.set_bell(-1)
        tasks.set_hold_fd(-1)
        for fd in (self.bell, self._holding):
            if fd >= 0:
                os.close(fd)

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

        mark = f"{protocol.SESSION_VARIABLE}={self._config['mark']}".encode()
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


def _above_standard(sock: protocol.Socket) -> protocol.Socket:
    return protocol.Socket(fileno=above_standard(sock.detach()))
