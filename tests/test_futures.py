"""Futures of objects in the driver: `await ref`, `ref.future()`, asyncio, concurrent.futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import os
import signal
import threading
import time

import numpy as np
import pytest
from helpers import Gate, patience, wait_until

import pyray
from pyray import exceptions
from pyray._core import futures, store

LIMIT = 20


class Odd(ValueError):
    """An exception of the user's."""


def stuck_at(gate):
    """A function whose calls wait for the gate, and take no CPU."""

    @pyray.remote(num_cpus=0)
    def call(x=None):
        gate.wait()
        return x

    return call


@pytest.fixture
def stuck(ray, gate):
    return stuck_at(gate)


@pytest.fixture
def second_gate(tmp_path):
    return Gate(tmp_path / "second")


@pytest.fixture
def after(ray):
    """A function whose calls wait for an argument, in no process, and return the other."""
    return ray.remote(lambda x, result: result)


@pytest.fixture
def bad(ray):
    """A function that raises."""

    @ray.remote
    def call(x=None):
        raise Odd("bad")

    return call


async def none_outstanding():
    while futures.outstanding():
        await asyncio.sleep(0.001)


def run(main):
    """asyncio.run with a limit."""
    return asyncio.run(asyncio.wait_for(main, LIMIT))


# ---- await -------------------------------------------------------------------------------------


def test_await_of_what_is_there_and_of_what_is_not(ray, gate, stuck):
    async def main():
        assert await ray.put(1) == 1
        late = asyncio.create_task(one(stuck.remote(2)))
        there = ray.put([3])
        assert await there == [3] and await there == [3]
        assert not late.done()
        gate.open()
        return await late

    async def one(ref):
        return await ref

    assert inspect.isawaitable(ray.put(1))
    assert run(main()) == 2


def test_every_way_of_asyncio(ray, gate, stuck, bad):
    async def main():
        refs = [stuck.remote(i) for i in range(5)]
        tasks = [asyncio.ensure_future(r) for r in refs]
        done, pending = await asyncio.wait(tasks, timeout=0.01)
        assert (len(done), len(pending)) == (0, 5)
        gathered = asyncio.gather(*refs, bad.remote(), return_exceptions=True)
        wrapped = asyncio.wrap_future(refs[1].future())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(refs[0], 0.01)
        gate.open()
        assert await asyncio.wait_for(refs[0], LIMIT) == 0
        assert await wrapped == 1
        *values, error = await gathered
        assert values == [0, 1, 2, 3, 4]
        assert isinstance(error, Odd)
        assert [await t for t in tasks] == [0, 1, 2, 3, 4]
        assert [await r for r in asyncio.as_completed([ray.put(7)])] == [7]
        async with asyncio.timeout(LIMIT):
            return await asyncio.shield(refs[4])

    assert run(main()) == 4


def test_gather_keeps_the_order_whatever_ends_first(ray, gate, stuck):
    f = ray.remote(lambda x: x)

    async def main():
        refs = [stuck.remote("first"), f.remote("second"), stuck.remote("third")]
        gathered = asyncio.gather(*refs, refs[1])
        assert await refs[1] == "second"
        assert not gathered.done()
        gate.open()
        return await gathered

    assert run(main()) == ["first", "second", "third", "second"]


def test_an_await_raises_what_get_raises(ray, gate, stuck, bad, after):
    async def main(ref):
        asyncio.get_running_loop().call_later(0.02, gate.open)
        with pytest.raises(Odd, match="bad") as caught:
            await ref
        return caught.value

    ref = bad.remote()
    with pytest.raises(Odd) as got:
        ray.get(ref)
    late, early = run(main(bad.remote(stuck.remote()))), run(main(ref))
    for error in (early, late):
        assert type(error) is type(got.value)
        assert isinstance(error, exceptions.TaskError)
        assert "raise Odd" in str(error)
    assert run(main(ref)) is not early


def test_the_worker_of_what_is_awaited_dies(ray):
    @ray.remote(max_retries=0)
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    async def main():
        with pytest.raises(exceptions.WorkerCrashedError, match="SIGKILL"):
            await dies.remote()
        with pytest.raises(exceptions.WorkerCrashedError):
            await asyncio.wrap_future(dies.remote().future())

    run(main())
    with pytest.raises(exceptions.WorkerCrashedError):
        dies.remote().future().result(LIMIT)


