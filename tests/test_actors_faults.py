"""Actors that fail and die: what callers see, restarts, retries, and that nothing hangs."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sys
import threading
import time

import fault_helpers
import helpers
import pytest
from fault_helpers import crash, error_of

import pyray
from pyray import exceptions, session
from pyray._core import store


def make_victim(where="method"):
    @pyray.remote
    class Victim:
        def __init__(self, how=None):
            self.n = 0
            if how:
                crash(how)

        def add(self, i=1):
            self.n += i
            return self.n

        def crash(self, how="kill"):
            crash(how)

        def pid(self):
            return os.getpid()

        def exit(self):
            pyray.actor.exit_actor()

        def wait(self, gate):
            gate.wait()

    return Victim


@pytest.fixture
def victim(ray):
    """A remote class whose methods end its process."""
    return make_victim()


def dead(ref, *words):
    """The ActorDiedError that `get` raises; all the words are in it."""
    error = error_of(ref)
    assert type(error) is exceptions.ActorDiedError, repr(error)
    for word in words:
        assert str(word) in str(error), str(error)
    return error


# ---- deaths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", list(fault_helpers.CRASHES))
def test_death_in_a_method(ray, victim, how):
    a = victim.remote()
    pid = ray.get(a.pid.remote())
    before = a.add.remote()
    ref = a.crash.remote(how)
    after = [a.add.remote() for _ in range(3)]
    signal_name, code = fault_helpers.CRASHES[how]
    error = dead(ref, "Victim", a._actor_id, pid)
    assert ray.get(before) == 1
    assert (error.pid, error.signal, error.exit_code) == (pid, signal_name, code)
    for ref in (*after, a.add.remote(), a.add.remote()):
        dead(ref, "Victim", pid)
    assert isinstance(error, exceptions.RayActorError)


@pytest.mark.parametrize("how", ["raise", *fault_helpers.CRASHES])
def test_death_in_the_constructor(ray, victim, how):
    a = victim.remote(how)
    refs = [a.add.remote(), a.pid.remote()]
    for ref in (*refs, a.add.remote()):
        error = dead(ref, "Victim")
    if how == "raise":
        assert "could not be made" in str(error) and "boom" in str(error)
        assert "line" in str(error)  # with the traceback
        assert isinstance(error.cause, LookupError)
    elif how != "exit":
        assert (error.signal, error.exit_code) == fault_helpers.CRASHES[how]


def test_death_while_idle(ray, victim):
    a = victim.remote()
    pid = ray.get(a.pid.remote())
    os.kill(pid, signal.SIGKILL)
    dead(a.add.remote(), "SIGKILL", pid)


def test_a_constructor_that_fails_with_an_error_of_the_scripts_own(ray):
    """The node passes it on without unpickling it: that might run anything."""

    class Own(Exception):
        def __init__(self, a, b):
            super().__init__(a, b)
            self.b = b

        def __reduce__(self):
            return rebuild, (os.getpid(), *self.args)

    def rebuild(pid, a, b):
        assert "node" not in pathlib.Path("/proc/self/comm").read_text(), "unpickled in the node"
        return Own(a, b)

    @ray.remote
    class Fails:
        def __init__(self):
            raise Own(1, [2])

        def f(self): ...

    a = Fails.remote()
    ref = a.f.remote()
    for r in (ref, a.f.remote()):
        error = dead(r, "could not be made")
        assert type(error.cause).__name__ == "Own" or isinstance(error.cause, Own)


def test_a_class_that_cannot_be_imported_in_the_worker(ray, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "only_here.py").write_text("class Here:\n    def f(self): return 1\n")
    import only_here

    a = ray.remote(only_here.Here).remote()
    error = dead(a.f.remote(), "only_here")
    assert "could not be made" in str(error)
    sys.modules.pop("only_here")


def test_exit_actor(ray, victim):
    a = victim.options(max_restarts=5).remote()
    pid = ray.get(a.pid.remote())
    before = [a.add.remote() for _ in range(5)]
    ref = a.exit.remote()
    after = a.add.remote()
    assert ray.get(before) == [1, 2, 3, 4, 5]
    for r in (ref, after, a.add.remote()):
        error = dead(r, "exit_actor")
    assert error.exit_code == 0
    helpers.wait_until(lambda: not helpers.alive(pid))
    with pytest.raises(TypeError, match="in a method of an actor"):
        pyray.actor.exit_actor()
    with pytest.raises(TypeError, match="in a method of an actor"):
        ray.get(ray.remote(lambda: pyray.actor.exit_actor()).remote())


def test_terminate_runs_what_was_called_before(ray, victim, gate):
    a = victim.remote()
    a.wait.remote(gate)
    refs = [a.add.remote() for _ in range(10)]
    end = a.__ray_terminate__.remote()
    after = a.add.remote()
    gate.open()
    assert ray.get(refs) == list(range(1, 11))
    dead(end)
    dead(after)


def test_exceptions_in_methods_do_not_end_the_actor(ray, victim):
    @ray.remote
    class Raises:
        def __init__(self):
            self.n = 0

        def fail(self, error):
            self.n += 1
            raise error

        def count(self):
            return self.n

    a = Raises.remote()
    for error in (ValueError("a"), KeyError("b"), OSError(3, "c"), KeyboardInterrupt()):
        got = error_of(a.fail.remote(error))
        assert isinstance(got, (type(error), exceptions.TaskError))
    assert ray.get(a.count.remote()) == 4


def test_callers_in_other_processes_see_the_death(ray, victim, gate, tally):
    a = victim.remote()

    @ray.remote(num_cpus=0)
    def call(a):
        ray.get(a.add.remote())
        tally.add()
        gate.wait()
        refs = [a.add.remote() for _ in range(3)]
        return [type(error_of(ref)).__name__ for ref in refs]

    refs = [call.remote(a) for _ in range(3)]
    helpers.wait_until(lambda: len(tally) == 3)
    dead(a.crash.remote())
    gate.open()
    assert ray.get(refs) == [["ActorDiedError"] * 3] * 3


# ---- kill --------------------------------------------------------------------------------------


def test_kill(ray, victim, gate):
    a = victim.options(max_restarts=-1).remote()
    pid = ray.get(a.pid.remote())
    busy = a.wait.remote(gate)
    queued = [a.add.remote() for _ in range(5)]
    ray.kill(a)
    for ref in (busy, *queued, a.add.remote()):
        dead(ref, "killed by ray.kill")
    helpers.wait_until(lambda: not helpers.alive(pid))
    ray.kill(a)  # again: of no effect
    for bad in (None, 3, busy, victim):
        with pytest.raises(ValueError, match="kill ends actors"):
            ray.kill(bad)


def test_kill_at_every_moment_of_the_start(ray, victim):
    """Before its process is there, while it starts, in the constructor, and after it."""
    for i in range(24):
        a = victim.options(max_restarts=-1, num_cpus=0).remote()
        ref = a.pid.remote()
        end = time.monotonic() + 0.0015 * i
        while time.monotonic() < end:
            pass
        ray.kill(a)
        error = error_of(ref) if not ray.wait([ref], timeout=0)[0] else None
        dead(a.add.remote(), "killed")
        assert error is None or "killed" in str(error)
    helpers.wait_until(lambda: len(session.require().call("workers")) <= 3, what="no actor left")


def test_kill_with_restart(ray, victim):
    a = victim.options(max_restarts=1).remote()
    pid = ray.get(a.pid.remote())
    ray.get(a.add.remote())
    ray.kill(a, no_restart=False)
    again = helpers.wait_until(lambda: pid_of(a))
    assert again != pid
    assert ray.get(a.add.remote()) == 1  # its state is gone
    ray.kill(a, no_restart=False)
    dead(a.add.remote())


def pid_of(a):
    """The actor's process, or None while it does not answer."""
    try:
        return pyray.get(a.pid.remote(), timeout=10)
    except exceptions.ActorUnavailableError:
        return None


