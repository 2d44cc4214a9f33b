"""Large values: copied in pieces, by several threads, into pages of which little is known."""

from __future__ import annotations

import os
import signal

import helpers
import numpy as np
import pytest

import pyray
from pyray import exceptions

KB = 1 << 10
MB = 1 << 20
# Where another way of copying begins, and a byte to either side; pieces of 1 MiB; none of them.
SIZES = [
    *(n + d for n in (128 * KB, MB, 2 * MB, 8 * MB) for d in (-129, -1, 0, 1)),
    16 * KB + 1,
    9 * MB + 12_345,
]


SCRIPT = """
import os
import numpy as np
import pyray as ray

ray.init(num_cpus=1, object_store_memory=200 << 20)
file = os.open("mine", os.O_RDWR)
for number in os.listdir("/proc/self/fd"):
    link = f"/proc/self/fd/{number}"
    if os.path.islink(link) and "memfd:pyray" in os.readlink(link):
        os.dup2(file, int(number))
data = np.arange(2 << 20)
assert np.array_equal(ray.get(ray.put(data)), data)
kept = [ray.put(i) for i in range(20_000)]
assert ray.get(kept) == list(range(20_000))
print("put")
"""


def _bytes(n, seed=0):
    """Bytes of which no two pages are alike."""
    return np.random.default_rng(seed).bytes(n)


@pytest.fixture
def stored():
    """A session whose store has room for these tests."""
    pyray.init(num_cpus=2, object_store_memory=400 * MB)
    yield pyray
    pyray.shutdown()


def test_every_size_comes_back_from_new_pages_and_from_used_ones(stored):
    @stored.remote
    def same(a, b):
        return bytes(a) == b

    values = [_bytes(n, n) for n in SIZES]
    # New pages first; then the same ones twice: not mapped everywhere yet, and mapped.
    for _ in range(3):
        refs = [stored.put(np.frombuffer(data, np.uint8)) for data in values]
        for ref, data in zip(refs, values, strict=True):
            assert stored.get(ref).tobytes() == data
            assert stored.get(same.remote(ref, data))
        del refs, ref


def test_what_begins_anywhere_in_a_page_comes_back(stored):
    # Text before the blobs moves their beginnings.
    for shift in (0, 1, 63, 100):
        value = ["x" * shift, _bytes(9 * MB + 7, 1), _bytes(3 * MB + 1, 2), "y", _bytes(200_001, 3)]
        for _ in range(2):
            assert stored.get(stored.put(value)) == value


def test_pages_that_other_processes_have_made(stored):
    @stored.remote
    def make(seed):
        return np.frombuffer(_bytes(12 * MB, seed), np.uint8)

    for seed in range(4):
        ref = make.remote(seed)
        assert stored.get(ref).tobytes() == _bytes(12 * MB, seed)
        del ref
        stored.put(np.zeros(12 * MB, np.uint8))
        data = _bytes(12 * MB, 100 + seed)
        assert stored.get(stored.put(np.frombuffer(data, np.uint8))).tobytes() == data


def test_several_processes_fill_new_pages_at_once(stored):
    @stored.remote
    def fill(seed):
        data = np.frombuffer(_bytes(20 * MB, seed), np.uint8)
        return [stored.put(data), stored.put(data[1:])]

    refs = [fill.remote(seed) for seed in range(4)]
    mine = [stored.put(np.frombuffer(_bytes(20 * MB, 9), np.uint8)) for _ in range(2)]
    for seed, pair in enumerate(stored.get(refs)):
        whole, part = stored.get(pair)
        assert whole.tobytes() == _bytes(20 * MB, seed)
        assert part.tobytes() == _bytes(20 * MB, seed)[1:]
    for ref in mine:
        assert stored.get(ref).tobytes() == _bytes(20 * MB, 9)


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_who_is_stopped_or_killed_while_it_fills_pages_holds_up_nobody(stored, tmp_path, how):
    @stored.remote(max_retries=0)
    def fill(folder):
        data = np.ones(30 * MB, np.uint8)
        kept = [stored.put(data)]
        (folder / "pid").write_text(str(os.getpid()))
        while not (folder / "stop").exists():
            kept = [*kept[-2:], stored.put(data)]

    data = np.frombuffer(_bytes(16 * MB, 5), np.uint8)
    for i in range(3):
        folder = tmp_path / str(i)
        folder.mkdir()
        ref = fill.remote(folder)
        helpers.wait_until(
            lambda file=folder / "pid": file.exists() and file.read_text(), what="the task"
        )
        pid = int((folder / "pid").read_text())
        try:
            os.kill(pid, how)
            for _ in range(4):
                assert np.array_equal(stored.get(stored.put(data)), data), i
        finally:
            (folder / "stop").touch()
            if how == signal.SIGSTOP:
                os.kill(pid, signal.SIGCONT)
        if how == signal.SIGSTOP:
            stored.get(ref)
        else:
            with pytest.raises(exceptions.WorkerCrashedError):
                stored.get(ref)


def test_a_file_that_got_the_number_of_the_sessions_memory_is_not_written_to(tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    helpers.run_script(tmp_path / "script.py", SCRIPT)
    assert (tmp_path / "mine").read_bytes() == b"mine"
