"""pyray.util.state: what there is in the session, listed, by id, and in figures."""

from __future__ import annotations

import asyncio
import doctest
import gc
import json
import logging
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from helpers import Gate, wait_until

import pyray
from pyray import exceptions
from pyray.util import list_named_actors, state
from pyray.util.state import (
    get_actor,
    get_job,
    get_node,
    get_object,
    get_objects,
    get_placement_group,
    get_task,
    get_worker,
    list_actors,
    list_jobs,
    list_nodes,
    list_objects,
    list_placement_groups,
    list_tasks,
    list_workers,
    summarize_actors,
    summarize_objects,
    summarize_tasks,
)


def wait_for(gate: Gate, *values: object) -> int:
    gate.wait()
    return os.getpid()


def state_of(ref: pyray.ObjectRef) -> str | None:
    """The state of the one attempt at a task."""
    found = get_task(ref.task_id())
    return None if found is None else found.state


# ---- tasks -------------------------------------------------------------------------------------


def test_each_state_of_a_task(ray1, gate):
    f = ray1.remote(wait_for)
    running = f.remote(gate)
    wait_until(lambda: state_of(running) == "RUNNING", what="a running task")
    queued = f.remote(gate)
    waiting = f.remote(gate, running)
    big = f.options(num_cpus=0, resources={"none": 0}).remote(gate)
    assert state_of(queued) == "PENDING_NODE_ASSIGNMENT"
    assert state_of(waiting) == "PENDING_ARGS_AVAIL"
    found = get_task(running.task_id())
    assert found.start_time_ms and found.end_time_ms is None
    assert found.node_id == list_nodes()[0].node_id
    gate.open()
    pid = ray1.get([running, queued, waiting, big])[0]
    assert pid == found.worker_pid
    for ref in (running, queued, waiting, big):
        assert state_of(ref) == "FINISHED"
    found = get_task(running.task_id())
    assert found.worker_pid == pid
    assert found.end_time_ms >= found.start_time_ms
    assert abs(found.end_time_ms / 1000 - time.time()) < 10


def test_tasks_with_resources_wait_at_the_node(gate):
    pyray.init(num_cpus=2, resources={"disk": 1})
    f = pyray.remote(wait_for).options(resources={"disk": 1}, num_cpus=0.5)
    first, second = f.remote(gate), f.remote(gate)
    wait_until(lambda: state_of(first) == "RUNNING", what="a running task")
    assert state_of(second) == "PENDING_NODE_ASSIGNMENT"
    for ref in (first, second):
        assert get_task(ref.task_id()).required_resources == {"CPU": 0.5, "disk": 1.0}
    gate.open()
    pyray.get([first, second])


def test_the_fields_of_a_task(ray):
    ref = ray.remote(lambda: 1).options(name="mine").remote()
    ray.get(ref)
    found = get_task(ref.task_id())
    context = ray.get_runtime_context()
    assert found.task_id == ref.task_id()
    assert found.name == found.func_or_class_name == "mine"
    assert found.type == "NORMAL_TASK"
    assert found.job_id == context.get_job_id()
    assert found.node_id == context.get_node_id()
    assert found.parent_task_id == ray.put(0).task_id()
    assert (found.attempt_number, found.actor_id, found.error_type) == (0, None, None)
    assert found.language == "PYTHON"
    assert get_worker(found.worker_id).pid == found.worker_pid
    # As a record: attributes, items, a dictionary.
    assert found["state"] == found.state == found.get("state") == found.asdict()["state"]
    assert dict(found) == found.asdict()
    assert "name" in found and "nothing" not in found
    assert found.get("nothing", 7) == 7
    with pytest.raises(KeyError):
        found["nothing"]
    assert pickle.loads(pickle.dumps(found)) == found
    json.dumps(found.asdict())


