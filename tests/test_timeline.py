"""timeline(): what ran where and when, as Chrome's trace viewer wants it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections import Counter, defaultdict

import pytest
from helpers import wait_until

import pyray
from pyray import exceptions

RING = 16_384


def boxes(name: str | None = None) -> list[dict]:
    """The trace's complete events."""
    trace = pyray.timeline()
    assert trace is not None
    return [e for e in trace if e["ph"] == "X" and name in (None, e["name"])]


def rows() -> dict[int, str]:
    """Titles of the rows."""
    trace = pyray.timeline()
    assert trace is not None
    return {e["tid"]: e["args"]["name"] for e in trace if e["name"] == "thread_name"}


def check_rows(found: list[dict]) -> None:
    """No two boxes of a row overlap."""
    by_row = defaultdict(list)
    for e in found:
        assert e["dur"] >= 0
        by_row[e["tid"]].append((e["ts"], e["ts"] + e["dur"]))
    for times in by_row.values():
        times.sort()
        for (_, end), (start, _) in itertools.pairwise(times):
            assert start >= end - 1  # the clock's digits


def test_tasks_have_a_box_each(ray):
    @ray.remote
    def work(n):
        time.sleep(0.02)
        return os.getpid()

    before = time.time()
    refs = [work.remote(i) for i in range(6)]
    pids = ray.get(refs)
    after = time.time()
    found = boxes("work")
    assert {e["args"]["task_id"] for e in found} == {ref.task_id() for ref in refs}
    check_rows(found)
    titles = rows()
    for e in found:
        assert e["cat"] == "task"
        assert e["dur"] >= 20_000
        # Seconds since the epoch, in µs.
        assert before - 0.01 < e["ts"] / 1e6 < (e["ts"] + e["dur"]) / 1e6 < after + 0.2
        pid = e["args"]["worker_pid"]
        assert pid in pids
        assert titles[e["tid"]] == f"worker:{pid}"
        assert e["args"]["state"] == "FINISHED"
        assert e["args"]["attempt_number"] == 0
        assert e["args"]["parent_task_id"] == ray.put(0).task_id()
        assert e["args"]["actor_id"] is None
    assert len({(e["tid"], e["args"]["worker_pid"]) for e in found}) == len(set(pids))


def test_what_has_been_got_is_there(ray):
    """A result is visible before its task's end is recorded: the timeline waits for that."""
    f = ray.remote(lambda x: x)
    n = 0
    for size in (1, 2, 5, 1, 40, 1, 3) * 3:
        ray.get([f.remote(i) for i in range(size)])
        n += size
        assert len(boxes()) == n


def test_nested_tasks_name_their_parent(ray):
    @ray.remote
    def child():
        return pyray.get_runtime_context().get_task_id()

    @ray.remote
    def parent():
        return pyray.get(child.remote())

    ref = parent.remote()
    inner = ray.get(ref)
    (outer,) = boxes("parent")
    (found,) = boxes("child")
    assert found["args"]["task_id"] == inner
    assert found["args"]["parent_task_id"] == outer["args"]["task_id"] == ref.task_id()
    # Its end may be told after that of its parent, which has had the result since.
    assert outer["ts"] <= found["ts"] <= outer["ts"] + outer["dur"]


def test_a_row_for_each_actor(ray):
    @ray.remote
    class Worker:
        def __init__(self):
            time.sleep(0.01)

        def work(self):
            return os.getpid()

    actors = [Worker.remote() for _ in range(2)]
    pids = ray.get([a.work.remote() for a in actors for _ in range(3)])
    made, called = boxes("Worker.__init__"), boxes("Worker.work")
    assert [e["cat"] for e in made] == ["actor_creation"] * 2
    assert [e["cat"] for e in called] == ["actor_task"] * 6
    check_rows(made + called)
    titles = rows()
    by_actor = defaultdict(set)
    for e in made + called:
        by_actor[e["args"]["actor_id"]].add(titles[e["tid"]])
    assert set(by_actor) == {a._actor_id for a in actors}
    assert sorted(map(sorted, by_actor.values())) == sorted(
        [f"worker:{pid} Worker"] for pid in set(pids)
    )
    assert all(e["dur"] >= 10_000 for e in made)


def test_calls_side_by_side_have_rows_of_their_own(ray):
    @ray.remote
    class Async:
        def __init__(self):
            self.all = asyncio.Barrier(3)

        async def meet(self):
            async with self.all:
                return os.getpid()

    actor = Async.remote()
    (pid,) = set(ray.get([actor.meet.remote() for _ in range(3)]))
    found = boxes("Async.meet")
    assert len(found) == 3
    check_rows(found)
    titles = rows()
    assert len({e["tid"] for e in found}) == 3
    assert {titles[e["tid"]] for e in found} == {f"worker:{pid} Async"}


