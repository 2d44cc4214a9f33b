"""The object store: immutable, shared, and freed when nobody refers any more."""

from __future__ import annotations

import os

import helpers
import numpy as np
import pytest

import pyray
from pyray import exceptions
from pyray._core import store

MB = 1 << 20
# Small things that stay: the definitions of functions.
SLACK = 64 << 10


def _used():
    return store.object_stats()["used"]


def _await_used(below):
    """Wait until the store holds less; what others hold is let go of with a little delay."""
    helpers.wait_until(lambda: _used() <= below, what=f"use of {below} bytes or less")


def test_put_and_get_of_arrays(ray):
    for dtype in ("u1", "f8", "c16", "M8[s]", "U3", "?", ">i4"):
        a = np.arange(20_000).astype("i8").astype(dtype)
        ref = ray.put(a)
        b = ray.get(ref)
        assert b.dtype == a.dtype
        assert np.array_equal(a, b)
        a[:] = a[0]
        assert not np.array_equal(a, ray.get(ref))


def test_what_is_gotten_cannot_be_written(ray):
    ref = ray.put({"a": [np.zeros(10_000), np.zeros(3)]})
    for array in ray.get(ref)["a"]:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError):
            array.flags.writeable = True
        with pytest.raises(ValueError):
            array.view().setflags(write=True)
        with pytest.raises(ValueError):
            array += 1
        own = array.copy()
        own[0] = 1
        assert array[0] == 0
    assert ray.get(ref)["a"][0].sum() == 0


def test_arguments_cannot_be_written_either(ray):
    @ray.remote
    def scale(a):
        a *= 2
        return a

    @ray.remote
    def scaled(a):
        a = a.copy()
        a *= 2
        return a

    big = np.ones(10_000)
    for argument in (big, ray.put(big)):
        with pytest.raises(ValueError, match="read-only"):
            ray.get(scale.remote(argument))
        assert ray.get(scaled.remote(argument)).sum() == 20_000


def test_each_get_gives_containers_of_its_own(ray):
    ref = ray.put({"l": [1]})
    first = ray.get(ref)
    first["l"].append(2)
    assert ray.get(ref) == {"l": [1]}


def test_writing_through_a_raw_pointer_kills_that_task_only(ray, tmp_path):
    a = ray.put(np.zeros(100_000))
    tally = helpers.Tally(tmp_path / "tally")

    @ray.remote(max_retries=0)
    def poke(x):
        import ctypes
        import faulthandler

        faulthandler.disable()  # its report is not wanted here
        tally.add(os.getpid())
        ctypes.c_double.from_address(x.ctypes.data).value = 1.0

    @ray.remote
    def look(x):
        return float(x.sum())

    with pytest.raises(exceptions.WorkerCrashedError, match="SIGSEGV") as caught:
        ray.get(poke.remote(a))
    assert caught.value.signal == "SIGSEGV"
    assert [str(caught.value.pid)] == tally.lines()
    assert caught.value.task == "poke"
    assert ray.get([look.remote(a) for _ in range(4)]) == [0.0] * 4
    assert ray.get(a).sum() == 0


# ---- zero copy ---------------------------------------------------------------------------------


def _place(array):
    """(device and inode, offset in the file, permissions) of the memory under an array."""
    address = array.ctypes.data
    with open("/proc/self/maps") as f:
        for line in f:
            span, permissions, offset, device, inode, *_ = line.split()
            start, end = (int(x, 16) for x in span.split("-"))
            if start <= address < end:
                return device, inode, int(offset, 16) + address - start, permissions
    raise AssertionError("the array lies in no mapping")


def test_processes_see_the_same_pages(ray):
    ref = ray.put([np.arange(100_000), "between", np.ones((300, 300), order="F")])

    @ray.remote
    def places(box):
        return os.getpid(), [_place(a) for a in ray.get(box[0]) if not isinstance(a, str)]

    @ray.remote
    def places_of_argument(value):
        return [_place(a) for a in value if not isinstance(a, str)]

    mine = [_place(a) for a in ray.get(ref) if not isinstance(a, str)]
    assert len({p[2] for p in mine}) == 2
    for *_, permissions in mine:
        assert permissions == "r--s"
    for _ in range(3):
        pid, theirs = ray.get(places.remote([ref]))
        assert pid != os.getpid()
        assert theirs == mine
        assert ray.get(places_of_argument.remote(ref)) == mine


def test_a_result_is_not_copied_either(ray):
    @ray.remote
    def make():
        return np.arange(50_000)

    @ray.remote
    def place(a):
        return _place(a), int(a[-1])

    ref = make.remote()
    got = ray.get([place.remote(ref) for _ in range(4)])
    assert got == [(_place(ray.get(ref)), 49_999)] * 4
    assert _place(ray.get(ref)) == _place(ray.get(ref))


