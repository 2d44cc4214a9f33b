"""How a figure is measured: rounds that take turns with the references, medians, targets."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# One sample: runs the thing a number of times and returns the figure, in the benchmark's unit.
Sample = Callable[[], float]

PYRAY = "pyray"
# No benchmark may hang the run, nor, on a busy machine, make it long: no further round begins
# after so many seconds.
LIMIT_SECONDS = 60
BUDGET_SECONDS = 5


@dataclass(frozen=True)
class Settings:
    """What the command line asked for."""

    quick: bool = False

    def pick(self, usual: Any, quick: Any) -> Any:
        """One of two values: the second in a quick run."""
        return quick if self.quick else usual


@dataclass(frozen=True)
class Target:
    """What a figure should be.

    Parameters
    ----------
    text : str
        For the table.
    test : callable
        Takes pyray's median and the references' medians by name; None if a reference is missing.
    """

    text: str
    test: Callable[[float, dict[str, float]], bool | None]


def at_most(limit: float) -> Target:
    return Target(f"≤ {limit:,}", lambda value, _: value <= limit)


def at_least(limit: float) -> Target:
    return Target(f"≥ {limit:,}", lambda value, _: value >= limit)


def at_most_times(factor: float, reference: str) -> Target:
    """No more than so many times a reference of the same run."""
    return Target(
        f"≤ {factor:g} × {reference}",
        lambda value, others: value <= factor * others[reference] if reference in others else None,
    )


def at_least_times(factor: float, reference: str) -> Target:
    """At least so many times a reference of the same run."""
    return Target(
        f"≥ {factor:g} × {reference}",
        lambda value, others: value >= factor * others[reference] if reference in others else None,
    )


def times_as_fast(factor: float, reference: str) -> Target:
    """Done in so small a part of the time that a reference of the same run takes."""
    return Target(
        f"{factor:g} × as fast as {reference}",
        lambda value, others: value * factor <= others[reference] if reference in others else None,
    )


@dataclass(frozen=True)
class Benchmark:
    """A figure and how to get it.

    Parameters
    ----------
    title : str
        For the table; may name attributes of the theme's `Bench`: ``{bench.many} tasks``.
    prepare : callable
        Takes the theme's `Bench`; gives the samples by contender, pyray's first. They are taken in
        turn, so that a disturbance hits all alike.
    """

    name: str
    title: str
    unit: str
    theme: str
    prepare: Callable[[Any], dict[str, Sample]]
    targets: tuple[Target, ...] = ()
    higher_is_better: bool = False
    rounds: int = 11
    quick_rounds: int = 3


@dataclass
class Result:
    """What was measured for one benchmark."""

    benchmark: Benchmark
    title: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    error: str | None = None

    @property
    def medians(self) -> dict[str, float]:
        return {name: statistics.median(s) for name, s in self.samples.items() if s}

    def times_better(self, reference: str) -> float | None:
        """How many times better than a reference pyray did."""
        medians = self.medians
        ours, theirs = medians.get(PYRAY), medians.get(reference)
        if not ours or not theirs:
            return None
        return ours / theirs if self.benchmark.higher_is_better else theirs / ours

    def met(self) -> list[bool | None]:
        """Of each target: met, missed, or None if it can't be said."""
        medians = self.medians
        value = medians.pop(PYRAY, None)
        if value is None:
            return [None] * len(self.benchmark.targets)
        return [target.test(value, medians) for target in self.benchmark.targets]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.benchmark.name,
            "title": self.title,
            "theme": self.benchmark.theme,
            "unit": self.benchmark.unit,
            "higher_is_better": self.benchmark.higher_is_better,
            "targets": [
                {"text": target.text, "met": met}
                for target, met in zip(self.benchmark.targets, self.met(), strict=True)
            ],
            "error": self.error,
            "contenders": {
                name: {
                    "median": statistics.median(samples),
                    "min": min(samples),
                    "max": max(samples),
                    "pyray_is_better_by": None if name == PYRAY else self.times_better(name),
                    "samples": samples,
                }
                for name, samples in self.samples.items()
                if samples
            },
        }


