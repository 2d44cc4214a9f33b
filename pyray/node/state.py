"""What the node tells those who list actors and workers, and what it remembers of the dead."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from pyray._core import actors as core
from pyray._core import control
from pyray.node.actors import Actor, Actors
from pyray.node.workers import Worker

# Workers and names of actors that are remembered after their end.
WORKERS = 1000
NAMES = 10_000

_WAITING = 1
_STATES = {1: "PENDING_CREATION", 2: "ALIVE", 3: "DEAD", 4: "DEAD"}


class Remembered:
    """Workers that have ended, and the names of methods of actors that the node has forgotten.

    Attributes
    ----------
    workers : deque of dict
        As `worker` tells of them, with ``ended`` (seconds since the epoch), ``how`` and ``code``.
    names : dict of int to tuple
        Id, class and methods by an actor's handle; one list of methods for all actors of a class.
    """

    def __init__(self) -> None:
        self.workers: deque[dict[str, Any]] = deque(maxlen=WORKERS)
        self.names: dict[int, tuple[str, str, list[str]]] = {}
        self._methods: dict[int, list[str]] = {}

    def worker_ended(self, worker: Worker, how: str, code: int | None) -> None:
        """A worker process is gone."""
        told = tell_of_worker(worker)
        self.workers.append({**told, "ended": time.time(), "how": how, "code": code})

    def actor_forgotten(self, actor: Actor) -> None:
        """The node needs an actor's entry for another one."""
        spec = actor.spec
        methods = self._methods.setdefault(spec["interface"], spec["methods"])
        self.names[actor.handle] = (actor.id, spec["class_name"], methods)
        if len(self.names) > NAMES:
            del self.names[next(iter(self.names))]


def tell_of_worker(worker: Worker) -> dict[str, Any]:
    """One worker, in plain values."""
    return {
        "pid": worker.pid,
        "slot": worker.slot,
        "started": worker.started,
        "up": worker.up,
        "dedicated": worker.dedicated,
        "env": worker.env,
    }


def tell_of_actor(actor: Actor) -> dict[str, Any]:
    """One actor, in plain values."""
    spec, options = actor.spec, actor.options
    return {
        "handle": actor.handle,
        "id": actor.id,
        "class_name": spec["class_name"],
        "name": options["name"] or "",
        "namespace": options["namespace"],
        "state": _state(actor),
        "pid": actor.pid,
        "slot": actor.slot,
        "restarts": actor.restarts,
        "detached": actor.detached,
        "request": spec["request"],
        "keeps_cpus": spec["keeps_cpus"],
        "why": actor.why,
    }


def _state(actor: Actor) -> str:
    if actor.dead:
        return "DEAD"
    state = _STATES.get(core.actor_state(actor.handle), "DEAD")
    if state != "PENDING_CREATION":
        return state
    if actor.restarts:
        return "RESTARTING"
    view = control.task_view(actor.task)
    return "DEPENDENCIES_UNREADY" if view is not None and view[0] == _WAITING else state


def names_of(actors: Actors, past: Remembered) -> dict[int, tuple[str, str, list[str]]]:
    """Id, class and methods of each actor that calls may still be known of."""
    now = {h: (a.id, a.spec["class_name"], a.spec["methods"]) for h, a in actors.all.items()}
    return {**past.names, **now}
