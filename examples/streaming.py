"""A stream of arrays, larger than the store that it runs through: python examples/streaming.py

A generator task yields chunks of a signal, and waits when four are there that nobody has taken.
Each chunk goes, by its id, to a task that smooths it; an actor adds up what comes out, in order.
The driver sees ids only; a chunk's memory is free again as soon as it has been smoothed.
"""

import collections
import time

import numpy as np

import pyray as ray

CHUNKS, SIZE = 40, 500_000  # of float64: 4 MB each, 160 MB in all
STORE = 64 << 20


@ray.remote(_generator_backpressure_num_objects=4)
def read():
    """Yield the signal, as from a file or a detector."""
    rng = np.random.default_rng(0)
    for i in range(CHUNKS):
        time_axis = np.arange(i * SIZE, (i + 1) * SIZE) * 1e-5
        yield np.sin(time_axis) + rng.standard_normal(SIZE)


@ray.remote
def smooth(chunk):
    """Average every hundred values; `chunk` is a view of shared memory."""
    return chunk.reshape(-1, 100).mean(axis=1)


@ray.remote
class Summary:
    """Mean and deviation of what it has been given."""

    def __init__(self):
        self.n = 0
        self.sum = self.squares = 0.0

    def add(self, chunk):
        self.n += chunk.size
        self.sum += chunk.sum()
        self.squares += (chunk**2).sum()
        return self.n

    def result(self):
        mean = self.sum / self.n
        return self.n, mean, (self.squares / self.n - mean**2) ** 0.5


def main():
    """Run the stages, and say how full the store was."""
    ray.init(num_cpus=2, object_store_memory=STORE)
    started = time.perf_counter()
    summary = Summary.remote()
    under_way = collections.deque()
    most = 0.0
    for i, chunk in enumerate(read.remote(), 1):
        under_way.append(summary.add.remote(smooth.remote(chunk)))
        if len(under_way) > 4:
            ray.get(under_way.popleft())  # so that the driver doesn't run ahead either
        free = ray.available_resources()["object_store_memory"]
        most = max(most, STORE - free)
        if i % 10 == 0:
            print(f"{i * SIZE * 8 / 1e6:.0f} MB read, {(STORE - free) / 1e6:.0f} MB in the store")
    n, mean, deviation = ray.get(summary.result.remote())
    print(f"{n} values, mean {mean:.3f}, deviation {deviation:.3f}")
    total, seconds = CHUNKS * SIZE * 8, time.perf_counter() - started
    print(f"{total / 1e6:.0f} MB in {seconds:.1f} s, never more than {most / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
