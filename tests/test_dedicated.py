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


def in_own(function, env=None, exclusive=False, **request):
    """A remote function whose calls run outside the pool."""
    function._bind(function.remote)
    shape = session.require().shape({"CPU": 1, **request}, "test", exclusive, env)
    function.remote.shape = shape
    return function


def make_env(name="A", **more):
    import json

    return json.dumps({"env_vars": {"PYRAY_TEST": name, **more}}, sort_keys=True)


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
    own = in_own(pyray.remote(who), exclusive=True)
    pool = workers()
    found = [pyray.get(own.remote()) for _ in range(3)]
    assert len(set(found)) == 3 and not pool & set(found)
    helpers.wait_until(lambda: workers() == pool, what="the dedicated workers to end")


def test_tasks_of_one_environment_share_processes_and_others_do_not(ray):
    a = in_own(pyray.remote(who), make_env("A"))
    b = in_own(pyray.remote(who), make_env("B"))
    plain = pyray.remote(who)
    firsts = pyray.get(a.remote()), pyray.get(b.remote())
    for _ in range(20):
        assert pyray.get(a.remote()) == firsts[0]
        assert pyray.get(b.remote()) == firsts[1]
        assert pyray.get(plain.remote()) not in firsts
    assert firsts[0] != firsts[1]


def test_as_many_run_at_once_as_there_are_cpus(ray, gate, tally):
    def hold():
        tally.add(os.getpid())
        gate.wait()
        return os.getpid()

    own = in_own(pyray.remote(hold), make_env())
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

    own = in_own(pyray.remote(parent), make_env())
    assert pyray.get([own.remote() for _ in range(4)]) == [15] * 4


def test_nothing_of_the_fast_path_runs_outside_the_pool(ray):
    own = in_own(pyray.remote(who), make_env())
    mine = pyray.get(own.remote())
    plain = pyray.remote(who)
    assert mine not in pyray.get([plain.remote() for _ in range(500)])


def test_a_worker_that_dies_is_replaced_and_its_task_tried_again(ray, tally):
    def die(times):
        tally.add()
        if len(tally) <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(tally)

    own = in_own(pyray.remote(max_retries=2)(die), make_env())
    assert pyray.get(own.remote(2)) == 3
    with pytest.raises(exceptions.WorkerCrashedError, match="SIGKILL"):
        pyray.get(own.remote(99))
    assert pyray.get(in_own(pyray.remote(who), make_env()).remote()) in workers()
    assert len(workers()) == 3  # nothing was started in the pool for it


def test_what_its_task_held_comes_back_when_it_dies():
    pyray.init(num_cpus=2, resources={"tape": 1})

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    own = in_own(pyray.remote(max_retries=0)(die), exclusive=True, tape=1)
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
        own = in_own(
            pyray.remote(retry_exceptions=True)(fail), None if exclusive else make_env(), exclusive
        )
        assert pyray.get(own.remote()) not in processes()[:1]
        assert len(tally) == (3 if start == 0 else start + 1)


def test_an_idle_worker_ends_and_the_session_falls_asleep_again(ray):
    own = in_own(pyray.remote(who), make_env())
    pool = workers()
    pid = pyray.get(own.remote())
    begin = time.monotonic()
    helpers.wait_until(lambda: not helpers.alive(pid), 12)
    assert time.monotonic() - begin > 4
    assert workers() == pool
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
        found.add(pyray.get(in_own(pyray.remote(who), make_env(str(i))).remote()))
    assert len(found) == 12
    helpers.wait_until(lambda: len(workers()) <= pool + 3, 4)


@pytest.mark.seconds(60)
def test_more_environments_than_processes(monkeypatch):
    """At the limit a task waits for an idle worker of another environment to go."""
    monkeypatch.setattr(session, "MAX_PROCESSES", 6)
    pyray.init(num_cpus=2)
    refs = [
        in_own(pyray.remote(num_cpus=0)(who), make_env(str(i)), CPU=0).remote() for i in range(30)
    ]
    assert len(set(pyray.get(refs))) == 30


def test_at_the_limit_of_processes_a_task_that_needs_one_fails(monkeypatch, gate, tally):
    monkeypatch.setattr(session, "MAX_PROCESSES", 6)
    pyray.init(num_cpus=2)

    def hold():
        tally.add()
        gate.wait()

    own = in_own(pyray.remote(hold), exclusive=True, CPU=0)
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
    env = make_env()

    def nest(depth):
        if depth:
            own = in_own(pyray.remote(max_retries=0)(nest), env)
            return pyray.get(own.remote(depth - 1))
        return "bottom"

    own = in_own(pyray.remote(nest), env)
    assert pyray.get(own.remote(3)) == "bottom"
    with pytest.raises(exceptions.ProcessLimitError):
        pyray.get(own.remote(9))


def test_when_the_system_gives_no_process_the_task_fails(ray):
    """Out of processes or descriptors is an error of the task, with the system's reason."""
    own = in_own(pyray.remote(who), make_env())
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
    env = make_env()

    @pyray.remote(max_retries=0)
    def parent(gate):
        blocker = in_own(pyray.remote(gate.wait), env, CPU=2)
        own = in_own(pyray.remote(who), env)
        blocker.remote()
        [own.remote() for _ in range(10)]
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(exceptions.WorkerCrashedError):
        pyray.get(parent.remote(gate))
    gate.open()
    own = in_own(pyray.remote(who), env)
    assert pyray.get(own.remote()) in workers()
    helpers.wait_until(lambda: pyray.available_resources().get("CPU") == 2)


def test_they_let_go_of_memory_when_somebody_needs_room(ray):
    """The store holds six of these: each has to go before the next but five comes."""
    import numpy as np

    def make():
        return pyray.put(np.zeros(5 << 20))

    own = in_own(pyray.remote(make), make_env())
    for _ in range(15):
        assert pyray.get(pyray.get(own.remote()))[0] == 0


def test_at_the_end_of_the_session_they_are_gone(ray, gate):
    def hold():
        gate.wait()

    idle = pyray.get(in_own(pyray.remote(who), make_env("A")).remote())
    in_own(pyray.remote(hold), make_env("B")).remote()
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

    tasks = [in_own(pyray.remote(max_retries=-1)(work), make_env(str(i))) for i in range(3)]
    tasks.append(in_own(pyray.remote(max_retries=-1)(work), exclusive=True))
    pool = workers()
    refs = [chance.choice(tasks).remote(0.003) for _ in range(150)]
    for _ in range(25):
        found = sorted(workers() - pool)
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(found), signal.SIGKILL)
        time.sleep(0.01)
    assert len(pyray.get(refs)) == 150
    helpers.wait_until(lambda: pyray.available_resources().get("CPU") == 2)
