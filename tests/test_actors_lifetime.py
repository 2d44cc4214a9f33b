"""How long actors live: handles, names, resources, and what is left of them."""

from __future__ import annotations

import gc
import os
import signal
import threading

import helpers
import pytest

import pyray
from pyray import exceptions, session
from pyray._core import store


def make_plain():
    class Plain:
        def __init__(self, *args):
            self.args = args

        def pid(self):
            return os.getpid()

        def put(self, value):
            self.args = value

        def get(self):
            return self.args

        def gpus(self):
            return pyray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES")

    return Plain


@pytest.fixture
def plain():
    """A remote class."""
    return pyray.remote(make_plain())


def dedicated():
    """Process IDs of actors, in the node's eyes."""
    return {w["pid"] for w in session.require().call("workers")} - pool()


def pool():
    """Process IDs of the workers that take tasks of the usual sort."""
    return {w["pid"] for w in session.require().call("workers") if not w["dedicated"]}


def await_gone(*pids):
    helpers.wait_until(lambda: not any(map(helpers.alive, pids)), what=f"the end of {pids}")


def free(*names):
    available = pyray.available_resources()
    return tuple(available.get(name, 0) for name in names)


def await_free(**amounts):
    helpers.wait_until(
        lambda: free(*amounts) == pytest.approx(tuple(amounts.values())),
        what=f"{amounts} free, instead of {free(*amounts)}",
    )


# ---- the last handle ---------------------------------------------------------------------------


def test_an_actor_ends_with_its_last_handle(ray, plain):
    a = plain.remote()
    pid = ray.get(a.pid.remote())
    b = a
    del a
    assert ray.get(b.pid.remote()) == pid
    method = b.pid
    del b
    assert ray.get(method.remote()) == pid  # a method is a handle too
    del method
    await_gone(pid)


def test_handles_that_come_in_again_are_one(ray, plain):
    actor = plain.options(name="one").remote()
    kept = ray.put([actor])
    pid = ray.get(actor.pid.remote())
    (first,), (second,) = ray.get(kept), ray.get(kept)
    assert first is second is ray.get_actor("one") and first == actor
    assert ray.get(second.pid.remote()) == pid
    del actor, first, second, kept
    gc.collect()
    await_gone(pid)


def test_calls_that_were_made_run_though_no_handle_is_left(ray, plain, tally, gate):
    @ray.remote
    class Writer:
        def __init__(self):
            gate.wait()

        def add(self, x):
            tally.add(x)
            return x

    ref = Writer.remote().add.remote(1)
    assert not ray.wait([ref], timeout=0.05)[0]
    a = Writer.remote()
    refs = [a.add.remote(i) for i in range(100)]
    slow = ray.remote(lambda: gate.wait() or 7).remote()
    last = a.add.remote(slow)
    del a, slow
    gate.open()
    assert ray.get([ref, *refs, last]) == [1, *range(100), 7]
    assert len(tally) == 102


@pytest.mark.parametrize("how", ["put", "nested", "task", "closure", "actor", "pending", "result"])
def test_handles_elsewhere_keep_an_actor_alive(ray, plain, how, gate):
    a = plain.remote(1)
    pid = ray.get(a.pid.remote())

    def use(box):
        gate.wait()
        return ray.get(box[0].pid.remote())

    if how == "put":
        kept = ray.put(a)
        fetch = lambda: ray.get(ray.get(kept).pid.remote())  # noqa: E731
    elif how == "nested":
        kept = ray.put([ray.put({"x": a})])
        fetch = lambda: ray.get(ray.get(ray.get(kept)[0])["x"].pid.remote())  # noqa: E731
    elif how == "task":
        kept = ray.remote(use).remote([a])
        fetch = lambda: gate.open() or ray.get(kept)  # noqa: E731
    elif how == "closure":

        def captured(b=a):
            return ray.get(b.pid.remote())

        kept = ray.remote(captured)
        del captured
        ray.get(kept.remote())
        fetch = lambda: ray.get(kept.remote())  # noqa: E731
    elif how == "actor":
        kept = plain.remote()
        ray.get(kept.put.remote([a]))
        fetch = lambda: ray.get(ray.get(kept.get.remote())[0].pid.remote())  # noqa: E731
    elif how == "pending":
        kept = plain.remote()
        late = ray.remote(lambda: gate.wait()).remote()
        kept.put.remote(late)
        ref = kept.put.remote([a])
        del late, ref
        fetch = (  # noqa: E731
            lambda: gate.open() or ray.get(ray.get(kept.get.remote())[0].pid.remote())
        )
    else:
        kept = ray.remote(lambda box: box).remote([a])
        ray.get(kept)
        fetch = lambda: ray.get(ray.get(kept)[0].pid.remote())  # noqa: E731
    del a
    gc.collect()
    ray.get(ray.remote(lambda: None).remote())
    assert helpers.alive(pid)
    assert fetch() == pid
    if how != "closure":  # a definition lives as long as the session
        del kept, fetch
        await_gone(pid)


