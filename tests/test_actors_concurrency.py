"""Several calls of an actor at once: threads, event loops, concurrency groups, out of order."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import helpers
import pytest

import pyray
from pyray import exceptions, session
from pyray._core import store


def cpu_seconds(pid):
    """Processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def threads(ray):
    """A remote class whose calls run in threads."""

    @ray.remote(max_concurrency=4)
    class Threads:
        def __init__(self):
            self.lock = threading.Lock()
            self.barrier = threading.Barrier(4)
            self.event = threading.Event()
            self.now = self.most = 0

        def meet(self):
            """Returns only if four calls are here at a time."""
            return self.barrier.wait(20) >= 0

        def count(self):
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.003)
            with self.lock:
                self.now -= 1

        def peak(self):
            return self.most

        def wait(self):
            self.event.wait(30)

        def open(self):
            self.event.set()

        def echo(self, x):
            return x

        def pid(self):
            return os.getpid()

        def fail(self, error):
            raise error

        def exit(self):
            pyray.actor.exit_actor()

        def sys_exit(self):
            raise SystemExit(3)

        def task(self, x):
            return pyray.get(pyray.remote(lambda x: x + 1).remote(x))

    return Threads


# ---- threads -----------------------------------------------------------------------------------


def test_threads_run_side_by_side_up_to_the_limit(ray, threads):
    a = threads.remote()
    assert ray.get([a.meet.remote() for _ in range(4)]) == [True] * 4
    ray.get([a.count.remote() for _ in range(60)])
    assert ray.get(a.peak.remote()) == 4
    b = threads.options(max_concurrency=2).remote()
    ray.get([b.count.remote() for _ in range(20)])
    assert ray.get(b.peak.remote()) == 2


def test_one_call_lets_another_go_on(ray, threads):
    a = threads.remote()
    waits = [a.wait.remote() for _ in range(3)]
    assert not ray.wait(waits, timeout=0.05)[0]
    ray.get(a.open.remote())
    ray.get(waits)


def test_calls_in_threads_get_and_submit(ray, threads):
    a = threads.remote()
    assert ray.get([a.task.remote(i) for i in range(20)]) == list(range(1, 21))


def test_errors_in_threads(ray, threads):
    class Nasty(Exception):
        def __str__(self):
            raise RuntimeError("no text")

        __repr__ = __str__

        def __reduce__(self):
            raise RuntimeError("no pickle")

    a = threads.remote()
    with pytest.raises(KeyError):
        ray.get(a.fail.remote(KeyError("x")))

    def nasty(self):
        raise Nasty

    def unpicklable(self):
        return threading.Lock()

    for _ in range(6):  # more than there are threads
        with pytest.raises(exceptions.TaskError):
            ray.get(a.__ray_call__.remote(nasty))
        with pytest.raises(TypeError):
            ray.get(a.__ray_call__.remote(unpicklable))
    assert ray.get([a.echo.remote(i) for i in range(8)]) == list(range(8))


@pytest.mark.parametrize("how", ["exit", "sys_exit", "__ray_terminate__"])
def test_exit_in_a_thread(ray, threads, how):
    a = threads.remote()
    pid = ray.get(a.pid.remote())
    busy = a.wait.remote()
    refs = [getattr(a, how).remote(), busy, *[a.wait.remote() for _ in range(10)]]
    for ref in refs:
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(ref, timeout=10)
    helpers.wait_until(lambda: not helpers.alive(pid))


def test_a_dropped_actor_with_threads_waits_for_them_without_haste(ray, threads, gate):
    """It uses no CPU meanwhile."""
    a = threads.remote()
    pid = ray.get(a.pid.remote())
    refs = [a.__ray_call__.remote(lambda self: gate.wait() or 5) for _ in range(2)]
    ray.get(a.echo.remote(1))
    del a
    before = cpu_seconds(pid)
    assert not ray.wait(refs, timeout=1.0)[0]
    assert cpu_seconds(pid) - before < 0.4
    gate.open()
    assert ray.get(refs) == [5, 5]
    helpers.wait_until(lambda: not helpers.alive(pid))