# ---- restarts and retries ----------------------------------------------------------------------


def test_max_restarts(ray, victim):
    a = victim.options(max_restarts=2).remote()
    pids = {ray.get(a.pid.remote())}
    for _ in range(2):
        error = error_of(a.crash.remote())
        assert isinstance(error, exceptions.ActorUnavailableError)
        assert "SIGKILL" in str(error) and "restart" in str(error)
        pids.add(helpers.wait_until(lambda: pid_of(a)))
    assert len(pids) == 3
    assert ray.get(a.add.remote()) == 1
    dead(a.crash.remote(), "SIGKILL", "after 2 restart")
    dead(a.add.remote())


def test_calls_that_wait_survive_a_restart(ray, victim, gate):
    """Only the one that was running fails."""
    a = victim.options(max_restarts=1).remote()
    a.wait.remote(gate)
    crashing = a.crash.remote()
    refs = [a.add.remote() for _ in range(200)]
    late = a.add.remote(ray.remote(lambda: gate.wait() or 5).remote())
    gate.open()
    assert isinstance(error_of(crashing), exceptions.ActorUnavailableError)
    assert ray.get(refs) == list(range(1, 201))
    assert ray.get(late) == 205


def test_the_constructor_runs_again_with_its_arguments(ray):
    np = pytest.importorskip("numpy")

    @ray.remote(max_restarts=-1)
    class Keeps:
        def __init__(self, array, ref, box, *, k):
            self.got = int(array.sum()), ref, ray.get(box[0]), k

        def get(self):
            return os.getpid(), self.got

    def make():
        return Keeps.remote(np.ones(300_000), ray.put("ref"), [ray.put("in a box")], k=3)

    a = make()
    pid, got = ray.get(a.get.remote())
    for _ in range(3):
        os.kill(pid, signal.SIGKILL)
        again = helpers.wait_until(lambda: value_of(a.get.remote()))
        assert again[1] == got == (300_000, "ref", "in a box", 3)
        assert again[0] != pid
        pid = again[0]


