"""Resources of tasks on real workers: who gets what, and that everything comes back."""

from __future__ import annotations

import os
import signal

import helpers
import pytest

import pyray
from pyray import exceptions
from pyray.api import processes


def _free(*names):
    available = pyray.available_resources()
    return tuple(available.get(name, 0) for name in names)


def _await_free(**amounts):
    helpers.wait_until(
        lambda: _free(*amounts) == pytest.approx(tuple(amounts.values())),
        what=f"{amounts} free",
    )


@pytest.fixture
def holder(gate):
    """A function whose calls hold what they have until the gate opens."""

    @pyray.remote
    def hold():
        gate.wait()
        return pyray.get_gpu_ids()

    return hold


def test_each_resource_is_held_while_a_task_runs(gate, holder):
    pyray.init(num_cpus=4, num_gpus=2, resources={"tape": 3})
    memory = pyray.cluster_resources()["memory"]
    options = {
        "num_cpus": 1.5,
        "num_gpus": 1,
        "memory": 1 << 20,
        "resources": {"tape": 0.25},
    }
    _await_free(CPU=4, GPU=2, tape=3, memory=memory)
    refs = [holder.options(**options).remote() for _ in range(2)]
    _await_free(CPU=1, GPU=0, tape=2.5, memory=memory - (2 << 20))
    plain = holder.remote()
    _await_free(CPU=0, GPU=0, tape=2.5, memory=memory - (2 << 20))
    assert pyray.wait([*refs, plain], timeout=0)[0] == []
    gate.open()
    pyray.get([*refs, plain])
    _await_free(CPU=4, GPU=2, tape=3, memory=memory)


@pytest.mark.parametrize(
    ("options", "at_once"),
    [
        ({"num_cpus": 2}, 2),
        ({"num_cpus": 0.5}, 8),
        ({"num_cpus": 0, "resources": {"tape": 1}}, 3),
        ({"num_cpus": 0.5, "resources": {"tape": 0.5}}, 6),
        ({"num_gpus": 1}, 2),
        ({"num_gpus": 0.5, "num_cpus": 0}, 4),
        ({"num_cpus": 1}, 4),
    ],
    ids=str,
)
def test_no_more_tasks_run_at_once_than_fit(tmp_path, options, at_once):
    """As many start as fit, and not one more before the first of them ends."""
    pyray.init(num_cpus=4, num_gpus=2, resources={"tape": 3})
    tally = helpers.Tally(tmp_path / "started")
    gates = [helpers.Gate(tmp_path / str(i)) for i in range(2 * at_once)]

    @pyray.remote(**options)
    def task(i):
        tally.add(i)
        gates[i].wait()

    refs = [task.remote(i) for i in range(2 * at_once)]
    helpers.wait_until(lambda: len(tally) >= at_once, what="as many tasks as fit")
    # Something else has gone the whole way since: the surplus would have started by now.
    pyray.get([pyray.remote(num_cpus=0)(os.getpid).remote() for _ in range(5)])
    assert len(tally) == at_once
    gates[0].open()
    helpers.wait_until(lambda: len(tally) >= at_once + 1, what="one more")
    pyray.get(pyray.remote(num_cpus=0)(os.getpid).remote())
    assert len(tally) == at_once + 1
    for gate in gates:
        gate.open()
    pyray.get(refs)
    assert len(tally) == 2 * at_once


def test_tasks_without_a_cpu_run_beside_full_ones(ray1, gate, holder):
    full = [holder.remote() for _ in range(2)]
    none = [holder.options(num_cpus=0).remote() for _ in range(5)]
    helpers.wait_until(lambda: len(processes()) >= 2 + 6, what="workers for tasks without a CPU")
    quick = ray1.remote(num_cpus=0)(lambda: 1)
    assert ray1.get(quick.remote()) == 1
    gate.open()
    ray1.get(full + none)


@pytest.mark.parametrize(
    ("options", "asked", "there"),
    [
        ({"num_cpus": 3}, "CPU 3", "CPU 2"),
        ({"num_cpus": 2.5}, "CPU 2.5", "CPU 2"),
        ({"num_gpus": 1}, "GPU 1", "GPU 0"),
        ({"resources": {"tape": 2}}, "tape 2", "tape 1"),
        ({"resources": {"disk": 1}}, "disk 1", "disk 0"),
        ({"memory": 1 << 60}, "memory", "memory"),
    ],
    ids=str,
)
def test_what_can_never_be_met_is_an_error_with_figures(options, asked, there):
    pyray.init(num_cpus=2, resources={"tape": 1})

    @pyray.remote(**options)
    def impossible():
        raise AssertionError

    for _ in range(2):
        with pytest.raises(exceptions.InfeasibleResourcesError) as caught:
            impossible.remote()
        text = str(caught.value)
        assert "impossible" in text
        left, right = text.split("this session has")
        assert asked in left
        assert there in right
    assert isinstance(caught.value, ValueError)
    assert pyray.get(pyray.remote(lambda: 1).remote()) == 1

    @pyray.remote
    def nested():
        return impossible.remote()

    with pytest.raises(exceptions.InfeasibleResourcesError, match="impossible"):
        pyray.get(nested.remote())


