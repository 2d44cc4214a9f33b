"""Whom to end when memory runs short, and when to look: the decisions, driven by hypothesis."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyray.node.memory import (
    COST_SHARE,
    LEAST,
    SHORTEST,
    WORTH,
    Candidate,
    Limit,
    choose,
    gigabytes,
    pause,
    worst,
)

GB = 1 << 30
SIZES = st.integers(0, 4 * GB)


def worker(
    slot: int, memory: int, task: int = 1, again: bool = True, began: int | None = None
) -> Candidate:
    return Candidate(slot, 1000 + slot, memory, task, again, slot if began is None else began)


WORKERS = st.lists(
    st.builds(
        worker,
        st.integers(2, 255),
        SIZES,
        st.integers(0, 2),
        st.booleans(),
        st.integers(0, 1 << 60),
    ),
    unique_by=lambda c: c.slot,
    max_size=12,
)
LIMITS = st.lists(st.builds(Limit, st.just("it"), SIZES, SIZES, SIZES), min_size=1, max_size=4)


def test_the_newest_that_can_be_retried() -> None:
    found = [worker(2, GB), worker(3, GB), worker(4, GB, again=False)]
    chosen = choose(found, 4 * GB)
    assert chosen is not None and chosen.slot == 3


def test_one_that_cannot_be_retried_goes_last() -> None:
    chosen = choose([worker(2, GB), worker(3, 2 * GB, again=False)], 4 * GB)
    assert chosen is not None and chosen.slot == 2
    chosen = choose([worker(3, 2 * GB, again=False)], 4 * GB)
    assert chosen is not None and chosen.slot == 3


def test_nothing_is_lost_with_an_idle_worker_that_has_kept_much() -> None:
    chosen = choose([worker(2, GB), worker(3, GB, task=0, began=0)], 4 * GB)
    assert chosen is not None and chosen.slot == 3


def test_bystanders_are_not_ended_in_vain() -> None:
    small = [worker(slot, 30 << 20) for slot in range(3, 6)]
    for again in (True, False):
        chosen = choose([worker(2, 2 * GB, again=again), *small], 2 * GB)
        assert chosen is not None and chosen.slot == 2


def test_nobody_is_ended_for_what_others_have() -> None:
    assert choose([worker(2, 10 << 20), worker(3, 20 << 20)], 4 * GB) is None
    assert choose([], 4 * GB) is None


@given(WORKERS, st.integers(1, 64 * GB))
def test_what_is_chosen_is_worth_it_and_the_newest_of_its_sort(
    found: list[Candidate], limit: int
) -> None:
    chosen = choose(found, limit)
    enough = [c for c in found if c.memory > min(LEAST, limit // 50)]
    if chosen is None:
        assert not enough
        return
    assert chosen in enough
    sort = [c for c in enough if (bool(c.task), c.again or not c.task) == kind(chosen)]
    most = max(c.memory for c in sort)
    assert chosen.memory * WORTH >= most
    assert all(c.began <= chosen.began for c in sort if c.memory * WORTH >= most)
    # A better sort is passed over only where all of it has little.
    largest = max(c.memory for c in enough)
    for better in ({(False, True)}, {(False, True), (True, True)}):
        if kind(chosen) not in better:
            for one in better:
                assert sum(c.memory for c in enough if kind(c) == one) * WORTH < largest


def kind(c: Candidate) -> tuple[bool, bool]:
    return bool(c.task), c.again or not c.task


@given(WORKERS, st.integers(1, 64 * GB))
def test_whoever_is_large_is_reached_in_the_end(found: list[Candidate], limit: int) -> None:
    """Ending one after the other leaves none that has enough."""
    left = list(found)
    for _ in range(len(found)):
        chosen = choose(left, limit)
        if chosen is None:
            break
        left.remove(chosen)
    assert choose(left, limit) is None


@given(LIMITS)
def test_the_limit_that_is_exceeded_by_most(limits: list[Limit]) -> None:
    found = worst(limits)
    over = [limit.used - limit.most for limit in limits if limit.used > limit.most]
    assert (found is None) == (not over)
    if found is not None:
        assert found.used - found.most == max(over)


@given(LIMITS, st.floats(0, 0.1), st.floats(0.05, 10))
def test_pauses(limits: list[Limit], cost: float, longest: float) -> None:
    seconds = pause(limits, cost, longest)
    assert seconds >= SHORTEST
    assert seconds >= cost * COST_SHARE
    assert seconds <= max(longest, cost * COST_SHARE, SHORTEST)
    fuller = [Limit(x.what, x.size, x.most, x.used + GB) for x in limits]
    assert pause(fuller, cost, longest) <= seconds


def test_sizes_in_words() -> None:
    assert gigabytes(3_100_000_000) == "3.10 GB"
    assert gigabytes(250_000_000) == "250 MB"