def test_arrays_are_views_and_pin_what_they_show(ray):
    f = ray.remote(lambda n: np.arange(n))

    async def main():
        return await f.remote(100_000)

    run(main())
    before = store.object_stats()["used"]
    array = run(main())
    other = f.remote(100_000).future().result(LIMIT)
    for a in (array, other):
        assert not a.flags.writeable
        assert int(a.sum()) == 4999950000
    del a, array, other
    wait_until(lambda: store.object_stats()["used"] <= before, what="the arrays to go")


def test_values_of_all_sizes(ray):
    values = [None, 0, "x" * 40, list(range(200)), b"x" * 100_000, {"a": (1, [2.5])}, Exception(3)]
    f = ray.remote(lambda i: values[i])

    async def main():
        refs = [f.remote(i) for i in range(len(values))]
        return await asyncio.gather(*refs)

    for got in (
        run(main()),
        [f.remote(i).future().result(LIMIT) for i in range(len(values))],
        [ray.put(v).future().result(LIMIT) for v in values],
    ):
        assert got[:-1] == values[:-1]
        assert repr(got[-1]) == "Exception(3)"  # a value, and not raised


def test_await_without_a_loop(ray, gate, stuck):
    iterator = stuck.remote().__await__()
    with pytest.raises(RuntimeError, match="needs a running asyncio event loop"):
        next(iterator)
    gate.open()


def test_an_iterator_that_is_left_half_way(ray, gate, stuck):
    async def main():
        ref = stuck.remote()
        iterators = [ref.__await__() for _ in range(3)]
        for iterator in iterators:
            next(iterator)
        assert futures.outstanding() == 1
        iterators.pop().close()
        with pytest.raises(Odd):
            iterators.pop().throw(Odd())
        assert futures.outstanding() == 1
        del iterators, iterator
        assert futures.outstanding() == 0

    run(main())
    gate.open()


# ---- cancelling those who wait ------------------------------------------------------------------


def test_a_cancelled_awaiter_cancels_nothing_else(ray, gate, stuck, tally):
    @ray.remote(num_cpus=0)
    def counted():
        gate.wait()
        tally.add()
        return "done"

    async def main():
        ref = counted.remote()
        tasks = [asyncio.ensure_future(ref) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert futures.outstanding() == 1
        for task in tasks[:2]:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        gate.open()
        assert await tasks[2] == await ref == "done"
        assert futures.outstanding() == 0

    run(main())
    assert len(tally) == 1


def test_cancelled_awaiters_leave_nothing(ray, gate, stuck):
    make = ray.remote(lambda _: bytes(100_000))
    ray.get(make.remote(0))
    first = stuck.remote()
    before = store.object_stats()["used"]

    async def main():
        tasks = [asyncio.ensure_future(make.remote(first)) for _ in range(50)]
        await asyncio.sleep(0.01)
        assert futures.outstanding() == 50
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert futures.outstanding() == 0

    run(main())
    gate.open()
    ray.get(make.remote(first))
    wait_until(lambda: store.object_stats()["used"] <= before, what="the results to go")


def test_cancelled_at_the_moment_of_the_seal(ray):
    f = ray.remote(lambda x: x)

    async def main():
        for i in range(200):
            task = asyncio.ensure_future(f.remote(i))
            for _ in range(i % 7):
                await asyncio.sleep(0)
            task.cancel()
            try:
                assert await task == i
            except asyncio.CancelledError:
                pass
        await none_outstanding()

    run(main())


def test_a_loop_that_is_closed_meanwhile(ray, gate, stuck):
    loop = asyncio.new_event_loop()
    ref = stuck.remote(5)

    async def wait_for_it():
        return await ref

    task = loop.create_task(wait_for_it())
    loop.run_until_complete(asyncio.sleep(0.01))
    assert futures.outstanding() == 1
    loop.close()
    wait_until(lambda: futures.outstanding() == 0, what="the closed loop to be forgotten")
    gate.open()
    assert ray.get(ref, timeout=LIMIT) == 5
    # The task will never run again; without this asyncio complains of it.
    task._log_destroy_pending = False
    task.get_coro().close()


# ---- many: loops, threads, objects --------------------------------------------------------------


def test_many_loops_in_many_threads(ray, gate, stuck):
    f = ray.remote(lambda x: x)
    shared = [stuck.remote(i) for i in range(3)]
    barrier = threading.Barrier(13)
    got = {}

    async def main(number):
        mine = stuck.remote(number)
        waiting = asyncio.gather(mine, *shared, *(f.remote(i) for i in range(20)))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(barrier.wait)
        return await waiting

    def thread(number):
        got[number] = run(main(number))

    threads = [threading.Thread(target=thread, args=(i,)) for i in range(12)]
    for t in threads:
        t.start()
    barrier.wait(LIMIT)
    gate.open()
    for t in threads:
        t.join(LIMIT)
    assert got == {n: [n, 0, 1, 2, *range(20)] for n in range(12)}
    assert futures.outstanding() == 0


def test_get_wait_and_await_of_the_same_object(ray, gate, stuck):
    ref = stuck.remote("x")
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(ray.get(ref, timeout=LIMIT))),
        threading.Thread(target=lambda: got.append(ray.get(ray.wait([ref])[0])[0])),
        threading.Thread(target=lambda: got.append(ref.future().result(LIMIT))),
    ]
    for t in threads:
        t.start()

    async def main():
        task = asyncio.ensure_future(ref)
        await asyncio.sleep(0.02)
        gate.open()
        return await task

    got.append(run(main()))
    for t in threads:
        t.join(LIMIT)
    assert got == ["x"] * 4


