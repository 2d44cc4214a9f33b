"""init, shutdown, what they take and refuse, and that they leave nothing."""

from __future__ import annotations

import json
import os
import threading
import time

import helpers
import numpy as np
import pytest

import pyray
from pyray import exceptions
from pyray.api import processes


def test_every_public_name_is_there():
    for name in pyray.__all__:
        assert getattr(pyray, name) is not None
    assert pyray.ObjectRef is pyray.ObjectID
    for name in exceptions.__all__:
        assert issubclass(getattr(exceptions, name), BaseException)
    assert exceptions.RayTaskError is exceptions.TaskError
    assert issubclass(exceptions.GetTimeoutError, TimeoutError)


def test_init_tells_what_it_made_and_shutdown_ends_it():
    assert not pyray.is_initialized()
    info = pyray.init(num_cpus=3, num_gpus=1, object_store_memory=64 << 20)
    assert pyray.is_initialized()
    assert (info["num_cpus"], info["num_gpus"], info["address"]) == (3, 1, "local")
    assert 64 << 20 <= info["object_store_memory"] < (64 << 20) + (1 << 20)
    assert helpers.process_state(info["node_pid"])[1] == os.getpid()
    helpers.wait_until(lambda: len(processes()) == 5, what="driver, node and three workers")
    pids = processes()
    assert pids[:2] == [os.getpid(), info["node_pid"]]
    pyray.shutdown()
    assert not pyray.is_initialized()
    assert not [p for p in pids[1:] if helpers.alive(p)]
    pyray.shutdown()
    pyray.shutdown()


def test_init_as_a_context_manager():
    with pyray.init(num_cpus=1) as context:
        assert context["num_cpus"] == context.address_info["num_cpus"] == 1
        assert context["node_id"] == pyray.get_runtime_context().get_node_id()
        assert pyray.get(pyray.put(context)) == context
    assert not pyray.is_initialized()
    context.disconnect()


def test_second_init_is_an_error_unless_told_to_ignore_it(ray):
    first = ray.init(ignore_reinit_error=True)
    with pytest.raises(exceptions.SessionError, match="ignore_reinit_error"):
        ray.init()
    again = ray.init(num_cpus=1, ignore_reinit_error=True)
    assert again == first
    assert ray.cluster_resources()["CPU"] == 2


@pytest.mark.parametrize("options", [{"address": "local"}, {"address": "auto"}, {}])
def test_addresses_that_mean_this_machine(options):
    assert pyray.init(**options, num_cpus=1)["address"] == "local"


def test_cluster_only_options_are_accepted():
    pyray.init(
        num_cpus=1,
        include_dashboard=False,
        dashboard_host="127.0.0.1",
        dashboard_port=8265,
        job_config=None,
        configure_logging=True,
        logging_format="x",
        runtime_env={},
        namespace="n",
        _temp_dir="/tmp",
        _system_config={},
    )
    assert pyray.get(pyray.put(1)) == 1


def test_memory_to_hand_out():
    pyray.init(num_cpus=1, _memory=1 << 30)
    assert pyray.cluster_resources()["memory"] == 1 << 30


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"runtime_env": {"pip": ["x"]}}, ValueError, "pip"),
        ({"runtime_env": {"env_vars": {"A": 1}}}, TypeError, "env_vars"),
        ({"runtime_env": "x"}, TypeError, "runtime_env"),
        ({"num_cpu": 1}, TypeError, "num_cpu"),
        ({"num_cpus": -1}, ValueError, "num_cpus"),
        ({"num_cpus": 257}, ValueError, "256"),
        ({"num_cpus": "2"}, TypeError, "num_cpus"),
        ({"num_cpus": 1.5}, TypeError, "num_cpus"),
        ({"num_cpus": True}, TypeError, "num_cpus"),
        ({"num_gpus": -1}, ValueError, "num_gpus"),
        ({"object_store_memory": 0}, ValueError, "object_store_memory"),
        ({"object_store_memory": 1e9}, TypeError, "object_store_memory"),
        ({"resources": {"CPU": 1}}, ValueError, "num_cpus"),
        ({"resources": {"x": -1}}, ValueError, "'x'"),
        ({"resources": {"x": float("nan")}}, ValueError, "'x'"),
        ({"resources": {"x": "1"}}, TypeError, "'x'"),
        ({"resources": {3: 1}}, TypeError, "3"),
        ({"resources": ["x"]}, TypeError, "resources"),
        ({"address": "10.0.0.1:6379"}, ValueError, "10.0.0.1"),
        ({"logging_level": "LOUD"}, ValueError, "LOUD"),
    ],
)
def test_bad_options_of_init_are_named_and_begin_nothing(options, error, text):
    with pytest.raises(error, match=text):
        pyray.init(**options)
    assert not pyray.is_initialized()
    assert helpers.descendants() == []


