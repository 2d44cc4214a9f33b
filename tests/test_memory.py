"""Memory runs short: the newest task that can be retried is ended, and told why.

Under a limit of the session's own (`memory_limit`); real cgroups are in test_root_memory.py.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import Gate, run_python, wait_until

import pyray
from pyray import api
from pyray.exceptions import OutOfMemoryError, WorkerCrashedError
from pyray.node.watch import Watch

pytestmark = pytest.mark.no_asan("takes memory of its own")

LIMITED = """
from pyray.exceptions import OutOfMemoryError
begin(memory_limit=200 << 20, object_store_memory=64 << 20)
def take(megabytes):
    return [b"x" * (1 << 20) for _ in range(megabytes)]
def seen(name):
    with open(f"{HERE}/{name}", "a") as f:
        f.write("x")
        f.flush()
        return f.tell()
def until(name, times=1):
    limit = time.monotonic() + 20
    while not os.path.exists(f"{HERE}/{name}") or os.path.getsize(f"{HERE}/{name}") < times:
        assert time.monotonic() < limit
        time.sleep(0.005)
@ray.remote
def hog(megabytes):
    kept = take(megabytes)
    time.sleep(60)
def told(f, *args):
    try:
        return dict(value=f(*args))
    except ray.exceptions.RayError as e:
        return dict(kind=type(e).__name__, text=str(e), **{k: v for k, v in vars(e).items()
                    if isinstance(v, (int, str, type(None)))})
"""


def test_that_task_alone_fails(driver: Any) -> None:
    d = driver(
        LIMITED
        + """
@ray.remote(max_retries=0)
def bystander():
    seen("begun")
    until("go")
    return os.getpid()
others = [bystander.remote()]
until("begun")
say(error=told(ray.get, hog.options(max_retries=0).remote(300)))
seen("go")
say(others=told(ray.get, others), after=ray.get(double.remote(4)))
"""
    )
    error = d.said("error")
    assert error["kind"] == "OutOfMemoryError"
    assert error["task"] == "hog"
    assert error["signal"] == "SIGKILL"
    assert error["limit"] == 200 << 20
    assert 100 << 20 < error["memory"] < 400 << 20
    text = error["text"]
    for part in (f"pid={error['pid']}", "memory ran short", "memory_limit of 210 MB", "the driver"):
        assert part in text
    assert f"bystander (pid={d.said('others')['value'][0]}) had " in text
    assert d.said("after") == 8
    assert d.ended() == 0
    assert "this worker was ended because memory ran short" in d.stderr()
    d.assert_gone()


def test_it_is_retried_and_may_fit_then(driver: Any) -> None:
    d = driver(
        LIMITED
        + """
@ray.remote(max_retries=2)
def less():
    attempt = seen("attempts")
    kept = take(400 >> attempt)
    if attempt == 1:
        time.sleep(60)
    return attempt
say(value=told(ray.get, less.remote()))
"""
    )
    assert d.said("value") == {"value": 2}
    d.ended()
    assert "the task is run again (retry 1 of 2)" in d.stderr()


def test_each_attempt_counts(driver: Any) -> None:
    d = driver(LIMITED + "say(error=told(ray.get, hog.options(max_retries=1).remote(300)))")
    error = d.said("error")
    assert error["kind"] == "OutOfMemoryError"
    assert "as in 1 attempt(s) before" in error["text"]


def test_what_does_not_fit_beside_others_waits_until_they_are_done(driver: Any) -> None:
    """Run again at once it would be ended again, until no retry is left."""
    d = driver(
        LIMITED
        + """
@ray.remote(max_retries=0)
def old():
    kept = take(60)
    seen("old")
    until("new")
    kept += take(60)
    seen("full")
    time.sleep(2)  # as long as it likes, up to ten seconds
    seen("done")
@ray.remote(max_retries=1)
def new():
    attempt = seen("new")
    alone = os.path.exists(HERE + "/done")
    until("full")
    kept = take(120)
    time.sleep(60 if attempt == 1 else 0)
    return attempt, alone
first = old.remote()
until("old")
second = new.remote()
say(values=told(lambda: ray.get([first, second], timeout=30)))
"""
    )
    assert d.said("values") == {"value": [None, [2, True]]}
    d.ended()
    assert d.stderr().count("memory ran short") == 1


def test_one_that_waits_for_memory_can_be_cancelled(driver: Any) -> None:
    d = driver(
        LIMITED
        + """
@ray.remote(max_retries=0)
def first():
    kept = take(90)
    seen("first")
    until("go")
@ray.remote(max_retries=-1)
def second():
    seen("second")
    kept = take(90)
    until("go")
