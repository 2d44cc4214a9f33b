"""The scheduler's books, checked against each other: for tests, after each event."""

from __future__ import annotations

from typing import Any

from pyray.node.task import BLOCKED, GIVEN, QUEUED, RESUMING, RUNNING, STATES


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
    placed_count = sum(len(handles) for handles in states[RUNNING:])
    assert len(s._on_worker) == placed_count, f"workers with unknown tasks {s._on_worker}"
    assert len(s._blocked | s._apart) == len(states[BLOCKED]), "unknown tasks are blocked"
    assert len(s._resuming) == len(states[RESUMING]), "unknown tasks wait to go on"
    assert s._queued == len(states[QUEUED]), "the count of queued tasks is wrong"
    assert set(s._history) <= set(s._tasks), "a history outlived its task"
    for shape in s._shapes.values():
        shape.validate()
        assert (shape in s._active) == bool(shape), f"wrongly (in)active: {shape.request}"
    assert s._queued == sum(map(len, s._shapes.values())), "unknown tasks are queued"
    running = [s._tasks[h] for h in states[GIVEN] + states[RUNNING]]
    s._cpu.validate(sum(task.shape.request.cpu for task in running))
    places = [t.shape.dedicated for t in running if not t.shape.request.cpu]
    assert s._places_used == len(places) <= s._places
    assert s._places_apart == sum(places)
    given = {h for h in states[GIVEN] if s._tasks[h].shape.dedicated}
    assert s._asked == given, f"asked for processes for {s._asked}, not {given}"
    assert s._workers.apart == len(s._dedicated) + len(given)
    assert not s._dedicated & s._workers.live, "workers both in the pool and outside"
    s._pool.validate(t.allocation for t in s._tasks.values() if t.allocation)
    if s._cpu.want or s._cpu.held > s._cpu.in_use:
        waiting = [s._tasks[h] for h in states[QUEUED] + states[RESUMING]]
        cpus = [t for t in waiting if t.shape.request.cpu]
        assert cpus, f"{s._cpu.want} tokens wanted or kept, and nothing waits for a CPU"
    s._workers.validate()
