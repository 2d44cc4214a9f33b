"""The policy on how many worker processes there should be.

`Pool` counts processes; which of them runs what is decided in the scheduler. Dedicated workers are
none of the pool's: it knows only how many there are, since the cap on processes counts them.
"""

from __future__ import annotations

from pyray.node.messages import Instruction, PoolBroken, StartWorker, StopWorker

__all__ = ["Pool"]


class Pool:
    """Counts worker processes and decides when to start and retire them.

    Parameters
    ----------
    size : int
        Workers that should always be there: one per CPU.
    cap : int
        Most processes at once, starting ones included.
    idle_seconds : float
        How long a surplus must last before it is retired.
    max_start_failures : int
        Workers that may die while starting, in a row, before it gives up.
    """

    __slots__ = (
        "apart",
        "broken",
        "cap",
        "cap_told",
        "failures",
        "fast_blocked",
        "fast_need",
        "idle_seconds",
        "live",
        "max_start_failures",
        "permits",
        "size",
        "started",
        "starting",
        "surplus",
        "surplus_since",
        "unmet",
    )

    def __init__(self, size: int, cap: int, idle_seconds: float, max_start_failures: int) -> None:
        self.size = size
        self.cap = cap
        self.idle_seconds = idle_seconds
        self.max_start_failures = max_start_failures
        self.live: set[int] = set()
        self.apart = 0  # dedicated workers alive
        self.starting = 0
        self.started = False
        self.failures = 0  # starts that failed since the last that succeeded
        self.broken = False
        self.fast_blocked = 0
        self.fast_need = 0  # as NeedWorker said, less those that came up since
        self.unmet = 0  # assignments that found no idle worker, less workers freed since
        self.permits = 0  # assignments that may be tried while `unmet`
        self.cap_told = False
        self.surplus = 0  # smallest surplus since `surplus_since`
        self.surplus_since: float | None = None

    # An assignment is tried in the belief that some worker is idle; nobody can know, since the
    # fast path takes and leaves workers without asking. Where that failed, no more are tried
    # than workers have since been seen to become idle.

    @property
    def may_assign(self) -> bool:
        """Whether an assignment has a chance to find an idle worker."""
        return self.unmet == 0 or self.permits > 0

    def assigning(self) -> None:
        """An assignment is being tried."""
        if self.permits:
            self.permits -= 1

    def assign_failed(self) -> None:
        """It found no idle worker."""
        self.unmet += 1
        self.permits = 0

    def worker_idle(self, count: int = 1) -> bool:
        """Workers were seen idle; whether assignments that waited for one may now be tried."""
        usable = min(count, self.unmet)
        self.unmet -= usable
        self.permits = self.permits + usable if self.unmet else 0
        return usable > 0

    def need(self, count: int) -> None:
        """The fast path lacks this many workers now."""
        self.fast_need = max(0, count)

    def ready(self, worker: int) -> None:
        """A worker came up, or is idle again."""
        if worker not in self.live:
            self.live.add(worker)
            self.starting = max(0, self.starting - 1)
            self.failures = 0
            self.broken = False
            self.fast_need = max(0, self.fast_need - 1)
        self.worker_idle()

    def died(self, worker: int) -> None:
        """A worker ended."""
        if worker in self.live:
            self.live.remove(worker)
        elif self.starting:
            self.starting -= 1
            self.failures += 1

    def decide(self, out: list[Instruction], blocked: int) -> bool:
        """Start what is missing.

        Parameters
        ----------
        out : list
            Where instructions go.
        blocked : int
            Blocked workers of the pool whose tasks the scheduler knows.

        Returns
        -------
        bool
            Whether everything has just come to stand still at the cap.
        """
        if not self.started:
            return False
        if self.failures >= self.max_start_failures and not self.broken:
            self.broken = True
            out.append(PoolBroken(self.failures))
        need = self.fast_need + self.unmet
        processes = len(self.live) + self.starting
        if not self.broken:
            # One that is coming up covers a need, whatever it was started for.
            missing = max(self.size - processes, need - self.starting)
            for _ in range(min(missing, self.cap - self.apart - processes)):
                self.starting += 1
                processes += 1
                out.append(StartWorker())
        stuck = (
            need > 0
            and not self.starting
            and processes + self.apart >= self.cap
            and blocked + self.fast_blocked >= len(self.live)
        )
        news = stuck and not self.cap_told
        self.cap_told = stuck
        return news

    def tick(
        self, out: list[Instruction], now: float, idle: int, blocked: int, no_cpu: int
    ) -> None:
        """Retire workers that have been too many for `idle_seconds`.

        Blocked workers, and those whose tasks use no CPU (`no_cpu`), are no capacity: the pool's
        size is kept in workers besides them.
        """
        capacity = len(self.live) - blocked - self.fast_blocked - no_cpu
        surplus = min(idle, capacity - self.size)
        if surplus <= 0 or self.fast_need or self.unmet:
            self.surplus_since = None
        elif self.surplus_since is None:
            self.surplus_since, self.surplus = now, surplus
        else:
            self.surplus = min(self.surplus, surplus)
            if now - self.surplus_since >= self.idle_seconds:
                out.extend([StopWorker()] * self.surplus)
                self.surplus_since = None

    def validate(self) -> None:
        """Check the counts.

        Raises
        ------
        AssertionError
            With the figures.
        """
        figures = f"({len(self.live)} live, {self.starting} starting"
        figures += f", {self.apart} dedicated, cap {self.cap})"
        assert self.starting >= 0, f"fewer than none are starting {figures}"
        assert min(self.unmet, self.permits, self.fast_need) >= 0, figures
        assert not (self.permits and not self.unmet), f"permits that limit nothing {figures}"