def test_failures_and_retries(ray, tally):
    @ray.remote(max_retries=2, retry_exceptions=True)
    def fails():
        tally.add()
        if len(tally) < 3:
            raise OSError
        return 1

    @ray.remote
    def raises():
        raise ValueError

    @ray.remote
    def takes(x):
        return x

    ref = fails.remote()
    ray.get(ref)
    with pytest.raises(ValueError):
        ray.get(takes.remote(raises.remote()))
    found = sorted(boxes("fails"), key=lambda e: e["args"]["attempt_number"])
    assert [e["args"]["state"] for e in found] == ["FAILED", "FAILED", "FINISHED"]
    assert [e["args"]["attempt_number"] for e in found] == [0, 1, 2]
    assert {e["args"]["task_id"] for e in found} == {ref.task_id()}
    assert [e["args"]["state"] for e in boxes("raises") + boxes("takes")] == ["FAILED"] * 2


def test_workers_that_died_are_remembered(ray1):
    @ray1.remote(max_retries=1)
    def die(seconds):
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    @ray1.remote
    def fine():
        return os.getpid()

    first = ray1.get(fine.remote())
    with pytest.raises(exceptions.WorkerCrashedError):
        ray1.get(die.remote(0.03))
    wait_until(lambda: ray1.get(fine.remote()) != first, what="a new worker")
    assert first in {e["args"]["worker_pid"] for e in boxes("fine")}
    died = boxes("die")
    assert [(e["args"]["attempt_number"], e["args"]["state"]) for e in died] == [
        (0, "FAILED"),
        (1, "FAILED"),
    ]
    assert died[0]["args"]["worker_pid"] == first
    assert all(e["dur"] >= 30_000 for e in died)
    assert len(set(rows().values())) >= 3, "a row for each process, dead or alive"
    check_rows(boxes())


def test_calls_that_their_actor_did_not_survive(ray):
    @ray.remote(max_restarts=1, max_task_retries=1)
    class Fragile:
        def die(self):
            time.sleep(0.03)
            os._exit(1)

        def fine(self):
            return 1

    actor = Fragile.remote()
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(actor.die.remote())
    found = sorted(boxes("Fragile.die"), key=lambda e: e["args"]["attempt_number"])
    assert [e["args"]["attempt_number"] for e in found] == [0, 1]
    assert {e["args"]["state"] for e in found} == {"FAILED"}
    assert all(e["dur"] >= 30_000 for e in found)
    assert [e["args"]["attempt_number"] for e in boxes("Fragile.__init__")] == [0, 1]


def test_a_constructor_that_raises(ray):
    @ray.remote
    class Bad:
        def __init__(self):
            raise ValueError

        def f(self):
            return 1

    bad = Bad.remote()
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(bad.f.remote())
    (made,) = boxes("Bad.__init__")
    assert made["args"]["state"] == "FAILED"
    assert boxes("Bad.f") == [], "it never ran"


def test_a_file(ray, tmp_path):
    ray.get(ray.remote(lambda: 1).options(name="written").remote())
    assert ray.timeline(tmp_path / "trace.json") is None
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert [e["name"] for e in trace if e["ph"] == "X"] == ["written"]
    assert {e["ph"] for e in trace} == {"X", "M"}
    with pytest.raises(FileNotFoundError):
        ray.timeline(str(tmp_path / "nowhere" / "trace.json"))


def test_from_a_task(ray):
    f = ray.remote(lambda: 1)
    ray.get([f.options(name="seen").remote() for _ in range(3)])
    names = ray.remote(lambda: [e["name"] for e in pyray.timeline()])
    assert ray.get(names.remote()).count("seen") == 3


def test_the_last_ones_are_kept(ray1):
    f = ray1.remote(lambda: None)
    ray1.get([f.options(name="early").remote() for _ in range(500)])
    refs = [f.options(name="late").remote() for _ in range(3)]
    count = RING + 100
    many = f.options(name="many")
    ray1.get([many.remote() for _ in range(count)])
    last = [many.remote() for _ in range(3)]
    ray1.get(refs + last)
    found = boxes()
    names = Counter(e["name"] for e in found)
    assert names == {"many": RING - 1}
    ids = {e["args"]["task_id"] for e in found}
    assert len(ids) == RING - 1
    assert {ref.task_id() for ref in last} <= ids


@pytest.mark.seconds(90)
def test_reading_while_it_is_written(ray):
    """What is read while workers overwrite it is whole: each box is of a task that there was."""
    quick = ray.remote(lambda: None).options(name="quick")
    refs = [quick.remote() for _ in range(3 * RING)]
    ids = {ref.task_id() for ref in refs}
    parent = ray.put(0).task_id()
    looks = 0
    left = refs
    while left:
        _, left = ray.wait(left, num_returns=min(len(left), RING // 2))
        found = boxes()
        looks += 1
        assert len(found) <= 3 * RING
        assert len({e["args"]["task_id"] for e in found}) == len(found)
        for e in found:
            assert e["name"] == "quick"
            assert e["args"]["task_id"] in ids
            assert e["args"]["parent_task_id"] == parent
            assert 0 <= e["dur"] < 60e6
        check_rows(found)
    assert looks >= 3


def test_an_empty_session(ray):
    assert boxes() == []
    (meta,) = ray.timeline()
    assert meta["args"]["name"] == "Node 127.0.0.1"


def test_of_this_session_only(ray):
    ray.get(ray.remote(lambda: 1).remote())
    ray.shutdown()
    ray.init(num_cpus=1)
    assert boxes() == []
