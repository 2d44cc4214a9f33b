"""Workers outside the pool: who gets one, who shares one, when they end, and what the cap does."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import helpers
import pytest

import pyray
from pyray import exceptions, session
from pyray._core import shm
from pyray.api import processes


def alone(function, **request):
    """A remote function each of whose calls has a process of its own, as actors do."""
    function._bind(function.remote)
    function.remote.shape = session.require().shape({"CPU": 1, **request}, "test", dedicated=True)
    return function


def of_env(function, name="A", **options):
    """A remote function whose calls have an environment of that name."""
    return function.options(runtime_env={"env_vars": {"PYRAY_TEST": name}}, **options)


def make_who():
    def who():
        import os  # so that a worker need not import this module, and pytest with it

        return os.getpid()

    return who


who = make_who()


def workers():
    """Process IDs of the workers that are alive, in the node's eyes."""
    return {w["pid"] for w in session.require().call("workers")}


def test_an_exclusive_task_has_a_process_that_ends_with_it(ray):
    own = alone(pyray.remote(who))
    pool = workers()
    found = [pyray.get(own.remote()) for _ in range(3)]
    assert len(set(found)) == 3 and not pool & set(found)
    helpers.wait_until(lambda: workers() == pool, what="the dedicated workers to end")


def test_tasks_of_one_environment_share_processes_and_others_do_not(ray):
    a = of_env(pyray.remote(who), "A")
    b = of_env(pyray.remote(who), "B")
    plain = pyray.remote(who)
    found = [set(), set(), set()]
    for _ in range(30):
        for pids, f in zip(found, (a, b, plain), strict=True):
            pids.add(pyray.get(f.remote()))
    assert sum(map(len, found)) == len(set().union(*found))
    # One is enough; on a busy machine the next task may come before it is seen to be idle.
    assert max(map(len, found)) <= 10


def test_as_many_run_at_once_as_there_are_cpus(ray, gate, tally):
    def hold():
        tally.add(os.getpid())
        gate.wait()
        return os.getpid()

    own = of_env(pyray.remote(hold))
    refs = [own.remote() for _ in range(6)]
    helpers.wait_until(lambda: len(tally) == 2)
    plain = pyray.remote(who).remote()
    assert pyray.wait([plain], timeout=0.2)[0] == []  # both CPUs are in use
    gate.open()
    pyray.get([*refs, plain])


def test_what_runs_outside_the_pool_can_wait_for_what_runs_in_it(ray1):
    @pyray.remote
    def child(x):
        return x + 1

    def parent():
        return sum(pyray.get([child.remote(i) for i in range(5)]))

    own = of_env(pyray.remote(parent))
    assert pyray.get([own.remote() for _ in range(4)]) == [15] * 4


def test_nothing_of_the_fast_path_runs_outside_the_pool(ray):
    own = of_env(pyray.remote(who))
    mine = pyray.get(own.remote())
    plain = pyray.remote(who)
    assert mine not in pyray.get([plain.remote() for _ in range(500)])


def test_a_worker_that_dies_is_replaced_and_its_task_tried_again(ray, tally):
    def die(times):
        tally.add()
        if len(tally) <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(tally)

    own = of_env(pyray.remote(max_retries=2)(die))
    assert pyray.get(own.remote(2)) == 3
    with pytest.raises(exceptions.WorkerCrashedError, match="SIGKILL"):
        pyray.get(own.remote(99))
    assert pyray.get(of_env(pyray.remote(who)).remote()) in workers()
    assert len(workers()) == 3  # nothing was started in the pool for it


def test_what_its_task_held_comes_back_when_it_dies():
    pyray.init(num_cpus=2, resources={"tape": 1})

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    own = alone(pyray.remote(max_retries=0)(die), tape=1)
    for _ in range(3):
        with pytest.raises(exceptions.WorkerCrashedError):
            pyray.get(own.remote())
    helpers.wait_until(lambda: pyray.available_resources().get("tape") == 1)
    helpers.wait_until(lambda: pyray.available_resources().get("CPU") == 2)


def test_a_task_that_raises_is_tried_again(ray, tally):
    def fail():
        tally.add()
        if len(tally) < 3:
            raise ValueError("not yet")
        return os.getpid()

    for exclusive in (False, True):
        start = len(tally)
        again = pyray.remote(retry_exceptions=True)(fail)
        own = alone(again) if exclusive else of_env(again)
        assert pyray.get(own.remote()) not in processes()[:1]
        assert len(tally) == (3 if start == 0 else start + 1)


def test_an_idle_worker_ends_and_the_session_falls_asleep_again(ray):
    def make():
        import numpy as np

        return os.getpid(), pyray.put(np.arange(100_000))

    pool = workers()
    pid, ref = pyray.get(of_env(pyray.remote(make)).remote())
    begin = time.monotonic()
    helpers.wait_until(lambda: not helpers.alive(pid), 12)
    assert time.monotonic() - begin > 2
    assert workers() == pool
    assert pyray.get(ref).sum() == 4999950000  # what it made is still there
    node = session.require().node.pid

    def switches():
        with open(f"/proc/{node}/status") as f:
            return [line for line in f if "voluntary" in line]

    helpers.wait_until(lambda: asleep(switches), what="the node to stop ticking")