def test_failures(ray1, tally):
    @ray1.remote(max_retries=1, retry_exceptions=True)
    def raises():
        tally.add()
        raise ValueError

    @ray1.remote(max_retries=1)
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    for f, error, kind in (
        (raises, ValueError, "TASK_EXECUTION_EXCEPTION"),
        (dies, exceptions.WorkerCrashedError, "WORKER_DIED"),
    ):
        ref = f.remote()
        with pytest.raises(error):
            ray1.get(ref)
        found = get_task(ref.task_id())
        assert isinstance(found, list), "one record for each attempt"
        assert [t.attempt_number for t in found] == [0, 1]
        assert {t.state for t in found} == {"FAILED"}
        assert {t.error_type for t in found} == {kind}
        assert len(list_tasks(filters=[("task_id", "=", ref.task_id())])) == 2


def test_cancelled_tasks(ray1, gate):
    f = ray1.remote(wait_for)
    running, queued = f.remote(gate), f.remote(gate)
    waiting = f.remote(gate, running)
    refs = [running, queued, waiting]
    wait_until(lambda: state_of(running) == "RUNNING", what="a running task")
    for ref in reversed(refs):
        ray1.cancel(ref)
    for ref in refs:
        with pytest.raises(exceptions.TaskCancelledError):
            ray1.get(ref)
    found = [get_task(ref.task_id()) for ref in refs]
    assert [t.state for t in found] == ["FAILED"] * 3
    assert [t.error_type for t in found] == ["TASK_CANCELLED"] * 3
    assert [t.worker_pid is None for t in found] == [False, True, True]
    gate.open()


def test_generators(ray, tmp_path):
    @ray.remote
    def count(gate, fails=False):
        yield 1
        gate.wait()
        yield [2] * 100
        if fails:
            raise ValueError

    for fails in (False, True):
        gate = Gate(tmp_path / f"gate-{fails}")
        stream = count.remote(gate, fails)
        first = next(stream)
        assert get_task(stream.task_id()).state == "RUNNING"
        assert get_object(first.hex()).state == "SEALED"
        gate.open()
        if fails:
            *rest, error = stream
            with pytest.raises(ValueError):
                ray.get(error)
        else:
            rest = list(stream)
        # As soon as the end is known here.
        found = get_task(stream.task_id())
        assert found.state == ("FAILED" if fails else "FINISHED")
        assert [ref.task_id() for ref in (first, *rest)] == [found.task_id] * 2
        assert get_object(rest[0].hex()).object_size > 100
    inner = ray.remote(num_returns="dynamic")(lambda: (i for i in range(3)))
    ref = inner.remote()
    refs = list(ray.get(ref))
    assert get_task(ref.task_id()).state == "FINISHED"
    assert {r.hex() for r in refs} <= {o.object_id for o in list_objects()}


def test_a_task_that_was_killed(ray1, gate):
    ref = ray1.remote(wait_for).remote(gate)
    wait_until(lambda: state_of(ref) == "RUNNING", what="a running task")
    ray1.cancel(ref, force=True)
    with pytest.raises(exceptions.TaskCancelledError):
        ray1.get(ref)
    found = get_task(ref.task_id())
    assert (found.state, found.error_type) == ("FAILED", "TASK_CANCELLED")
    assert found.worker_pid and found.start_time_ms


def test_a_retry_under_way(ray1, gate, tally):
    @ray1.remote(max_retries=1, retry_exceptions=True)
    def twice():
        tally.add()
        if len(tally) == 1:
            raise OSError
        gate.wait()

    ref = twice.remote()
    found = wait_until(
        lambda: isinstance(t := get_task(ref.task_id()), list) and t[1].state == "RUNNING" and t,
        what="the second attempt",
    )
    assert [t.state for t in found] == ["FAILED", "RUNNING"]
    gate.open()
    ray1.get(ref)
    assert [t.state for t in get_task(ref.task_id())] == ["FAILED", "FINISHED"]


def test_tasks_that_never_ran(ray1, gate):
    """Those whose submitter died before they began."""

    @ray1.remote(max_retries=0)
    def parent():
        return [pyray.remote(wait_for).options(name="orphan").remote(gate) for _ in range(3)], (
            os.getpid()
        )

    refs, pid = ray1.get(parent.remote())
    wait_until(
        lambda: (
            sum(t.state == "RUNNING" for t in list_tasks(filters=[("name", "=", "orphan")])) == 1
        ),
        what="the first of three",
    )
    os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: [t.error_type for t in list_tasks() if t.name == "orphan"].count("OWNER_DIED") >= 2,
        what="the end of what had not begun",
    )
    never = [t for t in list_tasks() if t.error_type == "OWNER_DIED"]
    assert all(t.worker_pid is t.start_time_ms is None for t in never)
    assert all(t.state == "FAILED" and t.end_time_ms for t in never)
    gate.open()
    del refs


