"""Ids of the session's node, job and workers, and what this process is.

They hash from the session's random root, so every process computes the same ones.
"""

from __future__ import annotations

import os
import sys

from pyray._core import ids, shm
from pyray._core.annotations import Any

# In the place of a return's index; no object has these.
_NODE, _WORKER = 0xFFFF0001, 0xFFFF0002

ADDRESS = "127.0.0.1"


def job_id() -> str:
    """The driver's: 8 hexadecimal digits."""
    return shm.root_id()[:4].hex()


def node_id() -> str:
    """This machine's: 40 hexadecimal digits."""
    return ids.object_id(shm.root_id(), 0, _NODE).hex()


def worker_id(slot: int | None = None, pid: int | None = None) -> str:
    """A process's, by its number in the session and process ID; default: this one's."""
    number = shm.self_slot() if slot is None else slot
    pid = os.getpid() if pid is None else pid
    return ids.object_id(shm.root_id(), number << 32 | pid, _WORKER).hex()


def actor_here() -> Any:
    """The `pyray.worker.actor.Actor` that this process is, or None."""
    worker = sys.modules.get("pyray.worker.actor")
    return None if worker is None else worker.current