def value_of(ref):
    """Its value, or None if the actor was just being restarted."""
    try:
        return pyray.get(ref, timeout=10)
    except exceptions.ActorUnavailableError:
        return None


def test_max_task_retries(ray, tmp_path):
    @ray.remote(max_restarts=-1, max_task_retries=3)
    class Retries:
        def flaky(self, path, times):
            if fault_helpers.count(path) <= times:
                crash("kill")
            return fault_helpers.counted(path)

        @pyray.method(max_task_retries=0)
        def once(self):
            crash("kill")

        def after(self):
            return "after"

    a = Retries.remote()
    ref, after = a.flaky.remote(tmp_path / "1", 2), a.after.remote()
    assert ray.get(ref) == 3 and ray.get(after) == "after"
    assert isinstance(
        error_of(a.flaky.remote(tmp_path / "2", 10)), exceptions.ActorUnavailableError
    )
    assert fault_helpers.counted(tmp_path / "2") == 4
    ref = a.flaky.options(max_task_retries=-1).remote(tmp_path / "3", 6)
    assert ray.get(ref) == 7
    assert isinstance(error_of(a.once.remote()), exceptions.ActorUnavailableError)
    assert ray.get(a.after.remote()) == "after"


def test_retry_exceptions(ray, tmp_path):
    @ray.remote(max_task_retries=2)
    class Flaky:
        def fails(self, path, times):
            if fault_helpers.count(path) <= times:
                raise LookupError("flaky")
            return fault_helpers.counted(path)

        @pyray.method(retry_exceptions=[KeyError, OSError], max_task_retries=5)
        def only(self, path, error):
            fault_helpers.count(path)
            raise error

    a = Flaky.remote()
    with pytest.raises(LookupError):
        ray.get(a.fails.remote(tmp_path / "0", 1))
    again = a.fails.options(retry_exceptions=True)
    assert ray.get(again.remote(tmp_path / "1", 2)) == 3
    with pytest.raises(LookupError):
        ray.get(again.remote(tmp_path / "2", 5))
    assert fault_helpers.counted(tmp_path / "2") == 3
    for error, runs in ((KeyError("x"), 6), (ValueError("x"), 1)):
        path = tmp_path / f"{runs} runs"
        with pytest.raises(type(error)):
            ray.get(a.only.remote(path, error))
        assert fault_helpers.counted(path) == runs