def test_actors_end_with_the_actor_or_task_that_held_them(ray, plain):
    @ray.remote
    class Parent:
        def __init__(self):
            self.children = [plain.options(num_cpus=0).remote() for _ in range(3)]

        def pids(self):
            return ray.get([c.pid.remote() for c in self.children])

    @ray.remote
    def task():
        return ray.get(plain.remote().pid.remote())

    parent = Parent.remote()
    pids = ray.get(parent.pids.remote())
    assert all(map(helpers.alive, pids))
    ray.kill(parent)
    await_gone(*pids, ray.get(task.remote()))


def test_actors_end_with_a_worker_that_is_killed(ray, plain, tally, gate):
    @ray.remote(max_retries=0)
    def holds():
        a = plain.remote()
        tally.add(ray.get(a.pid.remote()))
        tally.add(os.getpid())
        gate.wait()

    ref = holds.remote()
    child, worker = map(int, helpers.wait_until(lambda: len(tally) == 2 and tally.lines()))
    os.kill(worker, signal.SIGKILL)
    await_gone(child)
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(ref)


def test_calls_leave_nothing_behind(ray, plain):
    """A thousand calls with large arguments and results: the store is as full as before."""
    np = pytest.importorskip("numpy")

    @ray.remote
    class Echo:
        def echo(self, x, y=None):
            return x

        def nested(self, box):
            return [ray.put(x) for x in box]

    a = Echo.remote()
    array = np.zeros(100_000, np.uint8)

    def rounds(n):
        for i in range(n):
            assert len(ray.get(a.echo.remote(array, y=[ray.put(i)]))) == 100_000
            a.echo.remote(ray.put(array))
            (inner,) = ray.get(a.nested.remote([array]))
            assert len(ray.get(inner)) == 100_000
        ray.get(a.echo.remote(1))

    rounds(50)
    before = store.object_stats()
    rounds(1000)
    units = 16384
    helpers.wait_until(
        lambda: store.object_stats()["used"] <= before["used"] + 64 * units,
        what="the store's balance",
    )
    assert store.object_stats()["chunks"] <= before["chunks"] + 4


def test_a_constructors_arguments_are_let_go_of(ray, plain):
    """An actor that is never made again does not keep them; one that may be does."""
    np = pytest.importorskip("numpy")

    @ray.remote
    class Sum:
        def __init__(self, array):
            self.total = int(array.sum())

        def get(self):
            return self.total

    def used_by(cls):
        before = store.object_stats()["used"]
        a = cls.remote(np.ones(10_000_000, np.uint8))
        assert ray.get(a.get.remote()) == 10_000_000
        return a, store.object_stats()["used"] - before

    a, used = used_by(Sum.options(max_restarts=1))
    assert used >= 10_000_000
    before = store.object_stats()["used"] - used
    del a
    helpers.wait_until(lambda: store.object_stats()["used"] <= before + (1 << 20))
    a, used = used_by(Sum)
    helpers.wait_until(lambda: store.object_stats()["used"] <= before + (1 << 20))
    assert ray.get(a.get.remote()) == 10_000_000


# ---- names -------------------------------------------------------------------------------------


