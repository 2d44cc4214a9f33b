"""Placement groups: reserving, running in them, removing them; and other scheduling strategies."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import time

import fault_helpers
import helpers
import pytest

import pyray
from pyray import exceptions, util
from pyray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from pyray.util.scheduling_strategies import (
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)


def into(group, bundle=-1, captures=None):
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, bundle, captures)}


def free(name="CPU"):
    return pyray.available_resources().get(name, 0.0)


def current():
    group = util.get_current_placement_group()
    return None if group is None else group.id.hex()


@pyray.remote
def here():
    return current()


@pyray.remote
def below(depth, how=None):
    """The groups that this runs in, and what it submits, and what that submits..."""
    child = below if how is None else below.options(**how)
    return [current()] + (pyray.get(child.remote(depth - 1)) if depth else [])


@pyray.remote
def wait_at(gate, tally, value=0):
    tally.add(os.getpid())
    gate.wait()
    return value


@pyray.remote
class Keeper:
    def __init__(self):
        self.group = None

    def pid(self):
        return os.getpid()

    def here(self):
        return current()

    def submit(self):
        return pyray.get(here.remote())

    def make(self, **how):
        self.group = placement_group([{"CPU": 0.5}], **how)
        return self.group

    def gpus(self):
        return pyray.get_gpu_ids()


# ---- reserving ---------------------------------------------------------------------------------


def test_a_group_holds_its_bundles_until_it_is_removed(ray):
    group = placement_group([{"CPU": 1}, {"CPU": 0.5, "memory": 1 << 20}], name="mine")
    assert isinstance(group, PlacementGroup)
    assert group.wait(10)
    assert ray.get(group.ready(), timeout=10) == group
    assert ray.wait([group.ready()], timeout=10) == ([group.ready()], [])
    assert group.bundle_specs == [{"CPU": 1}, {"CPU": 0.5, "memory": 1 << 20}]
    assert (group.bundle_count, group.is_empty, len(group.id.hex())) == (2, False, 36)
    assert free() == 0.5
    assert ray.cluster_resources()["CPU"] == 2
    assert not [name for name in ray.available_resources() if "group" in name]
    remove_placement_group(group)
    assert free() == 2
    remove_placement_group(group)


def test_what_the_table_tells(ray):
    group = placement_group([{"CPU": 1}], "SPREAD", "first")
    waits = placement_group([{"CPU": 2}], "STRICT_PACK")
    assert group.wait(10)
    table = placement_group_table(group)
    stats = table.pop("stats")
    node = table["bundles_to_node_id"][0]
    assert table == {
        "placement_group_id": group.id.hex(),
        "name": "first",
        "bundles": {0: {"CPU": 1}},
        "bundles_to_node_id": {0: node},
        "strategy": "SPREAD",
        "state": "CREATED",
    }
    assert len(node) == 40
    assert 0 < stats["end_to_end_creation_latency_ms"] < 20_000
    assert stats["scheduling_state"] == "FINISHED"
    tables = placement_group_table()
    assert set(tables) == {group.id.hex(), waits.id.hex()}
    assert tables[waits.id.hex()]["state"] == "PENDING"
    remove_placement_group(group)
    assert placement_group_table(group)["state"] == "REMOVED"
    assert waits.wait(10)


def test_a_group_that_cannot_be_yet_waits_and_its_tasks_too(ray):
    first = placement_group([{"CPU": 1}, {"CPU": 0.5}])
    second = placement_group([{"CPU": 1}])
    assert first.wait(10)
    assert not second.wait(0)
    assert not second.wait(0.05)
    ref = here.options(**into(second)).remote()
    assert ray.wait([ref, second.ready()], timeout=0.1) == ([], [ref, second.ready()])
    explain = pyray.session.current().call
    assert explain("explain_ref", second.ready()) == (
        f"placement group {second.id.hex()} is not reserved: asks for CPU 1; free now: CPU 0.5; "
        "actors and placement groups keep the rest"
    )
    remove_placement_group(first)
    assert ray.get(ref, timeout=10) == second.id.hex()


def test_nobody_waits_behind_a_group_that_waits_for_another(ray):
    first, second = placement_group([{"CPU": 1}]), placement_group([{"CPU": 2}])
    assert first.wait(10)
    assert not second.wait(0)
    assert ray.get([here.remote() for _ in range(20)], timeout=10) == [None] * 20
    assert ray.get(here.options(num_cpus=0.5).remote(), timeout=10) is None
    assert ray.get(Keeper.options(num_cpus=1).remote().here.remote(), timeout=10) is None
    remove_placement_group(first)
    assert second.wait(10)


def test_handles_go_anywhere(ray):
    group = placement_group([{"CPU": 1}])

    @ray.remote
    def use(found):
        ref = here.options(**into(found, 0)).remote()
        return found.bundle_specs, found.wait(10), ray.get(ref) == found.id.hex(), found

    specs, ready, inside, back = ray.get(use.remote(group), timeout=10)
    assert (specs, ready, inside, back) == ([{"CPU": 1}], True, True, group)
    assert hash(back) == hash(group) and pickle.loads(pickle.dumps(group)) == group
    bare = PlacementGroup(group.id)
    assert bare == group and bare.bundle_specs == [{"CPU": 1}]
    assert PlacementGroup.empty().is_empty and PlacementGroup.empty() != group


def test_names(ray):
    group = placement_group([{"CPU": 1}], name="x")
    assert get_placement_group("x") == group
    with pytest.raises(ValueError, match="named 'x' already"):
        placement_group([{"CPU": 1}], name="x")
    assert ray.get(ray.remote(lambda: get_placement_group("x").bundle_specs).remote()) == [
        {"CPU": 1}
    ]
    remove_placement_group(group)
    with pytest.raises(ValueError, match="no placement group named 'x'"):
        get_placement_group("x")
    assert placement_group([{"CPU": 1}], name="x").wait(10)


# ---- running in one ----------------------------------------------------------------------------


def test_a_bundle_runs_what_fits_into_it(ray, gate, tally):
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    refs = [wait_at.options(**into(group, 0)).remote(gate, tally, i) for i in range(2)]
    helpers.wait_until(lambda: len(tally) == 1)
    refs.append(wait_at.options(**into(group, 1)).remote(gate, tally, 2))
    helpers.wait_until(lambda: len(tally) == 2)
    refs += [wait_at.options(**into(group), num_cpus=0.5).remote(gate, tally, i) for i in (3, 4)]
    assert ray.wait(refs, timeout=0.1)[0] == []
    assert len(tally) == 2
    gate.open()
    assert ray.get(refs, timeout=10) == [0, 1, 2, 3, 4]


def test_tasks_outside_have_what_the_group_leaves(ray, gate, tally):
    group = placement_group([{"CPU": 1}])
    assert group.wait(10)
    refs = [wait_at.remote(gate, tally) for _ in range(3)]
    helpers.wait_until(lambda: len(tally) == 1)
    assert ray.get(here.options(**into(group)).remote(), timeout=10) == group.id.hex()
    assert len(tally) == 1
    gate.open()
    ray.get(refs, timeout=10)


def test_nested_tasks_in_a_group_of_one_cpu(ray1):
    """Each gives its bundle's CPU back while it waits."""
    group = placement_group([{"CPU": 1}])
    id = group.id.hex()
    assert ray1.get(below.options(**into(group, 0, True)).remote(3), timeout=15) == [id] * 4
    explicit = below.options(**into(group))
    assert ray1.get(explicit.remote(1, into(group)), timeout=15) == [id, id]