def test_limits_and_order(ray1, gate, caplog):
    f = ray1.remote(lambda x: x)
    ray1.get([f.options(name="done").remote(i) for i in range(5)])
    held = ray1.remote(wait_for).remote(gate)
    wait_until(lambda: state_of(held) == "RUNNING", what="a running task")
    queued = [f.options(name="queued").remote(i) for i in range(3)]
    names = [t.name for t in list_tasks()]
    assert sorted(names[:4]) == ["queued"] * 3 + ["wait_for"], "those that have not ended first"
    assert names[4:] == ["done"] * 5
    ends = [t.end_time_ms for t in list_tasks(filters=[("state", "=", "FINISHED")])]
    assert ends == sorted(ends, reverse=True)
    with caplog.at_level(logging.WARNING, logger="pyray"):
        assert len(list_tasks(limit=9)) == 9
        assert not caplog.messages
        assert len(list_tasks(limit=8)) == 8
    assert "more than 8" in caplog.text
    gate.open()
    ray1.get(queued)


def test_filters(ray):
    f = ray.remote(lambda: 1)
    ray.get([f.options(name=name).remote() for name in "aabc"])
    assert len(list_tasks(filters=[("name", "=", "a")])) == 2
    assert len(list_tasks(filters=[("name", "!=", "a")])) == 2
    both = [("name", "!=", "a"), ("name", "!=", "b")]
    assert [t.name for t in list_tasks(filters=both)] == ["c"]
    assert list_tasks(filters=[("name", "=", "A")]) == []
    assert len(list_tasks(filters=[("state", "=", "finished")])) == 4
    assert len(list_tasks(filters=(["attempt_number", "=", 0],))) == 4
    assert len(list_tasks(filters=[("attempt_number", "=", "0")])) == 4
    assert len(list_tasks(filters=[("actor_id", "=", None)])) == 4
    assert len(list_workers(filters=[("is_alive", "=", "True")])) >= 2
    assert list_workers(filters=[("is_alive", "=", False)]) == []


BAD = [
    ({"filters": [("colour", "=", "red")]}, ValueError, "no field 'colour'"),
    ({"filters": [("pid", "<", "red")]}, ValueError, "'=' or '!='"),
    ({"filters": [("pid", "=")]}, TypeError, "a triple"),
    ({"filters": ["pid=7"]}, TypeError, "a triple"),
    ({"filters": "pid=7"}, TypeError, "list of triples"),
    ({"filters": 5}, TypeError, "list of triples"),
    ({"limit": 0}, ValueError, "1 or more"),
    ({"limit": "10"}, TypeError, "whole number"),
    ({"limit": True}, TypeError, "whole number"),
]


def test_bad_arguments(ray1):
    for arguments, error, text in BAD:
        for function in (list_actors, list_objects, list_workers):
            with pytest.raises(error, match=text):
                function(**arguments)
    with pytest.raises(ValueError, match="there are task_id, attempt_number, name, state"):
        list_tasks(filters=[("pid", "=", 7)])


def test_bad_ids(ray1):
    one = (get_task, get_actor, get_objects, get_worker, get_node, get_job, get_placement_group)
    for function in one:
        with pytest.raises(TypeError, match="hexadecimal"):
            function(None)
        assert not function("no such thing")
    assert get_object("00") is None


def test_arguments_of_rays_without_effect(ray1):
    options = {"address": "auto", "timeout": 5, "detail": True, "raise_on_missing_output": False}
    for function in (list_tasks, list_actors, list_objects, list_workers, list_nodes, list_jobs):
        function(**options)
    get_task("00", address="auto", timeout=1)