def test_names_and_namespaces():
    pyray.init(num_cpus=2, namespace="mine")
    plain = pyray.remote(make_plain())
    a = plain.options(name="a").remote()
    b = plain.options(name="a", namespace="other").remote()
    assert pyray.get_actor("a") == a == pyray.get_actor("a", namespace="mine")
    assert pyray.get_actor("a", "other") == b
    assert pyray.get(pyray.remote(lambda: pyray.get_actor("a")).remote()) == a
    with pytest.raises(ValueError, match=r"no actor named 'zork' in namespace 'mine'.*: a\."):
        pyray.get_actor("zork")
    with pytest.raises(exceptions.ActorAlreadyExistsError, match="'a'.*'mine'"):
        plain.options(name="a").remote()
    with pytest.raises(ValueError, match="already"):
        pyray.get(pyray.remote(lambda: plain.options(name="a").remote()).remote())
    for bad in ("", None, 3):
        with pytest.raises(ValueError, match="an actor's name"):
            pyray.get_actor(bad)


def test_who_fails_to_make_a_second_one_holds_nothing(ray, plain):
    a = plain.options(name="a").remote()
    pid = ray.get(a.pid.remote())
    with pytest.raises(exceptions.ActorAlreadyExistsError):
        ray.get(ray.remote(lambda: plain.options(name="a").remote()).remote())
    del a
    await_gone(pid)


def test_a_name_is_no_handle(ray, plain):
    """Without lifetime="detached" a named actor ends with its last handle."""
    a = plain.options(name="short").remote()
    pid = ray.get(a.pid.remote())
    del a
    await_gone(pid)
    with pytest.raises(ValueError, match="no actor named 'short'"):
        ray.get_actor("short")


@pytest.mark.parametrize("how", ["kill", "drop", "exit", "crash", "terminate"])
def test_a_name_is_free_again_after_the_end(ray, how):
    @ray.remote
    class Named:
        def pid(self):
            return os.getpid()

        def exit(self):
            pyray.actor.exit_actor()

        def crash(self):
            os._exit(3)

    a = Named.options(name="n").remote()
    pid = ray.get(a.pid.remote())
    if how == "kill":
        ray.kill(a)
    elif how == "exit":
        a.exit.remote()
    elif how == "crash":
        a.crash.remote()
    elif how == "terminate":
        a.__ray_terminate__.remote()
    if how == "drop":
        del a
    if how != "kill":
        await_gone(pid)

    def again():
        try:
            return Named.options(name="n").remote()
        except exceptions.ActorAlreadyExistsError:
            return None

    b = helpers.wait_until(again, what="the name")
    assert ray.get(b.pid.remote()) != pid
    assert ray.get_actor("n") == b


def test_get_if_exists_from_several_processes_at_once(ray, plain, gate):
    @ray.remote(num_cpus=0)
    def get(i):
        gate.wait()
        a = plain.options(name="one", get_if_exists=True, num_cpus=0).remote(i)
        return ray.get(a.pid.remote()), a

    refs = [get.remote(i) for i in range(6)]
    gate.open()
    found = [pid for pid, _ in ray.get(refs)]
    assert len(set(found)) == 1
    other = plain.options(name="one", get_if_exists=True).remote()
    assert ray.get(other.pid.remote()) == found[0]


