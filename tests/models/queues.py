"""Ready queues and who wakes whom: `queues.pyx`, `dispatch.pyx`.

Each function names the one that it stands for. `broken` picks a mistake; the tests see to it that
each is found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from checker import (
    Model,
    Op,
    Process,
    add,
    and_,
    cas,
    load,
    load_relaxed,
    or_,
    sleep,
    store,
    store_relaxed,
    store_release,
    until,
    wake,
    xchg,
)  # fmt: skip

READY, CLAIMED = 2, 3


def turn(name: str) -> Op:
    """A count that goes up; by fours, so that there is an end of states."""
    return ("rmw", name, lambda v: (v, (v + 1) % 4), "turn", name)


# ---- lanes: append against claim_from and refresh_hint -----------------------------------------


def lanes(queued: tuple[int, ...] = (0, 0, 1), broken: str = "") -> Model:
    """A submitter queues tasks, one of them twice; two workers claim all they see.

    No task runs twice; and what is ready and queued in the end, a hint says so.
    """

    def append() -> Process:
        at = 0
        while at < len(queued):
            task = queued[at]
            if task not in queued[:at]:
                yield store_release(f"state{task}", READY)
            if broken == "hint before tail":
                hint = yield load("hint")
                if hint < 1:
                    yield store("hint", 1)
            yield store_release(f"entry{at}", task)
            yield store("tail", at + 1)
            if broken != "hint before tail":
                hint = yield load("hint")
                if hint < 1:
                    yield store("hint", 1)
            at += 1

    def lane_empty() -> Process:
        tail = yield load("tail")
        head = yield load("head")
        return tail - head <= 0  # type: ignore[return-value]

    def refresh_hint() -> Process:
        while True:
            empty = yield from lane_empty()
            mark = 0 if empty else 1
            yield store("hint", mark)
            if broken == "no second look":
                return
            empty = yield from lane_empty()
            again = 0 if empty else 1
            if again <= mark:
                return

    def claim_from(me: int) -> Process:
        while True:
            head = yield load("head")
            tail = yield load("tail")
            if tail - head <= 0:
                return None
            task = yield load(f"entry{head}")
            state = yield load(f"state{task}")
            claimed = False
            if state == READY:
                if broken == "claim without swap":
                    yield store(f"state{task}", CLAIMED + me)
                    claimed = True
                else:
                    claimed = yield cas(f"state{task}", READY, CLAIMED + me)
            yield cas("head", head, head + 1)
            if claimed:
                return task  # type: ignore[return-value]

    def worker(me: int) -> Process:
        while True:
            hint = yield load_relaxed("hint")
            if hint == 0:
                return
            empty = yield from lane_empty()
            task = None
            if not empty:
                task = yield from claim_from(me)
            if task is None:
                yield from refresh_hint()
            else:
                yield add(f"ran{task}", 1)

    def once(m: Mapping[str, Any]) -> bool:
        return bool(m["ran0"] <= 1 and m["ran1"] <= 1)

    def seen(m: Mapping[str, Any], _asleep: list[str]) -> bool:
        left = m["state0"] == READY or m["state1"] == READY
        return not left or (m["hint"] >= 1 and m["tail"] > m["head"])

    return Model(
        {"tail": 0, "head": 0, "hint": 0, "entry0": 0, "entry1": 0, "entry2": 0, "state0": 0,
         "state1": 0, "ran0": 0, "ran1": 0},
        {"submitter": append, "worker 1": lambda: worker(1), "worker 2": lambda: worker(2)},
        once, seen,
    )  # fmt: skip


# ---- parking: next_task and search against announce --------------------------------------------


def parking(tokens: int = 1, tasks: int = 1, broken: str = "") -> Model:
    """Two workers that spin, park and are woken; a process that queues some tasks.

    When all is quiet there is no task that is ready while a CPU's token is free: that would be a
    lost wake-up. `ready` stands for the lanes and hints, which the model above is of.
    """

    def take_ready() -> Process:
        while True:
            n = yield load("ready")
            if n == 0:
                return False  # type: ignore[return-value]
            if (yield cas("ready", n, n - 1)):
                return True  # type: ignore[return-value]

    def token_free() -> Process:
        i = 0
        while i < tokens:
            holder = yield load(f"token{i}")
            if holder == 0:
                return True  # type: ignore[return-value]
            i += 1
        return False  # type: ignore[return-value]

    def token_take(me: int) -> Process:
        i = 0
        while i < tokens:
            holder = yield load_relaxed(f"token{i}")
            if holder == 0:
                if (yield cas(f"token{i}", 0, me)):
                    return i + 1  # type: ignore[return-value]
            i += 1
        return 0  # type: ignore[return-value]

    def wake_process(p: int) -> Process:
        yield turn(f"wake{p}")
        parked = yield load(f"parked{p}")
        if parked:
            yield wake(f"wake{p}")

    def pop_idle() -> Process:
        while True:
            bits = yield load("idle")
            if bits == 0:
                return 0  # type: ignore[return-value]
            p = 1 if bits & 1 else 2
            before = yield and_("idle", ~p)
            if before & p:
                return p  # type: ignore[return-value]

    def announce() -> Process:
        searcher = yield load("searcher")
        if searcher != 0:
            return
        free = yield from token_free()
        if not free:
            return
        p = yield from pop_idle()
        if p:
            if broken == "wake without a word":
                parked = yield load(f"parked{p}")
                if parked:
                    yield wake(f"wake{p}")
                return
            yield cas("searcher", 0, p)
            yield from wake_process(p)
        else:
            yield xchg("spawn_wanted", 1)

    def search(me: int) -> Process:
        task = yield from take_ready()
        if not task:
            searcher = yield load("searcher")
            if searcher != me:
                if searcher != 0:
                    return False  # type: ignore[return-value]
                if not (yield cas("searcher", 0, me)):
                    return False  # type: ignore[return-value]
            task = yield from take_ready()
        searcher = yield load_relaxed("searcher")
        if searcher == me:
            yield store("searcher", 0)
            if task and broken != "searcher wakes nobody":
                more = yield load("ready")
                if more:
                    yield from announce()
        return task

    def worker(me: int) -> Process:
        token = 0
        while True:
            if token == 0:
                token = yield from token_take(me)
            if token:
                task = yield from search(me)
                if task:
                    # Tasks that wait for one another, as far as there are CPUs for them.
                    yield add("running", 1)
                    yield until(lambda m: m["running"] >= min(tokens, tasks))
                    continue
                yield store(f"token{token - 1}", 0)
                token = 0
            else:
                searcher = yield load_relaxed("searcher")
                if searcher == me and broken != "goes on as searcher":
                    yield store("searcher", 0)
            seen = yield load(f"wake{me}")
            if broken == "bit in the buffer":
                # What the processor may make of a plain store: nobody sees it yet.
                bits = yield load_relaxed("idle")
                yield store_relaxed("idle", bits | me)
            else:
                yield or_("idle", me)
            if broken != "no second look":
                n = yield load("ready")
                if n:
                    searcher = yield load("searcher")
                    if searcher == 0:
                        free = yield from token_free()
                        if free:
                            before = yield and_("idle", ~me)
                            if before & me:
                                if broken != "back without a word":
                                    yield cas("searcher", 0, me)
                                continue
            while True:
                yield store(f"parked{me}", 1)
                yield sleep(f"wake{me}", seen)
                yield store(f"parked{me}", 0)
                now = yield load(f"wake{me}")
                if now != seen:
                    break
            yield and_("idle", ~me)

    def submitter() -> Process:
        n = 0
        while n < tasks:
            yield add("ready", 1)
            yield from announce()
            n += 1

    def quiet(m: Mapping[str, Any], asleep: list[str]) -> bool:
        free = any(m[f"token{i}"] == 0 for i in range(tokens))
        return not (m["ready"] and free) and "submitter" not in asleep

    memory = {"ready": 0, "idle": 0, "searcher": 0, "spawn_wanted": 0, "running": 0}
    for i in range(tokens):
        memory[f"token{i}"] = 0
    for p in (1, 2):
        memory[f"wake{p}"] = memory[f"parked{p}"] = 0
    processes: dict[str, Callable[[], Process]] = {
        "submitter": submitter, "worker 1": lambda: worker(1), "worker 2": lambda: worker(2),
    }  # fmt: skip
    return Model(memory, processes, None, quiet)


# ---- tokens: token_release against token_resume ------------------------------------------------


def resuming(broken: str = "") -> Model:
    """One token; a worker that gives it back, two that want one after a wait. Nobody sleeps while
    it is free, and it is never two's."""

    def wake_process(p: int) -> Process:
        yield turn(f"wake{p}")
        parked = yield load(f"parked{p}")
        if parked:
            yield wake(f"wake{p}")

    def pop_bit() -> Process:
        while True:
            bits = yield load("resume")
            if bits == 0:
                return 0  # type: ignore[return-value]
            p = 1 if bits & 1 else 2
            before = yield and_("resume", ~p)
            if before & p:
                return p  # type: ignore[return-value]

    def token_release(me: int) -> Process:
        while True:
            p = yield from pop_bit()
            if p:
                yield store("token", p)
                yield store(f"mine{p}", 1)
                yield from wake_process(p)
                return
            if broken == "plain release":
                yield store_relaxed("token", 0)
            else:
                yield store("token", 0)
            if broken == "no second look":
                return
            wanted = yield load("resume")
            if not wanted:
                return
            if not (yield cas("token", 0, me)):
                return

    def token_resume(me: int) -> Process:
        while True:
            token = yield load_relaxed("token")
            if token == 0:
                if (yield cas("token", 0, me)):
                    return
            seen = yield load(f"wake{me}")
            yield store(f"mine{me}", 0)
            yield or_("resume", me)
            token = yield load("token")
            if token == 0:
                before = yield and_("resume", ~me)
                if before & me:
                    continue
            while True:
                mine = yield load(f"mine{me}")
                if mine:
                    break
                yield store(f"parked{me}", 1)
                yield sleep(f"wake{me}", seen)
                yield store(f"parked{me}", 0)
                seen = yield load(f"wake{me}")
                mine = yield load(f"mine{me}")
                if mine:
                    break
                token = yield load("token")
                if token == 0:
                    before = yield and_("resume", ~me)
                    if before & me:
                        break
            mine = yield load(f"mine{me}")
            if mine:
                yield and_("resume", ~me)
                return

    def worker(me: int) -> Process:
        yield from token_resume(me)
        token = yield load("token")
        assert token == me, "two have the token"
        yield store(f"mine{me}", 0)
        yield from token_release(me)

    def holder() -> Process:
        yield from token_release(4)

    memory = {"token": 4, "resume": 0}
    for p in (1, 2):
        memory[f"wake{p}"] = memory[f"parked{p}"] = memory[f"mine{p}"] = 0
    return Model(
        memory,
        {"holder": holder, "worker 1": lambda: worker(1), "worker 2": lambda: worker(2)},
    )