def test_from_a_task_and_an_actor(ray):
    @ray.remote
    def inside():
        me = pyray.get_runtime_context().get_task_id()
        return me, [t.task_id for t in list_tasks(filters=[("state", "=", "RUNNING")])]

    ref = inside.remote()
    me, running = ray.get(ref)
    assert me == ref.task_id()
    assert running == [me]

    @ray.remote
    class Asks:
        async def inside(self):
            me = pyray.get_runtime_context().get_task_id()
            found = await asyncio.to_thread(get_task, me)
            return found.state, found.type, len(list_actors())

    assert ray.get(Asks.remote().inside.remote()) == ("RUNNING", "ACTOR_TASK", 1)


@pytest.mark.seconds(60)
def test_while_tasks_come_and_go(ray):
    """Lists made while tasks run: each entry is whole, and none is there twice."""
    f = ray.remote(lambda x: x).options(name="busy")
    stop = threading.Event()
    ids = set()
    problems = []

    def work():
        try:
            while not stop.is_set():
                refs = [f.remote([ray.put(i)]) for i in range(20)]
                ids.update(ref.task_id() for ref in refs)
                ray.get(refs)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(12):
            found = list_tasks(limit=10**6)
            objects = list_objects(limit=10**6)
            keys = [(t.task_id, t.attempt_number) for t in found]
            assert len(keys) == len(set(keys))
            assert {t.name for t in found} <= {"busy"}
            assert {t.error_type for t in found} <= {None}
            pairs = [(o.object_id, o.pid) for o in objects]
            assert len(pairs) == len(set(pairs))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not problems
    assert {t.task_id for t in list_tasks(limit=10**6)} <= ids


# ---- actors ------------------------------------------------------------------------------------


class Counter:
    def __init__(self, *values):
        self.n = 0

    def add(self):
        self.n += 1
        return self.n

    def die(self):
        os._exit(3)

    def wait(self, gate):
        gate.wait()


def test_an_actor(ray):
    actor = ray.remote(Counter).options(name="one", resources={}, max_restarts=2).remote()
    ray.get(actor.add.remote())
    (found,) = list_actors()
    assert found.actor_id == actor._actor_id
    assert (found.class_name, found.name, found.state) == ("Counter", "one", "ALIVE")
    assert (found.ray_namespace, found.is_detached, found.num_restarts) == ("", False, 0)
    assert found.death_cause is None
    assert found.required_resources == {}
    assert found.pid in [w.pid for w in list_workers(filters=[("is_alive", "=", True)])]
    with pytest.raises(exceptions.ActorUnavailableError):
        ray.get(actor.die.remote())
    ray.get(actor.add.remote())
    again = get_actor(found.actor_id)
    assert (again.num_restarts, again.state) == (1, "ALIVE")
    assert again.pid != found.pid
    ray.kill(actor)
    dead = wait_until(
        lambda: (a := get_actor(found.actor_id)).state == "DEAD" and a, what="its death"
    )
    assert "ray.kill" in dead.death_cause["error_message"]
    assert dead.pid == 0 and dead.node_id is None


def test_states_of_actors(gate):
    pyray.init(num_cpus=1, resources={"disk": 1})
    cls = pyray.remote(Counter)
    hold = pyray.remote(wait_for).remote(gate)
    wait_until(lambda: state_of(hold) == "RUNNING", what="a running task")
    queued = cls.options(resources={"disk": 1}).remote()
    waiting = cls.remote(hold)
    assert get_actor(queued._actor_id).state == "PENDING_CREATION"
    assert get_actor(waiting._actor_id).state == "DEPENDENCIES_UNREADY"
    (made,) = list_tasks(filters=[("actor_id", "=", waiting._actor_id)])
    assert (made.state, made.type) == ("PENDING_ARGS_AVAIL", "ACTOR_CREATION_TASK")
    gate.open()
    pyray.get([queued.add.remote(), waiting.add.remote()])
    assert get_actor(queued._actor_id).state == get_actor(waiting._actor_id).state == "ALIVE"
    assert get_actor(queued._actor_id).required_resources == {"disk": 1.0}


def test_a_constructor_that_raises(ray):
    class Bad:
        def __init__(self):
            raise ValueError("no")

    actor = ray.remote(Bad).remote()
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(actor.__ray_ready__.remote())
    found = get_actor(actor._actor_id)
    assert found.state == "DEAD" and found.death_cause["error_message"]
    (made,) = list_tasks(filters=[("type", "=", "ACTOR_CREATION_TASK")])
    assert made.state == "FAILED"


