"""Whom to end when memory runs short, and how soon to look again: decisions, with no I/O.

The kernel's own choice is whoever is largest, which may be the driver, or whoever asks next.  Here
it is a task that can be run again, and of those the one that has begun last: the least is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyray.frozen import Frozen

__all__ = ["Candidate", "Limit", "Shortage", "choose", "gigabytes", "pause", "worst"]

# How fast memory can be taken, in bytes per second: several processes that touch new pages.
FASTEST = 8 << 30
# Pauses between two looks, in seconds: no shorter, and no more of them than a twentieth of a CPU.
SHORTEST = 0.01
COST_SHARE = 20
# One that has less than this part of what the largest has is not worth ending: it would be ended in
# vain, and then the next.
WORTH = 4
# Nor one that has less than this part of the limit, or of so many bytes.
LEAST_PART = 50
LEAST = 64 << 20


class Limit(Frozen):
    """Something that limits memory.

    Attributes
    ----------
    what : str
        For messages.
    size, most, used : int
        Bytes: the limit itself, up to where it may be used, and what is in use.
    """

    what: str
    size: int
    most: int
    used: int


class Candidate(Frozen):
    """A worker that might be ended.

    Attributes
    ----------
    slot, pid : int
        Its numbers.
    memory : int
        Bytes that would be free: its own, and of what it has started.
    task : int
        What it runs; 0: nothing, so that nothing is lost.
    again : bool
        Whether what it runs may be run again.
    began : int
        When that began, in nanoseconds.
    """

    slot: int
    pid: int
    memory: int
    task: int
    again: bool
    began: int


class Shortage(Frozen):
    """Why a worker was ended.

    Attributes
    ----------
    text : str
        What the worker had, what there is, and who has the rest: goes after a colon.
    memory, limit : int
        Bytes that it had, and that there may be.
    """

    text: str
    memory: int
    limit: int


def worst(limits: Sequence[Limit]) -> Limit | None:
    """The limit that is exceeded by most, if any is."""
    over = [limit for limit in limits if limit.used > limit.most]
    return max(over, key=lambda limit: limit.used - limit.most, default=None)


def choose(candidates: Sequence[Candidate], limit: int) -> Candidate | None:
    """The worker to end, or None if none of them is worth it.

    Those that run nothing come first, then those whose task may be run again, then the rest; of
    each sort the one that has begun last.

    Parameters
    ----------
    candidates : sequence of Candidate
    limit : int
        The limit that is exceeded, in bytes.
    """
    least = min(LEAST, limit // LEAST_PART)
    all_ = [c for c in candidates if c.memory > least]
    largest = max((c.memory for c in all_), default=0)
    for sort in (
        [c for c in all_ if not c.task],
        [c for c in all_ if c.task and c.again],
        [c for c in all_ if c.task and not c.again],
    ):
        # Together they must have something to give, and each that goes its part of it.
        if sort and sum(c.memory for c in sort) * WORTH >= largest:
            most = max(c.memory for c in sort)
            return max((c for c in sort if c.memory * WORTH >= most), key=lambda c: c.began)
    return None


def pause(limits: Sequence[Limit], cost: float, longest: float) -> float:
    """Seconds until the next look: the closer to a limit the fewer.

    Parameters
    ----------
    limits : sequence of Limit
    cost : float
        Seconds that a look takes.
    longest : float
        What it comes to where there is plenty.
    """
    room = min((limit.most - limit.used for limit in limits), default=FASTEST)
    soon = max(SHORTEST, cost * COST_SHARE)
    return max(soon, min(longest, max(0, room) / FASTEST))


def gigabytes(n: int) -> str:
    """A number of bytes, for messages."""
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"