def test_more_calls_than_are_taken_ahead(ray, threads, gate):
    a = threads.options(max_concurrency=2).remote()
    pid = ray.get(a.pid.remote())
    first = [a.__ray_call__.remote(lambda self: gate.wait()) for _ in range(2)]
    refs = [a.echo.remote(i) for i in range(25_000)]
    helpers.wait_until(lambda: cpu_seconds(pid) > 0)
    ray.wait(refs[:1], timeout=0.3)
    before = cpu_seconds(pid)
    ray.wait(refs[:1], timeout=1.0)
    assert cpu_seconds(pid) - before < 0.4
    gate.open()
    assert ray.get(refs) == list(range(25_000))
    ray.get(first)


def test_a_call_that_runs_for_ever_fills_no_mailbox(ray, threads):
    """The others' records are used again, however many there are."""
    a = threads.remote()
    forever = a.wait.remote()

    def rounds(n):
        for _ in range(n):
            ray.get([a.echo.remote(i) for i in range(1000)])

    rounds(40)
    before = store.object_stats()["chunks"]
    rounds(60)
    assert store.object_stats()["chunks"] <= before + 2
    assert not ray.wait([forever], timeout=0)[0]
    ray.kill(a)
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(forever)


def test_a_call_that_was_moved_in_its_mailbox_survives_a_restart(ray, tally):
    @ray.remote(max_concurrency=3, max_restarts=1, max_task_retries=-1)
    class Forever:
        def run(self, gate):
            tally.add(os.getpid())
            gate.wait()
            return "done"

        def echo(self, x):
            return x

    gate = helpers.Gate(tally.path + ".gate")
    a = Forever.remote()
    ref = a.run.remote(gate)
    for _ in range(45):
        ray.get([a.echo.remote(i) for i in range(1000)])
    os.kill(int(tally.lines()[0]), 9)
    helpers.wait_until(lambda: len(tally) == 2, what="the second run")
    refs = [a.echo.remote(i) for i in range(100)]
    assert ray.get(refs) == list(range(100))
    gate.open()
    assert ray.get(ref) == "done"


# ---- event loops -------------------------------------------------------------------------------


@pytest.fixture
def async_class(ray):
    """A remote class with async methods."""

    @ray.remote
    class Async:
        def __init__(self):
            self.log = []
            self.event = None
            self.now = self.most = 0

        async def sleep(self, seconds):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(seconds)
            self.now -= 1
            return seconds

        async def peak(self):
            return self.most

        async def wait(self):
            self.event = self.event or asyncio.Event()
            await self.event.wait()
            return "went on"

        async def open(self):
            self.event = self.event or asyncio.Event()
            self.event.set()

        async def where(self):
            return threading.get_ident(), id(asyncio.get_running_loop()), os.getpid()

        def plain(self, x):
            self.log.append(x)
            return self.log

        async def note(self, x):
            self.log.append(x)

        async def fail(self, error):
            await asyncio.sleep(0)
            raise error

        async def exit(self):
            pyray.actor.exit_actor()

        async def spawn(self, seconds):
            async def later():
                await asyncio.sleep(seconds)
                self.log.append("later")

            self.task = asyncio.create_task(later())

    return Async


def test_coroutines_run_side_by_side(ray, async_class):
    a = async_class.remote()
    ray.get(a.peak.remote())
    began = time.monotonic()
    assert ray.get([a.sleep.remote(0.3) for _ in range(200)]) == [0.3] * 200
    assert time.monotonic() - began < 10
    assert ray.get(a.peak.remote()) > 100
    b = async_class.options(max_concurrency=3).remote()
    ray.get([b.sleep.remote(0.01) for _ in range(12)])
    assert ray.get(b.peak.remote()) == 3
    one = async_class.options(max_concurrency=1).remote()
    ray.get([one.sleep.remote(0.01) for _ in range(5)])
    assert ray.get(one.peak.remote()) == 1


def test_one_loop_in_one_thread(ray, async_class):
    a = async_class.remote()
    assert len(set(ray.get([a.where.remote() for _ in range(20)]))) == 1


def test_methods_share_what_asyncio_has(ray, async_class):
    a = async_class.remote()
    waits = [a.wait.remote() for _ in range(5)]
    assert not ray.wait(waits, timeout=0.05)[0]
    ray.get(a.open.remote())
    assert ray.get(waits) == ["went on"] * 5
    a.spawn.remote(0.01)
    helpers.wait_until(lambda: "later" in ray.get(a.plain.remote(1)))


