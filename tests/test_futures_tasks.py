"""Futures of objects in tasks: the CPU is given back while they are pending."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
import time

import pytest
from helpers import Gate, patience, wait_until

from pyray import exceptions, session
from pyray._core import control

LIMIT = 20


@pytest.fixture
def second_gate(tmp_path):
    return Gate(tmp_path / "second")


def workers():
    """What the node says of its workers."""
    return session.require().call("workers")


def tree(ray, options=None):
    """A function whose tasks await tasks of the same, so many at each level."""

    @ray.remote
    def node(widths):
        async def main():
            below = await asyncio.gather(*(node.remote(widths[1:]) for _ in range(widths[0])))
            return 1 + sum(below)

        return asyncio.run(main()) if widths else 1

    return node.options(**options) if options else node


# ---- one CPU, and everything that awaits --------------------------------------------------------


@pytest.mark.parametrize("widths", [(20, 2, 1), (1,) * 12], ids=str)
def test_nested_awaits_on_one_cpu(ray1, widths):
    total, level = 1, 1
    for width in widths:
        level *= width
        total += level
    assert ray1.get(tree(ray1).remote(widths), timeout=LIMIT) == total


def test_twenty_awaits_in_turn_of_tasks_that_await(ray1):
    @ray1.remote
    def leaf(x):
        return x

    @ray1.remote
    def middle(x):
        async def main():
            return [await leaf.remote(x + i) for i in range(3)]

        return asyncio.run(main())

    @ray1.remote
    def top():
        async def main():
            return [await middle.remote(i) for i in range(20)]

        return asyncio.run(main())

    assert ray1.get(top.remote(), timeout=LIMIT) == [[i, i + 1, i + 2] for i in range(20)]


def test_other_shapes_give_their_cpus_back_too(ray):
    """Two CPUs, of which each task takes both."""
    node = tree(ray)

    @ray.remote(num_cpus=2)
    def both(depth):
        async def main():
            return 1 + await both.remote(depth - 1) + await node.remote((2,))

        return asyncio.run(main()) if depth else 1

    assert ray.get(both.remote(4), timeout=LIMIT) == 4 * 4 + 1


def ways(ray):
    """Ways to wait for an object of which nothing but pyray knows that they wait."""

    def future_result(ref):
        return ref.future().result(LIMIT)

    def futures_wait(ref):
        (done,), _ = concurrent.futures.wait([ref.future()], LIMIT)
        return done.result()

    def as_completed(ref):
        return next(concurrent.futures.as_completed([ref.future()], LIMIT)).result()

    def wrap_future(ref):
        async def main():
            return await asyncio.wrap_future(ref.future())

        return asyncio.run(main())

    def get_in_a_thread(ref):
        async def main():
            return await asyncio.to_thread(ray.get, ref)

        return asyncio.run(main())

    def wait_in_a_thread(ref):
        got = []
        thread = threading.Thread(target=lambda: got.extend(ray.wait([ref])[0]))
        thread.start()
        thread.join()
        return ray.get(got[0])

    def loop_in_a_thread(ref):
        async def main():
            return await ref

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, main()).result()

    return [v for v in locals().values() if callable(v) and v is not ray]


def test_every_other_way_to_wait_gives_the_cpu_back(ray1):
    @ray1.remote
    def leaf(x):
        return x

    @ray1.remote
    def waits(way, x):
        return way(leaf.remote(x)), way(leaf.remote(x + 1))

    for way in ways(ray1):
        assert ray1.get(waits.remote(way, 5), timeout=LIMIT) == (5, 6), way.__name__


def test_a_task_that_awaits_has_no_cpu_and_afterwards_has_one(ray1, gate, second_gate):
    """While it awaits, another task runs; when that has ended, it goes on alone."""

    @ray1.remote(num_cpus=0)
    def stuck():
        gate.wait()

    @ray1.remote
    def awaits(box):
        async def main():
            await box[0]
            return control.token_counts()

        return asyncio.run(main())

    @ray1.remote
    def other():
        second_gate.wait()
        return control.token_counts()

    first = awaits.remote([stuck.remote()])
    wait_until(lambda: any(w["blocked"] for w in workers()), what="the task to wait")
    running = other.remote()
    gate.open()
    # What it awaits is there, but the CPU is the other's.
    ready, _ = ray1.wait([first], timeout=0.3)
    assert ready == []
    second_gate.open()
    assert ray1.get([first, running], timeout=LIMIT) == [(0, 0, 1)] * 2
    wait_until(lambda: not any(w["blocked"] for w in workers()), what="nobody to wait")


def test_computing_while_something_is_pending(ray1, gate):
    """Part of what a task awaits is there: it goes on at once, whoever has the CPU."""

    @ray1.remote(num_cpus=0)
    def stuck():
        gate.wait()
        return "late"

    f = ray1.remote(lambda x: x)

    @ray1.remote
    def awaits():
        async def main():
            late = asyncio.ensure_future(stuck.remote())
            early = [await f.remote(i) for i in range(5)]
            gate.open()
            return early, await late

        return asyncio.run(main())

    assert ray1.get(awaits.remote(), timeout=LIMIT) == ([0, 1, 2, 3, 4], "late")


# ---- what a task leaves behind -------------------------------------------------------------------


def test_futures_that_a_task_leaves_pending(ray1, gate):
    """The next task on its worker does not count as waiting for them."""

    @ray1.remote(num_cpus=0)
    def stuck():
        gate.wait()

    @ray1.remote
    def leaves(box):
        box[0].future()
        return os.getpid()

    @ray1.remote
    def next_one():
        return os.getpid(), control.process_view(_slot())[1]

    ref = stuck.remote()
    wait_until(lambda: len([w for w in workers() if w["task"]]) == 1, what="the first to run")
    pids = {ray1.get(leaves.remote([ref]), timeout=LIMIT) for _ in range(5)}
    later = [ray1.get(next_one.remote(), timeout=LIMIT) for _ in range(10)]
    assert pids & {pid for pid, _ in later}
    assert not any(blocked for _, blocked in later)
    assert not any(w["blocked"] for w in workers())
    gate.open()
    ray1.get(ref, timeout=LIMIT)
    assert ray1.get([next_one.remote() for _ in range(50)], timeout=LIMIT)


def _slot():
    from pyray._core import shm

    return shm.self_slot()


@pytest.mark.parametrize("end", ["returns", "raises", "retries"])
@pytest.mark.parametrize("cpus", [1, 2])
def test_a_task_that_ends_while_it_counts_as_waiting(ray, gate, tally, end, cpus):
    @ray.remote(num_cpus=0)
    def stuck():
        gate.wait()

    @ray.remote(num_cpus=cpus, max_retries=2, retry_exceptions=end == "retries")
    def leaves(box):
        box[0].future()
        tally.add()
        if end == "raises" or (end == "retries" and len(tally) % 2):
            raise ValueError(end)
        return end

    f = ray.remote(lambda x: x)
    ref = stuck.remote()
    for _ in range(3):
        if end == "raises":
            with pytest.raises(ValueError, match=end):
                ray.get(leaves.remote([ref]), timeout=LIMIT)
        else:
            assert ray.get(leaves.remote([ref]), timeout=LIMIT) == end
    assert len(tally) == (6 if end == "retries" else 3)
    assert ray.get([f.remote(i) for i in range(50)], timeout=LIMIT) == list(range(50))
    wait_until(lambda: ray.available_resources()["CPU"] == 2, what="the CPUs to be free")
    gate.open()


def test_a_loop_that_a_task_leaves_running_in_a_thread(ray1, gate, tally):
    """It goes on awaiting; tasks after it run as ever, on one CPU."""

    @ray1.remote(num_cpus=0)
    def stuck(x):
        gate.wait()
        return x

    @ray1.remote
    def leaves():
        async def main():
            tally.add(sum(await asyncio.gather(*(stuck.remote(i) for i in range(3)))))

        threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()

    ray1.get(leaves.remote(), timeout=LIMIT)
    assert ray1.get(tree(ray1).remote((3, 2)), timeout=LIMIT) == 10
    gate.open()
    wait_until(lambda: tally.lines() == ["3"], what="the thread's end")
    assert ray1.get(tree(ray1).remote((3, 2)), timeout=LIMIT) == 10


# ---- faults --------------------------------------------------------------------------------------


def test_errors_in_tasks_that_await(ray):
    @ray.remote(max_retries=0)
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    @ray.remote
    def bad():
        raise KeyError("inner")

    @ray.remote
    def awaits(which):
        async def main():
            with pytest.raises(exceptions.WorkerCrashedError):
                await dies.remote()
            await which.remote()

        asyncio.run(main())

    with pytest.raises(KeyError, match="inner"):
        ray.get(awaits.remote(bad), timeout=LIMIT)
    with pytest.raises(exceptions.WorkerCrashedError, match="SIGKILL"):
        ray.get(awaits.remote(dies), timeout=LIMIT)


def test_a_worker_that_dies_in_an_await(ray, tally):
    """Its task is run again by another one, which is told of what it awaits as the first was."""
    f = ray.remote(lambda x: time.sleep(0.01) or x)

    @ray.remote(max_retries=3)
    def awaits():
        async def main():
            tally.add(os.getpid())
            tasks = [asyncio.ensure_future(f.remote(i)) for i in range(20)]
            await tasks[0]
            if len(tally) < 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return await asyncio.gather(*tasks)

        return asyncio.run(main())

    assert ray.get(awaits.remote(), timeout=LIMIT) == list(range(20))
    assert len(set(tally.lines())) == 3
    assert ray.get(tree(ray).remote((5, 3)), timeout=LIMIT) == 21


def test_a_wait_that_needs_one_process_too_many(ray, gate):
    """The node says so when it may not replace a blocked worker: here the test does."""

    @ray.remote(num_cpus=0)
    def stuck():
        gate.wait()

    @ray.remote
    def awaits(box):
        future = box[0].future()

        async def main():
            await box[0]

        with pytest.raises(exceptions.ProcessLimitError, match="limit of 5 processes"):
            asyncio.run(main())
        with pytest.raises(exceptions.ProcessLimitError, match="limit of 5 processes"):
            future.result(LIMIT)

    ref = awaits.remote([stuck.remote()])
    (slot,) = wait_until(lambda: [w["slot"] for w in workers() if w["blocked"]], what="the wait")
    control.refuse(slot, 5)
    assert ray.get(ref, timeout=LIMIT) is None
    gate.open()


def test_shutdown_while_tasks_await(ray, gate):
    @ray.remote
    def awaits(box):
        async def main():
            await box[0]

        asyncio.run(main())

    @ray.remote(num_cpus=0)
    def stuck():
        gate.wait()

    ref = stuck.remote()
    refs = [awaits.remote([ref]) for _ in range(4)]
    wait_until(lambda: sum(w["blocked"] for w in workers()) == 4, what="all to wait")
    start = time.monotonic()
    ray.shutdown()
    assert time.monotonic() - start < patience(4)
    del refs


def test_a_task_that_forks_while_something_is_pending(ray, gate):
    @ray.remote(num_cpus=0)
    def stuck():
        gate.wait()
        return 7

    @ray.remote
    def forks():
        future = stuck.remote().future()
        pid = os.fork()
        if pid == 0:
            try:
                future.result(10)
            except exceptions.SessionError:
                os._exit(3)
            os._exit(4)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        gate.open()
        return code, future.result(LIMIT)

    assert ray.get(forks.remote(), timeout=LIMIT) == (3, 7)


def test_a_thousand_awaits_in_each_of_many_tasks(ray):
    f = ray.remote(lambda x: x)

    @ray.remote
    def awaits(start):
        async def main():
            return sum(await asyncio.gather(*(f.remote(start + i) for i in range(1000))))

        return asyncio.run(main())

    sums = ray.get([awaits.remote(s) for s in range(8)], timeout=LIMIT)
    assert sums == [1000 * s + 999 * 500 for s in range(8)]
