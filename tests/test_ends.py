"""However a session ends: nothing of it is left two seconds later."""

import os
import signal
import subprocess
import sys

import pytest
from fault_drivers import GONE, alive, in_wait
from fault_helpers import wait_until
from helpers import patience

SLOW = pytest.mark.slow


# Both workers run tasks that never end and have children; 200 MB of objects.
BUSY = """
@ray.remote
def busy(i):
    kept = ray.put(bytes(20 << 20))
    a = subprocess.Popen(["sleep", "1000"])
    b = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    shell = subprocess.Popen(["sh", "-c", "trap '' TERM HUP INT; sleep 1001; sleep 1002"])
    pathlib.Path(HERE, f"pids{i}.part").write_text(f"{os.getpid()} {a.pid} {b.pid} {shell.pid}")
    os.rename(f"{HERE}/pids{i}.part", f"{HERE}/pids{i}")
    while i:
        pass
    time.sleep(1000)

begin(object_store_memory=300 << 20)
refs = [busy.remote(i) for i in range(2)]
blocks = [ray.put(os.urandom(1 << 20) * 50) for _ in range(4)]
queued = [double.remote(i) for i in range(1000)]
limit = time.monotonic() + 20
while not all(os.path.exists(f"{HERE}/pids{i}") for i in range(2)):
    assert time.monotonic() < limit
    time.sleep(0.005)
say(pids=[int(n) for i in range(2) for n in open(f"{HERE}/pids{i}").read().split()])
"""

ENDS = {
    "shutdown": ("ray.shutdown(); say(done=1); sys.stdin.read(); time.sleep(60)", None),
    "the end of the script": ("", 0),
    "an uncaught exception": ("raise RuntimeError('the driver goes down')", 1),
    "os._exit": ("os._exit(7)", 7),
    "abort": (
        "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()",
        -signal.SIGABRT,
    ),
    "SIGKILL to itself": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "an exception in a thread's get": (
        "threading.Thread(target=ray.get, args=(refs,), daemon=True).start(); time.sleep(0.2); 1/0",
        1,
    ),
    "exec of another program": ("os.execvp('true', ['true'])", 0),
}


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_after(driver, end):
    code, status = ENDS[end]
    d = driver(BUSY + code)
    pids = d.said("pids")
    assert len(pids) == 8
    if status is None:
        d.said("done")
        d.spared.add(d.pid)
    else:
        assert d.ended() == status
    d.assert_gone()
    assert not [pid for pid in pids if alive(pid)]


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("in get", signal.SIGKILL),
        ("in get", signal.SIGTERM),
        ("in put", signal.SIGKILL),
        ("in put", signal.SIGINT),
        *(pytest.param("in get", s, marks=SLOW) for s in (signal.SIGHUP, signal.SIGINT)),
        *(pytest.param("in put", s, marks=SLOW) for s in (signal.SIGHUP, signal.SIGTERM)),
    ],
)
def test_nothing_is_left_after_the_driver_is_killed(driver, number, where):
    loop = "ray.get(refs)" if where == "in get" else "while True: ray.put(bytes(30 << 20))"
    d = driver(BUSY + "say(now=1)\n" + loop)
    pids = d.said("pids")
    d.said("now")
    if where == "in get":
        wait_until(lambda: in_wait(d.pid), what="the driver's wait")
    os.kill(d.pid, number)
    assert d.ended(patience(GONE)) in (-number, 1 if number == signal.SIGINT else -number)
    d.assert_gone()
    assert not [pid for pid in pids if alive(pid)]


def test_the_drivers_process_group_is_killed(driver):
    d = driver(BUSY + "ray.get(refs)")
    d.said("pids")
    os.killpg(d.pid, signal.SIGKILL)
    d.ended()
    d.assert_gone()


def test_stopped_workers_go_too(driver):
    d = driver(BUSY + "ray.get(refs)")
    for pid in d.said("pids"):
        os.kill(pid, signal.SIGSTOP)
    os.kill(d.pid, signal.SIGKILL)
    d.ended()
    d.assert_gone()


def test_a_flood_of_tasks_does_not_hold_up_the_end(driver):
    d = driver("""
begin()
@ray.remote
def nap(i):
    time.sleep(0.01)
refs = [nap.remote(i) for i in range(100_000)]
say(start=time.monotonic())
ray.shutdown()
say(took=time.monotonic())
""")
    assert d.said("took") - d.said("start") < patience(GONE)
    assert d.ended() == 0
    d.assert_gone()


def test_output_of_the_last_moment_arrives(driver):
    d = driver("""
begin()
@ray.remote
def talk():
    print("last words")
    print("to stderr", file=sys.stderr)
ray.get(talk.remote())
""")
    assert d.ended() == 0
    d.assert_gone()
    assert [line for line in d.lines if line.endswith("last words") and "(talk pid=" in line]
    assert "to stderr" in d.stderr()


def test_no_threads_or_descriptors_are_left_by_a_session(driver):
    d = driver("""
def state():
    return sorted(os.listdir("/proc/self/fd")), threading.active_count()
begin(object_store_memory=64 << 20)
ray.get(double.remote(1))
ray.shutdown()
first = state()
for i in range(5):
    ray.init(num_cpus=2, object_store_memory=64 << 20)
    assert ray.get(double.remote(i)) == 2 * i
    ray.shutdown()
    assert not ray.is_initialized()
assert state() == first, (state(), first)
assert "memfd:pyray" not in open("/proc/self/maps").read()
say(fine=1)
""")
    assert d.said("fine", 40)
    assert d.ended() == 0
    assert d.stderr() == ""
    d.assert_gone()