a = first.remote()
until("first")
b = second.remote()
from pyray import session
from pyray._core import store
limit = time.monotonic() + 20
while "waits for memory" not in session.current().call("explain", store.task_of(b)):
    assert time.monotonic() < limit
    time.sleep(0.01)
ray.cancel(b)
say(error=told(ray.get, b))
seen("go")
say(first=told(ray.get, a), after=ray.get(double.remote(1)))
"""
    )
    assert d.said("error")["kind"] == "TaskCancelledError"
    assert d.said("first") == {"value": None}
    assert d.said("after") == 2
    assert d.ended() == 0
    d.assert_gone()


def test_actors(driver: Any) -> None:
    d = driver(
        LIMITED
        + """
@ray.remote
class Keeper:
    def take(self, megabytes):
        self.kept = take(megabytes)
        time.sleep(60 if megabytes > 100 else 0)
    def pid(self):
        return os.getpid()
keeper = Keeper.remote()
again = Keeper.options(max_restarts=1).remote()
first = ray.get(again.pid.remote())
say(error=told(ray.get, again.take.remote(300)))
say(restarted=ray.get(again.pid.remote()) != first)
say(died=told(ray.get, keeper.take.remote(300)))
"""
    )
    error = d.said("error")
    assert error["kind"] == "ActorUnavailableError"
    assert "was ended because memory ran short (it had " in error["text"]
    assert d.said("restarted") is True
    died = d.said("died")
    assert died["kind"] == "ActorDiedError"
    assert "memory_limit of 210 MB" in died["text"]
    d.ended()
    assert "the actor is made again (restart 1 of 1)" in d.stderr()


def test_an_actor_that_runs_several_calls_at_once(driver: Any) -> None:
    """No call of its is the current one, and yet something runs."""
    d = driver(
        LIMITED
        + """
@ray.remote(max_concurrency=4)
class Keeper:
    def take(self):
        time.sleep(3)
        kept = take(300)
        time.sleep(60)
    def nothing(self):
        pass
keeper = Keeper.remote()
ray.get(keeper.nothing.remote())
say(error=told(ray.get, keeper.take.remote()))
"""
    )
    assert d.said("error")["kind"] == "ActorDiedError"
    assert "memory ran short" in d.said("error")["text"]


def test_what_a_task_has_started_counts_and_goes_with_it(driver: Any) -> None:
    d = driver(
        LIMITED
        + """
@ray.remote(max_retries=0)
def starts():
    code = "import time; kept = [b'x' * (1 << 20) for _ in range(300)]; time.sleep(1000)"
    child = subprocess.Popen([sys.executable, "-c", code])
    pathlib.Path(HERE, "child").write_text(str(child.pid))
    child.wait()
say(error=told(ray.get, starts.remote()), child=int(open(HERE + "/child").read()))
time.sleep(60)
"""
    )
    assert d.said("error")["kind"] == "OutOfMemoryError"
    child = d.said("child")
    wait_until(lambda: not os.path.exists(f"/proc/{child}"), 5, "the child's end")


def test_a_worker_that_has_kept_much_goes_before_any_task(driver: Any) -> None:
    d = driver(
        LIMITED
        + """
kept = []
@ray.remote(max_retries=0)
def leaves():
    kept.extend(take(90))
    return os.getpid()
@ray.remote(max_retries=0)
def takes():
    mine = take(60)
    seen("takes")
    until("go")
    mine += take(60)
    time.sleep(0.5)
    return len(mine)
before = takes.remote()
until("takes")
leaver = ray.get(leaves.remote())
seen("go")
say(value=told(ray.get, before), alive=os.path.exists(f"/proc/{leaver}"))
"""
    )
    assert d.said("value") == {"value": 120}
    assert d.said("alive") is False


def test_no_watch_no_end(driver: Any) -> None:
    d = driver(
        LIMITED
        + """
@ray.remote
def large():
    kept = take(250)
    time.sleep(0.3)
    return len(kept)
