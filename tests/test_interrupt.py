"""Ctrl-C: one interrupt, a short traceback, no orphans; what was waited for is cancelled, and where
the interrupt is caught the session goes on.

At any moment, again and again: storms/test_storm_interrupts.py.
"""

import os
import signal
import time

import pytest
from fault_drivers import in_wait
from fault_helpers import wait_until
from helpers import patience
from terminals import Terminal

START = """
from pyray import session
@ray.remote
def never(i):
    child = subprocess.Popen(["sleep", "1000"])
    pathlib.Path(HERE, f"started{i}").touch()
    while True:
        time.sleep(1)
def workers():
    return sorted(w["pid"] for w in session.current().call("workers"))
begin()
ray.get([double.remote(i) for i in range(10)])
limit = time.monotonic() + 10
while len(workers()) < 2: assert time.monotonic() < limit
before = workers()
refs = []
def begin_task(i):
    refs[:] = [never.remote(i)]
    while not os.path.exists(HERE + f"/started{i}"): assert time.monotonic() < limit
begin_task(0)
"""
WAITS = {
    "get": "ray.get(refs[0])",
    "get of many": "ray.get(refs + [double.remote(1)])",
    "get with a timeout": "ray.get(refs, timeout=1000)",
    "wait": "ray.wait(refs)",
    "wait with a timeout": "ray.wait(refs, timeout=1000)",
    "an Arrow stream": "ray.arrow_stream(refs[0])",
}


def press(d):
    """Ctrl-C reaches the whole foreground process group."""
    os.killpg(d.pid, signal.SIGINT)


@pytest.mark.parametrize("wait", WAITS)
def test_a_script_ends(driver, wait):
    d = driver(f"{START}\nsay(now=1)\n{WAITS[wait]}\nsay(wrong=1)")
    d.said("now")
    wait_until(lambda: in_wait(d.pid), what="the wait")
    start = time.monotonic()
    press(d)
    assert d.ended() == -signal.SIGINT
    assert time.monotonic() - start < patience(1)
    d.assert_gone()
    text = d.stderr()
    assert text.count("KeyboardInterrupt") == 1, text
    assert text.count("Traceback") == 1, text
    assert len(text.splitlines()) < 15, text
    assert "wrong" not in "".join(d.lines)


@pytest.mark.parametrize(
    "wait",
    [w if w in ("get", "wait") else pytest.param(w, marks=pytest.mark.slow) for w in WAITS],
)
def test_a_session_goes_on_if_the_interrupt_is_caught(driver, wait):
    d = driver(
        f"""{START}
caught = 0
for i in range(3):
    try:
        begin_task(i + 1)
        say(**{{f"now{{i}}": 1}})
        {WAITS[wait]}
    except KeyboardInterrupt:
        caught += 1
    say(**{{f"result{{i}}": ray.get([double.remote(i) for i in range(100)], timeout=10)}})
say(caught=caught, before=before, after=workers(), value=ray.get(ray.put(5)))
"""
    )
    for i in range(3):
        d.said(f"now{i}")
        wait_until(lambda: in_wait(d.pid), what="the wait")
        press(d)
        assert d.said(f"result{i}") == [2 * i for i in range(100)]
    assert d.said("caught") == 3
    assert d.said("before") == d.said("after")  # no worker noticed anything
    assert d.ended() == 0
    assert d.stderr() == ""
    d.assert_gone()


def test_two_presses_are_two_interrupts_at_most(driver):
    d = driver(
        f"""{START}
caught = 0
def wait():
    global caught
    try:
        say(now=1)
        ray.get(refs)
    except KeyboardInterrupt:
        caught += 1
        try:
            begin_task(1)
            say(first=1)
            ray.get(refs)
        except KeyboardInterrupt:
            caught += 1
wait()
say(caught=caught, value=ray.get(double.remote(2), timeout=10))
"""
    )
    d.said("now")
    wait_until(lambda: in_wait(d.pid), what="the wait")
    press(d)
    d.said("first")
    wait_until(lambda: in_wait(d.pid), what="the second wait")
    press(d)
    assert d.said("caught") == 2
    assert d.said("value") == 4
    assert d.ended() == 0
    d.assert_gone()


