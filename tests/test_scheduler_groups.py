"""Placement groups in the scheduler, and what actors and groups hold for good: rule by rule.

The model of the shell, and the random events that include all this, are in test_scheduler.py.
"""

from __future__ import annotations

from fractions import Fraction as F
from typing import Any

import pytest
from test_scheduler import Shell

from pyray.node import messages as m


def test_a_group_holds_its_sum_until_it_is_removed() -> None:
    shell = Shell(4, num_gpus=2, resources={"camera": 1, "memory": 100})
    group = shell.request_group({"CPU": 1, "GPU": 0.5}, {"CPU": 0.5, "GPU": 0.5, "memory": 60})
    assert shell.reserved.keys() == {group}
    assert shell.node_tokens == 2 and shell.lent == 2
    free = shell.s.available(shell.free_tokens)
    assert free == {"CPU": 2.5, "GPU": 1.0, "memory": 40.0, "camera": 1.0}
    assert shell.s.totals() == {"CPU": 4.0, "GPU": 2.0, "memory": 100.0, "camera": 1.0}
    shell.remove_group(group)
    assert shell.s.available(shell.free_tokens) == shell.s.totals() and shell.lent == 0
    shell.drain()


def test_tasks_in_a_group_take_from_the_group_alone() -> None:
    shell = Shell(2)
    group = shell.request_group({"CPU": 1}, {"CPU": 1})
    first, second, any_ = (shell.shape(CPU=1, group=group, bundle=i) for i in (0, 1, -1))
    a, b = shell.submit(first), shell.submit(second)
    assert shell.order == [-group, a, b] and shell.want == 0
    c, outside = shell.submit(any_), shell.submit(shell.shape(CPU=0.5))
    shell.finish(a)
    assert c in shell.running and outside not in shell.order
    shell.remove_group(group)
    shell.reap()
    assert outside in shell.running
    shell.drain()


def test_the_bundle_that_was_named_is_kept_for_those_who_named_it() -> None:
    shell = Shell(3)
    group = shell.request_group({"CPU": 1}, {"CPU": 2})
    zero, one = (shell.shape(CPU=1, group=group, bundle=i) for i in (0, 1))
    tasks = [shell.submit(zero), shell.submit(zero), shell.submit(one)]
    assert shell.running == [tasks[0], tasks[2]]
    # Those that named none leave room for one that did, while there is some.
    shell.finish(tasks[2])
    shell.submit(any_ := shell.shape(CPU=1, group=group))
    last = shell.submit(any_)
    assert tasks[1] not in shell.running and last in shell.running
    shell.finish(tasks[0])
    assert tasks[1] in shell.running
    shell.drain()


def test_tasks_wait_for_their_group_and_close_nothing() -> None:
    shell = Shell(2)
    holder = shell.submit(shell.shape(CPU=2))
    group = shell.request_group({"CPU": 1})
    inside = shell.submit(shell.shape(CPU=1, group=group))
    nothing = shell.submit(shell.shape(group=group))
    assert shell.s.why_waiting(inside) == (
        "asks for CPU 1 in its placement group, which has not been reserved yet (it asks for CPU 1)"
    )
    free = shell.submit(shell.shape())
    assert shell.order == [holder, free]
    shell.finish(holder)
    assert shell.order[2:] == [-group, inside, nothing]
    shell.drain()


def test_why_a_task_in_a_group_waits() -> None:
    shell = Shell(4, num_gpus=1)
    group = shell.request_group({"CPU": 2, "GPU": 1}, {"CPU": 1})
    shell.submit(shell.shape(CPU=1, GPU=0.5, group=group, bundle=0))
    full = shell.submit(shell.shape(CPU=2, GPU=1, group=group, bundle=0))
    assert shell.s.why_waiting(full) == (
        "asks for CPU 2, GPU 1 in its placement group; free there now: CPU 1, GPU 0.5"
    )
    shell.drain()


def test_a_group_that_waits_is_not_starved_by_small_tasks() -> None:
    shell = Shell(2)
    half = shell.shape(CPU=0.5)
    running = [shell.submit(half) for _ in range(4)]
    group = shell.request_group({"CPU": 1}, {"CPU": 1})
    behind = [shell.submit(half) for _ in range(10)]
    for task in running:
        assert not shell.reserved
        shell.finish(task)
    assert shell.reserved.keys() == {group}
    assert not set(behind) & set(shell.order)
    shell.drain()


