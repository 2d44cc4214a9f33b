"""The node's part of an audit: its look at shared memory, and its own books beside it."""

from __future__ import annotations

from pyray._core import control
from pyray.node.shell import Shell
from pyray.node.workers import SHAPED_ACTOR

UNIT = 16384


def validate(shell: Shell, number: int) -> tuple[list[str], tuple[int, int, int], int]:
    """What is wrong; units in use, in hand and in all; bytes of a unit.

    Parameters
    ----------
    shell : Shell
    number : int
        The question that processes have answered; see `pyray._core.audit`.
    """
    from pyray._core import audit

    shell.look()
    found, at_node, figures = audit.walk(number)
    for check in (_scheduler, _tokens, _workers):
        found += check(shell)
    actors = {actor.task for actor in shell.actors.all.values() if not actor.dead}
    for task in at_node:
        if task not in shell.shaped and task not in actors and not shell.watch.holds(task):
            found.append(
                f"wedged: task {task & 0xFFFFFFFF} waits for the node, which knows nothing"
            )
    return found, figures, UNIT


def _scheduler(shell: Shell) -> list[str]:
    """The scheduler's books agree with each other, and everything is free that nobody has."""
    try:
        shell.scheduler.validate()
    except AssertionError as error:
        return [f"scheduler: {error}"]
    return []


def _tokens(shell: Shell) -> list[str]:
    """The ledger has the node's tokens in the node's name."""
    held = control.token_counts()[1]
    if held != shell.scheduler.held_tokens:
        return [f"tokens: {held} are the node's, which has {shell.scheduler.held_tokens} booked"]
    return []


def _workers(shell: Shell) -> list[str]:
    """Each process slot is a worker's, and each worker that has a task has one that there is."""
    found = []
    for slot in control.live_slots():
        if slot not in shell.workers:
            found.append(f"stale: process slot {slot} is taken, and no worker's")
    for w in shell.workers.values():
        if w.task is None or w.state == SHAPED_ACTOR or not control.process_view(w.slot)[2]:
            continue
        if control.task_view(w.task) is None:
            found.append(f"stale: pid {w.pid} was given a task that is gone")
    return found
