"""Async actors: a call runs at once as far as it goes, and asyncio is to notice nothing of it."""

from __future__ import annotations

import asyncio
import io
import weakref
from contextvars import ContextVar

import helpers
import pytest

import pyray
from pyray import exceptions


@pytest.fixture
def actor(ray):
    """An async actor whose methods look at what asyncio says about them."""

    @ray.remote
    class Looker:
        def __init__(self):
            self.kept = []
            self.log = []
            self.variable = ContextVar("variable", default=0)

        async def nothing(self):
            return None

        async def logged(self):
            await asyncio.sleep(0)
            return self.log

        async def current(self, waits):
            task = asyncio.current_task()
            if waits:
                await asyncio.sleep(0)
            return isinstance(task, asyncio.Task) and asyncio.current_task() is task

        async def keep(self, weakly):
            task = asyncio.current_task()
            self.kept.append(weakref.ref(task) if weakly else task)

        async def tasks_kept(self):
            """(those kept, those of them that have ended)"""
            await asyncio.sleep(0)
            tasks = [t() if isinstance(t, weakref.ref) else t for t in self.kept]
            strong = [t for t in tasks if t is not None]
            return len({id(t) for t in strong}), sum(t.done() for t in strong)

        async def cancel_oneself(self, waits):
            asyncio.current_task().cancel()
            if waits:
                await asyncio.sleep(60)
            return "not cancelled"

        async def call_me_back(self):
            asyncio.current_task().add_done_callback(lambda _: self.log.append("ended"))

        async def rename(self):
            task = asyncio.current_task()
            name = task.get_name()
            task.set_name("renamed")
            return name

        async def waits_for_nothing(self):
            self.waiting = asyncio.current_task()
            self.future = asyncio.get_running_loop().create_future()
            try:
                await self.future
            except asyncio.CancelledError as e:
                return e.args, self.future.cancelled(), asyncio.current_task().cancelling()

        async def cancel_waiting(self):
            return self.waiting.cancel("by another call")

        async def count(self):
            n = self.variable.get()
            self.variable.set(n + 1)
            return n

        async def own_value(self, n):
            self.variable.set(n)
            await asyncio.sleep(0.001)

            async def child():
                return self.variable.get()

            return self.variable.get(), await asyncio.create_task(child())

        async def ids(self):
            async def child():
                return pyray.get_runtime_context().get_task_id()

            early = asyncio.create_task(child())
            mine = await child()
            return {mine, await early, await asyncio.create_task(child())}

        async def time_out(self, seconds):
            try:
                async with asyncio.timeout(seconds):
                    await asyncio.sleep(60)
            except TimeoutError:
                return "timed out"

        async def group(self, error):
            async def child():
                if error:
                    raise error
                return 1

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(child()) for _ in range(3)]
                await asyncio.sleep(60 if error else 0)
            return sum(t.result() for t in tasks)

        async def stacks(self):
            text = io.StringIO()
            for task in asyncio.all_tasks():
                task.print_stack(file=text)
            return text.getvalue()

        async def all_tasks(self):
            return len(asyncio.all_tasks())

        async def own_factory(self):
            factory = getattr(asyncio, "eager_task_factory", None)
            asyncio.get_running_loop().set_task_factory(
                factory or (lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))
            )

        async def bad_await(self):
            class Bad:
                def __await__(self):
                    yield "no future"

            await Bad()

    return Looker.remote()


def test_current_task(ray, actor):
    assert ray.get([actor.current.remote(i % 3 == 0) for i in range(50)]) == [True] * 50


@pytest.mark.parametrize("weakly", [False, True])
def test_a_task_that_was_kept_is_no_other_calls(ray, actor, weakly):
    ray.get([actor.keep.remote(weakly) for _ in range(5)])
    n, ended = ray.get(actor.tasks_kept.remote())
    assert n == ended and (weakly or n == 5)


def test_what_a_call_does_to_its_task_is_over_with_it(ray, actor):
    refs = [actor.cancel_oneself.remote(waits) for waits in (False, True, False)]
    refs.append(actor.current.remote(True))
    assert [ray.get(r) for r in (refs[0], *refs[2:])] == ["not cancelled", "not cancelled", True]
    with pytest.raises(exceptions.TaskError, match="CancelledError"):
        ray.get(refs[1])
    assert "renamed" not in ray.get([actor.rename.remote() for _ in range(3)])
    ray.get([actor.call_me_back.remote() for _ in range(3)])
    assert ray.get(actor.logged.remote()) == ["ended"] * 3


