"""`validate()`: it passes after work of every kind, and finds each sort of thing that is wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import fault_helpers as h
import numpy as np
import point_helpers as p
import pytest

import pyray as ray
from pyray import accounting
from pyray._core import audit, store

SLAB, LARGE = 2 << 16, 1 << 16
NOBODY = 200  # a process slot that nobody has
DRIVER = 0


@pytest.fixture
def quiet() -> None:
    """A session with two workers up."""
    ray.init(num_cpus=2, object_store_memory=64 << 20, log_to_driver=False)
    h.wait_until(lambda: len(h.idle_pids()) == 2, what="two workers")
    p.sound()


@pytest.mark.usefixtures("quiet")
class TestInOrder:
    def test_a_new_session(self) -> None:
        report = accounting.validate()
        assert (report.used, report.free, report.total) == (0, 64 << 20, 64 << 20)
        assert report.busy == [] and report.in_hand == 0

    def test_used_and_free_are_all_there_is(self) -> None:
        kept = [ray.put(np.zeros(n)) for n in (10, 1000, 100_000)]
        report = p.sound()
        assert report.used + report.free == report.total and report.used >= 808_000
        del kept
        assert p.sound().used < 65_536

    def test_work_of_every_kind(self) -> None:
        actor = p.Adder.remote()
        for i in range(3):
            p.some_work(i, actor)
        p.sound()
        del actor
        h.wait_until(lambda: all(not w["dedicated"] for w in h.workers()), what="the actor's end")
        p.sound()

    def test_while_tasks_run(self, gate: Any) -> None:
        @ray.remote
        def hold(gate: Any, block: Any) -> int:
            mine = ray.put(block * 2)
            gate.wait()
            return len(ray.get(mine))

        refs = [hold.remote(gate, np.ones(50_000)) for _ in range(3)]
        after = p.echo.remote(refs[2])
        h.wait_until(lambda: len(accounting.validate().busy) == 2, what="two busy workers")
        gate.open()
        assert ray.get([*refs, after]) == [50_000] * 4
        p.sound()

    def test_cancelled_tasks(self, gate: Any) -> None:
        @ray.remote
        def hold(gate: Any, *args: Any) -> None:
            gate.wait()

        refs = [hold.remote(gate) for _ in range(20)]
        refs += [hold.remote(gate, refs[0]) for _ in range(5)]
        for ref in refs:
            ray.cancel(ref)
        for ref in refs:
            with pytest.raises(ray.exceptions.TaskCancelledError):
                ray.get(ref, timeout=10)
        del ref, refs
        p.sound()

    def test_after_deaths(self) -> None:
        blocks = [p.puts.remote(i) for i in range(5)]
        ray.wait(blocks, num_returns=5)
        for pid in h.idle_pids():
            os.kill(pid, signal.SIGKILL)
        assert len(ray.get(ray.get(blocks[4])[1])) == 50_000
        h.assert_whole()
        p.sound()
        del blocks
        h.wait_until(lambda: p.sound().used < 3 * 65_536, what="an empty store")

    def test_a_shape_of_its_own_and_a_group(self) -> None:
        group = ray.util.placement_group([{"CPU": 1}])
        ray.get(group.ready())
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group)
        assert ray.get(p.echo.options(scheduling_strategy=strategy).remote(1)) == 1
        p.sound()
        ray.util.remove_placement_group(group)
        p.sound()


def test_only_the_driver_of_a_session_may_ask(ray1: Any) -> None:
    @ray.remote
    def ask() -> str:
        try:
            accounting.validate()
        except ray.exceptions.SessionError as error:
            return str(error)
        return "it may"

    assert "driver" in ray.get(ask.remote())
    ray.shutdown()
    with pytest.raises(ray.exceptions.SessionError, match="driver"):
        accounting.validate()


# ---- what is wrong is found --------------------------------------------------------------------


@contextlib.contextmanager
def broken(what: str, at: int, change: Callable[[int], int]) -> Iterator[None]:
    """Have a word of shared memory be wrong for a while."""
    old = audit.break_word(what, at, 0)
    audit.break_word(what, at, change(old))
    try:
        yield
    finally:
        audit.break_word(what, at, old)


def findings(seconds: float = 0.05) -> str:
    with pytest.raises(accounting.AccountingError) as caught:
        accounting.validate(seconds)
    return "\n".join(caught.value.findings)


def unit_of(kind: int) -> int:
    """A unit that the driver has claimed so."""
    return next(u for u, word in audit.words().items() if word == kind | (DRIVER + 1))


@pytest.mark.usefixtures("quiet")
class TestFound:
    @pytest.fixture(autouse=True)
    def mended(self) -> Iterator[None]:
        """What was set right again is in order."""
        yield
        p.sound()

    def test_a_leaked_unit(self) -> None:
        with broken("unit", 4000, lambda _: LARGE | (DRIVER + 1)):
            assert "leak: unit 4000 is claimed by process 0" in findings()
        with broken("unit", 4000, lambda _: SLAB | (DRIVER + 1)):
            assert "leak: unit 4000" in findings()

    def test_a_unit_of_a_dead_process(self) -> None:
        with broken("unit", 4000, lambda _: LARGE | (NOBODY + 1)):
            assert "dead: unit 4000 is claimed by process 200" in findings()

    def test_a_lost_unit(self) -> None:
        ref = ray.put(np.zeros(10_000))
        unit = store.object_address(ref) // 16384
        with broken("unit", unit + 1, lambda _: 0):
            assert f"lost: unit {unit + 1} of object" in findings()

    def test_two_owners_of_a_large_block(self) -> None:
        a, b = ray.put(np.zeros(10_000)), ray.put(np.zeros(10_000))
        with broken("offset", audit.slot_of(b), lambda _: store.object_address(a)):
            found = findings()
            assert "double: unit" in found and "leak: unit" in found

    def test_two_owners_of_a_small_block(self) -> None:
        a, b = ray.put(b"a" * 400), ray.put(b"b" * 400)
        with broken("offset", audit.slot_of(b), lambda _: store.object_address(a)):
            found = findings()
            assert "double: block" in found and "leak: block" in found

    def test_a_block_in_use_that_is_free(self) -> None:
        ref, other = ray.put(b"a" * 300), ray.put(b"b" * 300)  # or the slab would look empty
        unit, at = divmod(store.object_address(ref), 16384)
        accounting.validate()  # from here on the others are listed as free
        with broken("slab bits", unit, lambda bits: bits | 1 << (at // 384)):
            assert "is an object's, and free" in findings(0.0)
        del other

    def test_a_leaked_block(self) -> None:
        ref = ray.put(b"a" * 300)
        unit = store.object_address(ref) // 16384
        accounting.validate()
        with broken("slab bits", unit, lambda _: 0):
            assert "is neither free nor anything's" in findings(0.0)

    def test_a_bit_of_a_dead_process(self) -> None:
        ref = ray.put(1)
        with broken("holders", audit.slot_of(ref), lambda bits: bits | 1 << 60):
            assert "is held by process 60" in findings()

    def test_a_bit_that_its_process_does_not_know_of(self) -> None:
        ref = ray.put(1)
        slot = next(w["slot"] for w in h.workers())
        with broken("holders", audit.slot_of(ref), lambda bits: bits | 1 << slot):
            assert f"own: process {slot}" in findings() and "does not know it" in findings()

    def test_a_lost_bit(self) -> None:
        ref = ray.put(1)
        inside = ray.put([ref])
        with broken("holders", audit.slot_of(ref), lambda _: 0):
            found = findings()
            assert "own: process 0" in found and "nobody holds object" in found
        del inside

    def test_an_object_that_nobody_knows(self) -> None:
        ref = ray.put(1)
        slot = audit.slot_of(ref)
        sealed = audit.break_word("object state", slot, 0)
        audit.break_word("object state", slot, sealed)
        del ref
        with broken("object state", slot, lambda _: sealed):
            found = findings()
            assert "holds 0 objects that nobody else knows of, and owns 1" in found

    @pytest.mark.parametrize("status", [3, 5, 6])
    def test_an_object_that_was_being_freed(self, status: int) -> None:
        ref = ray.put(1)
        slot = audit.slot_of(ref)
        del ref
        by = (NOBODY + 1) << 48
        with broken("object state", slot, lambda s: s & 0xFFFFFFFF0000 | 1 << 10 | status | by):
            assert f"stuck: object {slot} was being made or freed by process 200" in findings()

    def test_a_free_record_that_is_not_listed(self) -> None:
        refs = [ray.put(i) for i in range(3)]
        slot = audit.slot_of(refs[1])
        refs.clear()
        p.sound()
        chunk, at = divmod(slot, 512)
        with broken("free bits", chunk * 8 + at // 64, lambda b: b & ~(1 << (at % 64))):
            assert f"leak: record {slot} is free, and not listed" in findings(0.0)

    def test_ids_inside_a_value_that_are_gone(self) -> None:
        outer = ray.put([ray.put(1)])
        inner = ray.get(outer)[0]
        with broken("object state", audit.slot_of(inner), lambda s: s + (1 << 16)):
            assert "dangling: an id inside object" in findings()

    def test_a_task_in_no_queue(self) -> None:
        ref = p.echo.remote(1)
        task = store.task_of(ref)
        assert ray.get(ref) == 1
        p.sound()
        with broken("task state", task & 0xFFFFFFFF, lambda s: s & 0xFFFFFFFF0000 | 2):
            assert "is ready, and in no queue" in findings(0.3)

    def test_a_task_that_nobody_runs(self) -> None:
        ref = p.echo.remote(1)
        task = store.task_of(ref)
        assert ray.get(ref) == 1
        p.sound()
        slot = next(w["slot"] for w in h.workers())
        for by, what in ((slot, "which does not run it"), (NOBODY, "which is dead")):
            with broken(
                "task state",
                task & 0xFFFFFFFF,
                lambda s, by=by: s & 0xFFFFFFFF0000 | 4 | by << 48,  # type: ignore[misc]
            ):
                assert what in findings(0.3)

    def test_a_task_that_is_not_told(self, gate: Any) -> None:
        @ray.remote
        def hold(gate: Any) -> int:
            gate.wait()
            return 1

        first = hold.remote(gate)
        second = p.echo.remote(first)
        with broken("dependents", audit.slot_of(first), lambda _: 0):
            assert "waits for an object that does not know of it" in findings()
        gate.open()
        assert ray.get(second, timeout=10) == 1

    def test_tokens(self) -> None:
        with broken("token", 0, lambda _: NOBODY + 1):
            assert "dead: CPU token 0" in findings()
        with broken("token", 0, lambda _: DRIVER + 1):
            assert "which runs nothing" in findings()

    def test_a_chunk_of_a_dead_process(self) -> None:
        ref = ray.put(1)
        with broken("chunk owner", audit.slot_of(ref) // 512, lambda _: NOBODY + 1):
            assert "is process 200 (pid 0, which is dead)'s" in findings()

    def test_a_definition_that_is_gone(self) -> None:
        @ray.remote
        def mine() -> int:
            return 1

        assert ray.get(mine.remote()) == 1
        with broken("definition", 1, lambda handle: handle + (1 << 32)):
            assert "dangling: definition 1 is gone" in findings()

    def test_what_went_away_is_no_finding(self) -> None:
        began = time.monotonic()
        old = audit.break_word("unit", 4000, LARGE | (NOBODY + 1))
        import threading

        timer = threading.Timer(0.1, lambda: audit.break_word("unit", 4000, old))
        timer.start()
        accounting.validate(5.0)
        assert 0.05 < time.monotonic() - began < 4
        timer.join()


def test_what_the_node_puts_has_ids_of_its_own(ray1: Any) -> None:
    kept = [ray.put(bytes(100)) for _ in range(3)]
    actor = p.Adder.remote()
    assert ray.get(actor.add.remote(1)) == 1
    ray.kill(actor)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(actor.add.remote(1))  # with an error that the node has put
    listed = [o.object_id for o in ray.util.state.list_objects(limit=1000)]
    assert len(set(listed)) == len(listed) > len(kept)
