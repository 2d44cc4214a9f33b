"""Drivers and nodes that are killed at any moment: nothing is left, and nobody waits for ever."""

from __future__ import annotations

import os
import random
import signal
import time

from fault_drivers import alive
from helpers import patience
from storm_helpers import Slowest, sizes

# ---- the driver --------------------------------------------------------------------------------

# Tasks that never end and actors, all with children of their own, and SIZE + OVER MB of objects in
# a store of SIZE + 100: what is beyond goes to the spill file, which must go too.
BUSY = """
SIZE, OVER = %r, %r

def children(i):
    a = subprocess.Popen(["sleep", "1000"])
    b = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    shell = subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; sleep 1001; sleep 1002"])
    pathlib.Path(HERE, f"pids{i}.part").write_text(f"{os.getpid()} {a.pid} {b.pid} {shell.pid}")
    os.rename(f"{HERE}/pids{i}.part", f"{HERE}/pids{i}")

@ray.remote
def busy(i):
    kept = ray.put(bytes(5 << 20))
    children(i)
    while i:
        pass
    time.sleep(1000)

@ray.remote(num_cpus=0)
class Actor:
    def __init__(self, i):
        self.kept = ray.put(bytes(5 << 20))
        children(i)
    def nap(self):
        time.sleep(1000)
    def add(self, x):
        return x + 1

say(begun=1)
begin(object_store_memory=(SIZE + 100) << 20)
refs = [busy.options(num_cpus=0.5).remote(i) for i in range(2)]
sleeper, adder = [Actor.remote(i) for i in (2, 3)]
refs.append(sleeper.nap.remote())
blocks = [ray.put(os.urandom(1 << 20) * 10) for _ in range(SIZE // 10)]
blocks += [ray.put(os.urandom(1 << 20) * 10) for _ in range(OVER // 10)]
queued = [double.remote(i) for i in range(1000)]
limit = time.monotonic() + 20
while not all(os.path.exists(f"{HERE}/pids{i}") for i in range(4)):
    assert time.monotonic() < limit
    time.sleep(0.005)
say(pids=[int(n) for i in range(4) for n in open(f"{HERE}/pids{i}").read().split()])
while True:
    ray.get([double.remote(i) for i in range(100)] + [adder.add.remote(i) for i in range(10)])
    ray.get(ray.put(bytes(1 << 20)))
    ray.wait(refs, timeout=0.01)
"""


@sizes(
    600,
    short={"kills": 4, "mb": 50, "over": 120},
    full={"kills": 100, "mb": 500, "over": 200},
)
def test_driver_sigkill(driver, figures, size):
    rng = random.Random(7)
    slowest = Slowest()
    for i in range(size.kills):
        d = driver(BUSY % (size.mb, size.over))
        pids = []
        # While the session starts; while it fills the store; and with everything there.
        d.said({0: "begun", 1: "node"}.get(i % 4, "pids"))
        if i % 4 > 1:
            pids = d.said("pids")
            assert len(pids) == 16
        time.sleep(rng.uniform(0.0, 0.3))  # the moment is the point
        os.kill(d.pid, signal.SIGKILL)
        d.ended()
        with slowest.timed():
            d.assert_gone()
        assert not [pid for pid in pids if alive(pid)]
        told = [line for line in d.stderr().splitlines() if "went to disk" not in line]
        assert told == []
        d.clean()
    figures(kills=size.kills, objects_mb=size.mb, slowest_all_gone_s=slowest.seconds)


# ---- the node ----------------------------------------------------------------------------------