def test_cancelled_before_its_task_has_run(ray, actor):
    """By a call that came with it; what it awaits is cancelled too."""
    for _ in range(5):
        waits, cancels = actor.waits_for_nothing.remote(), actor.cancel_waiting.remote()
        assert ray.get(waits, timeout=10) == (("by another call",), True, 1)
        assert ray.get(cancels)


def test_cancel_of_a_call_that_waits(ray, actor):
    ref = actor.waits_for_nothing.remote()
    ray.get(actor.nothing.remote())
    ray.cancel(ref)
    assert ray.get(ref, timeout=10)[1:] == (True, 1)


def test_context_variables_are_each_calls_own(ray, actor):
    assert ray.get([actor.count.remote() for _ in range(5)]) == [0] * 5
    assert ray.get([actor.own_value.remote(i) for i in range(5)]) == [(i, i) for i in range(5)]
    assert ray.get(actor.count.remote()) == 0
    ids = ray.get([actor.ids.remote() for _ in range(5)])
    assert [len(i) for i in ids] == [1] * 5 and len(set.union(*ids)) == 5


def test_queued_calls_get_nothing_of_the_one_before(ray):
    """They begin when another has ended, but not in its context."""

    @ray.remote(max_concurrency=1)
    class One:
        def __init__(self):
            self.variable = ContextVar("variable", default=None)

        async def exchange(self, i):
            before = self.variable.get()
            self.variable.set(i)
            await asyncio.sleep(0)
            return before

    one = One.remote()
    assert ray.get([one.exchange.remote(i) for i in range(5)]) == [None] * 5


def test_timeouts_and_groups(ray, actor):
    refs = [actor.time_out.remote(seconds) for seconds in (0, -1, 0.01)]
    assert ray.get(refs, timeout=10) == ["timed out"] * 3
    assert ray.get(actor.group.remote(None)) == 3
    with pytest.raises(exceptions.TaskError, match="TaskGroup"):
        ray.get(actor.group.remote(ValueError("in a child")), timeout=10)
    with pytest.raises(RuntimeError, match="bad yield"):
        ray.get(actor.bad_await.remote())


def test_tasks_tell_where_they_stand(ray, actor):
    ref = actor.waits_for_nothing.remote()
    text = ray.get(actor.stacks.remote())
    assert "await self.future" in text and "waits_for_nothing" in text
    ray.get(actor.cancel_waiting.remote())
    ray.get(ref)


def test_no_task_is_left_over(ray, actor):
    ray.get([actor.nothing.remote() for _ in range(1000)])
    ray.get([actor.current.remote(True) for _ in range(1000)])
    helpers.wait_until(lambda: ray.get(actor.all_tasks.remote()) == 1)


def test_a_task_factory_of_the_users(ray, actor):
    ray.get(actor.own_factory.remote())
    assert ray.get([actor.current.remote(i % 2) for i in range(6)]) == [True] * 6
    assert ray.get(actor.group.remote(None)) == 3


def test_calls_in_bursts_and_one_by_one(ray, actor):
    """The loop and the thread at the mailboxes pass the turn to each other."""
    for n in (1, 2, 700, 1, 3000, 5):
        assert ray.get([actor.nothing.remote() for _ in range(n)], timeout=20) == [None] * n
        for _ in range(50):
            assert ray.get(actor.current.remote(True), timeout=20)


def test_a_blocked_loop_holds_up_no_cancel(ray, gate, tally):
    """Calls behind one that blocks the loop can be cancelled, and the actor goes on afterwards."""

    @ray.remote
    class Blocks:
        async def block(self):
            tally.add(1)
            gate.wait()

        async def nothing(self):
            return 1

    a = Blocks.remote()
    blocked = a.block.remote()
    helpers.wait_until(lambda: len(tally) == 1)
    rest = [a.nothing.remote() for _ in range(10)]
    ray.cancel(rest[3])
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(rest[3], timeout=10)
    gate.open()
    del rest[3]
    assert ray.get(rest, timeout=10) == [1] * 9
    ray.get(blocked)
