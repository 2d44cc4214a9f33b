"""Ctrl-C at random moments, in scripts and at a prompt."""

from __future__ import annotations

import os
import random
import signal
import time

from fault_drivers import alive
from helpers import patience
from storm_helpers import Slowest, sizes
from terminals import Terminal


def press(d):
    """Ctrl-C reaches the whole foreground process group."""
    os.killpg(d.pid, signal.SIGINT)


ROUNDS = """
import random
rng = random.Random(1)
begin(object_store_memory=200 << 20)
@ray.remote
def nested(i):
    return ray.get(double.remote(i)) + 1
@ray.remote(num_cpus=0)
class Counter:
    def add(self, x):
        return x + 1
@ray.remote(num_returns="streaming")
def items(n):
    for i in range(n):
        yield i
counter = Counter.remote()
def round_():
    n = rng.randrange(1, 300)
    refs = [double.remote(i) for i in range(n)] + [nested.remote(i) for i in range(3)]
    blocks = [ray.put(bytes([i]) * rng.randrange(1, 300_000)) for i in range(5)]
    chained = double.remote(double.remote(refs[0]))
    ray.wait(refs, num_returns=len(refs))
    assert ray.get(refs[:n]) == [2 * i for i in range(n)]
    assert ray.get(chained) == 0
    assert ray.get([counter.add.remote(i) for i in range(5)]) == [1, 2, 3, 4, 5]
    assert [ray.get(item) for item in items.remote(n % 7)] == list(range(n % 7))
    if n % 20 == 0:
        assert ray.get(Counter.remote().add.remote(1)) == 2
        assert ray.cluster_resources()["CPU"] == 2
    assert [ray.get(b)[:1] for b in blocks] == [bytes([i]) for i in range(5)]
say(go=1)
"""
# In layers, since an interrupt may come in the one instant between an except and the next try.
CATCHING = (
    ROUNDS
    + """
caught = rounds = 0
def until_stopped(layers):
    global caught, rounds
    while not os.path.exists(HERE + "/stop"):
        try:
            if layers:
                until_stopped(layers - 1)
            else:
                round_()
                rounds += 1
        except KeyboardInterrupt:
            caught += 1
until_stopped(4)
"""
)


@sizes(200, short={"presses": 30}, full={"presses": 300})
def test_interrupts_that_are_caught(driver, figures, size):
    """The session goes on, and has lost nothing."""
    rng = random.Random(12)
    d = driver(
        CATCHING
        + """
for _ in range(20):
    round_()
from pyray._core import store
limit = time.monotonic() + 10
while store.object_stats()["used"] > 80 * 16384 and time.monotonic() < limit:
    ray.get(double.remote(1))
# Who gave the last answer may just not have put its CPU back.
while (free := ray.available_resources()["CPU"]) < 2 and time.monotonic() < limit: pass
from pyray import accounting
accounting.validate(10.0)
say(caught=caught, rounds=rounds, used=store.object_stats()["used"] // 16384, free=free)
"""
    )
    d.said("go")
    for _ in range(size.presses):
        time.sleep(rng.uniform(0.001, 0.08))  # the moment is the point
        assert alive(d.pid), d.stderr()
        press(d)
    time.sleep(0.1)
    (d.folder / "stop").touch()
    caught = d.said("caught", 30)
    assert size.presses // 3 <= caught <= size.presses  # two that come together are one
    assert d.said("rounds") > 0
    assert d.said("used") <= 80  # the 512 actors that died last are remembered
    assert d.said("free") == 2
    assert d.ended() == 0
    d.assert_gone()
    figures(presses=size.presses, caught=caught, rounds=d.said("rounds"))


# In layers as above; each round of the innermost one begins a session and ends it.
BEGINNING = """
def state():
    children = open(f"/proc/self/task/{os.getpid()}/children").read()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), children
ray.init(num_cpus=1, object_store_memory=64 << 20)
ray.shutdown()
first = state()
say(go=1)
caught = sessions = 0
def until_stopped(layers):
    global caught, sessions
    while not os.path.exists(HERE + "/stop"):
        try:
            if layers:
                until_stopped(layers - 1)
            else:
                ray.init(num_cpus=1, object_store_memory=64 << 20)
                ray.shutdown()
                sessions += 1
        except KeyboardInterrupt:
            caught += 1
            ray.shutdown()      # it may have come when init was through
until_stopped(4)
ray.shutdown()
ray.init(num_cpus=1, object_store_memory=64 << 20)
value = ray.get(double.remote(21), timeout=10)
ray.shutdown()
say(caught=caught, sessions=sessions, value=value, first=first, last=state())
"""


