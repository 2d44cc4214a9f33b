"""The scheduler, driven by a model of the shell: rule by rule, then by random events.

`Shell` is a small independent model: it has the ledger of tokens and the workers, carries out
instructions, and checks each `Assign` against its own books and its own idea of the order.
"""

from __future__ import annotations

import math
import os
import random
import sys
from collections import Counter, deque
from fractions import Fraction as F
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pyray.node import messages as m
from pyray.node.scheduler import Scheduler, SchedulerConfig


def is_cpu(kind: Any) -> bool:
    """Whether it is CPUs: the session's, a group's or a bundle's."""
    return kind == "CPU" or (isinstance(kind, tuple) and kind[0] == "CPU")


class Shell:
    """Tokens, workers and tasks, as the shell of the node would keep them."""

    def __init__(
        self,
        cpus: int = 2,
        *,
        grants: bool = True,
        starts: bool = True,
        validate: bool = True,
        **config: Any,
    ) -> None:
        self.config = SchedulerConfig(num_cpus=cpus, debug=validate, **config)
        self.s = Scheduler(self.config)
        self.grants, self.starts, self.validate = grants, starts, validate
        self.cpus = self.free_tokens = cpus
        self.node_tokens = self.fast_tokens = self.want = 0
        self.starting = 0
        self.workers = 0
        self.idle: list[int] = []
        self.fast_busy: list[int] = []
        self.fast_blocked: list[int] = []
        self.apart: set[int] = set()  # dedicated workers alive
        self.apart_idle: list[int] = []
        self.settled: set[int] = set()  # blocked tasks that never go on: actors
        self.no_process = False
        self.misses = 0  # so many assignments are to find nobody, though somebody is idle
        self.dedicated: set[int] = set()  # shapes
        self.lasting: dict[int, bool] = {}  # shapes that keep what they have: and CPUs too
        self.in_group: dict[int, tuple[int, int]] = {}  # shapes: group and bundle
        self.groups: dict[int, list[dict[str, F]]] = {}
        self.reserved: dict[int, list[tuple[int, F]]] = {}  # what each has of which GPUs
        self.doomed: set[int] = set()  # tasks whose workers are to end
        self.bare: set[int] = set()  # tasks that have gone on without their CPUs
        self.lent = 0
        self.shapes: dict[int, dict[str, F]] = {}
        self.rejected: dict[int, str] = {}
        self.queued: dict[int, tuple[int, int, int]] = {}
        self.shape_of: dict[int, int] = {}
        self.depth: dict[int, int] = {}
        self.worker_of: dict[int, int] = {}
        self.gpus: dict[int, tuple[int, ...]] = {}
        self.running: list[int] = []
        self.blocked: list[int] = []
        self.resuming: list[int] = []
        self.attempts: Counter[int] = Counter()
        self.order: list[int] = []  # tasks as they were given out
        self.done: list[int] = []
        self.failed: dict[int, str] = {}
        self.dropped: list[int] = []
        self.stopped = 0
        self.news: list[m.Instruction] = []
        self.numbers, self.fronts, self.tasks = 0, -1, 0
        self.now = 0.0
        self.demand = False
        self.events: deque[m.Event] = deque()
        self.busy = False
        self.peak_workers = 0
        self.feed(m.Started())

    # -------------------------------------------------------------------- plumbing

    def feed(self, event: m.Event) -> None:
        """Handle an event, and all that its instructions cause, in order."""
        self.events.append(event)
        if self.busy:
            return
        self.busy = True
        while self.events:
            event = self.events.popleft()
            if isinstance(event, m.WorkerDied | m.DedicatedDied | m.Tick):
                self.no_process = False  # one may be had from now on
            for instruction in self.s.handle(event):
                getattr(self, "do_" + type(instruction).__name__)(instruction)
            if self.validate:
                self.s.validate()
            if self.grants and self.want and self.free_tokens and not self.events:
                self.grant()
        self.busy = False
        assert self.s.held_tokens == self.node_tokens

    def grant(self, most: int = 99) -> None:
        n = min(self.want, self.free_tokens, most)
        if n:
            self.free_tokens -= n
            self.node_tokens += n
            self.want -= n
            self.feed(m.TokensAcquired(n))

    def come_up(self) -> None:
        self.starting -= 1
        self.workers += 1
        self.idle.append(self.workers)
        self.feed(m.WorkerReady(self.workers))

    def do_Assign(self, i: m.Assign) -> None:
        assert i.dedicated == self.is_dedicated(i.task)
        if i.dedicated:
            self.assign_apart(i)
            return
        self.check_order(i.task)
        if not self.idle or self.misses:
            self.misses = max(0, self.misses - 1)
            self.events.appendleft(m.AssignFailed(i.task))
            return
        worker = self.idle.pop()
        self.order.append(i.task)
        del self.queued[i.task]
        self.running.append(i.task)
        self.worker_of[i.task] = worker
        self.gpus[i.task] = i.gpu_ids
        self.events.appendleft(m.Assigned(i.task, worker))

    def pool_alive(self) -> int:
        on_pool = sum(w not in self.apart for w in self.worker_of.values())
        return self.starting + len(self.idle) + on_pool + len(self.fast_busy + self.fast_blocked)

    def cap(self) -> int:
        return max(self.config.max_workers, self.cpus + 1)

    def assign_apart(self, i: m.Assign) -> None:
        if not self.apart_idle:
            if len(self.apart) + max(self.pool_alive(), self.cpus) >= self.cap():
                held = set(map(self.worker_of.get, self.settled))
                if self.apart > held:
                    self.no_process = True
                    self.events.appendleft(m.AssignFailed(i.task))
                else:
                    self.failed[i.task] = "no process"
                    del self.queued[i.task]
                    self.events.appendleft(m.AssignRefused(i.task))
                return
            self.workers += 1
            self.apart.add(self.workers)
            self.apart_idle.append(self.workers)
        self.check_order(i.task)
        worker = self.apart_idle.pop()
        self.order.append(i.task)
        del self.queued[i.task]
        self.running.append(i.task)
        self.worker_of[i.task] = worker
        self.gpus[i.task] = i.gpu_ids
        self.events.appendleft(m.Assigned(i.task, worker))

    def do_ResumeWorker(self, i: m.ResumeWorker) -> None:
        task = next(t for t, w in self.worker_of.items() if w == i.worker)
        if self.short_of_cpus(task, self.free()):
            gone = self.short_of_cpus(task, self.free(lasting=True))
            assert gone, f"{task} goes on, and its CPUs are not free"
            self.bare.add(task)
        self.resuming.remove(task)
        self.running.append(task)

    def short_of_cpus(self, task: int, free: dict[Any, F]) -> set[Any]:
        return {k for k, n in self.request(task).items() if is_cpu(k) and n > free[k]}

    def do_WantTokens(self, i: m.WantTokens) -> None:
        assert i.count != self.want, "nothing new"
        self.want = i.count

    def do_ReleaseTokens(self, i: m.ReleaseTokens) -> None:
        self.node_tokens -= i.count
        self.free_tokens += i.count
        assert i.count > 0 <= self.node_tokens

    def do_StartWorker(self, i: m.StartWorker) -> None:
        self.starting += 1
        self.peak_workers = max(self.peak_workers, self.pool_alive())
        assert self.pool_alive() + len(self.apart) <= self.cap()
        if self.starts:
            self.starting -= 1
            self.workers += 1
            self.idle.append(self.workers)
            self.events.append(m.WorkerReady(self.workers))

    def do_StopWorker(self, i: m.StopWorker) -> None:
        if self.idle:
            self.stopped += 1
            self.events.append(m.WorkerDied(self.idle.pop()))

    def do_Requeue(self, i: m.Requeue) -> None:
        self.attempts[i.task] = i.attempt
        self.put(i.task, self.shape_of[i.task], self.depth[i.task], front=True)

    def do_FailTask(self, i: m.FailTask) -> None:
        self.failed[i.task] = i.reason
        self.queued.pop(i.task, None)

    def do_Dropped(self, i: m.Dropped) -> None:
        del self.queued[i.task]
        self.dropped.append(i.task)

    def do_ShapeRejected(self, i: m.ShapeRejected) -> None:
        self.rejected[i.shape_id] = i.reason

    def do_CapReached(self, i: m.CapReached) -> None:
        self.news.append(i)

    do_PoolBroken = do_CapReached

    def do_GroupReserved(self, i: m.GroupReserved) -> None:
        self.check_order(-i.group)
        del self.queued[-i.group]
        self.order.append(-i.group)
        # The scheduler chose which GPUs, and is believed.
        gpus = self.s._tasks[-i.group].allocation.gpus
        self.reserved[i.group] = [(gpu, F(n, 10_000)) for share in gpus for gpu, n in share]

    def do_GroupGone(self, i: m.GroupGone) -> None:
        self.do_FailTask(m.FailTask(i.task, "removed"))

    def do_TokensLent(self, i: m.TokensLent) -> None:
        assert i.count != self.lent
        self.lent = i.count

    def do_EndWorker(self, i: m.EndWorker) -> None:
        assert self.worker_of[i.task] == i.worker
        self.doomed.add(i.task)

    # ------------------------------------------------------------------ what happens

    def shape(
        self,
        dedicated: bool = False,
        lasting: bool = False,
        keeps_cpus: bool = False,
        group: int = 0,
        bundle: int = -1,
        **request: float,
    ) -> int:
        number = len(self.shapes)
        self.shapes[number] = {k: F(str(v)) for k, v in request.items() if v}
        if dedicated:
            self.dedicated.add(number)
        if lasting:
            self.lasting[number] = keeps_cpus
        if group:
            self.in_group[number] = group, bundle
        event = m.ShapeRegistered(number, request, dedicated, lasting, keeps_cpus, group, bundle)
        self.feed(event)
        return number

    def request_group(self, *bundles: dict[str, float], depth: int = 0) -> int:
        number = len(self.groups) + 1
        self.groups[number] = [{k: F(str(v)) for k, v in b.items()} for b in bundles]
        self.queued[-number] = (True, -depth, self.numbers)
        self.numbers += 1
        self.feed(m.GroupRequested(number, bundles, depth))
        return number

    def remove_group(self, number: int) -> None:
        self.queued.pop(-number, None)
        self.done.append(-number)
        self.feed(m.GroupRemoved(number))

    def reap(self) -> None:
        """The workers that were to end have ended."""
        for task in list(self.doomed):
            worker = self.leave(task)
            self.failed[task] = "removed"
            self.no_process = False
            if worker in self.apart:
                self.apart_dies(worker)
            else:
                self.feed(m.WorkerDied(worker))

    def leave(self, task: int) -> int:
        """A task is not on its worker any more: which is it?"""
        for tasks in (self.running, self.blocked, self.resuming):
            if task in tasks:
                tasks.remove(task)
        for known in (self.settled, self.doomed, self.bare):
            known.discard(task)
        return self.worker_of.pop(task)

    def is_dedicated(self, task: int) -> bool:
        return self.shape_of[task] in self.dedicated

    def submit(self, shape: int, depth: int = 0, urgent: bool = False) -> int:
        self.tasks += 1
        self.put(self.tasks, shape, depth, urgent)
        return self.tasks

    def put(
        self, task: int, shape: int, depth: int, urgent: bool = False, front: bool = False
    ) -> None:
        number = self.fronts if front else self.numbers
        self.fronts -= front
        self.numbers += not front
        self.queued[task] = (not urgent, -depth, number)
        self.shape_of[task] = shape
        self.depth[task] = depth
        self.feed(m.TaskSubmitted(task, shape, depth, urgent, front))

    def urgent(self, task: int) -> None:
        if task in self.queued:
            self.queued[task] = (False, *self.queued[task][1:])
        self.feed(m.TaskUrgent(task))

    def finish(self, task: int) -> None:
        worker = self.leave(task)
        self.done.append(task)
        if worker in self.apart:
            self.apart_idle.append(worker)
            self.no_process = False
        else:
            self.idle.append(worker)
        self.feed(m.TaskFinished(task, worker))

    def may_settle(self, task: int) -> bool:
        shape = self.shape_of[task]
        return shape in self.dedicated and not self.lasting.get(shape)

    def settle(self, task: int) -> None:
        """An actor has come up, and goes on without its CPUs until it dies."""
        self.settled.add(task)
        self.block(task)

    def apart_dies(self, worker: int) -> None:
        self.apart.remove(worker)
        self.no_process = False
        self.feed(m.DedicatedDied(worker))

    def block(self, task: int) -> None:
        self.running.remove(task)
        self.bare.discard(task)
        self.blocked.append(task)
        self.feed(m.WorkerBlocked(self.worker_of[task]))

    def unblock(self, task: int) -> None:
        self.blocked.remove(task)
        self.resuming.append(task)
        self.feed(m.WorkerUnblocked(self.worker_of[task]))

    def kill(self, task: int, *, started: bool = True, max_retries: int = 3) -> None:
        worker = self.leave(task)
        self.no_process = False
        if worker in self.apart:
            self.apart_dies(worker)
        else:
            self.feed(m.WorkerDied(worker))
        self.feed(m.TaskLost(task, started, self.attempts[task], max_retries))

    def lose(self, task: int, max_retries: int = 3) -> None:
        """The same, but the scheduler hears of the task first."""
        worker = self.leave(task)
        self.no_process = False
        self.feed(m.TaskLost(task, True, self.attempts[task], max_retries))
        if worker in self.apart:
            self.apart_dies(worker)
        else:
            self.feed(m.WorkerDied(worker))

    def tokens_unasked(self, count: int) -> None:
        """Tokens come that were promised by somebody who died, and have been asked for again."""
        self.free_tokens -= count
        self.node_tokens += count
        self.want = max(0, self.want - count)
        self.feed(m.TokensAcquired(count))

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.no_process = False
        self.feed(m.Tick(self.now, len(self.idle)))

    def fast_demand(self, tokens: int, urgent: bool = False, depth: int = 0) -> None:
        self.demand = tokens > 0
        self.feed(m.FastDemand(tokens, urgent, depth))

    # ------------------------------------------------------------------------ checks

    def holders(self, lasting: bool) -> list[tuple[int, bool]]:
        """Tasks and groups that hold something, or those that do for good; whether CPUs too."""
        found = [(t, t not in self.bare) for t in self.running]
        found += [(t, False) for t in (*self.blocked, *self.resuming)]
        if lasting:
            kinds = self.lasting
            found = [
                (t, cpus and kinds[self.shape_of[t]])
                for t, cpus in found
                if self.shape_of[t] in kinds
            ]
        return found + [(-g, True) for g in self.groups_there()]

    def groups_there(self) -> list[int]:
        """Reserved groups; one that is removed holds what it has until its last task has gone."""
        placed = (*self.running, *self.blocked, *self.resuming)
        inside = {self.in_group.get(self.shape_of[t], (0, 0))[0] for t in placed}
        return [g for g in sorted(self.reserved) if -g not in self.done or g in inside]

    def free(self, lasting: bool = False) -> dict[Any, F]:
        """What is free of each kind, or would be if all went but what is there for good."""
        amounts: dict[Any, F] = {k: F(str(v)) for k, v in self.config.resources.items()}
        amounts["CPU"] = F(self.cpus if lasting else self.node_tokens)
        amounts["place"] = F(self.s._places)
        for group in self.groups_there():
            for i, bundle in enumerate(self.groups[group]):
                for name, n in bundle.items():
                    amounts[name, group] = amounts.get((name, group), F(0)) + n
                    amounts[name, group, i] = n
        for task, cpus in self.holders(lasting):
            request = self.request(task)
            for name, n in request.items():
                if name in amounts and (cpus or not is_cpu(name)):
                    amounts[name] -= n
            if cpus and task > 0 and not any(map(is_cpu, request)):
                amounts["place"] -= 1
        if lasting:  # tokens are whole
            amounts["CPU"] = F(math.floor(amounts["CPU"]))
        return amounts

    def gpu_free(self, lasting: bool = False) -> dict[Any, list[F]]:
        """What is free of each GPU: of the session's, and of each group's."""
        free: dict[Any, list[F]] = {"GPU": [F(1)] * self.config.num_gpus}
        for group in self.groups_there():
            free["GPU", group] = [F(0)] * self.config.num_gpus
            for gpu, n in self.reserved[group]:
                free["GPU", group][gpu] += n
                free["GPU"][gpu] -= n
        for task, _ in self.holders(lasting):
            if task > 0:
                group = self.in_group.get(self.shape_of[task])
                whose = ("GPU", group[0]) if group else "GPU"
                for gpu in self.gpus[task]:
                    free[whose][gpu] -= min(F(1), self.shapes[self.shape_of[task]]["GPU"])
        return free

    def request(self, task: int) -> dict[Any, F]:
        """What it asks for, a process of its own included; in a group, what of the group."""
        if task < 0:
            amounts: dict[Any, F] = {}
            for bundle in self.groups[-task]:
                for name, n in bundle.items():
                    amounts[name] = amounts.get(name, F(0)) + n
            return amounts
        shape = self.shape_of[task]
        request: dict[Any, F] = dict(self.shapes[shape])
        if shape in self.in_group:
            group, i = self.in_group[shape]
            inside: dict[Any, F] = {(name, group): n for name, n in request.items()}
            if i >= 0:
                inside |= {(name, group, i): n for name, n in request.items()}
            there = group in self.groups_there()
            request = inside if there else {**inside, ("mark", group): F(1)}
        return {**request, "process": F(0)} if self.is_dedicated(task) else request

    def short(self, task: int, free: dict[Any, F], gpus: dict[Any, list[F]]) -> set[Any]:
        request = self.request(task)
        short = set()
        for kind, n in request.items():
            if kind == "process":
                if self.no_process:
                    short.add(kind)
            elif kind == "GPU" and task < 0:
                if not self.fits_parts(self.groups[-task], gpus["GPU"]):
                    short.add(kind)
            elif kind == "GPU" or (isinstance(kind, tuple) and kind[0] == "GPU" and len(kind) == 2):
                there = gpus.get(kind, [])
                if not (there.count(F(1)) >= n if n >= 1 else any(g >= n for g in there)):
                    short.add(kind)
            elif not is_cpu(kind) and n > free.get(kind, F(0)):
                short.add(kind)
        if task > 0 and not any(map(is_cpu, request)) and free["place"] < 1:
            short.add("place")
        if not short:
            short = {k for k, n in request.items() if is_cpu(k) and n > free.get(k, F(0))}
        return short

    def fits_parts(self, bundles: list[dict[str, F]], gpus: list[F]) -> bool:
        """Whether the bundles' GPUs can be had: greatest first, from the fullest with room."""
        left = list(gpus)
        for part in sorted((b.get("GPU", F(0)) for b in bundles), reverse=True):
            for _ in range(max(1, math.floor(part)) if part else 0):
                room = [(g, i) for i, g in enumerate(left) if g >= min(F(1), part)]
                if not room:
                    return False
                left[min(room)[1]] -= min(F(1), part)
        return True

    def waits_for_lasting(self, task: int) -> bool:
        """Whether it lacks what only actors and groups could give back: nothing waits for it."""
        free, gpus = self.free(lasting=True), self.gpu_free(lasting=True)
        no_process, self.no_process = self.no_process, False
        lacks = self.short(task, {**free, "place": F(99)}, gpus) | {
            k for k, n in self.request(task).items() if is_cpu(k) and n > free.get(k, F(0))
        }
        self.no_process = no_process
        return bool(lacks)

    def check_books(self) -> None:
        free = self.free()
        assert all(n >= 0 for n in free.values()), free
        assert all(g >= 0 for gpus in self.gpu_free().values() for g in gpus)
        assert 0 <= self.node_tokens <= self.cpus
        assert self.free_tokens + self.node_tokens + self.fast_tokens == self.cpus
        assert self.lent == self.cpus - self.free(lasting=True)["CPU"]

    def check_order(self, task: int) -> None:
        """Nothing ahead of `task` may be short of what `task` uses, nor about to go on."""
        if not self.validate or any(isinstance(event, m.AssignFailed) for event in self.events):
            return  # it is about to hear that less has been given than it thinks
        mine = self.request(task)
        kinds = {*mine} if task < 0 or any(map(is_cpu, mine)) else {*mine, "place"}
        free, gpus = self.free(), self.gpu_free()
        for other in self.resuming:
            wants = {k for k in self.request(other) if is_cpu(k)} or {"place"}
            assert not wants & kinds, f"{task} started before {other} could go on"
        ahead: set[Any] = set()  # kinds that something further ahead waits for
        # What its worker's death gives back is given out before the scheduler has it again.
        unknown = {event.task for event in self.events if isinstance(event, m.TaskSubmitted)}
        for other in sorted(self.queued, key=self.queued.__getitem__):
            if other == task:
                break
            if other in unknown or self.waits_for_lasting(other):
                continue
            short = self.short(other, free, gpus)
            if {k for k in ahead & set(self.request(other)) if not is_cpu(k)}:
                # It may lack what is set aside for another.
                short = {k for k in short if not is_cpu(k)}
            assert not short & kinds, f"{task} overtook {other}, which lacks {short}"
            ahead |= set(self.request(other))

    def check_first(self) -> None:
        """The first in line never waits while it fits and a worker is there."""
        if self.demand or self.s.short_of_workers or not self.queued or self.resuming:
            return
        for first in sorted(self.queued, key=self.queued.__getitem__):
            if not self.waits_for_lasting(first):
                break
        else:
            assert not self.want, "tokens are wanted for what only actors could give back"
            return
        short = self.short(first, self.free(), self.gpu_free())
        assert short, f"{first} fits and is not started"
        if "CPU" in short:
            missing = self.cpus - self.node_tokens
            assert self.want or not missing, f"{first} lacks only CPUs, and none are wanted"

    def drain(self) -> None:
        """Let everything end; fail if anything doesn't."""
        self.fast_demand(0)
        for _ in range(2_000):
            self.grant()
            while self.starting:
                self.come_up()
            while self.fast_busy:
                self.idle.append(self.fast_busy.pop())
                self.fast_tokens -= 1
                self.free_tokens += 1
            if self.fast_blocked and self.free_tokens:
                self.idle.append(self.fast_blocked.pop())
                self.feed(m.FastBlocked(len(self.fast_blocked)))
            self.reap()
            if self.groups and not self.running and not self.blocked:
                for group in [g for g in self.groups if -g not in self.done][:1]:
                    self.remove_group(group)
            for task in list(self.blocked):
                if task in self.settled:
                    self.kill(task, max_retries=0)
                else:
                    self.unblock(task)
            if self.running:
                self.finish(self.running[0])
            self.tick()
            self.check_books()
            self.check_first()
            left = (self.queued, self.running, self.blocked, self.resuming, self.fast_blocked)
            if not any(left) and all(-g in self.done for g in self.groups):
                break
        else:
            stuck = {t: (self.request(t), self.s.why_waiting(t)) for t in self.queued}
            raise AssertionError(f"starved: {stuck}, resuming {self.resuming}")
        self.check_all_back()

    def check_all_back(self) -> None:
        assert self.want == self.node_tokens == 0
        assert self.free_tokens == self.cpus
        assert self.s.available(self.free_tokens) == self.s.totals()
        ended = {t for t in (*self.done, *self.failed, *self.dropped) if t > 0}
        assert set(range(1, self.tasks + 1)) == ended
        assert not self.s._groups and not self.s._lasting and not self.lent
        assert set(self.s._pool.total) == set(self.s._pool.own) and not self.s._pool.near


