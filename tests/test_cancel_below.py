"""cancel: what a task has submitted, by force, and no retries."""

from __future__ import annotations

import os
import time

import fault_helpers
import helpers
import pytest
from cancel_helpers import (
    add_to,
    assert_cancelled,
    deaf,
    family,
    nothing,
    passes,
    sleep,
    workers,
)

from pyray import session
from pyray.exceptions import TaskCancelledError

# ---- children -----------------------------------------------------------------------------------


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
        helpers.wait_until(lambda: busy() == 3, 5, "the children alone to run")
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


def test_no_queued_child_begins_where_another_one_is_stopped(ray1, tally):
    @ray1.remote(num_cpus=0)
    def parent(tally):
        sleep.remote(tally)
        for _ in range(200):
            add_to.remote(tally)
        tally.add("all")
        time.sleep(1000)

    ref = parent.remote(tally)
    helpers.wait_until(lambda: len(tally) == 2)
    ray1.cancel(ref)
    assert_cancelled(ref)
    assert ray1.get(nothing.remote(), timeout=10) is None
    assert len(tally) == 2


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


# ---- by force -----------------------------------------------------------------------------------


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
    ray.cancel(ref, force=True)
    assert_cancelled(ref)
    for pid in tally.lines():
        helpers.wait_until(lambda pid=pid: not helpers.alive(int(pid)))
    fault_helpers.assert_whole()
    assert len(tally) == 3


def test_by_force_others_are_unaffected(ray1, tally, gate):
    """What a task before it has submitted from the same process, and left to others."""

    begun = helpers.Tally(tally.path + ".begun")

    @ray1.remote(num_cpus=0)
    def waits(gate):
        begun.add()
        gate.wait()
        return 2

    @ray1.remote
    def before(gate, block):
        first = waits.remote(gate)
        helpers.wait_until(lambda: len(begun) == 1)  # elsewhere, then, and not here afterwards
        big = ray1.put(bytes(1 << 20))
        return os.getpid(), [first, combine.remote(first, big, block), first_only.remote(first)]

    @ray1.remote
    def combine(x, y, z):
        return x, len(y), len(z)

    @ray1.remote
    def first_only(x):
        return x

    pid, refs = ray1.get(before.remote(gate, bytes(300_000)), timeout=10)
    for n in range(1, 50):
        ref = deaf.remote(tally)
        helpers.wait_until(lambda n=n: len(tally) == n)
        if int(tally.lines()[-1]) == pid:
            break
        ray1.cancel(ref, force=True)  # another process was quicker: one rival less
        assert_cancelled(ref)
    assert int(tally.lines()[-1]) == pid
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
    end = time.monotonic() + 1.5
    while time.monotonic() < end or not hit:
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
    fault_helpers.assert_whole()


# ---- no retries ---------------------------------------------------------------------------------


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