say(value=told(ray.get, large.remote()))
""",
        env={"PYRAY_memory_monitor_refresh_ms": "0"},
    )
    assert d.said("value") == {"value": 250}


def test_the_kernel_is_to_take_workers_first(ray: Any) -> None:
    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    driver, node, *workers = api.processes()
    wait_until(lambda: [score(pid) for pid in workers] == [1000, 1000], what="their scores")
    assert score(driver) == score(node) < 1000


def test_nothing_looks_at_memory_while_nothing_runs(ray: Any) -> None:
    """A session at rest is to use no CPU at all."""

    @ray.remote
    def nothing() -> None:
        return None

    @ray.remote(max_concurrency=4)
    class Idle:
        def nothing(self) -> None:
            return None

    idle = Idle.remote()
    ray.get([nothing.remote() for _ in range(10)] + [idle.nothing.remote() for _ in range(10)])
    assert_at_rest(api.processes()[1])


def assert_at_rest(node: int) -> None:
    """There is, soon, a second in which the node does not run."""

    def wakes() -> str:
        lines = Path(f"/proc/{node}/status").read_text().splitlines()
        return next(line for line in lines if line.startswith("voluntary_ctxt_switches"))

    def at_rest() -> bool:
        before = wakes()
        time.sleep(1.0)  # the second in which nothing is to happen
        return wakes() == before

    wait_until(at_rest, 15, "a second in which the node does not run")


def test_nor_after_it_has_run_short(driver: Any) -> None:
    d = driver(
        LIMITED
        + """
say(error=told(ray.get, hog.options(max_retries=1).remote(300)))
say(after=ray.get(double.remote(1)))
sys.stdout.flush()
until("go")
"""
    )
    assert d.said("error")["kind"] == "OutOfMemoryError"
    d.said("after")
    assert_at_rest(d.node)
    (d.folder / "go").write_text("x")
    assert d.ended() == 0


def test_the_kernel_is_asked_to_tell_of_pressure(gate: Gate) -> None:
    path = Path("/proc/pressure/memory")
    if not path.exists() or not os.access(path, os.W_OK):
        pytest.skip("this kernel tells nothing of pressure, or not us")
    own = next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )
    pyray.init(num_cpus=2, memory_limit=own * 3 // 2 + (50 << 20))  # more than half is in use
    waiting = pyray.remote(gate.wait).remote()
    driver, node, *workers = api.processes()

    def asked(pid: int) -> bool:
        found = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # the listing's own
                found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        return any(name.endswith(("/pressure/memory", "memory.pressure")) for name in found)

    wait_until(lambda: asked(node), what="the node to ask for it")
    wait_until(lambda: not any(map(asked, [driver, *workers])), what="forks to close it")
    gate.open()
    pyray.get(waiting)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYRAY_memory_usage_threshold", "lots"),
        ("PYRAY_memory_usage_threshold", "0"),
        ("PYRAY_memory_usage_threshold", "1.5"),
        ("PYRAY_memory_usage_threshold", "nan"),
        ("PYRAY_memory_monitor_refresh_ms", "-1"),
        ("PYRAY_memory_monitor_refresh_ms", "soon"),
    ],
)
def test_bad_values_are_refused_at_init(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        pyray.init(num_cpus=1)
    assert not pyray.is_initialized()


@pytest.mark.parametrize("value", [0, -1, 1.5, "2GB", True])
def test_bad_limits_are_refused_at_init(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="memory_limit"):
        pyray.init(memory_limit=value)


def test_the_error_is_a_crash_and_a_memory_error() -> None:
    error = OutOfMemoryError("text", "f", 7, "SIGKILL", None, 3 << 30, 2 << 30)
    assert isinstance(error, WorkerCrashedError)
    assert isinstance(error, MemoryError)
    assert (error.task, error.pid, error.memory, error.limit) == ("f", 7, 3 << 30, 2 << 30)


def test_the_share_of_the_machine_that_may_be_used(tmp_path: Path) -> None:
    """Where more of it is in use already, whatever has something is ended."""
    script = tmp_path / "script.py"
    script.write_text(
        "import time, pyray as ray\n"
        "ray.init(num_cpus=1, object_store_memory=64 << 20)\n"
        "@ray.remote(max_retries=0)\n"
        "def hog():\n"
        "    kept = bytearray(b'x' * (200 << 20))\n"
        "    time.sleep(60)\n"
        "try:\n"
        "    ray.get(hog.remote())\n"
        "except ray.exceptions.OutOfMemoryError as error:\n"
        "    print(error)\n"
    )
    env = {**os.environ, "PYRAY_memory_usage_threshold": "0.000001"}
    env["PYTHONPATH"] = str(Path(pyray.__file__).parent.parent)
    done = run_python(str(script), env=env)
    assert "task hog: its worker (pid=" in done.stdout
    assert "the machine's " in done.stdout


def test_the_timer_is_set_anew_when_the_node_comes_to_it() -> None:
    """By a worker that begins a task in that very moment: then there is nothing to read."""
    watch = Watch.__new__(Watch)
    watch._kills = 0
    watch.alarm = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        watch.woken()
    finally:
        os.close(watch.alarm)
