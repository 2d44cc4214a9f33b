"""Futures of objects in actors: async ones, threaded ones, and those that hold CPUs for life."""

from __future__ import annotations

import asyncio
import time

import pytest
from helpers import wait_until

from pyray import exceptions

LIMIT = 20


@pytest.fixture
def f(ray):
    return ray.remote(lambda x: x)


def test_async_methods_await_tasks_and_other_actors(ray, f):
    @ray.remote
    class Leaf:
        async def double(self, x):
            return 2 * await f.remote(x)

    @ray.remote
    class Root:
        def __init__(self, leaves):
            self.leaves = leaves

        async def total(self, n):
            calls = [self.leaves[i % 2].double.remote(i) for i in range(n)]
            return sum(await asyncio.gather(*calls))

        async def futures(self):
            return await asyncio.wrap_future(f.remote(1).future()), await ray.put(2)

    root = Root.remote([Leaf.remote(), Leaf.remote()])
    assert ray.get([root.total.remote(n) for n in range(50)], timeout=LIMIT) == [
        n * (n - 1) for n in range(50)
    ]
    assert ray.get(root.futures.remote(), timeout=LIMIT) == (1, 2)

    async def main():
        return await asyncio.gather(*(root.total.remote(10) for _ in range(10)))

    assert asyncio.run(main()) == [90] * 10


def test_a_method_that_awaits_keeps_no_other_waiting(ray, gate):
    @ray.remote(num_cpus=0)
    def stuck():
        gate.wait()
        return "late"

    @ray.remote
    class Actor:
        async def late(self):
            return await stuck.remote()

        async def early(self, x):
            return x

    actor = Actor.remote()
    late = [actor.late.remote() for _ in range(20)]
    assert ray.get([actor.early.remote(i) for i in range(20)], timeout=LIMIT) == list(range(20))
    assert ray.wait(late, timeout=0)[0] == []
    gate.open()
    assert ray.get(late, timeout=LIMIT) == ["late"] * 20


def test_awaiting_the_calls_of_an_actor_that_dies(ray, gate):
    @ray.remote
    class Actor:
        def wait(self):
            gate.wait()

    async def main():
        actor = Actor.remote()
        calls = [asyncio.ensure_future(actor.wait.remote()) for _ in range(5)]
        future = actor.wait.remote().future()
        await asyncio.sleep(0.05)
        ray.kill(actor)
        for call in (*calls, asyncio.wrap_future(future)):
            with pytest.raises(exceptions.ActorDiedError):
                await asyncio.wait_for(call, LIMIT)

    asyncio.run(main())


def kinds(ray, f, **options):
    """Actors of each kind that hold a CPU for life and need another to answer."""

    @ray.remote(num_cpus=1, **options)
    class InTurn:
        def ask(self, x):
            async def main():
                return await f.remote(x) + await f.remote(1)

            return asyncio.run(main())

    @ray.remote(num_cpus=1, max_concurrency=4, **options)
    class Threaded:
        def ask(self, x):
            async def main():
                return await f.remote(x)

            return asyncio.run(main()) + ray.get(f.remote(1)) if x % 2 else x + 1

    @ray.remote(num_cpus=1, **options)
    class Async:
        async def ask(self, x):
            return await f.remote(x) + await asyncio.to_thread(ray.get, f.remote(1))

    return [InTurn, Threaded, Async]


@pytest.mark.parametrize("kind", range(3), ids=["in turn", "threaded", "async"])
def test_an_actor_that_holds_the_only_cpu(ray1, kind):
    """It lends it while it waits, and has it back afterwards."""
    f = ray1.remote(lambda x: x)
    actor = kinds(ray1, f)[kind].remote()
    for start in (0, 100):
        refs = [actor.ask.remote(start + i) for i in range(10)]
        assert ray1.get(refs, timeout=LIMIT) == [start + i + 1 for i in range(10)]
        wait_until(lambda: "CPU" not in ray1.available_resources(), what="the CPU to be its again")
    others = []

    def waits():
        # The worker that ran the last `f` may hold the CPU a moment longer, and take another one.
        others.append(f.remote(5))
        return ray1.wait(others[-1:], timeout=0.2)[0] == []

    wait_until(waits, what="the CPU to be its again")
    ray1.kill(actor)
    assert ray1.get(others[-1], timeout=LIMIT) == 5


def test_a_constructor_that_leaves_a_future_pending(ray1, gate):
    @ray1.remote(num_cpus=0)
    def stuck():
        gate.wait()
        return 7

    @ray1.remote(num_cpus=1)
    class Actor:
        def __init__(self, box):
            self.future = box[0].future()

        def answer(self, timeout):
            return self.future.result(timeout)

    actor = Actor.remote([stuck.remote()])
    with pytest.raises(TimeoutError):
        ray1.get(actor.answer.remote(0.01), timeout=LIMIT)
    wait_until(lambda: "CPU" not in ray1.available_resources(), what="the CPU to be the actor's")
    gate.open()
    assert ray1.get(actor.answer.remote(LIMIT), timeout=LIMIT) == 7


def test_a_thousand_calls_awaited_in_turn_and_together(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            self.n = 0

        def next(self):
            self.n += 1
            return self.n

    async def main():
        actor = Actor.remote()
        got = [await actor.next.remote() for _ in range(500)]
        got += await asyncio.gather(*(actor.next.remote() for _ in range(500)))
        return got

    start = time.monotonic()
    assert asyncio.run(main()) == list(range(1, 1001))
    assert time.monotonic() - start < 10
