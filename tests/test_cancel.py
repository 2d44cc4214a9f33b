"""cancel: tasks that run, wait, or are over."""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import pickle
import signal
import time

import helpers
import pytest
from cancel_helpers import (
    WAYS,
    Counter,
    add_to,
    asks,
    assert_all_free,
    assert_cancelled,
    begin,
    nothing,
    passes,
    sleep,
    workers,
)

import pyray
from pyray._core import store
from pyray.exceptions import TaskCancelledError

# ---- running ------------------------------------------------------------------------------------


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
    assert ray.get([asks.remote() for _ in range(10)], timeout=10) == [2] * 10
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


def test_an_interrupt_just_before_a_blocking_call_is_not_lost(ray, tally):
    """Python looks for signals between bytecodes, and there is none between these two calls."""
    steps = [functools.partial(sum, range(10_000_000)), functools.partial(time.sleep, 1000)]

    @ray.remote
    def task(tally):
        tally.add()
        list(map(operator.call, steps))

    ref = task.remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(ref)
    assert_cancelled(ref, 20)
    assert ray.get([add_to.remote(tally) for _ in range(20)], timeout=10) == [0] * 20


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


# ---- not running --------------------------------------------------------------------------------


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
    pyray.init(num_cpus=1, object_store_memory=8 << 20, max_spill_bytes=0)
    first = passes.remote(gate)
    refs = [add_to.remote(tally) for _ in range(300)]
    blocks = []
    for size in (1 << 20, 1 << 14, 1 << 11):
        with contextlib.suppress(pyray.exceptions.ObjectStoreFullError):
            while True:
                blocks.append(pyray.put(os.urandom(size)))
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


@pytest.mark.parametrize("force", [False, True])
def test_tasks_with_an_environment_of_their_own(tally, force):
    pyray.init(num_cpus=2, object_store_memory=64 << 20, log_to_driver=False)
    env = {"env_vars": {"WHERE": "here"}}
    running = sleep.options(runtime_env=env, num_cpus=2).remote(tally)
    helpers.wait_until(lambda: len(tally) == 1)
    queued = [add_to.options(runtime_env=env).remote(tally) for _ in range(3)]
    pyray.cancel(queued[0], force=force)
    assert_cancelled(queued[0])
    pyray.cancel(running, force=force)
    assert_cancelled(running)
    assert pyray.get(queued[1:], timeout=20) == [0, 0]
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


# ---- at the call --------------------------------------------------------------------------------


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