@pytest.mark.parametrize("threads", [None, 3])
def test_retried_calls_keep_their_place(ray, tmp_path, threads):
    @ray.remote(max_task_retries=-1, max_concurrency=threads)
    class Order:
        def __init__(self):
            self.seen = []

        @pyray.method(retry_exceptions=True)
        def note(self, i):
            if i % 10 == 0 and fault_helpers.count(tmp_path / str(i)) < 3:
                raise OSError
            self.seen.append(i)
            return i

        def get(self):
            return self.seen

    a = Order.remote()
    refs = [a.note.remote(i) for i in range(60)]
    assert ray.get(refs) == list(range(60))
    seen = ray.get(a.get.remote())
    assert sorted(seen) == list(range(60))
    if threads is None:
        assert seen == list(range(60))


def test_a_restart_whose_constructor_fails(ray, tmp_path):
    """The error of the constructor is told, not only that there is no actor any more."""

    @ray.remote(max_restarts=3)
    class Twice:
        def __init__(self):
            if fault_helpers.count(tmp_path / "made") > 1:
                raise LookupError("only once")

        def crash(self):
            crash("kill")

        def f(self): ...

    a = Twice.remote()
    refs = [a.crash.remote(), a.f.remote()]
    assert isinstance(error_of(refs[0]), exceptions.RayActorError)
    error = dead(refs[1], "could not be made", "only once")
    assert isinstance(error.cause, LookupError)
    dead(a.f.remote(), "only once")


def test_a_dropped_actor_is_made_again_for_its_calls(ray, tmp_path):
    @ray.remote(max_restarts=-1, max_task_retries=-1)
    class Drops:
        def flaky(self, name):
            if fault_helpers.count(tmp_path / name) < 3:
                crash("kill")
            return name

    refs = [Drops.remote().flaky.remote(name) for name in "ab"]
    a = Drops.remote()
    refs += [a.flaky.remote(name) for name in "cd"]
    del a
    assert ray.get(refs) == list("abcd")
    helpers.wait_until(lambda: len(session.require().call("workers")) <= 3, what="no actor left")


def test_fifty_thousand_queued_calls_survive_restarts_in_order(ray, gate, tally):
    @ray.remote(max_restarts=-1, max_task_retries=-1)
    class Log:
        def __init__(self):
            self.last = -1
            tally.add(os.getpid())

        def wait(self):
            gate.wait()

        def note(self, i):
            # After a restart it begins where it stopped, or with the call that was running.
            assert self.last in (-1, i - 1), (self.last, i)
            self.last = i
            return i

    a = Log.remote()
    a.wait.remote()
    refs = [a.note.remote(i) for i in range(50_000)]
    gate.open()
    killed = 0
    while killed < 4:
        ray.wait(refs, num_returns=1 + 8000 * killed)
        os.kill(int(tally.lines()[-1]), signal.SIGKILL)
        killed += 1
        helpers.wait_until(lambda n=killed: len(tally) > n, what="the restart")
    assert ray.get(refs) == list(range(50_000))


# ---- limits ------------------------------------------------------------------------------------


def test_max_pending_calls(ray, victim, gate):
    a = victim.options(max_pending_calls=5).remote()
    refs = [a.wait.remote(gate) for _ in range(5)]
    with pytest.raises(exceptions.PendingCallsLimitExceeded, match=r"Victim\.wait: 5.*is 5"):
        a.wait.remote(gate)
    other = ray.remote(lambda a: a.add.remote() and None)
    ray.get(other.remote(a))  # the limit is each caller's
    gate.open()
    ray.get(refs)
    for _ in range(20):
        ray.get(a.add.remote())