def test_options_after_address_are_keywords():
    with pytest.raises(TypeError):
        pyray.init("local", 2)


@pytest.mark.parametrize("first", ["put", "remote", "cluster_resources", "available_resources"])
def test_first_use_begins_a_session(first):
    if first == "put":
        assert pyray.get(pyray.put("x")) == "x"
    elif first == "remote":
        assert pyray.get(pyray.remote(lambda: "x").remote()) == "x"
    else:
        assert getattr(pyray, first)()["CPU"] >= 1
    assert pyray.is_initialized()


def test_defining_and_asking_begin_no_session():
    @pyray.remote(num_cpus=2)
    def f():
        return 1

    f.options(num_returns=2)
    assert pyray.get_gpu_ids() == []
    pyray.shutdown()
    assert not pyray.is_initialized()
    assert helpers.descendants() == []


def test_remote_functions_and_options_outlive_a_session():
    @pyray.remote
    def f(x):
        return x + 1

    two = f.options(num_cpus=2)
    for cpus in (2, 3):
        pyray.init(num_cpus=cpus)
        assert pyray.get([f.remote(1), two.remote(2)]) == [2, 3]
        pyray.shutdown()


def test_ids_of_a_session_that_is_over_are_refused():
    pyray.init(num_cpus=1)
    old = pyray.put(1)
    task = pyray.remote(lambda x: x)
    pyray.shutdown()
    text = repr(old)
    for again in (False, True):
        if again:
            pyray.init(num_cpus=1)
            with pytest.raises(exceptions.SessionError, match="shut down"):
                pyray.get(old)
            with pytest.raises(exceptions.SessionError, match="shut down"):
                task.remote(old)
            with pytest.raises(exceptions.SessionError, match="shut down"):
                pyray.wait([old])
            with pytest.raises(exceptions.PyrayError, match="shut down"):
                pyray.put([old])
        assert repr(old) == text
        assert old == old and hash(old) == hash(old)


def test_shutdown_ends_running_tasks_at_once(ray, gate):
    @ray.remote
    def stuck():
        gate.wait(30)

    refs = [stuck.options(num_cpus=0).remote() for _ in range(3)]
    ray.wait(refs, timeout=0.05)
    start = time.monotonic()
    ray.shutdown()
    assert time.monotonic() - start < helpers.patience(1)


def test_shutdown_in_a_task_is_an_error(ray):
    @ray.remote
    def f():
        ray.shutdown()

    with pytest.raises(exceptions.SessionError, match="driver"):
        ray.get(f.remote())
    assert ray.get(ray.remote(lambda: 1).remote()) == 1


def test_init_in_a_task_is_an_error_or_ignored(ray):
    @ray.remote
    def f(ignore):
        ray.init(ignore_reinit_error=ignore)
        return ray.is_initialized()

    with pytest.raises(exceptions.SessionError):
        ray.get(f.remote(False))
    assert ray.get(f.remote(True))


