"""What the soak's workers run: light, since each new process imports it."""

from __future__ import annotations

import time

import fault_helpers

import pyray as ray


@ray.remote(max_retries=-1)
def compute(i):
    return sum(range(i % 1000))


@ray.remote(max_retries=-1)
def block(i, n):
    import numpy as np

    return np.full(n, i, np.int32)


@ray.remote(max_retries=-1)
def total(array):
    return int(array.sum())


@ray.remote(max_retries=-1)
def tree(depth):
    return 1 if depth == 0 else sum(ray.get([tree.remote(depth - 1), tree.remote(depth - 1)]))


@ray.remote(max_retries=0)
def fails(i):
    raise ValueError(f"number {i}")


@ray.remote(max_retries=0)
def dies(how):
    fault_helpers.crash(how)


@ray.remote(max_retries=-1, num_returns="streaming")
def items(n):
    import numpy as np

    for i in range(n):
        yield np.full(1000, i)


@ray.remote(max_retries=-1)
def naps(seconds):
    time.sleep(seconds)
    return seconds


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Counter:
    def __init__(self, payload):
        self.payload = payload

    def add(self, i):
        return i + len(self.payload)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Loop:
    async def add(self, i):
        import asyncio

        await asyncio.sleep(0.001)
        return i + 1


@ray.remote(max_retries=-1)
def fill(view, value):
    view[:] = value
