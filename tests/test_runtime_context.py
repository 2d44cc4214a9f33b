"""get_runtime_context: what tasks, actors and the driver know about themselves; nodes()."""

from __future__ import annotations

import asyncio
import contextvars
import os
import re
import threading
import time

import pytest
from helpers import wait_until

import pyray
from pyray import exceptions
from pyray.runtime_context import RuntimeContext
from pyray.runtime_env import RuntimeEnv
from pyray.util.state import get_actor, get_task, get_worker, list_objects, list_tasks

TASK = re.compile(r"[0-9a-f]{40}")


def _me() -> dict:
    context = pyray.get_runtime_context()
    return {
        "task": context.get_task_id(),
        "name": context.get_task_name(),
        "function": context.get_task_function_name(),
        "actor": context.get_actor_id(),
        "actor_name": context.get_actor_name(),
        "worker": context.get_worker_id(),
        "node": context.get_node_id(),
        "job": context.get_job_id(),
        "resources": context.get_assigned_resources(),
        "pid": os.getpid(),
    }


# ---- the driver --------------------------------------------------------------------------------


def test_the_driver_is_no_task(ray):
    context = ray.get_runtime_context()
    assert isinstance(context, RuntimeContext)
    me = _me()
    for name in ("task", "name", "function", "actor", "actor_name"):
        assert me[name] is None, name
    assert me["resources"] == {}
    assert TASK.fullmatch(me["worker"]) and TASK.fullmatch(me["node"])
    assert re.fullmatch("[0-9a-f]{8}", me["job"])
    assert context.get_accelerator_ids() == {"GPU": []}
    assert context.is_canceled() is context.is_cancelled() is False
    assert context.was_current_actor_reconstructed is False
    with pytest.raises(RuntimeError, match="in an actor only"):
        context.current_actor
    assert context.get() == {"job_id": me["job"], "node_id": me["node"], "namespace": ""}


def test_ids_are_of_the_session():
    seen = set()
    for _ in range(2):
        pyray.init(num_cpus=1)
        context = pyray.get_runtime_context()
        ids = context.get_job_id(), context.get_node_id(), context.get_worker_id()
        assert ids == (context.get_job_id(), context.get_node_id(), context.get_worker_id())
        seen.update(ids)
        pyray.shutdown()
    assert len(seen) == 6


def test_the_namespace():
    pyray.init(num_cpus=1, namespace="mine")
    assert pyray.get_runtime_context().namespace == "mine"
    assert pyray.get(pyray.remote(lambda: pyray.get_runtime_context().namespace).remote()) == "mine"


# ---- tasks -------------------------------------------------------------------------------------


def test_a_task_knows_itself(ray):
    me = pyray.remote(_me)
    first, second = me.remote(), me.options(name="other").remote()
    a, b = ray.get([first, second])
    driver = _me()
    assert a["task"] == first.task_id() and b["task"] == second.task_id()
    assert a["task"] != b["task"]
    assert TASK.fullmatch(a["task"])
    assert (a["name"], b["name"]) == ("_me", "other")
    assert a["function"] == b["function"] == "test_runtime_context._me"
    assert a["actor"] is a["actor_name"] is None
    assert (a["job"], a["node"]) == (driver["job"], driver["node"])
    assert a["worker"] != driver["worker"]
    assert get_worker(a["worker"]).pid == a["pid"]
    assert get_worker(driver["worker"]).pid == os.getpid()
    found = get_task(a["task"])
    assert found.worker_id == a["worker"]
    assert found.parent_task_id == ray.put(0).task_id()


def test_the_ids_of_several_results_are_of_one_task(ray):
    two = ray.remote(num_returns=2)(lambda: (pyray.get_runtime_context().get_task_id(), 1))
    a, b = two.remote()
    assert ray.get(a) == a.task_id() == b.task_id()


def test_a_task_that_is_run_again_keeps_its_id(ray1, tally):
    @pyray.remote
    def child():
        return pyray.get_runtime_context().get_task_id()

    @pyray.remote(max_retries=2, retry_exceptions=True)
    def parent():
        me = pyray.get_runtime_context().get_task_id()
        tally.add(f"{me} {pyray.get(child.remote())}")
        if len(tally) < 3:
            raise OSError
        return me

    ref = parent.remote()
    me = pyray.get(ref)
    assert me == ref.task_id()
    lines = [line.split() for line in tally.lines()]
    assert {line[0] for line in lines} == {me}
    children = {line[1] for line in lines}
    assert len(children) == 3, "each attempt has children of its own"
    for one in children:
        assert get_task(one).parent_task_id == me


