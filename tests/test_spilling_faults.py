"""Spillers that die or stand still at any moment, and drivers that do."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
import zlib
from typing import Any

import fault_helpers
import helpers
import numpy as np
import pytest

import pyray
from pyray import exceptions
from pyray._core import points
from pyray.util.state import get_store

MB = 1 << 20


def block(seed: int, nbytes: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)


def checksum(array: Any) -> int:
    return zlib.crc32(memoryview(array).cast("B"))


@pyray.remote(max_retries=0)
def spill_for_ever(tally: helpers.Tally, refs: list[Any]) -> None:
    """Makes objects and lets go of them, which has the driver's spilled and its own."""
    rng, mine = random.Random(os.getpid()), []
    value = block(os.getpid(), MB)
    tally.add(os.getpid())
    while True:
        mine.append(pyray.put(value[: rng.randrange(20_000, MB)]))
        pyray.get(refs[rng.randrange(len(refs))])
        if len(mine) > 8:
            del mine[rng.randrange(len(mine))]


def pid_of_last(tally: helpers.Tally, count: int) -> int:
    helpers.wait_until(lambda: len(tally) >= count, what="the task")
    return int(tally.lines()[-1])


@pytest.mark.seconds(300)
@pytest.mark.parametrize(
    "kills", [8, pytest.param(150, marks=pytest.mark.slow)], ids=["short", "storm"]
)
def test_a_spiller_that_is_killed_at_any_moment(kills: int, tally: helpers.Tally) -> None:
    pyray.init(num_cpus=2, object_store_memory=6 * MB, log_to_driver=False)
    rng = random.Random(kills)
    kept: list[Any] = []
    for i in range(kills):
        task = spill_for_ever.remote(tally, kept[-20:] or [pyray.put(0)])
        pid = pid_of_last(tally, i + 1)
        value = block(i, rng.randrange(100_000, 500_000))
        kept.append(pyray.put(value))
        time.sleep(rng.random() * 0.15)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(exceptions.WorkerCrashedError):
            pyray.get(task, timeout=20)
        # What both of them had to do with.
        for j in {i, rng.randrange(i + 1)}:
            got = pyray.get(kept[j])
            assert checksum(got) == checksum(block(j, len(got)))
    assert get_store().spilled_objects > 0
    for j, ref in enumerate(kept):
        got = pyray.get(ref)
        assert checksum(got) == checksum(block(j, len(got)))
    del kept, ref, got, task
    helpers.wait_until(lambda: get_store().spill_used == 0, what="an empty spill file")
    helpers.wait_until(lambda: get_store().memory_used <= 16 * 16384, what="an empty store")
    # All of it can be used again.
    again = [pyray.put(block(i, 600_000)) for i in range(20)]
    for i, ref in enumerate(again):
        assert checksum(pyray.get(ref)) == checksum(block(i, 600_000))
    fault_helpers.wait_until(lambda: pyray.get(pyray.remote(os.getpid).remote()) > 0)


def stop_spillers(name: str, number: int, times: int, tally: helpers.Tally) -> None:
    """Kill or stop workers at a step of spilling; what the others read is right meanwhile."""
    pyray.init(num_cpus=2, object_store_memory=6 * MB, log_to_driver=False)
    kept = [pyray.put(block(i, 300_000)) for i in range(10)]
    for i in range(times):
        task = spill_for_ever.remote(tally, kept)
        pid = pid_of_last(tally, i + 1)
        points.arm(name, "worker", random.Random(f"{name} {i}").choice((1, 2, 5)), number)
        assert helpers.wait_until(points.victim, what=f"{name!r}") == pid
        began = time.monotonic()
        for j, ref in enumerate(kept):
            assert checksum(pyray.get(ref)) == checksum(block(j, 300_000))
        more = [pyray.put(block(100 * i + j, 700_000)) for j in range(6)]
        for j, ref in enumerate(more):
            assert checksum(pyray.get(ref)) == checksum(block(100 * i + j, 700_000))
        assert time.monotonic() - began < helpers.patience(2)
        del more, ref
        if number == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
            pyray.cancel(task, force=True)
        with pytest.raises((exceptions.WorkerCrashedError, exceptions.TaskCancelledError)):
            pyray.get(task, timeout=20)
    del kept, task
    helpers.wait_until(lambda: get_store().spill_used == 0, what="an empty spill file")
    helpers.wait_until(lambda: get_store().memory_used <= 16 * 16384, what="an empty store")


SPILLING = [name for name in points.NAMES if name.startswith("spill")]
NUMBERS = pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"]
)


