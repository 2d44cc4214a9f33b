"""What tasks ask for and what the session has, in exact integers.

Floats drift: ten tasks of 0.1 CPU must fill one CPU exactly, and giving them back must leave
exactly nothing in use. So every quantity is counted in units of 1/10000, as an ``int``; a float
is turned into units once, when it comes in.

Nothing here does any I/O. CPU is only counted in requests: who holds which CPU is the ledger of
tokens in shared memory, and the part of it that the node holds is the scheduler's business.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from numbers import Integral, Real

__all__ = [
    "CPU",
    "GPU",
    "MEMORY",
    "UNITS",
    "Allocation",
    "Entry",
    "ResourcePool",
    "ResourceRequest",
    "SchedulerConfig",
    "ShapeQueue",
    "TokenAccount",
    "format_amount",
    "from_units",
    "to_units",
    "tokens_for",
]

#: How many units make one of anything.
UNITS = 10_000

CPU = "CPU"
GPU = "GPU"
MEMORY = "memory"

# A product such as 0.29 * 10000 comes out as 2899.9999999999995; this much is forgiven, or what
# large floats can't tell, before rounding down. (Down, so that six requests of 1/6 fit into one.)
_FORGIVEN = 1e-6


def to_units(name: str, value: object) -> int:
    """Turn a quantity into units.

    Parameters
    ----------
    name : str
        The resource's name, for the message.
    value : object
        Any real number; a ``bool`` is refused, being a slip more often than a wish.

    Returns
    -------
    int
        The quantity in units of 1/10000; finer digits are dropped.

    Raises
    ------
    TypeError
        If `value` is no number.
    ValueError
        If it is negative, infinite, not a number, or too small to be counted.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"the amount of {name} must be a number, not {value!r}")
    if isinstance(value, Integral):
        units = int(value) * UNITS  # exact: bytes of memory may exceed what a float can count
    else:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"the amount of {name} must be a finite number, not {value!r}")
        if number.is_integer():
            units = int(number) * UNITS
        else:
            product = number * UNITS
            units = math.floor(product + max(_FORGIVEN, 2 * math.ulp(product)))
        if number > 0 and units == 0:
            raise ValueError(f"{name} {value!r} is too small: the smallest amount is 0.0001")
    if units < 0:
        raise ValueError(f"the amount of {name} must not be negative, not {value!r}")
    return units


def from_units(units: int) -> float:
    """Turn units back into a quantity for users."""
    return units / UNITS


def format_amount(name: str, units: int) -> str:
    """Write an amount for a message: ``CPU 0.5``, ``memory 2 GiB``."""
    value = units / UNITS
    if name == MEMORY:
        for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value >= size:
                return f"{name} {value / size:.4g} {unit}"
        return f"{name} {value:.10g} B"
    return f"{name} {value:.10g}"


def _check_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a resource's name must be a string, not {name!r}")
    if not name:
        raise ValueError("a resource's name must not be empty")
    return name


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What one shape of task asks for.

    Build it with `from_dict`, which checks.

    Attributes
    ----------
    cpu : int
        CPUs, in units. Given back while the task waits for other tasks.
    gpu : int
        GPUs, in units: a whole number of them, or a part of one.
    others : tuple of (str, int)
        Memory and custom resources, in units, by name.
    """

    cpu: int = 0
    gpu: int = 0
    others: tuple[(tuple[str, int]), ...] = ()
    #: The names of all that is asked for, CPU included.
    kinds: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        kinds = {name for name, _ in self.others}
        if self.cpu:
            kinds.add(CPU)
        if self.gpu:
            kinds.add(GPU)
        object.__setattr__(self, "kinds", frozenset(kinds))

    @classmethod
    def from_dict(cls, amounts: Mapping[str, object]) -> ResourceRequest:
        """Check a dictionary of amounts and intern it.

        Parameters
        ----------
        amounts : mapping of str to number
            ``{"CPU": 0.5, "GPU": 1, "memory": 2**30, "camera": 1}``; zeros are dropped.

        Raises
        ------
        TypeError, ValueError
            As `to_units`, or for a GPU request such as 1.5: parts of GPUs can't be joined.
        """
        units = {_check_name(name): to_units(name, value) for name, value in amounts.items()}
        gpu = units.pop(GPU, 0)
        if gpu > UNITS and gpu % UNITS:
            raise ValueError(
                f"{format_amount(GPU, gpu)}: a request for more than one GPU must be a whole number"
            )
        cpu = units.pop(CPU, 0)
        return cls(cpu, gpu, tuple(sorted((name, n) for name, n in units.items() if n)))

    def units(self) -> dict[str, int]:
        """Everything asked for, by name, in units."""
        amounts = {}
        if self.cpu:
            amounts[CPU] = self.cpu
        if self.gpu:
            amounts[GPU] = self.gpu
        amounts.update(self.others)
        return amounts

    def as_dict(self) -> dict[str, float]:
        """Everything asked for, by name, as users wrote it."""
        return {name: from_units(n) for name, n in self.units().items()}

    def __str__(self) -> str:
        return (
            ", ".join(format_amount(name, n) for name, n in self.units().items()) or "no resources"
        )


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one running task has been given.

    Attributes
    ----------
    request : ResourceRequest
        The amounts.
    gpu_ids : tuple of int
        Which GPUs, as indices 0 .. n-1 of the session's. One for a request for a part of one.
    """

    request: ResourceRequest
    gpu_ids: tuple[int, ...] = ()