def test_plain_methods_of_an_async_actor(ray, async_class):
    a = async_class.remote()
    for i in range(100):
        (a.note if i % 2 else a.plain).remote(i)
    assert ray.get(a.plain.remote(100)) == list(range(101))  # begun in order


def test_errors_and_large_results_of_coroutines(ray, async_class):
    np = pytest.importorskip("numpy")

    @ray.remote
    class Big:
        async def zeros(self, n):
            await asyncio.sleep(0)
            return np.zeros(n, np.uint8)

        async def cancelled(self):
            task = asyncio.current_task()
            task.cancel()
            await asyncio.sleep(1)

        async def bad(self):
            return threading.Lock()

    a = async_class.remote()
    with pytest.raises(LookupError, match="in a coroutine"):
        ray.get(a.fail.remote(LookupError("in a coroutine")))
    b = Big.remote()
    assert [len(x) for x in ray.get([b.zeros.remote(3 << 20) for _ in range(5)])] == [3 << 20] * 5
    for ref in (b.cancelled.remote(), b.bad.remote()):
        with pytest.raises((exceptions.PyrayError, TypeError, asyncio.CancelledError)):
            ray.get(ref)
    assert len(ray.get(b.zeros.remote(1))) == 1


def test_retries_of_coroutines(ray, tally):
    @ray.remote(max_task_retries=5)
    class Flaky:
        @pyray.method(retry_exceptions=True)
        async def f(self, i):
            await asyncio.sleep(0)
            tally.add(i)
            if tally.lines().count(str(i)) < 3:
                raise OSError
            return i

    a = Flaky.remote()
    assert ray.get([a.f.remote(i) for i in range(4)]) == [0, 1, 2, 3]
    assert len(tally) == 12


def test_exit_of_an_async_actor(ray, async_class):
    a = async_class.options(max_restarts=3).remote()
    *_, pid = ray.get(a.where.remote())
    busy = [a.wait.remote() for _ in range(3)]
    for ref in (a.exit.remote(), *busy, a.peak.remote()):
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(ref, timeout=10)
    helpers.wait_until(lambda: not helpers.alive(pid))


def test_a_dropped_async_actor_runs_its_calls_without_haste(ray, async_class, gate):
    a = async_class.remote()
    *_, pid = ray.get(a.where.remote())
    refs = [a.sleep.remote(1.2) for _ in range(3)]
    del a
    helpers.wait_until(lambda: cpu_seconds(pid) > 0)
    before = cpu_seconds(pid)
    assert not ray.wait(refs, timeout=0.8)[0]
    assert cpu_seconds(pid) - before < 0.3
    assert ray.get(refs) == [1.2] * 3
    helpers.wait_until(lambda: not helpers.alive(pid))


def test_async_actors_use_no_cpu_when_idle(ray, async_class, threads):
    a, b = async_class.remote(), threads.remote()
    pids = [ray.get(a.where.remote())[2], ray.get(b.pid.remote())]
    forever = [a.wait.remote(), b.wait.remote()]
    before = sum(map(cpu_seconds, pids))
    ray.wait(forever, timeout=1.5)
    assert sum(map(cpu_seconds, pids)) - before < 0.4


def test_async_actors_call_each_other_and_themselves(ray):
    @ray.remote
    class Ring:
        def set(self, other, me):
            self.other, self.me = other, me

        async def go(self, n):
            if n == 0:
                return []
            ref = (self.other if n % 3 else self.me).go.remote(n - 1)
            while not pyray.wait([ref], timeout=0)[0]:
                await asyncio.sleep(0.001)
            return [os.getpid(), *pyray.get(ref)]

    a, b = Ring.remote(), Ring.remote()
    ray.get([a.set.remote(b, a), b.set.remote(a, b)])
    found = ray.get(a.go.remote(12))
    assert len(found) == 12 and len(set(found)) == 2