@pytest.mark.parametrize("order", ["all at once", "one after another"])
def test_ten_thousand_at_once(ray, gate, stuck, after, order):
    """Each costs the same, however many are outstanding; otherwise they take many seconds."""
    n = 10_000

    async def main():
        first = stuck.remote()
        refs = []
        for i in range(n):
            refs.append(after.remote(refs[-1] if refs and order != "all at once" else first, i))
        tasks = [asyncio.ensure_future(r) for r in refs]
        while futures.outstanding() < n:
            await asyncio.sleep(0.01)
        gate.open()
        start = time.monotonic()
        assert await asyncio.gather(*tasks) == list(range(n))
        return time.monotonic() - start

    assert run(main()) < patience(2)
    assert futures.outstanding() == 0


def test_more_is_sealed_than_the_bridge_can_be_told_of(ray, gate, second_gate, stuck, after):
    """A callback keeps it busy until its ring of 4,096 has been lapped."""
    n = 6000
    held, entered = threading.Event(), threading.Event()

    def hold(future):
        entered.set()
        held.wait(LIMIT)

    first = stuck_at(second_gate).remote()
    refs = [after.remote(first, i) for i in range(n)]
    late = [r.future() for r in refs]
    stuck.remote().future().add_done_callback(hold)
    gate.open()
    assert entered.wait(LIMIT)
    second_gate.open()
    ray.get(refs, timeout=LIMIT)
    held.set()
    assert [f.result(LIMIT) for f in late] == list(range(n))


def test_one_by_one_for_a_thousand(ray):
    f = ray.remote(lambda x: x)

    async def main():
        return [await f.remote(i) for i in range(1000)]

    assert run(main()) == list(range(1000))


def test_nothing_is_polled(ray, gate, stuck):
    """What looks round ten times a second would need five seconds."""
    f = ray.remote(lambda x: time.sleep(0.001) or x)

    async def main():
        other = asyncio.ensure_future(stuck.remote())
        await asyncio.sleep(0.01)
        start = time.monotonic()
        for i in range(50):
            assert await f.remote(i) == i
        seconds = time.monotonic() - start
        gate.open()
        await other
        return seconds

    assert run(main()) < patience(2)
    start = time.monotonic()
    for i in range(50):
        assert f.remote(i).future().result(LIMIT) == i
    assert time.monotonic() - start < patience(2)


# ---- concurrent.futures -------------------------------------------------------------------------


