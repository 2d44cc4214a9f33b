"""Retries, and what else a dying task touches: children, parents, dependents, resources."""

import contextlib
import os
import signal

import fault_helpers as h
import pytest

import pyray as ray
from pyray.exceptions import OwnerDiedError, TaskError, WorkerCrashedError


@pytest.fixture(autouse=True)
def whole():
    """A session before the test, and the same one in good order after it."""
    ray.init(
        num_cpus=2,
        num_gpus=2,
        resources={"slot": 2},
        object_store_memory=64 << 20,
        log_to_driver=False,
    )
    h.wait_until(lambda: len(h.idle_pids()) == 2, what="two workers")
    yield
    h.assert_whole()


@pytest.fixture
def go(tmp_path):
    """A file that tasks linger for; there at the test's end at the latest."""
    path = tmp_path / "go"
    yield path
    path.touch()


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def pid_in(path):
    """The process ID that a task writes into a file."""
    return int(h.wait_until(lambda: path.exists() and path.read_text(), what="the task's start"))


@ray.remote
def dies(path, times):
    n = h.count(path)
    if n <= times:
        h.crash("kill")
    return n


# ---- how often -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_retries", "times", "runs"),
    [(0, 1, 1), (1, 1, 2), (2, 2, 3), (2, 99, 3), (-1, 7, 8), (None, 99, 4)],
)
def test_crashed_tasks_are_run_again_so_many_times(tmp_path, max_retries, times, runs):
    path = tmp_path / "count"
    f = dies if max_retries is None else dies.options(max_retries=max_retries)
    ref = f.remote(path, times)
    if times < runs:
        assert h.get(ref) == runs
    else:
        error = h.error_of(ref)
        assert isinstance(error, WorkerCrashedError)
        assert (error.task, error.signal) == ("dies", "SIGKILL")
        if runs > 1:
            assert f"{runs - 1} attempt" in str(error)
    assert h.counted(path) == runs


@ray.remote
def throws(path, times, error):
    n = h.count(path)
    if n <= times:
        raise error
    return n


@pytest.mark.parametrize(
    ("retry_on", "max_retries", "times", "runs"),
    [
        (False, 3, 9, 1),
        (True, 0, 9, 1),
        (True, 2, 9, 3),
        (True, 3, 2, 3),
        (True, -1, 300, 301),
        (True, 260, 999, 261),
        ([KeyError, OSError], 2, 9, 1),
        ([LookupError], 2, 9, 1),
        ([ValueError], 2, 9, 3),
        ([ArithmeticError, Exception], 2, 1, 2),
    ],
)
def test_exceptions_are_retried_if_so_told(tmp_path, retry_on, max_retries, times, runs):
    path = tmp_path / "count"
    f = throws.options(retry_exceptions=retry_on, max_retries=max_retries)
    ref = f.remote(path, times, ValueError("no"))
    if times < runs:
        assert h.get(ref) == runs
    else:
        assert isinstance(h.error_of(ref), ValueError)
    assert h.counted(path) == runs