def test_a_session_without_cpus():
    pyray.init(num_cpus=0, resources={"x": 1})
    with pytest.raises(exceptions.InfeasibleResourcesError, match="CPU 1.*CPU 0"):
        pyray.remote(lambda: 1).remote()
    assert pyray.get(pyray.remote(num_cpus=0)(lambda: 1).remote()) == 1
    assert pyray.get(pyray.remote(num_cpus=0, resources={"x": 1})(lambda: 2).remote()) == 2


# ---- GPUs --------------------------------------------------------------------------------------


def test_gpus_are_exclusive(gate, tally):
    pyray.init(num_cpus=4, num_gpus=4)

    @pyray.remote(num_gpus=2)
    def two():
        tally.add()
        gate.wait()
        return pyray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    refs = [two.remote() for _ in range(3)]
    helpers.wait_until(lambda: len(tally) == 2, what="two tasks")
    gate.open()
    got = pyray.get(refs)
    assert sorted(got[0][0] + got[1][0]) == [0, 1, 2, 3]
    for ids, visible in got:
        assert visible == ",".join(map(str, ids))
        assert len(set(ids)) == 2
    assert pyray.get_gpu_ids() == []


def test_tasks_without_gpus_see_none():
    pyray.init(num_cpus=1, num_gpus=2)

    @pyray.remote
    def none():
        return pyray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    @pyray.remote(num_gpus=1)
    def one():
        return pyray.get_gpu_ids()

    one_kept = one.options(max_calls=0)
    for _ in range(3):
        assert pyray.get(none.remote()) == ([], "")
        assert len(pyray.get(one_kept.remote())) == 1
        assert len(pyray.get(one.remote())) == 1


def test_gpu_tasks_get_a_fresh_process_each_by_default():
    pyray.init(num_cpus=1, num_gpus=1)
    pid = pyray.remote(num_gpus=1)(os.getpid)
    assert len({pyray.get(pid.remote()) for _ in range(3)}) == 3
    assert len({pyray.get(pid.options(max_calls=0).remote()) for _ in range(3)}) == 1


def test_parts_of_gpus_share_one_and_fill_it_up(gate, tally):
    pyray.init(num_cpus=8, num_gpus=2)

    @pyray.remote(num_gpus=0.5)
    def half():
        tally.add()
        gate.wait()
        return pyray.get_gpu_ids()

    refs = [half.remote() for _ in range(4)]
    helpers.wait_until(lambda: len(tally) == 4, what="four halves")
    assert _free("GPU") == (0,)
    gate.open()
    got = sorted(i for (i,) in pyray.get(refs))
    assert got == [0, 0, 1, 1]


GPUS = """
import os, pyray as ray
ray.init(num_cpus=2)
print(ray.cluster_resources().get("GPU", 0))
ray.shutdown()
try:
    ray.init(num_cpus=2, num_gpus=4)
except ValueError as error:
    print(error)
ray.init(num_cpus=2, num_gpus=3)
@ray.remote(num_gpus=3)
def all_three():
    return ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]
@ray.remote
def none():
    return os.environ["CUDA_VISIBLE_DEVICES"]
print(ray.get(all_three.remote()), repr(ray.get(none.remote())), os.environ["CUDA_VISIBLE_DEVICES"])
"""


@pytest.mark.parametrize(
    ("visible", "ids"),
    [("5,7,6", [5, 7, 6]), ("GPU-ab,GPU-cd,MIG-1", ["GPU-ab", "GPU-cd", "MIG-1"])],
)
def test_gpus_are_a_remapping_of_the_users_list(tmp_path, visible, ids):
    done = helpers.run_script(
        tmp_path / "script.py", GPUS, env=helpers.environment(CUDA_VISIBLE_DEVICES=visible)
    )
    there, error, last = done.stdout.splitlines()
    assert float(there) in (0, 3)  # what the machine has, at most the list
    assert "num_gpus=4" in error
    assert visible in error
    assert "allows 3" in error
    assert last == f"{(ids, visible)!r} '' {visible}"


