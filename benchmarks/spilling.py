"""What objects cost that do not fit in memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import pyray as ray
from benchmarks.harness import PYRAY, Sample, Settings, Theme, at_most_times, micros_each, timed

STORE = 64 << 20
BLOCK = 8 << 20
WRITE = "write to a file"
IN_MEMORY = "in memory"


@dataclass
class Full:
    """What the benchmarks are handed: a store that is full, and what lies on disk and in memory."""

    block: np.ndarray
    blocks: int
    oldest: Any
    newest: Any


@contextlib.contextmanager
def full(settings: Settings) -> Iterator[Full]:
    block = np.ones(BLOCK, np.uint8)
    ray.init(num_cpus=2, object_store_memory=STORE)
    try:
        refs = [ray.put(block) for _ in range(2 * STORE // BLOCK)]
        yield Full(block, settings.pick(50, 10), refs[0], refs[-1])
        del refs
    finally:
        ray.shutdown()


THEME = Theme("spilling", full)


@THEME.add("spill", "put of 8 MiB into a full store", "ms", at_most_times(1.3, WRITE), rounds=3)
def _spill(bench: Full) -> dict[str, Sample]:
    def put() -> float:
        return timed(lambda: [ray.put(bench.block) for _ in range(bench.blocks)])

    def write() -> float:
        with tempfile.TemporaryFile() as file:
            return timed(
                lambda: [os.write(file.fileno(), bench.block) for _ in range(bench.blocks)]
            )

    return {
        PYRAY: lambda: put() / bench.blocks * 1e3,
        WRITE: lambda: write() / bench.blocks * 1e3,
    }


@THEME.add("spilled-get", "get of 8 MiB that lie on disk", "µs", at_most_times(1.5, IN_MEMORY))
def _spilled_get(bench: Full) -> dict[str, Sample]:
    return {
        PYRAY: micros_each(lambda: ray.get(bench.oldest), 2000),
        IN_MEMORY: micros_each(lambda: ray.get(bench.newest), 2000),
    }