def test_threads_of_a_task_are_the_tasks(ray):
    @ray.remote
    def f():
        found = []
        context = ray.get_runtime_context()
        thread = threading.Thread(target=lambda: found.append(context.get_task_id()))
        thread.start()
        thread.join()
        return found[0], context.get_task_id()

    ref = f.remote()
    assert ray.get(ref) == (ref.task_id(), ref.task_id())


def test_assigned_resources_of_tasks():
    pyray.init(num_cpus=2, num_gpus=2, resources={"disk": 3.5}, _memory=10**9)
    f = pyray.remote(lambda: pyray.get_runtime_context().get_assigned_resources())
    assert pyray.get(f.remote()) == {"CPU": 1.0}
    assert pyray.get(f.options(num_cpus=0.25).remote()) == {"CPU": 0.25}
    assert pyray.get(f.options(num_cpus=0).remote()) == {}
    found = pyray.get(f.options(num_gpus=0.5, resources={"disk": 1.5}, memory=10**6).remote())
    assert found == {"CPU": 1.0, "GPU": 0.5, "disk": 1.5, "memory": 1e6}
    assert all(type(n) is float for n in found.values())


def test_gpus_of_tasks():
    pyray.init(num_cpus=2, num_gpus=2)
    f = pyray.remote(
        lambda: (pyray.get_runtime_context().get_accelerator_ids(), pyray.get_gpu_ids())
    )
    assert pyray.get(f.remote()) == ({"GPU": []}, [])
    by_name, numbers = pyray.get(f.options(num_gpus=2).remote())
    assert sorted(by_name["GPU"]) == ["0", "1"]
    assert sorted(numbers) == [0, 1]


# ---- actors ------------------------------------------------------------------------------------


class Plain:
    def __init__(self):
        self.at_birth = _me()

    def birth(self):
        return self.at_birth

    def me(self):
        return _me()

    def in_thread(self):
        found = []
        thread = threading.Thread(target=lambda: found.append((_me(), pyray.get_gpu_ids())))
        thread.start()
        thread.join()
        return found[0]


class Async:
    async def me(self, barrier: int = 1):
        await asyncio.sleep(0.01 * barrier)
        before = _me()
        await asyncio.sleep(0.01)
        assert _me()["task"] == before["task"]
        return before

    async def helped(self):
        return await asyncio.gather(_me_later(), asyncio.to_thread(_me))

    async def leave(self):
        self.left = asyncio.create_task(_when_over())
        return pyray.get_runtime_context().get_task_id()

    async def found(self):
        return await self.left


async def _me_later() -> dict:
    await asyncio.sleep(0.001)
    return _me()


async def _when_over() -> dict:
    first = _me()["task"]
    deadline = time.monotonic() + 20
    while (me := _me())["task"] is not None:
        assert me["task"] == first and time.monotonic() < deadline
        await asyncio.sleep(0.001)
    return me


def test_an_actor_knows_itself(ray):
    actor = ray.remote(Plain).options(name="me").remote()
    ref = actor.me.remote()
    me, birth = ray.get([ref, actor.birth.remote()])
    assert me["task"] == ref.task_id()
    assert me["actor"] == birth["actor"] == actor._actor_id
    assert me["actor_name"] == "me"
    assert (me["name"], birth["name"]) == ("Plain.me", "Plain.__init__")
    assert me["function"] == "test_runtime_context.Plain.me"
    assert birth["function"] == "test_runtime_context.Plain.__init__"
    assert birth["task"] != me["task"]
    assert get_task(birth["task"]).type == "ACTOR_CREATION_TASK"
    assert get_task(me["task"]).actor_id == me["actor"]
    assert get_actor(me["actor"]).pid == me["pid"]
    assert get_worker(me["worker"]).pid == me["pid"]
    nameless = ray.remote(Plain).remote()
    assert ray.get(nameless.me.remote())["actor_name"] == ""


def test_ids_of_constructors_are_no_other_tasks(ray):
    """A constructor is its creator's child, and shares no id with a task of the creator's."""
    f = ray.remote(lambda: pyray.get_runtime_context().get_task_id())
    actors = [ray.remote(Plain).remote() for _ in range(3)]
    ids = ray.get([f.remote() for _ in range(5)])
    births = [birth["task"] for birth in ray.get([a.birth.remote() for a in actors])]
    assert len({*ids, *births}) == 8
    assert {get_task(one).parent_task_id for one in ids + births} == {ray.put(0).task_id()}


