"""Ray, Dask distributed and joblib/loky, where they can be imported: each by itself, after pyray.

They are not interleaved with pyray's rounds, since their own processes are never quite idle.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from benchmarks import memory, startup
from benchmarks.harness import Result, Sample, Settings, time_limit
from benchmarks.peer import Samples

# What each is called, what its import is called, and, in this package and in probes.py, its part.
PEERS = (
    ("Ray", "ray", "ray"),
    ("Dask distributed", "distributed", "dask"),
    ("joblib/loky", "joblib", "loky"),
)
LIMIT_SECONDS = 60
ROUNDS = 3


def run(results: list[Result], settings: Settings) -> Iterator[str]:
    """Add the peers' samples to results; yields what there is to say."""
    for name, module, short in PEERS:
        if importlib.util.find_spec(module) is None:
            yield f"{name} is not installed here (make bench-peers installs it)"
            continue
        # Start and memory first: nothing of the peer runs yet.
        yield from _take(name, _in_interpreters(module, short), results, settings)
        yield from _run(
            name, importlib.import_module(f"benchmarks.peer_{short}"), results, settings
        )


def _run(name: str, peer: Any, results: list[Result], settings: Settings) -> Iterator[str]:
    once: dict[str, float] = {}
    with peer.samples(settings, once) as samples:
        yield from _take(name, samples, results, settings)
    for result in results:
        if result.benchmark.name in once:
            result.samples[name] = [once[result.benchmark.name]]
    yield f"{name}: measured"


def _take(name: str, samples: Samples, results: list[Result], settings: Settings) -> Iterator[str]:
    for result in results:
        benchmark = result.benchmark.name
        if benchmark not in samples:
            continue
        try:
            with time_limit(LIMIT_SECONDS):
                sample = samples[benchmark]()
                result.samples[name] = [sample() for _ in range(settings.pick(ROUNDS, 1))]
        except Exception as error:
            yield f"{name}, {benchmark}: {type(error).__name__}: {error}"


def _in_interpreters(module: str, short: str) -> Samples:
    """What is measured in interpreters that begin with it."""

    def imports() -> Sample:
        startup.python("-c", f"import {module}")  # fills the cache
        return startup.millis_beyond_bare(f"import {module}")

    return {
        "import": imports,
        "memory": lambda: memory.beyond_bare(f"idle_{short}", "pss"),
        "memory-private": lambda: memory.beyond_bare(f"idle_{short}", "uss"),
        "idle-cpu": lambda: startup.in_rounds(f"idle_{short}", "cpu_percent"),
    }
