"""An actor with async methods: all calls run as coroutines in one event loop.

The loop has the main thread. While calls keep coming it takes them from the mailboxes itself; when
there are none a second thread sleeps there, and wakes the loop for the next. So nothing polls, and
while calls come fast neither thread waits for the other.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextvars import copy_context
from typing import Any

from pyray._core import actors, control, interrupts, running
from pyray._core.coroutines import Starter
from pyray.worker.actor import BUSY_SECONDS, IDLE_SECONDS, chores
from pyray.worker.threaded_actor import AHEAD, this_call

AT_A_TIME = 256
# How long a plain generator may hold up the loop before other calls have their turn.
PAUSE_SECONDS = 0.001


class Group:
    """Calls of one concurrency group."""

    __slots__ = ("limit", "next", "pending", "running")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.pending: deque[running.Call] = deque()
        self.next = False  # the loop is about to begin some of those pending


class Loop:
    """Runs calls in the event loop.

    Parameters
    ----------
    host : Host
        The actor's mailboxes.
    limits : list of int
        Calls at a time, by number of the group.
    """

    def __init__(self, host: actors.Host, limits: list[int]) -> None:
        self.host = host
        self.groups = [Group(limit) for limit in limits]
        self.unfinished = 0  # calls that the loop has and that have not ended
        self.batches = 0
        self.loop = asyncio.new_event_loop()
        self.begun: dict[running.Call, asyncio.Task[None]] = {}  # calls that wait in their tasks
        self.context = copy_context()
        self.starter = Starter(
            self.loop, self.context, this_call, asyncio, finish, self._ended, self._leave
        )
        # The node's signal, without a handler that would break into the loop.
        self.loop.add_signal_handler(interrupts.SIGNAL, self._cancel)
        self.room = threading.Event()
        self.room.set()
        # Held by the thread that takes calls now: one at a time.
        self.turn = threading.Lock()
        self.exit_code: int | None = None

    def feed(self) -> None:
        """The second thread: take calls to the loop when it has none, until the actor ends."""
        seconds = BUSY_SECONDS
        self.turn.acquire()
        while self.exit_code is None:
            if self.unfinished > AHEAD or (self.unfinished and self.host.over):
                # No call is to come, and the mailboxes would not make us wait for those under way.
                self.room.clear()
                self.room.wait(BUSY_SECONDS)
            calls = self.host.take(seconds, AT_A_TIME)
            self.host.settle()
            if calls:
                seconds = BUSY_SECONDS
                self.loop.call_soon_threadsafe(self._take, calls, context=self.context)
                # It is the loop's turn until it finds none.
                while not self.turn.acquire(timeout=BUSY_SECONDS):
                    if control.stopping():
                        self.exit_code = 0
                        break
                    chores()
                continue
            if control.stopping() or (self.host.over and not self.unfinished):
                self.exit_code = 0
                break
            holding = chores()
            seconds = BUSY_SECONDS if holding or self.unfinished else IDLE_SECONDS
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _take(self, calls: list[running.Call]) -> None:
        """Begin calls; look for others, or leave that to the second thread."""
        more: list[running.Call] = []
        self.unfinished += len(calls)
        try:
            self._start(calls)
            self.batches += 1
            running.chores(self.batches)
            if self.exit_code is None and self.unfinished <= AHEAD:
                # asyncio's own attribute: what it is to run in its next round. One is `starter`'s.
                idle = not self.unfinished and len(getattr(self.loop, "_ready", "xx")) < 2
                more = self.host.poll(AT_A_TIME, idle)
                self.host.settle()
        finally:
            if more:
                self.loop.call_soon(self._take, more, context=self.context)
            else:
                self.turn.release()

    def _start(self, calls: list[running.Call]) -> None:
        groups = self.groups
        try:
            for call in calls:
                group = groups[call.group]
                if group.pending or group.running >= group.limit:
                    group.pending.append(call)
                else:
                    self._begin(group, call)
        finally:
            self.starter.close()

    def _begin(self, group: Group, call: running.Call) -> None:
        if self.exit_code is not None:
            return  # the process is about to end: the node fails it, or has it run anew
        task = self.starter.start(call)
        if task is None:
            self.unfinished -= 1
        else:
            group.running += 1
            self.begun[call] = task

    def _next(self, group: Group) -> None:
        """Begin calls of a group that have waited for others to end."""
        group.next = False
        try:
            for _ in range(AT_A_TIME):
                if not group.pending or group.running >= group.limit:
                    break
                self._begin(group, group.pending.popleft())
        finally:
            self.starter.close()
            self._look_after(group)
        if not self.room.is_set():
            self.room.set()

    def _look_after(self, group: Group) -> None:
        if group.pending and group.running < group.limit and not group.next:
            group.next = True
            self.loop.call_soon(self._next, group, context=self.context)

    def _ended(self, call: running.Call) -> None:
        """A call has ended in its task."""
        self.begun.pop(call, None)
        group = self.groups[call.group]
        group.running -= 1
        self.unfinished -= 1
        self._look_after(group)
        if not self.room.is_set():
            self.room.set()

    def _leave(self, leaving: running.WorkerExit) -> None:
        self.exit_code = int(leaving.code)
        self.loop.stop()

    def _cancel(self) -> None:
        """Some call is to stop: cancel the asyncio tasks of those that are, once for each request.
        Calls that have not begun are the node's to fail."""
        for call, task in self.begun.items():
            asked = call.cancelled
            if asked and asked != call.told:
                call.told = asked
                task.cancel("this call was cancelled")