# ------------------------------------------------------------------------- feasibility


def test_what_can_never_be_met_says_what_was_asked_and_what_there_is() -> None:
    shell = Shell(2, resources={"memory": 2**30, "camera": 1})
    why = shell.s.why_infeasible
    assert why({"CPU": 8, "GPU": 1}) == "asks for CPU 8, GPU 1; this session has CPU 2, GPU 0"
    assert why({"disk": 1}) == "asks for disk 1; this session has disk 0"
    assert why({"memory": 2**31}) == "asks for memory 2 GiB; this session has memory 1 GiB"
    assert why({"CPU": 2, "memory": 2**30, "camera": 0.5}) is None
    assert why({}) is None
    shape = shell.shape(CPU=2.5)
    assert shell.rejected[shape] == "asks for CPU 2.5; this session has CPU 2"
    task = shell.submit(shape)
    assert shell.failed[task] == shell.rejected[shape]


def test_a_malformed_request_raises() -> None:
    scheduler = Scheduler(SchedulerConfig(num_cpus=1))
    with pytest.raises(TypeError, match="CPU"):
        scheduler.handle(m.ShapeRegistered(0, {"CPU": "two"}))
    with pytest.raises(ValueError, match="whole number"):
        scheduler.handle(m.ShapeRegistered(0, {"GPU": 1.5}))