def test_two_sessions_in_two_processes_do_not_meet(driver):
    one, two = driver(BUSY + "ray.get(refs)"), driver(BUSY + "ray.get(refs)")
    one.said("pids")
    pids = two.said("pids")
    assert one.inode != two.inode
    os.kill(one.pid, signal.SIGKILL)
    one.ended()
    one.assert_gone()
    assert all(alive(pid) for pid in pids)
    os.kill(two.pid, signal.SIGTERM)
    two.ended()
    two.assert_gone()


# ---- starts that cannot succeed ----------------------------------------------------------------

REFUSED = """
try:
    begin(object_store_memory=64 << 20)
except Exception as e:
    assert not ray.is_initialized()
    say(kind=type(e).__name__, text=str(e), children=len(os.listdir("/proc/self/task")))
else:
    try:
        say(kind="", text="", value=ray.get(double.remote(21), timeout=10))
    except Exception as e:
        say(kind=type(e).__name__, text=str(e), value=None)
"""
AGAIN = """
sys.executable = executable
os.environ.pop("PYTHONHOME", None)
begin(object_store_memory=64 << 20)
say(value=ray.get(double.remote(21), timeout=10))
"""


@pytest.mark.parametrize(
    "before",
    [
        "sys.executable = '/nonexistent/python'",
        "sys.executable = ''",
        "sys.executable = '/bin/false'",
        "sys.executable = HERE",
        "os.environ['PYTHONHOME'] = '/nonexistent'",
    ],
)
def test_a_node_that_cannot_start_is_a_clear_error(driver, before):
    d = driver("executable = sys.executable\n" + before + REFUSED + AGAIN)
    assert d.said("kind", 15) == "SessionError"
    assert "node process" in d.said("text")
    assert d.said("value") == 42  # the next init works
    assert d.ended() == 0
    d.assert_gone()


@pytest.mark.slow
@pytest.mark.seconds(90)
def test_a_node_that_never_answers_is_a_clear_error(driver, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexec sleep 1000\n")
    fake.chmod(0o755)
    d = driver(f"executable, sys.executable = sys.executable, {str(fake)!r}" + REFUSED + AGAIN)
    assert d.said("kind", 45) == "SessionError"
    assert "30 s" in d.said("text")
    assert d.said("value") == 42
    d.ended()
    d.assert_gone()


SPACE = "needs address space by the terabyte"
LIMIT = "import resource; resource.setrlimit(resource.{}, ({n}, {n}))"


@pytest.mark.parametrize(
    "before",
    [
        *[LIMIT.format("RLIMIT_NOFILE", n=n) for n in (8, 16, 24, 64)],
        *[
            pytest.param(LIMIT.format("RLIMIT_AS", n=n << 20), marks=pytest.mark.no_asan(SPACE))
            for n in (100, 3000)
        ],
        "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')",
        "for fd in (0, 1, 2): os.close(fd)\nsys.stdout = open(f'{HERE}/out', 'w', 1)",
    ],
)
def test_a_bad_place_to_start_in_works_or_is_a_clear_error(driver, before):
    d = driver(before + REFUSED + "ray.shutdown()\nos._exit(0)")
    assert d.ended(25) == 0
    if (d.folder / "out").exists():
        d.hear((d.folder / "out").read_text())
    assert d.said("kind") in ("", "SessionError", "OSError", "MemoryError")
    if d.said("kind"):
        assert d.said("text")
    else:
        assert d.said("value") == 42
    d.assert_gone()


@pytest.mark.parametrize(
    "env",
    [
        {"HOME": None, "TMPDIR": None},
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
        {"HOME": "/proc", "TMPDIR": "/proc/1"},
        {"PATH": ""},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
    ],
    ids=str,
)
def test_unusual_environments_work(driver, env):
    d = driver(REFUSED, env=env)
    assert d.said("kind") == "", d.said("text")
    assert d.said("value") == 42
    assert d.ended() == 0
    d.assert_gone()


def test_files_named_like_modules_do_not_get_in_the_way(driver, tmp_path):
    for name in ("random", "selectors", "socket", "pickle", "multiprocessing", "cloudpickle"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not the real one')")
    d = driver("os.chdir('..')" + REFUSED, cwd=tmp_path)
    assert d.said("value") == 42
    assert d.ended() == 0
    d.assert_gone()


def test_a_store_that_cannot_be_mapped_leaves_nothing(driver):
    d = driver("""
try:
    ray.init(object_store_memory=1 << 46)
except Exception as e:
    say(kind=type(e).__name__, text=str(e))
say(children=[open(f"/proc/self/task/{t}/children").read() for t in os.listdir("/proc/self/task")])
begin()
say(value=ray.get(double.remote(21), timeout=10))
""")
    assert d.said("kind") in ("MemoryError", "OSError", "SessionError")
    assert "bytes" in d.said("text")
    assert "".join(d.said("children")).strip() == ""
    assert d.said("value") == 42
    assert d.ended() == 0
    d.assert_gone()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
def test_a_driver_without_standard_streams(tmp_path, closed):
    script = tmp_path / "script.py"
    script.write_text(
        "import pyray as ray, os\n"
        "value = ray.get(ray.remote(lambda: 42).remote())\n"
        "os.write(os.open('out', os.O_CREAT | os.O_WRONLY), str(value).encode())\n"
    )
    line = f"exec {sys.executable} script.py {closed}"
    run = subprocess.run(["sh", "-c", line], cwd=tmp_path, timeout=30, stderr=subprocess.PIPE)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out").read_text() == "42"