def test_each_call_of_a_threaded_actor_knows_itself(ray):
    class Threaded:
        def __init__(self):
            self.barrier = threading.Barrier(4)

        def me(self):
            self.barrier.wait(20)
            before = _me()
            self.barrier.wait(20)
            assert _me() == before
            return before

        def own_thread(self, copy):
            run = contextvars.copy_context().run if copy else lambda f: f()
            found = []
            thread = threading.Thread(target=run, args=(lambda: found.append(_me()),))
            thread.start()
            thread.join()
            return found[0]

    actor = ray.remote(Threaded).options(max_concurrency=4).remote()
    refs = [actor.me.remote() for _ in range(4)]
    found = ray.get(refs)
    assert [me["task"] for me in found] == [ref.task_id() for ref in refs]
    assert {me["name"] for me in found} == {"Threaded.me"}
    ref = actor.own_thread.remote(True)
    assert ray.get(ref)["task"] == ref.task_id()
    stranger = ray.get(actor.own_thread.remote(False))
    assert stranger["task"] is None and stranger["name"] is None
    assert stranger["actor"] == actor._actor_id


def test_each_call_of_an_async_actor_knows_itself(ray):
    actor = ray.remote(Async).remote()
    refs = [actor.me.remote(i) for i in (3, 1, 2)]
    found = ray.get(refs)
    assert [me["task"] for me in found] == [ref.task_id() for ref in refs]
    assert {(me["name"], me["function"]) for me in found} == {
        ("Async.me", "test_runtime_context.Async.me")
    }
    ref = actor.helped.remote()
    assert [me["task"] for me in ray.get(ref)] == [ref.task_id()] * 2


def test_what_a_call_leaves_behind_is_no_task(ray):
    actor = ray.remote(Async).remote()
    ref = actor.leave.remote()
    assert ray.get(ref) == ref.task_id()
    left = ray.get(actor.found.remote())
    assert left["task"] is None and left["resources"] == {}
    assert left["actor"] == actor._actor_id


def test_assigned_resources_of_actors():
    pyray.init(num_cpus=3, num_gpus=2, resources={"disk": 2})
    cls = pyray.remote(Plain)
    actor = cls.options(num_gpus=1, resources={"disk": 0.5}).remote()
    assert pyray.get(actor.birth.remote())["resources"] == {"CPU": 1.0, "GPU": 1.0, "disk": 0.5}
    assert pyray.get(actor.me.remote())["resources"] == {"GPU": 1.0, "disk": 0.5}
    in_thread, gpus = pyray.get(actor.in_thread.remote())
    assert in_thread["resources"] == {"GPU": 1.0, "disk": 0.5}
    keeps = cls.options(num_cpus=1.5).remote()
    assert pyray.get(keeps.me.remote())["resources"] == {"CPU": 1.5}
    # And what is left for others:
    free = wait_until(
        lambda: (r := pyray.available_resources()) and r["CPU"] == 1.5 and r, what="1.5 CPUs"
    )
    assert (free["GPU"], free["disk"]) == (1.0, 1.5)
    totals = pyray.cluster_resources()
    assert (totals["CPU"], totals["GPU"], totals["disk"]) == (3.0, 2.0, 2.0)
    assert len(gpus) == 1
    del actor, keeps
    wait_until(lambda: pyray.available_resources().get("GPU") == 2.0, what="the actor's GPU")
    wait_until(lambda: pyray.available_resources()["CPU"] == 3.0, what="the actors' CPUs")


@pytest.mark.parametrize("kind", ["plain", "threads", "async"])
def test_gpus_of_actors(kind):
    """An actor has its GPUs for life: in each call, and between them."""
    pyray.init(num_cpus=1, num_gpus=2)

    class Plainly:
        def __init__(self):
            self.first = pyray.get_gpu_ids()

        def gpus(self):
            return self.first, pyray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    class Asynchronously(Plainly):
        async def gpus(self):
            return super().gpus()

    cls = pyray.remote(Asynchronously if kind == "async" else Plainly)
    options = {"max_concurrency": 2} if kind == "threads" else {}
    actors = [cls.options(num_gpus=1, **options).remote() for _ in range(2)]
    for _ in range(2):
        found = pyray.get([a.gpus.remote() for a in actors])
        assert sorted(now for _, (now,), _ in found) == [0, 1]
        for first, now, variable in found:
            assert first == now == [int(variable)]