def test_a_future_and_its_states(ray, gate, stuck):
    there = ray.put("x").future()
    assert isinstance(there, concurrent.futures.Future)
    assert there.done() and there.result(0) == "x" and there.exception(0) is None
    assert not there.cancel()
    ref = stuck.remote("y")
    future = ref.future()
    assert not future.done() and not future.cancelled() and not future.running()
    for call in (future.result, future.exception):
        with pytest.raises(TimeoutError):
            call(0.01)
    assert ref.future() is not future
    gate.open()
    assert future.result(LIMIT) == "y" and future.exception() is None and future.done()


def test_futures_of_errors(ray, gate, bad, after, stuck):
    early = bad.remote()
    ray.wait([early])
    for future in (early.future(), after.remote(stuck.remote(), 1).future()):
        gate.open()
        assert concurrent.futures.wait([future], LIMIT).done == {future}
    late = bad.remote(stuck.remote()).future()
    for future in (early.future(), late):
        error = future.exception(LIMIT)
        assert isinstance(error, Odd) and isinstance(error, exceptions.TaskError)
        for _ in range(2):
            with pytest.raises(Odd, match="bad") as caught:
                future.result()
            assert caught.value is error


def test_the_functions_of_concurrent_futures(ray, gate, stuck, bad):
    f = ray.remote(lambda x: x)
    slow = stuck.remote().future()
    some = [f.remote(i).future() for i in range(20)]
    assert sorted(x.result() for x in concurrent.futures.as_completed(some, LIMIT)) == [*range(20)]
    broken = bad.remote().future()
    when = concurrent.futures.FIRST_EXCEPTION
    done, rest = concurrent.futures.wait([slow, broken, *some], LIMIT, return_when=when)
    assert broken in done and rest == {slow}
    gate.open()
    assert concurrent.futures.wait([slow], LIMIT).done == {slow}


def test_callbacks(ray, gate, stuck):
    got = []
    future = stuck.remote("x").future()
    future.add_done_callback(lambda f: got.append((f.result(), threading.current_thread().name)))
    gate.open()
    wait_until(lambda: got, what="the callback")
    assert got == [("x", "pyray-futures")]
    ray.put([1]).future().add_done_callback(lambda f: got.append(f.result()))
    assert got[1] == [1]


def test_a_callback_that_raises(ray, gate, stuck, caplog):
    futures = [stuck.remote(i).future() for i in range(3)]
    for future, error in zip(futures, (Odd, SystemExit, KeyboardInterrupt), strict=True):

        def callback(future, error=error):
            raise error("of a callback")

        future.add_done_callback(callback)
    gate.open()
    assert [f.result(LIMIT) for f in futures] == [0, 1, 2]
    assert ray.remote(lambda: 5).remote().future().result(LIMIT) == 5
    wait_until(lambda: caplog.text.count("exception calling callback") == 3, what="three reports")


def test_a_callback_that_waits_for_futures_itself(ray, gate, second_gate, stuck):
    """It runs in the thread that resolves them."""
    f = ray.remote(lambda x: x)
    got = []

    def callback(future):
        inner = f.remote(stuck_at(second_gate).remote("inner")).future()
        try:
            inner.result(0.01)
        except TimeoutError:
            got.append("late")
        second_gate.open()
        got.append([inner.result(LIMIT), ray.get(f.remote(1)), f.remote(2).future().result(LIMIT)])

    stuck.remote().future().add_done_callback(callback)
    gate.open()
    wait_until(lambda: len(got) == 2, what="the callback's end")
    assert got == ["late", ["inner", 1, 2]]


def test_a_dropped_future_still_calls_back(ray, gate, stuck):
    got = threading.Event()
    stuck.remote().future().add_done_callback(lambda f: got.set())
    gate.open()
    assert got.wait(LIMIT)


def test_cancelling_a_future(ray, gate, stuck, tally):
    called = []
    ref = stuck.remote("x")
    cancelled, other = ref.future(), ref.future()
    cancelled.add_done_callback(called.append)
    assert cancelled.cancel() and cancelled.cancel() and cancelled.cancelled()
    assert called == [cancelled]
    with pytest.raises(concurrent.futures.CancelledError):
        cancelled.result(0)
    assert concurrent.futures.wait([cancelled], LIMIT).done == {cancelled}
    gate.open()
    assert other.result(LIMIT) == ray.get(ref) == "x"
    assert cancelled.cancelled() and not other.cancel()
    assert futures.outstanding() == 0