def test_capturing_is_asked_for_inherited_and_left(ray):
    group = placement_group([{"CPU": 2}])

    def groups(captures, how=None):
        ref = below.options(**into(group, captures=captures)).remote(2, how)
        return [found == id for found in ray.get(ref, timeout=15)]

    stuck = below.options(**into(group)).remote(1)
    with pytest.raises(exceptions.GetTimeoutError):
        ray.get(stuck, timeout=0.3)  # all CPUs are the group's
    remove_placement_group(group)
    group = placement_group([{"CPU": 1}])
    id = group.id.hex()
    assert groups(None) == [True, False, False]
    assert groups(False) == [True, False, False]
    assert groups(True) == [True, True, True]
    assert groups(True, into(None)) == [True, False, False]
    assert groups(True, {"placement_group": None}) == [True, False, False]
    assert groups(True, {"scheduling_strategy": "SPREAD"}) == [True, False, False]
    assert current() is None


def test_a_worker_is_in_and_out_of_groups_by_turns(ray1):
    """The same function object submits into the group, and elsewhere, as the task that runs it."""
    group = placement_group([{"CPU": 0.5}])
    half = below.options(num_cpus=0.5)
    for _ in range(3):
        found = half.options(**into(group, 0, True)).remote(1, {"num_cpus": 0.5})
        assert ray1.get(found, timeout=10) == [group.id.hex()] * 2
        assert ray1.get(half.remote(1, {"num_cpus": 0.5}), timeout=10) == [None, None]


