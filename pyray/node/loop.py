"""The node process: one thread that waits for what happens, and has it dealt with.

It sleeps in epoll until a bell rings (an eventfd that submitters and workers write to when shared
memory has news for it), a worker ends (pidfd) or prints (pipe), somebody calls (socket), or the
driver ends (pidfd).
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from pyray import definitions, machine, protocol, stacks
from pyray._core import control, serializer, shm, spilling, store, tasks
from pyray.node import messages as m
from pyray.node.calls import Calls
from pyray.node.cancels import Cancels
from pyray.node.deaths import Deaths
from pyray.node.shell import Shell
from pyray.node.state import Remembered
from pyray.node.workers import Given, Pipe, Worker, children, fork_worker

TICK_SECONDS = 1.0
# How often the node looks at the fast path while that and tasks of other shapes take turns.
TURN_SECONDS = 0.01
# What an idle worker may take to end by itself before it is killed with the rest.
GRACE_SECONDS = 0.25
# Output for the driver that may pile up before the workers' pipes are left alone for a while.
BACKLOG = 4 << 20


class Loop:
    """The node process.

    Parameters
    ----------
    memory, sock, bell : int
        Descriptors: the session's memory, the socket to the driver, the eventfd.
    driver : int
        The driver's process ID.
    spill : int
        Descriptor of the spill file, or -1.
    """

    def __init__(self, memory: int, sock: int, bell: int, driver: int, spill: int = -1) -> None:
        shm.adopt_orphans()
        shm.set_process_name("pyray node")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGCHLD, self._on_signal)
        self.children_ended = False
        # Each worker takes some descriptors here; workers get the user's limit back.
        self.files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.files[1], self.files[1]))
        for fd in (memory, sock, bell, spill):
            if fd >= 0:
                os.set_inheritable(fd, False)
        try:
            self.driver_fd = os.pidfd_open(driver)
        except ProcessLookupError:
            os._exit(0)  # it has ended already
        if os.getppid() != driver:
            os._exit(0)
        self.sock = protocol.Socket(fileno=sock)
        self.bell = bell
        shm.attach(memory, 1, spill)
        control.set_bell(bell)
        tasks.reset()
        serializer.set_hooks(
            store.ObjectID, store.pack, store.unpack, None, definitions.import_definition
        )
        self.frames = protocol.Frames()
        self.outbox: deque[bytes] = deque()
        self.outbox_bytes = 0
        self.by_fd: dict[int, Callable[[int], None]] = {}
        self.ended = False

    # ---- life ------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve the session until it ends; never returns."""
        self._begin()
        watch = self.shell.watch
        next_tick = time.monotonic() + TICK_SECONDS
        while not self.ended:
            timeout = -1.0
            if self.shell.needs_ticks():
                timeout = max(0.0, next_tick - time.monotonic())
            turn = self.shell.takes_turns()
            if turn:
                timeout = TURN_SECONDS
            if self.cancels.busy:
                self.cancels.work()
                timeout = 0.0
            again = self.cancels.again
            if again is not None and not 0 <= timeout <= again:
                timeout = again
            due = watch.due()
            if due is not None and not 0 <= timeout <= due:
                timeout = due
            for fd, events in self.epoll.poll(timeout):
                handler = self.by_fd.get(fd)
                if handler is not None:
                    handler(events)
            if again is not None:
                self.cancels.interrupt_again()
            if turn:
                self.shell.look()
            if due is not None:
                watch.look()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_SECONDS
                if self.shell.needs_ticks():
                    self.shell.tick()
        self._finish()

    def _begin(self) -> None:
        self.sock.setblocking(True)
        first = protocol.read_frame(self.sock)
        if first is None or first[0] != protocol.CONFIG:
            os._exit(1)
        self.config: dict[str, Any] = pickle.loads(first[1])
        self.sock.setblocking(False)
        spilling.set_directory(*self.config["spill"])
        sys.path[:] = self.config["sys_path"]
        os.chdir(self.config["cwd"])
        files = machine.workers_by_files(self.files[1])
        most = min(self.config["max_workers"], files)
        self.shell = Shell(self.config, most, self._fork, self._send, self._listen)
        past = Remembered()
        self.shell.actors.on_forget = past.actor_forgotten
        self.cancels = Cancels(self.shell.workers, self.shell.name_of, self.shell.forget)
        self.deaths = Deaths(self.shell, past)
        self.calls = Calls(self.shell, self.cancels, past)
        import cloudpickle  # noqa: F401  (workers start with it)

        import pyray.worker.main  # noqa: F401  (so that a fork has nothing left to import)

        # Workers share what is there now: looking for garbage would write to all of it.
        gc.freeze()
        gc.enable()
        self.epoll = select.epoll()
        self._watch(self.sock.fileno(), self._on_driver)
        self._watch(self.bell, self._on_bell)
        self._watch(self.driver_fd, self._on_driver_end)
        watch = self.shell.watch
        if watch.alarm >= 0:
            self._watch(watch.alarm, lambda events: watch.woken())
        self.shell.feed(m.Started())
        self._send(protocol.frame(protocol.HELLO))

    def _watch(self, fd: int, handler: Callable[[int], None]) -> None:
        self.by_fd[fd] = handler
        self.epoll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        if self.by_fd.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def _on_signal(self, number: int, frame: Any) -> None:
        if number == signal.SIGCHLD:
            self.children_ended = True
        else:
            self.ended = True
        # A handler alone does not end the wait in epoll, which is resumed after it.
        os.eventfd_write(self.bell, 1)

    def _reap_adopted(self) -> None:
        """Reap what tasks left behind and the kernel gave to us; workers have their own way."""
        ours = {w.pid for w in self.shell.workers.values()}
        for pid in children(os.getpid()):
            if pid not in ours:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue

    def _listen(self, fd: int) -> None:
        def on_pressure(events: int) -> None:
            if events & select.EPOLLERR:
                self._unwatch(fd)  # the cgroup has gone, and would be news for ever
            else:
                self.shell.watch.pressed()

        self.by_fd[fd] = on_pressure
        self.epoll.register(fd, select.EPOLLPRI)

    def _on_bell(self, events: int) -> None:
        try:
            os.read(self.bell, 8)
        except BlockingIOError:
            return
        if self.children_ended:
            self.children_ended = False
            self._reap_adopted()
        self.shell.look()

    def _on_driver_end(self, events: int) -> None:
        self.ended = True

    def give_up(self, reason: str) -> NoReturn:
        """Tell the driver why, and end with everything."""
        try:
            self.sock.settimeout(1.0)
            self.sock.sendall(protocol.frame(protocol.FATAL, reason.encode()))
        finally:
            for pid in children(os.getpid()):
                _kill(pid)
            os._exit(1)

    def _finish(self) -> None:
        """End every process of the session, pass on what was printed, and go."""
        control.stop_all()
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            idle = [w for w in self.shell.workers.values() if not control.process_view(w.slot)[3]]
            left = [w for w in idle if not w.reap()]
            if not left:
                break
            waiting = select.poll()
            for w in left:
                waiting.register(w.pidfd, select.POLLIN)
            waiting.poll(5)
        for w in self.shell.workers.values():
            self._drain(w)
        # What is left, and what it leaves behind: orphans come to us, a subreaper.
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            found = children(os.getpid())
            for pid in found:
                _kill(pid)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            if found:
                time.sleep(0.001)
        for w in self.shell.workers.values():
            self._drain(w)
        self.sock.settimeout(1.0)
        try:
            while self.outbox:
                self.sock.sendall(self.outbox.popleft())
        except OSError:
            pass
        os._exit(0)

    # ---- who calls -------------------------------------------------------------------------

    def _on_driver(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if not events & (select.EPOLLIN | select.EPOLLHUP):
            return
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return
        try:
            frames = self.frames.feed(data)
        except ValueError as error:
            self.give_up(
                f"what came from the driver is no message ({error}): something there has "
                "written to the node's socket"
            )
        for kind, payload in frames:
            if kind == protocol.STOP:
                self.ended = True
            elif kind == protocol.CALL:
                self._send(self.calls.answer(payload))
            elif kind == protocol.INTERRUPT:
                self.cancels.interrupted(pickle.loads(payload))

    def _on_worker_call(self, worker: Worker, events: int) -> None:
        try:
            data = worker.link.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._unwatch(worker.link.fileno())
            return
        try:
            frames = worker.frames.feed(data)
        except ValueError as error:
            self._cut_off(worker, error)
            return
        for kind, payload in frames:
            if kind == protocol.CALL:
                worker.link.setblocking(True)
                worker.link.settimeout(1.0)
                try:
                    worker.link.sendall(self.calls.answer(payload))
                except OSError:
                    # Half a reply may be under way: whoever waits for it is to see the end instead.
                    self._unwatch(worker.link.fileno())
                    worker.link.shutdown(protocol.SHUT_RDWR)
                    return
                worker.link.setblocking(False)

    def _cut_off(self, worker: Worker, error: ValueError) -> None:
        """A worker's messages are none any more: its calls are to fail, and it goes on without."""
        self._unwatch(worker.link.fileno())
        worker.link.shutdown(protocol.SHUT_RDWR)
        line = f"what came from this worker is no message ({error}): something in its task has "
        line += "written to the node's socket, and the worker cannot call the node any more"
        self.shell.say(line, worker.pid, "worker")

    def _send(self, data: bytes) -> None:
        self.outbox.append(data)
        self.outbox_bytes += len(data)
        self._flush()

    def _flush(self) -> None:
        while self.outbox:
            data = self.outbox[0]
            try:
                n = self.sock.send(data)
            except BlockingIOError:
                n = 0
            except OSError:
                self.outbox.clear()
                self.outbox_bytes = 0
                self.ended = True
                return
            self.outbox_bytes -= n
            if n < len(data):
                self.outbox[0] = data[n:]
                break
            self.outbox.popleft()
        if self.sock.fileno() in self.by_fd:
            wanted = select.EPOLLIN | (select.EPOLLOUT if self.outbox else 0)
            self.epoll.modify(self.sock.fileno(), wanted)

    # ---- workers ---------------------------------------------------------------------------

    def _fork(self, given: Given | None) -> Worker:
        worker = fork_worker(self.config, self._close_in_child, given)
        self.shell.workers[worker.slot] = worker
        self._watch(worker.pidfd, partial(self._on_death, worker))
        for pipe in worker.pipes:
            self._watch(pipe.fd, partial(self._on_output, worker, pipe))
        self._watch(worker.link.fileno(), partial(self._on_worker_call, worker))
        return worker

    def _close_in_child(self) -> None:
        """In a freshly forked worker: close what is the node's."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_NOFILE, self.files)
        self.epoll.close()
        pressure = self.shell.watch.fd
        if pressure is not None and pressure >= 0:
            os.close(pressure)
        self.sock.close()
        os.close(self.driver_fd)
        for w in self.shell.workers.values():
            for pipe in w.pipes:
                os.close(pipe.fd)
            w.link.close()
            os.close(w.pidfd)

    def _on_output(self, worker: Worker, pipe: Pipe, events: int) -> None:
        if self.outbox_bytes > BACKLOG:
            # The driver does not keep up: leave it in the pipe, which makes the worker wait.
            time.sleep(0.001)
            return
        frames, end = pipe.read(worker.pid)
        for data in frames:
            self._send(data)
        if end:
            self._unwatch(pipe.fd)

    def _drain(self, worker: Worker) -> None:
        for pipe in worker.pipes:
            end = False
            while not end:
                frames, end = pipe.read(worker.pid)
                for data in frames:
                    self._send(data)
                if not frames:
                    break

    def _on_death(self, worker: Worker, events: int) -> None:
        worker.reap()
        self._drain(worker)
        for fd in (worker.pidfd, worker.link.fileno(), *(p.fd for p in worker.pipes)):
            self._unwatch(fd)
        if control.stopping():
            self.ended = True  # workers go by themselves; nothing is to be replaced or retried
        self.deaths.clear_up(worker, last=self.ended)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main(memory: int, sock: int, bell: int, driver: int, spill: int = -1) -> None:
    """Be the node process.

    Parameters
    ----------
    memory, sock, bell : int
        Inherited descriptors.
    driver : int
        Process ID of the driver.
    spill : int
        Another descriptor, of the spill file; -1: there is none.
    """
    stacks.answer()
    loop = Loop(memory, sock, bell, driver, spill)
    try:
        loop.run()
    except BaseException:
        # Not a normal exit: that would wait for the workers, which wait for us.
        text = traceback.format_exc()
        sys.stderr.write(text)
        sys.stderr.flush()
        loop.give_up(f"it met an error of its own: {text.splitlines()[-1]}")