def test_pickled_buffers_are_views_too(ray):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": np.arange(100_000.0)})
    ref = ray.put(frame)
    got = ray.get(ref)
    pd.testing.assert_frame_equal(got, frame)
    assert _place(got["a"].to_numpy()) == _place(ray.get(ref)["a"].to_numpy())


# ---- freed by reference counting ---------------------------------------------------------------


@pytest.fixture
def base(ray):
    """Bytes in use before the test puts anything."""
    ray.get([ray.remote(lambda: None).remote() for _ in range(4)])
    return _used()


def test_a_drivers_variable_holds_an_object(ray, base):
    ref = ray.put(bytes(4 * MB))
    assert _used() >= base + 4 * MB
    same = [ref]
    del ref
    assert len(ray.get(same[0])) == 4 * MB
    same.clear()
    assert _used() <= base


def test_a_view_holds_an_object(ray, base):
    view = ray.get(ray.put(np.ones(MB)))
    part = view[100:200]
    del view
    assert _used() >= base + 8 * MB
    assert part.sum() == 100
    more = [ray.put(np.zeros(MB)) for _ in range(5)]
    assert part.sum() == 100
    del more
    derived = part.reshape(10, 10).T
    del part
    assert _used() >= base + 8 * MB
    del derived
    assert _used() <= base


def test_a_queued_argument_holds_an_object(ray, base, gate):
    @ray.remote
    def wait():
        gate.wait()

    @ray.remote
    def total(_, a):
        return float(a.sum())

    blocker = wait.remote()
    ref = total.remote(blocker, ray.put(np.ones(MB)))
    inline = total.remote(blocker, np.ones(MB))
    more = [ray.put(np.zeros(MB)) for _ in range(5)]
    del more
    assert _used() >= base + 16 * MB
    gate.open()
    assert ray.get([ref, inline]) == [MB, MB]
    ray.put(1)
    _await_used(base + SLACK)


def test_an_id_inside_another_object_holds_it(ray, base):
    outer = ray.put({"inner": [ray.put(np.ones(MB))]})
    more = [ray.put(np.zeros(MB)) for _ in range(5)]
    del more
    assert _used() >= base + 8 * MB
    inner = ray.get(outer)["inner"][0]
    assert ray.get(inner).sum() == MB
    del outer
    assert ray.get(inner).sum() == MB
    del inner
    _await_used(base + SLACK)


def test_an_id_inside_a_tasks_result_holds_it(ray, base):
    @ray.remote
    def make():
        return [ray.put(np.ones(MB))]

    @ray.remote
    def total(box):
        return float(ray.get(box[0]).sum())

    never_looked = make.remote()
    box = make.remote()
    ray.wait([never_looked, box], num_returns=2)
    assert ray.get(total.remote(box)) == MB
    assert ray.get(ray.get(box)[0]).sum() == MB
    assert _used() >= base + 16 * MB
    (inner,) = ray.get(box)
    del box, never_looked
    assert ray.get(inner).sum() == MB
    del inner
    _await_used(base + SLACK)


def test_results_nobody_waits_for_are_freed(ray, base):
    @ray.remote
    def make():
        return np.ones(MB)

    for _ in range(30):
        make.remote()
    ray.get(ray.remote(lambda: 1).remote())
    _await_used(base + SLACK)


def test_objects_a_task_keeps_are_held_until_it_lets_go(ray1):
    @ray1.remote
    def keep(box):
        os.kept = box[0]

    @ray1.remote
    def kept_sum():
        return float(ray1.get(os.kept).sum())

    @ray1.remote
    def drop():
        del os.kept

    ray1.get([ray1.remote(lambda: None).remote() for _ in range(2)])
    ref = ray1.put(np.ones(MB))
    before = _used() - 8 * MB
    ray1.get(keep.remote([ref]))
    del ref
    assert ray1.get(kept_sum.remote()) == MB
    ray1.get(drop.remote())
    _await_used(before + SLACK)


def test_views_a_task_keeps_are_held_until_it_lets_go(ray1):
    @ray1.remote
    def keep(array):
        os.kept_view = array[:10]

    @ray1.remote
    def drop():
        total = float(os.kept_view.sum())
        del os.kept_view
        return total

    ray1.get(ray1.put(np.ones(10)))
    ray1.get(keep.remote(np.ones(MB)))
    more = [ray1.put(np.zeros(MB)) for _ in range(5)]
    del more
    assert ray1.get(drop.remote()) == 10
    _await_used(SLACK)


# ---- flat memory -------------------------------------------------------------------------------


