"""A histogram of many numbers: python examples/shared_arrays/histogram.py --millions 20

The array is born in shared memory. Tasks fill it in place, each its own part; then it is sealed,
where it lies, and tasks count in it. Beside that the same where tasks return their parts as
objects, in pyray and in Ray, and with `multiprocessing.shared_memory`.
"""

import argparse
import itertools
import multiprocessing
from multiprocessing import shared_memory

import numpy as np
from measure import WORKERS, compare, session

PARTS = 2 * WORKERS
BINS = np.linspace(-5, 5, 201)


def fill(part, seed):
    """Draw normally distributed numbers, in place."""
    np.random.default_rng(seed).standard_normal(out=part)


def count(part):
    """How many numbers there are in each bin."""
    return np.histogram(part, BINS)[0]


def parts(size):
    """First and last number of each task's part."""
    return list(itertools.pairwise(np.linspace(0, size, PARTS + 1, dtype=int).tolist()))


# ---- the contenders: see measure.compare --------------------------------------------------------


def with_pyray_shared():
    ray = session("pyray")
    fill_part, count_part = ray.remote(fill), ray.remote(count)

    def work(size, look):
        numbers = ray.shared.empty(size)
        ray.get([fill_part.remote(numbers[a:b], i) for i, (a, b) in enumerate(parts(size))])
        numbers.seal()  # from here on nobody can change it, and it can be put into any object
        look(sum(ray.get([count_part.remote(numbers[a:b]) for a, b in parts(size)])))

    yield work
    ray.shutdown()


def with_returns(module):
    ray = session(module)
    count_part = ray.remote(count)

    @ray.remote
    def draw(size, seed):
        part = np.empty(size)
        fill(part, seed)
        return part

    def work(size, look):
        drawn = [draw.remote(b - a, i) for i, (a, b) in enumerate(parts(size))]
        look(sum(ray.get([count_part.remote(part) for part in drawn])))

    yield work
    ray.shutdown()


def by_name(function, name, size, a, b, *arguments):
    """What a process of the pool does, which finds the numbers by the name of their file."""
    block = shared_memory.SharedMemory(name)
    numbers = np.ndarray(size, buffer=block.buf)
    result = function(numbers[a:b], *arguments)
    del numbers  # while there are views, close() raises
    block.close()
    return result


def with_shared_memory():
    def work(size, look):
        block = shared_memory.SharedMemory(create=True, size=size * 8)
        try:
            todo = [(fill, block.name, size, a, b, i) for i, (a, b) in enumerate(parts(size))]
            pool.starmap(by_name, todo, chunksize=1)
            todo = [(count, block.name, size, a, b) for a, b in parts(size)]
            look(sum(pool.starmap(by_name, todo, chunksize=1)))
        finally:
            block.close()
            block.unlink()  # else it stays in /dev/shm when the script is killed

    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        yield work
        pool.close()
        pool.join()


# -------------------------------------------------------------------------------------------------


def main():
    """Run all, and see that they agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=20, help="of numbers, of 8 bytes each")
    size = int(parser.parse_args().millions * 1e6)
    seen = set()
    print(f"{size:,} numbers, {size * 8 / 1e6:.0f} MB, {PARTS} parts, {WORKERS} workers")
    contenders = {
        "pyray.shared": with_pyray_shared,
        "pyray, parts returned": lambda: with_returns("pyray"),
        "multiprocessing.shared_memory": with_shared_memory,
        "Ray, parts returned": lambda: with_returns("ray"),
    }
    compare(contenders, (size,), (1000,), lambda counts: seen.add(tuple(counts.tolist())))
    if len(seen) != 1:
        raise RuntimeError("they don't agree")
    (counts,) = seen
    top = max(sum(counts[i : i + 10]) for i in range(0, 200, 10))
    for i in range(0, 200, 10):
        here = sum(counts[i : i + 10])
        print(f"{BINS[i]:>5.1f} {'#' * round(50 * here / top)}")
    print(f"{sum(counts):,} of them lie between {BINS[0]:g} and {BINS[-1]:g}")


if __name__ == "__main__":
    main()
