"""cancel: tasks that wait, run, have run, and what they have submitted."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pickle
import queue
import select
import signal
import socket
import subprocess
import threading
import time
from typing import Any

import fault_helpers
import helpers
import pytest

import pyray
from pyray import session
from pyray._core import store
from pyray.exceptions import TaskCancelledError

SOON = 2.0  # a second, and one for a busy machine


def workers() -> list[int]:
    current = session.current()
    assert current is not None
    return sorted(w["pid"] for w in current.call("workers"))


def assert_cancelled(ref: Any, seconds: float = SOON) -> TaskCancelledError:
    """`get` raises TaskCancelledError, soon."""
    start = time.monotonic()
    with pytest.raises(TaskCancelledError) as caught:
        pyray.get(ref, timeout=20)
    assert time.monotonic() - start < seconds
    assert not isinstance(caught.value, KeyboardInterrupt)
    return caught.value


def assert_all_free() -> None:
    total = pyray.cluster_resources()

    def all_free() -> bool:
        free = pyray.available_resources()
        return all(free.get(k) == v for k, v in total.items() if k != "object_store_memory")

    helpers.wait_until(all_free, what="all resources free")


@pyray.remote
def sleep(tally, seconds=1000.0):
    tally.add(os.getpid())
    time.sleep(seconds)
    tally.add("end")
    return seconds


@pyray.remote
def passes(gate, x=1):
    gate.wait()
    return x


@pyray.remote
def add_to(tally, *args):
    tally.add()
    return len(args)


# ---- running ---------------------------------------------------------------------------------------


def nap():
    time.sleep(1000)


def get():
    pyray.get(nap_task.remote())


def get_many():
    pyray.get([nap_task.remote(), pyray.put(1)], timeout=1000)


def wait():
    pyray.wait([nap_task.remote()])


def loop():
    while True:
        pass


def child_process():
    subprocess.run(["sleep", "1000"])


def wait_for_child():
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            child.wait()
        finally:
            child.kill()


def lock():
    one = threading.Lock()
    one.acquire()
    one.acquire()


def condition():
    threading.Event().wait()


def take_from_queue():
    queue.SimpleQueue().get()


def receive():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def poll():
    select.select([], [], [])


def join():
    thread = threading.Thread(target=time.sleep, args=(1,), daemon=True)
    thread.start()
    while True:
        thread.join()


def event_loop():
    asyncio.run(asyncio.sleep(1000))


def c_call():
    ctypes.CDLL(None).sleep(1000)


def submit_for_ever():
    while True:
        pyray.get([nothing.remote() for _ in range(10)])


def put_for_ever():
    while True:
        pyray.put(b"x" * 100_000)


@pyray.remote
def nothing():
    return None


@pyray.remote
def nap_task():
    time.sleep(1000)


WAYS = [
    nap, get, get_many, wait, loop, child_process, wait_for_child, lock, condition, take_from_queue,
    receive, poll, join, event_loop, c_call, submit_for_ever, put_for_ever,
]  # fmt: skip


@pyray.remote
def begin(tally, way):
    tally.add()
    return way()


@pytest.mark.parametrize("way", WAYS, ids=lambda f: f.__name__)
def test_a_running_task_is_interrupted_whatever_it_does(ray, tally, way):
    ray.get([nothing.remote() for _ in range(10)])
    helpers.wait_until(lambda: len(workers()) == 2)
    before = workers()
    ref = begin.remote(tally, way)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    error = assert_cancelled(ref)
    assert "begin" in str(error) and "while it ran" in str(error)
    assert_all_free()
    # Nothing is left of it in the process, which goes on.
    assert ray.get([add_to.remote(tally) for _ in range(20)], timeout=10) == [0] * 20
    assert set(before) <= set(workers())


def test_the_error_says_which_task_and_travels(ray, tally):
    ref = sleep.options(name="dozing").remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    error = assert_cancelled(ref)
    assert isinstance(error, ray.exceptions.RayError)
    assert error.task_id is not None and len(error.task_id) == 20
    assert "dozing" in str(error) and error.task_id.hex() in str(error)
    assert tally.lines()[0] in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is TaskCancelledError
    assert (str(again), again.task_id) == (str(error), error.task_id)


def test_what_a_task_returns_on_an_interrupt_stands(ray, tally):
    @ray.remote
    def stubborn(tally):
        try:
            tally.add()
            time.sleep(1000)
        except KeyboardInterrupt:
            return "caught"

    ref = stubborn.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    assert ray.get(ref, timeout=10) == "caught"


def test_each_cancel_interrupts_once(ray, tally):
    @ray.remote
    def stubborn(tally):
        for i in range(3):
            try:
                tally.add()
                time.sleep(1000)
            except KeyboardInterrupt:
                tally.add(f"caught {i}")
                time.sleep(0.01)  # another interrupt for the same request would end this
        time.sleep(1000)

    ref = stubborn.remote(tally)
    for i in range(3):
        helpers.wait_until(lambda i=i: len(tally) == 2 * i + 1)
        ray.cancel(ref)
        helpers.wait_until(lambda i=i: f"caught {i}" in tally.lines())
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(ref, timeout=0.1)
    ray.cancel(ref)
    assert_cancelled(ref)


def test_cleaning_up_is_done_and_its_errors_are_no_result(ray, tally):
    @ray.remote(max_retries=3, retry_exceptions=True)
    def untidy(tally):
        try:
            tally.add()
            time.sleep(1000)
        finally:
            tally.add("cleaned")
            raise ValueError("of no account")

    ref = untidy.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    assert "of no account" in str(assert_cancelled(ref))
    assert tally.lines() == ["x", "cleaned"]  # and it is not run again


def test_an_error_that_came_first_is_the_result(ray, gate, tally):
    @ray.remote
    def late(gate, tally):
        with contextlib.suppress(KeyboardInterrupt):
            tally.add()
            time.sleep(1000)
        raise ValueError("its own")

    ref = late.remote(gate, tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    with pytest.raises(ValueError, match="its own") as caught:
        ray.get(ref, timeout=10)
    assert not isinstance(caught.value, TaskCancelledError)


def test_an_interrupt_in_a_destructor_is_not_lost(ray, tally, capfd):
    @ray.remote
    def destructors(tally):
        class Slow:
            def __del__(self):
                end = time.monotonic() + 0.01
                while time.monotonic() < end:
                    pass

        tally.add()
        while True:
            Slow()

    for i in range(3):
        ref = destructors.remote(tally)
        helpers.wait_until(lambda i=i: len(tally) == i + 1)
        ray.cancel(ref)
        assert_cancelled(ref)
    ray.shutdown()
    assert capfd.readouterr().err == ""


class SlowToPickle:
    def __init__(self, tally):
        self.tally = tally

    def __reduce__(self):
        self.tally.add("pickled")
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass
        return str, ("whole",)


@pytest.mark.parametrize("how", ["returned", "raised"])
def test_a_result_is_stored_whole(ray, tally, how):
    @ray.remote
    def task(tally):
        if how == "returned":
            return SlowToPickle(tally)
        raise ValueError(SlowToPickle(tally))

    ref = task.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    if how == "returned":
        assert ray.get(ref, timeout=10) == "whole"
    else:
        with pytest.raises(ValueError):
            ray.get(ref, timeout=10)
    assert ray.get([add_to.remote(tally) for _ in range(20)], timeout=10) == [0] * 20


def test_a_task_that_blocks_signals_goes_on(ray, tally, gate):
    @ray.remote
    def deaf(tally, gate):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        tally.add()
        gate.wait()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        return 1

    ref = deaf.remote(tally, gate)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(ref, timeout=0.1)
    gate.open()
    assert_cancelled(ref)


def test_a_library_that_takes_sigint_is_no_obstacle(ray1, tally):
    @ray1.remote
    def takes_sigint():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    ray1.get(takes_sigint.remote())
    ref = sleep.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray1.cancel(ref)
    assert_cancelled(ref)


def test_a_wait_ends_although_no_cpu_is_free(ray1, tally, gate):
    @ray1.remote
    def child(tally, gate):
        tally.add()
        gate.wait()
        return "child"

    @ray1.remote
    def parent(refs):
        return ray1.get(refs[0])

    slow = child.remote(tally, gate)
    ref = parent.remote([slow])
    helpers.wait_until(lambda: len(tally) == 1)
    ray1.cancel(ref, recursive=False)
    assert_cancelled(ref)
    gate.open()
    assert ray1.get(slow, timeout=10) == "child"
    assert_all_free()


def test_from_inside_a_task(ray, tally):
    @ray.remote
    def canceller(refs):
        ray.cancel(refs[0])

    ref = sleep.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.get(canceller.remote([ref]), timeout=10)
    assert_cancelled(ref)


def test_a_task_can_cancel_itself(ray, gate, tally):
    @ray.remote
    class Box:
        def keep(self, refs):
            self.refs = refs

        def get(self):
            return self.refs

    @ray.remote
    def suicidal(gate, box):
        gate.wait()
        ray.cancel(ray.get(box.get.remote())[0])
        time.sleep(1000)

    box = Box.remote()
    ref = suicidal.remote(gate, box)
    ray.get(box.keep.remote([ref]), timeout=10)
    gate.open()
    assert_cancelled(ref)
    assert ray.get(add_to.remote(tally), timeout=10) == 0


# ---- not running -----------------------------------------------------------------------------------


def test_queued_tasks_never_start(ray1, tally, gate):
    first = passes.remote(gate)
    refs = [add_to.remote(tally) for _ in range(5)]
    for ref in refs[1:4]:
        ray1.cancel(ref)
        error = assert_cancelled(ref)
        assert "add_to" in str(error) and "before it started" in str(error)
    gate.open()
    assert ray1.get([first, refs[0], refs[4]], timeout=10) == [1, 0, 0]
    assert len(tally) == 2
    assert_all_free()


def test_a_task_that_waits_for_arguments(ray, tally, gate):
    first = passes.remote(gate)
    ref = add_to.remote(tally, first)
    after = add_to.remote(tally, ref)
    ray.cancel(ref)
    assert_cancelled(ref)
    assert_cancelled(after)  # who waits for it fails with it
    beside = add_to.remote(tally, first)
    gate.open()
    assert ray.get([first, beside], timeout=10) == [1, 1]
    assert len(tally) == 1


def test_a_cancelled_task_lets_go_of_its_arguments(ray, tally, gate):
    def used():
        return store.object_stats()["used"]

    first = passes.remote(gate)
    before = used()
    ref = add_to.remote(tally, ray.put(bytes(30 << 20)), bytes(30 << 20), first)
    assert used() - before > 50 << 20
    ray.cancel(ref)
    # Although it still hangs on the first one's result.
    helpers.wait_until(lambda: used() - before < 1 << 20, what="the arguments to go")
    gate.open()
    assert ray.get(first, timeout=10) == 1
    assert_cancelled(ref)


def test_a_task_that_is_over_is_as_it_was(ray, tally):
    done = add_to.remote(tally)
    failed = begin.remote(tally, int("0").__truediv__)
    ray.wait([done, failed], num_returns=2, timeout=10)
    for ref in (done, failed):
        ray.cancel(ref)
        ray.cancel(ref, force=True, recursive=False)
    assert ray.get(done) == 0
    with pytest.raises(TypeError):
        ray.get(failed)


def test_any_of_several_results_will_do(ray, tally):
    @ray.remote(num_returns=3)
    def three(tally):
        tally.add()
        time.sleep(1000)

    refs = three.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(refs[1])
    assert {str(assert_cancelled(ref)) for ref in refs} == {str(assert_cancelled(refs[0]))}


def test_what_a_cancelled_task_is_worth_to_wait(ray1, tally, gate):
    first = passes.remote(gate)
    ref = add_to.remote(tally)
    ray1.cancel(ref)
    assert ray1.wait([first, ref], timeout=10) == ([ref], [first])
    with pytest.raises(TaskCancelledError):
        ray1.get([first, ref], timeout=10)
    gate.open()


def test_in_a_full_store(tally, gate):
    pyray.init(num_cpus=1, object_store_memory=8 << 20)
    first = passes.remote(gate)
    refs = [add_to.remote(tally) for _ in range(300)]
    blocks = []
    with pytest.raises(pyray.exceptions.ObjectStoreFullError):
        for size in (1 << 20, 1 << 14, 1 << 11):
            while True:
                try:
                    blocks.append(pyray.put(os.urandom(size)))
                except pyray.exceptions.ObjectStoreFullError:
                    if size == 1 << 11:
                        raise
                    break
    for ref in refs:
        pyray.cancel(ref)
    for ref in refs:
        assert_cancelled(ref)
    del blocks
    gate.open()
    assert pyray.get(first, timeout=10) == 1
    assert len(tally) == 0


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "shape", [{"num_cpus": 2}, {"num_cpus": 0}, {"resources": {"x": 1}}], ids=str
)
def test_tasks_of_other_shapes(tally, shape, force):
    pyray.init(num_cpus=2, resources={"x": 1}, object_store_memory=64 << 20, log_to_driver=False)
    shape = {"num_cpus": 1, **shape}
    shape["resources"] = {"x": 1}
    running = sleep.options(**shape).remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    queued = [add_to.options(**shape).remote(tally) for _ in range(3)]
    pyray.cancel(queued[1], force=force)
    assert_cancelled(queued[1])
    assert "x" not in pyray.available_resources()
    pyray.cancel(running, force=force)
    assert_cancelled(running)
    assert pyray.get([queued[0], queued[2]], timeout=10) == [0, 0]
    assert len(tally) == 3
    assert_all_free()


def test_a_task_of_another_shape_in_a_wait(ray, tally):
    @ray.remote(num_cpus=2)
    def parent(tally):
        ray.get(sleep.remote(tally))

    for recursive in (True, False):
        ref = parent.remote(tally)
        n = len(tally)
        helpers.wait_until(lambda n=n: len(tally) > n)
        ray.cancel(ref, recursive=recursive)
        assert_cancelled(ref)
        if recursive:
            assert_all_free()


# ---- children --------------------------------------------------------------------------------------


@pyray.remote
def family(tally, depth, then):
    """Submits one that runs and one that waits for it, and the same below; then does something."""
    if depth:
        below = family.options(num_cpus=0).remote(tally, depth - 1, "wait")
        add_to.remote(tally, below)
    tally.add(f"depth {depth}")
    if then == "wait":
        time.sleep(1000)
    return "done"


@pytest.mark.parametrize("recursive", [True, False])
def test_children(ray, tally, recursive):
    ref = family.options(num_cpus=0).remote(tally, 3, "wait")
    helpers.wait_until(lambda: len(tally) == 4)
    ray.cancel(ref, recursive=recursive)
    assert_cancelled(ref)

    def busy():
        return sum(w["task"] is not None for w in session.current().call("workers"))

    if recursive:
        helpers.wait_until(lambda: busy() == 0, what="children to end")
    else:
        assert ray.get([nothing.remote() for _ in range(20)], timeout=10) == [None] * 20
        assert busy() == 3
    assert len(tally) == 4


def test_children_of_a_task_that_is_over_go_on(ray, tally, gate):
    @ray.remote
    def parent(gate):
        return [passes.remote(gate, 5)]

    ref = parent.remote(gate)
    child = ray.get(ref, timeout=10)[0]
    ray.cancel(ref)
    gate.open()
    assert ray.get(child, timeout=10) == 5


def test_no_child_slips_through(ray1, tally):
    @ray1.remote
    def prolific(tally, begun):
        begun.add()
        while True:
            add_to.remote(tally)

    begun = helpers.Tally(tally.path + ".begun")
    for i in range(5):
        ref = prolific.remote(tally, begun)
        helpers.wait_until(lambda i=i: len(begun) == i + 1)
        time.sleep(0.01)
        ray1.cancel(ref)
        assert_cancelled(ref)
        # The only CPU was its own, and children go before others.
        assert ray1.get(nothing.remote(), timeout=10) is None
        assert len(tally) == 0


def test_children_of_an_attempt_before(ray, tally, gate):
    @ray.remote(max_retries=1, retry_exceptions=True)
    def parent(tally, gate):
        add_to.remote(tally, passes.remote(gate))
        n = len(tally)
        tally.add("attempt")
        if n == 0:
            raise ValueError("once more")
        time.sleep(1000)

    ref = parent.remote(tally, gate)
    helpers.wait_until(lambda: len(tally) == 2)
    ray.cancel(ref)
    assert_cancelled(ref)
    gate.open()
    assert ray.get([nothing.remote() for _ in range(20)], timeout=10) == [None] * 20
    assert tally.lines() == ["attempt", "attempt"]


def test_calls_of_actors_are_children(ray, tally):
    @ray.remote
    class Actor:
        def __init__(self):
            self.n = 0

        def nap(self, tally):
            self.n += 1
            tally.add()
            time.sleep(1000)

        def get(self):
            return self.n

    @ray.remote
    def parent(actor, tally):
        refs = [actor.nap.remote(tally) for _ in range(3)]
        ray.get(refs)

    actor = Actor.remote()
    ref = parent.remote(actor, tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref, force=True)  # which does not mean the actor
    assert_cancelled(ref)
    assert ray.get(actor.get.remote(), timeout=10) == 1
    assert len(tally) == 1


# ---- by force --------------------------------------------------------------------------------------


@pyray.remote(max_retries=5)
def deaf(tally, seconds=1000):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    tally.add(os.getpid())
    time.sleep(seconds)
    return seconds


def test_by_force(ray, tally, gate, capfd):
    beside = passes.remote(gate)
    ref = deaf.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    pid = int(tally.lines()[0])
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(ref, timeout=0.2)
    ray.cancel(ref, force=True)
    error = assert_cancelled(ref)
    assert "force" in str(error) and str(pid) in str(error) and "SIGKILL" in str(error)
    helpers.wait_until(lambda: not helpers.alive(pid))
    gate.open()
    assert ray.get(beside, timeout=10) == 1
    fault_helpers.assert_whole()
    assert len(tally) == 1
    ray.shutdown()
    assert capfd.readouterr().err == ""


def test_by_force_what_has_not_begun(ray1, tally, gate):
    first = passes.remote(gate)
    before = workers()
    queued, waiting = add_to.remote(tally), add_to.remote(tally, first)
    for ref in (queued, waiting):
        ray1.cancel(ref, force=True)
        assert_cancelled(ref)
    gate.open()
    assert ray1.get(first, timeout=10) == 1
    assert workers() == before
    assert len(tally) == 0


def test_by_force_children_too(ray, tally):
    ref = family.options(num_cpus=0).remote(tally, 2, "wait")
    helpers.wait_until(lambda: len(tally) == 3)
    before = workers()
    ray.cancel(ref, force=True)
    assert_cancelled(ref)
    helpers.wait_until(lambda: not set(before) & set(workers()) or len(tally) > 3, what="deaths")
    fault_helpers.assert_whole()
    assert len(tally) == 3


def test_by_force_others_are_unaffected(ray1, tally, gate):
    """What a task before it has submitted from the same process, and left to others."""

    @ray1.remote
    def before(gate, block):
        first = passes.options(num_cpus=0).remote(gate, 2)
        big = ray1.put(bytes(1 << 20))
        return os.getpid(), [first, combine.remote(first, big, block), first_only.remote(first)]

    @ray1.remote
    def combine(x, y, z):
        return x, len(y), len(z)

    @ray1.remote
    def first_only(x):
        return x

    pid, refs = ray1.get(before.remote(gate, bytes(300_000)), timeout=10)
    ref = deaf.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    assert int(tally.lines()[0]) == pid
    ray1.cancel(ref, force=True)
    assert_cancelled(ref)
    helpers.wait_until(lambda: not helpers.alive(pid))
    gate.open()
    assert ray1.get(refs, timeout=10) == [2, (2, 1 << 20, 300_000), 2]


def test_by_force_at_any_moment(ray, tally):
    """The process is killed for the task that was meant, and for no other."""

    @ray.remote(max_retries=0)
    def short(i):
        return i

    rounds = 0
    hit = 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        rounds += 1
        refs = [short.remote(i) for i in range(40)]
        victims = refs[rounds % 7 :: 7]
        for ref in victims:
            ray.cancel(ref, force=True)
        for i, ref in enumerate(refs):
            try:
                assert ray.get(ref, timeout=20) == i
            except TaskCancelledError:
                hit += 1
                assert ref in victims
    assert rounds and hit
    fault_helpers.assert_whole()


# ---- no retries ------------------------------------------------------------------------------------


def test_a_cancelled_task_is_not_run_again_after_a_crash(ray, tally):
    @ray.remote(max_retries=5)
    def dies(tally):
        try:
            tally.add()
            time.sleep(1000)
        except KeyboardInterrupt:
            os._exit(3)

    ref = dies.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    assert "exited with code 3" in str(assert_cancelled(ref))
    fault_helpers.assert_whole()
    assert len(tally) == 1


def test_a_task_between_two_attempts(ray1, tally):
    @ray1.remote(max_retries=-1, retry_exceptions=True)
    def fails(tally):
        tally.add()
        raise ValueError("again")

    for i in range(20):
        ref = fails.remote(tally)
        n = len(tally)
        helpers.wait_until(lambda n=n: len(tally) > n + 1)
        ray1.cancel(ref)
        try:
            ray1.get(ref, timeout=10)
        except TaskCancelledError:
            pass
        except ValueError:
            pass  # its own error came first, and it was not run again
        n = len(tally)
        assert ray1.get([nothing.remote() for _ in range(5)], timeout=10) == [None] * 5
        assert len(tally) == n, i


# ---- at the call -----------------------------------------------------------------------------------


def test_what_it_refuses(ray, tally):
    ref = ray.put(1)
    with pytest.raises(ValueError, match="made by put"):
        ray.cancel(ref)
    assert ray.get(ref) == 1
    for wrong in (1, None, [ref], sleep, "x", b"x" * 20):
        with pytest.raises(TypeError, match="ObjectID"):
            ray.cancel(wrong)
    actor = Counter.remote()
    with pytest.raises(TypeError, match="kill"):
        ray.cancel(actor)
    task = add_to.remote(tally)
    with pytest.raises(TypeError, match="force"):
        ray.cancel(task, force=1)
    with pytest.raises(TypeError, match="recursive"):
        ray.cancel(task, recursive=None)
    with pytest.raises(TypeError):
        ray.cancel(task, True)
    call = actor.nap.remote(tally, 1000)
    with pytest.raises(ValueError, match=r"Counter\.nap.*kill"):
        ray.cancel(call, force=True)
    ray.shutdown()
    with pytest.raises(ray.exceptions.SessionError):
        ray.cancel(task)
    assert not ray.is_initialized()


def test_in_local_mode_nothing_happens(tally):
    pyray.init(local_mode=True)
    ref = add_to.remote(tally)
    pyray.cancel(ref)
    pyray.cancel(ref, force=True)
    assert pyray.get(ref) == 0


# ---- actors ----------------------------------------------------------------------------------------


@pyray.remote
class Counter:
    def __init__(self):
        self.n = 0

    def nap(self, tally, seconds):
        self.n += 1
        tally.add(f"nap {seconds}")
        time.sleep(seconds)
        return self.n

    def add(self, *args):
        self.n += 1
        return self.n

    def pid(self):
        return os.getpid()


@pyray.remote
class Loop:
    def __init__(self):
        self.n = 0
        self.seen = []

    async def nap(self, tally, seconds, stubborn=False):
        self.n += 1
        tally.add(f"nap {seconds}")
        try:
            await asyncio.sleep(seconds)
        except BaseException as error:
            self.seen.append(type(error).__name__)
            if stubborn:
                return "caught"
            raise
        return self.n

    async def add(self, *args):
        self.n += 1
        return self.n

    async def report(self):
        return self.seen


KINDS = {
    "plain": Counter,
    "threads": Counter.options(max_concurrency=2),
    "coroutines": Loop,
    "one coroutine": Loop.options(max_concurrency=1),
}


@pytest.mark.parametrize("kind", ["plain", "coroutines", "one coroutine"])
def test_a_call_that_runs_is_interrupted_and_the_actor_lives_on(ray, tally, kind):
    actor = KINDS[kind].remote()
    assert ray.get(actor.add.remote(), timeout=10) == 1
    for i in range(3):
        running = actor.nap.remote(tally, 1000)
        after = actor.add.remote()
        helpers.wait_until(lambda i=i: len(tally) == i + 1)
        start = time.monotonic()
        ray.cancel(running)
        error = assert_cancelled(running)
        assert time.monotonic() - start < 0.5
        assert ".nap" in str(error)
        assert ray.get(after, timeout=10) == 2 * i + 3
    if kind != "plain":
        assert ray.get(actor.report.remote(), timeout=10) == ["CancelledError"] * 3


def test_a_coroutine_may_catch_it(ray, tally):
    actor = Loop.remote()
    refs = [actor.nap.remote(tally, 1000, stubborn) for stubborn in (True, False)]
    helpers.wait_until(lambda: len(tally) == 2)
    for ref in refs:
        ray.cancel(ref)
    assert ray.get(refs[0], timeout=10) == "caught"
    assert_cancelled(refs[1])


def test_one_of_many_coroutines(ray, tally):
    actor = Loop.remote()
    refs = [actor.nap.remote(tally, 0.5) for _ in range(100)]
    helpers.wait_until(lambda: len(tally) == 100)
    for ref in refs[::10]:
        ray.cancel(ref)
    for i, ref in enumerate(refs):
        if i % 10:
            assert ray.get(ref, timeout=10) == 100
        else:
            assert_cancelled(ref)


def test_a_call_that_runs_in_a_thread_goes_on(ray, tally):
    actor = KINDS["threads"].remote()
    ref = actor.nap.remote(tally, 0.5)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    assert ray.get(ref, timeout=10) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_wait_their_turn_never_start(ray, tally, kind):
    actor = KINDS[kind].remote()
    limit = 1000 if kind == "coroutines" else 2 if kind == "threads" else 1
    if kind == "coroutines":
        actor, limit = Loop.options(max_concurrency=3).remote(), 3
    running = [actor.nap.remote(tally, 3) for _ in range(limit)]
    helpers.wait_until(lambda: len(tally) == limit)
    queued = [actor.nap.remote(tally, i) for i in range(5)]
    ordered = [actor.add.remote() for _ in range(3)]
    # Whether they are in the mailbox still, or taken by the actor already.
    assert ray.get(nothing.remote(), timeout=10) is None
    start = time.monotonic()
    for ref in queued:
        ray.cancel(ref)
        assert "before it started" in str(assert_cancelled(ref))
    assert time.monotonic() - start < 2
    assert ray.wait(running, num_returns=limit, timeout=0)[0] == []
    assert sorted(ray.get(ordered, timeout=10)) == [limit + 1, limit + 2, limit + 3]
    assert len(tally) == limit


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_holds_up_others(ray, tally, gate, kind):
    actor = KINDS[kind].remote()
    first = passes.remote(gate)
    waits = actor.add.remote(first)
    after = actor.add.remote()
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(after, timeout=0.3)
    ray.cancel(waits)
    assert_cancelled(waits)
    assert ray.get(after, timeout=10) == 1
    gate.open()


def test_a_call_of_an_actor_that_is_not_made_yet(ray, tally, gate):
    @ray.remote
    class Slow:
        def __init__(self, gate):
            gate.wait()

        def add(self, tally):
            tally.add()
            return 1

    actor = Slow.remote(gate)
    refs = [actor.add.remote(tally) for _ in range(3)]
    ray.cancel(refs[1])
    assert_cancelled(refs[1])
    gate.open()
    assert ray.get([refs[0], refs[2]], timeout=10) == [1, 1]
    assert len(tally) == 2


def test_an_actor_ends_when_its_last_calls_are_cancelled(ray, gate):
    actor = Counter.remote()
    pid = ray.get(actor.pid.remote(), timeout=10)
    first = passes.remote(gate)
    ref = actor.add.remote(first)
    del actor
    ray.cancel(ref)
    assert_cancelled(ref)
    helpers.wait_until(lambda: not helpers.alive(pid), what="the actor's end")
    gate.open()


def test_a_call_is_not_made_again(ray, tally):
    @ray.remote(max_restarts=1, max_task_retries=5)
    class Retries:
        @ray.method(retry_exceptions=True)
        def fails(self, tally):
            try:
                tally.add()
                time.sleep(1000)
            finally:
                raise ValueError("again")

    actor = Retries.remote()
    ref = actor.fails.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    assert_cancelled(ref)
    assert len(tally) == 1