class ResourcePool:
    """GPUs, memory and custom resources: how many there are and what is free.

    CPUs are not in it (see the module's docstring).

    Parameters
    ----------
    num_gpus : int
        GPUs of the session.
    others : mapping of str to int
        Memory and custom resources, in units.
    """

    __slots__ = ("free", "gpu_free", "gpu_total", "total")

    def __init__(self, num_gpus: int, others: Mapping[str, int]) -> None:
        self.gpu_total = num_gpus
        self.gpu_free = [UNITS] * num_gpus  # of each GPU
        self.total = dict(others)
        self.free = dict(others)

    def copy(self) -> ResourcePool:
        """Copy what is free, to try things on."""
        other = ResourcePool.__new__(ResourcePool)
        other.gpu_total = self.gpu_total
        other.gpu_free = list(self.gpu_free)
        other.total = self.total
        other.free = dict(self.free)
        return other

    def _pick_gpus(self, gpu: int) -> tuple[int, ...] | None:
        """Choose GPUs for `gpu` units without taking them; None if that is impossible."""
        free = self.gpu_free
        if gpu >= UNITS:
            whole = [i for i, n in enumerate(free) if n == UNITS]
            count = gpu // UNITS
            return tuple(whole[:count]) if len(whole) >= count else None
        # A part of one: from the fullest that still has room, so that others stay whole.
        best = min((i for i, n in enumerate(free) if n >= gpu), key=free.__getitem__, default=-1)
        return (best,) if best >= 0 else None

    def short_of(self, request: ResourceRequest) -> list[str]:
        """Which kinds, CPU aside, there is too little of for `request` now."""
        short = [name for name, n in request.others if self.free.get(name, 0) < n]
        if request.gpu and self._pick_gpus(request.gpu) is None:
            short.append(GPU)
        return short

    def take(self, request: ResourceRequest, skip: Collection[str] = ()) -> tuple[int, ...]:
        """Take what `request` asks for, all kinds but CPU and those in `skip`.

        Returns
        -------
        tuple of int
            The GPUs' ids.
        """
        gpu_ids: tuple[int, ...] = ()
        if request.gpu and GPU not in skip:
            picked = self._pick_gpus(request.gpu)
            assert picked is not None, f"took {request} of a pool that lacks GPUs"
            gpu_ids = picked
        self.take_exactly(request, gpu_ids, skip)
        return gpu_ids

    def take_exactly(
        self, request: ResourceRequest, gpu_ids: Iterable[int], skip: Collection[str] = ()
    ) -> None:
        """Take what `request` asks for, with these GPUs."""
        part = min(request.gpu, UNITS)
        for i in gpu_ids:
            self.gpu_free[i] -= part
        for name, n in request.others:
            if name not in skip:
                self.free[name] -= n

    def give(self, allocation: Allocation) -> None:
        """Give back what an allocation took, CPU aside."""
        request = allocation.request
        part = min(request.gpu, UNITS)
        for i in allocation.gpu_ids:
            self.gpu_free[i] += part
        for name, n in request.others:
            self.free[name] += n

    def validate(self, allocations: Iterable[Allocation]) -> None:
        """Check that what is free and what these allocations hold make up the totals.

        Raises
        ------
        AssertionError
            Naming the resource and the allocations that hold it.
        """
        held = list(allocations)
        gpu_used = [0] * self.gpu_total
        used = dict.fromkeys(self.total, 0)
        for allocation in held:
            request, ids = allocation.request, allocation.gpu_ids
            whole = request.gpu // UNITS
            count = whole if whole else 1 if request.gpu else 0
            assert len(ids) == len(set(ids)) == count, f"{request} was given the GPUs {ids}"
            for i in ids:
                gpu_used[i] += min(request.gpu, UNITS)
            for name, n in request.others:
                used[name] += n
        for i, n in enumerate(gpu_used):
            on_it = [str(a.request) for a in held if i in a.gpu_ids]
            assert n <= UNITS, f"GPU {i} is oversubscribed: {on_it}"
            assert n + self.gpu_free[i] == UNITS, (
                f"GPU {i}: {n} units in use by {on_it} and {self.gpu_free[i]} free, not {UNITS}"
            )
        for name, total in self.total.items():
            on_it = [str(a.request) for a in held if name in a.request.kinds]
            assert self.free[name] >= 0, f"{name} is oversubscribed: {on_it}"
            assert used[name] + self.free[name] == total, (
                f"{name}: {used[name]} units in use by {on_it} and {self.free[name]} free, "
                f"not {total}"
            )


