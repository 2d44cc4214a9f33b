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

from pyray.frozen import Frozen

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
    "Share",
    "format_amount",
    "from_units",
    "to_units",
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
    if not name or "\0" in name:
        # NUL is in the names of what placement groups have: see `pyray.node.bundles`.
        raise ValueError(f"a resource's name must not be empty or contain a NUL, as {name!r} does")
    return name


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What one shape of task asks for.

    Build it with `from_dict`, which checks. (What a placement group asks for, and what a task asks
    for in one, is made in `pyray.node.bundles`.)

    Attributes
    ----------
    cpu : int
        CPUs, in units. Given back while the task waits for other tasks.
    gpu : int
        GPUs, in units: a whole number of them, or a part of one.
    others : tuple of (str, int)
        Memory and custom resources, in units, by name.
    seats : tuple of (str, int)
        CPUs of a placement group, which is to say no tokens, in units, by name. Given back as
        CPUs are.
    gpus : str
        Whose GPUs: the session's, or a placement group's.
    near : str
        Of which bundle, if that one's are to be used first.
    parts : tuple of int
        For GPUs taken part by part, as a placement group's bundles are; their sum is `gpu`.
    asked : ResourceRequest or None
        In a placement group: the same as its user wrote it.
    """

    cpu: int = 0
    gpu: int = 0
    others: tuple[(tuple[str, int]), ...] = ()
    seats: tuple[(tuple[str, int]), ...] = ()
    gpus: str = GPU
    near: str = ""
    parts: tuple[int, ...] = ()
    asked: ResourceRequest | None = None
    #: The names of all that is asked for, CPU included.
    kinds: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        kinds = {name for name, _ in self.others}
        kinds.update(name for name, _ in self.seats)
        if self.cpu:
            kinds.add(CPU)
        if self.gpu:
            kinds.add(self.gpus)
        object.__setattr__(self, "kinds", frozenset(kinds))

    @property
    def cpus(self) -> int:
        """CPUs, of the session or of a group, in units."""
        return self.asked.cpu if self.asked else self.cpu

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
        if self.asked:
            return self.asked.units()
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


#: What is taken of GPUs for one purpose: GPUs, and how many units of each.
Share = tuple[tuple[int, int], ...]


class Allocation(Frozen):
    """What one running task has been given.

    Attributes
    ----------
    request : ResourceRequest
        The amounts.
    gpus : tuple of Share
        Which GPUs, as indices 0 .. n-1 of the session's; a share for each part of the request.
    """

    request: ResourceRequest
    gpus: tuple[Share, ...] = ()

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        """Which GPUs; one for a request for a part of one."""
        return tuple(dict.fromkeys(i for share in self.gpus for i, _ in share))


def _choose(free: list[int], gpu: int, near: Collection[int]) -> Share | None:
    """Choose GPUs for `gpu` units, those in `near` first; None if there are none."""
    if gpu >= UNITS:
        whole = sorted((i not in near, i) for i, n in enumerate(free) if n == UNITS)
        count = gpu // UNITS
        return tuple((i, UNITS) for _, i in whole[:count]) if len(whole) >= count else None
    # A part of one: from the fullest that still has room, so that others stay whole.
    found = min(((i not in near, n, i) for i, n in enumerate(free) if n >= gpu), default=None)
    return None if found is None else ((found[2], gpu),)


class ResourcePool:
    """GPUs, memory and custom resources, and what placement groups have: what is free of each.

    CPUs are not in it (see the module's docstring), but the seats of placement groups are.

    Parameters
    ----------
    num_gpus : int
        GPUs of the session.
    others : mapping of str to int
        Memory and custom resources, in units.

    Attributes
    ----------
    total, free : dict of str to int
        What there is, and what of it is free.
    sizes, gpus : dict of str to list of int
        The same of each GPU: of the session's, and of those that each group has of them.
    near : dict of str to frozenset of int
        GPUs of a group's bundle.
    own : tuple of str
        Names of what is the session's.
    """

    __slots__ = ("free", "gpus", "near", "own", "sizes", "total")

    def __init__(self, num_gpus: int, others: Mapping[str, int]) -> None:
        self.own = tuple(others)
        self.near: dict[str, frozenset[int]] = {}
        self.sizes = {GPU: [UNITS] * num_gpus}
        self.gpus = {GPU: [UNITS] * num_gpus}
        self.total = dict(others)
        self.free = dict(others)

    def copy(self) -> ResourcePool:
        """Copy what is free, to try things on."""
        return self._like(self.gpus, self.free)

    def unused(self) -> ResourcePool:
        """The same with nothing taken."""
        return self._like(self.sizes, self.total)

    def _like(self, gpus: Mapping[str, list[int]], free: Mapping[str, int]) -> ResourcePool:
        other = ResourcePool.__new__(ResourcePool)
        other.own, other.near, other.sizes, other.total = (
            self.own,
            self.near,
            self.sizes,
            self.total,
        )
        other.gpus = {name: list(units) for name, units in gpus.items()}
        other.free = dict(free)
        return other

    def add(
        self, amounts: Mapping[str, int], gpus: Mapping[str, list[int]], near: Mapping[str, Share]
    ) -> None:
        """There is more, under new names: what a placement group has been given."""
        self.total.update(amounts)
        self.free.update(amounts)
        for name, units in gpus.items():
            self.sizes[name] = list(units)
            self.gpus[name] = list(units)
        self.near.update((name, frozenset(i for i, _ in share)) for name, share in near.items())

    def remove(self, names: Iterable[str]) -> None:
        """What has been added under these names is there no more."""
        for name in names:
            for there in (self.total, self.free, self.sizes, self.gpus, self.near):
                there.pop(name, None)

    def pick(self, request: ResourceRequest) -> tuple[Share, ...] | None:
        """Choose GPUs without taking them; None if there are too few."""
        free = self.gpus.get(request.gpus)
        if free is None:
            return None
        if not request.parts:
            share = _choose(free, request.gpu, self.near.get(request.near, ()))
            return None if share is None else (share,)
        # Whole ones first, then the greatest parts: small parts fit best into what is left.
        free = list(free)
        shares: dict[int, Share] = {}
        for k in sorted(range(len(request.parts)), key=lambda k: -request.parts[k]):
            share = _choose(free, request.parts[k], ()) if request.parts[k] else ()
            if share is None:
                return None
            for i, n in share:
                free[i] -= n
            shares[k] = share
        return tuple(shares[k] for k in range(len(request.parts)))

    def short_of(self, request: ResourceRequest) -> list[str]:
        """Which kinds, CPU and seats aside, there is too little of for `request` now."""
        short = [name for name, n in request.others if self.free.get(name, 0) < n]
        if request.gpu and self.pick(request) is None:
            short.append(request.gpus)
        return short

    def short_of_seats(self, request: ResourceRequest) -> list[str]:
        """Which seats there are too few of."""
        return [name for name, n in request.seats if self.free.get(name, 0) < n]

    def take(self, request: ResourceRequest, skip: Collection[str] = ()) -> tuple[Share, ...]:
        """Take what `request` asks for, all kinds but CPU, seats and those in `skip`.

        Returns
        -------
        tuple of Share
            The GPUs.
        """
        gpus: tuple[Share, ...] = ()
        if request.gpu and request.gpus not in skip:
            picked = self.pick(request)
            assert picked is not None, f"took {request} of a pool that lacks GPUs"
            gpus = picked
        self.take_exactly(request, gpus, skip)
        return gpus

    def take_exactly(
        self, request: ResourceRequest, gpus: Iterable[Share], skip: Collection[str] = ()
    ) -> None:
        """Take what `request` asks for, with these GPUs."""
        for share in gpus:
            for i, n in share:
                self.gpus[request.gpus][i] -= n
        for name, n in request.others:
            if name not in skip:
                self.free[name] -= n

    def take_seats(self, request: ResourceRequest) -> None:
        """Take the seats that `request` asks for."""
        for name, n in request.seats:
            self.free[name] -= n

    def give_seats(self, request: ResourceRequest) -> None:
        """Give them back."""
        for name, n in request.seats:
            self.free[name] += n

    def give(self, allocation: Allocation) -> None:
        """Give back what an allocation took, CPU and seats aside."""
        request = allocation.request
        for share in allocation.gpus:
            for i, n in share:
                self.gpus[request.gpus][i] += n
        for name, n in request.others:
            self.free[name] += n

    def validate(
        self, allocations: Iterable[Allocation], seated: Iterable[ResourceRequest] = ()
    ) -> None:
        """Check that what is free and what these allocations and seats hold make up the totals.

        Raises
        ------
        AssertionError
            Naming the resource and the allocations that hold it.
        """
        held = list(allocations)
        sitting = list(seated)
        gpu_used = {name: [0] * len(sizes) for name, sizes in self.sizes.items()}
        used = dict.fromkeys(self.total, 0)
        for allocation in held:
            request = allocation.request
            parts = request.parts or ((request.gpu,) if request.gpu else ())
            assert len(allocation.gpus) == (len(parts) if request.gpu else 0), f"{allocation}"
            for part, share in zip(parts, allocation.gpus, strict=False):
                ids, amounts = [i for i, _ in share], [n for _, n in share]
                right = [UNITS] * (part // UNITS) or ([part] if part else [])
                assert len(ids) == len(set(ids)), f"{request} was given the GPUs {ids}"
                assert amounts == right, f"{request} was given the GPUs {allocation.gpus}"
                for i, n in share:
                    gpu_used[request.gpus][i] += n
            for name, n in request.others:
                used[name] += n
        for request in sitting:
            for name, n in request.seats:
                used[name] += n
        for kind, sizes in self.sizes.items():
            for i, size in enumerate(sizes):
                n, free = gpu_used[kind][i], self.gpus[kind][i]
                on_it = [str(a.request) for a in held if i in a.gpu_ids and a.request.gpus == kind]
                assert n <= size, f"{kind} {i} is oversubscribed: {on_it}"
                assert n + free == size, (
                    f"{kind} {i}: {n} units in use by {on_it} and {free} free, not {size}"
                )
        for name, total in self.total.items():
            on_it = [str(r) for r in (*(a.request for a in held), *sitting) if name in r.kinds]
            assert self.free[name] >= 0, f"{name} is oversubscribed: {on_it}"
            assert used[name] + self.free[name] == total, (
                f"{name}: {used[name]} units in use by {on_it} and {self.free[name]} free, "
                f"not {total}"
            )


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
    lasting : bool
        Whether each of them keeps what it is given for as long as it likes: actors and groups.
    keeps_cpus : bool
        Of those: CPUs too.
    group : int
        The placement group that they are to run in; 0: none.
    reserves : bool
        Whether it is no task, but a placement group.
    """

    __slots__ = (
        "dedicated", "group", "heap", "keeps_cpus", "lasting", "live", "place", "rejected",
        "request", "reserves",
    )  # fmt: skip

    def __init__(
        self,
        request: ResourceRequest,
        rejected: str | None,
        dedicated: bool = False,
        lasting: bool = False,
        keeps_cpus: bool = False,
        group: int = 0,
        reserves: bool = False,
    ) -> None:
        self.request = request
        self.rejected = rejected
        self.dedicated = dedicated
        self.lasting = lasting
        self.keeps_cpus = keeps_cpus
        self.group = group
        self.reserves = reserves
        # Whether each counts among those that run without CPUs.
        self.place = not (request.cpu or request.seats or reserves)
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
    idle_seconds: float = 3.0
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
