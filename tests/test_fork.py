"""Processes forked by user code, from a driver or a task: they neither use nor harm the session."""

import os
import signal

import pytest
from fault_drivers import GONE, alive
from fault_helpers import wait_until
from helpers import patience

START = """
import gc, multiprocessing
from pyray._core import store
def what_it_raises(f, *args, **kwargs):
    try:
        value = f(*args, **kwargs)
    except BaseException as e:
        return [type(e).__name__, str(e)]
    return ["nothing", repr(value)[:100]]
def used():
    return store.object_stats()["used"]
def in_child(f):
    "What f returns in a forked child, and the child's exit status."
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r)
        os.write(w, json.dumps(f()).encode())
        os._exit(0)
    os.close(w)
    data = b""
    while more := os.read(r, 65536):
        data += more
    os.close(r)
    return json.loads(data) if data else None, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
begin(object_store_memory=200 << 20)
ref = ray.put([1, 2, 3])
block = ray.put(bytes(10 << 20))
done = double.remote(4)
escaped = double.remote(ref)
ray.get([ref, done, escaped])
"""
GOES_ON = """
assert ray.is_initialized()
assert ray.get(ref) == [1, 2, 3] and ray.get(done) == 8 and ray.get(escaped) == [1, 2, 3] * 2
assert len(ray.get(block)) == 10 << 20
assert ray.get([double.remote(i) for i in range(100)], timeout=10) == list(range(0, 200, 2))
assert ray.get(double.remote(ref), timeout=10) == [1, 2, 3] * 2
say(goes_on=1)
"""


def assert_goes_on(d):
    assert d.said("goes_on", 30)
    assert d.ended() == 0
    d.assert_gone()


def test_every_call_in_a_child_is_a_clear_error(driver):
    d = driver(
        START
        + """
never = ray.remote(lambda: time.sleep(1000)).options(num_cpus=0).remote()
def calls():
    import pickle
    return [ray.is_initialized()] + [what_it_raises(f) for f in (
        lambda: ray.get(done), lambda: ray.get([done]), lambda: ray.get(never),
        lambda: ray.wait([done]), lambda: ray.wait([never], timeout=1), lambda: ray.put(1),
        lambda: double.remote(1), lambda: double.options(num_cpus=2).remote(1),
        lambda: ray.remote(lambda: 1).remote(), lambda: ray.available_resources(),
        lambda: ray.cluster_resources(), lambda: ray.arrow_stream(done),
        lambda: pickle.dumps(done), lambda: ray.init(), lambda: ray.init(ignore_reinit_error=True),
    )]
result, status = in_child(calls)
say(result=result, status=status)
"""
        + GOES_ON
    )
    initialized, *errors = d.said("result")
    assert d.said("status") == 0
    assert initialized is False
    for i, (kind, text) in enumerate(errors):
        assert kind == "SessionError", (i, text)
        assert "fork" in text, (i, text)
    assert_goes_on(d)


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)", "raise SystemExit", "1/0", ""])
def test_the_end_of_a_child_ends_nothing_else(driver, end):
    d = driver(
        START
        + f"""
before = used()
def child():
    global ref, block, done, escaped
    views = ray.session and None
    ray.shutdown()
    del ref, block, done, escaped
    gc.collect()
pid = os.fork()
if pid == 0:
    sys.stderr = open(os.devnull, "w")
    child()
    {end or "exec('')"}
else:
    say(status=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), same=used() == before)
    {GOES_ON.strip().replace(chr(10), chr(10) + "    ")}
"""
    )
    assert d.said("status") == (1 if end == "1/0" else 0)
    assert d.said("same")
    assert_goes_on(d)


def test_a_child_of_a_child(driver):
    d = driver(
        START
        + """
def grandchild():
    return what_it_raises(ray.get, done)
say(result=in_child(lambda: in_child(grandchild)))
"""
        + GOES_ON
    )
    (inner, status), outer_status = d.said("result")
    assert inner[0] == "SessionError"
    assert (status, outer_status) == (0, 0)
    assert_goes_on(d)


def test_views_that_a_child_inherits_stay_readable(driver):
    d = driver(
        START
        + """
import numpy as np
array = ray.get(ray.put(np.arange(100_000)))
def child():
    total = int(array.sum())
    globals().pop("array")
    gc.collect()
    return total
say(result=in_child(child))
assert int(array.sum()) == 4999950000
"""
        + GOES_ON
    )
    assert d.said("result") == [4999950000, 0]
    assert_goes_on(d)


def test_a_fork_while_a_thread_waits(driver):
    d = driver(
        START
        + """
@ray.remote
def slow():
    while not os.path.exists(HERE + "/go"):
        time.sleep(0.005)
    return 7
later = slow.remote()
got = []
thread = threading.Thread(target=lambda: got.append(ray.get(later, timeout=20)))
thread.start()
results = [in_child(lambda: what_it_raises(ray.get, later)[0]) for _ in range(5)]
pathlib.Path(HERE, "go").touch()
thread.join()
say(results=results, got=got)
"""
        + GOES_ON
    )
    assert d.said("results") == [["SessionError", 0]] * 5
    assert d.said("got") == [7]
    assert_goes_on(d)


@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), 9)", "os._exit(0)", "ray.shutdown(); os._exit(0)"]
)
def test_a_child_that_outlives_the_driver_keeps_nothing_alive(driver, end):
    """It has the descriptors of the driver's sockets, so the node cannot go by end-of-file."""
    d = driver(
        START
        + f"""
pid = os.fork()
if pid == 0:
    os.close(1)
    time.sleep(1000)
say(child=pid)
{end}
"""
    )
    child = d.said("child")
    d.spared.add(child)
    d.ended()
    d.assert_gone()
    assert alive(child)