def test_a_hundred_thousand_puts_and_gets_in_flat_memory(ray):
    def rounds(n):
        for i in range(n):
            ref = ray.put(i if i % 2 else [i, "x" * 100])
            ray.get(ref)
        del ref

    rounds(2000)
    used, memory, chunks = _used(), helpers.resident(), store.object_stats()["chunks"]
    rounds(100_000)
    assert _used() == used
    assert store.object_stats()["chunks"] == chunks
    assert helpers.resident() - memory < 2 * MB


@pytest.mark.no_asan("takes memory of its own")
def test_twenty_thousand_tasks_in_flat_memory(ray):
    @ray.remote
    def f(x, box):
        return [x]

    def rounds(n):
        for _ in range(n):
            refs = [f.remote(ray.put(i), [ray.put("x" * 100)]) for i in range(100)]
            assert ray.get(refs) == [[i] for i in range(100)]

    rounds(20)
    refs = []
    ray.get(ray.put(1))
    memory, chunks = helpers.resident(), store.object_stats()["chunks"]
    rounds(100)
    assert store.object_stats()["chunks"] <= chunks + 2
    assert helpers.resident() - memory < 2 * MB
    assert refs == []


def test_much_more_than_the_store_holds_passes_through_it():
    pyray.init(num_cpus=1, object_store_memory=100 * MB)

    @pyray.remote
    def make(i):
        return np.full(10 * MB, i % 256, dtype=np.uint8)

    @pyray.remote
    def look(a, i):
        return bool((a[::4096] == i % 256).all())

    for i in range(100):
        assert pyray.get(look.remote(pyray.put(np.full(10 * MB, i, dtype=np.uint8)), i))
    for i in range(100):
        a = pyray.get(make.remote(i))
        assert a[0] == a[-1] == i
        del a
    with open(f"/proc/{os.getpid()}/smaps_rollup") as f:
        shared = next(int(line.split()[1]) for line in f if line.startswith("Rss:"))
    assert shared << 10 < 1000 * MB


def test_a_full_store_is_an_error_with_sizes_and_works_again():
    pyray.init(num_cpus=1, object_store_memory=32 * MB, max_spill_bytes=0)
    refs = [pyray.put(bytes(8 * MB)) for _ in range(3)]
    with pytest.raises(exceptions.ObjectStoreFullError) as caught:
        pyray.put(bytes(12 * MB))
    assert isinstance(caught.value, MemoryError)
    text = str(caught.value)
    numbers = [int(w) for w in text.replace(":", " ").split() if w.isdigit()]
    assert 12 * MB <= numbers[0] < 13 * MB
    assert 24 * MB <= numbers[1] < 26 * MB
    assert 32 * MB <= numbers[2] < 33 * MB
    with pytest.raises(exceptions.ObjectStoreFullError):
        pyray.put(bytes(64 * MB))

    @pyray.remote
    def make(n):
        return bytes(n)

    with pytest.raises(exceptions.ObjectStoreFullError, match="object_store_memory"):
        pyray.get(make.remote(12 * MB))
    with pytest.raises(exceptions.ObjectStoreFullError):
        make.remote(bytes(12 * MB))
    assert [len(v) for v in pyray.get(refs)] == [8 * MB] * 3
    refs.clear()
    assert len(pyray.get(pyray.put(bytes(12 * MB)))) == 12 * MB
    assert len(pyray.get(make.remote(12 * MB))) == 12 * MB


def test_blocks_that_others_free_are_used_again(ray):
    """Or a worker's results that the driver drops would take all of the store's memory in time."""

    def allocated():
        for fd in os.listdir("/proc/self/fd"):
            try:
                if "memfd:pyray" in os.readlink(f"/proc/self/fd/{fd}"):
                    return os.stat(f"/proc/self/fd/{fd}").st_blocks * 512
            except OSError:
                continue
        raise AssertionError("no session's file")

    @ray.remote
    def step(left, mine, right):
        return mine + 1

    edge = ray.put(np.zeros(100))
    blocks = [ray.put(np.zeros(500_000)) for _ in range(2)]
    for _ in range(10):
        blocks = [step.remote(edge, blocks[0], blocks[1]), step.remote(blocks[0], blocks[1], edge)]
        ray.wait(blocks, num_returns=2)
    before = allocated()
    for _ in range(80):
        blocks = [step.remote(edge, blocks[0], blocks[1]), step.remote(blocks[0], blocks[1], edge)]
        ray.wait(blocks, num_returns=2)
    assert [ray.get(b)[0] for b in blocks] == [90, 90]
    # 80 more steps make 640 MB, of which few are in use at a time.
    assert allocated() - before < 400_000_000
