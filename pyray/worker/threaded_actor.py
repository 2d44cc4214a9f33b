"""An actor whose calls run side by side in threads."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any

from pyray._core import actors, control, futures, running
from pyray.worker.actor import BUSY_SECONDS, IDLE_SECONDS, chores

# The call that the asking thread or coroutine runs.
this_call: ContextVar[running.Call] = ContextVar("pyray_call")
# Calls that may be taken from the mailboxes before they can start.
AHEAD = 10_000


class Threads:
    """Threads for each concurrency group, started as they are needed.

    Parameters
    ----------
    host : Host
        The actor's mailboxes.
    limits : list of int
        Calls at a time, by number of the group.
    """

    def __init__(self, host: actors.Host, limits: list[int]) -> None:
        self.host = host
        self.limits = limits
        self.queues: list[SimpleQueue[running.Call]] = [SimpleQueue() for _ in limits]
        self.threads = [0] * len(limits)
        self.idle = [0] * len(limits)
        self.unfinished = 0
        self.lock = threading.Lock()
        self.exit_code: int | None = None
        self.waits = False
        self.ended = threading.Event()

    def submit(self, call: running.Call) -> None:
        """Have a claimed call run."""
        group = call.group
        with self.lock:
            self.unfinished += 1
            if self.idle[group]:
                self.idle[group] -= 1
            elif self.threads[group] < self.limits[group]:
                self.threads[group] += 1
                name = f"pyray-actor-{group}-{self.threads[group]}"
                threading.Thread(target=self._run, args=(group,), name=name, daemon=True).start()
        self.queues[group].put(call)

    def _run(self, group: int) -> None:
        waiting = self.queues[group]
        while True:
            call = waiting.get()
            if self.exit_code is not None:
                return  # the process is about to end: the node fails it, or has it run anew
            try:
                run_call(call)
            except running.WorkerExit as e:
                self.exit_code = int(e.code)
            del call
            with self.lock:
                self.unfinished -= 1
                if waiting.empty():
                    self.idle[group] += 1
            self.host.settle()
            if self.waits or self.exit_code is not None:
                self.ended.set()

    def wait(self) -> None:
        """Wait until a call has ended, or for a while."""
        self.waits = True
        self.ended.wait(BUSY_SECONDS)
        self.ended.clear()
        self.waits = False


def run_call(call: running.Call) -> None:
    """Run a call to its end, in this thread."""
    this_call.set(call)
    while True:
        try:
            result: Any = call.begin()
            if not call.over:
                call.finish(result)
            return
        except BaseException as error:
            if not call.fail(error):
                return


def serve_in_threads(host: actors.Host, limits: list[int]) -> int:
    """Run an actor's calls in threads until it ends; the process's exit code."""
    running.several_at_once(this_call)
    threads = Threads(host, limits)
    seconds = BUSY_SECONDS
    while True:
        futures.settle()  # calls may have given up the actor's CPUs while they waited
        if threads.unfinished >= AHEAD or (threads.unfinished and host.over):
            # Nothing to take at the mailboxes, and they would not make us wait.
            threads.wait()
            calls = []
        else:
            calls = host.take(seconds, 64)
        for call in calls:
            threads.submit(call)
        if calls:
            seconds = BUSY_SECONDS
            continue
        if threads.exit_code is not None:
            return threads.exit_code
        if control.stopping() or (host.over and not threads.unfinished):
            return 0
        holding = chores()
        busy = holding or threads.unfinished
        seconds = BUSY_SECONDS if busy else IDLE_SECONDS