def test_max_pending_calls_counts_what_is_not_finished(ray, gate):
    """Not what stands behind a call that takes long."""

    @ray.remote(max_concurrency=4, max_pending_calls=10)
    class Threads:
        def wait(self):
            gate.wait()

        def quick(self, i):
            return i

    a = Threads.remote()
    long = a.wait.remote()
    for i in range(100):
        assert ray.get(a.quick.remote(i)) == i
    gate.open()
    ray.get(long)


def test_the_cap_on_processes(monkeypatch):
    """An actor for which there is no process fails, and nothing else; an end makes room."""
    monkeypatch.setattr(session, "MAX_PROCESSES", 6)
    pyray.init(num_cpus=2)
    cls = make_victim().options(num_cpus=0)
    actors = [cls.remote() for _ in range(4)]
    assert pyray.get([a.add.remote() for a in actors]) == [1] * 4
    more = [cls.options(name=f"more {i}").remote() for i in range(3)]
    for a in more:
        with pytest.raises(exceptions.ProcessLimitError, match="limit of 6.*end actors"):
            pyray.get(a.add.remote())
        with pytest.raises(exceptions.ProcessLimitError):
            pyray.get(a.add.remote())
    assert not session.require().call("named_actors", True)
    assert pyray.get([pyray.remote(os.getpid).remote() for _ in range(4)])
    pid = pyray.get(actors[0].pid.remote())
    del actors[0]
    helpers.wait_until(lambda: not helpers.alive(pid))
    again = helpers.wait_until(lambda: made(cls))
    assert pyray.get(again.add.remote()) == 2


def made(cls):
    """A new actor that answers, or None."""
    a = cls.remote()
    try:
        pyray.get(a.add.remote())
    except exceptions.ProcessLimitError:
        return None
    return a


def test_more_actors_than_the_table_holds(ray1, gate):
    """8,191 at a time: the next is refused, and memory is not written beyond the table."""

    @ray1.remote(num_cpus=1)
    class Waits:
        def pid(self):
            return os.getpid()

    first = Waits.remote()
    ray1.get(first.pid.remote())
    made = [Waits.remote() for _ in range(8190)]
    with pytest.raises(exceptions.ProcessLimitError, match="8191 actors"):
        Waits.remote()
    del made
    assert ray1.get(first.pid.remote())
    del first

    def another():
        try:
            return Waits.remote()
        except exceptions.ProcessLimitError:
            return None

    a = helpers.wait_until(another, what="room for another actor")
    assert ray1.get(a.pid.remote())


def test_late_calls_of_an_actor_that_is_forgotten(ray, victim):
    """Its entry is another's by now, after 512 that died; the error is less precise then."""
    a = victim.remote()
    used = a.add
    ray.get(used.remote())
    ray.kill(a)
    dead(used.remote(), "killed")
    full = victim.options(num_cpus=2).remote()
    ray.get(full.add.remote())
    for _ in range(530):
        ray.kill(victim.remote())  # before it has a process
    del full
    others = [victim.remote() for _ in range(8)]
    for ref in (used.remote(), a.pid.remote()):
        dead(ref, "dead")
    assert ray.get([o.add.remote() for o in others]) == [1] * 8


# ---- callers that die --------------------------------------------------------------------------


def test_a_caller_that_dies_leaves_its_calls(ray, victim, tally, gate):
    """What it had not begun fails or is forgotten, and the actor goes on."""
    a = victim.remote()
    a.wait.remote(gate)

    @ray.remote(max_retries=0)
    def calls(a):
        for _ in range(20_000):
            a.add.remote()
        tally.add(os.getpid())
        time.sleep(1000)

    for n in range(3):
        ref = calls.remote(a)
        helpers.wait_until(lambda n=n: len(tally) > n)
        os.kill(int(tally.lines()[-1]), signal.SIGKILL)
        assert isinstance(error_of(ref), exceptions.WorkerCrashedError)
    refs = [a.add.remote() for _ in range(10)]
    gate.open()
    got = ray.get(refs)
    assert got == list(range(got[0], got[0] + 10))
    assert got[0] < 20_000


