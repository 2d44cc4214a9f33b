"""The node process is killed: the driver gets a typed error at once, never a hang."""

import os
import signal

import pytest
from fault_drivers import GONE, alive, in_wait
from fault_helpers import wait_until
from helpers import patience

START = """
from pyray.exceptions import NodeDiedError
@ray.remote
def busy(i):
    children = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    pathlib.Path(HERE, f"{i}.part").write_text(" ".join(str(c.pid) for c in children))
    os.rename(f"{HERE}/{i}.part", f"{HERE}/{i}")
    while i:
        pass
    time.sleep(1000)

begin(object_store_memory=300 << 20)
done = ray.put(bytes(1 << 20))
ray.get(double.remote(1))
refs = [busy.remote(i) for i in range(2)]
while not all(os.path.exists(f"{HERE}/{i}") for i in range(2)):
    time.sleep(0.005)
def what_it_raises(f, *args, **kwargs):
    begun = time.monotonic()
    try:
        value = f(*args, **kwargs)
    except BaseException as e:
        return [type(e).__name__, str(e), time.monotonic() - begun]
    return ["nothing", repr(value)[:100], 0]
def until_it_raises(f, *args, **kwargs):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        f(*args, **kwargs)
say(children=[int(n) for i in range(2) for n in open(f"{HERE}/{i}").read().split()])
say(ready=1)
"""

# What the driver does when the node is killed.
WAITS = {
    "get": "ray.get(refs[0])",
    "get of many": "ray.get(refs)",
    "get with a timeout": "ray.get(refs, timeout=30)",
    "wait": "ray.wait(refs)",
    "wait for all": "ray.wait(refs, num_returns=2, timeout=30)",
    "an Arrow stream": "ray.arrow_stream(refs[0])",
}
WORKS = {
    "put": "until_it_raises(ray.put, bytes(10 << 20))",
    "small puts": "until_it_raises(ray.put, [1])",
    "submitting": "until_it_raises(double.remote, 1)",
    "get of a list that is there": "until_it_raises(ray.get, [done])",
    "wait without a timeout": "until_it_raises(ray.wait, refs, timeout=0)",
    "resources": "until_it_raises(ray.available_resources)",
}
LATER = """
say(later=[what_it_raises(f) for f in (
    lambda: ray.get(refs[0]), lambda: ray.get(refs, timeout=1), lambda: ray.wait(refs),
    lambda: ray.put(1), lambda: double.remote(1), lambda: ray.available_resources(),
    lambda: ray.cluster_resources(), lambda: ray.get([done]),
)], there=what_it_raises(ray.get, done), initialized=ray.is_initialized())
"""
ANEW = """
say(old=what_it_raises(ray.get, refs))
begin(object_store_memory=64 << 20)
say(value=ray.get([double.remote(i) for i in range(10)], timeout=10))
"""