def test_what_was_waited_for_is_cancelled(driver):
    d = driver(
        f"""{START}
def mark(what, *args):
    with open(HERE + "/marks", "a") as f:
        f.write(what + chr(10))
    return what
mark = ray.remote(mark)
def outcome(ref):
    try:
        return ray.get(ref, timeout=10)
    except ray.exceptions.TaskCancelledError:
        return "cancelled"
refs.append(never.remote(1))
while not os.path.exists(HERE + "/started1"): assert time.monotonic() < limit
queued = [mark.remote(f"queued {{i}}") for i in range(20)]
behind = [mark.remote(f"behind {{i}}", queued[i]) for i in range(10)]
last = mark.remote("last", *behind)
other = mark.remote("other")
try:
    say(now=1)
    ray.get([*refs, last])
except KeyboardInterrupt:
    start = time.monotonic()
    say(other=outcome(other), seconds=time.monotonic() - start)
say(cancelled=[outcome(r) for r in (*refs, last, *behind, *queued[:10])],
    rest=[outcome(r) for r in queued[10:]])
say(marks=open(HERE + "/marks").read().split())
# Who gave the last answers may just not have put its CPU back.
while ray.available_resources()["CPU"] < 2: assert time.monotonic() < limit
say(before=before, after=workers())
"""
    )
    d.said("now")
    wait_until(lambda: in_wait(d.pid), what="the wait")
    press(d)
    assert d.said("other") == "other"  # it was not waited for, and now it has its turn
    assert d.said("seconds") < patience(1)
    # What ran, what was queued, and what that waited for in its turn.
    assert d.said("cancelled") == ["cancelled"] * 23
    assert d.said("rest") == [f"queued {i}" for i in range(10, 20)]
    assert len(d.said("marks")) == 2 * 10 + 1
    assert d.said("before") == d.said("after")
    assert d.ended() == 0
    assert d.stderr() == ""
    d.assert_gone()


@pytest.mark.parametrize("caught", [False, True])
def test_thousands_of_queued_tasks_are_dropped(driver, caught):
    wait = "ray.get([*refs, *many])"
    if caught:
        wait = f"try:\n    {wait}\nexcept KeyboardInterrupt:\n    pass"
    d = driver(
        f"""{START}
many = [double.remote(never.remote(i)) for i in range(2, 2000)]
many += [double.remote(i) for i in range(18_000)]
never.remote(1)
say(now=1)
{wait}
start = time.monotonic()
say(value=ray.get(double.remote(4), timeout=10), seconds=time.monotonic() - start)
cancelled = 0
for ref in many:
    try:
        ray.get(ref, timeout=10)
    except ray.exceptions.TaskCancelledError:
        cancelled += 1
say(cancelled=cancelled)
"""
    )
    d.said("now")
    wait_until(lambda: in_wait(d.pid), what="the wait")
    start = time.monotonic()
    press(d)
    if caught:
        assert d.said("value") == 8
        assert d.said("seconds") < patience(2)
        assert d.said("cancelled") > 1998
        assert d.ended() == 0
    else:
        assert d.ended() == -signal.SIGINT
        assert time.monotonic() - start < patience(1.5)
        assert d.stderr().count("Traceback") == 1
    d.assert_gone()


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.02, 0.04, 0.3])
def test_a_press_while_the_session_starts_or_ends(driver, moment):
    d = driver("say(now=1)\nwhile True:\n    begin()\n    ray.shutdown()\n")
    d.said("now")
    time.sleep(moment)
    start = time.monotonic()
    press(d)
    assert d.ended() == -signal.SIGINT
    assert time.monotonic() - start < patience(2)
    d.assert_gone()
    assert d.stderr().count("KeyboardInterrupt") == 1, d.stderr()  # the driver's, not the node's


