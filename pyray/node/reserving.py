"""Placement groups in the scheduler, and what is held for good.

A placement group stands in line as a task would (with a negative number), and what it asks for is
kept for it as it would be for a task.  When its turn comes it is *reserved*: its resources appear
under names of its own (`pyray.node.bundles`), and tasks in it ask for those.

Actors and groups keep what they have for as long as they like.  So what waits for something that
only they could give back may wait for ever, and others must not wait behind it: it closes nothing,
sets nothing aside and collects no CPUs, and has its turn when some actor or group has gone.  For
the same reason a blocked task whose CPUs have gone for good goes on without them.
"""

from __future__ import annotations

from pyray.node import messages as m
from pyray.node.bundles import Group
from pyray.node.questions import Questions
from pyray.node.resources import GPU, Allocation, ResourcePool, ResourceRequest, ShapeQueue
from pyray.node.task import GIVEN, QUEUED, RESERVED, WITH_CPUS, Task
from pyray.node.tokens import tokens_for

__all__ = ["Reserving"]


class Reserving(Questions):
    """The part of `pyray.node.scheduler.Scheduler` that knows of groups and of what lasts."""

    _shapes: dict[int, ShapeQueue]
    _active: dict[ShapeQueue, None]
    _parked: dict[ShapeQueue, None]
    _lasting: set[int]
    _beyond: tuple[ResourcePool, int] | None
    _lent: int
    _numbers: int
    _places_used: int
    _places_apart: int

    @property
    def lent_tokens(self) -> int:
        """Tokens that actors and groups have for as long as they like."""
        return self._lent

    def why_waiting(self, task: int, free_tokens: int = 0) -> str | None:
        text = super().why_waiting(task, free_tokens)
        known = self._tasks.get(task)
        if text and known and known.state == QUEUED and known.shape in self._parked:
            group = self._groups.get(known.shape.group)
            if group is None or self._tasks[-group.number].state == RESERVED:
                text += "; actors and placement groups keep the rest"
        return text

    # ------------------------------------------------------------------------- groups

    def _on_group_requested(self, event: m.GroupRequested, out: list[m.Instruction]) -> bool:
        number = event.group
        if number in self._groups:
            raise ValueError(f"placement group {number} is known already")
        group = Group(number, event.bundles)
        reason = self.why_infeasible(group.request)
        if reason:
            raise ValueError(reason)
        self._groups[number] = group
        shape = ShapeQueue(group.request, None, lasting=True, keeps_cpus=True, reserves=True)
        entry = (1, -event.depth, self._numbers, -number)
        self._numbers += 1
        self._tasks[-number] = task = Task(shape, entry)
        self._note(-number, "requested")
        return self._enqueue(task)

    def _on_group_removed(self, event: m.GroupRemoved, out: list[m.Instruction]) -> bool:
        group = self._groups.get(event.group)
        if group is None or group.removed:
            return False
        gone = set()
        for number in group.shapes:
            # From now on none of its shapes is known.
            gone.add(shape := self._shapes.pop(number))
            for handle in list(shape.live):
                self._forget(handle, self._tasks[handle])
                out.append(m.GroupGone(handle))
        group.removed = True
        for handle, task in self._tasks.items():
            if task.shape in gone and task.worker is not None:
                out.append(m.EndWorker(task.worker, handle))
        self._release_if_left(group)
        return True

    def _reserve(self, task: Task, view: ResourcePool, out: list[m.Instruction]) -> None:
        """Give a group what it asks for; it is the first of its queue."""
        request, handle = task.shape.request, task.entry[3]
        gpus = view.take(request)
        if view is not self._pool:
            self._pool.take_exactly(request, gpus)
        self._dequeue(task)
        task.state = RESERVED
        task.allocation = Allocation(request, gpus)
        self._take_cpu(task)
        self._lasting.add(handle)
        self._lasting_changed()
        size = len(self._pool.gpus[GPU])
        self._pool.add(*self._groups[-handle].resources(task.allocation, size))
        self._note(handle, f"reserved with {request}, GPUs {gpus}")
        out.append(m.GroupReserved(-handle))

    def _release_if_left(self, group: Group) -> None:
        """A removed group goes when no task has anything of it any more."""
        task = self._tasks[-group.number]
        if task.state == RESERVED:
            if self._pool.free[group.mark] < self._pool.total[group.mark]:
                return
            self._pool.remove(group.names())
        self._forget(-group.number, task)
        del self._groups[group.number]

    def _is_gone(self, task: Task) -> bool:
        """Whether the group that a task is in is being removed."""
        group = self._groups.get(task.shape.group) if task.shape.group else None
        return group is not None and group.removed

    # --------------------------------------------------------------------- CPUs and seats

    def _take_cpu(self, task: Task) -> None:
        if task.shape.lasting:
            self._lasting_changed()
        if task.bare:
            return
        if cpu := task.shape.request.cpu:
            task.opener = self._cpu.take(cpu)
        self._pool.take_seats(task.shape.request)
        if task.shape.place:
            self._places_used += 1
            self._places_apart += task.shape.dedicated

    def _give_back_cpu(self, task: Task) -> None:
        if task.shape.lasting:
            self._lasting_changed()
        if task.bare:
            task.bare = False
            return
        if cpu := task.shape.request.cpu:
            self._cpu.give(cpu, task.opener, unused=task.state == GIVEN)
        self._pool.give_seats(task.shape.request)
        if task.shape.place:
            self._places_used -= 1
            self._places_apart -= task.shape.dedicated

    # ---------------------------------------------------------------------- what lasts

    def _lasting_changed(self) -> None:
        """Something is held for good that was not, or the other way round."""
        self._beyond = None
        self._active.update(self._parked)
        self._parked.clear()

    def _besides_lasting(self) -> tuple[ResourcePool, int]:
        """What there would be if all went but what is held for good; and the CPUs so held."""
        if self._beyond is None:
            pool, cpu = self._pool.unused(), 0
            for handle in self._lasting:
                task = self._tasks[handle]
                assert task.allocation is not None
                pool.take_exactly(task.allocation.request, task.allocation.gpus)
                if task.shape.keeps_cpus and task.state in WITH_CPUS and not task.bare:
                    pool.take_seats(task.shape.request)
                    cpu += task.shape.request.cpu
            self._beyond = pool, cpu
        return self._beyond

    def _cpus_are_gone(self, request: ResourceRequest) -> bool:
        """Whether only actors and groups could give back the CPUs, or seats, that are missing."""
        pool, cpu = self._besides_lasting()
        if request.cpu and tokens_for(cpu + request.cpu) > self._cpu.total:
            return True
        return bool(pool.short_of_seats(request))

    def _waits_for_lasting(self, request: ResourceRequest) -> bool:
        """Whether only actors and groups could give back what is missing, or a part of it.

        That stays so until `_lasting_changed`.
        """
        return self._cpus_are_gone(request) or bool(self._besides_lasting()[0].short_of(request))

    def _tell_lent(self, out: list[m.Instruction]) -> None:
        lent = tokens_for(self._besides_lasting()[1])
        if lent != self._lent:
            self._lent = lent
            out.append(m.TokensLent(lent))

    # ------------------------------------------------------------ the scheduler's own

    def _enqueue(self, task: Task) -> bool:
        raise NotImplementedError

    def _dequeue(self, task: Task) -> None:
        raise NotImplementedError

    def _forget(self, handle: int, task: Task) -> None:
        raise NotImplementedError

    def _note(self, handle: int, what: str) -> None:
        raise NotImplementedError