@pytest.mark.parametrize("what", [*WAITS, *WORKS])
def test_the_node_is_killed_during(driver, what):
    d = driver(f"{START}\nsay(error=what_it_raises(lambda: {(WAITS | WORKS)[what]}))" + LATER)
    d.said("ready")
    children = d.said("children")
    d.spared.add(d.pid)
    if what in WAITS:
        wait_until(lambda: in_wait(d.pid), what="the driver's wait")
    os.kill(d.node, signal.SIGKILL)
    kind, text, _ = d.said("error", patience(GONE))
    assert kind == "NodeDiedError"
    assert str(d.node) in text
    assert "SIGKILL" in text
    assert "init()" in text
    for kind, text, took in d.said("later"):
        assert (kind, took < patience(1)) == ("NodeDiedError", True), text
    kind, value, _ = d.said("there")  # what is there may be read still
    assert kind == "NodeDiedError" or value.startswith("b'")
    assert d.said("initialized") is False
    assert d.ended() == 0
    d.assert_gone()
    assert not [pid for pid in children if alive(pid)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_the_node_is_killed_while_the_driver_is_idle(driver, number):
    d = driver(f"{START}\nwhile not os.path.exists(HERE + '/go'): time.sleep(0.005)\n{LATER}{ANEW}")
    d.said("ready")
    children = d.said("children")
    node, inode = d.node, d.inode
    os.kill(node, number)
    all_ = [node, *children]
    wait_until(lambda: not [p for p in all_ if alive(p)], patience(GONE), "the end of all")
    (d.folder / "go").touch()
    for kind, text, _ in d.said("later"):
        assert kind == "NodeDiedError", text
    assert d.said("old")[0] in ("NodeDiedError", "SessionError")
    assert d.said("value") == [2 * i for i in range(10)]
    assert d.node != node
    assert d.inode != inode
    assert d.ended() == 0
    d.assert_gone()


def test_values_that_were_fetched_outlive_the_node(driver):
    d = driver(
        START
        + """
import numpy as np
array = ray.get(ray.put(np.arange(1_000_000)))
os.kill(int(sys.argv[1]) if sys.argv[1:] else ray.session.current().node.pid, signal.SIGKILL)
say(error=what_it_raises(until_it_raises, ray.get, refs, timeout=1))
say(total=int(array.sum()))
ray.shutdown()
say(again=int(array.sum()))
begin(object_store_memory=64 << 20)
say(value=ray.get(double.remote(4)), once_more=int(array.sum()))
"""
    )
    total = 499_999_500_000
    assert d.said("error")[0] == "NodeDiedError"
    assert [d.said(key) for key in ("total", "again", "value", "once_more")] == [
        total,
        total,
        8,
        total,
    ]
    assert d.ended() == 0
    d.assert_gone()


def test_grandchildren_in_sessions_of_their_own_go_with_the_node(driver):
    d = driver(
        """
@ray.remote
def start():
    return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
begin()
say(child=ray.get(start.remote()))
time.sleep(60)
"""
    )
    child = d.said("child")
    assert alive(child)
    d.spared.add(d.pid)
    os.kill(d.node, signal.SIGKILL)
    wait_until(lambda: not alive(child), patience(GONE), "the grandchild's end")
    d.assert_gone()


def test_several_threads_wait_while_the_node_dies(driver):
    d = driver(
        START
        + """
errors = []
def wait():
    errors.append(what_it_raises(ray.get, refs)[0])
threads = [threading.Thread(target=wait) for _ in range(20)]
for t in threads: t.start()
say(waiting=1)
for t in threads: t.join()
say(errors=errors)
"""
    )
    d.said("waiting")
    os.kill(d.node, signal.SIGKILL)
    assert d.said("errors", patience(GONE)) == ["NodeDiedError"] * 20
    assert d.ended() == 0
    d.assert_gone()


def test_a_task_whose_node_is_killed_by_its_own_child(driver):
    """Workers end with the node, also in the middle of a get of their own."""
    d = driver(
        """
from pyray.exceptions import NodeDiedError
@ray.remote
def inner():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)
@ray.remote
def outer():
    return ray.get(inner.remote())
begin()
try:
    ray.get(outer.remote())
except NodeDiedError:
    say(error=1)
"""
    )
    assert d.said("error")
    assert d.ended() == 0
    d.assert_gone()


@pytest.mark.parametrize("how", ["fork", "vfork and exec"])
def test_what_tasks_start_while_the_node_dies_goes_too(driver, how):
    """A task that starts processes as fast as it can: some are half made when all else ends."""
    start = {
        "fork": "os.fork() == 0 and time.sleep(1000)",
        "vfork and exec": "subprocess.Popen(['sleep', '1000'])",
    }[how]
    d = driver(
        f"""
from pyray.exceptions import NodeDiedError
@ray.remote
def starts():
    for i in range(60):
        {start}
    say(started=1)
    time.sleep(1000)
for i in range(3):
    node = begin(object_store_memory=64 << 20)["node_pid"]
    ref = starts.remote()
    ray.wait([ref], timeout=0.02 + 0.01 * i)
    os.kill(node, signal.SIGKILL)
    try:
        ray.get(ref)
    except NodeDiedError:
        pass
    deadline = time.monotonic() + 20
    while True:
        left = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                fields = open(f"/proc/{{name}}/stat").read().rpartition(")")[2].split()
                # Whom nobody has reaped yet is gone: init takes its time.
                if fields[3] == str(node) and fields[0] not in "ZX":
                    left.append(name)
            except OSError:
                pass
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    say(**{{f"left{{i}}": left}})
    ray.shutdown()
"""
    )
    for i in range(3):
        assert d.said(f"left{i}", 60) == []
    assert d.ended() == 0
    d.assert_gone()