def test_a_shape_keeps_its_meaning() -> None:
    scheduler = Scheduler(SchedulerConfig(num_cpus=1))
    scheduler.handle(m.ShapeRegistered(0, {"CPU": 0.5}))
    assert scheduler.handle(m.ShapeRegistered(0, {"CPU": 0.5, "GPU": 0})) == []
    with pytest.raises(ValueError, match="another"):
        scheduler.handle(m.ShapeRegistered(0, {"CPU": 1}))


# ------------------------------------------------------------------------------ tokens


def test_tokens_are_wanted_used_and_released() -> None:
    shell = Shell(4, grants=False)
    two = shell.shape(CPU=2)
    task = shell.submit(two)
    assert (shell.want, shell.order) == (2, [])
    shell.grant(1)
    assert (shell.want, shell.node_tokens, shell.order) == (1, 1, [])  # kept for it
    shell.grant(1)
    assert shell.order == [task]
    shell.finish(task)
    assert (shell.want, shell.node_tokens, shell.free_tokens) == (0, 0, 4)


def test_a_want_is_withdrawn_when_the_task_is_cancelled() -> None:
    shell = Shell(4, grants=False)
    task = shell.submit(shell.shape(CPU=3))
    shell.grant(1)
    shell.feed(m.TaskCancelled(task))
    assert (shell.want, shell.node_tokens, shell.dropped) == (0, 0, [task])
    shell.node_tokens, shell.free_tokens = 1, 3  # one was already on its way
    shell.feed(m.TokensAcquired(1))
    assert (shell.node_tokens, shell.free_tokens) == (0, 4)