def test_without_gpus_the_variable_is_left_alone(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    pyray.init(num_cpus=1, num_gpus=0)
    get = pyray.remote(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert pyray.get(get.remote()) == "3"


# ---- coming back -------------------------------------------------------------------------------

EVERYTHING = {"num_cpus": 2, "num_gpus": 1, "memory": 1 << 20, "resources": {"tape": 1}}


@pytest.mark.parametrize("end", ["exception", "exit", "os._exit", "kill"])
def test_resources_come_back_however_a_task_ends(end):
    pyray.init(num_cpus=2, num_gpus=1, resources={"tape": 1})

    def body():
        if end == "exception":
            raise ValueError("on purpose")
        if end == "exit":
            raise SystemExit(3)
        if end == "os._exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)

    total = pyray.cluster_resources()
    names = ("CPU", "GPU", "tape", "memory")
    for options in (EVERYTHING, {"num_cpus": 1}):
        for _ in range(3):
            task = pyray.remote(max_retries=0, **options)(body)
            with pytest.raises((ValueError, exceptions.WorkerCrashedError)):
                pyray.get(task.remote())
        helpers.wait_until(
            lambda: _free(*names) == tuple(total[n] for n in names), what="everything back"
        )
    whole = pyray.remote(**EVERYTHING)(lambda: "again")
    assert pyray.get([whole.remote() for _ in range(3)]) == ["again"] * 3


def test_resources_come_back_when_a_waiting_task_is_killed(tmp_path, gate):
    pyray.init(num_cpus=1, num_gpus=1)
    pids = helpers.Tally(tmp_path / "pids")

    @pyray.remote(num_cpus=0)
    def never():
        gate.wait()

    @pyray.remote(num_gpus=1, max_retries=0)
    def waits():
        ref = never.remote()
        pids.add(os.getpid())
        pyray.get(ref)

    ref = waits.remote()
    (pid,) = helpers.wait_until(pids.lines, what="the task")
    helpers.wait_until(lambda: _free("CPU", "GPU") == (1, 0), what="the wait")
    os.kill(int(pid), signal.SIGKILL)
    with pytest.raises(exceptions.WorkerCrashedError, match="SIGKILL"):
        pyray.get(ref)
    _await_free(CPU=1, GPU=1)
    gate.open()
    assert pyray.get(pyray.remote(num_gpus=1)(lambda: 1).remote()) == 1


def test_a_large_shape_is_not_starved_by_a_stream_of_small_tasks(ray, tally):
    """The stream never ends by itself: only the two-CPU task stops it."""

    @ray.remote
    def small():
        tally.add()

    @ray.remote(num_cpus=2)
    def large():
        return len(tally)

    stream = [small.remote() for _ in range(50)]
    ref = large.remote()
    rounds = 0
    while not ray.wait([ref], timeout=0)[0]:
        (_,), stream = ray.wait(stream)
        stream.append(small.remote())
        rounds += 1
        assert rounds < 20_000, "the large task is starved"
    assert ray.get(ref) <= rounds + 100
    ray.get(stream)


def test_small_tasks_go_on_after_a_large_one(ray):
    small = ray.remote(lambda i: i)
    large = ray.remote(num_cpus=2)(lambda i: -i)
    refs = [(large if i % 7 == 0 else small).remote(i) for i in range(1, 300)]
    assert ray.get(refs) == [-i if i % 7 == 0 else i for i in range(1, 300)]
    _await_free(CPU=2)


def test_threads_of_numerical_libraries_follow_num_cpus():
    pyray.init(num_cpus=4)
    get = pyray.remote(lambda: os.environ.get("OMP_NUM_THREADS"))
    four, one = get.options(num_cpus=4), get.options(num_cpus=0.5)
    assert pyray.get([get.remote(), four.remote(), one.remote()]) == ["1", "4", "1"]
    assert pyray.get([get.remote() for _ in range(20)]) == ["1"] * 20


def test_the_users_own_number_of_threads_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    pyray.init(num_cpus=2)
    get = pyray.remote(num_cpus=2)(lambda: os.environ["OMP_NUM_THREADS"])
    assert pyray.get(get.remote()) == "7"


@pytest.mark.slow
@pytest.mark.seconds(45)
def test_workers_that_nesting_needed_retire(ray1):
    """More processes than CPUs are there only while tasks are blocked, and some seconds more."""
    import pyray.session

    @ray1.remote
    def deep(n):
        return 0 if n == 0 else 1 + ray1.get(deep.remote(n - 1))

    def count():
        return len(pyray.session.require().call("workers"))

    assert ray1.get(deep.remote(6)) == 6
    assert count() > 3
    helpers.wait_until(lambda: count() == 1, 30, what="one worker for one CPU")
