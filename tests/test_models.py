"""The protocols of shared memory, in every order that their steps can take: see tests/models.

Each model is checked as the code is, and with mistakes in it that the checker must find: a model
that lets everything pass proves nothing. Those marked slow are the same with more processes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "models"))

import checker
import mailboxes
import objects
import queues

# What processors do: x86-64 lets loads overtake stores, ARM more.
ORDERS = ["tso", "weak"]
slow = pytest.mark.slow

SOUND = [
    (queues.lanes, {"queued": (0, 0)}),
    (queues.lanes, {"queued": (0, 1)}),
    (queues.parking, {}),
    (queues.resuming, {}),
    (mailboxes.parking, {}),
    (mailboxes.parking, {"callers": 2, "calls": 1}),
    (mailboxes.segments, {}),
    (objects.holders, {}),
    (objects.holders, {"crash": True}),
    (objects.waiting, {"need": 1}),
    (objects.waiting, {"need": 2}),
    (objects.dependents, {"tasks": "T"}),
    (objects.done_ring, {}),
    (objects.seal_open, {}),
    (objects.spilling, {}),
    (objects.spilling, {"spillers": 2, "readers": 1}),
]
LARGE = [
    (queues.lanes, {"queued": (0, 0, 1)}),
    (queues.parking, {"tasks": 2}),
    (queues.parking, {"tokens": 2, "tasks": 2}),
    (mailboxes.parking, {"callers": 2, "calls": 2}),
    (mailboxes.segments, {"crash": True}),
    (objects.waiting, {"objects": 3, "need": 2}),
    (objects.waiting, {"others": True}),
    (objects.dependents, {"tasks": "TU"}),
    (objects.spilling, {"spillers": 2, "readers": 2}),
]
BROKEN = [
    (queues.lanes, {"queued": (0, 0), "broken": "claim without swap"}),
    (queues.lanes, {"queued": (0, 1), "broken": "no second look"}),
    (queues.lanes, {"queued": (0, 1), "broken": "hint before tail"}),
    (queues.parking, {"broken": "no second look"}),
    (queues.parking, {"broken": "bit in the buffer"}),
    (queues.parking, {"broken": "wake without a word"}),
    (queues.resuming, {"broken": "no second look"}),
    (queues.resuming, {"broken": "plain release"}),
    (mailboxes.parking, {"broken": "parked after the look"}),
    (mailboxes.parking, {"broken": "parked in the buffer"}),
    (mailboxes.parking, {"broken": "bit cleared after the look"}),
    (mailboxes.parking, {"broken": "bit cleared, and no look"}),
    (mailboxes.segments, {"broken": "no second look"}),
    (mailboxes.segments, {"broken": "used again before it is said"}),
    (objects.holders, {"broken": "the version stays"}),
    (objects.holders, {"broken": "free without a look at the version"}),
    (objects.waiting, {"broken": "no second look"}),
    (objects.waiting, {"broken": "parked in the buffer"}),
    (objects.waiting, {"broken": "parked without a look"}),
    (objects.waiting, {"broken": "waiter before the seal"}),
    (objects.waiting, {"broken": "events read late"}),
    # As it once was: a wait for several objects could take 0.1 s longer than it had to.
    (objects.waiting, {"broken": "asleep on the events"}),
    (objects.dependents, {"broken": "no second look"}),
    (objects.dependents, {"broken": "ready without swap"}),
    (objects.done_ring, {"broken": "event before the note"}),
    (objects.seal_open, {"broken": "without the version"}),
    (objects.spilling, {"broken": "pin in the buffer"}),
    (objects.spilling, {"broken": "no second look"}),
    (objects.spilling, {"broken": "pins not looked at"}),
    (objects.spilling, {"broken": "readers leave the mark"}),
]
LARGE_BROKEN = [
    (queues.parking, {"tasks": 2, "broken": "goes on as searcher"}),
    (queues.parking, {"tokens": 2, "tasks": 2, "broken": "searcher wakes nobody"}),
    # As it once was: of two tasks one could wait for the other's end, with a CPU free.
    (queues.parking, {"tokens": 2, "tasks": 2, "broken": "back without a word"}),
]


def named(case: tuple[Any, dict[str, Any]]) -> str:
    model, options = case
    where = model.__module__
    return "-".join([where, model.__name__, *map(str, options.values())])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "case", [*SOUND, *[pytest.param(c, marks=slow, id=named(c)) for c in LARGE]], ids=named
)
def test_it_holds_in_every_order(case, order):
    model, options = case
    assert checker.check(model(**options), order) > 20


@pytest.mark.parametrize(
    "case", [*BROKEN, *[pytest.param(c, marks=slow, id=named(c)) for c in LARGE_BROKEN]], ids=named
)
def test_a_mistake_is_found(case):
    model, options = case
    with pytest.raises(checker.Violation) as caught:
        checker.check(model(**options), "tso")
    assert "after:\n" in str(caught.value)  # and how it comes about is told


def test_a_mistake_on_arm_alone_is_found():
    # A segment that is used again was written to before the store that says so could be seen.
    model = mailboxes.segments(broken="plain stores to what is used again")
    checker.check(model, "tso")
    with pytest.raises(checker.Violation):
        checker.check(model, "weak")


# ---- the checker itself ------------------------------------------------------------------------


def two_flags(store: Any) -> checker.Model:
    """Dekker's: each says that it is there, then looks whether the other one is."""

    def process(me: str, other: str) -> checker.Process:
        yield store(me, 1)
        there = yield checker.load(other)
        if not there:
            yield checker.add("alone", 1)

    return checker.Model(
        {"a": 0, "b": 0, "alone": 0},
        {"a": lambda: process("a", "b"), "b": lambda: process("b", "a")},
        lambda m: bool(m["alone"] <= 1),
    )