# A thread for each way to wait; when the node is killed each must raise, and say so.
NODE = """
import asyncio, random
from pyray.exceptions import NodeDiedError, SessionError
rng = random.Random(%r)

@ray.remote(num_cpus=0)
def never(i):
    child = subprocess.Popen(["sleep", "1000"])
    pathlib.Path(HERE, f"child{i}.part").write_text(f"{os.getpid()} {child.pid}")
    os.rename(f"{HERE}/child{i}.part", f"{HERE}/child{i}")
    time.sleep(1000)

@ray.remote(num_cpus=0)
class Actor:
    def nap(self):
        time.sleep(1000)
    def add(self, x):
        return x + 1

@ray.remote(num_cpus=0, num_returns="streaming")
def stream():
    yield 1
    time.sleep(1000)

def endlessly(f):
    while True:
        f()

def second_item():
    items = stream.remote()
    next(items)
    next(items)

def awaits(ref):
    async def it():
        await ref
    asyncio.run(it())

def waits(ref, actor):
    return {
        "get": lambda: ray.get(ref),
        "get with a timeout": lambda: ray.get([ref], timeout=100),
        "wait": lambda: ray.wait([ref], timeout=100),
        "future": lambda: ref.future().result(100),
        "await": lambda: awaits(ref),
        "an actor's call": lambda: ray.get(actor.nap.remote()),
        "the next item": second_item,
        "tasks": lambda: endlessly(lambda: ray.get([double.remote(i) for i in range(50)])),
        "calls": lambda: endlessly(lambda: ray.get(adder.add.remote(1))),
        "puts": lambda: endlessly(lambda: ray.put(bytes(rng.randrange(1 << 20)))),
        "resources": lambda: endlessly(ray.available_resources),
        "new actors": lambda: endlessly(lambda: ray.get(Actor.remote().add.remote(1))),
        "a group": lambda: ray.get(ray.util.placement_group([{"CPU": 2}]).ready(), timeout=100)
        and endlessly(lambda: time.sleep(0.01) or ray.put(1)),
    }

def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

worst, last, kinds = 0.0, 0.0, {}
for round_ in range(%r):
    for name in os.listdir(HERE):
        if name.startswith("child"):
            os.unlink(os.path.join(HERE, name))
    node = begin(object_store_memory=256 << 20)["node_pid"]
    refs = [never.remote(i) for i in range(2)]
    adder = Actor.remote()
    raised = {}
    def one(name, call):
        try:
            raised[name] = ("nothing", repr(call()), time.monotonic())
        except BaseException as e:
            raised[name] = (type(e).__name__, str(e), time.monotonic())
    calls = waits(refs[0], Actor.remote())
    threads = [threading.Thread(target=one, args=pair, daemon=True) for pair in calls.items()]
    for t in threads: t.start()
    if round_ %% 3:
        limit = time.monotonic() + 20
        while not all(os.path.exists(f"{HERE}/child{i}") for i in range(2)):
            assert time.monotonic() < limit
            time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.3))       # the moment is the point
    early = dict(raised)
    begun = time.monotonic()
    os.kill(node, signal.SIGKILL)
    for t in threads: t.join(max(0, begun + 30 - time.monotonic()))
    for name in calls:
        if name in early:
            say(early=[name, *early[name]])
        elif name not in raised:
            say(waits=name)
            os._exit(3)
        else:
            kind, text, at = raised[name]
            kinds.setdefault(kind, text)
            if not ("NodeDiedError" == kind and str(node) in text and "SIGKILL" in text):
                say(unclear=[name, kind, text])
            if at - begun > worst:
                worst, which = at - begun, name
    pids = [int(n) for f in os.listdir(HERE) if f.startswith("child") and "." not in f
            for n in open(os.path.join(HERE, f)).read().split()]
    while [p for p in pids if alive(p)] and time.monotonic() < begun + 20:
        time.sleep(0.002)
    last = max(last, time.monotonic() - begun)
    del refs, adder, calls, threads
    ray.shutdown()
say(worst=worst, which=which, last=last, kinds=kinds)
"""


@sizes(600, short={"drivers": 1, "rounds": 4}, full={"drivers": 10, "rounds": 10})
def test_node_sigkill(driver, figures, size):
    worst = gone = 0.0
    for i in range(size.drivers):
        d = driver(NODE % (i, size.rounds))
        seconds = d.said("worst", 10.0 + 30.0 * size.rounds)
        for bad in ("early", "waits", "unclear"):
            assert not d.has_said(bad), d.said(bad)
        assert seconds < patience(2.0), d.said("which")
        assert d.said("last") < patience(2.0)
        worst, gone = max(worst, seconds), max(gone, d.said("last"))
        assert d.ended() == 0
        assert d.stderr() == ""
        d.assert_gone()
        d.clean()
    figures(
        kills=size.drivers * size.rounds,
        calls_waiting_each=13,
        slowest_error_s=worst,
        slowest_all_gone_s=gone,
    )


STARTING = """
from pyray.exceptions import SessionError
import random
rng = random.Random(%r)

def children():
    found = []
    for thread in os.listdir("/proc/self/task"):
        try:
            found += open(f"/proc/self/task/{thread}/children").read().split()
        except OSError:
            pass
    return [int(n) for n in found]

def kill_soon(seconds):
    while not children():
        time.sleep(0.0002)
    time.sleep(seconds)
    for pid in children():
        os.kill(pid, signal.SIGKILL)

raised = {}
slowest = 0.0
for round_ in range(%r):
    thread = threading.Thread(target=kill_soon, args=(rng.uniform(0.0, 0.12),))
    thread.start()
    begun = time.monotonic()
    try:
        ray.init(num_cpus=2, object_store_memory=64 << 20)
        while True:
            ray.get([double.remote(i) for i in range(10)])
    except SessionError as e:
        kind, text = type(e).__name__, str(e)
    slowest = max(slowest, time.monotonic() - begun)
    thread.join()
    raised[kind] = raised.get(kind, 0) + 1
    if "SIGKILL" not in text:
        say(unclear=text)
    ray.shutdown()
begin(object_store_memory=64 << 20)
say(value=ray.get(double.remote(21)), raised=raised, slowest=slowest)
"""


@sizes(300, short={"rounds": 8}, full={"rounds": 150})
def test_node_sigkill_while_it_starts(driver, figures, size):
    """A clear error, at the init or at what came after it; and the next init works."""
    d = driver(STARTING % (18, size.rounds))
    assert d.said("value", 20 + 2.0 * size.rounds) == 42
    assert not d.has_said("unclear"), d.said("unclear")
    assert d.said("slowest") < patience(2.0)
    assert d.ended() == 0
    assert d.stderr() == ""
    gone = d.assert_gone()
    figures(
        kills=size.rounds,
        raised=d.said("raised"),
        slowest_error_s=d.said("slowest"),
        all_gone_s=gone,
    )