def test_actors_in_a_bundle(ray):
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    # One CPU to be placed, none to run.
    keepers = [Keeper.options(**into(group, 0, True)).remote() for _ in range(3)]
    id = group.id.hex()
    assert ray.get([k.here.remote() for k in keepers], timeout=15) == [id] * 3
    assert ray.get([k.submit.remote() for k in keepers], timeout=15) == [id] * 3
    # One that asked for CPUs keeps them.
    first = Keeper.options(num_cpus=1, **into(group, 1)).remote()
    assert ray.get(first.here.remote(), timeout=10) == id
    second = Keeper.options(num_cpus=1, **into(group, 1)).remote()
    ref = second.here.remote()
    assert ray.wait([ref], timeout=0.1)[0] == []
    ray.kill(first)
    assert ray.get(ref, timeout=10) == id


def test_gpus_are_the_groups(ray):
    pyray.shutdown()
    pyray.init(num_cpus=4, num_gpus=3)
    group = placement_group([{"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 0.5}])

    @pyray.remote
    def gpus():
        return pyray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    def of(bundle, n):
        return pyray.get(gpus.options(num_gpus=n, **into(group, bundle)).remote(), timeout=10)

    assert of(0, 1) == ([0], "0") and of(1, 0.5) == ([1], "1") and of(2, 0.5) == ([2], "2")
    assert of(0, 0) == ([], "")
    keeper = Keeper.options(num_gpus=0.5, **into(group, 1)).remote()
    assert pyray.get(keeper.gpus.remote(), timeout=10) == [1]
    assert free("GPU") == 0.5
    with pytest.raises(exceptions.InfeasibleResourcesError, match="GPU 1 in bundle 2"):
        gpus.options(num_gpus=1, **into(group, 2)).remote()


def test_custom_resources_and_environments(ray):
    pyray.shutdown()
    pyray.init(num_cpus=1, resources={"camera": 1})
    group = placement_group([{"CPU": 1, "camera": 1}])
    how = {"resources": {"camera": 0.5}, "runtime_env": {"env_vars": {"INSIDE": "yes"}}}

    @pyray.remote
    def look():
        return os.environ.get("INSIDE"), current()

    refs = [look.options(**how, **into(group)).remote() for _ in range(3)]
    assert pyray.get(refs, timeout=15) == [("yes", group.id.hex())] * 3
    assert free("camera") == 0


@pytest.mark.parametrize("how", [{}, {"num_cpus": 0.5}], ids=["one CPU", "half a CPU"])
def test_a_task_whose_cpu_has_gone_into_a_group_goes_on(ray1, how):
    """In Ray too. It goes on beside those in the group: who would give it its CPU back waits for
    it, perhaps."""

    @ray1.remote
    def makes():
        group = placement_group([{"CPU": 1}])
        ray1.get(group.ready())
        found = ray1.get([here.options(**into(group)).remote() for _ in range(3)])
        remove_placement_group(group)
        return found == [group.id.hex()] * 3

    assert ray1.get([makes.options(**how).remote() for _ in range(2)], timeout=15) == [True] * 2


def test_a_task_whose_cpu_an_actor_keeps_goes_on(ray1):
    @ray1.remote
    def makes():
        keeper = Keeper.options(num_cpus=1).remote()
        return ray1.get(keeper.here.remote())

    assert ray1.get([makes.remote() for _ in range(2)], timeout=15) == [None] * 2
    helpers.wait_until(lambda: free() == 1)


# ---- removing ----------------------------------------------------------------------------------


def test_removing_ends_all_that_is_in_it(ray, gate, tally):
    group = placement_group([{"CPU": 2}], name="doomed")
    running = wait_at.options(**into(group)).remote(gate, tally)
    keeper = Keeper.options(**into(group), max_restarts=-1).remote()
    pid = ray.get(keeper.pid.remote(), timeout=10)
    helpers.wait_until(lambda: len(tally) == 1)
    queued = wait_at.options(**into(group), num_cpus=2).remote(gate, tally)
    waits = Keeper.options(**into(group), num_cpus=2).remote()
    calls = [keeper.here.remote(), waits.here.remote()]
    ray.get(calls[0])
    assert free() == 0
    remove_placement_group(group)
    for ref in (running, queued):
        error = fault_helpers.error_of(ref)
        assert type(error) is exceptions.TaskPlacementGroupRemoved
        assert "wait_at was in placement group 'doomed'" in str(error)
    for call in (calls[1], keeper.here.remote(), waits.here.remote()):
        error = fault_helpers.error_of(call)
        assert type(error) is exceptions.ActorPlacementGroupRemoved
        assert isinstance(error, exceptions.ActorDiedError) and "'doomed'" in str(error)
    for process in (pid, int(tally.lines()[0])):
        helpers.wait_until(lambda process=process: not helpers.alive(process))
    helpers.wait_until(lambda: free() == 2)
    late = [wait_at.options(**into(group)).remote(gate, tally), Keeper.options(**into(group))]
    assert type(fault_helpers.error_of(late[0])) is exceptions.TaskPlacementGroupRemoved
    late = late[1].remote().pid.remote()
    assert type(fault_helpers.error_of(late)) is exceptions.ActorPlacementGroupRemoved
    assert len(tally) == 1  # and nothing was tried again
    assert ray.get(here.remote(), timeout=10) is None


def test_removing_one_that_waits(ray):
    first, second = placement_group([{"CPU": 2}]), placement_group([{"CPU": 1}])
    assert first.wait(10)
    ready, inside = second.ready(), here.options(**into(second)).remote()
    remove_placement_group(second)
    for ref in (ready, inside, second.ready()):
        assert type(fault_helpers.error_of(ref)) is exceptions.TaskPlacementGroupRemoved
    with pytest.raises(exceptions.TaskPlacementGroupRemoved, match="has been removed"):
        second.wait(10)
    assert placement_group_table(second)["stats"]["scheduling_state"] == "REMOVED"


def test_a_worker_that_has_gone_on_is_not_killed(ray1, tally):
    """The group is removed just when its task ends and the worker takes another."""

    @ray1.remote(max_retries=0)
    def outside(tally):
        tally.add()

    group = None
    for i in range(30):
        group = placement_group([{"CPU": 0.5}])
        ref = here.options(num_cpus=0.5, **into(group)).remote()
        if i % 3:
            ray1.wait([ref], timeout=10)
        remove_placement_group(group)
        others = [outside.options(num_cpus=0.5).remote(tally) for _ in range(2)]
        ray1.get(others, timeout=10)
    assert len(tally) == 60
    helpers.wait_until(lambda: free() == 1)


def test_a_task_may_remove_its_own_group(ray):
    group = placement_group([{"CPU": 1}])

    @ray.remote
    def leave():
        remove_placement_group(util.get_current_placement_group())

    ref = leave.options(**into(group)).remote()
    assert type(fault_helpers.error_of(ref)) is exceptions.TaskPlacementGroupRemoved
    helpers.wait_until(lambda: free() == 2)


def test_a_queued_task_in_a_group_can_be_cancelled(ray, gate, tally):
    group = placement_group([{"CPU": 1}])
    first, second = (wait_at.options(**into(group)).remote(gate, tally) for _ in range(2))
    helpers.wait_until(lambda: len(tally) == 1)
    ray.cancel(second)
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(second, timeout=10)
    gate.open()
    assert ray.get(first, timeout=10) == 0


def test_a_group_ends_with_the_actor_that_made_it(ray):
    keeper = Keeper.remote()
    mine = ray.get(keeper.make.remote(), timeout=10)
    kept = ray.get(keeper.make.remote(lifetime="detached"), timeout=10)
    assert mine.wait(10) and kept.wait(10)
    ray.kill(keeper)
    helpers.wait_until(lambda: placement_group_table(mine)["state"] == "REMOVED")
    helpers.wait_until(lambda: free() == 1.5)
    assert ray.get(here.options(num_cpus=0.5, **into(kept)).remote(), timeout=10) == kept.id.hex()


def test_a_group_ends_with_the_task_that_dies_of_it(ray, tally):
    @ray.remote(max_retries=1, max_calls=1)
    def make(tally, dies):
        group = placement_group([{"CPU": 0.5}])
        tally.add(group.id.hex())
        if dies and len(tally) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return group

    group = ray.get(make.remote(tally, True), timeout=15)
    first, second = tally.lines()
    assert second == group.id.hex()
    assert placement_group_table()[first]["state"] == "REMOVED"
    # It outlives a process that ends by itself.
    helpers.wait_until(lambda: free() == 1.5)
    assert group.wait(10)


@pytest.mark.slow
@pytest.mark.seconds(120)
@pytest.mark.parametrize("seed", range(3))
def test_a_storm_leaves_everything_whole(seed):
    """Groups come and go while tasks and actors run, wait, are killed and are cancelled in them."""
    pyray.init(num_cpus=2, num_gpus=2, resources={"camera": 2}, log_to_driver=False)
    chance = random.Random(seed)
    kinds = [
        [{"CPU": 1}],
        [{"CPU": 0.5}, {"CPU": 0.5}],
        [{"CPU": 0.5, "GPU": 0.5}],
        [{"GPU": 1}, {"CPU": 0.5}],
        [{"CPU": 1, "camera": 1}],
        [{"CPU": 2}],
    ]

    @pyray.remote(max_retries=0)
    def work(seconds, depth):
        time.sleep(seconds)
        if depth:
            pyray.get(work.options(num_cpus=0.25).remote(0, depth - 1))

    groups, refs, actors = [], [], []
    end = time.monotonic() + 15
    while time.monotonic() < end:
        what = chance.random()
        if what < 0.12 and len(groups) < 6:
            groups.append(placement_group(chance.choice(kinds)))
        elif what < 0.2 and groups:
            group = groups.pop(chance.randrange(len(groups)))
            remove_placement_group(group)
            groups = ([group] if chance.random() < 0.3 else []) + groups[-6:]
        elif what < 0.75:
            how = {"num_cpus": chance.choice([0, 0.5, 1])}
            if groups and chance.random() < 0.7:
                group = chance.choice(groups)
                index = chance.choice([-1, *range(group.bundle_count)])
                bundle = group.bundle_specs[max(0, index)]
                how["num_cpus"] = bundle.get("CPU", 0) * chance.choice([0, 0.5, 1])
                how["num_gpus"] = bundle.get("GPU", 0) * chance.choice([0, 1])
                how |= into(group, index)
            if chance.random() < 0.25 and len(actors) < 8:
                actors.append(Keeper.options(**how, max_restarts=chance.choice([0, 1])).remote())
                refs.append(actors[-1].here.remote())
            else:
                seconds, depth = chance.choice([0, 0, 0.01, 0.05]), chance.choice([0, 0, 2])
                refs.append(work.options(**how).remote(seconds, depth))
        elif what < 0.85 and actors:
            refs.append(chance.choice(actors).pid.remote())
        elif what < 0.87 and actors:
            pyray.kill(actors.pop())
        elif what < 0.88 and actors:
            actors.pop(0)
        elif what < 0.91 and refs:
            with contextlib.suppress(ValueError):  # by force, and an actor's
                pyray.cancel(chance.choice(refs), force=chance.random() < 0.3)
        elif refs:
            _, refs = pyray.wait(refs, num_returns=min(len(refs), 3), timeout=0.05)
    for group in groups:
        remove_placement_group(group)
    actors.clear()
    assert pyray.wait(refs, num_returns=len(refs), timeout=40)[1] == []
    refs.clear()
    call = pyray.session.current().call
    helpers.wait_until(lambda: len(set(map(str, call("resources")))) == 1, what="all free")


# ---- what may be asked -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"bundles": []}, ValueError, "list of dicts"),
        ({"bundles": {"CPU": 1}}, ValueError, "list of dicts"),
        ({"bundles": [1]}, ValueError, "bundle 0 is 1"),
        ({"bundles": [{"CPU": 1}, {}]}, ValueError, "bundle 1 asks for nothing"),
        ({"bundles": [{"CPU": 0}]}, ValueError, "asks for nothing"),
        ({"bundles": [{"CPU": "1"}]}, TypeError, "CPU is a number"),
        ({"bundles": [{"CPU": -1}]}, ValueError, "0 or more"),
        ({"bundles": [{"GPU": 1.5}]}, ValueError, "whole number"),
        ({"bundles": [{1: 1}]}, ValueError, "name is a string"),
        ({"strategy": "pack"}, ValueError, "STRICT_SPREAD"),
        ({"name": 1}, TypeError, "name is a string"),
        ({"lifetime": "long"}, ValueError, "detached"),
        ({"bundles": [{"CPU": 2}, {"CPU": 1}]}, ValueError, "asks for CPU 3; this session has CPU"),
        ({"bundles": [{"camera": 1}]}, ValueError, "camera 0; ask for less"),
        ({"strategy": "STRICT_SPREAD"}, ValueError, "2 bundles needs as many machines"),
    ],
)
def test_groups_that_cannot_be(ray, arguments, error, text):
    with pytest.raises(error, match=text) as caught:
        placement_group(**{"bundles": [{"CPU": 0.5}, {"CPU": 0.5}], **arguments})
    if "session has" in text or "machines" in text:
        assert isinstance(caught.value, exceptions.InfeasibleResourcesError)
    assert placement_group_table() == {}


def test_what_fits_into_no_bundle(ray):
    group = placement_group([{"CPU": 1}, {"CPU": 1, "memory": 100}])
    for how in (into(group), into(group, 0)):
        with pytest.raises(exceptions.InfeasibleResourcesError, match="here asks for CPU 2"):
            here.options(num_cpus=2, **how).remote()
        with pytest.raises(exceptions.InfeasibleResourcesError, match="Keeper asks for CPU 2"):
            Keeper.options(num_cpus=2, **how).remote()
    with pytest.raises(ValueError, match="bundle 0, which has CPU 1 "):
        here.options(memory=100, **into(group, 0)).remote()
    assert ray.get(here.options(memory=100, **into(group, 1)).remote(), timeout=10)
    big = below.options(**into(group, captures=True)).remote(1, {"num_cpus": 2})
    with pytest.raises(ValueError, match=r"placement_group=None\) runs|runs one elsewhere"):
        ray.get(big, timeout=10)


@pytest.mark.parametrize("what", [here, Keeper], ids=["task", "actor"])
def test_strategies_that_make_no_sense(ray, what):
    group = placement_group([{"CPU": 1}])
    for strategy in ("FASTEST", into(group, 1)["scheduling_strategy"]):
        with pytest.raises(ValueError, match="DEFAULT|no bundle 1"):
            what.options(scheduling_strategy=strategy)
    for strategy in (1, group, object(), into(3)["scheduling_strategy"], into(group, "0")):
        with pytest.raises(TypeError):
            what.options(scheduling_strategy=strategy)
    with pytest.raises(TypeError, match="True, False or None"):
        what.options(**into(group, 0, "yes"))
    with pytest.raises(ValueError, match="without a group"):
        what.options(placement_group_bundle_index=0)
    with pytest.raises(ValueError, match="not both"):
        what.options(placement_group=group, scheduling_strategy="SPREAD")
    with pytest.raises(TypeError, match="PlacementGroup"):
        what.options(placement_group="group")
    with pytest.raises(exceptions.InfeasibleResourcesError, match="the only one"):
        what.options(scheduling_strategy=NodeAffinitySchedulingStrategy("ff" * 20, False)).remote()
    with pytest.raises(ValueError, match="no bundle 5: they are 0 to 0"):
        what.options(**into(PlacementGroup(group.id), 5)).remote()


def test_other_strategies_run_it_here(ray):
    group = placement_group([{"CPU": 1}])
    assert group.wait(10)
    node = placement_group_table(group)["bundles_to_node_id"][0]
    remove_placement_group(group)
    for strategy in (
        None,
        "DEFAULT",
        "SPREAD",
        NodeAffinitySchedulingStrategy(node, soft=False),
        NodeAffinitySchedulingStrategy("ff" * 20, soft=True),
        NodeLabelSchedulingStrategy({"region": In("here", "there")}, soft={"fast": Exists()}),
        PlacementGroupSchedulingStrategy(None),
    ):
        how = {"scheduling_strategy": strategy}
        assert ray.get(here.options(**how).remote(), timeout=10) is None
        assert ray.get(Keeper.options(**how).remote().here.remote(), timeout=10) is None
    with pytest.raises(ValueError, match="In, NotIn"):
        NodeLabelSchedulingStrategy({"region": "here"})


def test_older_options(ray):
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    id = group.id.hex()
    how = {"placement_group": group, "placement_group_bundle_index": 1}
    assert ray.get(here.options(**how).remote(), timeout=10) == id
    assert ray.get(Keeper.options(**how).remote().here.remote(), timeout=10) == id
    captured = below.options(**how, placement_group_capture_child_tasks=True).remote(1)
    assert ray.get(captured, timeout=10) == [id, id]
    decorated = ray.remote(**how)(current)
    assert ray.get(decorated.remote(), timeout=10) == id
    remove_placement_group(group)
    assert ray.get(decorated.options(scheduling_strategy="DEFAULT").remote(), timeout=10) is None
    assert ray.get(here.options(placement_group="default").remote(), timeout=10) is None


def test_a_group_of_another_session(ray):
    group = placement_group([{"CPU": 1}])
    pyray.shutdown()
    pyray.init(num_cpus=1)
    for use in (
        group.wait,
        group.ready,
        lambda: here.options(**into(group)).remote(),
        lambda: Keeper.options(**into(group)).remote(),
        lambda: remove_placement_group(group),
        lambda: placement_group_table(group),
    ):
        with pytest.raises(exceptions.ForeignObjectError, match="another session"):
            use()
    with pytest.raises(TypeError, match="PlacementGroup"):
        remove_placement_group("group")
    with pytest.raises(ValueError, match="no group"):
        remove_placement_group(PlacementGroup.empty())


def test_names_are_where_rays_are():
    assert pyray.util.placement_group is placement_group
    assert pyray.util.remove_placement_group is remove_placement_group
    assert pyray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
    import pyray.util.placement_group as found  # as in Ray, the function

    assert found is placement_group


def test_local_mode_has_every_group_at_once():
    pyray.init(local_mode=True, num_cpus=2)
    group = placement_group([{"CPU": 1}], name="local")
    assert pyray.get(group.ready()) == group and group.wait(0)
    assert get_placement_group("local") == group
    assert placement_group_table(group)["state"] == "CREATED"
    assert pyray.get(here.options(**into(group)).remote()) is None
    assert pyray.get(Keeper.options(**into(group)).remote().here.remote()) is None
    with pytest.raises(exceptions.InfeasibleResourcesError):
        placement_group([{"CPU": 3}])
    remove_placement_group(group)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        group.wait(0)
    with pytest.raises(ValueError, match="no placement group"):
        get_placement_group("local")