def test_fractions_share_a_token() -> None:
    shell = Shell(2)
    half = shell.shape(CPU=0.5)
    tasks = [shell.submit(half) for _ in range(5)]
    assert (shell.order, shell.node_tokens) == (tasks[:4], 2)
    assert shell.s.available(0) == {}
    shell.finish(tasks[0])
    shell.finish(tasks[1])
    shell.finish(tasks[2])
    assert (len(shell.running), shell.node_tokens) == (2, 1)
    assert shell.s.available(1) == {"CPU": 1.0}
    shell.drain()


def test_tasks_without_cpus_need_no_token_but_a_place() -> None:
    shell = Shell(1, grants=False)
    none = shell.shape(CPU=0)
    tasks = [shell.submit(none) for _ in range(12)]
    assert (shell.order, shell.want) == (tasks[:8], 0)  # 4 a CPU and 4
    shell.block(tasks[0])
    assert shell.order == tasks[:9]
    shell.unblock(tasks[0])
    assert tasks[0] not in shell.running  # all places are taken
    shell.finish(tasks[1])
    assert tasks[0] in shell.running and tasks[9] not in shell.running
    shell.drain()


def test_a_session_without_cpus_runs_tasks_without_cpus() -> None:
    shell = Shell(0)
    assert shell.peak_workers == 0
    task = shell.submit(shell.shape(CPU=0))
    assert shell.order == [task]
    assert shell.s.totals() == {}
    shell.drain()


# ------------------------------------------------------------------------------- order


def test_urgent_then_deeper_then_first_in_first_out() -> None:
    shell = Shell(1)
    half = shell.shape(CPU=1)
    other = shell.shape(CPU=0.7)
    blocker = shell.submit(half)
    a, b = shell.submit(half), shell.submit(other)
    deep, deeper = shell.submit(other, depth=1), shell.submit(half, depth=2)
    later, urgent = shell.submit(half), shell.submit(half, urgent=True)
    promoted = shell.submit(other)
    shell.urgent(promoted)
    while shell.running:
        shell.finish(shell.running[0])
    assert shell.order == [blocker, urgent, promoted, deeper, deep, a, b, later]


def test_what_comes_back_through_no_fault_stands_first() -> None:
    shell = Shell(1)
    shape = shell.shape(CPU=1)
    first, second, third = (shell.submit(shape) for _ in range(3))
    shell.kill(first, started=False)
    assert shell.attempts[first] == 0
    assert shell.order == [first, second]  # its CPU went on at once
    shell.drain()
    assert shell.order[2:] == [first, third]


def test_a_big_task_is_not_starved_by_small_ones() -> None:
    shell = Shell(4)
    small, big = shell.shape(CPU=0.5), shell.shape(CPU=4)
    running = [shell.submit(small) for _ in range(8)]
    task = shell.submit(big)
    behind = [shell.submit(small) for _ in range(20)]
    for done in running:
        assert task not in shell.order
        shell.finish(done)
    assert shell.order[8:] == [task]
    shell.finish(task)
    assert shell.order[9:] == behind[:8]


def test_overtaking_is_for_those_that_use_nothing_that_is_lacking() -> None:
    shell = Shell(2, num_gpus=1, resources={"camera": 1})
    gpu, both = shell.shape(GPU=1), shell.shape(CPU=1, GPU=1)
    cpu, camera = shell.shape(CPU=1), shell.shape(camera=1)
    holder = shell.submit(gpu)
    waits = shell.submit(both)
    gpu_too, free_cpu, free_camera = shell.submit(gpu), shell.submit(cpu), shell.submit(camera)
    assert shell.order == [holder, free_cpu, free_camera]
    shell.finish(holder)
    assert shell.order[3:] == [waits]
    shell.finish(waits)
    assert shell.order[4:] == [gpu_too]


def test_no_cpu_idles_for_a_task_that_waits_for_a_gpu() -> None:
    shell = Shell(1, num_gpus=1)
    both, gpu = shell.shape(CPU=1, GPU=1), shell.shape(GPU=1)
    holder = shell.submit(gpu)
    shell.submit(both)
    assert (shell.want, shell.node_tokens) == (0, 0)
    shell.finish(holder)
    assert shell.node_tokens == 1


def test_two_endless_streams_do_not_starve_what_needs_both() -> None:
    shell = Shell(2, num_gpus=1, resources={"camera": 1})
    streams = [shell.shape(CPU=0, camera=1), shell.shape(CPU=0, GPU=1), shell.shape(CPU=0.5)]
    live = {s: [shell.submit(s) for _ in range(5)] for s in streams}
    task = shell.submit(shell.shape(CPU=2, camera=1, GPU=1))
    chance = random.Random(7)
    for _ in range(200):
        stream = chance.choice(streams)
        live[stream].append(shell.submit(stream))
        running = [t for t in shell.running if t in live[stream]]
        if running:
            shell.finish(running[0])
        if task in shell.order:
            break
    assert task in shell.order
    # The five of each stream that were ahead, and a CPU task a step while it lacked others.
    assert len(shell.order) < 150
    shell.drain()


# --------------------------------------------------------------------- blocking, resuming


def test_blocking_gives_back_cpus_and_keeps_gpus() -> None:
    shell = Shell(1, num_gpus=1)
    both, gpu = shell.shape(CPU=1, GPU=1), shell.shape(CPU=0, GPU=0.5)
    parent = shell.submit(both)
    assert shell.gpus[parent] == (0,)
    shell.block(parent)
    assert shell.s.available(shell.free_tokens) == {"CPU": 1.0}
    waits = shell.submit(gpu)
    assert waits not in shell.order
    child = shell.submit(shell.shape(CPU=1), depth=1)
    assert child in shell.order
    shell.unblock(parent)
    assert parent not in shell.running
    shell.finish(child)
    assert parent in shell.running
    shell.drain()


def test_those_that_go_on_come_before_new_starts_and_deeper_ones_first() -> None:
    shell = Shell(1)
    one = shell.shape(CPU=1)
    parent = shell.submit(one)
    shell.block(parent)
    child = shell.submit(one, depth=1)
    shell.block(child)
    grandchild = shell.submit(one, depth=2)
    queued = shell.submit(one, depth=3)
    shell.unblock(parent)
    shell.unblock(child)
    shell.finish(grandchild)
    assert shell.running == [child]
    shell.finish(child)
    assert shell.running == [parent]
    assert queued not in shell.order
    shell.finish(parent)
    assert shell.running == [queued]