def test_futures_hold_the_object_and_no_longer_than_needed(ray):
    f = ray.remote(lambda: bytes(200_000))
    ray.get(f.remote())
    before = store.object_stats()["used"]
    future = f.remote().future()  # the id itself is gone
    assert concurrent.futures.wait([future], LIMIT).done
    assert store.object_stats()["used"] > before
    assert len(future.result()) == 200_000
    wait_until(lambda: store.object_stats()["used"] <= before, what="the object to go")
    assert future.result() is future.result()


def test_two_threads_get_one_value(ray, gate, stuck):
    future = stuck.remote([1, {"x": bytes(10_000)}]).future()
    got = []
    threads = [threading.Thread(target=lambda: got.append(future.result(LIMIT))) for _ in range(8)]
    for t in threads:
        t.start()
    gate.open()
    for t in threads:
        t.join(LIMIT)
    assert len(got) == 8 and all(x is got[0] for x in got)


# ---- the end of the session ---------------------------------------------------------------------


def test_shutdown_during_an_await(ray, gate, stuck):
    future, small = stuck.remote().future(), ray.put(1).future()
    large, undecoded = (ray.put([1.5] * 9999).future() for _ in range(2))
    kept = large.result()

    async def main():
        tasks = [asyncio.ensure_future(stuck.remote()) for _ in range(3)]
        await asyncio.sleep(0.01)
        await asyncio.to_thread(ray.shutdown)
        for task in tasks:
            with pytest.raises(exceptions.SessionError, match="shut down"):
                await task

    run(main())
    with pytest.raises(exceptions.SessionError, match="shut down"):
        future.result(LIMIT)
    assert isinstance(future.exception(LIMIT), exceptions.SessionError)
    assert small.result() == 1 and large.result() is kept
    with pytest.raises(exceptions.SessionError):
        undecoded.result()
    gate.open()


def test_shutdown_in_the_loop_itself_and_in_a_callback(ray, gate, stuck):
    async def main():
        task = asyncio.ensure_future(stuck.remote())
        await asyncio.sleep(0.01)
        ray.shutdown()
        with pytest.raises(exceptions.SessionError):
            await task

    run(main())
    ray.init(num_cpus=1)
    over = threading.Event()

    def callback(future):
        ray.shutdown()
        over.set()

    other = ray.remote(num_cpus=0)(lambda: time.sleep(LIMIT)).remote().future()
    waited = ray.remote(lambda: time.sleep(0.05)).remote().future()
    waited.add_done_callback(callback)
    assert over.wait(LIMIT)
    assert not ray.is_initialized()
    with pytest.raises(exceptions.SessionError):
        other.result(LIMIT)


def test_ids_of_a_session_that_is_over(ray, gate, stuck):
    refs = [ray.put(1), stuck.remote()]
    gate.open()
    ray.shutdown()

    async def main(ref):
        await ref

    for ref in refs:
        with pytest.raises(exceptions.SessionError):
            ref.future()
        with pytest.raises(exceptions.SessionError):
            run(main(ref))
    ray.init(num_cpus=1)
    for ref in refs:
        with pytest.raises(exceptions.SessionError):
            run(main(ref))
    f = ray.remote(lambda: 1)

    async def again():
        return await asyncio.gather(*(f.remote() for _ in range(10)))

    assert run(again()) == [1] * 10
    assert f.remote().future().result(LIMIT) == 1


def test_sessions_one_after_another(gate):
    for i in range(3):
        pyray.init(num_cpus=1)
        f = pyray.remote(lambda x: time.sleep(0.001) or x)

        async def main(f=f):
            return await asyncio.gather(*(f.remote(i) for i in range(5)))

        assert run(main()) == list(range(5))
        assert f.remote(i).future().result(LIMIT) == i
        pyray.shutdown()
        assert not [t for t in threading.enumerate() if t.name == "pyray-futures"]