def test_multiprocessing_in_a_driver(driver):
    d = driver(
        START
        + """
def square(x):
    return x * x
def use_pyray(x):
    return what_it_raises(ray.get, done)[0]
context = multiprocessing.get_context("fork")
with context.Pool(2) as pool:
    say(squares=pool.map(square, range(10)), errors=pool.map(use_pyray, range(4)))
process = context.Process(target=square, args=(1,))
process.start()
process.join(10)
say(code=process.exitcode, raised=what_it_raises(double.remote, 1)[0])
"""
        + GOES_ON
    )
    assert d.said("squares") == [x * x for x in range(10)]
    assert d.said("errors") == ["SessionError"] * 4
    assert d.said("code") == 0
    assert d.said("raised") == "nothing"
    assert_goes_on(d)


def test_a_session_of_its_own_in_a_spawned_child(driver):
    d = driver(
        START
        + """
code = "import pyray as r; r.init(num_cpus=1); print(r.get(r.remote(lambda: 5).remote()))"
out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
say(out=out.stdout, err=out.stderr)
"""
        + GOES_ON
    )
    assert (d.said("out"), d.said("err")) == ("5\n", "")
    assert_goes_on(d)


# ---- in tasks ----------------------------------------------------------------------------------


CHILD_ENDS = [
    "os._exit(0)",
    "sys.exit(0)",
    "raise ValueError('in the child')",
    "return 'the child'",
    "return ray.put(1)",
    "os.kill(os.getpid(), 9)",
    "return [done, what_it_raises(double.remote, 1)]",
]


@pytest.mark.parametrize(
    ("options", "end"),
    [
        *(("", end) for end in CHILD_ENDS),
        *(("num_cpus=2", end) for end in CHILD_ENDS[1:4]),
        *(pytest.param("num_cpus=2", end, marks=pytest.mark.slow) for end in CHILD_ENDS[4:]),
    ],
)
def test_a_task_that_forks_gives_the_parents_result(driver, end, options):
    d = driver(
        START
        + f"""
@ray.remote(max_retries=0)
def forks(i, ids):
    mine = ray.put(bytes(100_000))
    pid = os.fork()
    if pid == 0:
        {end}
    os.waitpid(pid, 0)
    return [i, os.getpid(), len(ray.get(mine)), ray.get(ids[0])]
f = forks.options({options})
from pyray import session
get = lambda: [ray.get(f.remote(i, [done]), timeout=10) for i in range(10)]
results = get()
pids = [w["pid"] for w in session.current().call("workers")]
say(results=[[i, pid in pids, size, eight] for i, pid, size, eight in results])
"""
        + GOES_ON
    )
    assert d.said("results") == [[i, True, 100_000, 8] for i in range(10)]
    assert_goes_on(d)


def test_calls_in_a_child_of_a_task(driver):
    d = driver(
        START
        + """
@ray.remote
def forks(ids):
    mine = ray.put(2)
    return in_child(lambda: [what_it_raises(f) for f in (
        lambda: ray.get(mine), lambda: ray.get(ids[0]), lambda: ray.put(1),
        lambda: double.remote(1), lambda: ray.wait(ids), lambda: ray.available_resources(),
        lambda: double.options(num_cpus=0.25).remote(1),
    )])
say(results=ray.get(forks.remote([done]), timeout=10))
"""
        + GOES_ON
    )
    errors, status = d.said("results")
    assert status == 0
    assert [kind for kind, _ in errors] == ["SessionError"] * 7
    assert_goes_on(d)


def test_multiprocessing_in_a_task(driver):
    d = driver(
        START
        + """
pathlib.Path(HERE, "squares.py").write_text("def square(x): return x * x")
@ray.remote
def with_pool(kind):
    import squares
    with multiprocessing.get_context(kind).Pool(2) as pool:
        return pool.map(squares.square, range(5))
@ray.remote
def with_subprocess():
    return subprocess.run(["echo", "hello"], capture_output=True, text=True).stdout
say(fork=ray.get([with_pool.remote("fork") for _ in range(4)], timeout=20),
    spawn=ray.get(with_pool.remote("spawn"), timeout=20),
    subprocess=ray.get(with_subprocess.remote(), timeout=10))
"""
        + GOES_ON
    )
    assert d.said("fork") == [[0, 1, 4, 9, 16]] * 4
    assert d.said("spawn") == [0, 1, 4, 9, 16]
    assert d.said("subprocess") == "hello\n"
    assert_goes_on(d)


def test_a_child_of_a_task_that_lives_on(driver):
    """It does not hold up the task or the session, and goes with the session."""
    d = driver(
        START
        + """
@ray.remote
def forks():
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
    return pid
say(pids=ray.get([forks.remote() for _ in range(3)], timeout=10))
"""
        + GOES_ON
        + "\nray.shutdown()\nsay(over=1)\nsys.stdout.close()\ntime.sleep(60)"
    )
    pids = d.said("pids")
    assert all(alive(pid) for pid in pids) or d.said("over")
    d.said("over", 30)
    d.spared.add(d.pid)
    wait_until(lambda: not [p for p in pids if alive(p)], patience(GONE), "the children's end")
    d.assert_gone()
    os.kill(d.pid, signal.SIGKILL)


def test_a_dead_worker_whose_forked_child_lives(driver):
    """The child has the worker's pipes and its place in memory, but is not the worker."""
    d = driver(
        START
        + """
@ray.remote(max_retries=0)
def forks():
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
    os.kill(os.getpid(), 9)
say(errors=[what_it_raises(ray.get, forks.remote(), timeout=10) for _ in range(3)])
"""
        + GOES_ON
    )
    assert [kind for kind, _ in d.said("errors")] == ["WorkerCrashedError"] * 3
    assert_goes_on(d)
