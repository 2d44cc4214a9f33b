"""What is said about tasks: what one is doing, and that one failed unheard."""

from __future__ import annotations

from collections.abc import Callable

from pyray import definitions
from pyray._core import control, shm, values
from pyray._core.annotations import Any
from pyray._task_error import TaskError, text_only
from pyray.exceptions import TaskCancelledError

_WAITING, _READY, _CLAIMED, _RUNNING, _NODE = 1, 2, 3, 4, 6

_names: dict[tuple[int, bool, int], str] = {}
_ask_node: Callable[[int], str] | None = None
_counts: dict[str, int] = {}
_epoch = -1


def set_namer(ask: Callable[[int], str] | None) -> None:
    """Have `ask(task)` name calls of actors, whose methods only the node knows by number."""
    global _ask_node
    _ask_node = ask


def _fresh() -> None:
    global _epoch
    if _epoch != shm.epoch():
        _names.clear()
        _counts.clear()
        _epoch = shm.epoch()


def doing(task: int) -> str:
    """A task's name and what it is doing, for a message.

    Parameters
    ----------
    task : int
        Its handle, which may be stale.
    """
    view = control.task_view(task)
    if view is None:
        return "a task that has just ended"
    status, attempt = view[0], view[1]
    _fresh()
    target = control.task_target(task)
    name = _names.get(target)
    if name is None:
        # Polls with a timeout of 0 come here often.
        if target[0] and _ask_node is not None:
            name = _ask_node(task)
        else:
            name = definitions.name_of(target[2])
        _names[target] = name
    if attempt:
        name += f" (attempt {attempt + 1})"
    runner = control.runner_of(task)
    if runner is not None:
        pid, blocked = runner
        return f"{name}, which {'waits for others' if blocked else 'runs'} in pid {pid}"
    if status == _WAITING:
        return f"{name}, which waits for its arguments"
    if status == _READY and target[0]:
        return f"{name}, which waits for its turn at the actor"
    if status == _READY:
        return f"{name}, which is queued for a CPU"
    if status == _NODE:
        return f"{name}, which is queued for its resources"
    return name


def how_to_have(request: dict[str, float], config: dict[str, Any]) -> str:
    """What to do about a request that is more than the session has.

    Parameters
    ----------
    request : dict of str to float
        What was asked for, by resource.
    config : dict
        The session's.
    """
    import math

    totals = {**config["resources"], "CPU": config["num_cpus"], "GPU": config["num_gpus"]}
    arguments, others = [], {}
    for name, amount in request.items():
        if amount <= totals.get(name, 0):
            continue
        if name in ("CPU", "GPU"):
            arguments.append(f"num_{name.lower()}s={math.ceil(amount)}")
        elif name == "memory":
            arguments.append(f"_memory={math.ceil(amount)}")
        else:
            others[name] = amount
    if others:
        arguments.append(f"resources={others!r}")
    if not arguments:
        return "ask for less"
    return f"ask for less, or begin the session with init({', '.join(arguments)})"


def how_to_fit(captured: bool) -> str:
    """What to do about a request that fits in no bundle.

    Parameters
    ----------
    captured : bool
        Whether it may be in the group only because the task that submits it is.
    """
    advice = "ask for less, or make the group with larger bundles"
    if captured:
        advice += (
            "; a task whose group captures its children runs one elsewhere with "
            "scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None)"
        )
    return advice


def unseen(error: Any) -> None:
    """Log an error that nobody has asked for, and that nobody can ask for any more.

    Parameters
    ----------
    error : BaseException or int
        The error, or the handle of the object that holds it.
    """
    import sys

    if sys.is_finalizing():
        return
    if isinstance(error, int):
        with text_only():
            error = values.peek(error)
    if not isinstance(error, TaskError) or isinstance(error, TaskCancelledError):
        return  # a crash is reported when it happens, and who cancels or kills knows of it
    last = error.remote_traceback.rstrip().rpartition("\n")[2]
    _fresh()
    count = _counts[error.task] = _counts.get(error.task, 0) + 1
    if count > 3 and str(count).strip("0") != "1":
        return  # of a loop's errors the first three, the tenth, the hundredth and so on
    import logging

    logging.getLogger("pyray").error(
        "task %s (pid=%d) failed, and its result was dropped before anybody asked for it: %s%s",
        error.task,
        error.pid,
        last,
        f" ({count} such so far)" if count > 3 else "",
    )


def spilling() -> None:
    """Log that objects go to disk: when that begins, and each time that it has doubled."""
    from pyray._core import spilling

    stats = spilling.spill_stats()
    if stats is None:
        return
    import logging

    what = f"{stats['spilled_objects']} objects ({_megabytes(stats['spilled_bytes'])})"
    if stats["direct_bytes"]:
        what += f", and {_megabytes(stats['direct_bytes'])} that never found room in memory,"
    logging.getLogger("pyray").warning(
        "the object store (%s) is full: %s went to disk so far, in %s, where %s of at most %s are "
        "in use now; a larger object_store_memory in init(), or dropping references earlier, "
        "avoids it",
        _megabytes(stats["memory"]),
        what,
        stats["directory"],
        _megabytes(stats["used"]),
        _megabytes(stats["total"]),
    )


def _megabytes(n: int) -> str:
    return f"{n / 1e6:,.1f} MB"
