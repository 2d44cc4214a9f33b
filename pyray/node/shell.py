"""The node's shell: turns what happens into events for the scheduler, and does what it says.

One thread, one loop.  It sleeps in epoll until a bell rings (an eventfd that submitters and workers
write to when shared memory has news for it), a worker ends (pidfd) or prints (pipe), somebody calls
(socket), or the driver ends (pidfd).
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
from pyray._core import (
    cancelling,
    control,
    holds,
    recovery,
    serializer,
    shm,
    spilling,
    store,
    tasks,
)
from pyray.exceptions import (
    OutOfMemoryError,
    OwnerDiedError,
    SessionError,
    WorkerCrashedError,
    describe_exit,
)
from pyray.node import messages as m
from pyray.node.actors import Actors
from pyray.node.cancels import Cancels
from pyray.node.dedicated import Dedicated
from pyray.node.groups import Groups
from pyray.node.memory import Shortage
from pyray.node.resources import from_units
from pyray.node.scheduler import Scheduler, SchedulerConfig
from pyray.node.state import Remembered, names_of, tell_of_actor, tell_of_worker
from pyray.node.watch import Watch
from pyray.node.workers import (
    PROC_ALIVE,
    SHAPED_ACTOR,
    SHAPED_BLOCKED,
    SHAPED_NONE,
    SHAPED_RUNS,
    SHAPED_WANTS,
    TASK_NODE,
    Given,
    Pipe,
    Worker,
    children,
    fork_worker,
    seize,
)
from pyray.placement import Place

TICK_SECONDS = 1.0
# How often the node looks at the fast path while that and tasks of other shapes take turns.
TURN_SECONDS = 0.01
# A worker that has been between two tasks for so long is not going to take the next soon.
STUCK_SECONDS = 0.05
# What an idle worker may take to end by itself before it is killed with the rest.
GRACE_SECONDS = 0.25
# Output for the driver that may pile up before the workers' pipes are left alone for a while.
BACKLOG = 4 << 20


class Shell:
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
        self.workers: dict[int, Worker] = {}
        self.by_fd: dict[int, Callable[[int], None]] = {}
        self.queue: deque[m.Event] = deque()
        self.shapes: dict[Any, int] = {}
        self.shape_numbers = 0
        # Of each shape: exclusive, environment, and the placement group as the worker is told it.
        self.kinds: dict[int, tuple[bool, str | None, str]] = {}
        self.standstill: m.CapReached | None = None  # one that something may still end
        self.shaped: dict[int, int] = {}  # task that the scheduler knows -> its shape
        self.gpu_names: list[str] = []
        self.sweeps = 0
        self.ended = False
        self.fast_blocked = 0
        self.short_since = 0.0  # since when fewer tokens are asked for than the scheduler wants
        self.released = False
        self.crash: tuple[int, str, str | None, int | None] = (0, "ended", None, None)
        self.forced = False  # that worker was killed to cancel its task
        self.refused = ""  # why the last worker could not be forked
        self.shortage: Shortage | None = None  # that worker was ended for its memory

    # ---- life ------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve the session until it ends; never returns."""
        self.sock.setblocking(True)
        first = protocol.read_frame(self.sock)
        if first is None or first[0] != protocol.CONFIG:
            os._exit(1)
        self.config: dict[str, Any] = pickle.loads(first[1])
        self.sock.setblocking(False)
        spilling.set_directory(*self.config["spill"])
        sys.path[:] = self.config["sys_path"]
        os.chdir(self.config["cwd"])
        self.gpu_names = self.config["gpus"]
        self.scheduler = Scheduler(
            SchedulerConfig(
                num_cpus=self.config["num_cpus"],
                num_gpus=self.config["num_gpus"],
                resources=self.config["resources"],
                max_workers=min(
                    self.config["max_workers"], machine.workers_by_files(self.files[1])
                ),
            )
        )
        limit = self.scheduler.process_limit
        size = self.config["num_cpus"]
        self.dedicated = Dedicated(self.workers, limit, size, self._fork, self._task_ended)
        self.actors = Actors(self.config["namespace"], self._place_actor, self._forget)
        self.past = Remembered()
        self.actors.on_forget = self.past.actor_forgotten
        self.cancels = Cancels(self.workers, self.name_of, self._forget)
        self.groups = Groups(self.scheduler, self.feed, self._forget_shapes, self.config)
        self.watch = Watch(
            self.config, self.workers, self.actors, self.name_of, self._say, self._listen
        )
        import cloudpickle  # noqa: F401  (workers start with it)

        import pyray.worker.main  # noqa: F401  (so that a fork has nothing left to import)

        # Workers share what is there now: looking for garbage would write to all of it.
        gc.freeze()
        gc.enable()
        self.epoll = select.epoll()
        self._watch(self.sock.fileno(), self._on_driver)
        self._watch(self.bell, self._on_bell)
        self._watch(self.driver_fd, self._on_driver_end)
        if self.watch.alarm >= 0:
            self._watch(self.watch.alarm, lambda events: self.watch.woken())
        self.feed(m.Started())
        self._send(protocol.frame(protocol.HELLO))
        next_tick = time.monotonic() + TICK_SECONDS
        while not self.ended:
            timeout = -1.0
            if self._needs_ticks():
                timeout = max(0.0, next_tick - time.monotonic())
            turn = self.scheduler.deferring or self.scheduler.wanted_tokens > 0
            if turn:
                timeout = TURN_SECONDS
            if self.cancels.busy:
                self.cancels.work()
                timeout = 0.0
            again = self.cancels.again
            if again is not None and not 0 <= timeout <= again:
                timeout = again
            due = self.watch.due()
            if due is not None and not 0 <= timeout <= due:
                timeout = due
            for fd, events in self.epoll.poll(timeout):
                handler = self.by_fd.get(fd)
                if handler is not None:
                    handler(events)
            if again is not None:
                self.cancels.interrupt_again()
            if turn:
                self.look()
            if due is not None:
                self.watch.look()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_SECONDS
                if self._needs_ticks():
                    self.look()  # nobody rings when a worker's wait is over
                    recovery.release_empty()
                    tasks.sweep()
                    self.dedicated.tick(time.monotonic())
                    if self.standstill is not None:
                        self._refuse(self.standstill)
                    self.feed(m.Tick(time.monotonic(), control.idle_workers()))
        self._finish()

    def _needs_ticks(self) -> bool:
        """Nothing ticks in an idle session: it is to use no CPU at all."""
        return (
            sum(not w.dedicated for w in self.workers.values()) > self.config["num_cpus"]
            or bool(self.dedicated.idle())
            or self.standstill is not None
            or recovery.pending()
            or bool(self.shaped)
            or bool(self.groups.pending)
            or holds.duties()
            or tasks.holding()
        )

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
        ours = {w.pid for w in self.workers.values()}
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
                self.watch.pressed()

        self.by_fd[fd] = on_pressure
        self.epoll.register(fd, select.EPOLLPRI)

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
            idle = [w for w in self.workers.values() if not control.process_view(w.slot)[3]]
            left = [w for w in idle if not w.reap()]
            if not left:
                break
            waiting = select.poll()
            for w in left:
                waiting.register(w.pidfd, select.POLLIN)
            waiting.poll(5)
        for w in self.workers.values():
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
        for w in self.workers.values():
            self._drain(w)
        self.sock.settimeout(1.0)
        try:
            while self.outbox:
                self.sock.sendall(self.outbox.popleft())
        except OSError:
            pass
        os._exit(0)

    # ---- the driver and its calls ----------------------------------------------------------

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
                self._send(self._answer(payload))
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
                    worker.link.sendall(self._answer(payload))
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
        self._send(protocol.output(2, worker.pid, b"worker", line.encode()))

    def _answer(self, payload: bytes) -> bytes:
        number, body = protocol.split(payload)
        try:
            operation, args = pickle.loads(body)
            return protocol.reply(number, True, getattr(self, "call_" + operation)(*args))
        except Exception as error:
            try:
                return protocol.reply(number, False, error)
            except Exception:
                return protocol.reply(number, False, SessionError(f"{type(error)}: {error}"))

    def call_shape(
        self,
        request: dict[str, float],
        exclusive: bool = False,
        env: str | None = None,
        place: Place | None = None,
        keeps_cpus: bool = False,
    ) -> tuple[int | None, str | None]:
        """Number of a shape of resources, or why it can never be met.

        `exclusive` tasks have a process of their own each, and keep what they are given; those with
        an environment share one with others of the same.
        """
        amounts = frozenset((k, float(v)) for k, v in request.items() if v or k == "CPU")
        key = (amounts, exclusive, env, place, keeps_cpus)
        found = self.shapes.get(key)
        if found is not None:
            return found, None
        record = None
        if place is None:
            reason = self.scheduler.why_infeasible(request)
        else:
            record, reason = self.groups.find(place, request)
        if reason is not None:
            return None, reason
        if key == (frozenset({("CPU", 1.0)}), False, None, None, False):
            return 0, None  # the shape that workers run without the node
        self.shape_numbers += 1
        if not self.shape_numbers & 0xFFFF:
            self.shape_numbers += 1  # what has none of the lower half is no shape
        number = self.shape_numbers
        if number >= 1 << 31:
            return None, "is one shape too many: a session knows at most two thousand million"
        if place is None or self.groups.add_shape(record, number):
            group = ""
            if record is not None and place is not None:
                group = f"{record.number}{'+' if place.captures else ''}"
            self.shapes[key] = number
            self.kinds[number] = (exclusive, env, group)
            self.feed(
                m.ShapeRegistered(
                    number,
                    request,
                    exclusive or env is not None,
                    exclusive,
                    keeps_cpus,
                    record.number if record else 0,
                    place.bundle if place else -1,
                )
            )
        return number, None

    def _forget_shapes(self, numbers: set[int]) -> None:
        """Their placement group has been removed: who asks gets others, whose tasks fail."""
        self.shapes = {key: n for key, n in self.shapes.items() if n not in numbers}
        for number in numbers:
            self.kinds.pop(number, None)

    def call_create_group(self, spec: dict[str, Any]) -> None:
        """Make a placement group."""
        self.groups.create(spec)

    def call_group_ready(self, id: str, slot: int) -> store.ObjectID:
        """An object that is sealed when a placement group is reserved."""
        return self.groups.ready(id, slot)

    def call_remove_group(self, id: str) -> None:
        """Remove a placement group."""
        self.groups.remove(id)

    def call_group_table(self, id: str | None) -> list[dict[str, Any]]:
        """Placement groups."""
        return self.groups.table(id)

    def call_named_group(self, name: str) -> dict[str, Any] | None:
        """The placement group of this name."""
        return self.groups.named(name)

    def call_numbered_group(self, number: int) -> dict[str, Any]:
        """The placement group of this number."""
        return self.groups.numbered(number)

    def call_create_actor(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Make an actor; what its handle consists of."""
        return self.actors.create(spec)

    def call_get_actor(self, name: str, namespace: str | None, slot: int) -> dict[str, Any]:
        """What a handle of a named actor consists of, for the process in this slot."""
        return self.actors.get(name, namespace, slot)

    def call_named_actors(self, everywhere: bool) -> list[dict[str, str]]:
        """Names and namespaces of named actors."""
        return self.actors.named(everywhere)

    def call_actor_spec(self, handle: int) -> dict[str, Any]:
        """What an actor's process needs to know."""
        return self.actors.spec(handle)

    def call_actor_made(self, handle: int) -> None:
        """An actor is there that is never made again."""
        self.actors.made(handle)

    def call_actor_unmade(self, handle: int, error: store.ObjectID) -> None:
        """An actor's constructor has failed."""
        self.actors.unmade(handle, error)

    def call_kill_actor(self, handle: int, no_restart: bool) -> None:
        """End an actor."""
        self.actors.kill(handle, no_restart)

    def call_settle_actor(self, handle: int, slot: int) -> None:
        """Fail a call that came too late."""
        self.actors.settle(handle, slot)

    def _place_actor(self, task: int, shape: int, depth: int) -> None:
        self.shaped[task] = shape
        self.feed(m.TaskSubmitted(task, shape, depth))

    def call_cancel(self, task: int, force: bool, recursive: bool) -> None:
        """Cancel a task."""
        self.cancels.cancel(task, force, recursive)

    def call_cancel_children(self, task: int) -> None:
        """Cancel what a cancelled task has submitted."""
        self.cancels.children(task)

    def _forget(self, task: int) -> None:
        self.feed(m.TaskCancelled(task))

    def call_resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """(all, available) resources."""
        self.look()
        free = control.available_tokens()
        return self.scheduler.totals(), self.scheduler.available(free)

    def call_workers(self) -> list[dict[str, Any]]:
        """What the workers are doing."""
        out = []
        for w in self.workers.values():
            _, blocked, _, current, ran = control.process_view(w.slot)
            task = control.task_view(current) if current else None
            out.append(
                {
                    "pid": w.pid,
                    "slot": w.slot,
                    "up": w.up,
                    "blocked": bool(blocked),
                    "dedicated": w.dedicated,
                    "task": self.name_of(current) if task else None,
                    "ran": ran,
                }
            )
        return out

    def call_state(self, what: str) -> Any:
        """Workers, actors, their names, shapes, or which of those are in placement groups: for
        those who list what there is."""
        if what == "workers":
            return [*self.past.workers, *(tell_of_worker(w) for w in self.workers.values())]
        if what == "actors":
            self.look()
            groups = self.groups.of_shapes()
            return [
                {**tell_of_actor(actor), "group": groups.get(actor.spec["shape"])}
                for actor in self.actors.all.values()
            ]
        if what == "groups of shapes":
            return self.groups.of_shapes()
        if what == "names":
            return names_of(self.actors, self.past)
        return {number: dict(key[0]) for key, number in self.shapes.items()}

    def call_validate(self, number: int) -> Any:
        """Whether the books are in order: see `pyray.accounting`."""
        from pyray.node import books

        return books.validate(self, number)

    def call_task_name(self, task: int) -> str:
        """What a task runs."""
        return self.name_of(task)

    def name_of(self, task: int) -> str:
        """What a task runs: a function, ``Class.method``, or ``Class.__init__``."""
        actor, creates, number = control.task_target(task)
        if actor:
            return self.actors.name_of(actor, creates, number)
        return definitions.name_of(number)

    def call_explain(self, task: int) -> str:
        """Where a task stands, for the line that a long wait prints."""
        view = control.task_view(task)
        if view is None:
            return "finished"
        status, attempt, _, shape, _, _ = view
        name = self.name_of(task)
        again = f" (attempt {attempt + 1})" if attempt else ""
        if status in (3, 4):
            for w in self.workers.values():
                v = control.process_view(w.slot)
                if v[3] == task:
                    doing = "waits in pid" if v[1] else "runs in pid"
                    return f"{name}{again} {doing} {w.pid}"
            return f"{name}{again} runs"
        if status == 1:
            return f"{name} waits for its arguments"
        if self.watch.holds(task):
            return f"{name}{again} waits for memory: its worker was ended for want of it"
        if shape:
            why = self.scheduler.why_waiting(task, control.token_counts()[0])
            return f"{name} is queued: {why or 'for resources'}"
        if control.task_target(task)[0]:
            return f"{name} waits for its turn at the actor"
        lent, size = self.scheduler.lent_tokens, self.config["num_cpus"]
        held = f", and actors and placement groups hold {lent} of {size}" if lent else ""
        return f"{name} is queued for a CPU{held}"

    def call_explain_ref(self, ref: store.ObjectID) -> str:
        """The same for an object that no task makes."""
        return self.groups.explain(ref)

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

    # ---- shared memory has news ------------------------------------------------------------

    def _on_bell(self, events: int) -> None:
        try:
            os.read(self.bell, 8)
        except BlockingIOError:
            return
        if self.children_ended:
            self.children_ended = False
            self._reap_adopted()
        self.look()

    def look(self) -> None:
        """Find out what has changed in shared memory and tell the scheduler."""
        news = control.new_shaped_tasks()
        if news or self.shaped or self.groups.pending:
            # First, since what follows is decided by it.
            ready, depth = control.fast_queue()
            running = control.token_counts()[2]
            self.feed(m.FastDemand(ready + running if ready else 0, depth=depth))
        self._look_at_workers()
        for task, shape, depth in news:
            if self.watch.holds(task):
                continue
            if task in self.shaped:
                self.feed(m.TaskUrgent(task))
            else:
                self.shaped[task] = shape
                self.feed(m.TaskSubmitted(task, shape, depth))
        self.actors.look()
        self._count_tokens()
        self._collect_tokens()
        self._renew_wish()
        if control.take_spawn_request():
            if control.idle_workers():
                control.look_again()
            elif not self._somebody_will_look():
                self.feed(m.NeedWorker(1))
        elif self.scheduler.short_of_workers and control.idle_workers():
            for w in self.workers.values():
                if w.up and w.task is None and not w.dedicated:
                    self.feed(m.WorkerReady(w.slot))
                    break
        if self.sweeps != control.sweeps():
            self.sweeps = control.sweeps()
            tasks.sweep()
            recovery.release_empty()
            self._send(protocol.frame(protocol.SWEEP))
            control.wake_workers()

    def _somebody_will_look(self) -> bool:
        """Whether some worker is between two tasks: it looks for work before it parks, so another
        is not needed. One that has been there for long is stopped, and does not count."""
        now = time.monotonic()
        found = False
        for w in self.workers.values():
            _, blocked, _, current, ran = control.process_view(w.slot)
            if current or blocked or w.task is not None or w.retired or w.dedicated:
                continue
            if w.between is None or w.between[0] != ran:
                w.between = (ran, now)
            found = found or now - w.between[1] < STUCK_SECONDS
        return found

    def _look_at_workers(self) -> None:
        blocked = 0
        for w in list(self.workers.values()):
            status, is_blocked, shaped, _, _ = control.process_view(w.slot)
            if not w.up and status == PROC_ALIVE:
                w.up = True
                if not w.dedicated:
                    self.feed(m.WorkerReady(w.slot))
                    continue  # it may have been given a task by now, so what was read is old
            if w.task is None:
                blocked += is_blocked and not w.dedicated
                continue
            if w.state == SHAPED_RUNS and shaped == SHAPED_ACTOR:
                w.state = SHAPED_ACTOR
                # From here on it costs the node nothing: it blocks for good.
                self.shaped.pop(w.task, None)
                self.feed(m.WorkerBlocked(w.slot))
            if w.state == SHAPED_RUNS and shaped in (SHAPED_BLOCKED, SHAPED_WANTS):
                w.state = SHAPED_BLOCKED
                self.feed(m.WorkerBlocked(w.slot))
            if w.state == SHAPED_BLOCKED and shaped == SHAPED_WANTS:
                w.state = SHAPED_WANTS
                self.feed(m.WorkerUnblocked(w.slot))
            if shaped == SHAPED_NONE:
                self._task_ended(w)
        if blocked != self.fast_blocked:
            self.fast_blocked = blocked
            self.feed(m.FastBlocked(blocked))

    def _task_ended(self, worker: Worker) -> None:
        """A worker is through with the task that it was given."""
        task, worker.task = worker.task, None
        assert task is not None
        self.feed(m.TaskFinished(task, worker.slot))
        if worker.dedicated:
            self.dedicated.ended(worker, task)
        shape = self.shaped.pop(task, 0)
        view = control.task_view(task)
        if view is not None and view[0] == TASK_NODE:
            # A retry after an exception: its worker has queued it again.
            self.shaped[task] = shape
            self.feed(m.TaskSubmitted(task, shape, view[4]))

    def _count_tokens(self) -> None:
        extra = control.token_counts()[1] - self.scheduler.held_tokens
        if extra > 0:
            self.feed(m.TokensAcquired(extra))

    def _renew_wish(self) -> None:
        """Who hands a token in counts it off the wish first, and may be stopped before it comes."""
        wanted, now = self.scheduler.wanted_tokens, time.monotonic()
        if control.wanted_tokens() >= wanted:
            self.short_since = 0.0
        elif not self.short_since:
            self.short_since = now
        elif now - self.short_since > STUCK_SECONDS:
            self.short_since = 0.0
            control.want_tokens(wanted)

    def _collect_tokens(self) -> None:
        """Take free tokens for what the scheduler wants; workers hand in others between tasks."""
        wanted = control.wanted_tokens()
        if wanted:
            got = control.take_tokens(wanted)
            if got:
                control.want_tokens(wanted - got)
                self.feed(m.TokensAcquired(got))

    # ---- the scheduler ---------------------------------------------------------------------

    def feed(self, event: m.Event) -> None:
        """Hand the scheduler an event, and carry out what it says, and what follows from that."""
        self.queue.append(event)
        if len(self.queue) > 1:
            return  # the call that is under way will come to it
        while self.queue:
            self.released = False
            for instruction in self.scheduler.handle(self.queue[0]):
                self._carry_out(instruction)
            self.queue.popleft()

    def _carry_out(self, i: m.Instruction) -> None:
        match i:
            case m.Assign():
                self._assign(i)
            case m.ResumeWorker():
                self.workers[i.worker].state = SHAPED_RUNS
                control.resume(i.worker)
            case m.WantTokens():
                control.want_tokens(i.count)
                if not self.released:
                    self._collect_tokens()
            case m.ReleaseTokens():
                # What was given back is the fast path's turn: it is not taken again at once.
                self.released = True
                control.give_tokens(i.count)
            case m.StartWorker():
                self._start_worker()
            case m.StopWorker():
                slot = control.retire_idle()
                if slot is not None:
                    self.workers[slot].retired = time.monotonic()
            case m.Requeue():
                self.shaped.pop(i.task, None)
                if cancelling.cancelled(i.task):
                    self._fail(i.task, "it was cancelled")
                elif self.shortage is not None:
                    self.watch.hold(i.task, i.attempt, self.shortage)
                else:
                    control.requeue(i.task, i.attempt)
            case m.FailTask():
                self._fail(i.task, i.reason)
            case m.Dropped():
                self.shaped.pop(i.task, None)
            case m.GroupReserved():
                self.groups.reserved(i.group)
            case m.GroupGone():
                self._group_gone(i.task)
            case m.EndWorker():
                self._end_worker(i.worker, i.task)
            case m.TokensLent():
                control.lend_tokens(i.count)
            case m.CapReached():
                self._refuse(i)
            case m.PoolBroken():
                text = (
                    f"{i.failures} workers in a row ended while they were starting; their output "
                    f"above says why{self.refused}"
                )
                if not any(w.up and not w.dedicated for w in self.workers.values()):
                    self._send(protocol.frame(protocol.FATAL, text.encode()))

    def _assign(self, i: m.Assign) -> None:
        gpus = ",".join(self.gpu_names[g] for g in i.gpu_ids)
        cpus = from_units(i.allocation.request.cpus)
        exclusive, env, group = self.kinds[self.shaped[i.task]]
        lease = f"{gpus};{cpus:g};{group}"
        if i.dedicated:
            answer = self.dedicated.assign(i.task, lease, exclusive, env)
            if isinstance(answer, m.Assigned):
                self.actors.placed(i.task, answer.worker, self.workers[answer.worker].pid)
            elif isinstance(answer, m.AssignRefused):
                del self.shaped[i.task]
                self.actors.refused(i.task)
            self.queue.append(answer)
            return
        slot = control.assign(i.task, lease)
        deadline = time.monotonic() + 0.0005
        while slot is None and self._about_to_park() and time.monotonic() < deadline:
            slot = control.assign(i.task, lease)
        if slot is None:
            self.queue.append(m.AssignFailed(i.task))
            return
        worker = self.workers[slot]
        if worker.task is not None:
            self._task_ended(worker)  # it parked before its last task's end was seen here
        worker.task = i.task
        worker.state = SHAPED_RUNS
        self.queue.append(m.Assigned(i.task, slot))

    def _group_gone(self, task: int) -> None:
        """A task was to run in a placement group that has been removed."""
        view = control.task_view(task)
        shape = self.shaped.pop(task, 0) if view is None else view[3]
        self.shaped.pop(task, None)
        actor = self.actors.by_task.get(task)
        if actor is not None:
            self.actors.end_with_group(actor, self.groups.label_of(shape))
        elif view is not None:
            control.fail_queued(task, self.groups.error_of(shape, self.name_of(task)))

    def _end_worker(self, slot: int, task: int) -> None:
        """End a worker that runs a task in a placement group that has been removed."""
        worker, view = self.workers.get(slot), control.task_view(task)
        actor = self.actors.by_slot.get(slot)
        if worker is None or view is None:
            return
        if actor is not None:
            self.actors.end_with_group(actor, self.groups.label_of(view[3]))
            return
        if control.fail_queued(task, self.groups.error_of(view[3], self.name_of(task))):
            return  # it was not there yet, and will find nothing to do
        if seize(worker, lambda: control.has_claimed(slot, task)):
            worker.forced = cancelling.ids_of(task)
            os.kill(worker.pid, signal.SIGKILL)

    def _about_to_park(self) -> bool:
        """Whether some worker looks for work at this moment: it gives up after some 50 us."""
        return any(
            w.up
            and w.task is None
            and not (w.retired or w.dedicated)
            and not control.process_view(w.slot)[3]
            for w in self.workers.values()
        )

    def _refuse(self, i: m.CapReached) -> None:
        """Nothing can move at the limit of processes: the wait of the deepest task is to raise."""
        self.standstill = None
        if not self.scheduler.at_standstill:
            return
        if self.dedicated.moving() or self.dedicated.retire_one():
            self.standstill = i  # what moves outside the pool may end it: look again later
            return
        blocked = [w.slot for w in self.workers.values() if control.process_view(w.slot)[1]]
        if blocked:
            control.refuse(max(blocked, key=control.depth_of), i.cap)

    # ---- workers ---------------------------------------------------------------------------

    def _start_worker(self) -> None:
        try:
            self._fork()
        except OSError as error:
            # One worker fewer, not the end of the session.
            self.refused = f"; the system refused one: {error}{machine.which_limit(error)}"
            self.queue.append(m.WorkerDied(-1))

    def _fork(self, given: Given | None = None) -> Worker:
        worker = fork_worker(self.config, self._close_in_child, given)
        self.workers[worker.slot] = worker
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
        if self.watch.fd is not None and self.watch.fd >= 0:
            os.close(self.watch.fd)
        self.sock.close()
        os.close(self.driver_fd)
        for w in self.workers.values():
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
        code = worker.code
        self._drain(worker)
        for fd in (worker.pidfd, worker.link.fileno(), *(p.fd for p in worker.pipes)):
            self._unwatch(fd)
        if control.stopping():
            self.ended = True  # workers go by themselves; nothing is to be replaced or retried
        slot = worker.slot
        # What an actor had taken is settled with the actor.
        # Now: what follows may fork another actor into this slot.
        actor = self.actors.leave(slot)
        lost = None if actor is not None else control.lost_task(slot)
        ended = cancelling.ids_of(lost[0]) if lost else []
        worker.close()
        # While it is being cleared up the worker is still in the books.
        what, signal_name, exit_code = describe_exit(code)
        what = self.watch.ended(worker, what, actor is not None)
        self.past.worker_ended(worker, what, code)
        owner = OwnerDiedError(
            f"the worker that submitted this task (pid={worker.pid}) {what} before the task started"
        )
        recovery.recover(slot, owner, worker.forced)
        del self.workers[slot]
        if self.ended:
            return
        self.feed(m.DedicatedDied(slot) if worker.dedicated else m.WorkerDied(slot))
        if worker.task is not None:
            shape = self.shaped.pop(worker.task, 0)
            view = control.task_view(worker.task)
            again = view is not None and view[0] == TASK_NODE
            if again and worker.dedicated:
                again = self.dedicated.died_before(worker, worker.task, what)
            if view is not None and again and self.actors.not_taken_up(actor):
                # It died before it took up what it was given.
                self.shaped[worker.task] = shape
                self.feed(m.TaskSubmitted(worker.task, shape, view[4], front=True))
                actor = None
        self.groups.creator_ended(slot if actor else -1, ended)
        said = None if actor is None else self.actors.process_ended(actor, slot, code, what)
        if said is not None:
            name, line = said
            self._send(protocol.output(2, worker.pid, name.encode(), line.encode()))
        if lost is not None and lost[1] and worker.forced is None:
            self._say_crash(worker, lost[0], what)
        if lost is not None:
            task, started = lost
            view = control.task_view(task)
            if view is not None and self.groups.removed(view[3]):
                control.fail(task, self.groups.error_of(view[3], self.name_of(task)))
            elif view is not None:
                self.crash = (worker.pid, what, signal_name, exit_code)
                self.forced = worker.forced is not None
                self.shortage = worker.shortage
                self.feed(m.TaskLost(task, started, view[1], view[2]))
                self.shortage = None
        # It may have promised the node a token that it did not come to hand over.
        self._count_tokens()
        control.want_tokens(self.scheduler.wanted_tokens)
        control.wake_everyone()
        self.look()

    def _say_crash(self, worker: Worker, task: int, what: str) -> None:
        """A line in the driver's output, since nobody may ever get the task's result."""
        view = control.task_view(task)
        if view is not None:
            name = self.name_of(task)
            line = f"this worker {what} while it ran {name}"
            again = view[2] < 0 or view[1] < view[2]
            if again and not cancelling.cancelled(task):
                line += f"; the task is run again (retry {view[1] + 1} of {view[2]})"
            self._send(protocol.output(2, worker.pid, name.encode(), line.encode()))

    def _say(self, line: str) -> None:
        """A line of the node's own in the driver's output."""
        self._send(protocol.output(2, os.getpid(), b"node", line.encode()))

    def _fail(self, task: int, reason: str) -> None:
        """Fail a task whose worker died."""
        view = control.task_view(task)
        if view is None:
            return
        pid, what, signal_name, exit_code = self.crash
        name = self.name_of(task)
        if cancelling.cancelled(task):
            how = "by force: its worker" if self.forced else "while it ran, and its worker"
            cancelling.fail_cancelled(task, name, f"was cancelled {how} (pid={pid}) {what}")
            return
        short = self.shortage
        how = "was ended because memory ran short" if short is not None else what
        text = f"task {name}: its worker (pid={pid}) {how} while it ran"
        if view[1]:
            text += f", as in {view[1]} attempt(s) before"
        error = WorkerCrashedError(text, name, pid, signal_name, exit_code)
        if short is not None:
            text += f": {short.text}"
            error = OutOfMemoryError(text, name, pid, signal_name, None, short.memory, short.limit)
        control.fail(task, error)


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
    shell = Shell(memory, sock, bell, driver, spill)
    try:
        shell.run()
    except BaseException:
        # Not a normal exit: that would wait for the workers, which wait for us.
        text = traceback.format_exc()
        sys.stderr.write(text)
        sys.stderr.flush()
        shell.give_up(f"it met an error of its own: {text.splitlines()[-1]}")