def test_the_node_is_killed_during_an_await(driver):
    d = driver("""
import asyncio
info = begin()
never = ray.remote(num_cpus=0)(lambda: time.sleep(1000))
async def main():
    tasks = [asyncio.ensure_future(never.remote()) for _ in range(3)]
    future = never.remote().future()
    await asyncio.sleep(0.05)
    os.kill(info["node_pid"], 9)
    start = time.monotonic()
    got = await asyncio.gather(*tasks, return_exceptions=True)
    seconds = time.monotonic() - start
    say(kinds=[type(e).__name__ for e in got] + [type(future.exception(10)).__name__],
        seconds=seconds)
    ray.init(num_cpus=1)
    say(again=await double.remote(4) + double.remote(5).future().result(10))
asyncio.run(main())
""")
    assert d.said("kinds") == ["NodeDiedError"] * 4
    assert d.said("seconds") < patience(2)
    assert d.said("again") == 18
    assert d.ended() == 0
    d.assert_gone()


def test_an_exit_without_shutdown(driver):
    d = driver("""
import asyncio
begin()
never = ray.remote(num_cpus=0)(lambda: time.sleep(1000))
kept = [never.remote().future() for _ in range(10)]
kept[0].add_done_callback(lambda f: say(called=type(f.exception()).__name__))
async def main():
    say(six=await double.remote(3))
    tasks = [asyncio.ensure_future(never.remote()) for _ in range(3)]
    await asyncio.sleep(0.01)
asyncio.run(main())
say(end=1)
""")
    assert d.said("six") == 6
    assert d.said("end")
    assert d.said("called") == "SessionError"
    assert d.ended() == 0
    d.assert_gone()
    assert d.stderr() == ""


def test_an_interrupt_during_an_await(driver):
    d = driver("""
import asyncio
begin()
never = ray.remote(num_cpus=0)(lambda: time.sleep(1000))
async def main():
    say(now=1)
    await never.remote()
try:
    asyncio.run(main())
except KeyboardInterrupt:
    say(interrupted=1)
from pyray._core import futures
say(left=futures.outstanding(), four=ray.get(double.remote(2)),
    six=double.remote(3).future().result())
""")
    d.said("now")
    time.sleep(0.1)
    os.kill(d.pid, signal.SIGINT)
    assert d.said("interrupted")
    assert (d.said("left"), d.said("four"), d.said("six")) == (0, 4, 6)
    assert d.ended() == 0
    d.assert_gone()


def test_a_forked_child_has_no_futures(driver):
    d = driver("""
import asyncio, warnings
warnings.simplefilter("ignore", DeprecationWarning)
begin()
release = HERE + "/go"
@ray.remote(num_cpus=0)
def slow():
    while not os.path.exists(release):
        time.sleep(0.005)
    return 7
def name(f):
    try:
        return repr(f())
    except BaseException as e:
        return type(e).__name__
there = ray.put(1)
done = there.future()
pending = slow.remote().future()
async def main():
    ref = slow.remote()
    task = asyncio.ensure_future(ref)
    await asyncio.sleep(0.05)
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        async def one(ref):
            await ref
        got = [name(lambda: pending.result(10)), name(lambda: pending.exception(10)),
               name(there.future), name(done.result), name(lambda: next(one(ref).__await__()))]
        os.write(w, json.dumps(got).encode())
        try:
            await task
        except BaseException as e:
            os.write(w, b"|" + type(e).__name__.encode())
        os._exit(0)
    os.close(w)
    text = b""
    while more := await asyncio.to_thread(os.read, r, 4096):
        text += more
    got, _, last = text.decode().partition("|")
    say(got=json.loads(got), last=last, code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    pathlib.Path(release).touch()
    say(parent=[await task, pending.result(10), await double.remote(2)])
asyncio.run(main())
""")
    session_error = "SessionError"
    assert d.said("got") == [session_error, session_error, session_error, "1", session_error]
    assert d.said("last") == session_error
    assert d.said("code") == 0
    assert d.said("parent") == [7, 7, 4]
    assert d.ended() == 0
    d.assert_gone()


def test_local_mode(gate):
    pyray.init(local_mode=True)
    f = pyray.remote(lambda x: x)

    async def main():
        return await asyncio.gather(*(f.remote(i) for i in range(5)))

    assert run(main()) == list(range(5))
    assert f.remote(6).future().result(0) == 6
    assert not [t for t in threading.enumerate() if t.name == "pyray-futures"]