def test_processes_that_take_each_others_numbers_call_in_order(ray):
    """Each task has a process of its own, in a slot that another one had before."""

    @ray.remote
    class Log:
        def __init__(self):
            self.seen = []

        def note(self, x):
            self.seen.append(x)

        def get(self):
            return self.seen

    a = Log.remote()

    @ray.remote(max_calls=1)
    def send(a, who, n):
        for i in range(n):
            a.note.remote((who, i))

    for who in range(12):
        ray.get(send.remote(a, who, 10 if who % 2 else 9000))

    def seen():
        got = ray.get(a.get.remote())
        return got if len(got) == 6 * 9010 else None

    got = helpers.wait_until(seen, what="all calls")
    for who in range(12):
        mine = [i for w, i in got if w == who]
        assert mine == list(range(10 if who % 2 else 9000))


@pytest.mark.parametrize("restarts", [0, -1])
def test_a_running_call_whose_caller_is_gone_fails_with_its_actor(ray, tally, gate, restarts):
    """Its mailbox is another process's by then; whoever holds the id must not wait for ever."""

    @ray.remote(max_restarts=restarts, max_task_retries=restarts)
    class Slow:
        def wait(self):
            tally.add(os.getpid())
            gate.wait()

        def quick(self):
            return 1

    a = Slow.remote()
    ray.get(a.quick.remote())

    @ray.remote(max_calls=1)
    def call(a):
        return [a.wait.remote()]

    @ray.remote(max_calls=1)
    def call_again(a):
        return ray.get([a.quick.remote() for _ in range(9000)][-1])

    (ref,) = ray.get(call.remote(a))
    (pid,) = helpers.wait_until(tally.lines, what="the call")
    # The caller's process ends; others take its number, and what it occupied.
    others = [Slow.remote() for _ in range(3)]
    touch = ray.remote(max_calls=1)(lambda b: ray.get(b.quick.remote()))
    ray.get([touch.remote(b) for b in others])
    os.kill(int(pid), signal.SIGKILL)
    error = error_of(ref)
    assert isinstance(error, exceptions.RayActorError), repr(error)
    if restarts:
        assert ray.get(call_again.remote(a)) == 1


# ---- other ends --------------------------------------------------------------------------------


def test_an_actor_that_exits_with_calls_of_its_own_pending(ray, tally):
    """To itself, and to another that exits too: nobody waits for anybody's end for ever."""

    @ray.remote
    class Ends:
        def end(self, me, other):
            me.nothing.remote()
            if other is not None:
                tally.add()
                helpers.wait_until(lambda: len(tally) == 2)
                other.nothing.remote()
            pyray.actor.exit_actor()

        def nothing(self):
            pass

        def pid(self):
            return os.getpid()

    a, b = Ends.remote(), Ends.remote()
    pids = ray.get([a.pid.remote(), b.pid.remote()])
    dead(a.end.remote(a, None))
    helpers.wait_until(lambda: not helpers.alive(pids[0]), what="the end of the first")
    c = Ends.remote()
    pids = ray.get([b.pid.remote(), c.pid.remote()])
    refs = [b.end.remote(b, c), c.end.remote(c, b)]
    for ref in refs:
        dead(ref)
    helpers.wait_until(lambda: not any(map(helpers.alive, pids)), what="the end of both")


def test_what_an_actor_spawned_before_its_end_still_runs(ray, tally):
    @ray.remote
    def task(i):
        tally.add(i)

    @ray.remote
    class Spawns:
        def spawn(self):
            for i in range(20):
                task.remote(i)

    Spawns.remote().spawn.remote()
    helpers.wait_until(lambda: len(tally) == 20)


