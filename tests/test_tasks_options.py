"""Options of tasks at work, and where tasks run."""

from __future__ import annotations

import os
import sys
import threading

import helpers
import pytest

import pyray
from pyray import exceptions

# ---- options -----------------------------------------------------------------------------------


def test_options_make_a_variant_and_leave_the_function_alone(ray):
    @ray.remote(num_returns=2, name="both")
    def f():
        return 1, 2

    single = f.options(num_returns=1)
    assert ray.get(single.remote()) == (1, 2)
    assert ray.get(single.options(num_returns=2).remote()) == [1, 2]
    assert ray.get(f.remote()) == [1, 2]
    assert single is not f


def test_names_show_in_errors(ray):
    @ray.remote(name="one")
    def f():
        raise ValueError

    for variant, name in ((f, "one"), (f.options(name="two"), "two"), (f.options(), "one")):
        with pytest.raises(exceptions.TaskError) as caught:
            ray.get(variant.remote())
        assert caught.value.task == name


def test_retry_exceptions(ray, tally):
    @ray.remote(max_retries=2, retry_exceptions=True)
    def flaky(good_at):
        tally.add()
        if len(tally) < good_at:
            raise ValueError(f"attempt {len(tally)}")
        return len(tally)

    assert ray.get(flaky.remote(3)) == 3
    with pytest.raises(ValueError, match="attempt 6"):
        ray.get(flaky.remote(100))
    assert ray.get(flaky.options(max_retries=-1).remote(30)) == 30


def test_retry_exceptions_of_some_classes_only(ray, tally):
    @ray.remote(max_retries=3, retry_exceptions=[LookupError])
    def flaky(error):
        tally.add()
        raise error

    with pytest.raises(KeyError):
        ray.get(flaky.remote(KeyError(1)))
    assert len(tally) == 4
    with pytest.raises(ValueError, match="2"):
        ray.get(flaky.remote(ValueError(2)))
    assert len(tally) == 5


def test_exceptions_are_not_retried_by_default(ray, tally):
    @ray.remote(max_retries=5)
    def f():
        tally.add()
        raise ValueError

    with pytest.raises(exceptions.TaskError):
        ray.get(f.remote())
    assert len(tally) == 1


@pytest.mark.parametrize("max_calls", [1, 3])
def test_max_calls_replaces_the_worker(ray1, max_calls):
    @ray1.remote(max_calls=max_calls)
    def pid():
        return os.getpid()

    pids = [ray1.get(pid.remote()) for _ in range(4 * max_calls)]
    # Two workers may share the work for a while: one that was started to replace the other.
    counts = {p: pids.count(p) for p in pids}
    assert max(counts.values()) == max_calls
    assert len(counts) >= 4
    used_up = [p for p, n in counts.items() if n == max_calls]
    helpers.wait_until(lambda: not any(map(helpers.alive, used_up)), what="their end")


def test_without_max_calls_the_worker_stays(ray1):
    pid = ray1.remote(os.getpid)
    assert len(set(ray1.get([pid.remote() for _ in range(50)]))) == 1


# ---- where tasks run ---------------------------------------------------------------------------


def test_working_directory_path_and_environment(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("VALUE = 42\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYRAY_TEST", "of init")
    monkeypatch.syspath_prepend(str(tmp_path))
    pyray.init(num_cpus=1)
    monkeypatch.setenv("PYRAY_TEST", "later")

    @pyray.remote
    def f():
        import only_here

        return os.getcwd(), os.environ["PYRAY_TEST"], only_here.VALUE, sys.path

    assert pyray.get(f.remote()) == (str(tmp_path), "of init", 42, sys.path)


def test_subprocess_and_multiprocessing_in_tasks(ray):
    @ray.remote
    def shell():
        import subprocess

        return subprocess.check_output(["echo", "hello"], text=True)

    @ray.remote
    def pool():
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as workers:
            return workers.map(abs, range(-3, 0))

    assert ray.get([shell.remote(), pool.remote()]) == ["hello\n", [3, 2, 1]]


def test_module_state_stays_in_the_worker(ray1):
    @ray1.remote
    def count():
        os.counter = getattr(os, "counter", 0) + 1
        return os.counter

    assert ray1.get([count.remote() for _ in range(3)]) == [1, 2, 3]
    assert not hasattr(os, "counter")


def test_calls_from_many_threads(ray):
    @ray.remote
    def f(i, j):
        return i, j

    results = {}

    def run(i):
        refs = [f.remote(i, j) if j % 2 else f.remote(ray.put(i), j) for j in range(100)]
        results[i] = ray.get(refs)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {i: [(i, j) for j in range(100)] for i in range(12)}


def test_calls_from_many_threads_of_a_task(ray):
    @ray.remote
    def child(i):
        return i * i

    @ray.remote
    def parent():
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda i: ray.get(child.remote(i)), range(40)))

    assert ray.get(parent.remote()) == [i * i for i in range(40)]


def test_ten_thousand_tasks(ray):
    f = ray.remote(lambda i: i)
    assert ray.get([f.remote(i) for i in range(10_000)]) == list(range(10_000))


def test_a_long_chain(ray):
    f = ray.remote(lambda i: i + 1)
    ref = 0
    for _ in range(3000):
        ref = f.remote(ref)
    assert ray.get(ref) == 3000