async def finish(call: running.Call, result: Any, awaited: bool) -> None:
    """Finish a call that is not done when its method has returned."""
    if not awaited and hasattr(result, "__await__"):
        result = await result
    if call.yields == "streaming":
        await stream(call, result)
    elif hasattr(result, "__anext__") and call.yields != 1:
        await collect(call, result)
    else:
        call.finish(result)


async def stream(call: running.Call, values: Any) -> None:
    """Pass on what a call yields, as it comes; backpressure holds up this call alone."""
    writer = call.writer()
    asynchronous = hasattr(values, "__anext__")
    if not asynchronous and not hasattr(values, "__next__"):
        call.finish(values)  # which says what is wrong
    paused = time.monotonic()
    try:
        while writer.going():
            try:
                value = await anext(values) if asynchronous else next(values)
            except (StopIteration, StopAsyncIteration):
                break
            if asked := call.cancelled:
                if call.told == asked:
                    raise asyncio.CancelledError  # told, and it yields nevertheless
                # One that never awaits is told so here. By `Loop._cancel`, as others are: an error
                # of ours would leave it to cancel the task again, while the generator cleans up.
                await asyncio.sleep(0)
            writer.put(value)
            value = None
            while (credit := writer.ahead()) is not None:
                await credit
                paused = time.monotonic()
            if not asynchronous and time.monotonic() - paused > PAUSE_SECONDS:
                await asyncio.sleep(0)
                paused = time.monotonic()
            if writer.dropped():
                break
    finally:
        if asynchronous:
            await values.aclose()
        elif hasattr(values, "close"):
            values.close()
    writer.finish()
    call.finish_stream()


async def collect(call: running.Call, values: Any) -> None:
    """Finish a call that yields all that it returns."""
    if call.yields != "dynamic":
        call.finish([value async for value in values])
        return
    refs: list[Any] = []
    try:
        async for value in values:
            refs.append(call.item(len(refs), value))
    except Exception as error:
        refs.append(call.failed_item(len(refs), error))
    call.finish_items(refs)


def serve_in_loop(host: actors.Host, limits: list[int]) -> int:
    """Run an actor's calls in an event loop until it ends; the process's exit code."""
    running.several_at_once(this_call)
    loop = Loop(host, limits)
    asyncio.set_event_loop(loop.loop)
    threading.Thread(target=loop.feed, name="pyray-mailboxes", daemon=True).start()
    loop.loop.run_forever()
    return loop.exit_code or 0