def test_get_if_exists_and_drop_from_many_threads(ray, plain):
    """Somebody drops the last handle while another finds it: a call works all the same."""
    cls = plain.options(name="shared", get_if_exists=True, num_cpus=0)
    wrong = []

    def play():
        for _ in range(25):
            try:
                a = cls.remote()
                ray.get(a.pid.remote())
                del a
                try:
                    ray.get_actor("shared")
                except ValueError:
                    pass
            except BaseException as error:
                wrong.append(error)
                return

    threads = [threading.Thread(target=play) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_detached_actors_live_without_handles(ray, plain):
    a = plain.options(name="kept", lifetime="detached").remote(5)
    pid = ray.get(a.pid.remote())
    del a
    ray.get([ray.remote(lambda: 1).remote() for _ in range(3)])
    assert ray.get(ray.get_actor("kept").get.remote()) == (5,)
    assert helpers.alive(pid)

    @ray.remote
    def make():
        plain.options(name="from a task", lifetime="detached").remote()

    ray.get(make.remote())
    assert ray.get(ray.get_actor("from a task").get.remote()) == ()
    ray.kill(ray.get_actor("kept"))
    await_gone(pid)
    helpers.wait_until(lambda: "kept" not in str(session.require().call("named_actors", True)))


# ---- resources ---------------------------------------------------------------------------------


def test_actors_take_a_cpu_to_be_placed_and_none_to_run(ray, plain):
    """So fifty of them can be idle on two CPUs, with tasks beside them."""
    actors = [plain.remote(i) for i in range(50)]
    assert [x for (x,) in ray.get([a.get.remote() for a in actors])] == list(range(50))
    await_free(CPU=2)
    assert ray.get([ray.remote(lambda i: i).remote(i) for i in range(20)]) == list(range(20))


def test_actors_with_cpus_wait_for_each_other(ray, plain):
    full = plain.options(num_cpus=1)
    a, b = full.remote(), full.remote()
    ray.get([a.pid.remote(), b.pid.remote()])
    await_free(CPU=0)
    c = full.remote()
    ref = c.pid.remote()
    task = ray.remote(lambda: 1).remote()
    assert not ray.wait([ref, task], timeout=0.2)[0]
    del a
    ray.get(ray.wait([ref, task])[0])
    ray.kill(b)
    ray.get([ref, task])
    await_free(CPU=1)
    del c
    await_free(CPU=2)


def test_resources_are_held_for_life(plain):
    pyray.init(num_cpus=2, num_gpus=4, resources={"tape": 2})
    cls = plain.options(num_cpus=0, num_gpus=2, resources={"tape": 0.5})
    a = cls.remote()
    ids, visible = pyray.get(a.gpus.remote())
    assert len(set(ids)) == 2 and visible == ",".join(map(str, ids))
    assert pyray.get(a.gpus.remote()) == (ids, visible)
    await_free(CPU=2, GPU=2, tape=1.5)
    b = cls.remote()
    other, _ = pyray.get(b.gpus.remote())
    assert sorted(ids + other) == [0, 1, 2, 3]
    await_free(GPU=0, tape=1)
    c = plain.options(num_gpus=1).remote()
    ref = c.gpus.remote()
    assert not pyray.wait([ref], timeout=0.1)[0]
    pyray.kill(a)
    got, _ = pyray.get(ref)
    assert got[0] in ids
    del a, b, c
    await_free(CPU=2, GPU=4, tape=2)
    half = [plain.options(num_gpus=0.5).remote() for _ in range(8)]
    assert sorted(pyray.get(h.gpus.remote())[0][0] for h in half) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_actors_without_gpus_see_none(plain):
    pyray.init(num_cpus=2, num_gpus=2)
    assert pyray.get(plain.remote().gpus.remote()) == ([], "")


def test_what_can_never_be_placed_is_an_error(ray, plain):
    with pytest.raises(exceptions.InfeasibleResourcesError, match="Plain.*CPU 3.*CPU 2"):
        plain.options(num_cpus=3).remote()
    with pytest.raises(exceptions.InfeasibleResourcesError, match="GPU"):
        plain.options(num_gpus=1).remote()


@pytest.mark.parametrize("end", ["kill", "exit", "crash", "constructor", "drop"])
def test_resources_come_back_however_an_actor_ends(end):
    pyray.init(num_cpus=2, num_gpus=1, resources={"tape": 1})
    total = free("CPU", "GPU", "tape", "memory")

    @pyray.remote(num_cpus=1, num_gpus=1, memory=1 << 20, resources={"tape": 1})
    class Ends:
        def __init__(self):
            if end == "constructor":
                raise LookupError

        def end(self):
            if end == "exit":
                pyray.actor.exit_actor()
            if end == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)

    for _ in range(3):
        a = Ends.remote()
        ref = a.end.remote()
        if end == "kill":
            pyray.kill(a)
        if end == "drop":
            del a
            pyray.get(ref)
        else:
            with pytest.raises(exceptions.ActorDiedError):
                pyray.get(ref)
        helpers.wait_until(lambda: free("CPU", "GPU", "tape", "memory") == total)