# ---- groups ------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
def test_concurrency_groups(ray, asynchronous, gate):
    class Both:
        def __init__(self):
            self.now = {}
            self.most = {}

        def run(self, name):
            self.now[name] = self.now.get(name, 0) + 1
            self.most[name] = max(self.most.get(name, 0), self.now[name])

        def peaks(self):
            return dict(self.most)

    if asynchronous:

        class Groups(Both):
            @pyray.method(concurrency_group="io")
            async def io(self):
                self.run("io")
                await asyncio.sleep(0.02)
                self.now["io"] -= 1

            @pyray.method(concurrency_group="compute")
            async def compute(self):
                self.run("compute")
                while not gate.is_open():
                    await asyncio.sleep(0.002)
                self.now["compute"] -= 1

            async def default(self):
                self.run("default")
                await asyncio.sleep(0.002)
                self.now["default"] -= 1

    else:

        class Groups(Both):
            @pyray.method(concurrency_group="io")
            def io(self):
                self.run("io")
                time.sleep(0.02)
                self.now["io"] -= 1

            @pyray.method(concurrency_group="compute")
            def compute(self):
                self.run("compute")
                gate.wait()
                self.now["compute"] -= 1

            def default(self):
                self.run("default")
                time.sleep(0.002)
                self.now["default"] -= 1

    cls = ray.remote(concurrency_groups={"io": 2, "compute": 3}, max_concurrency=1)(Groups)
    a = cls.remote()
    full = [a.compute.remote() for _ in range(6)]
    ray.get([f.remote() for _ in range(6) for f in (a.io, a.default)])
    assert ray.get(a.peaks.remote()) == {"compute": 3, "io": 2, "default": 1}
    # In another group for this call: the default one is not full.
    moved = a.compute.options(concurrency_group="io").remote()
    gate.open()
    ray.get([*full, moved])
    with pytest.raises(ValueError, match="no concurrency group 'zork'.*io"):
        a.io.options(concurrency_group="zork")


def test_groups_of_handles_that_were_passed_on(ray):
    @ray.remote(concurrency_groups={"io": 1})
    class Groups:
        def __init__(self):
            self.event = threading.Event()

        def wait(self):
            return self.event.wait(20)

        @pyray.method(concurrency_group="io")
        def open(self):
            self.event.set()

    @ray.remote
    def call(a):
        ref = a.wait.remote()
        ray.get(a.open.remote())
        return ray.get(ref)

    assert ray.get(call.remote(Groups.remote())) is True


def test_a_class_with_a_group_that_is_not_there(ray):
    @ray.remote(concurrency_groups={"io": 1})
    class Wrong:
        @pyray.method(concurrency_group="oi")
        def f(self): ...

    with pytest.raises(ValueError, match=r"Wrong\.f.*'oi'.*io"):
        Wrong.remote()


# ---- order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"max_concurrency": 2}])
def test_out_of_order(ray, gate, options):
    """A call whose argument is late does not hold up the others, if so told."""

    @ray.remote(allow_out_of_order_execution=True, **options)
    class Any:
        def __init__(self):
            self.seen = []

        def note(self, x):
            self.seen.append(x)
            return x

        def get(self):
            return self.seen

    a = Any.remote()
    late = ray.remote(lambda: gate.wait() or "late").remote()
    first = a.note.remote(late)
    others = [a.note.remote(i) for i in range(100)]
    assert ray.get(others) == list(range(100))
    assert not ray.wait([first], timeout=0)[0]
    gate.open()
    assert ray.get(first) == "late"
    assert sorted(ray.get(a.get.remote()), key=str) == sorted([*range(100), "late"], key=str)


def test_threads_begin_in_order(ray, gate):
    """Even with threads, calls begin in order unless told otherwise: a late argument holds up."""

    @ray.remote(max_concurrency=2)
    class InOrder:
        def note(self, x):
            return x

    a = InOrder.remote()
    late = ray.remote(lambda: gate.wait() or "late").remote()
    first = a.note.remote(late)
    behind = a.note.remote(1)
    assert not ray.wait([behind], timeout=0.1)[0]
    gate.open()
    assert ray.get([first, behind]) == ["late", 1]


def test_calls_of_dead_callers_and_many_processes(ray):
    @ray.remote(max_concurrency=4)
    class Sum:
        def __init__(self):
            self.lock = threading.Lock()
            self.n = 0

        def add(self, x):
            with self.lock:
                self.n += x
            return self.n

    @ray.remote(max_calls=1, num_cpus=0.5)
    def send(a):
        ray.get([a.add.remote(1) for _ in range(500)])

    a = Sum.remote()
    ray.get([send.remote(a) for _ in range(10)])
    assert ray.get(a.add.remote(0)) == 5000
    del a
    helpers.wait_until(lambda: len(session.require().call("workers")) <= 5)