def test_actors_that_were_made_again(ray):
    @ray.remote(max_restarts=1)
    class Fragile:
        def again(self):
            return ray.get_runtime_context().was_current_actor_reconstructed

        def die(self):
            os._exit(1)

    actor = Fragile.remote()
    assert ray.get(actor.again.remote()) is False
    with pytest.raises(exceptions.ActorUnavailableError):
        ray.get(actor.die.remote())
    assert ray.get(actor.again.remote()) is True


# ---- current_actor -----------------------------------------------------------------------------


@pyray.remote
class Selfish:
    """Keeps a handle of itself, and gives it to others."""

    def __init__(self):
        self.me = pyray.get_runtime_context().current_actor

    def pid(self):
        return os.getpid()

    def own(self):
        return pyray.get_runtime_context().current_actor

    def tell(self, box):
        box.keep.remote(self.me)
        return pyray.get(box.pid.remote())

    def call_later(self):
        """A call of its own, which it cannot wait for."""
        return [self.me.pid.remote()]


@pyray.remote
class Box:
    def __init__(self):
        self.kept = None

    def keep(self, what):
        self.kept = what

    def call(self):
        return pyray.get(self.kept.pid.remote())

    def drop(self):
        self.kept = None

    def pid(self):
        return os.getpid()


def _gone(pid: int) -> None:
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what=f"the end of process {pid}")


def test_the_actors_own_handle(ray):
    actor = Selfish.remote()
    own = ray.get(actor.own.remote())
    assert own == actor
    assert hash(own) == hash(actor)
    pid = ray.get(own.pid.remote())
    (later,) = ray.get(actor.call_later.remote())
    assert ray.get(later) == pid
    # A handle that came from it is a handle like any.
    del actor
    assert ray.get(own.pid.remote()) == pid
    del own
    _gone(pid)


def test_an_actor_does_not_keep_itself_alive(ray):
    actor = Selfish.remote()
    pid = ray.get(actor.pid.remote())
    del actor
    _gone(pid)


def test_an_actor_that_was_passed_on_by_itself_lives(ray):
    box, actor = Box.remote(), Selfish.remote()
    pid = ray.get(actor.pid.remote())
    ray.get(actor.tell.remote(box))
    del actor
    for _ in range(3):
        assert ray.get(box.call.remote()) == pid
    # What it still has of itself has not become something that keeps it alive.
    ray.get(box.drop.remote())
    _gone(pid)


def test_the_own_handle_of_an_actor_that_nobody_holds(ray, gate):
    @ray.remote
    class Last:
        def run(self, gate):
            gate.wait()
            me = ray.get_runtime_context().current_actor
            later = me.more.remote()
            try:
                ray.put([me])
            except exceptions.SerializationError as error:
                return [later], str(error.__cause__)

        def more(self):
            return 7

    actor = Last.remote()
    name = actor._actor_id
    ref = actor.run.remote(gate)
    del actor
    wait_until(
        lambda: not any(o.object_id.startswith(name) for o in list_objects()),
        what="the end of the handle",
    )
    gate.open()
    (later,), problem = ray.get(ref)
    assert ray.get(later) == 7, "what it sends itself is run before it ends"
    assert "nobody holds this actor any more" in problem


def test_current_actor_is_for_actors(ray):
    @ray.remote
    def f():
        ray.get_runtime_context().current_actor

    with pytest.raises(RuntimeError, match="in an actor only"):
        ray.get(f.remote())


# ---- cancelling --------------------------------------------------------------------------------


def test_a_task_knows_that_it_was_cancelled(ray1, gate, tally):
    @ray1.remote
    def f():
        context = ray1.get_runtime_context()
        tally.add(f"{context.is_canceled()} {context.is_cancelled()}")
        try:
            gate.wait()
        except KeyboardInterrupt:
            tally.add(f"{context.is_canceled()} {context.is_cancelled()}")
            raise

    ref = f.remote()
    wait_until(lambda: len(tally) == 1, what="the task's beginning")
    ray1.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        ray1.get(ref)
    assert tally.lines() == ["False False", "True True"]
    again = ray1.remote(lambda: ray1.get_runtime_context().is_canceled())
    assert ray1.get(again.remote()) is False