def test_those_that_go_on_do_not_starve_each_other() -> None:
    shell = Shell(2)
    big, small = shell.shape(CPU=2), shell.shape(CPU=1)
    first = shell.submit(big)
    shell.block(first)
    second, third = shell.submit(small), shell.submit(small)
    shell.block(second)
    shell.unblock(first)
    shell.unblock(second)  # its CPU is free, but the other was there before
    assert shell.running == [third]
    shell.finish(third)
    assert shell.running == [first]
    shell.drain()


def test_an_urgent_task_goes_on_first() -> None:
    shell = Shell(1)
    one = shell.shape(CPU=1)
    first = shell.submit(one)
    shell.block(first)
    second = shell.submit(one)
    shell.block(second)
    holder = shell.submit(one)
    shell.unblock(first)
    shell.unblock(second)
    shell.urgent(second)
    shell.finish(holder)
    assert shell.running == [second]
    assert shell.s.why_waiting(first) == "waits to get CPU 1 back"


def test_a_wait_that_is_taken_up_again_before_going_on() -> None:
    shell = Shell(1)
    one = shell.shape(CPU=1)
    first = shell.submit(one)
    shell.block(first)
    shell.submit(one)
    shell.unblock(first)
    shell.resuming.remove(first)
    shell.blocked.append(first)
    shell.feed(m.WorkerBlocked(shell.worker_of[first]))
    shell.feed(m.WorkerBlocked(shell.worker_of[first]))  # said twice
    shell.drain()


def test_a_thousand_nested_tasks_need_few_workers() -> None:
    cpus = 2
    shell = Shell(cpus)
    shapes = [shell.shape(CPU=2), shell.shape(CPU=0.5)]
    parents = {shell.submit(shapes[0]) for _ in range(300)}
    child_of: dict[int, int] = {}
    while shell.running or shell.blocked:
        task = shell.running[0]
        if task in parents and task not in child_of.values():
            child = shell.submit(shapes[1], depth=1)
            child_of[child] = task
            shell.urgent(child)
            shell.block(task)
        else:
            shell.finish(task)
            if task in child_of:
                shell.unblock(child_of[task])
    assert len(shell.done) == 600
    assert shell.peak_workers <= 2 * cpus + 1
    shell.check_all_back()


# ------------------------------------------------------------------------ the fast path


def test_the_fast_path_keeps_its_cpus_where_it_is_ahead() -> None:
    shell = Shell(2)
    one = shell.shape(CPU=1)
    parents = [shell.submit(one), shell.submit(one)]
    queued = [shell.submit(one) for _ in range(10)]
    shell.fast_demand(1, urgent=True, depth=1)  # the first parent's child, on the fast path
    shell.block(parents[0])
    assert (shell.free_tokens, shell.node_tokens) == (1, 1)
    assert shell.order == parents and shell.s.deferring
    shell.finish(parents[1])  # the other CPU is for shaped tasks
    assert shell.order == [*parents, queued[0]]
    shell.fast_demand(0)
    assert shell.order == [*parents, *queued[:2]] and not shell.s.deferring
    shell.drain()


def test_a_token_in_use_is_filled_up_though_the_fast_path_is_ahead() -> None:
    shell = Shell(2)
    part = shell.shape(CPU=0.25)
    shell.submit(part)
    shell.fast_demand(2, depth=5)
    for _ in range(5):
        shell.submit(part)
    assert (len(shell.order), shell.node_tokens) == (4, 1)
    assert shell.s.deferring


def test_resuming_does_not_wait_for_the_fast_path() -> None:
    shell = Shell(1)
    task = shell.submit(shell.shape(CPU=1))
    shell.block(task)
    shell.fast_demand(9, urgent=True, depth=9)
    shell.unblock(task)
    assert task in shell.running


def test_level_with_the_fast_path_both_get_their_turn() -> None:
    shell = Shell(2, grants=False)
    one, two = shell.shape(CPU=0.5), shell.shape(CPU=2)
    shaped = [shell.submit(one) for _ in range(40)] + [shell.submit(two) for _ in range(5)]
    shell.fast_demand(1000)
    fast_done, steps = 0, 0
    turns: list[bool] = []
    while len(shell.done) < len(shaped):
        steps += 1
        assert steps < 1000
        # Released tokens go to fast tasks, which run one task each; then a wish is met.
        for _ in range(shell.free_tokens):
            fast_done += 1
            turns.append(True)
        shell.grant()
        if shell.running:
            shell.finish(shell.running[0])
            turns.append(False)
    assert fast_done >= 20
    assert shell.order == shaped


def test_a_turn_is_not_lost_for_want_of_a_worker() -> None:
    shell = Shell(1, starts=False, grants=False)
    shell.come_up()
    shell.fast_busy, shell.idle = shell.idle, []
    shell.fast_demand(5)
    task = shell.submit(shell.shape(CPU=0.5))
    shell.grant()
    assert (shell.order, shell.node_tokens, shell.want) == ([], 1, 0)
    shell.come_up()
    assert shell.order == [task]


@pytest.mark.parametrize("depth", [0, 1])
def test_a_stream_of_fractions_lets_tokens_go(depth: int) -> None:
    shell = Shell(1, grants=False)
    half = shell.shape(CPU=0.5)
    for _ in range(4):
        shell.submit(half)
    shell.grant()
    shell.fast_demand(1, depth=depth)  # level, or ahead
    for _ in range(6):
        shell.submit(half)
        shell.finish(shell.running[0])
        if shell.free_tokens:
            return
    raise AssertionError("each filled the gap of another")


def test_what_keeps_a_token_long_does_not_keep_it_idle() -> None:
    shell = Shell(1)
    long, quarter = shell.submit(shell.shape(CPU=0.5)), shell.shape(CPU=0.25)
    shell.fast_demand(1)
    for _ in range(50):
        short = shell.submit(quarter)
        assert short in shell.running
        shell.finish(short)
    assert shell.running == [long]


def test_behind_the_shaped_tasks_the_fast_path_gets_what_is_left() -> None:
    shell = Shell(2)
    one = shell.shape(CPU=1)
    shell.fast_demand(5, depth=0)
    deep = [shell.submit(one, depth=1) for _ in range(3)]
    assert shell.order == deep[:2]
    shell.finish(deep[0])
    assert shell.order == deep
    shell.finish(deep[1])
    assert shell.free_tokens == 1


# ----------------------------------------------------------------------------- workers


def test_the_pool_starts_with_a_worker_for_each_cpu() -> None:
    shell = Shell(3, starts=False)
    assert shell.starting == 3
    shell.feed(m.NeedWorker())  # covered by those coming up
    assert shell.starting == 3
    shell.feed(m.NeedWorker(5))
    assert shell.starting == 5
    for _ in range(5):
        shell.come_up()
    assert shell.starting == 0
    shell.feed(m.NeedWorker(1))
    shell.feed(m.NeedWorker(1))
    assert shell.starting == 1
    shell.feed(m.NeedWorker(0))
    assert shell.starting == 1


def test_an_assignment_without_a_worker_starts_one_and_keeps_its_place() -> None:
    shell = Shell(2, starts=False)
    for _ in range(2):
        shell.come_up()
    shell.fast_busy, shell.idle = shell.idle, []  # both run fast tasks without our CPU
    one, none = shell.shape(CPU=1), shell.shape(CPU=0)
    first, second = shell.submit(one), shell.submit(none)
    assert (shell.order, shell.starting, shell.node_tokens) == ([], 1, 1)
    assert shell.s.short_of_workers
    shell.come_up()
    assert shell.order == [first] and shell.starting == 1  # now for the second
    shell.come_up()
    assert shell.order == [first, second] and not shell.s.short_of_workers


@pytest.mark.parametrize("how", ["tick", "ready", "finish"])
def test_at_the_cap_an_assignment_waits_for_an_idle_worker(how: str) -> None:
    shell = Shell(2, max_workers=3)
    none = shell.shape(CPU=0)
    other = shell.submit(none)
    shell.feed(m.NeedWorker())
    shell.fast_busy, shell.idle = shell.idle, []
    task = shell.submit(none)
    assert task not in shell.order and shell.s.short_of_workers
    assert not shell.news  # they work, they are not blocked
    if how == "finish":
        shell.finish(other)
    else:
        shell.idle.append(shell.fast_busy.pop())
        shell.feed(m.Tick(1.0, 1) if how == "tick" else m.WorkerReady(shell.idle[0]))
    assert task in shell.order