def test_fork_in_a_method(ray, tally):
    """The child that comes back from the method is not the actor."""

    @ray.remote
    class Forks:
        def __init__(self, how=None):
            self.n = 0
            if how == "constructor":
                self.fork("return")

        def fork(self, how):
            pid = os.fork()
            if pid == 0:
                tally.add("child")
                if how == "exit":
                    os._exit(0)
                if how == "raise":
                    raise ValueError
                return -1
            os.waitpid(pid, 0)
            self.n += 1
            return self.n

        async def fork_async(self):
            return self.fork("return")

    for options in ({}, {"max_concurrency": 3}):
        a = Forks.options(**options).remote("constructor")
        assert ray.get([a.fork.remote(how) for how in ("exit", "return")]) == [2, 3]
        ray.get(a.fork.remote("raise"))
        assert ray.get(a.fork_async.remote()) == 5
    assert len(tally) == 10


def test_interrupts_of_the_driver_leave_no_actor(ray, victim):
    """Ctrl-C while an actor is made: at whatever moment, nothing is left of it."""
    main = threading.main_thread().ident
    for i in range(30):
        timer = threading.Timer(0.0002 * i, signal.pthread_kill, (main, signal.SIGINT))
        try:
            timer.start()
            a = victim.options(num_cpus=0).remote()
            while True:
                time.sleep(0.01)  # not once for long: an interrupt just before a sleep is lost
        except KeyboardInterrupt:
            pass
        timer.join()
        a = None
    assert a is None
    helpers.wait_until(lambda: len(session.require().call("workers")) <= 3, what="no actor left")
    a = victim.remote()
    assert ray.get(a.add.remote()) == 1


def test_errors_leave_nothing_behind(ray, victim, gate):
    def rounds(n):
        for _ in range(n):
            a = victim.options(num_cpus=0).remote(*([ray.put(None)] * 5))
            refs = [a.add.remote(ray.remote(gate.wait).remote()) for _ in range(2)]
            refs.append(a.crash.remote("_exit"))
            big = a.add.remote(b"x" * 100_000)
            ray.kill(a)
            dead(big)
            for ref in refs:
                dead(ref)
            late = [a.add.remote(b"x" * 5000, *()) for _ in range(3)]
            for ref in late:
                dead(ref)

    gate.open()

    @ray.remote
    class Victim(victim._shared.cls()):
        def __init__(self, *args):
            super().__init__()

    victim = Victim
    rounds(5)
    before = store.object_stats()
    rounds(40)
    helpers.wait_until(
        lambda: store.object_stats()["used"] <= before["used"] + 64 * 16384, what="balance"
    )
    assert store.object_stats()["chunks"] <= before["chunks"] + 80  # 64 mailboxes of dead actors


# ---- storms ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.seconds(600)
@pytest.mark.parametrize(("pause", "kills"), [(2.0, 20), (0.05, 300)])
@pytest.mark.parametrize("options", [{}, {"max_concurrency": 4}, {"asynchronous": True}], ids=str)
def test_storm(ray, pause, kills, options):
    """16 actors and callers in the driver and tasks, and an actor killed every so many seconds:
    every call is answered."""

    class Worker:
        def pid(self):
            return os.getpid()

        def work(self, i, payload=None):
            return i

    class Async(Worker):
        async def work(self, i, payload=None):
            return i

    cls = Async if options.pop("asynchronous", False) else Worker
    options |= {"max_restarts": -1, "max_task_retries": -1, "num_cpus": 0}
    actors = [ray.remote(**options)(cls).remote() for _ in range(16)]
    killed = []

    def kill():
        while len(killed) < kills:
            time.sleep(pause)
            actor = actors[len(killed) % 16]
            killed.append(ray.get(actor.pid.remote()))
            with contextlib.suppress(ProcessLookupError):
                os.kill(killed[-1], signal.SIGKILL)

    @ray.remote(num_cpus=0)
    def call(actors, n):
        return ray.get([a.work.remote(i, [i]) for i in range(n) for a in actors])

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        while killer.is_alive():
            refs = [a.work.remote(i, b"x" * (i * 37 % 3000)) for i in range(300) for a in actors]
            late = [a.work.remote(refs[k]) for k, a in enumerate(actors)]
            tasks = [call.remote(actors, 100) for _ in range(2)]
            assert ray.get(refs) == [i for i in range(300) for _ in actors]
            assert ray.get(tasks) == [[i for i in range(100) for _ in actors]] * 2
            assert ray.get(late) == [0] * 16
    finally:
        killer.join()
    before = store.object_stats()
    actors.clear()
    del refs, late, tasks
    helpers.wait_until(lambda: len(session.require().call("workers")) <= 5, what="no actor left")
    assert before["used"] < 100 << 20