def test_shutdown_while_a_thread_waits(ray, gate):
    ref = ray.remote(lambda: gate.wait(5)).remote()
    caught = []

    def wait():
        try:
            ray.get(ref)
        except exceptions.SessionError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    ray.wait([ref], timeout=0.05)
    ray.shutdown()
    thread.join(5)
    assert not thread.is_alive()
    assert caught


def test_views_outlive_the_session(ray):
    view = ray.get(ray.put(np.arange(100_000)))
    ray.shutdown()
    assert int(view.sum()) == 99_999 * 50_000
    assert helpers.store_mappings()
    del view
    assert not helpers.store_mappings()


@pytest.mark.slow
@pytest.mark.seconds(120)
def test_init_and_shutdown_a_hundred_times():
    @pyray.remote
    def f(x):
        return x

    def once(i):
        pyray.init(num_cpus=1, object_store_memory=8 << 20)
        assert pyray.get(f.remote(pyray.put([i]))) == [i]
        pyray.shutdown()

    for i in range(5):
        once(i)
    fds, memory = helpers.open_fds(), helpers.resident()
    with open("/proc/self/maps") as f_maps:
        maps = len(f_maps.readlines())
    for i in range(95):
        once(i)
    assert set(helpers.open_fds()) == set(fds)
    assert threading.active_count() <= 3
    with open("/proc/self/maps") as f_maps:
        assert len(f_maps.readlines()) - maps < 20
    assert helpers.resident() - memory < 8 << 20


SESSION = """
import pickle, sys
import pyray as ray
ray.init(num_cpus=1)
ref = ray.put([7])
print(pickle.dumps([ref]).hex(), flush=True)
other = sys.stdin.readline()
@ray.remote
def f(x):
    return x * 2
assert ray.get([f.remote(i) for i in range(300)]) == [2 * i for i in range(300)]
try:
    pickle.loads(bytes.fromhex(other))
except ray.exceptions.ForeignObjectError as error:
    print(type(error).__name__, "another session" in str(error))
print(ray.get(ref))
"""


def test_two_sessions_in_two_processes(ray):
    with helpers.running("-c", SESSION) as a, helpers.running("-c", SESSION) as b:
        ids = [p.stdout.readline() for p in (a, b)]
        for process, other in ((a, ids[1]), (b, ids[0])):
            process.stdin.write(other)
            process.stdin.flush()
        for process in (a, b):
            out, _ = process.communicate(timeout=30)
            assert process.returncode == 0, out
            assert out.splitlines() == ["ForeignObjectError True", "[7]"]
    assert ray.get(ray.put(1)) == 1


def test_nothing_is_left_of_a_script_that_never_shuts_down(tmp_path):
    done = helpers.run_script(
        tmp_path / "script.py",
        "import json, pyray as ray\n"
        "from pyray.api import processes\n"
        "ray.get(ray.remote(lambda: 1).remote())\n"
        "print(json.dumps(processes()))\n",
    )
    assert done.stderr == ""
    pids = json.loads(done.stdout)
    assert len(pids) >= 3
    helpers.wait_until(lambda: not any(map(helpers.alive, pids)), 2, "the session's end")


def test_a_forked_child_gets_a_clear_error(tmp_path):
    done = helpers.run_script(
        tmp_path / "script.py",
        """
import os, warnings
import numpy as np
import pyray as ray
warnings.simplefilter("ignore")   # Python's own, on forking beside threads
ray.init(num_cpus=1)
ref = ray.put(np.arange(50_000))
view = ray.get(ref)
f = ray.remote(lambda: 1)
ray.get(f.remote())
pid = os.fork()
if pid == 0:
    caught = 0
    for call in (lambda: ray.get(ref), lambda: ray.put(1), f.remote, lambda: ray.wait([ref])):
        try:
            call()
        except ray.exceptions.SessionError as error:
            caught += "forked" in str(error)
    assert not ray.is_initialized()
    ray.shutdown()
    del ref, view
    os._exit(caught)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
print(ray.get(f.remote()), int(ray.get(ref)[-1]))
""",
    )
    assert done.stdout == "1 49999\n", done.stderr