def test_blocked_workers_are_replaced_until_the_cap_is_reported() -> None:
    shell = Shell(1, max_workers=4)
    one = shell.shape(CPU=1)
    tasks = []
    for depth in range(4):
        tasks.append(shell.submit(one, depth))
        shell.block(tasks[-1])
    assert not shell.news
    waiting = shell.submit(one, 4)
    assert shell.news == [m.CapReached(4, 4, 0, tuple(reversed(tasks)), 1)]
    shell.tick()
    assert len(shell.news) == 1  # said once
    shell.kill(tasks[-1], max_retries=0)  # the way out that the shell takes
    assert waiting in shell.order
    shell.drain()


def test_the_cap_counts_blocked_workers_of_the_fast_path() -> None:
    shell = Shell(1, max_workers=2)
    shell.feed(m.NeedWorker())
    shell.idle.clear()
    shell.feed(m.FastBlocked(2))
    shell.feed(m.NeedWorker())
    assert shell.news == [m.CapReached(2, 2, 2, (), 0)]
    shell.feed(m.FastBlocked(1))
    shell.feed(m.FastBlocked(2))
    assert len(shell.news) == 2  # a new standstill


def test_surplus_idle_workers_are_retired() -> None:
    shell = Shell(2)
    shell.feed(m.NeedWorker(6))
    assert len(shell.idle) == 8
    shell.tick()
    shell.tick(2.0)
    assert shell.stopped == 0
    shell.tick(1.0)
    assert (shell.stopped, len(shell.idle)) == (6, 2)
    shell.tick(60.0)
    shell.tick(60.0)
    assert shell.stopped == 6


def test_a_surplus_that_was_needed_meanwhile_is_no_surplus() -> None:
    shell = Shell(1)
    shell.feed(m.NeedWorker(3))
    none = shell.shape(CPU=0)
    shell.tick()
    tasks = [shell.submit(none) for _ in range(3)]
    shell.tick(5.0)  # one idle worker: none too many
    for task in tasks:
        shell.finish(task)
    shell.tick(5.0)
    assert shell.stopped == 0
    shell.tick(10.0)
    assert shell.stopped == 3


def test_only_the_least_surplus_is_retired() -> None:
    shell = Shell(1)
    shell.feed(m.NeedWorker(4))
    shell.tick()
    shell.feed(m.Tick(4.0, 2))  # the fast path uses three of the five
    shell.feed(m.Tick(30.0, 5))
    assert shell.stopped == 2


def test_blocked_workers_do_not_count_as_capacity() -> None:
    shell = Shell(1)
    one = shell.shape(CPU=1)
    shell.block(shell.submit(one))
    shell.feed(m.NeedWorker(1))
    assert len(shell.idle) == 1
    shell.tick()
    shell.tick(20.0)
    assert shell.stopped == 0


# ------------------------------------------------------------------- dedicated workers


def test_dedicated_tasks_need_no_worker_of_the_pool() -> None:
    shell = Shell(2, num_gpus=1, starts=False)
    own = shell.shape(CPU=1, GPU=1, dedicated=True)
    task = shell.submit(own)
    assert shell.order == [task] and shell.starting == 2
    shell.come_up()
    shell.come_up()
    assert shell.s.available(shell.free_tokens) == {"CPU": 1.0}
    shell.finish(task)
    again = shell.submit(own)
    assert shell.worker_of[again] in shell.apart and len(shell.apart) == 1
    assert len(shell.idle) == 2 and not shell.starting
    shell.drain()


def test_a_shape_for_dedicated_workers_is_another_shape() -> None:
    scheduler = Scheduler(SchedulerConfig(num_cpus=1))
    scheduler.handle(m.ShapeRegistered(0, {"CPU": 1}))
    with pytest.raises(ValueError, match="another"):
        scheduler.handle(m.ShapeRegistered(0, {"CPU": 1}, True))


def test_an_actor_gives_back_its_cpu_and_keeps_the_rest_until_it_dies() -> None:
    shell = Shell(1, num_gpus=1)
    actor = shell.submit(shell.shape(CPU=1, GPU=1, dedicated=True))
    shell.settle(actor)
    assert shell.s.available(shell.free_tokens) == {"CPU": 1.0}
    gpu = shell.submit(shell.shape(GPU=1))
    assert gpu not in shell.order
    shell.kill(actor, max_retries=0)
    assert gpu in shell.order
    shell.drain()


def test_dedicated_workers_are_no_part_of_the_pools_counts() -> None:
    shell = Shell(2)
    own = shell.shape(CPU=0, dedicated=True)
    shell.settle(shell.submit(own))
    running = shell.submit(own)
    shell.feed(m.NeedWorker(3))
    assert len(shell.idle) == 5
    shell.tick()
    shell.tick(20.0)
    assert (shell.stopped, len(shell.idle)) == (3, 2)  # neither capacity nor surplus
    shell.kill(running, max_retries=0)
    assert shell.starting == 0 and len(shell.idle) == 2  # and none is started in its place
    assert not shell.s._workers.failures
    shell.drain()


def test_the_cap_counts_dedicated_workers() -> None:
    shell = Shell(1, max_workers=4)
    own, one = shell.shape(CPU=0, dedicated=True), shell.shape(CPU=1)
    actors = [shell.submit(own) for _ in range(3)]
    for actor in actors:
        shell.settle(actor)
    refused = shell.submit(own)
    assert shell.failed[refused] == "no process"
    first = shell.submit(one)
    shell.block(first)
    second = shell.submit(one, depth=1)
    assert second not in shell.order
    assert shell.news == [m.CapReached(4, 1, 0, (first,), 1)] and shell.s.at_standstill
    shell.kill(actors[0], max_retries=0)
    assert second in shell.order and not shell.s.at_standstill
    shell.drain()


@pytest.mark.parametrize("how", ["finish", "kill", "tick"])
def test_at_the_cap_a_dedicated_task_waits_for_a_process_to_end(how: str) -> None:
    shell = Shell(1, max_workers=2)
    own = shell.shape(CPU=0.5, dedicated=True)
    first, waits = shell.submit(own), shell.submit(own)
    assert shell.order == [first] and shell.s.available(shell.free_tokens) == {"CPU": 0.5}
    assert shell.s.why_waiting(waits) == (
        "asks for CPU 0.5; free now: CPU 0.5; waits for one of 2 processes to end"
    )
    pool = shell.submit(shell.shape(memory=0))
    assert pool in shell.order  # it asks for no process
    if how == "tick":
        shell.settled.add(first)  # what it waited for will not come about
        shell.tick()
        assert shell.failed == {waits: "no process"}
    elif how == "kill":
        shell.kill(first, max_retries=0)
        assert waits in shell.order
    else:
        shell.finish(first)
        assert waits in shell.order
    shell.drain()


def test_a_dedicated_worker_gets_no_task_of_the_pool() -> None:
    shell = Shell(2, starts=False)
    task = shell.submit(shell.shape(CPU=1, dedicated=True))
    worker = shell.worker_of[task]
    shell.finish(task)
    shell.come_up()
    other = shell.submit(shell.shape(CPU=1))
    shell.s._tasks[other].state = 1
    shell.s._tasks[other].worker = None
    del shell.s._on_worker[shell.worker_of[other]]
    with pytest.raises(ValueError, match="not of the pool"):
        shell.s.handle(m.Assigned(other, worker))


def test_a_dead_worker_is_replaced_and_what_it_held_is_free() -> None:
    shell = Shell(2, num_gpus=1)
    task = shell.submit(shell.shape(CPU=1, GPU=1))
    shell.kill(task, max_retries=0)
    assert shell.failed[task] == "its worker died; no retries"
    assert len(shell.idle) == 2
    shell.drain()


def test_workers_that_die_while_starting_are_tried_again_but_not_for_ever() -> None:
    shell = Shell(1, starts=False, max_start_failures=3)
    for _ in range(3):
        assert shell.starting == 1 and not shell.news
        shell.starting -= 1
        shell.feed(m.WorkerDied(99))
    assert shell.starting == 0
    assert shell.news == [m.PoolBroken(3)]
    shell.feed(m.NeedWorker())
    assert shell.starting == 0