class Theme:
    """Benchmarks that share a set-up; a module makes one and decorates functions with it.

    Parameters
    ----------
    name : str
        For the command line.
    bench : callable
        Takes the `Settings`; a context manager that gives what the benchmarks are handed.
    """

    def __init__(
        self, name: str, bench: Callable[[Settings], contextlib.AbstractContextManager[Any]]
    ) -> None:
        self.name = name
        self.bench = bench
        self.benchmarks: list[Benchmark] = []

    def add(self, name: str, title: str, unit: str, *targets: Target, **options: Any) -> Any:
        """Decorator: a function that prepares the samples becomes a `Benchmark` of this theme."""

        def register(prepare: Callable[[Any], dict[str, Sample]]) -> Any:
            self.benchmarks.append(
                Benchmark(name, title, unit, self.name, prepare, targets, **options)
            )
            return prepare

        return register

    def run(self, names: set[str], settings: Settings) -> Iterator[Result]:
        """Measure those of the benchmarks that are named."""
        chosen = [b for b in self.benchmarks if b.name in names]
        if not chosen:
            return
        with self.bench(settings) as bench:
            for benchmark in chosen:
                yield measure(benchmark, bench, settings)


def measure(benchmark: Benchmark, bench: Any, settings: Settings) -> Result:
    """Take the samples of one benchmark; an exception becomes the result's error."""
    result = Result(benchmark, benchmark.title.format(bench=bench))
    try:
        with time_limit(LIMIT_SECONDS):
            contenders = benchmark.prepare(bench)
            rounds = settings.pick(benchmark.rounds, benchmark.quick_rounds)
            end = time.monotonic() + settings.pick(BUDGET_SECONDS, BUDGET_SECONDS / 4)
            for _ in range(rounds):
                for name, sample in contenders.items():
                    result.samples.setdefault(name, []).append(sample())
                if time.monotonic() > end:
                    break
    except Exception as error:
        result.error = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    return result


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError here after so many seconds."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- samples -----------------------------------------------------------------------------------


def timed(function: Callable[[], Any]) -> float:
    """Seconds that a call takes; what it returns is dropped after the clock was read."""
    start = time.perf_counter()
    result = function()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


# What goes to and fro between two processes begins, where virtual CPUs were idle, with both on one
# of them, until the kernel's balancing moves one away: that takes up to 50 ms.
BUSY_SECONDS = 0.05


def keep_busy(function: Callable[[], Any]) -> None:
    """Do for a while what is to be timed next: others had the machine meanwhile."""
    end = time.perf_counter() + BUSY_SECONDS
    while time.perf_counter() < end:
        function()


def micros_each(function: Callable[[], Any], times: int, per_call: int = 1) -> Sample:
    """Microseconds per operation, over so many calls of so many operations, once it is busy."""

    def sample() -> float:
        keep_busy(function)
        calls = range(times)
        start = time.perf_counter()
        for _ in calls:
            function()
        return (time.perf_counter() - start) / (times * per_call) * 1e6

    return sample


def millis(function: Callable[[], Any]) -> Sample:
    """Milliseconds of one call."""
    return lambda: timed(function) * 1e3


def per_second(function: Callable[[], Any], operations: int) -> Sample:
    """Operations a second, in a call that does so many."""
    return lambda: operations / timed(function)


# ---- the machine -------------------------------------------------------------------------------


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    import pyray

    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        model = next(
            (li.split(":")[1].strip() for li in file if li.startswith("model name")), model
        )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_available": available_memory(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyray": pyray.__version__,
        "load": os.getloadavg()[0],
    }


def available_memory() -> int:
    """Bytes that can be had without swapping."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))


class Neighbours:
    """How many cores other people's processes kept busy meanwhile, on average."""

    def __init__(self) -> None:
        self._start = time.monotonic(), self._all_busy(), self._own_busy()

    def cores_busy(self) -> float:
        """Since the beginning; what this process's children used counts once they are reaped."""
        start, all_busy, own_busy = self._start
        others = (self._all_busy() - all_busy) - (self._own_busy() - own_busy)
        return max(0.0, others / (time.monotonic() - start))

    @staticmethod
    def _all_busy() -> float:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own_busy() -> float:
        usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(u.ru_utime + u.ru_stime for u in usages)
