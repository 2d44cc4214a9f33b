"""Objects that do not fit in memory go to disk, and nobody can tell by what they get."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import stat
import zlib
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

import pyray
from pyray import exceptions
from pyray._core import room, store
from pyray.util.state import get_object, get_store, list_objects

MB = 1 << 20


def begin(memory: int = 16 * MB, cpus: int = 1, **options: Any) -> None:
    pyray.init(num_cpus=cpus, object_store_memory=memory, **options)


def block(seed: int, nbytes: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)


def checksum(array: Any) -> int:
    return zlib.crc32(memoryview(array).cast("B"))


def on_disk(ref: Any) -> bool:
    return store.object_address(ref) >= store.object_stats()["total"]


def spill_fds() -> list[int]:
    """Descriptors of this process that are of spill files: nameless, and as large as that one."""
    size, found = get_store().spill_total, []
    for fd, what in helpers.open_fds().items():
        with contextlib.suppress(OSError):
            if "memfd" not in what and os.fstat(fd).st_size == size > 0:
                found.append(fd)
    return found


def put_until_full(refs: list[Any]) -> exceptions.ObjectStoreFullError:
    """Put blocks of 1 MiB until that is an error, which is returned."""
    for i in range(40):
        try:
            refs.append(pyray.put(block(i, MB)))
        except exceptions.ObjectStoreFullError as error:
            return error
    raise AssertionError("40 MiB fitted")


def is_empty() -> bool:
    stats = get_store()
    return stats.spill_used == 0 and stats.memory_used <= 4 * 16384


# ---- exact -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "count", "low", "high", "reads"),
    [
        (6 * MB, 60, 400_000, 1_200_000, 400),
        pytest.param(
            75 * MB, 100, 8 * MB, 24 * MB, 1000, marks=[pytest.mark.slow, pytest.mark.seconds(400)]
        ),
    ],
)
def test_many_times_the_store_read_at_random(memory, count, low, high, reads):
    begin(memory)
    rng = random.Random(1)
    refs, sums = [], []
    for i in range(count):
        value = block(i, rng.randrange(low, high))
        sums.append(checksum(value))
        refs.append(pyray.put(value))
    stats = get_store()
    assert stats.spilled_bytes > (count * (low + high) // 2) * 0.7 - memory
    for _ in range(reads):
        i = rng.randrange(count)
        assert checksum(pyray.get(refs[i])) == sums[i]
    del refs
    assert is_empty()


def test_values_of_every_kind():
    begin(4 * MB)
    inner = pyray.put(block(7, 300_000))
    values: list[Any] = [
        b"bytes" * 100_000,
        "text" * 100_000,
        {"a": block(1, 200_000), "b": [block(2, 100_000), "x"], "c": inner},
        [inner] * 3_000,
        list(range(100_000)),
        np.arange(60_000).reshape(200, 300).T,
    ]
    refs = [pyray.put(v) for v in values]
    fill = [pyray.put(block(i, 500_000)) for i in range(20)]
    assert all(on_disk(ref) for ref in refs)
    assert pyray.get(refs[0]) == values[0]
    assert pyray.get(refs[1]) == values[1]
    got = pyray.get(refs[2])
    assert np.array_equal(got["a"], values[2]["a"])
    assert np.array_equal(got["b"][0], values[2]["b"][0])
    assert got["c"] == inner
    assert checksum(pyray.get(got["c"])) == checksum(block(7, 300_000))
    assert pyray.get(refs[3]) == values[3]
    assert pyray.get(refs[4]) == values[4]
    assert np.array_equal(pyray.get(refs[5]), values[5])
    assert len(fill) == 20


def test_arguments_results_actors_and_generators():
    begin(6 * MB, cpus=2)

    @pyray.remote
    def double(a: Any) -> Any:
        return a * 2

    @pyray.remote
    class Keeper:
        def __init__(self, a: Any) -> None:
            self.a = a

        def total(self, b: Any) -> int:
            return int(self.a.sum()) + int(b.sum())

    @pyray.remote
    def several(n: int) -> Any:
        for i in range(n):
            yield np.full(800_000, i, np.uint8)

    given = [pyray.put(np.full(800_000, i, np.uint8)) for i in range(12)]
    doubled = [double.remote(g) for g in given]
    again = [double.remote(d) for d in doubled]
    keepers = [Keeper.remote(given[i]) for i in range(2)]
    totals = [k.total.remote(d) for k in keepers for d in doubled]
    stream = several.options(num_returns="streaming").remote(10)
    # Arguments by value lie in the store while the tasks wait.
    by_value = [double.remote(np.full(900_000, i, np.uint8)) for i in range(8)]
    for i in range(12):
        assert (pyray.get(again[i]) == 4 * i).all()
    for n, total in enumerate(totals):
        assert pyray.get(total) == 800_000 * (n // 12 + 2 * (n % 12))
    for i, ref in enumerate(stream):
        assert (pyray.get(ref) == i).all()
    for i, ref in enumerate(by_value):
        assert (pyray.get(ref) == 2 * i).all()
    assert get_store().spilled_objects > 0


def test_a_large_error():
    begin(4 * MB)

    @pyray.remote
    def fail() -> None:
        raise ValueError("why", "x" * 300_000)

    ref = fail.remote()
    pyray.wait([ref])
    fill = [pyray.put(block(i, 500_000)) for i in range(12)]
    assert on_disk(ref)
    with pytest.raises(ValueError) as caught:
        pyray.get(ref)
    assert caught.value.args == ("why", "x" * 300_000)
    assert len(fill) == 12


def test_an_object_larger_than_the_store():
    begin(4 * MB)
    value = block(3, 20 * MB)
    ref = pyray.put(value)
    assert np.array_equal(pyray.get(ref), value)
    assert pyray.get(pyray.remote(checksum).remote(ref)) == checksum(value)

    @pyray.remote
    def make(n: int) -> Any:
        return np.ones(n, np.uint8)

    assert pyray.get(make.remote(9 * MB)).sum() == 9 * MB
    assert get_store().direct_bytes >= 29 * MB


def test_small_values_where_memory_is_full_of_what_cannot_go():
    begin(2 * MB)
    views = []
    for i in range(40):
        views.append(pyray.get(pyray.put(block(i, 60_000))))
    small = [pyray.put(bytes([i % 256]) * 3000) for i in range(500)]
    assert any(on_disk(ref) for ref in small)
    assert [pyray.get(ref) for ref in small] == [bytes([i % 256]) * 3000 for i in range(500)]
    for i, view in enumerate(views):
        assert checksum(view) == checksum(block(i, 60_000))


def test_from_several_processes_at_once():
    begin(6 * MB, cpus=2)

    @pyray.remote
    def churn(seed: int, refs: list[Any]) -> int:
        rng, mine = random.Random(seed), []
        for i in range(60):
            value = block(1000 * seed + i, rng.randrange(20_000, 600_000))
            mine.append((pyray.put(value), checksum(value)))
            ref, expected = mine[rng.randrange(len(mine))]
            assert checksum(pyray.get(ref)) == expected
            ref, expected = refs[rng.randrange(len(refs))]
            assert checksum(pyray.get(ref)) == expected
            if len(mine) > 12:
                del mine[rng.randrange(len(mine))]
        return seed

    shared = []
    for i in range(10):
        value = block(i, 400_000)
        shared.append((pyray.put(value), checksum(value)))
    assert pyray.get([churn.remote(s, shared) for s in range(4)], timeout=60) == [0, 1, 2, 3]
    assert get_store().spilled_objects > 10
    del shared, value
    helpers.wait_until(lambda: get_store().spill_used == 0, what="an empty spill file")


# ---- which -------------------------------------------------------------------------------------


def test_least_recently_used_first():
    begin(16 * MB)
    refs = [pyray.put(block(i, 2 * MB)) for i in range(7)]
    assert not any(map(on_disk, refs))
    for i in (1, 0, 4):
        pyray.get(refs[i])
    order = [2, 3, 5, 6, 1, 0, 4]
    more = []
    for n in range(6):
        more.append(pyray.put(block(100 + n, 2 * MB)))
        gone = [i for i in range(7) if on_disk(refs[i])]
        assert sorted(gone) == sorted(order[: len(gone)])
    assert len(gone) >= 5


def test_what_is_looked_at_stays():
    begin(8 * MB, cpus=2)

    @pyray.remote
    class Viewer:
        def look(self, refs: list[Any]) -> None:
            self.view = pyray.get(refs[0])

        def checksum(self) -> int:
            return checksum(self.view)

        def drop(self) -> None:
            del self.view

    mine, theirs, writable = (pyray.put(block(i, MB)) for i in range(3))
    view = pyray.get(mine)[5:]
    viewer = Viewer.remote()
    pyray.get(viewer.look.remote([theirs]))
    changed = pyray.get(writable, writable=True)
    changed[0] += 1
    places = [store.object_address(r) for r in (mine, theirs, writable)]
    more = [pyray.put(block(100 + i, MB)) for i in range(20)]
    assert [store.object_address(r) for r in (mine, theirs, writable)] == places
    assert checksum(view) == checksum(block(0, MB)[5:])
    assert pyray.get(viewer.checksum.remote()) == checksum(block(1, MB))
    assert np.array_equal(changed[1:], block(2, MB)[1:])
    # And goes when nobody looks any more.
    pyray.get(viewer.drop.remote())
    del view, changed
    more += [pyray.put(block(200 + i, MB)) for i in range(10)]
    assert all(map(on_disk, (mine, theirs, writable)))
    assert checksum(pyray.get(mine)) == checksum(block(0, MB))


def test_shared_arrays():
    begin(8 * MB)
    a = pyray.shared.zeros(MB, "u1")
    a[:] = block(1, MB)
    fill = [pyray.put(block(i, MB)) for i in range(20)]
    assert np.array_equal(a, block(1, MB))  # open: it stays
    ref = pyray.put(a)  # seals it where it lies
    fill += [pyray.put(block(i, MB)) for i in range(10)]
    assert not on_disk(ref)
    assert np.array_equal(a, block(1, MB))
    del a
    gc.collect()
    fill += [pyray.put(block(i, MB)) for i in range(10)]
    assert on_disk(ref)
    assert np.array_equal(pyray.get(ref), block(1, MB))
    # One that is larger than the memory is written to on disk.
    b = pyray.shared.zeros(12 * MB, "u1")

    @pyray.remote
    def write(part: Any) -> None:
        part[:] = 3

    pyray.get(write.remote(b[: 6 * MB]))
    pyray.get(write.remote(np.asarray(b)[6 * MB :]))  # a plain view is one of it as well
    assert int(b.sum()) == 36 * MB


def test_a_writable_copy_of_what_is_on_disk():
    begin(4 * MB)
    refs = [pyray.put(block(i, MB)) for i in range(8)]
    assert on_disk(refs[0])
    mine = pyray.get(refs[0], writable=True)
    mine[:10] = 0
    assert np.array_equal(mine[10:], block(0, MB)[10:])
    assert np.array_equal(pyray.get(refs[0]), block(0, MB))


def test_when_the_machines_memory_is_short():
    begin(64 * MB)
    first = [pyray.put(block(i, 4 * MB)) for i in range(4)]
    try:
        room.set_guard(lambda nbytes: "the machine is full, says the test")
        second = [pyray.put(block(10 + i, 4 * MB)) for i in range(4)]
    finally:
        room.set_guard(None)
    assert all(map(on_disk, first))
    for i, ref in enumerate(first + second):
        assert checksum(pyray.get(ref)) == checksum(block(i if i < 4 else 6 + i, 4 * MB))


# ---- limits ------------------------------------------------------------------------------------


def test_turned_off():
    begin(8 * MB, max_spill_bytes=0)
    refs = [pyray.put(block(i, 2 * MB)) for i in range(3)]
    with pytest.raises(exceptions.ObjectStoreFullError, match="max_spill_bytes is 0"):
        pyray.put(block(9, 4 * MB))
    assert [checksum(pyray.get(r)) for r in refs] == [checksum(block(i, 2 * MB)) for i in range(3)]
    assert get_store().spill_directory is None


def test_the_limit_is_an_error_with_sizes_and_loses_nothing():
    begin(4 * MB, max_spill_bytes=6 * MB)
    refs: list[Any] = []
    text = str(put_until_full(refs))
    assert f"of at most {6 * MB} bytes" in text
    assert "max_spill_bytes" in text
    assert len(refs) >= 7
    for i, ref in enumerate(refs):
        assert checksum(pyray.get(ref)) == checksum(block(i, MB))
    del refs[::2]
    assert checksum(pyray.get(pyray.put(block(99, MB)))) == checksum(block(99, MB))

    @pyray.remote
    def make() -> Any:
        return block(1, 30 * MB)

    with pytest.raises(exceptions.ObjectStoreFullError, match="max_spill_bytes"):
        pyray.get(make.remote())


def test_a_full_disk(tmp_path):
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=8m none {tmp_path} 2>/dev/null"):
        pytest.skip("not run: spilling to a file system that fills up; mounting a tmpfs takes root")
    try:
        begin(4 * MB, spill_directory=tmp_path, max_spill_bytes=64 * MB)
        refs: list[Any] = []
        assert "bytes free" in str(put_until_full(refs))
        assert len(refs) >= 7
        for i, ref in enumerate(refs):
            assert checksum(pyray.get(ref)) == checksum(block(i, MB))
        # Others may fill it too.
        (tmp_path / "theirs").write_bytes(bytes(os.statvfs(tmp_path).f_bavail * 4096))
        del refs[::2]
        refs += [pyray.put(block(50 + i, MB)) for i in range(2)]
        assert checksum(pyray.get(refs[-1])) == checksum(block(51, MB))
        del refs, ref
        pyray.shutdown()
        assert [p.name for p in tmp_path.iterdir()] == ["theirs"]
    finally:
        pyray.shutdown()
        os.system(f"umount {tmp_path}")


def test_room_is_made_in_one_piece():
    begin(8 * MB)
    small = [pyray.put(block(i, 100_000)) for i in range(70)]
    kept = [pyray.get(ref) for ref in small[35:37]]  # in the middle, more or less
    for i in range(4):
        big = pyray.put(block(500 + i, 2 * MB))
        assert not on_disk(big)
        assert checksum(pyray.get(big)) == checksum(block(500 + i, 2 * MB))
    for i, ref in enumerate(small):
        assert checksum(pyray.get(ref)) == checksum(block(i, 100_000))
    assert checksum(kept[0]) == checksum(block(35, 100_000))


# ---- the file ----------------------------------------------------------------------------------


def test_the_file_is_nobody_elses_and_has_no_name(tmp_path):
    begin(4 * MB, spill_directory=tmp_path, max_spill_bytes=77 * MB)
    refs = [pyray.put(block(i, MB)) for i in range(12)]
    assert list(tmp_path.iterdir()) == []
    (fd,) = spill_fds()
    found = os.fstat(fd)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_nlink == 0
    assert found.st_dev == tmp_path.stat().st_dev
    assert found.st_blocks * 512 >= 7 * MB
    assert not os.get_inheritable(fd)
    # What is dropped takes no room on the disk any more.
    del refs
    assert os.fstat(fd).st_blocks == 0
    assert get_store().spill_used == 0


def test_under_a_permissive_umask(tmp_path):
    before = os.umask(0)
    try:
        begin(4 * MB, spill_directory=tmp_path, max_spill_bytes=77 * MB)
    finally:
        os.umask(before)
    (fd,) = spill_fds()
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600


def test_directories_that_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    for bad in ("missing", "file"):
        with pytest.raises(exceptions.SessionError, match=f"spill_directory='.*{bad}'"):
            begin(spill_directory=tmp_path / bad)
        assert not pyray.is_initialized()
    with pytest.raises(TypeError, match="spill_directory"):
        begin(spill_directory=3)
    with pytest.raises(ValueError, match="spill_directory"):
        begin(spill_directory="")
    with pytest.raises(ValueError, match="max_spill_bytes"):
        begin(max_spill_bytes=-1)
    with pytest.raises(TypeError, match="max_spill_bytes"):
        begin(max_spill_bytes="1 GB")
    # A link of one's own is all right.
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    begin(spill_directory=str(tmp_path / "link"))
    assert get_store().spill_directory == str(tmp_path / "link")


def test_a_link_of_somebody_elses(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("not run: a link that another user has planted; making one takes root")
    (tmp_path / "link").symlink_to("/tmp")
    os.lchown(tmp_path / "link", 12345, 12345)
    with pytest.raises(exceptions.SessionError, match="12345"):
        begin(spill_directory=tmp_path / "link")


def test_without_a_directory_for_temporary_files(monkeypatch, tmp_path):
    """By default nothing is lost but the spilling; what was asked for has to be there."""
    from pyray import spilling

    def none() -> str:
        raise OSError("there is none")

    monkeypatch.setattr(spilling, "_temporary", none)
    begin(4 * MB)
    with pytest.raises(exceptions.ObjectStoreFullError, match="there is none"):
        pyray.put(bytes(8 * MB))
    pyray.shutdown()
    with pytest.raises(exceptions.SessionError, match="there is none"):
        begin(4 * MB, max_spill_bytes=MB)


def test_where_files_always_have_names(monkeypatch, tmp_path):
    from pyray import spilling

    real = os.open

    def refusing(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *args, **more)

    monkeypatch.setattr(spilling.os, "open", refusing)
    begin(4 * MB, spill_directory=tmp_path)
    monkeypatch.undo()
    refs = [pyray.put(block(i, MB)) for i in range(8)]
    assert list(tmp_path.iterdir()) == []
    assert checksum(pyray.get(refs[0])) == checksum(block(0, MB))
    pyray.shutdown()
    tmp_path.chmod(0o777)
    monkeypatch.setattr(spilling.os, "open", refusing)
    with pytest.raises(exceptions.SessionError, match="others may delete"):
        begin(4 * MB, spill_directory=tmp_path)


# ---- sessions ----------------------------------------------------------------------------------


def test_views_outlive_the_session_and_the_next_one_spills_too():
    begin(4 * MB)
    refs = [pyray.put(block(i, MB)) for i in range(8)]
    views = [pyray.get(ref) for ref in refs]
    pyray.shutdown()
    del refs
    begin(4 * MB)
    more = [pyray.put(block(50 + i, MB)) for i in range(8)]
    for i in range(8):
        assert checksum(views[i]) == checksum(block(i, MB))
    views.clear()
    for i in range(8):
        assert checksum(pyray.get(more[i])) == checksum(block(50 + i, MB))
    del more
    assert is_empty()


def test_in_local_mode():
    begin(4 * MB, local_mode=True)
    make = pyray.remote(block)
    refs = [make.remote(i, MB) for i in range(8)]
    for i in range(8):
        assert checksum(pyray.get(refs[i])) == checksum(block(i, MB))


def test_after_a_fork_by_user_code():
    begin(4 * MB)
    refs = [pyray.put(block(i, MB)) for i in range(8)]
    views = [pyray.get(refs[0]), pyray.get(refs[7])]
    pid = os.fork()
    if pid == 0:
        good = checksum(views[0]) == checksum(block(0, MB)) and checksum(views[1]) == checksum(
            block(7, MB)
        )
        del views[:]  # releases nothing
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    refs += [pyray.put(block(20 + i, MB)) for i in range(8)]
    assert checksum(views[1]) == checksum(block(7, MB))
    assert checksum(pyray.get(refs[3])) == checksum(block(3, MB))


# ---- what can be seen of it --------------------------------------------------------------------


def test_it_is_seen(caplog):
    begin(4 * MB)
    refs = [pyray.put(block(i, MB)) for i in range(8)]
    stats = get_store()
    assert stats.memory_total == 4 * MB
    assert stats.spilled_objects >= 4
    assert stats.spilled_bytes >= 4 * MB
    assert stats.spill_used >= stats.spilled_bytes
    found = get_object(refs[0].hex())
    assert found.spilled
    assert found.object_size > MB
    assert not get_object(refs[7].hex()).spilled
    assert len(list_objects(filters=[("spilled", "=", True)])) == stats.spilled_objects
    lines = [r for r in caplog.records if "went to disk" in r.getMessage()]
    assert len(lines) == 1  # the next is due at 64 MiB
    text = lines[0].getMessage()
    assert "object_store_memory" in text
    assert stats.spill_directory in text


def test_rays_name_of_the_option(tmp_path: Path) -> None:
    begin(object_spilling_directory=str(tmp_path))
    assert get_store().spill_directory == str(tmp_path)
