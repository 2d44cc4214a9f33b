"""Kills of other kinds of tasks than test_storm_kills.py has: with resources of their own, without
retries, with ids inside; and what stops of single workers do."""

import os
import signal
import time

import fault_helpers as h
import pytest
from storm_helpers import Killer, worker_pids
from storm_tasks import inside, small, submit

import pyray as ray


@pytest.fixture(autouse=True)
def whole():
    """A session before the test, and the same one in good order after it."""
    ray.init(num_cpus=2, object_store_memory=256 << 20, log_to_driver=False)
    h.wait_until(lambda: len(h.idle_pids()) == 2, what="two workers")
    yield
    h.assert_whole()


def storm(n, every, seed, limit):
    """Run n tasks under kills and check each result."""
    with Killer(every, worker_pids, seed=seed):
        refs, want = submit(n, seed)
        assert ray.get(refs, timeout=limit) == want


def test_records_of_a_storm_are_used_again():
    def chunks():
        return ray._core.store.object_stats()["chunks"]

    storm(100, 0.05, 4, 30)
    h.assert_whole()
    before = chunks()
    for seed in (5, 6):
        storm(100, 0.05, seed, 30)
        h.assert_whole()
    # A chunk holds 512 objects; each new worker may begin some of its own.
    assert chunks() <= before + 16


@pytest.mark.parametrize("needs", [{"num_cpus": 2}, {"num_cpus": 0.5}], ids=str)
def test_kill_storm_on_shaped_tasks(needs):
    f = small.options(**needs)
    with h.store_balanced():
        with Killer(0.1, worker_pids, seed=7) as kills:
            assert ray.get([f.remote(i) for i in range(200)], timeout=30) == [
                i * i for i in range(200)
            ]
        assert len(kills)
        h.assert_whole()


def test_kill_storm_without_retries_gives_a_typed_error_each():
    with h.store_balanced():
        with Killer(0.05, worker_pids, seed=8) as kills:
            refs = [small.options(max_retries=0).remote(i) for i in range(400)]
            errors = []
            for i, ref in enumerate(refs):
                try:
                    assert ray.get(ref, timeout=20) == i * i
                except ray.exceptions.WorkerCrashedError as e:
                    errors.append((e.signal, e.task))
            count = len(kills)
        assert 0 < len(errors) <= count
        assert set(errors) == {("SIGKILL", "small")}
        del refs, ref


def test_ids_inside_results_under_kills():
    """What a dead worker had put or submitted is there, or its loss is a typed error."""
    lost = 0
    with h.store_balanced():
        with Killer(0.1, worker_pids, seed=9):
            for i in range(150):
                put, nested = ray.get(inside.remote(i), timeout=20)
                assert ray.get(put, timeout=20) == bytes([i % 251]) * 30_000
                try:
                    assert ray.get(nested, timeout=20) == i * i
                except ray.exceptions.OwnerDiedError:
                    lost += 1
                del put, nested
        h.assert_whole()
    assert lost < 75


@pytest.mark.parametrize("what", ["in a task", "idle"])
def test_a_stopped_worker_holds_up_nobody(tmp_path, what):
    @ray.remote
    def busy(note, go):
        h.count(note)
        return h.linger(go)

    go, note = tmp_path / "go", tmp_path / "note"
    ref = None
    if what == "in a task":
        ref = busy.remote(note, go)
        h.wait_until(lambda: h.counted(note), what="the task's start")
        pid = next(w["pid"] for w in h.workers() if w["task"])
    else:
        pid = h.idle_pids()[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        # Longer than it takes until the others notice.
        end = time.monotonic() + 1
        rounds = 0
        while time.monotonic() < end or rounds < 10:
            refs = [h.double.remote(i) for i in range(50)]
            assert h.get(refs, 5) == [2 * i for i in range(50)]
            rounds += 1
    finally:
        os.kill(pid, signal.SIGCONT)
        go.touch()
    if ref is not None:
        assert h.get(ref) == pid
    assert pid in [w["pid"] for w in h.workers()]


def test_workers_that_come_and_go_leave_no_definitions():
    @ray.remote
    def child(i):
        return i

    @ray.remote(max_calls=1)
    def parent_once(i):
        return ray.get(child.remote(i))

    def round_():
        assert h.get([parent_once.remote(i) for i in range(20)], 20) == list(range(20))
        h.assert_whole()

    round_()
    with h.store_balanced(units=8):
        round_()
