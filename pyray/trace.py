"""What ran where and when, in the format of Chrome's trace viewer."""

from __future__ import annotations

from pyray import identity, session
from pyray._core.annotations import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyray import history

__all__ = ["timeline"]


def timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """The tasks that have run, as a trace for ``chrome://tracing`` or https://ui.perfetto.dev.

    One row for each worker, named with its pid (and the actor's class): one box for each attempt at
    a task, a method's call or a constructor, from when its arguments were loaded until its result
    was stored. An actor that runs several calls at once has as many rows as it needs.

    Parameters
    ----------
    filename : str or path, optional
        File to write the trace to, as JSON.

    Returns
    -------
    list of dict, or None
        The trace's events, if no file was named: complete ones (``"ph": "X"``), with ``ts`` and
        ``dur`` in µs, ``ts`` since the epoch; and some (``"ph": "M"``) that name the rows. ``args``
        has the ids of task, parent and actor, the number of the attempt and how it ended.

    Raises
    ------
    OSError
        The file cannot be written.

    Notes
    -----
    Each process remembers the last 16,383 tasks that it has run; what ran in a worker that has died
    since is there too. Tasks that run at this moment are not, nor is anything in ``local_mode``.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... def work(x):
    ...     return x
    >>> _ = ray.get([work.remote(i) for i in range(3)])
    >>> sorted(e["name"] for e in ray.timeline() if e["ph"] == "X")[-3:]
    ['work', 'work', 'work']
    """
    session.require()
    trace = _trace()
    if filename is None:
        return trace
    import json

    with open(filename, "w") as f:
        json.dump(trace, f)
    return None


def _trace() -> list[dict[str, Any]]:
    from pyray import history

    categories = {
        history.NORMAL: "task",
        history.METHOD: "actor_task",
        history.CREATION: "actor_creation",
    }
    ran = [a for a in history.ended() if a.start and a.pid]
    ran.sort(key=lambda a: a.start)
    names = history.Names()
    job, node = identity.job_id(), identity.node_id()
    rows: dict[tuple[int, int], list[tuple[int, int]]] = {}  # a worker's rows: (number, free from)
    titles: dict[int, str] = {}
    trace: list[dict[str, Any]] = []
    for a in ran:
        row = _row(rows.setdefault((a.slot, a.pid), []), a, titles)
        name = names.of(a)
        if a.actor:
            titles[row] = f"worker:{a.pid} {names.class_of(a.actor)}"
        trace.append(
            {
                "cat": categories[a.kind],
                "name": name,
                "ph": "X",
                "pid": 0,
                "tid": row,
                "ts": a.start / 1000,
                "dur": (a.end - a.start) / 1000,
                **({"cname": "terrible"} if a.state == "FAILED" else {}),
                "args": {
                    "name": name,
                    "task_id": a.id.hex(),
                    "parent_task_id": a.parent.hex(),
                    "attempt_number": a.number,
                    "state": a.state,
                    "type": a.kind,
                    "actor_id": names.actor_id(a.actor),
                    "job_id": job,
                    "node_id": node,
                    "worker_id": identity.worker_id(a.slot, a.pid),
                    "worker_pid": a.pid,
                },
            }
        )
    return [*_meta(titles), *trace]


def _row(own: list[tuple[int, int]], a: history.Attempt, titles: dict[int, str]) -> int:
    """The first of a worker's rows that is free when this begins, or a new one."""
    for i, (number, free) in enumerate(own):
        if free <= a.start:
            own[i] = (number, a.end)
            return number
    number = len(titles)
    titles[number] = f"worker:{a.pid}"
    own.append((number, a.end))
    return number


def _meta(titles: dict[int, str]) -> list[dict[str, Any]]:
    named = [("process_name", {"pid": 0}, {"name": f"Node {identity.ADDRESS}"})]
    named += [("thread_name", {"pid": 0, "tid": n}, {"name": t}) for n, t in titles.items()]
    return [{"name": name, "ph": "M", **at, "args": args} for name, at, args in named]