@pytest.mark.parametrize(
    ("started", "attempt", "max_retries", "answer"),
    [
        (False, 0, 0, m.Requeue(5, 0)),
        (False, 3, 3, m.Requeue(5, 3)),
        (True, 0, 3, m.Requeue(5, 1)),
        (True, 2, 3, m.Requeue(5, 3)),
        (True, 3, 3, m.FailTask(5, "its worker died; 3 of 3 retries had been used")),
        (True, 1, 1, m.FailTask(5, "its worker died; 1 of 1 retries had been used")),
        (True, 1000, -1, m.Requeue(5, 1001)),
    ],
)
def test_lost_tasks(started: bool, attempt: int, max_retries: int, answer: m.Instruction) -> None:
    scheduler = Scheduler(SchedulerConfig(num_cpus=1))
    assert scheduler.handle(m.TaskLost(5, started, attempt, max_retries)) == [answer]


def test_a_loss_may_be_told_before_the_death() -> None:
    shell = Shell(1)
    task = shell.submit(shell.shape(CPU=1))
    worker = shell.worker_of.pop(task)
    shell.running.remove(task)
    shell.feed(m.TaskLost(task, True, 0, 3))
    assert shell.order == [task, task] and shell.worker_of[task] != worker
    shell.feed(m.WorkerDied(worker))
    shell.feed(m.TaskFinished(task, worker))  # of the first attempt: too late
    assert shell.running == [task]
    shell.drain()


def test_what_is_not_known_here_is_ignored() -> None:
    scheduler = Scheduler(SchedulerConfig(num_cpus=1))
    for event in (
        m.TaskUrgent(7),
        m.TaskCancelled(7),
        m.TaskFinished(7, 7),
        m.WorkerBlocked(7),
        m.WorkerUnblocked(7),
        m.WorkerDied(7),
        m.DedicatedDied(7),
    ):
        assert scheduler.handle(event) == []
    scheduler.validate()


def test_the_shells_mistakes_raise() -> None:
    shell = Shell(2)
    one = shell.shape(CPU=1)
    task = shell.submit(one)
    for event in (
        m.TaskSubmitted(task, one),
        m.Assigned(task, 9),
        m.AssignFailed(task),
        m.AssignRefused(task),
        m.TokensAcquired(2),
    ):
        with pytest.raises(ValueError, match=r"already|not to be|there are"):
            shell.s.handle(event)
    shell.s.validate()


def test_a_running_task_is_not_dropped_by_cancelling() -> None:
    shell = Shell(1)
    task = shell.submit(shell.shape(CPU=1))
    shell.feed(m.TaskCancelled(task))
    assert (shell.dropped, shell.running) == ([], [task])


# --------------------------------------------------------------------------- questions


def test_totals_and_available() -> None:
    shell = Shell(4, num_gpus=2, resources={"memory": 100, "camera": 1})
    assert shell.s.totals() == {"CPU": 4.0, "GPU": 2.0, "memory": 100.0, "camera": 1.0}
    shell.submit(shell.shape(CPU=0.5, GPU=0.5, memory=25, camera=1))
    # Of the three tokens left in the ledger one is in use by the fast path.
    assert shell.s.available(2) == {"CPU": 2.5, "GPU": 1.5, "memory": 75.0}


def test_why_a_task_waits() -> None:
    shell = Shell(4, num_gpus=1)
    gpu = shell.shape(CPU=1, GPU=1)
    running, waiting = shell.submit(gpu), shell.submit(gpu)
    assert shell.s.why_waiting(waiting, 3) == "asks for CPU 1, GPU 1; free now: CPU 3, GPU 0"
    assert shell.s.why_waiting(running) is None


def test_validate_tells_the_story_of_the_offender() -> None:
    shell = Shell(1)
    task = shell.submit(shell.shape(CPU=1))
    shell.s._tasks[task].worker = None
    with pytest.raises(AssertionError, match=r"task 1 .*submitted.*given out.*assigned"):
        shell.s.validate()


def test_the_cost_of_an_event_does_not_grow_with_the_queue() -> None:
    def lines_a_task(count: int) -> float:
        """Of the scheduler's code, which is run while so many tasks come and go."""
        lines = 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal lines
            if f"{os.sep}node{os.sep}" not in frame.f_code.co_filename:
                return None
            lines += event == "line"
            return trace

        shell = Shell(4, num_gpus=2, validate=False)
        shapes = [shell.shape(CPU=2), shell.shape(CPU=0.5), shell.shape(GPU=0.5)]
        shapes.append(shell.shape(CPU=1, GPU=1))
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            for i in range(count):
                shell.submit(shapes[i % 4], depth=i % 3)
            for i in range(1, count, 10):
                shell.feed(m.TaskUrgent(i))
            while shell.running:
                shell.finish(shell.running[0])
        finally:
            sys.settrace(before)
        assert len(shell.done) == count
        return lines / count

    assert lines_a_task(4_000) < 1.2 * lines_a_task(400)


# ------------------------------------------------------------------------ random events

SHAPES: list[dict[str, float]] = [
    {"CPU": 2},
    {"CPU": 0.5},
    {},
    {"CPU": 1, "GPU": 1},
    {"GPU": 0.3},
    {"CPU": 3},
    {"CPU": 0.25, "camera": 1},
    {"CPU": 1, "GPU": 2, "camera": 1},
    {"memory": 60},
    {"CPU": 1.5, "memory": 50},
    {"CPU": 4},  # more than there are
    {"CPU": 1, "dedicated": True},
    {"dedicated": True},
    {"CPU": 0.5, "GPU": 1, "dedicated": True},
    {"camera": 1, "dedicated": True},
    {"CPU": 1, "dedicated": True, "lasting": True, "keeps_cpus": True},
    {"CPU": 1, "GPU": 0.5, "dedicated": True, "lasting": True},
]

GROUPS: list[list[dict[str, float]]] = [
    [{"CPU": 1}],
    [{"CPU": 1}, {"CPU": 1}],
    [{"CPU": 0.5, "GPU": 0.5}, {"CPU": 0.5, "GPU": 0.5}],
    [{"GPU": 1}, {"GPU": 0.4}, {"GPU": 0.6}],
    [{"CPU": 2, "memory": 40, "camera": 1}, {"CPU": 1}],
    [{"camera": 0.5, "memory": 60}],
]