@sizes(200, short={"presses": 10}, full={"presses": 200})
def test_interrupts_of_init_and_shutdown(driver, figures, size):
    """Whatever was half begun, or half ended, is gone, and the next init works."""
    rng = random.Random(15)
    d = driver(BEGINNING)
    d.said("go")
    for _ in range(size.presses):
        time.sleep(rng.uniform(0.0, 0.25))  # the moment is the point
        assert alive(d.pid), d.stderr()
        press(d)
    (d.folder / "stop").touch()
    caught = d.said("caught", 30)
    assert caught > size.presses // 10  # what comes together, or is held back, is one
    assert d.said("value") == 42
    assert d.said("last") == d.said("first")
    assert d.ended() == 0
    assert d.stderr() == ""
    d.assert_gone()
    figures(presses=size.presses, caught=caught, sessions=d.said("sessions"))


@sizes(600, short={"presses": 5}, full={"presses": 100})
def test_interrupts_that_end_a_script(driver, figures, size):
    """At any moment from the first line that calls pyray: while the session starts, too."""
    rng = random.Random(13)
    slowest, gone, longest = Slowest(), Slowest(), 0
    for i in range(size.presses):
        d = driver(f"say(begun=1)\n{ROUNDS}while True:\n    round_()\n")
        d.said("go" if i % 4 else "begun")
        time.sleep(rng.uniform(0.0, 0.3))  # the moment is the point
        with slowest.timed():
            press(d)
            assert d.ended() == -signal.SIGINT, d.stderr()
        with gone.timed():
            d.assert_gone()
        text = d.stderr()
        assert text.count("KeyboardInterrupt") == 1, text
        assert text.count("Traceback") == 1, text
        longest = max(longest, len(text.splitlines()))
        assert longest < 60, text  # an import in init() is cut short: Python's own frames are many
        assert text.count(f"{os.sep}pyray{os.sep}") < 8, text
        d.clean()
    assert slowest.seconds < patience(1.0)
    figures(
        presses=size.presses,
        slowest_end_s=slowest.seconds,
        slowest_all_gone_s=gone.seconds,
        longest_traceback_lines=longest,
    )


AT_THE_PROMPT = """
def spin(i):
    print("go", i, flush=True)
    while True:
        round_()
def say(**what):
    pass
def begin(**options):
    print("node:", ray.init(num_cpus=2, **options)["node_pid"], flush=True)
@ray.remote
def double(x):
    return 2 * x
"""


@sizes(300, short={"presses": 6}, full={"presses": 100})
def test_interrupts_at_a_prompt(tmp_path, figures, size):
    """Each ends what runs with one short traceback, and the session is usable afterwards."""
    rng = random.Random(14)
    setup = tmp_path / "setup.py"
    setup.write_text("import os, time, pyray as ray\n" + AT_THE_PROMPT + ROUNDS)
    terminal = Terminal(tmp_path)
    d = terminal.driver
    slowest, longest = Slowest(), 0
    try:
        terminal.send(f"exec(compile(open({str(setup)!r}).read(), {str(setup)!r}, 'exec'))\n")
        d.node = int(terminal.read_until(r"node: \d+\n").split()[-1])
        for i in range(size.presses):
            terminal.send(f"spin({i})\n")
            terminal.read_until(rf"go {i}\n")
            time.sleep(rng.uniform(0.0, 0.15))  # the moment is the point
            with slowest.timed():
                terminal.send("\x03")
                text = terminal.read_until(r"KeyboardInterrupt.*\n(.*\n)*?>>> ")
            assert text.count("KeyboardInterrupt") == 1, text
            assert text.count("Traceback") == 1, text
            longest = max(longest, len(text.splitlines()))
            assert longest < 30, text
            terminal.send(f"print(ray.get([double.remote({i}), nested.remote({i})]), 'fine')\n")
            terminal.read_until(rf"\[{2 * i}, {2 * i + 1}\] fine\n")
        # Who gave the last answer may just not have put its CPU back.
        terminal.send("free = lambda: ray.available_resources()['CPU']\n")
        terminal.send("print(next(n for n in iter(free, None) if n == 2), 'free')\n")
        terminal.read_until(r"2\.0 free\n")
        terminal.send("exit()\n")
        d.ended()
        gone = d.assert_gone()
        assert "KeyboardInterrupt" not in terminal.text
    finally:
        d.clean()
        os.close(terminal.fd)
    assert slowest.seconds < patience(1.0)
    figures(
        presses=size.presses,
        slowest_prompt_s=slowest.seconds,
        all_gone_s=gone,
        longest_traceback_lines=longest,
    )
