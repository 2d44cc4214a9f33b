"""An actor with async methods: all calls run as coroutines in one event loop.

The loop has the main thread. A second thread sleeps at the mailboxes and hands over what it takes:
so nothing polls, and the loop is woken once for all the calls that have come in together.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from types import CoroutineType
from typing import Any

from pyray._core import actors, control, futures, interrupts, running
from pyray.worker.actor import BUSY_SECONDS, IDLE_SECONDS, chores
from pyray.worker.threaded_actor import AHEAD, this_call

AT_A_TIME = 256
# How long a plain generator may hold up the loop before other calls have their turn.
PAUSE_SECONDS = 0.001


class Group:
    """Calls of one concurrency group."""

    __slots__ = ("limit", "pending", "running")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.pending: deque[running.Call] = deque()


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
        # One counter for each thread, so that neither loses what the other adds.
        self.taken = 0
        self.ended = 0
        self.loop = asyncio.new_event_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        # Calls that have begun, with what they were last cancelled for.
        self.begun: dict[running.Call, tuple[asyncio.Task[None], int]] = {}
        # The node's signal, without a handler that would break into the loop.
        self.loop.add_signal_handler(interrupts.SIGNAL, self._cancel)
        self.room = threading.Event()
        self.room.set()
        self.exit_code: int | None = None

    @property
    def unfinished(self) -> int:
        """Calls taken that have not ended."""
        return self.taken - self.ended

    def feed(self) -> None:
        """The second thread: take calls to the loop until the actor ends."""
        seconds = BUSY_SECONDS
        while self.exit_code is None:
            if self.unfinished and self.host.over:
                # No call is to come, and the mailboxes would not make us wait for those under way.
                self.room.clear()
                self.room.wait(BUSY_SECONDS)
            calls = self.host.take(seconds, AT_A_TIME)
            self.host.settle()
            if calls:
                self.taken += len(calls)
                seconds = BUSY_SECONDS
                self.loop.call_soon_threadsafe(self._start, calls)
                if self.unfinished > AHEAD:
                    self.room.clear()
                    self.room.wait(BUSY_SECONDS)
                continue
            if control.stopping() or (self.host.over and not self.unfinished):
                self.exit_code = 0
                break
            holding = chores()
            seconds = BUSY_SECONDS if holding or self.unfinished else IDLE_SECONDS
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _start(self, calls: list[running.Call]) -> None:
        for call in calls:
            group = self.groups[call.group]
            if group.running < group.limit and not group.pending:
                self._begin(group, call)
            else:
                group.pending.append(call)

    def _begin(self, group: Group, call: running.Call) -> None:
        group.running += 1
        task = self.loop.create_task(self._run(group, call))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _cancel(self) -> None:
        """Some call is to stop: cancel the asyncio tasks of those that are, once for each request.
        Calls that have not begun are the node's to fail."""
        for call, (task, told) in self.begun.items():
            asked = call.cancelled
            if asked and asked != told:
                self.begun[call] = (task, asked)
                task.cancel("this call was cancelled")

    async def _run(self, group: Group, call: running.Call) -> None:
        this_call.set(call)
        if self.exit_code is not None:
            return  # the process is about to end: the node fails it, or has it run anew
        try:
            while True:
                try:
                    result: Any = call.begin()
                    task = asyncio.current_task()
                    assert task is not None
                    self.begun[call] = (task, 0)
                    if isinstance(result, CoroutineType) or hasattr(result, "__await__"):
                        result = await result
                    if call.over:
                        break
                    if call.yields == "streaming":
                        await stream(call, result)
                    elif hasattr(result, "__anext__") and call.yields != 1:
                        await collect(call, result)
                    else:
                        call.finish(result)
                    break
                except BaseException as error:
                    if not call.fail(error):
                        break
        except running.WorkerExit as e:
            self.exit_code = int(e.code)
            self.loop.stop()
        finally:
            self.begun.pop(call, None)
            futures.settle()  # a wait of its in another thread may have given up the actor's CPUs
            group.running -= 1
            self.ended += 1
            if not self.room.is_set():
                self.room.set()
            while group.pending and group.running < group.limit:
                self._begin(group, group.pending.popleft())


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
            if call.cancelled:
                raise asyncio.CancelledError  # one that never awaits is told so here
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
