"""Many deaths at once, and processes that are stopped but not dead."""

import contextlib
import os
import random
import signal
import threading
import time

import fault_helpers as h
import pytest

import pyray as ray


@pytest.fixture(autouse=True)
def whole():
    """A session before the test, and the same one in good order after it."""
    ray.init(num_cpus=2, object_store_memory=256 << 20, log_to_driver=False)
    h.wait_until(lambda: len(h.idle_pids()) == 2, what="two workers")
    yield
    h.assert_whole()


@ray.remote(max_retries=-1)
def small(i):
    time.sleep(0.005)
    return i * i


@ray.remote(max_retries=-1)
def large(i, shared):
    time.sleep(0.005)
    return shared[:100] + bytes([i % 251]) * 30_000


@ray.remote(max_retries=-1)
def parent(i):
    return ray.get(small.remote(i)) + 1


@ray.remote(max_retries=-1)
def inside(i):
    return [ray.put(bytes([i % 251]) * 30_000), small.remote(i)]


@ray.remote(max_retries=-1)
def after(i, before):
    time.sleep(0.005)
    return i, len(before) if isinstance(before, bytes) else before


@contextlib.contextmanager
def killer(every, seed, victims=None):
    """Kill a random worker every so many seconds; gives the list of those killed."""
    rng = random.Random(seed)
    stop = threading.Event()
    kills = []

    def run():
        while not stop.wait(every):
            pids = victims or [w["pid"] for w in h.workers()]
            if pids:
                pid = rng.choice(pids)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills.append(pid)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield kills
    finally:
        stop.set()
        thread.join()


def storm(n, every, seed, limit):
    """Run n tasks under kills and check each result; how many were killed."""
    block = bytes(range(256)) * 400
    shared = ray.put(block)
    refs, want = [], []
    with killer(every, seed) as kills:
        for i in range(n):
            match i % 10:
                case 3:
                    refs.append(large.remote(i, shared))
                    want.append(block[:100] + bytes([i % 251]) * 30_000)
                case 6:
                    refs.append(parent.remote(i))
                    want.append(i * i + 1)
                case 4 | 7:
                    refs.append(after.remote(i, refs[-1]))
                    want.append((i, 30_100 if i % 10 == 4 else want[-1]))
                case _:
                    refs.append(small.remote(i))
                    want.append(i * i)
        got = ray.get(refs, timeout=limit)
    wrong = [i for i in range(n) if got[i] != want[i]]
    assert not wrong, f"{len(wrong)} wrong results, the first is number {wrong[0]}"
    return len(kills)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_kill_storm(seed):
    with h.store_balanced():
        kills = storm(2000, 0.1, seed, 40)
        assert kills >= 30
        h.assert_whole()


@pytest.mark.slow
@pytest.mark.seconds(400)
def test_long_kill_storm():
    with h.store_balanced():
        assert storm(20_000, 0.2, 3, 300) >= 200
        h.assert_whole(5.0)


def test_records_of_a_storm_are_used_again():
    def chunks():
        return ray._core.store.object_stats()["chunks"]

    storm(200, 0.05, 4, 30)
    h.assert_whole()
    before = chunks()
    for seed in (5, 6):
        storm(200, 0.05, seed, 30)
        h.assert_whole()
    # A chunk holds 512 objects; each new worker may begin some of its own.
    assert chunks() <= before + 16


@pytest.mark.parametrize("needs", [{"num_cpus": 2}, {"num_cpus": 0.5}], ids=str)
def test_kill_storm_on_shaped_tasks(needs):
    f = small.options(**needs)
    with h.store_balanced():
        with killer(0.1, 7) as kills:
            assert ray.get([f.remote(i) for i in range(200)], timeout=30) == [
                i * i for i in range(200)
            ]
        assert kills
        h.assert_whole()


def test_kill_storm_without_retries_gives_a_typed_error_each():
    with h.store_balanced():
        with killer(0.05, 8) as kills:
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
        with killer(0.1, 9):
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
        end = time.monotonic() + 3
        rounds = 0
        while time.monotonic() < end:
            refs = [h.double.remote(i) for i in range(50)]
            assert h.get(refs, 5) == [2 * i for i in range(50)]
            rounds += 1
        assert rounds > 10
    finally:
        os.kill(pid, signal.SIGCONT)
        go.touch()
    if ref is not None:
        assert h.get(ref) == pid
    assert pid in [w["pid"] for w in h.workers()]


def test_workers_stopped_again_and_again():
    rng = random.Random(10)
    stop = threading.Event()

    def stopper():
        while not stop.is_set():
            pid = rng.choice(h.workers())["pid"]
            os.kill(pid, signal.SIGSTOP)
            stop.wait(0.3)
            os.kill(pid, signal.SIGCONT)
            stop.wait(0.02)

    thread = threading.Thread(target=stopper)
    thread.start()
    try:
        refs = [small.remote(i) for i in range(300)] + [parent.remote(i) for i in range(50)]
        want = [i * i for i in range(300)] + [i * i + 1 for i in range(50)]
        assert ray.get(refs, timeout=30) == want
    finally:
        stop.set()
        thread.join()


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
