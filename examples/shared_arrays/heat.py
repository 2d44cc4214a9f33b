"""Heat that spreads in a plate: python examples/shared_arrays/heat.py --size 1500 --steps 100

Two grids in shared memory take turns: in each step tasks read one and write the other, each its own
rows. Beside that the same where tasks return their rows as new objects, in pyray and in Ray, and
with `multiprocessing.shared_memory`. The picture goes to heat.ppm.
"""

import argparse
import itertools
import multiprocessing
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
from measure import WORKERS, compare, session


def step(new, old):
    """Each point of `new` becomes the mean of its neighbours; `old` has a row more at each end."""
    inner = new[:, 1:-1]
    np.add(old[:-2, 1:-1], old[2:, 1:-1], out=inner)
    inner += old[1:-1, :-2]
    inner += old[1:-1, 2:]
    inner *= 0.25


def heat_up(grid):
    """Some spots of a cold plate are hot. Its edges stay cold."""
    spots = np.random.default_rng(4).uniform((0, 0, 0.01), (0.9, 0.9, 0.1), (40, 3)) * len(grid)
    for y, x, width in spots.astype(int).tolist():
        grid[y + 1 : y + width, x + 1 : x + width] = 1


def parts(size):
    """First and last row of each task's part: all but the edges."""
    return list(itertools.pairwise(np.linspace(1, size - 1, WORKERS + 1, dtype=int).tolist()))


# ---- the contenders: see measure.compare --------------------------------------------------------


def with_pyray_shared():
    ray = session("pyray")
    task = ray.remote(step)

    def work(size, steps, look):
        old, new = (ray.shared.zeros((size, size)) for _ in range(2))
        heat_up(old)
        for _ in range(steps):
            # No task may write what another one still reads: get() waits for all of them.
            ray.get([task.remote(new[a:b], old[a - 1 : b + 1]) for a, b in parts(size)])
            old, new = new, old
        look(old)

    yield work
    ray.shutdown()


def with_returns(module):
    ray = session(module)

    @ray.remote
    def task(above, rows, below):
        old = np.vstack([above[-1:], rows, below[:1]])
        new = np.zeros_like(rows)
        step(new, old)
        return new

    def work(size, steps, look):
        grid = np.zeros((size, size))
        heat_up(grid)
        edge = ray.put(grid[:1])
        blocks = [ray.put(grid[a:b]) for a, b in parts(size)]
        for _ in range(steps):
            around = [edge, *blocks, edge]
            blocks = [task.remote(*around[i : i + 3]) for i in range(len(blocks))]
        look(np.vstack(ray.get([edge, *blocks, edge])))

    yield work
    ray.shutdown()


def step_by_name(new_name, old_name, size, a, b):
    """What a process of the pool does, which finds the grids by the names of their files."""
    blocks = [shared_memory.SharedMemory(name) for name in (new_name, old_name)]
    new, old = (np.ndarray((size, size), buffer=block.buf) for block in blocks)
    step(new[a:b], old[a - 1 : b + 1])
    del new, old  # while there are views, close() raises
    for block in blocks:
        block.close()


def with_shared_memory():
    def work(size, steps, look):
        blocks = [shared_memory.SharedMemory(create=True, size=size * size * 8) for _ in range(2)]
        try:
            heat_up(np.ndarray((size, size), buffer=blocks[0].buf))
            for _ in range(steps):
                names = [block.name for block in blocks]
                todo = [(names[1], names[0], size, a, b) for a, b in parts(size)]
                pool.starmap(step_by_name, todo, chunksize=1)
                blocks.reverse()
            look(np.ndarray((size, size), buffer=blocks[0].buf))
        finally:
            for block in blocks:
                block.close()
                block.unlink()  # else it stays in /dev/shm when the script is killed

    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        yield work
        pool.close()
        pool.join()


# -------------------------------------------------------------------------------------------------


def picture(grid):
    """The grid as a PPM file: black, red, yellow, white."""
    colours = (np.clip(3 * grid[:, :, None] - [0, 1, 2], 0, 1) * 255).astype(np.uint8)
    return b"P6 %d %d 255\n" % (colours.shape[1], colours.shape[0]) + colours.tobytes()


def main():
    """Run all, and see that they agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1500, help="rows and columns")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("heat.ppm"))
    options = parser.parse_args()
    every = -(-options.size // 600)
    shown, sums = [], set()

    def look(grid):
        shown[:] = [grid[::every, ::every].astype(np.float32)]
        sums.add(float(grid.sum()))

    print(f"{options.steps} steps of {options.size} x {options.size}, {WORKERS} workers")
    contenders = {
        "pyray.shared": with_pyray_shared,
        "pyray, rows returned": lambda: with_returns("pyray"),
        "multiprocessing.shared_memory": with_shared_memory,
        "Ray, rows returned": lambda: with_returns("ray"),
    }
    compare(contenders, (options.size, options.steps), (20, 1), look)
    if len(sums) != 1:
        raise RuntimeError(f"they don't agree: {sums}")
    options.output.write_bytes(picture(shown[0]))
    print(f"all of them end with {sums.pop():.1f} of heat; the picture is {options.output}")


if __name__ == "__main__":
    main()