def tokens_for(units: int) -> int:
    """How many whole CPU tokens it takes to hold so many units."""
    return -(-units // UNITS)


class TokenAccount:
    """The node's part of the ledger of CPU tokens, and what of it is in use.

    Where the fast path's tasks are level with shaped ones, the two sides take turns: a shaped
    task starts on a *fresh* token, one acquired since, and used tokens go back before others are
    wanted. A fraction that comes free in a token may be filled again only while a task that
    started on fresh tokens would keep it here anyway; otherwise a stream of small tasks, each
    filling the gap of another, would never let a token go.

    Parameters
    ----------
    total : int
        Tokens of the session.

    Attributes
    ----------
    held : int
        Tokens that the node holds.
    used : int
        Units of them that tasks have.
    opened : int
        Units of those tasks that started on fresh tokens.
    fresh : int
        Held tokens that were acquired and have not been used since.
    want : int
        How many more are wanted, as the shell has been told.
    """

    __slots__ = ("fresh", "held", "opened", "total", "used", "want")

    def __init__(self, total: int) -> None:
        self.total = total
        self.held = 0
        self.used = 0
        self.opened = 0
        self.fresh = 0
        self.want = 0

    @property
    def in_use(self) -> int:
        """Tokens of which a task has at least a part."""
        return tokens_for(self.used)

    @property
    def gap(self) -> int:
        """Units that may be filled without keeping a token here any longer."""
        return max(0, tokens_for(self.opened) * UNITS - self.used)

    def fits_turn(self, units: int) -> bool:
        """Whether a task that takes turns with the fast path may start."""
        return units <= self.gap + self.fresh * UNITS

    def turn_target(self, units: int) -> int:
        """Tokens to be held for it to start."""
        missing = max(0, units - self.gap - self.fresh * UNITS)
        return min(self.total, self.in_use + self.fresh + tokens_for(missing))

    def take(self, units: int) -> bool:
        """Give a task so many units; whether it counts as started on fresh tokens."""
        over = units - self.gap
        self.used += units
        if over <= 0:
            return False
        self.fresh = max(0, self.fresh - tokens_for(over))
        self.opened += units
        return True

    def give(self, units: int, opener: bool, unused: bool = False) -> None:
        """A task gives so many units back, perhaps without having run on them.

        `opener` is what `take` returned.
        """
        before = self.in_use
        self.used -= units
        if opener:
            self.opened -= units
        if unused:
            self.fresh += before - self.in_use

    def acquire(self, count: int) -> None:
        """The shell got tokens for the node."""
        if count < 0 or self.held + count > self.total:
            raise ValueError(
                f"acquired {count} tokens besides the {self.held} held: there are {self.total}"
            )
        self.held += count
        self.fresh += count
        self.want = max(0, self.want - count)

    def settle(self, target: int, turns: bool) -> tuple[int, int | None]:
        """Keep what serves to reach `target` tokens, let the rest go, want what is missing.

        Parameters
        ----------
        target : int
            Tokens that must be held for what waits to go on or start; 0 if nothing waits.
        turns : bool
            Whether tokens that were given back must go round by the fast path.

        Returns
        -------
        release : int
            Tokens to give back to the ledger.
        want : int or None
            How many are wanted now, if that has changed.
        """
        in_use = self.in_use
        usable = in_use + self.fresh if turns else self.held
        release = self.held - max(in_use, min(usable, target))
        self.held -= release
        self.fresh = min(self.fresh, self.held - in_use)
        want = max(0, target - self.held)
        changed = want != self.want
        self.want = want
        return release, want if changed else None

    def validate(self, used: int) -> None:
        """Check the books, given the sum of what tasks hold.

        Raises
        ------
        AssertionError
            With the figures.
        """
        figures = (
            f"(tokens: {self.total} in all, {self.held} held, {self.fresh} fresh, {self.want} "
            f"wanted; units: {self.used} booked, {used} with tasks)"
        )
        assert self.used == used, f"CPU units booked and with tasks differ {figures}"
        assert 0 <= self.in_use <= self.held <= self.total, f"CPU is oversubscribed {figures}"
        assert 0 <= self.opened <= self.used, f"{self.opened} units opened {figures}"
        assert 0 <= self.fresh <= self.held - self.in_use, f"fresh tokens are in use {figures}"
        assert 0 <= self.want <= self.total - self.held, f"wants more than there are {figures}"
        if not self.want:
            return
        assert self.held + self.want > self.in_use, f"wants tokens that it has {figures}"


#: Where a queued task stands: not urgent, -depth, number in sequence, task.
Entry = tuple[int, int, int, int]


class ShapeQueue:
    """The tasks of one shape that wait, in order.

    One that leaves before its turn is only crossed out: its entry stays in the heap until it
    comes up, or until such entries are the majority, so that leaving takes constant time.

    Parameters
    ----------
    request : ResourceRequest
        What each of them asks for.
    rejected : str or None
        Why none of them can ever run.
    dedicated : bool
        Whether each of them wants a process outside the pool.
    """

    __slots__ = ("dedicated", "heap", "live", "rejected", "request")

    def __init__(
        self, request: ResourceRequest, rejected: str | None, dedicated: bool = False
    ) -> None:
        self.request = request
        self.rejected = rejected
        self.dedicated = dedicated
        self.heap: list[Entry] = []
        self.live: dict[int, Entry] = {}  # by task, those that are not crossed out

    def __len__(self) -> int:
        return len(self.live)

    def push(self, entry: Entry) -> None:
        """Let a task stand in line."""
        self.live[entry[3]] = entry
        heappush(self.heap, entry)

    def head(self) -> Entry | None:
        """Return the first in line, if any."""
        heap = self.heap
        while heap:
            if self.live.get(heap[0][3]) is heap[0]:
                return heap[0]
            heappop(heap)
        return None

    def discard(self, task: int) -> None:
        """Let a task leave the line, whether it is the first or not."""
        entry = self.live.pop(task)
        if self.heap[0] is entry:
            heappop(self.heap)
        elif len(self.heap) > 2 * len(self.live) + 64:
            self.heap = list(self.live.values())
            heapify(self.heap)

    def validate(self) -> None:
        """Check that every task in line is in the heap once.

        Raises
        ------
        AssertionError
            Naming a task of which that is not true.
        """
        found = [e[3] for e in self.heap if self.live.get(e[3]) is e]
        wrong = set(self.live).symmetric_difference(found)
        assert not wrong, f"tasks {wrong} of {self.request} are in line but not in the heap"
        assert len(found) == len(self.live), f"some of {self.request} stand in line twice"


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What the session has, and limits.

    Attributes
    ----------
    num_cpus, num_gpus : int
        Whole numbers; CPUs are the tokens of the ledger.
    resources : mapping of str to number
        Custom resources by name, and ``memory`` in bytes.
    max_workers : int
        Most worker processes at once; never fewer than one more than CPUs.
    zero_cpu_limit : int or None
        Tasks without CPUs that may run at once, blocked ones not counted; None: 4 a CPU, and 4.
    idle_seconds : float
        After which surplus idle workers are retired.
    max_start_failures : int
        Workers dying while they start, in a row, after which no more are started.
    debug : bool
        Keep each task's last steps, for the messages of `Scheduler.validate`.
    """

    num_cpus: int
    num_gpus: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    max_workers: int = 250
    zero_cpu_limit: int | None = None
    idle_seconds: float = 10.0
    max_start_failures: int = 5
    debug: bool = False

    def __post_init__(self) -> None:
        for name in ("num_cpus", "num_gpus"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, not {value!r}")
            if value < 0:
                raise ValueError(f"{name} must not be negative, not {value!r}")
        for name in (CPU, GPU):
            if name in self.resources:
                raise ValueError(f"{name} belongs in num_{name.lower()}s, not in resources")
        if self.zero_cpu_limit is not None and self.zero_cpu_limit < 1:
            raise ValueError("zero_cpu_limit must be at least 1: no such task could ever run")
