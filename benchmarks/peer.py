"""What the peers' modules share."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import scaling
from benchmarks.harness import Sample, Settings, timed

# How to make each sample, by benchmark: made one after the other, when it is its turn.
Samples = dict[str, Callable[[], Sample]]


def share_of_forked_loops(
    settings: Settings, micros: float, run: Callable[[int, int], None]
) -> Sample:
    """How close a peer comes to two bare forked loops; `run` takes turns and a number of tasks."""
    count = settings.pick(10_000, 2_000)
    turns = scaling.turns_for(micros * 1e-6)

    def sample() -> float:
        bare = timed(lambda: scaling.forked_loops(count, turns))
        return bare / timed(lambda: run(turns, count))

    return sample