def test_calls_of_actors(ray, gate):
    actor = ray.remote(Counter).remote()
    first, second = actor.wait.remote(gate), actor.add.remote()
    wait_until(lambda: state_of(first) == "RUNNING", what="a running call")
    found = get_task(second.task_id())
    assert found.state == "PENDING_NODE_ASSIGNMENT"
    assert (found.name, found.type) == ("Counter.add", "ACTOR_TASK")
    assert found.actor_id == actor._actor_id
    gate.open()
    ray.get([first, second])
    assert state_of(first) == state_of(second) == "FINISHED"
    (made,) = list_tasks(filters=[("type", "=", "ACTOR_CREATION_TASK")])
    assert (made.name, made.state) == ("Counter.__init__", "FINISHED")


def test_calls_that_an_actor_has_taken(ray, gate):
    actor = ray.remote(Counter).options(max_concurrency=2).remote()
    refs = [actor.wait.remote(gate) for _ in range(3)]
    wait_until(
        lambda: (
            sorted(map(state_of, refs))
            == ["PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY", "RUNNING", "RUNNING"]
        ),
        what="two calls at once and a third",
    )
    gate.open()
    ray.get(refs)


def test_calls_that_a_dead_actor_never_ran(ray, gate):
    actor = ray.remote(Counter).remote()
    first, second = actor.wait.remote(gate), actor.add.remote()
    wait_until(lambda: state_of(first) == "RUNNING", what="a running call")
    ray.kill(actor)
    for ref in (first, second):
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(ref)
    a, b = get_task(first.task_id()), get_task(second.task_id())
    assert a.state == b.state == "FAILED"
    assert a.error_type == b.error_type == "ACTOR_DIED"
    assert a.start_time_ms and b.start_time_ms is None


def test_named_actors():
    pyray.init(num_cpus=1, namespace="here")
    cls = pyray.remote(Counter)
    assert list_named_actors() == []
    kept = [
        cls.options(name="a").remote(),
        cls.options(name="b", lifetime="detached").remote(),
        cls.options(name="c", namespace="there").remote(),
        cls.remote(),
    ]
    assert sorted(list_named_actors()) == ["a", "b"]
    everywhere = sorted(list_named_actors(all_namespaces=True), key=lambda a: a["name"])
    assert everywhere == [
        {"name": "a", "namespace": "here"},
        {"name": "b", "namespace": "here"},
        {"name": "c", "namespace": "there"},
    ]
    spaces = {a.name: (a.ray_namespace, a.is_detached) for a in list_actors()}
    assert spaces == {
        "a": ("here", False),
        "b": ("here", True),
        "c": ("there", False),
        "": ("here", False),
    }
    del kept
    wait_until(lambda: list_named_actors() == ["b"], what="the end of those that nobody holds")


def test_named_actors_in_local_mode():
    pyray.init(local_mode=True)
    keep = pyray.remote(Counter).options(name="local").remote()
    assert list_named_actors() == ["local"]
    assert list_named_actors(True) == [{"name": "local", "namespace": ""}]
    assert pyray.get(keep.add.remote()) == 1


# ---- objects -----------------------------------------------------------------------------------

VALUES = [
    None,
    7,
    "x" * 14,
    "x" * 15,
    "x" * 40,
    "x" * 46,
    "x" * 47,
    b"x" * 500,
    list(range(1000)),
    np.arange(10_000),
]


@pytest.mark.parametrize("made", ["put", "returned", "by a task"])
def test_objects_are_known_by_their_ids(ray, made):
    """Whatever the value's size, and so its place."""
    if made == "put":
        refs = [ray.put(value) for value in VALUES]
    elif made == "returned":
        f = ray.remote(lambda x: x)
        refs = [f.remote(value) for value in VALUES]
    else:
        make = ray.remote(lambda values: [pyray.put(value) for value in values])
        refs = ray.get(make.remote(VALUES))
    ray.get(refs)
    known = {o.object_id: o for o in list_objects(filters=[("pid", "=", os.getpid())])}
    sizes = []
    for ref in refs:
        found = known[ref.hex()]
        assert get_objects(ref.hex())
        assert found.state == "SEALED" and found.task_status == "FINISHED"
        sizes.append(found.object_size)
    assert sizes == sorted(sizes)
    assert sizes[0] == 1 and sizes[-1] > 80_000