def test_an_actor_that_waits_for_its_place_can_be_dropped_and_killed(ray, plain):
    full = plain.options(num_cpus=2)
    a = full.remote()
    ray.get(a.pid.remote())
    b, c = full.remote(), full.options(name="c").remote()
    ref = b.pid.remote()
    ray.kill(b)
    with pytest.raises(exceptions.ActorDiedError, match="killed.*before it was made"):
        ray.get(ref)
    del c
    helpers.wait_until(lambda: not session.require().call("named_actors", True))
    del a
    await_free(CPU=2)
    d = full.remote()
    assert ray.get(d.get.remote()) == ()


# ---- waiting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cpus", [None, 0, 1])
@pytest.mark.parametrize("threads", [None, 3])
def test_actors_and_tasks_wait_for_each_other_on_one_cpu(ray1, cpus, threads):
    options = {"max_concurrency": threads}
    if cpus is not None:
        options["num_cpus"] = cpus

    @ray1.remote
    def task(n):
        return n + 1

    @ray1.remote(**options)
    class Middle:
        def call(self, n):
            return ray1.get(task.remote(n)) + 1

        def through(self, other, n):
            return ray1.get(other.call.remote(n))

    @ray1.remote(num_cpus=0)
    def outer(a, n):
        return ray1.get(a.call.remote(n)) + 1

    a = Middle.remote()
    assert ray1.get([a.call.remote(i) for i in range(3)]) == [2, 3, 4]
    assert ray1.get(outer.remote(a, 10)) == 13
    if cpus != 1:
        b = Middle.remote()
        assert ray1.get(b.through.remote(a, 20)) == 22


def test_chains_of_actors_on_one_cpu(ray1):
    @ray1.remote
    class Link:
        def __init__(self, depth):
            self.next = Link_.remote(depth - 1) if depth else None

        def count(self):
            return 1 + ray1.get(self.next.count.remote()) if self.next else 1

    Link_ = Link
    assert ray1.get(Link.remote(6).count.remote()) == 7


def test_constructors_wait_on_one_cpu(ray1):
    """For tasks and for other actors, while they hold the CPU that they were placed with."""

    @ray1.remote
    class Waits:
        def __init__(self, depth):
            self.got = ray1.get(ray1.remote(lambda: depth).remote())
            if depth:
                self.below = Waits_.remote(depth - 1)
                self.got += ray1.get(self.below.get.remote())

        def get(self):
            return self.got

    Waits_ = Waits
    a, b = Waits.remote(3), Waits.remote(3)
    assert ray1.get([a.get.remote(), b.get.remote()]) == [6, 6]


# ---- the end of the session --------------------------------------------------------------------


def test_shutdown_with_busy_actors(ray, tally):
    @ray.remote
    class Busy:
        def spin(self):
            tally.add(os.getpid())
            while True:
                pass

        def sleep(self):
            import time

            tally.add(os.getpid())
            time.sleep(1000)

        async def later(self):
            import asyncio

            tally.add(os.getpid())
            await asyncio.sleep(1000)

    a, b = Busy.remote(), Busy.remote()
    a.later.remote()
    a.later.remote()
    b.spin.remote()
    c = ray.remote(type("Plain", (), {"sleep": lambda self: tally.add(1) or signal.pause()}))
    d = c.options(max_concurrency=3).remote()
    d.sleep.remote()
    helpers.wait_until(lambda: len(tally) == 4, what="busy actors")
    ray.shutdown()
    await_gone(*{int(line) for line in tally.lines()} - {1})


DRIVER = """
begin()
@ray.remote
class Busy:
    def run(self, how):
        say(pid=os.getpid())
        while how == "spin":
            pass
        time.sleep(1000)
@ray.remote
class Async:
    async def run(self):
        import asyncio
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        say(child=1)
        await asyncio.sleep(1000)
actors = [Busy.options(max_restarts=-1).remote(), Busy.options(max_concurrency=2).remote()]
refs = [actors[0].run.remote("spin"), actors[1].run.remote("sleep"), actors[1].run.remote("spin")]
keep = Async.options(name="x", lifetime="detached").remote()
ref = keep.run.remote()
import pathlib
while len(ray.available_resources()) < 0: pass
time.sleep(0.5)
say(ready=1)
time.sleep(1000)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_is_killed_leaves_no_actor(driver, how):
    d = driver(DRIVER)
    d.said("ready")
    os.kill(d.pid, how)
    d.ended()
    d.assert_gone()
