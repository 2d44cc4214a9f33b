"""Small programs that startup.py and memory.py run in interpreters of their own.

``python -m benchmarks.probes NAME`` prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

WORKERS = 2
# By then what a start leaves to do in the background is done.
SETTLE_SECONDS = 0.5
MADV_POPULATE_WRITE = 23  # the mmap module has no name for it


def nothing() -> None:
    """The task that does nothing."""


def life_pyray() -> dict[str, float]:
    """Milliseconds to the first result, and of the end."""
    import pyray as ray

    start = time.perf_counter()
    ray.init(num_cpus=WORKERS)
    up = time.perf_counter()
    ray.get(ray.remote(nothing).remote())
    first = time.perf_counter()
    ray.shutdown()
    end = time.perf_counter()
    return {
        "init": (up - start) * 1e3,
        "first": (first - start) * 1e3,
        "shutdown": (end - first) * 1e3,
    }


def life_pool() -> dict[str, float]:
    """The same of multiprocessing.Pool."""
    from multiprocessing import get_context

    start = time.perf_counter()
    pool = get_context("fork").Pool(WORKERS)
    up = time.perf_counter()
    pool.apply(nothing)
    first = time.perf_counter()
    pool.close()
    pool.join()
    end = time.perf_counter()
    return {
        "init": (up - start) * 1e3,
        "first": (first - start) * 1e3,
        "shutdown": (end - first) * 1e3,
    }


def life_executor() -> dict[str, float]:
    """The same of ProcessPoolExecutor, whose workers start with the first task."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    start = time.perf_counter()
    pool = ProcessPoolExecutor(WORKERS, mp_context=get_context("fork"))
    up = time.perf_counter()
    pool.submit(nothing).result()
    first = time.perf_counter()
    pool.shutdown()
    end = time.perf_counter()
    return {
        "init": (up - start) * 1e3,
        "first": (first - start) * 1e3,
        "shutdown": (end - first) * 1e3,
    }


def idle_python() -> dict[str, float]:
    """What a bare interpreter holds."""
    return idle([os.getpid()])


def idle_pyray() -> dict[str, float]:
    """What an idle session holds and burns, in all its processes."""
    import pyray as ray
    from pyray.api import processes

    ray.init(num_cpus=WORKERS)
    task = ray.remote(nothing)
    ray.get([task.remote() for _ in range(100)])
    result = idle(processes())
    ray.shutdown()
    return result


def idle_pool() -> dict[str, float]:
    """The same of multiprocessing.Pool."""
    from multiprocessing import active_children, get_context

    with get_context("fork").Pool(WORKERS) as pool:
        pool.map(abs, range(100))
        result = idle([os.getpid(), *(child.pid for child in active_children() if child.pid)])
        pool.close()
        pool.join()
    return result


def idle_executor() -> dict[str, float]:
    """The same of ProcessPoolExecutor."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children, get_context

    with ProcessPoolExecutor(WORKERS, mp_context=get_context("fork")) as pool:
        list(pool.map(abs, range(100)))
        return idle([os.getpid(), *(child.pid for child in active_children() if child.pid)])


# ---- of the peers, where they are installed -----------------------------------------------------


def idle_ray() -> dict[str, float]:
    """The same of Ray."""
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    task = ray.remote(nothing)
    ray.get([task.remote() for _ in range(100)])
    result = idle(family())
    ray.shutdown()
    return result


def idle_dask() -> dict[str, float]:
    """The same of Dask distributed."""
    from benchmarks.peer_dask import cluster

    with cluster() as client:
        client.gather([client.submit(nothing, pure=False) for _ in range(100)])
        return idle(family())


def idle_loky() -> dict[str, float]:
    """The same of loky."""
    from loky import get_reusable_executor

    executor = get_reusable_executor(WORKERS)
    list(executor.map(abs, range(100)))
    result = idle(family())
    executor.shutdown()
    return result


def family() -> list[int]:
    """This process and all below it."""
    import psutil

    return [os.getpid(), *(p.pid for p in psutil.Process().children(recursive=True))]


def idle(pids: Iterable[int]) -> dict[str, float]:
    """Megabytes that processes hold, after a while, and the per cent of a core that they use."""
    pids = list(pids)
    others = [pid for pid in pids if pid != os.getpid()]
    time.sleep(SETTLE_SECONDS)
    before = sum(map(cpu_seconds, others))
    # Own time apart: reading the others' figures is not to count.
    own = time.process_time()
    time.sleep(1)
    own = time.process_time() - own
    used = own + sum(map(cpu_seconds, others)) - before
    memory = [smaps(pid) for pid in pids]
    return {
        "processes": len(pids),
        "pss": sum(m["Pss"] for m in memory) / 1e3,
        "uss": sum(m["Private_Clean"] + m["Private_Dirty"] for m in memory) / 1e3,
        "cpu_percent": used * 100,
    }


def smaps(pid: int) -> dict[str, float]:
    """Fields of a process's smaps_rollup, in kB (of 1,000 bytes)."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1.024
    return fields


def new_memory_micros(size: int) -> float:
    """CPU time of making so many bytes of shared memory, a part of 64 MiB: its pages' zeroing."""
    import mmap

    whole = 64 << 20
    descriptor = os.memfd_create("new")
    try:
        os.ftruncate(descriptor, whole)
        with mmap.mmap(descriptor, whole) as memory:
            start = time.thread_time()
            # As the store does it, which saves most of the faults.
            for at in range(0, whole, 1 << 16):
                memory.madvise(MADV_POPULATE_WRITE, at, 1 << 16)
            return (time.thread_time() - start) / whole * size * 1e6
    finally:
        os.close(descriptor)


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have used, by the scheduler's clock of nanoseconds."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total * 1e-9


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
