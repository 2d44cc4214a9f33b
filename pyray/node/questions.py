"""What can be asked of the scheduler: its figures, and why a task waits."""

from __future__ import annotations

from collections.abc import Mapping

from pyray.node.bundles import Group
from pyray.node.pool import Pool
from pyray.node.resources import (
    CPU,
    GPU,
    UNITS,
    ResourcePool,
    ResourceRequest,
    SchedulerConfig,
    format_amount,
    from_units,
)
from pyray.node.task import QUEUED, RESUMING, Task
from pyray.node.tokens import TokenAccount


class Questions:
    """The part of `pyray.node.scheduler.Scheduler` that changes nothing."""

    config: SchedulerConfig
    _pool: ResourcePool
    _cpu: TokenAccount
    _workers: Pool
    _tasks: dict[int, Task]
    _groups: dict[int, Group]
    _deferring: bool
    _no_process: bool

    @property
    def held_tokens(self) -> int:
        """Tokens that the node holds."""
        return self._cpu.held

    @property
    def wanted_tokens(self) -> int:
        """How many more tokens it wants."""
        return self._cpu.want

    @property
    def deferring(self) -> bool:
        """Whether a task is kept waiting only by `FastDemand`, which must hence be kept true."""
        return self._deferring

    @property
    def short_of_workers(self) -> bool:
        """Whether assignments wait for a worker to be seen idle."""
        return not self._workers.may_assign

    def totals(self) -> dict[str, float]:
        """What the session has, as `cluster_resources` reports it."""
        return {name: from_units(n) for name, n in self._total_units().items() if n}

    def available(self, free_tokens: int) -> dict[str, float]:
        """What is not in use; as in Ray, what is used up is left out.

        Parameters
        ----------
        free_tokens : int
            Tokens that the node does not hold and no task uses, idle leases included.
        """
        return {name: from_units(n) for name, n in self._free_units(free_tokens).items() if n}

    def why_infeasible(self, request: ResourceRequest | Mapping[str, object]) -> str | None:
        """Say why a request can never be met, or None if it can."""
        if not isinstance(request, ResourceRequest):
            request = ResourceRequest.from_dict(request)
        total = self._total_units()
        asked = request.units()
        if all(n <= total.get(name, 0) for name, n in asked.items()):
            if not request.parts or self._pool.unused().pick(request) is not None:
                return None
            parts = ", ".join(f"{from_units(n):g}" for n in request.parts if n)
            return f"asks for {parts} of a GPU, which cannot be cut out of {self.config.num_gpus}"
        there = ", ".join(format_amount(name, total.get(name, 0)) for name in asked)
        return f"asks for {request}; this session has {there}"

    def why_waiting(self, task: int, free_tokens: int = 0) -> str | None:
        """Say what a task lacks, for the line on a long wait; None if it isn't waiting here.

        `free_tokens` as in `available`.
        """
        known = self._tasks.get(task)
        if known is None or known.state not in (QUEUED, RESUMING):
            return None
        request = known.shape.request
        if known.state == RESUMING:
            return f"waits to get {format_amount(CPU, request.cpus)} back"
        if known.shape.group:
            text = self._why_in_group(known)
        else:
            free = self._free_units(free_tokens)
            there = ", ".join(format_amount(name, free[name]) for name in request.units())
            text = f"asks for {request}" + (f"; free now: {there}" if there else "")
        if known.shape.dedicated and self._no_process:
            text += f"; waits for one of {self._workers.cap} processes to end"
        return text

    def _why_in_group(self, task: Task) -> str:
        request, group = task.shape.request, self._groups[task.shape.group]
        text = f"asks for {request} in its placement group"
        waiting = self._tasks[-group.number]
        if waiting.state == QUEUED:
            return f"{text}, which has not been reserved yet (it asks for {group.request})"
        there = ", ".join(format_amount(name, n) for name, n in self._free_in(request).items())
        return text + (f"; free there now: {there}" if there else "")

    def _free_in(self, request: ResourceRequest) -> dict[str, int]:
        """What is free of what a task in a group asks for: in its bundle, if it named one."""
        free: dict[str, int] = {}
        for name, _ in request.seats + request.others:
            n, kind = self._pool.free[name], name.partition("\0")[0]
            if kind:
                free[kind] = min(n, free.get(kind, n))
        if request.gpu:
            free[GPU] = min(sum(self._pool.gpus[request.gpus]), free.get(GPU, 1 << 62))
        return free

    @property
    def at_standstill(self) -> bool:
        """Whether what the last `CapReached` said is still so."""
        return self._workers.cap_told

    @property
    def process_limit(self) -> int:
        """Most worker processes at once, dedicated ones included."""
        return self._workers.cap

    def _total_units(self) -> dict[str, int]:
        config = self.config
        others = {name: self._pool.total[name] for name in self._pool.own}
        return {CPU: config.num_cpus * UNITS, GPU: config.num_gpus * UNITS, **others}

    def _free_units(self, free_tokens: int) -> dict[str, int]:
        cpu = (free_tokens + self._cpu.held) * UNITS - self._cpu.used
        others = {name: self._pool.free[name] for name in self._pool.own}
        return {CPU: cpu, GPU: sum(self._pool.gpus[GPU]), **others}