def test_many_returns_have_ids_each(ray):
    refs = ray.remote(num_returns=5)(lambda: range(5)).remote()
    ray.get(refs)
    assert {ref.hex() for ref in refs} <= {o.object_id for o in list_objects()}


def test_objects_that_are_not_there_yet(ray1, gate):
    f = ray1.remote(wait_for)
    running = f.remote(gate)
    wait_until(lambda: state_of(running) == "RUNNING", what="a running task")
    queued = f.remote(gate)
    for ref, status in ((running, "RUNNING"), (queued, "PENDING_NODE_ASSIGNMENT")):
        found = get_object(ref.hex())
        assert (found.state, found.object_size, found.task_status) == ("CREATED", 0, status)
        assert found.pid == found.owner_pid == os.getpid()
    gate.open()
    ray1.get([running, queued])
    assert get_object(queued.hex()).state == "SEALED"


def test_objects_go_with_their_last_reference(ray):
    ref = ray.put(b"x" * 5000)
    name = ref.hex()
    assert get_object(name).object_size >= 5000
    del ref
    gc.collect()
    assert get_object(name) is None


def test_who_holds_an_object_and_what_for(ray, gate):
    class Keeper:
        def keep(self, box):
            self.box = box
            return os.getpid()

    keeper = ray.remote(Keeper).remote()
    shared = ray.put(list(range(500)))
    pid = ray.get(keeper.keep.remote([shared]))
    held = {o.pid: o for o in get_objects(shared.hex())}
    assert set(held) == {os.getpid(), pid}
    assert (held[pid].type, held[os.getpid()].type) == ("WORKER", "DRIVER")
    assert held[pid].reference_type == "LOCAL_REFERENCE"
    assert {o.owner_pid for o in held.values()} == {os.getpid()}
    captured = ray.put([shared])
    assert {o.reference_type for o in get_objects(shared.hex()) if o.pid == os.getpid()} == {
        "CAPTURED_IN_OBJECT"
    }
    for arguments in ((shared,), (1, 2, shared, 4, ray.put(5))):
        pending = ray.remote(wait_for).remote(gate, *arguments)
        kinds = {o.reference_type for o in get_objects(shared.hex()) if o.pid == os.getpid()}
        assert kinds == {"USED_BY_PENDING_TASK"}
    gate.open()
    ray.get(pending)
    (handle,) = [o for o in list_objects() if o.reference_type == "ACTOR_HANDLE"]
    assert handle.object_id.startswith(keeper._actor_id)
    assert captured.hex() in {o.object_id for o in list_objects()}


def test_definitions_are_no_objects_of_the_users(ray):
    ray.get(ray.remote(lambda: 1).remote())
    assert list_objects() == []


# ---- workers, nodes, jobs ----------------------------------------------------------------------


def test_workers(ray1):
    @ray1.remote(max_retries=0)
    def die():
        os._exit(5)

    pid = ray1.get(ray1.remote(os.getpid).remote())
    with pytest.raises(exceptions.WorkerCrashedError):
        ray1.get(die.remote())
    found = {w.pid: w for w in list_workers()}
    driver, dead = found[os.getpid()], found[pid]
    assert (driver.worker_type, driver.is_alive) == ("DRIVER", True)
    assert driver.worker_id == ray1.get_runtime_context().get_worker_id()
    assert (dead.worker_type, dead.is_alive, dead.exit_type) == ("WORKER", False, "SYSTEM_ERROR")
    assert "code 5" in dead.exit_detail
    assert dead.start_time_ms <= dead.end_time_ms
    assert get_worker(dead.worker_id) == dead
    assert sum(w.is_alive for w in found.values()) >= 1
    assert all(w.ip == "127.0.0.1" for w in found.values())