def message(second: Any) -> checker.Model:
    """Write something, then say that it is there."""

    def writer() -> checker.Process:
        yield checker.store_relaxed("data", 1)
        yield second("flag", 1)

    def reader() -> checker.Process:
        flag = yield checker.load("flag")
        if flag:
            data = yield checker.load("data")
            assert data, "what was said to be there is not"

    return checker.Model({"data": 0, "flag": 0}, {"w": writer, "r": reader})


@pytest.mark.parametrize(
    ("model", "order", "sound"),
    [
        (two_flags(checker.store), "tso", True),
        (two_flags(checker.store), "weak", True),
        (two_flags(checker.store_release), "sc", True),
        (two_flags(checker.store_release), "tso", False),
        (two_flags(checker.store_release), "weak", False),
        (message(checker.store_relaxed), "tso", True),
        (message(checker.store_relaxed), "weak", False),
        (message(checker.store_release), "weak", True),
    ],
)
def test_processors_are_modelled(model, order, sound):
    if sound:
        checker.check(model, order)
    else:
        with pytest.raises(checker.Violation):
            checker.check(model, order)


def test_who_sleeps_for_ever_is_told():
    def sleeper() -> checker.Process:
        yield checker.sleep("word", 0)

    def waker() -> checker.Process:
        yield checker.wake("word")  # which may come before

    model = checker.Model({"word": 0}, {"sleeper": sleeper, "waker": waker})
    with pytest.raises(checker.Violation, match="asleep for ever: .'sleeper'."):
        checker.check(model)


def test_any_step_may_be_the_last():
    def process() -> checker.Process:
        yield checker.store("begun", 1)
        yield checker.store("ended", 1)

    model = checker.Model({"begun": 0, "ended": 0}, {"p": process}, mortal=["p"])
    model.finally_ = lambda m, asleep: m["begun"] == m["ended"]
    with pytest.raises(checker.Violation, match="killed"):
        checker.check(model)