def test_blocking_gives_back_the_bundles_cpus() -> None:
    shell = Shell(1)
    group = shell.request_group({"CPU": 1})
    one = shell.shape(CPU=1, group=group)
    parent = shell.submit(one)
    shell.block(parent)
    child = shell.submit(one, depth=1)
    assert child in shell.running
    shell.unblock(parent)
    assert parent not in shell.running
    waits = shell.submit(one)
    shell.finish(child)
    assert shell.running == [parent] and waits in shell.queued
    assert shell.s.available(shell.free_tokens) == {}  # they are the group's all the while
    shell.drain()


def test_seats_are_no_places_and_tasks_without_cpus_need_one() -> None:
    shell = Shell(4, zero_cpu_limit=2)
    group = shell.request_group({"CPU": 1})
    tenth, none = shell.shape(CPU=0.1, group=group), shell.shape(group=group)
    tasks = [shell.submit(tenth) for _ in range(10)]
    assert shell.running == tasks
    idle = [shell.submit(none) for _ in range(3)]
    assert shell.running[10:] == idle[:2]
    shell.drain()


def test_a_group_without_cpus_needs_no_place() -> None:
    shell = Shell(1, num_gpus=1, zero_cpu_limit=1)
    shell.submit(shell.shape())
    group = shell.request_group({"GPU": 1})
    assert shell.reserved.keys() == {group}
    shell.drain()


def test_gpus_of_a_bundle_come_first() -> None:
    shell = Shell(4, num_gpus=3)
    group = shell.request_group({"GPU": 1}, {"GPU": 1}, {"GPU": 0.5})
    assert shell.reserved[group] == [(0, 1), (1, 1), (2, 0.5)]
    for bundle, expected in ((1, (1,)), (2, (2,)), (0, (0,))):
        amount = 0.5 if bundle == 2 else 1
        task = shell.submit(shell.shape(GPU=amount, group=group, bundle=bundle))
        assert shell.gpus[task] == expected
    outside = shell.submit(shell.shape(GPU=0.5))
    assert shell.gpus[outside] == (2,)  # the other half
    shell.drain()


def test_parts_of_gpus_are_cut_bundle_by_bundle() -> None:
    shell = Shell(1, num_gpus=2)
    group = shell.request_group({"GPU": 0.4}, {"GPU": 1}, {"GPU": 0.6})
    assert shell.reserved[group] == [(1, F("0.4")), (0, 1), (1, F("0.6"))]
    shell.remove_group(group)
    with pytest.raises(ValueError, match=r"0\.6, 0\.6, 0\.6 of a GPU, which cannot be cut"):
        shell.s.handle(m.GroupRequested(9, [{"GPU": 0.6}] * 3))
    shell.drain()


def test_a_removed_group_goes_with_the_last_of_its_tasks() -> None:
    shell = Shell(2)
    group = shell.request_group({"CPU": 1})
    half = shell.shape(CPU=0.5, group=group)
    own = shell.shape(CPU=0.5, group=group, dedicated=True, lasting=True)
    runs, actor, queued = shell.submit(half), shell.submit(own), shell.submit(half)
    shell.settle(actor)
    blocked = queued
    assert queued in shell.running
    shell.block(blocked)
    waits = [shell.submit(shell.shape(CPU=1, group=group)) for _ in range(2)]
    shell.remove_group(group)
    assert {shell.failed[t] for t in waits} == {"removed"}
    assert shell.doomed == {runs, actor, blocked}
    late = shell.submit(half)
    assert shell.failed[late] == "removed" and shell.node_tokens == 1
    shell.finish(runs)  # it was quicker
    shell.reap()
    assert shell.node_tokens == 0 and not shell.s._groups
    assert shell.failed[shell.submit(half)] == "removed"
    shell.remove_group(group)  # once more
    shell.drain()


def test_a_group_that_waits_can_be_removed() -> None:
    shell = Shell(1)
    holder = shell.submit(shell.shape(CPU=1))
    group = shell.request_group({"CPU": 1})
    inside = shell.submit(shell.shape(CPU=1, group=group))
    shell.remove_group(group)
    assert shell.failed == {inside: "removed"}
    shell.finish(holder)
    shell.drain()


def test_a_lost_task_of_a_removed_group_is_not_run_again() -> None:
    shell = Shell(1)
    group = shell.request_group({"CPU": 1})
    task = shell.submit(shell.shape(CPU=1, group=group))
    shell.remove_group(group)
    shell.doomed.clear()
    shell.kill(task, max_retries=3)
    assert shell.failed == {task: "removed"}
    shell.drain()