class RandomEvents(RuleBasedStateMachine):
    """Any sequence of events, in which tokens and workers come when they please."""

    def __init__(self) -> None:
        super().__init__()
        self.shell = Shell(
            3,
            num_gpus=2,
            resources={"memory": 100, "camera": 1},
            grants=False,
            starts=False,
            max_workers=8,
            zero_cpu_limit=2,
            max_start_failures=10**9,
        )
        self.numbers = [self.shell.shape(**request) for request in SHAPES]
        self.inside: list[int] = []  # shapes in groups

    @initialize(eager=st.booleans())
    def begin(self, eager: bool) -> None:
        """Half of the runs give workers and tokens at once, and so get further."""
        while self.shell.starting:
            self.shell.come_up()
        self.shell.grants = self.shell.starts = eager

    @rule(
        shape=st.sampled_from(range(len(SHAPES))),
        depth=st.integers(0, 3),
        urgent=st.booleans(),
        count=st.integers(1, 3),
    )
    def submit(self, shape: int, depth: int, urgent: bool, count: int) -> None:
        for _ in range(count):
            self.shell.submit(self.numbers[shape], depth, urgent)

    @precondition(lambda self: len(self.shell.groups) < 6)
    @rule(kind=st.sampled_from(range(len(GROUPS))), depth=st.integers(0, 2))
    def request_group(self, kind: int, depth: int) -> None:
        """A placement group, and shapes of tasks in it: they may come before it is reserved."""
        bundles = GROUPS[kind]
        group = self.shell.request_group(*bundles, depth=depth)
        half = {name: n / 2 for name, n in bundles[0].items() if name != "GPU"}
        for bundle in (-1, 0, len(bundles) - 1):
            found = [{}, bundles[bundle]] if bundle else [half, *bundles[:1]]
            for request in found:
                self.inside.append(self.shell.shape(group=group, bundle=bundle, **request))
            own = {"dedicated": True, "lasting": True, "keeps_cpus": bundle == 0}
            self.inside.append(
                self.shell.shape(group=group, bundle=bundle, **own, **bundles[bundle])
            )

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), depth=st.integers(0, 2), count=st.integers(1, 2))
    def submit_inside(self, data: st.DataObject, depth: int, count: int) -> None:
        for _ in range(count):
            self.shell.submit(data.draw(st.sampled_from(self.inside)), depth)

    @precondition(lambda self: self.shell.groups)
    @rule(data=st.data())
    def remove_group(self, data: st.DataObject) -> None:
        self.shell.remove_group(data.draw(st.sampled_from(sorted(self.shell.groups))))

    @precondition(lambda self: self.shell.doomed)
    @rule()
    def reap(self) -> None:
        self.shell.reap()

    @precondition(lambda self: self.shell.shape_of)
    @rule(data=st.data())
    def urgent(self, data: st.DataObject) -> None:
        self.shell.urgent(data.draw(st.sampled_from(sorted(self.shell.shape_of))))

    @precondition(lambda self: self.shell.shape_of)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.shell.feed(m.TaskCancelled(data.draw(st.sampled_from(sorted(self.shell.shape_of)))))

    @precondition(lambda self: self.shell.want and self.shell.free_tokens)
    @rule(most=st.integers(1, 3))
    def grant(self, most: int) -> None:
        self.shell.grant(most)

    @precondition(lambda self: self.shell.free_tokens)
    @rule()
    def tokens_unasked(self) -> None:
        self.shell.tokens_unasked(1)

    @rule(count=st.integers(1, 2))
    def misses(self, count: int) -> None:
        """An idle worker that the scheduler was told of is taken by somebody else."""
        self.shell.misses = count

    @precondition(lambda self: self.shell.running)
    @rule(data=st.data(), retries=st.integers(0, 1))
    def lose(self, data: st.DataObject, retries: int) -> None:
        self.shell.lose(data.draw(st.sampled_from(self.shell.running)), retries)

    @precondition(lambda self: self.shell.starting)
    @rule(fails=st.sampled_from([False, False, False, True]))
    def start(self, fails: bool) -> None:
        if fails:
            self.shell.starting -= 1
            self.shell.feed(m.WorkerDied(-1))
        else:
            self.shell.come_up()

    @precondition(lambda self: self.shell.running)
    @rule(data=st.data(), what=st.sampled_from(["finish", "finish", "block", "kill", "settle"]))
    def step(self, data: st.DataObject, what: str) -> None:
        task = data.draw(st.sampled_from(self.shell.running))
        if what == "settle" and not self.shell.may_settle(task):
            what = "block"
        if what == "kill":
            started, retries = data.draw(st.booleans()), data.draw(st.integers(0, 1))
            self.shell.kill(task, started=started, max_retries=retries)
        else:
            getattr(self.shell, what)(task)

    @precondition(lambda self: self.shell.blocked)
    @rule(data=st.data(), dies=st.sampled_from([False, False, False, True]))
    def unblock(self, data: st.DataObject, dies: bool) -> None:
        task = data.draw(st.sampled_from(self.shell.blocked))
        if dies or task in self.shell.settled:
            self.shell.kill(task, max_retries=0)
        else:
            self.shell.unblock(task)

    @precondition(lambda self: self.shell.resuming)
    @rule(data=st.data())
    def kill_resuming(self, data: st.DataObject) -> None:
        self.shell.kill(data.draw(st.sampled_from(self.shell.resuming)))

    @precondition(lambda self: self.shell.idle)
    @rule(what=st.sampled_from(["fast", "dies", "ready"]))
    def use_idle(self, what: str) -> None:
        shell = self.shell
        if what == "ready":
            shell.feed(m.WorkerReady(shell.idle[0]))
        elif what == "dies":
            shell.feed(m.WorkerDied(shell.idle.pop()))
        elif shell.free_tokens:
            shell.free_tokens -= 1
            shell.fast_tokens += 1
            shell.fast_busy.append(shell.idle.pop())

    @precondition(lambda self: self.shell.apart_idle)
    @rule()
    def idle_apart_dies(self) -> None:
        self.shell.apart_dies(self.shell.apart_idle.pop())

    @precondition(lambda self: self.shell.fast_busy)
    @rule(blocks=st.booleans())
    def end_fast(self, blocks: bool) -> None:
        shell = self.shell
        shell.fast_tokens -= 1
        shell.free_tokens += 1
        worker = shell.fast_busy.pop()
        (shell.fast_blocked if blocks else shell.idle).append(worker)
        shell.feed(m.FastBlocked(len(shell.fast_blocked)))

    @rule(tokens=st.integers(0, 4), urgent=st.booleans(), depth=st.integers(0, 3))
    def fast_demand(self, tokens: int, urgent: bool, depth: int) -> None:
        self.shell.fast_demand(tokens, urgent, depth)

    @rule(count=st.integers(0, 2))
    def need(self, count: int) -> None:
        self.shell.feed(m.NeedWorker(count))

    @rule(seconds=st.sampled_from([0.1, 6.0]))
    def tick(self, seconds: float) -> None:
        self.shell.tick(seconds)

    @invariant()
    def books(self) -> None:
        self.shell.check_books()
        self.shell.check_first()

    def teardown(self) -> None:
        """Liveness: whatever can run has run in the end."""
        self.shell.misses = 0
        self.shell.drain()


TestRandomEvents = RandomEvents.TestCase
TestRandomEvents.settings = settings(
    deadline=None, max_examples=60, stateful_step_count=50, report_multiple_bugs=False
)


@pytest.mark.storm
@pytest.mark.seconds(1200)
def test_random_events_at_length() -> None:
    """The same with many more runs, and longer ones."""
    run_state_machine_as_test(
        RandomEvents,
        settings=settings(
            deadline=None, max_examples=3000, stateful_step_count=80, report_multiple_bugs=False
        ),
    )


@pytest.mark.parametrize("seed", range(20))
def test_long_random_runs(seed: int) -> None:
    """Longer than hypothesis cares to make them, and with queues that never run dry."""
    chance = random.Random(seed)
    machine = RandomEvents()
    shell = machine.shell
    for _ in range(400):
        what = chance.choice(["submit", "submit", "finish", "finish", "block", "unblock", "grant"])
        if chance.random() < 0.05:
            what = "settle"
        if chance.random() < 0.1:
            what = chance.choice(["group", "remove", "inside", "inside", "inside", "reap"])
        if chance.random() < 0.15:
            what = chance.choice(["kill", "start", "start", "fast", "end_fast", "demand", "tick"])
        if what == "submit":
            shape = chance.choice([*range(10), *range(11, len(SHAPES))])
            machine.submit(shape, chance.randrange(3), chance.random() < 0.1, 1)
        elif what == "group" and len(shell.groups) < 12:
            machine.request_group(chance.randrange(len(GROUPS)), chance.randrange(2))
        elif what == "inside" and machine.inside:
            for _ in range(3):
                shell.submit(chance.choice(machine.inside), chance.randrange(3))
        elif what == "remove" and shell.groups:
            shell.remove_group(chance.choice(list(shell.groups)))
        elif what == "reap":
            shell.reap()
        elif what in ("finish", "block", "kill") and shell.running:
            getattr(shell, what)(chance.choice(shell.running))
        elif what == "unblock" and shell.blocked:
            task = chance.choice(shell.blocked)
            if task in shell.settled:
                shell.kill(task)
            else:
                shell.unblock(task)
        elif what == "settle":
            running = [t for t in shell.running if shell.may_settle(t)]
            if running:
                shell.settle(chance.choice(running))
            elif shell.apart_idle:
                machine.idle_apart_dies()
        elif what == "grant":
            shell.grant(chance.randrange(1, 3))
        elif what == "start" and shell.starting:
            shell.come_up()
        elif what == "fast" and shell.idle:
            machine.use_idle("fast")
        elif what == "end_fast" and shell.fast_busy:
            machine.end_fast(chance.random() < 0.2)
        elif what == "demand":
            shell.fast_demand(chance.randrange(3), chance.random() < 0.3, chance.randrange(3))
        elif what == "tick":
            shell.tick(3.0)
        machine.books()
    machine.teardown()