def asleep(switches):
    before = switches()
    time.sleep(1.2)
    return before == switches()


def test_few_idle_workers_are_kept_of_many_environments(ray):
    pool = len(workers())
    found = set()
    for i in range(12):
        found.add(pyray.get(of_env(pyray.remote(who), str(i)).remote()))
    assert len(found) == 12
    helpers.wait_until(lambda: len(workers()) <= pool + 3, 4)


@pytest.mark.seconds(60)
def test_more_environments_than_processes(monkeypatch):
    """At the limit a task waits for an idle worker of another environment to go."""
    monkeypatch.setattr(session, "MAX_PROCESSES", 6)
    pyray.init(num_cpus=2)
    refs = [of_env(pyray.remote(who), str(i), num_cpus=0).remote() for i in range(30)]
    assert len(set(pyray.get(refs))) == 30


def test_at_the_limit_of_processes_a_task_that_needs_one_fails(monkeypatch, gate, tally):
    monkeypatch.setattr(session, "MAX_PROCESSES", 6)
    pyray.init(num_cpus=2)

    def hold():
        tally.add()
        gate.wait()

    own = alone(pyray.remote(hold), CPU=0)
    refs = [own.remote() for _ in range(7)]
    helpers.wait_until(lambda: len(tally) == 4)
    done, _ = pyray.wait(refs, num_returns=3)
    for ref in done:
        with pytest.raises(exceptions.ProcessLimitError, match="limit of 6"):
            pyray.get(ref)
    assert pyray.get(pyray.remote(who).remote())  # the pool has its own
    gate.open()
    rest = [r for r in refs if r not in done]
    assert pyray.get(rest) == [None] * 4


def test_waits_that_cannot_end_at_the_limit_raise(monkeypatch):
    monkeypatch.setattr(session, "MAX_PROCESSES", 6)
    pyray.init(num_cpus=2)

    @pyray.remote(max_retries=0)
    def nest(depth):
        return pyray.get(nest.remote(depth - 1)) if depth else "bottom"

    own = of_env(nest)
    assert pyray.get(own.remote(3)) == "bottom"
    with pytest.raises(exceptions.ProcessLimitError):
        pyray.get(own.remote(9))


def test_when_the_system_gives_no_process_the_task_fails(ray):
    """Out of processes or descriptors is an error of the task, with the system's reason."""
    own = of_env(pyray.remote(who))
    import resource

    node = session.require().node.pid
    files = resource.prlimit(node, resource.RLIMIT_NOFILE)
    resource.prlimit(node, resource.RLIMIT_NOFILE, (20, files[1]))
    try:
        with pytest.raises(exceptions.ProcessLimitError, match="Too many open files"):
            pyray.get(own.remote())
    finally:
        resource.prlimit(node, resource.RLIMIT_NOFILE, files)
    assert pyray.get(own.remote()) in workers()


def test_a_submitter_that_dies_leaves_nothing_behind(ray, gate):
    own = of_env(pyray.remote(who))
    blocker = of_env(pyray.remote(lambda: gate.wait()), num_cpus=2)

    @pyray.remote(max_retries=0)
    def parent():
        blocker.remote()
        refs = [own.remote() for _ in range(10)]
        os.kill(os.getpid(), signal.SIGKILL)
        return refs

    with pytest.raises(exceptions.WorkerCrashedError):
        pyray.get(parent.remote())
    gate.open()
    assert pyray.get(own.remote()) in workers()
    helpers.wait_until(lambda: pyray.available_resources().get("CPU") == 2)


def test_they_let_go_of_memory_when_somebody_needs_room(ray):
    """The store holds six of these: each has to go before the next but five comes."""
    import numpy as np

    def make():
        return pyray.put(np.zeros(5 << 20))

    own = of_env(pyray.remote(make))
    for _ in range(15):
        assert pyray.get(pyray.get(own.remote()))[0] == 0


def test_at_the_end_of_the_session_they_are_gone(ray, gate):
    def hold():
        gate.wait()

    idle = pyray.get(of_env(pyray.remote(who), "A").remote())
    of_env(pyray.remote(hold), "B").remote()
    helpers.wait_until(lambda: len(workers()) == 4)
    found = workers()
    assert idle in found
    pyray.shutdown()
    assert not [p for p in found if helpers.alive(p)]
    assert not shm.attached()


def test_many_at_random_die_and_all_is_accounted_for(ray):
    """Kills of busy and idle workers outside the pool lose no CPU and hang nobody."""
    import random

    chance = random.Random(3)

    def work(x):
        time.sleep(x)
        return os.getpid()

    tasks = [of_env(pyray.remote(max_retries=-1)(work), str(i)) for i in range(3)]
    tasks.append(alone(pyray.remote(max_retries=-1)(work)))
    pool = workers()
    refs = [chance.choice(tasks).remote(0.003) for _ in range(150)]
    for _ in range(25):
        found = [w["pid"] for w in session.require().call("workers") if w["task"]]
        found = sorted(set(found) - pool)
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(found), signal.SIGKILL)
        time.sleep(0.01)
    assert len(pyray.get(refs)) == 150
    helpers.wait_until(lambda: pyray.available_resources().get("CPU") == 2)