def test_an_assignment_that_was_under_way_when_the_group_was_removed() -> None:
    shell = Shell(1, starts=False)
    group = shell.request_group({"CPU": 1})
    shape = shell.shape(CPU=1, group=group)
    out: list[Any] = shell.s.handle(m.TaskSubmitted(1, shape))
    assert isinstance(out[0], m.Assign)
    assert shell.s.handle(m.GroupRemoved(group)) == []
    assert shell.s.handle(m.Assigned(1, 7)) == [m.EndWorker(7, 1)]
    shell.s.validate()
    out = shell.s.handle(m.WorkerDied(7))
    assert m.ReleaseTokens(1) in out and not shell.s._groups
    shell.s.validate()


def test_no_idle_worker_when_the_group_was_removed() -> None:
    shell = Shell(1, starts=False)
    group = shell.request_group({"CPU": 1})
    shape = shell.shape(CPU=1, group=group)
    shell.s.handle(m.TaskSubmitted(1, shape))
    shell.s.handle(m.GroupRemoved(group))
    assert m.GroupGone(1) in shell.s.handle(m.AssignFailed(1))
    shell.s.validate()
    assert not shell.s._groups


# ---------------------------------------------------------------- what is held for good


@pytest.mark.parametrize("holder", ["group", "actor"])
def test_nobody_waits_behind_one_that_waits_for_what_is_held_for_good(holder: str) -> None:
    shell = Shell(3, num_gpus=2)
    if holder == "group":
        shell.request_group({"CPU": 1, "GPU": 1})
    else:
        shell.submit(shell.shape(CPU=1, GPU=1, dedicated=True, lasting=True, keeps_cpus=True))
    assert shell.lent == 1
    waits = shell.request_group({"CPU": 3})
    gpus = shell.submit(shell.shape(GPU=2))
    assert (shell.want, shell.node_tokens) == (0, 1)  # no CPU idles for them
    tasks = [shell.submit(shell.shape(CPU=1)), shell.submit(shell.shape(GPU=1))]
    assert shell.running[-2:] == tasks and waits not in shell.reserved and gpus in shell.queued
    if holder == "group":
        shell.remove_group(1)
    else:
        shell.kill(1, max_retries=0)
    shell.finish(tasks[0])
    assert waits in shell.reserved
    shell.drain()


def test_an_actor_that_gives_its_cpu_back_does_not_hold_it_for_good() -> None:
    shell = Shell(1)
    actor = shell.submit(shell.shape(CPU=1, dedicated=True, lasting=True))
    big = shell.submit(shell.shape(CPU=1))
    assert shell.lent == 0 and big in shell.queued
    shell.settle(actor)
    assert big in shell.running
    shell.drain()


def test_a_task_goes_on_without_cpus_that_have_gone_for_good() -> None:
    shell = Shell(1)
    parent = shell.submit(shell.shape(CPU=1))
    shell.block(parent)
    group = shell.request_group({"CPU": 1}, depth=1)
    assert group in shell.reserved
    shell.unblock(parent)
    assert parent in shell.running and shell.bare == {parent}
    # The next wait is an ordinary one, and so is what follows it if there is a CPU by then.
    shell.block(parent)
    shell.remove_group(group)
    shell.unblock(parent)
    assert parent in shell.running and not shell.bare
    shell.drain()


def test_the_same_within_a_group() -> None:
    shell = Shell(2)
    group = shell.request_group({"CPU": 1})
    parent = shell.submit(shell.shape(CPU=1, group=group))
    shell.block(parent)
    keeps = shell.shape(CPU=1, group=group, dedicated=True, lasting=True, keeps_cpus=True)
    actor = shell.submit(keeps, depth=1)
    assert actor in shell.running
    shell.unblock(parent)
    assert parent in shell.running and shell.bare == {parent}
    other = shell.submit(shell.shape(CPU=1))
    assert other in shell.running
    shell.drain()


def test_an_actor_that_keeps_its_cpus_waits_for_another_in_its_place() -> None:
    shell = Shell(1)
    keeps = shell.shape(CPU=1, dedicated=True, lasting=True, keeps_cpus=True)
    first = shell.submit(keeps)
    shell.block(first)
    second = shell.submit(keeps)
    assert second in shell.running
    shell.unblock(first)
    assert shell.bare == {first}
    shell.finish(first)
    shell.drain()
