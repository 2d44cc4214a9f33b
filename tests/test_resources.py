"""Amounts, requests, GPUs, and the books of CPU tokens."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyray.node.resources import (
    UNITS,
    Allocation,
    ResourcePool,
    ResourceRequest,
    SchedulerConfig,
    ShapeQueue,
    format_amount,
    from_units,
    to_units,
)
from pyray.node.tokens import TokenAccount, tokens_for


def request(**amounts: object) -> ResourceRequest:
    return ResourceRequest.from_dict(amounts)


@pytest.mark.parametrize(
    ("value", "units"),
    [
        (0, 0),
        (1, 10_000),
        (0.5, 5_000),
        (0.29, 2_900),  # 0.29 * 10000 is a little less than 2900
        (0.0001, 1),
        (1 / 3, 3_333),
        (Fraction(1, 4), 2_500),
        (2**60, 2**60 * 10_000),  # bytes beyond what a float counts exactly
        (1.5, 15_000),
    ],
)
def test_amounts_become_exact_units(value: float, units: int) -> None:
    assert to_units("X", value) == units


def test_numpy_scalars_are_amounts() -> None:
    np = pytest.importorskip("numpy")
    assert to_units("X", np.float32(0.5)) == 5_000
    assert to_units("X", np.int64(3)) == 30_000


@pytest.mark.parametrize("value", ["1", None, True, 1j, [1]])
def test_what_is_no_number_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="camera"):
        to_units("camera", value)


@pytest.mark.parametrize("value", [-1, -0.5, -0.00001, math.nan, math.inf, -math.inf, 0.00001])
def test_amounts_that_make_no_sense_are_value_errors(value: float) -> None:
    with pytest.raises(ValueError, match="camera"):
        to_units("camera", value)


@given(st.integers(1, 2 * UNITS))
def test_equal_parts_of_one_always_fit_into_it(parts: int) -> None:
    if parts <= UNITS:
        assert parts * to_units("X", 1 / parts) <= UNITS


@given(st.integers(0, 10**12))
def test_units_survive_the_way_out_and_in(units: int) -> None:
    assert to_units("X", from_units(units)) == units


def test_requests_are_interned_values() -> None:
    a = request(CPU=0.5, GPU=1, memory=2**30, camera=0, disk=2)
    b = request(disk=2.0, memory=2**30, GPU=1, CPU=0.5)
    assert a == b
    assert hash(a) == hash(b)
    assert a.kinds == {"CPU", "GPU", "memory", "disk"}
    assert a.as_dict() == {"CPU": 0.5, "GPU": 1, "disk": 2, "memory": 2**30}
    assert str(a) == "CPU 0.5, GPU 1, disk 2, memory 1 GiB"
    assert str(request(CPU=0)) == "no resources"


def test_more_than_one_gpu_must_be_whole_but_cpus_need_not() -> None:
    with pytest.raises(ValueError, match=r"GPU 1\.5.*whole number"):
        request(GPU=1.5)
    assert request(GPU=2.0).gpu == 2 * UNITS
    assert request(CPU=1.5).cpu == 15_000


def test_names_are_checked() -> None:
    with pytest.raises(ValueError, match="empty"):
        ResourceRequest.from_dict({"": 1})
    with pytest.raises(TypeError, match="string"):
        ResourceRequest.from_dict({3: 1})  # type: ignore[dict-item]


def test_amounts_are_written_for_people() -> None:
    assert format_amount("CPU", 5_000) == "CPU 0.5"
    assert format_amount("memory", 3 * 2**29 * UNITS) == "memory 1.5 GiB"
    assert format_amount("memory", 10 * UNITS) == "memory 10 B"
    assert format_amount("camera", 0) == "camera 0"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"num_cpus": -1}, ValueError),
        ({"num_cpus": 1.5}, TypeError),
        ({"num_cpus": True}, TypeError),
        ({"num_cpus": 1, "num_gpus": -1}, ValueError),
        ({"num_cpus": 1, "resources": {"GPU": 1}}, ValueError),
        ({"num_cpus": 1, "zero_cpu_limit": 0}, ValueError),
    ],
)
def test_configurations_are_checked(arguments: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        SchedulerConfig(**arguments)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------ GPUs


def take(pool: ResourcePool, **amounts: object) -> Allocation:
    wanted = request(**amounts)
    assert pool.short_of(wanted) == []
    return Allocation(wanted, pool.take(wanted))


def test_whole_gpus_are_exclusive_and_parts_share_the_fullest() -> None:
    pool = ResourcePool(3, {})
    quarter = take(pool, GPU=0.25)
    assert quarter.gpu_ids == (0,)
    assert take(pool, GPU=1).gpu_ids == (1,)
    half = take(pool, GPU=0.5)
    assert half.gpu_ids == (0,)  # not 2: that one stays whole
    assert take(pool, GPU=0.5).gpu_ids == (2,)  # 0 has only a quarter left
    assert take(pool, GPU=0.25).gpu_ids == (0,)
    assert pool.short_of(request(GPU=1)) == ["GPU"]
    pool.give(half)
    pool.give(quarter)
    assert pool.short_of(request(GPU=1)) == ["GPU"]  # three quarters of 0, half of 2: none whole
    assert pool.gpus["GPU"] == [7_500, 0, 5_000]
    assert take(pool, GPU=0.2).gpu_ids == (2,)


def test_requests_for_several_gpus_get_distinct_ones() -> None:
    pool = ResourcePool(4, {})
    assert take(pool, GPU=3).gpu_ids == (0, 1, 2)
    assert pool.short_of(request(GPU=2)) == ["GPU"]
    assert take(pool, GPU=1).gpu_ids == (3,)


def test_every_kind_that_is_lacking_is_named() -> None:
    pool = ResourcePool(0, {"camera": UNITS})
    assert set(pool.short_of(request(CPU=9, GPU=1, camera=2, disk=1))) == {"GPU", "camera", "disk"}


def test_validate_names_the_oversubscribed() -> None:
    pool = ResourcePool(1, {"camera": UNITS})
    one = take(pool, GPU=1, camera=1)
    pool.validate([one])
    with pytest.raises(AssertionError, match="GPU 0 is oversubscribed"):
        pool.validate([one, one])
    with pytest.raises(AssertionError, match="GPU 0"):
        pool.validate([])
    pool.give(one)
    pool.free["camera"] = -1
    with pytest.raises(AssertionError, match="camera"):
        pool.validate([])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_takings_and_givings_add_up(seed: int) -> None:
    chance = random.Random(seed)
    pool = ResourcePool(3, {"memory": 100 * UNITS, "camera": 2 * UNITS})
    held: list[Allocation] = []
    for _ in range(60):
        wanted = request(
            GPU=chance.choice([0, 0.1, 0.25, 0.5, 0.7, 1, 2]),
            memory=chance.choice([0, 1, 50]),
            camera=chance.choice([0, 0.5, 1]),
        )
        if chance.random() < 0.6 and not pool.short_of(wanted):
            held.append(Allocation(wanted, pool.take(wanted)))
        elif held:
            pool.give(held.pop(chance.randrange(len(held))))
        pool.validate(held)
    for allocation in held:
        pool.give(allocation)
    assert pool.gpus["GPU"] == [UNITS] * 3
    assert pool.free == pool.total


def test_setting_aside_leaves_out_what_is_skipped() -> None:
    pool = ResourcePool(1, {"camera": UNITS, "disk": UNITS})
    view = pool.copy()
    view.take(request(GPU=1, camera=1, disk=1), skip={"GPU", "disk"})
    assert (view.gpus, view.free) == ({"GPU": [UNITS]}, {"camera": 0, "disk": UNITS})
    assert pool.free == {"camera": UNITS, "disk": UNITS}


# ---------------------------------------------------------------------------- tokens


def test_tokens_are_whole() -> None:
    assert [tokens_for(n) for n in (0, 1, 9_999, 10_000, 10_001)] == [0, 1, 1, 1, 2]


def test_tokens_that_serve_nothing_are_released() -> None:
    cpu = TokenAccount(4)
    assert cpu.settle(3, False) == (0, 3)
    cpu.acquire(3)
    cpu.take(15_000)
    assert cpu.settle(0, False) == (1, None)
    assert (cpu.held, cpu.in_use, cpu.want) == (2, 2, 0)
    cpu.give(15_000, True)
    assert cpu.settle(0, False) == (2, None)


def test_taking_turns_lets_used_tokens_go_and_keeps_fresh_ones() -> None:
    cpu = TokenAccount(4)
    cpu.settle(2, True)
    cpu.acquire(2)
    opener = cpu.take(UNITS)
    assert (opener, cpu.fresh) == (True, 1)
    cpu.give(UNITS, opener)
    assert cpu.turn_target(2 * UNITS) == 2
    assert cpu.settle(2, True) == (1, 1)  # the used one goes; the other is kept for who waits
    cpu.acquire(1)
    opener = cpu.take(2 * UNITS)
    assert cpu.fresh == 0
    cpu.give(2 * UNITS, opener, unused=True)
    assert cpu.fresh == 2


def test_gaps_are_filled_only_while_an_opener_keeps_the_token_anyway() -> None:
    cpu = TokenAccount(1)
    cpu.acquire(1)
    half = UNITS // 2
    assert cpu.take(half)
    assert cpu.fits_turn(half)
    assert not cpu.take(half)  # it fills the gap
    cpu.give(half, False)
    assert cpu.fits_turn(half)
    assert not cpu.take(half)
    cpu.give(half, True)
    assert not cpu.fits_turn(half)  # what is left only fills: the token must get free
    assert cpu.settle(cpu.turn_target(half), True) == (0, None)
    cpu.give(half, False)
    assert cpu.settle(cpu.turn_target(half), True) == (1, 1)


def test_tokens_beyond_the_target_are_released() -> None:
    cpu = TokenAccount(4)
    cpu.settle(4, False)
    cpu.acquire(3)
    assert cpu.settle(2, False) == (1, 0)


def test_more_tokens_than_there_are_is_an_error() -> None:
    cpu = TokenAccount(2)
    with pytest.raises(ValueError, match="there are 2"):
        cpu.acquire(3)


def test_token_books_are_checked() -> None:
    cpu = TokenAccount(2)
    cpu.acquire(1)
    cpu.take(UNITS)
    cpu.validate(UNITS)
    with pytest.raises(AssertionError, match="differ"):
        cpu.validate(0)
    cpu.take(UNITS)
    with pytest.raises(AssertionError, match="oversubscribed"):
        cpu.validate(2 * UNITS)


# ---------------------------------------------------------------------------- queues


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_a_queue_is_a_sorted_list(seed: int) -> None:
    chance = random.Random(seed)
    queue, model = ShapeQueue(request(CPU=2), None), {}
    for number in range(400):
        if chance.random() < 0.55:
            entry = (chance.randrange(2), -chance.randrange(3), number, number % 90)
            if entry[3] not in model:
                model[entry[3]] = entry
                queue.push(entry)
        elif model:
            task = chance.choice(list(model))
            if chance.random() < 0.3:
                task = min(model.values())[3]
            del model[task]
            queue.discard(task)
        assert queue.head() == min(model.values(), default=None)
        assert len(queue) == len(model)
        queue.validate()


def test_crossed_out_entries_are_swept() -> None:
    queue = ShapeQueue(request(CPU=2), None)
    for number in range(10_000):
        queue.push((1, 0, number, number))
    for number in range(1, 10_000):
        queue.discard(number)
    assert len(queue.heap) <= 70