def test_shaped_tasks_are_retried_too(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    assert h.get(dies.options(num_gpus=1, resources={"slot": 1}).remote(path, 2)) == 3
    f = throws.options(num_cpus=2, retry_exceptions=True)
    assert h.get(f.remote(other, 2, KeyError())) == 3


@pytest.mark.parametrize("shape", [{}, {"num_cpus": 2}, {"num_cpus": 0, "resources": {"slot": 1}}])
def test_what_had_not_started_is_not_charged(tmp_path, shape):
    """Both workers are stopped when the tasks come, and killed before they can start any."""
    path = tmp_path / "count"
    pids = h.wait_until(lambda: len(h.idle_pids()) == 2 and h.idle_pids())
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        refs = [dies.options(max_retries=0, **shape).remote(path, 0) for _ in range(3)]
        h.resources()  # the node has looked, and given away what it could
    finally:
        for pid in pids:
            kill(pid)
    assert sorted(h.get(refs)) == [1, 2, 3]


def test_nothing_runs_twice_without_retries(tmp_path):
    @ray.remote(max_retries=0)
    def once(i):
        h.count(tmp_path / str(i))
        return i

    refs = []
    for i in range(600):
        refs.append(once.remote(i))
        if i % 60 == 30:
            with contextlib.suppress(IndexError, ProcessLookupError):
                kill(h.workers()[i % 2]["pid"])
    for i, ref in enumerate(refs):
        try:
            assert h.get(ref) == i
            assert h.counted(tmp_path / str(i)) == 1
        except WorkerCrashedError:
            assert h.counted(tmp_path / str(i)) <= 1


# ---- nested tasks ------------------------------------------------------------------------------


def test_a_nested_task_that_dies_is_the_parents_error():
    @ray.remote(max_retries=0)
    def child():
        h.crash("segfault")

    @ray.remote(max_retries=0)
    def parent():
        return ray.get(child.remote())

    @ray.remote(max_retries=0)
    def careful():
        try:
            ray.get(child.remote())
        except WorkerCrashedError as e:
            return e.task, e.signal

    assert h.get(careful.remote()) == ("child", "SIGSEGV")
    error = h.error_of(parent.remote())
    assert isinstance(error, WorkerCrashedError)
    assert isinstance(error, TaskError)
    assert (error.signal, error.cause.task) == ("SIGSEGV", "child")
    assert "parent" in str(error)
    assert "child" in str(error)


def test_a_nested_task_that_dies_is_retried_under_its_parent(tmp_path):
    @ray.remote(max_retries=0)
    def parent():
        return os.getpid(), ray.get([dies.remote(tmp_path / str(i), i) for i in range(3)])

    assert h.get(parent.remote())[1] == [1, 2, 3]


def test_a_parent_that_dies_is_retried_with_its_children(tmp_path):
    @ray.remote(max_retries=2)
    def parent():
        refs = [h.double.remote(i) for i in range(20)]
        h.count(tmp_path / "parents")
        if h.counted(tmp_path / "parents") <= 2:
            h.crash("kill")
        return ray.get(refs)

    assert h.get(parent.remote()) == [2 * i for i in range(20)]
    assert h.counted(tmp_path / "parents") == 3


@pytest.mark.parametrize("blocked", [False, True], ids=["running", "blocked"])
def test_a_dead_parents_children_leave_nothing_behind(tmp_path, go, blocked):
    note = tmp_path / "pid"

    @ray.remote(max_retries=0)
    def child(i, before, block):
        h.count(tmp_path / "children")
        h.linger(go)
        return block, bytes(300_000)

    @ray.remote(max_retries=0)
    def parent():
        block = ray.put(bytes(1_000_000))
        first = child.remote(0, None, block)
        refs = [child.options(num_cpus=n).remote(1, None, block) for n in (1, 1, 2, 0.5, 0)]
        refs += [child.remote(2, first, [block, bytes(200_000)]) for _ in range(5)]
        note.write_text(str(os.getpid()))
        if blocked:
            ray.get(refs)
        h.linger(go)

    with h.store_balanced():
        ref = parent.remote()
        pid = pid_in(note)
        h.wait_until(lambda: h.counted(tmp_path / "children"), what="a child's start")
        kill(pid)
        error = h.error_of(ref)
        assert (error.task, error.pid, error.signal) == ("parent", pid, "SIGKILL")
        del ref
        go.touch()
        h.assert_whole()
    h.wait_until(lambda: all(w["task"] is None for w in h.workers()))
    assert h.counted(tmp_path / "children") <= 4  # not those that waited for `first`


def test_errors_of_children_whose_owner_died(tmp_path, go):
    pid = tmp_path / "pid"

    @ray.remote(num_cpus=0, resources={"slot": 2}, max_retries=0)
    def hold_slots():
        h.count(pid)
        h.linger(go)
        return 1

    @ray.remote(max_retries=0)
    def parent(holder):
        queued = h.double.options(num_cpus=0, resources={"slot": 1}).remote(1)
        waiting = h.double.remote(queued)
        also = h.double.remote(holder[0])
        return [os.getpid(), queued, waiting, also]

    with h.store_balanced():
        holder = hold_slots.remote()
        h.wait_until(lambda: h.counted(pid), what="the holder's start")
        owner, *refs = h.get(parent.remote([holder]))
        kill(owner)
        for ref in refs:
            error = h.error_of(ref)
            assert isinstance(error, OwnerDiedError)
            assert str(owner) in str(error)
            assert "SIGKILL" in str(error)
        go.touch()
        assert h.get(holder) == 1
        del ref, refs, holder, error


def test_what_is_sealed_survives_its_owner():
    @ray.remote
    def make():
        inner = ray.put(b"inner" * 50_000)
        return os.getpid(), ray.put([b"x" * 500_000, inner]), h.double.remote(21)

    with h.store_balanced():
        pid, ref, done = h.get(make.remote())
        ray.wait([done])
        kill(pid)
        h.wait_until(lambda: pid not in [w["pid"] for w in h.workers()])
        value, inner = h.get(ref)
        assert value == b"x" * 500_000
        assert h.get(inner) == b"inner" * 50_000
        assert h.get(done) == 42
        assert h.get(h.double.remote(inner)) == b"inner" * 100_000
        del value, inner, ref, done


# ---- dependents --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raise", "kill", "exit"])
def test_an_error_passes_through_the_tasks_that_depend_on_it(tmp_path, go, kind):
    @ray.remote(max_retries=0, num_returns=2)
    def first():
        h.linger(go)
        h.crash(kind)

    @ray.remote
    def after(*args, **kwargs):
        h.count(tmp_path / "runs")

    early, _ = first.remote()
    last = early
    for _ in range(5):
        last = after.remote(h.double.remote(1), last, more=3)
    beside = after.options(num_cpus=2).remote(1, keyword=last)
    go.touch()
    late = after.remote(early)
    for ref in (early, last, beside, late):
        error = h.error_of(ref)
        assert isinstance(error, LookupError if kind == "raise" else WorkerCrashedError)
        assert error.task == "first"
    assert h.counted(tmp_path / "runs") == 0


@pytest.mark.parametrize("needs", [{}, {"num_cpus": 2}, {"num_gpus": 1}], ids=str)
def test_dependents_of_a_task_whose_worker_ends_after_it(go, needs):
    @ray.remote(max_calls=1, **needs)
    def first():
        h.linger(go)
        return 1

    ref = first.remote()
    after = [h.double.options(num_cpus=n).remote(ref) for n in (1, 2, 1, 0.5)]
    go.touch()
    assert h.get(after) == [2, 2, 2, 2]


def test_an_error_inside_a_list_is_raised_where_it_is_looked_at():
    @ray.remote
    def first():
        raise LookupError("here")

    @ray.remote
    def look(refs):
        return ray.get(refs[0])

    @ray.remote
    def leave(refs):
        return len(refs)

    ref = first.remote()
    assert h.get(leave.remote([ref])) == 1
    error = h.error_of(look.remote([ref]))
    assert isinstance(error, LookupError)
    assert "look" in str(error)
    assert "first" in str(error)


# ---- resources ---------------------------------------------------------------------------------

SHAPES = {
    "the default": {},
    "two CPUs": {"num_cpus": 2},
    "half a CPU": {"num_cpus": 0.5},
    "no CPU": {"num_cpus": 0},
    "a GPU": {"num_gpus": 1},
    "half a GPU": {"num_gpus": 0.5, "num_cpus": 0},
    "a slot": {"resources": {"slot": 1}},
    "everything": {"num_cpus": 2, "num_gpus": 2, "resources": {"slot": 2}},
}


@pytest.mark.parametrize("blocked", [False, True], ids=["running", "blocked"])
@pytest.mark.parametrize("shape", SHAPES)
def test_resources_of_the_dead_come_back(tmp_path, go, shape, blocked):
    note = tmp_path / "pid"
    needs = SHAPES[shape]

    @ray.remote(num_cpus=0, max_retries=0)
    def wait_for_go():
        h.count(tmp_path / "child")
        return h.linger(go)

    @ray.remote(max_retries=0)
    def holder():
        ref = wait_for_go.remote() if blocked else None
        note.write_text(str(os.getpid()))
        return ray.get(ref) if blocked else h.linger(go)

    ref = holder.options(**needs).remote()
    pid = pid_in(note)
    total, _ = h.resources()
    held = {"CPU": needs.get("num_cpus", 1), "GPU": needs.get("num_gpus", 0)}
    held |= needs.get("resources", {})
    if blocked:
        h.wait_until(lambda: h.counted(tmp_path / "child"), what="the child's start")
        held["CPU"] = 0  # given back during the wait; the rest is kept
    free = {name: total[name] - held.get(name, 0) for name in total}
    h.wait_until(lambda: h.resources()[1] == free, what=f"{free} free")
    kill(pid)
    error = h.error_of(ref)
    assert (error.task, error.pid, error.signal) == ("holder", pid, "SIGKILL")
    h.wait_until(lambda: h.resources()[1] == total, what="all free")
    everything = h.double.options(num_cpus=2, num_gpus=2, resources={"slot": 2})
    assert h.get(everything.remote(4)) == 8
    go.touch()