def test_nodes_and_jobs(ray):
    (node,) = list_nodes()
    assert node.node_id == ray.get_runtime_context().get_node_id()
    assert (node.state, node.is_head_node) == ("ALIVE", True)
    assert node.resources_total == ray.cluster_resources()
    assert get_node(node.node_id) == node
    (job,) = list_jobs()
    assert job.job_id == ray.get_runtime_context().get_job_id()
    assert (job.status, job.type) == ("RUNNING", "DRIVER")
    assert job.driver_info["pid"] == str(os.getpid())
    assert "pytest" in job.entrypoint
    assert get_job(job.job_id) == job


def test_placement_groups(ray):
    assert list_placement_groups() == []
    util = pyray.util
    group = util.placement_group([{"CPU": 1}], name="mine", lifetime="detached")
    waits = util.placement_group([{"CPU": 2}])
    assert group.wait(10)

    @ray.remote
    def where():
        context = ray.get_runtime_context()
        captures = context.should_capture_child_tasks_in_placement_group
        return context.get_placement_group_id(), captures

    @ray.remote
    class Inside:
        def where(self):
            return ray.get(where.remote())

    strategy = util.scheduling_strategies.PlacementGroupSchedulingStrategy
    id = group.id.hex()
    ref = where.options(scheduling_strategy=strategy(group)).remote()
    assert ray.get(ref) == (id, False)
    actor = Inside.options(scheduling_strategy=strategy(group, 0, True)).remote()
    assert ray.get(actor.where.remote()) == (id, True)
    assert ray.get_runtime_context().get_placement_group_id() is None
    assert not ray.get_runtime_context().should_capture_child_tasks_in_placement_group
    assert get_actor(actor._actor_id).placement_group_id == id
    queued = where.options(scheduling_strategy=strategy(waits)).remote()
    task = wait_until(lambda: get_task(queued.task_id().hex()))
    assert (task.placement_group_id, task.state) == (waits.id.hex(), "PENDING_NODE_ASSIGNMENT")
    first, second = list_placement_groups()
    assert (first.placement_group_id, first.name, first.is_detached) == (id, "mine", True)
    assert (first.state, second.state) == ("CREATED", "PENDING")
    assert first.bundles[0]["unit_resources"] == {"CPU": 1.0}
    assert get_placement_group(waits.id.hex()).bundles == second.bundles
    util.remove_placement_group(group)
    assert get_placement_group(id).state == "REMOVED"


# ---- figures -----------------------------------------------------------------------------------


def test_summaries(ray, gate):
    f = ray.remote(lambda: 1).options(name="f")
    ray.get([f.remote() for _ in range(3)])
    actor = ray.remote(Counter).remote()
    ray.get([actor.add.remote() for _ in range(2)])
    held = ray.remote(wait_for).remote(gate)
    wait_until(lambda: state_of(held) == "RUNNING", what="a running task")
    found = summarize_tasks()["cluster"]
    assert found["summary"]["f"] == {
        "func_or_class_name": "f",
        "type": "NORMAL_TASK",
        "state_counts": {"FINISHED": 3},
    }
    assert found["summary"]["wait_for"]["state_counts"] == {"RUNNING": 1}
    assert (found["total_tasks"], found["total_actor_tasks"]) == (4, 2)
    assert found["total_actor_scheduled"] == 1
    actors = summarize_actors()["cluster"]
    assert actors["summary"]["Counter"]["state_counts"] == {"ALIVE": 1}
    assert actors["total_actors"] == 1
    keep = [ray.put(b"x" * 10**6) for _ in range(3)]
    objects = summarize_objects()["cluster"]
    assert objects["total_size_mb"] == pytest.approx(3, rel=0.01)
    # With the actor's ref, and the running task's arguments and result.
    assert objects["total_objects"] == 6
    kinds = objects["summary"]["disabled"]["ref_type_counts"]
    assert kinds == {"LOCAL_REFERENCE": 4, "ACTOR_HANDLE": 1, "USED_BY_PENDING_TASK": 1}
    gate.open()
    ray.get(held)
    del keep


# ---- the documentation -------------------------------------------------------------------------


def test_examples():
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for name in state.__all__:
        for test in doctest.DocTestFinder().find(getattr(state, name), name, module=False):
            assert runner.run(test).failed == 0, name
    assert runner.summarize().attempted > 15
