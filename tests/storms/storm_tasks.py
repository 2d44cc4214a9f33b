"""Tasks of 5 to 25 ms, of several kinds, that are run again if their worker dies."""

from __future__ import annotations

import random
import time
from typing import Any

import pyray as ray


@ray.remote(max_retries=-1)
def small(i, seconds=0.005):
    time.sleep(seconds)
    return i * i


@ray.remote(max_retries=-1)
def large(i, shared, seconds):
    time.sleep(seconds)
    return shared[:100] + bytes([i % 251]) * 30_000


@ray.remote(max_retries=-1)
def parent(i, seconds):
    return ray.get(small.remote(i, seconds)) + 1


@ray.remote(max_retries=-1)
def after(i, before, seconds):
    time.sleep(seconds)
    return i, len(before) if isinstance(before, bytes) else before


def submit(n: int, seed: int) -> tuple[list[Any], list[Any]]:
    """The ids of so many tasks of several kinds, 5 to 25 ms long, and what they are to be."""
    rng = random.Random(seed)
    block = bytes(range(256)) * 400
    shared = ray.put(block)
    refs: list[Any] = []
    want: list[Any] = []
    for i in range(n):
        seconds = rng.uniform(0.005, 0.025)
        match i % 10:
            case 3:
                refs.append(large.remote(i, shared, seconds))
                want.append(block[:100] + bytes([i % 251]) * 30_000)
            case 6:
                refs.append(parent.remote(i, seconds))
                want.append(i * i + 1)
            case 4 | 7:
                refs.append(after.remote(i, refs[-1], seconds))
                want.append((i, 30_100 if i % 10 == 4 else want[-1]))
            case _:
                refs.append(small.remote(i, seconds))
                want.append(i * i)
    return refs, want


@ray.remote(max_retries=-1)
def inside(i):
    return [ray.put(bytes([i % 251]) * 30_000), small.remote(i)]