@pytest.mark.slow
@pytest.mark.seconds(300)
@pytest.mark.parametrize("restarts", [0, 1])
def test_deaths_while_many_callers_push(ray, restarts):
    """The actor dies, and is dead or made again, while four processes and threads call it."""

    @ray.remote(max_restarts=restarts, num_cpus=0)
    class Dies:
        def pid(self):
            return os.getpid()

        def f(self, i):
            return i

    @ray.remote(num_cpus=0)
    def call(a):
        ended = 0
        while ended < 2:
            refs = [a.f.remote(i) for i in range(200)]
            for i, ref in enumerate(refs):
                try:
                    assert ray.get(ref, timeout=30) == i
                except exceptions.ActorDiedError:
                    ended += i == 0
                except exceptions.ActorUnavailableError:
                    pass
        return True

    for _ in range(25):
        a = Dies.remote()
        pid = ray.get(a.pid.remote())
        refs = [call.remote(a) for _ in range(4)]
        for _ in range(restarts + 1):
            time.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
            if restarts:
                pid = helpers.wait_until(lambda a=a, pid=pid: changed(a, pid))
                restarts_left = pid != -1
                if not restarts_left:
                    break
        assert ray.get(refs, timeout=120) == [True] * 4


def changed(a, pid):
    try:
        now = pyray.get(a.pid.remote())
    except exceptions.ActorDiedError:
        return -1
    except exceptions.ActorUnavailableError:
        return None
    return now if now != pid else None


@pytest.mark.slow
@pytest.mark.seconds(300)
@pytest.mark.parametrize("threads", [None, 3])
def test_storm_of_callers(ray, threads):
    """Callers come and go, killed at any moment, in slots that others had before: what they sent
    until then arrives in order, with no gap, and what lives is answered."""

    @ray.remote(max_concurrency=threads)
    class Log:
        def __init__(self):
            self.lock = threading.Lock()
            self.last = {}
            self.wrong = []

        def note(self, who, i, payload):
            with self.lock:
                if threads is None and self.last.get(who, -1) != i - 1:
                    self.wrong.append((who, i, self.last.get(who)))
                self.last[who] = i
            return i

        def get(self):
            return self.last, self.wrong

    @ray.remote(max_calls=2, max_retries=0, num_cpus=0)
    def send(actors, who, n):
        for i in range(n):
            for a in actors:
                ref = a.note.remote(who, i, b"x" * (i % 200))
        return ray.get(ref)

    actors = [Log.remote() for _ in range(3)]
    end = time.monotonic() + 40
    who = killed = 0
    while time.monotonic() < end:
        refs = {}
        for n in (10, 300, 4000, 9000, 300, 20_000):
            refs[send.remote(actors, who, n)] = n
            who += 1
        time.sleep(0.03 * (who % 11))
        for worker in session.require().call("workers"):
            if worker["task"] and "send" in worker["task"] and worker["pid"] % 3 == 0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker["pid"], signal.SIGKILL)
                    killed += 1
        for ref, n in refs.items():
            try:
                assert ray.get(ref, timeout=60) == n - 1
            except exceptions.WorkerCrashedError:
                pass
        if who % 30 == 0:
            assert ray.get(actors[who % 3].note.remote("driver", who // 30 - 1, b"")) >= 0
    assert killed > 5
    for k, a in enumerate(actors):
        last, wrong = ray.get(a.get.remote())
        assert not [w for w in wrong if w[0] != "driver"], (k, wrong[:5])
        assert len(last) >= who // 2
