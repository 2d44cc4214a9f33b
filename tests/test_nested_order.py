"""Deeper tasks first, and what is awaited before all: nested tasks need few processes."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time

import helpers
import pytest

import pyray
from pyray.api import processes

# ---- bounded numbers of processes --------------------------------------------------------------


class Counter:
    """Counts the session's processes while something runs; the largest number seen."""

    def __init__(self):
        self.node = processes()[1]
        self.most = 0
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        while not self.end.wait(0.01):
            self.most = max(self.most, len(helpers.descendants(self.node)))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.end.set()
        self.thread.join()


def test_fib_on_one_cpu_needs_few_workers(ray1):
    @ray1.remote
    def fib(n):
        if n < 2:
            return n
        return sum(ray1.get([fib.remote(n - 1), fib.remote(n - 2)]))

    with Counter() as counter:
        assert ray1.get(fib.remote(12)) == 144
    # Depth x CPUs is 12; a few more may be up while others retire.
    assert 2 <= counter.most <= 24


def test_a_thousand_tasks_with_a_child_each_need_few_workers(ray1):
    @ray1.remote
    def child(i):
        return i

    @ray1.remote
    def parent(i):
        return ray1.get(child.remote(i))

    with Counter() as counter:
        assert ray1.get([parent.remote(i) for i in range(1000)]) == list(range(1000))
    assert 1 <= counter.most <= 16


def test_a_thousand_tasks_with_a_child_each_on_two_cpus(ray):
    @ray.remote
    def child(i):
        return i

    @ray.remote
    def parent(i):
        ready, _ = ray.wait([child.remote(i)])
        return ray.get(ready[0])

    with Counter() as counter:
        assert ray.get([parent.remote(i) for i in range(1000)]) == list(range(1000))
    assert 1 <= counter.most <= 24


def test_deep_nesting_on_one_cpu(ray1):
    @ray1.remote
    def deep(n):
        return 0 if n == 0 else 1 + ray1.get(deep.remote(n - 1))

    assert ray1.get(deep.remote(40)) == 40


def test_nested_tasks_with_resources_of_their_own():
    pyray.init(num_cpus=1, resources={"r": 1})

    @pyray.remote(num_cpus=0.5)
    def fib(n):
        if n < 2:
            return n
        return sum(pyray.get([fib.remote(n - 1), fib.remote(n - 2)]))

    assert pyray.get(fib.remote(6)) == 8


def test_awaiting_a_task_that_is_submitted_later(ray1, tmp_path):
    """On one CPU: the waiter runs first, and what it awaits is made by a task after it."""

    @ray1.remote
    def late():
        return "late"

    @ray1.remote
    def producer():
        return [late.remote()]

    @ray1.remote
    def waiter(box):
        (inner,) = ray1.get(box[0])
        return ray1.get(inner)

    waiters = [waiter.remote([producer.remote()]) for _ in range(5)]
    assert ray1.get(waiters) == ["late"] * 5


def test_awaiting_the_last_of_a_long_queue(ray1, gate, tmp_path, tally):
    """A task holds the only CPU until all is queued, then awaits what was queued last."""
    path = tmp_path / "id"

    @ray1.remote
    def fill():
        tally.add("fill")

    @ray1.remote
    def last():
        tally.add("last")
        return "last"

    @ray1.remote
    def waits():
        gate.wait()
        return ray1.get(pickle.loads(path.read_bytes()))

    ref = waits.remote()
    rest = [fill.remote() for _ in range(200)]
    awaited = last.remote()
    path.write_bytes(pickle.dumps(awaited))
    gate.open()
    assert ray1.get(ref) == "last"
    ray1.get(rest)
    assert tally.lines().index("last") <= 2


def test_urgent_work_passes_what_queued_before_it(ray1, tally):
    """What a blocked task awaits goes to the front of the queue."""

    @ray1.remote
    def fill():
        tally.add("fill")

    @ray1.remote
    def child():
        return 1

    @ray1.remote
    def parent():
        ray1.get(child.remote())
        tally.add("parent")

    first = parent.remote()
    rest = [fill.remote() for _ in range(200)]
    ray1.get([first, *rest])
    assert tally.lines().index("parent") <= 2


def test_errors_of_children_travel_up(ray):
    @ray.remote
    def child():
        raise KeyError("in the child")

    @ray.remote
    def parent():
        return ray.get(child.remote())

    @ray.remote
    def catches():
        try:
            ray.get(child.remote())
        except KeyError as error:
            return str(error)

    with pytest.raises(KeyError, match="in the child") as caught:
        ray.get(parent.remote())
    assert caught.value.task == "parent"
    assert "child" in str(caught.value)
    assert "in the child" in ray.get(catches.remote())


def test_children_outlive_the_task_that_called_them(ray, gate):
    @ray.remote
    def child():
        gate.wait()
        return os.getpid()

    @ray.remote(max_calls=1)
    def parent():
        return os.getpid(), [child.remote()]

    pid, (ref,) = ray.get(parent.remote())
    helpers.wait_until(lambda: not helpers.alive(pid), what="the parent's worker to go")
    gate.open()
    assert ray.get(ref) != pid


def test_the_depth_of_the_interpreter_does_not_matter(ray):
    """A call's own recursion limit holds in a worker as at home."""

    @ray.remote
    def limit():
        return sys.getrecursionlimit()

    assert ray.get(limit.remote()) == sys.getrecursionlimit()


def test_what_becomes_ready_does_not_wait_for_all_that_was_submitted_before(ray, gate):
    """A worker that ends a task queues what waited for it, beside what the driver has queued."""

    @ray.remote
    def first():
        gate.wait()
        return 1

    @ray.remote
    def second(x):
        return time.monotonic() + x - x

    @ray.remote
    def other():
        time.sleep(0.001)
        return time.monotonic()

    then = second.remote(first.remote())
    others = [other.remote() for _ in range(2000)]
    gate.open()
    ended = ray.get(then)
    assert ended < sorted(ray.get(others))[1000]