@NUMBERS
@pytest.mark.parametrize("name", SPILLING)
def test_a_spiller_at_each_step(name: str, number: int, tally: helpers.Tally) -> None:
    stop_spillers(name, number, 1, tally)


@pytest.mark.storm
@pytest.mark.seconds(600)
@NUMBERS
@pytest.mark.parametrize("name", SPILLING)
def test_spillers_at_each_step(name: str, number: int, tally: helpers.Tally) -> None:
    stop_spillers(name, number, 100 if number == signal.SIGKILL else 20, tally)


@pytest.mark.seconds(120)
def test_a_spiller_that_stands_still_keeps_nobody_waiting(tally: helpers.Tally) -> None:
    pyray.init(num_cpus=2, object_store_memory=6 * MB, log_to_driver=False)
    kept = [pyray.put(block(i, 300_000)) for i in range(10)]
    task = spill_for_ever.remote(tally, kept)
    pid = pid_of_last(tally, 1)
    rng = random.Random(5)
    try:
        for n in range(12):
            time.sleep(rng.random() * 0.1)
            os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            for i in range(len(kept)):
                assert checksum(pyray.get(kept[i])) == checksum(block(i, 300_000))
            more = [pyray.put(block(100 * n + i, 700_000)) for i in range(6)]
            for i, ref in enumerate(more):
                assert checksum(pyray.get(ref)) == checksum(block(100 * n + i, 700_000))
            del more, ref
            assert time.monotonic() - began < helpers.patience(5)
            os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(exceptions.WorkerCrashedError):
        pyray.get(task, timeout=20)


def test_a_reader_that_is_killed_pins_nothing(tally: helpers.Tally) -> None:
    pyray.init(num_cpus=1, object_store_memory=6 * MB, log_to_driver=False)
    refs = [pyray.put(block(i, MB)) for i in range(3)]

    @pyray.remote(max_retries=0)
    def look(refs: list[Any], tally: helpers.Tally) -> None:
        views = pyray.get(refs)
        tally.add(os.getpid())
        time.sleep(1000)
        del views

    task = look.remote(refs, tally)
    pid = pid_of_last(tally, 1)
    more = [pyray.put(block(10 + i, MB)) for i in range(6)]
    in_memory = get_store().memory_total
    from pyray._core import store

    assert all(store.object_address(ref) < in_memory for ref in refs)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(exceptions.WorkerCrashedError):
        pyray.get(task, timeout=20)
    more += [pyray.put(block(20 + i, MB)) for i in range(8)]
    assert all(store.object_address(ref) >= in_memory for ref in refs)
    assert len(more) == 14


BODY = """
import numpy as np
begin(object_store_memory=8 << 20)
@ray.remote
def hold(i):
    return np.full(1 << 20, i, np.uint8)
refs = [hold.remote(i) for i in range(40)]
views = ray.get(refs)
from pyray.util.state import get_store
say(spilled=get_store().spill_used)
time.sleep(1000)
"""


@pytest.mark.parametrize("who", ["driver", "node"])
def test_nothing_is_left_of_the_file(driver: Any, who: str) -> None:
    d = driver(BODY)
    assert d.said("spilled") > 10 * MB
    assert list(d.scratch.iterdir()) == []
    os.kill(d.pid if who == "driver" else d.node, signal.SIGKILL)
    if who == "node":
        time.sleep(0.1)
        os.kill(d.pid, signal.SIGKILL)
    d.ended()
    d.assert_gone()


def test_code_that_closes_descriptors_which_are_not_its_own(tmp_path: Any) -> None:
    """What it opens then may get the file's number, and is not written to."""
    pyray.init(num_cpus=1, object_store_memory=6 * MB)
    kept = [pyray.put(block(i, MB)) for i in range(10)]

    @pyray.remote(max_retries=0)
    def close_all(path: str) -> str:
        for fd in range(3, 64):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{fd}").endswith("(deleted)") and not os.readlink(
                    f"/proc/self/fd/{fd}"
                ).startswith("/memfd"):
                    mine = os.open(path, os.O_RDWR | os.O_CREAT)
                    os.dup2(mine, fd)
        try:
            refs = [pyray.put(block(i, MB)) for i in range(40)]
            return f"{len(refs)} fitted"
        except exceptions.ObjectStoreFullError as error:
            return str(error)

    path = tmp_path / "mine"
    assert "has closed the descriptor" in pyray.get(close_all.remote(str(path)))
    assert path.stat().st_size == 0
    for i, ref in enumerate(kept):
        assert checksum(pyray.get(ref)) == checksum(block(i, MB))