def test_a_call_in_a_thread_can_ask_whether_it_was_cancelled(ray, tally):
    """Where nothing interrupts it, this is how a call learns of it; and others know better."""

    @ray.remote(max_concurrency=2)
    class Threads:
        def run(self, number):
            context = ray.get_runtime_context()
            tally.add(number)
            deadline = time.monotonic() + 20
            while not context.is_canceled():
                if number == 2 and len(tally) == 3:
                    return "never asked to stop"
                assert time.monotonic() < deadline
                time.sleep(0.001)
            tally.add("stopped")
            return "stopped"

    actor = Threads.remote()
    first, second = actor.run.remote(1), actor.run.remote(2)
    wait_until(lambda: len(tally) == 2, what="both calls")
    ray.cancel(first)
    assert ray.get(second) == "never asked to stop"
    assert tally.lines()[2] == "stopped"


# ---- the environment ---------------------------------------------------------------------------


def test_runtime_envs():
    pyray.init(num_cpus=2, runtime_env={"env_vars": {"A": "1"}})
    session = RuntimeEnv(env_vars={"A": "1"})

    def env():
        context = pyray.get_runtime_context()
        return context.runtime_env, context.get_runtime_env_string()

    assert env() == (session, '{"env_vars": {"A": "1"}}')
    f = pyray.remote(env)
    assert pyray.get(f.remote())[0] == session
    both = {"env_vars": {"A": "1", "B": "2"}}
    found, _ = pyray.get(f.options(runtime_env={"env_vars": {"B": "2"}}).remote())
    assert found == both and isinstance(found, RuntimeEnv)

    class Actor:
        def env(self):
            return env()

    actor = pyray.remote(Actor).options(runtime_env={"env_vars": {"B": "2"}}).remote()
    assert pyray.get(actor.env.remote())[0] == both


def test_no_runtime_env(ray1):
    context = ray1.get_runtime_context()
    assert context.get_runtime_env_string() == "{}"
    assert context.runtime_env == {}


# ---- what Ray has left behind ------------------------------------------------------------------


def test_deprecated_names(ray):
    @ray.remote
    class Actor:
        def ids(self):
            context = ray.get_runtime_context()
            assert context.get() == {
                "job_id": context.get_job_id(),
                "node_id": context.get_node_id(),
                "namespace": "",
                "task_id": context.get_task_id(),
                "actor_id": context.get_actor_id(),
            }
            return [
                (old.hex(), old.binary().hex(), old.is_nil(), new)
                for old, new in (
                    (context.job_id, context.get_job_id()),
                    (context.node_id, context.get_node_id()),
                    (context.task_id, context.get_task_id()),
                    (context.actor_id, context.get_actor_id()),
                )
            ]

    for text, binary, nil, expected in ray.get(Actor.remote().ids.remote()):
        assert text == binary == expected
        assert nil is False
    context = ray.get_runtime_context()
    assert context.task_id is context.actor_id is None


# ---- local_mode --------------------------------------------------------------------------------


def test_local_mode():
    pyray.init(num_cpus=2, local_mode=True)
    me = pyray.get(pyray.remote(_me).options(num_cpus=0.5).remote())
    assert TASK.fullmatch(me["task"])
    assert (me["name"], me["function"]) == ("_me", "test_runtime_context._me")
    assert me["resources"] == {"CPU": 0.5}
    assert me["worker"] == pyray.get_runtime_context().get_worker_id()
    actor = pyray.remote(Plain).options(name="local").remote()
    found = pyray.get(actor.me.remote())
    assert found["actor"] == actor._actor_id and found["actor_name"] == "local"
    assert (found["name"], found["function"]) == ("Plain.me", "test_runtime_context.Plain.me")
    assert found["task"] != me["task"]
    own = pyray.remote(lambda: 0)  # something else in between
    pyray.get(own.remote())
    assert pyray.get_runtime_context().get_task_id() is None
    selfish = pyray.remote(_LocalSelf).remote()
    assert pyray.get(selfish.own.remote()) == selfish
    assert len(pyray.nodes()) == 1
    assert pyray.timeline()[1:] == []
    assert list_tasks() == []


class _LocalSelf:
    def own(self):
        return pyray.get_runtime_context().current_actor


# ---- nodes -------------------------------------------------------------------------------------


def test_nodes(ray):
    (node,) = ray.nodes()
    assert node["NodeID"] == ray.get_runtime_context().get_node_id()
    assert node["Alive"] is node["alive"] is True
    assert node["NodeManagerAddress"] == "127.0.0.1"
    assert node["Resources"] == ray.cluster_resources()
    assert node["Resources"]["CPU"] == 2.0
    assert node["NodeManagerHostname"]
    in_task = ray.remote(lambda: pyray.nodes()[0]["NodeID"])
    assert ray.get(in_task.remote()) == node["NodeID"]
