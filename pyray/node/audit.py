"""The scheduler's books, checked against each other: for tests, after each event."""

from __future__ import annotations

from typing import Any

from pyray.node.task import BLOCKED, GIVEN, QUEUED, RESERVED, RESUMING, RUNNING, STATES, WITH_CPUS


def audit(s: Any) -> None:
    """See `Scheduler.validate`; `s` is the scheduler, whose private books these are."""
    states: list[list[int]] = [[] for _ in STATES]
    for handle, task in s._tasks.items():
        states[task.state].append(handle)
        story = f"task {handle} ({STATES[task.state]}): {list(s._history.get(handle, ()))}"
        placed = task.state != QUEUED
        assert task.entry[3] == handle, f"under a wrong number: {story}"
        assert (task.allocation is not None) == placed, f"wrong allocation: {story}"
        on_worker = task.state in (RUNNING, BLOCKED, RESUMING)
        assert (task.worker is not None) == on_worker, f"wrong worker: {story}"
        if task.worker is not None:
            found = s._on_worker.get(task.worker)
            assert found == handle, f"its worker {task.worker} has {found}: {story}"
        queued = task.shape.live.get(handle) is task.entry
        assert queued != placed, f"{'' if queued else 'not '}in its queue: {story}"
        assert (handle in s._resuming) == (task.state == RESUMING), f"not so: {story}"
        blocked, other = (s._apart, s._blocked) if task.shape.dedicated else (s._blocked, s._apart)
        assert (handle in blocked) == (task.state == BLOCKED), f"not so: {story}"
        assert handle not in other, f"among the wrong blocked: {story}"
        if task.worker is not None:
            outside = task.worker in s._dedicated
            assert outside == task.shape.dedicated, f"on the wrong sort of worker: {story}"
        assert task.shape.reserves == (handle < 0), f"no such group: {story}"
        lasting = placed and task.shape.lasting
        assert (handle in s._lasting) == lasting, f"not so: {story}"
        assert not task.bare or task.state == RUNNING, f"without CPUs: {story}"
    assert s._lasting <= set(s._tasks), "unknown tasks are lasting"
    placed_count = sum(len(handles) for handles in states[RUNNING:RESERVED])
    assert len(s._on_worker) == placed_count, f"workers with unknown tasks {s._on_worker}"
    assert len(s._blocked | s._apart) == len(states[BLOCKED]), "unknown tasks are blocked"
    assert len(s._resuming) == len(states[RESUMING]), "unknown tasks wait to go on"
    assert s._queued == len(states[QUEUED]), "the count of queued tasks is wrong"
    assert set(s._history) <= set(s._tasks), "a history outlived its task"
    groups = [s._tasks[-number].shape for number in s._groups]
    assert set(states[RESERVED]) <= {-number for number in s._groups}, "unknown groups are reserved"
    for shape in (*s._shapes.values(), *groups):
        shape.validate()
        where = (shape in s._active) + (shape in s._parked)
        assert where == bool(shape), f"wrongly (in)active: {shape.request}"
        if shape in s._parked:
            assert s._waits_for_lasting(shape.request), f"wrongly set aside: {shape.request}"
    assert s._queued == sum(map(len, s._shapes.values())) + sum(map(len, groups)), "unknown tasks"
    running = [t for t in s._tasks.values() if t.state in WITH_CPUS and not t.bare]
    s._cpu.validate(sum(task.shape.request.cpu for task in running))
    places = [t.shape.dedicated for t in running if t.shape.place]
    assert s._places_used == len(places) <= s._places
    assert s._places_apart == sum(places)
    given = {h for h in states[GIVEN] if s._tasks[h].shape.dedicated}
    assert s._asked == given, f"asked for processes for {s._asked}, not {given}"
    assert s._workers.apart == len(s._dedicated) + len(given)
    assert not s._dedicated & s._workers.live, "workers both in the pool and outside"
    held = [t.allocation for t in s._tasks.values() if t.allocation]
    s._pool.validate(held, (task.shape.request for task in running))
    for group in s._groups.values():
        _audit_group(s, group)
    known, s._beyond = s._besides_lasting(), None
    beyond = s._besides_lasting()
    assert known[1] == beyond[1], f"CPUs held for good: {known[1]}, not {beyond[1]}"
    assert known[0].free == beyond[0].free, "what is held for good has not been followed"
    assert known[0].gpus == beyond[0].gpus, "GPUs held for good have not been followed"
    if s._cpu.want or s._cpu.held > s._cpu.in_use:
        waiting = [s._tasks[h] for h in states[QUEUED] + states[RESUMING]]
        cpus = [t for t in waiting if t.shape.request.cpu]
        assert cpus, f"{s._cpu.want} tokens wanted or kept, and nothing waits for a CPU"
    s._workers.validate()


def _audit_group(s: Any, group: Any) -> None:
    """What a group's tasks hold lies within the group, and it goes with the last of them."""
    task, free, total = s._tasks[-group.number], s._pool.free, s._pool.total
    story = f"placement group {group.number} ({STATES[task.state]})"
    if task.state != RESERVED:
        assert task.state == QUEUED, story
        assert not group.removed, f"removed and still queued: {story}"
        assert not set(group.names()) & set(total), f"has something already: {story}"
        return
    assert group.mark in total, f"has nothing: {story}"
    inside = [t for t in s._tasks.values() if t.shape.group == group.number and t.allocation]
    assert total[group.mark] - free[group.mark] == len(inside), f"{len(inside)} tasks in {story}"
    assert inside or not group.removed, f"removed and still there: {story}"
    if group.removed:
        assert not set(group.shapes) & set(s._shapes), f"shapes outlived {story}"