def test_a_press_while_python_would_lose_it_is_raised_by_init(driver):
    """As in the callbacks that each import runs; the session does not begin, and the next does."""
    d = driver(
        """
class Goes:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "cloudpickle":
            Goes()
sys.modules.pop("cloudpickle", None)
sys.meta_path.insert(0, Finder())
try:
    begin()
except KeyboardInterrupt:
    say(raised=1, initialized=ray.is_initialized())
sys.meta_path.pop(0)
begin()
say(value=ray.get(double.remote(21), timeout=10))
"""
    )
    assert d.said("raised")
    assert d.said("initialized") is False
    assert d.said("value") == 42
    assert d.ended() == 0
    assert d.stderr() == ""
    d.assert_gone()


def test_sigint_to_a_worker_hits_its_task_alone(driver):
    d = driver(
        """
from pyray import session
begin()
@ray.remote(max_retries=0)
def slow():
    pathlib.Path(HERE, "pid").write_text(str(os.getpid()))
    time.sleep(30)
ref = slow.remote()
limit = time.monotonic() + 10
while not (os.path.exists(HERE + "/pid") and open(HERE + "/pid").read()):
    assert time.monotonic() < limit
pid = int(open(HERE + "/pid").read())
os.kill(pid, signal.SIGINT)
try:
    ray.get(ref, timeout=10)
except ray.exceptions.TaskError as e:
    say(cause=type(e.cause).__name__)
for i in range(20):     # between tasks too
    for w in session.current().call("workers"):
        os.kill(w["pid"], signal.SIGINT)
say(value=ray.get([double.remote(i) for i in range(10)], timeout=10),
    same=pid in [w["pid"] for w in session.current().call("workers")])
"""
    )
    assert d.said("cause") == "KeyboardInterrupt"
    assert d.said("value") == [2 * i for i in range(10)]
    assert d.said("same")
    assert d.ended() == 0
    d.assert_gone()


# ---- interactive -------------------------------------------------------------------------------


def test_a_prompt_stays_usable(tmp_path):
    terminal = Terminal(tmp_path)
    d = terminal.driver
    try:
        terminal.send("import pyray as ray, time\n")
        terminal.send("print('node:', ray.init(num_cpus=2)['node_pid'])\n")
        d.node = int(terminal.read_until(r"node: \d+\n").split()[-1])
        terminal.send(
            "f = ray.remote(lambda x: 2 * x)\nnever = ray.remote(lambda: time.sleep(99))\n"
        )
        terminal.send("print(ray.get(f.remote(20)) + 1)\n")
        terminal.read_until(r"\b41\n")
        for i in range(3):
            terminal.send("ref = never.options(num_cpus=0).remote(); print('wait', 'ing')\n")
            terminal.read_until("wait ing\n")
            terminal.read_until(">>> $")
            terminal.send("ray.get(ref)\n")
            wait_until(lambda: in_wait(d.pid), what="the wait")
            terminal.send("\x03")
            text = terminal.read_until(r"KeyboardInterrupt.*\n(.*\n)*?>>> ")
            assert text.count("KeyboardInterrupt") == 1, text
            assert len(text.splitlines()) < 15, text
            terminal.send(f"print(ray.get(f.remote({i})) + 1000)\n")
            terminal.read_until(rf"\b{1000 + 2 * i}\n")
        terminal.send("exit()\n")
        d.ended()
        d.assert_gone()
        assert "KeyboardInterrupt" not in terminal.text
    finally:
        d.clean()
        os.close(terminal.fd)


def test_a_press_in_a_process_pool_of_the_driver_is_none_of_ours(driver):
    """A child of the driver in its process group gets the interrupt as well; workers do not."""
    d = driver(
        f"""{START}
child = subprocess.Popen(["sleep", "1000"])
try:
    say(now=1)
    ray.get(refs)
except KeyboardInterrupt:
    say(child=child.wait(5), before=before, after=workers())
"""
    )
    d.said("now")
    wait_until(lambda: in_wait(d.pid), what="the wait")
    press(d)
    assert d.said("child") == -signal.SIGINT
    assert d.said("before") == d.said("after")
    assert d.ended() == 0
    d.assert_gone()
