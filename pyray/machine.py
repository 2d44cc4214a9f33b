"""What this machine has: CPUs, memory, GPUs, as far as this process may use them."""

from __future__ import annotations

import os

STORE_SHARE = 0.3
# Left free when the store grows, so that the next to ask for memory is not killed.
RESERVE = 64 << 20


def cpus() -> int:
    """CPUs that this process may run on, a cgroup's quota included; at least 1."""
    n = len(os.sched_getaffinity(0))
    for directory in cgroups():
        try:
            with open(f"{directory}/cpu.max") as f:
                quota, period = f.read().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            n = min(n, max(1, int(quota) // int(period)))
    return max(1, min(n, 256))


def cgroups() -> list[str]:
    """Directories of this process's cgroup (version 2) and its ancestors, innermost first."""
    try:
        with open("/proc/self/cgroup") as f:
            lines = f.read().splitlines()
    except OSError:
        return []
    for line in lines:
        if line.startswith("0::"):
            path = line[3:].strip("/")
            parts = path.split("/") if path else []
            return ["/".join(["/sys/fs/cgroup", *parts[:i]]) for i in range(len(parts), -1, -1)]
    return []


def _number(path: str) -> int | None:
    try:
        with open(path) as f:
            return int(f.read())
    except (OSError, ValueError):
        return None


def available_memory() -> tuple[int, str]:
    """Bytes that can still be taken, and what sets that limit."""
    available, what = 1 << 62, "the machine"
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    available = int(line.split()[1]) << 10
    except OSError:
        pass
    for directory in cgroups():
        limit = _number(f"{directory}/memory.max")
        used = _number(f"{directory}/memory.current")
        if limit is not None and used is not None and limit - used < available:
            available, what = limit - used, f"the cgroup {directory}"
    return max(0, available), what


def total_memory() -> int:
    """Bytes of memory that the machine and the cgroup allow in all."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for directory in cgroups():
        limit = _number(f"{directory}/memory.max")
        if limit is not None:
            total = min(total, limit)
    return total


def default_store_memory() -> int:
    """Size of the object store unless the user says: 30% of what can be had now."""
    return max(1 << 20, int(available_memory()[0] * STORE_SHARE))


def task_memory() -> int:
    """The resource `memory`: what is left for tasks beside the store."""
    return int(total_memory() * (1 - STORE_SHARE))


def why_not_grow(size: int) -> str | None:
    """Why the store may not take so many more bytes of memory; None if it may."""
    available, what = available_memory()
    if size + RESERVE <= available:
        return None
    return (
        f"{what} has {available} bytes left, of which {RESERVE} are kept in reserve; free memory, "
        "or use a smaller object_store_memory, which reuses what it has"
    )


def gpu_names(asked: int | None) -> list[str]:
    """The session's GPUs, as CUDA_VISIBLE_DEVICES would name them.

    Parameters
    ----------
    asked : int or None
        `num_gpus` of `init`; None: those that there are.

    Raises
    ------
    ValueError
        More than CUDA_VISIBLE_DEVICES allows.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = None
    if visible is not None:
        listed = [part.strip() for part in visible.split(",") if part.strip()]
        if "-1" in listed:
            listed = listed[: listed.index("-1")]
    if asked is None:
        there = _gpus_of_the_driver()
        return listed[:there] if listed is not None else [str(i) for i in range(there)]
    if listed is not None and asked > len(listed):
        raise ValueError(
            f"num_gpus={asked}, but CUDA_VISIBLE_DEVICES={visible!r} allows {len(listed)}: "
            "ask for fewer, or change the variable"
        )
    return listed[:asked] if listed is not None else [str(i) for i in range(asked)]


def _gpus_of_the_driver() -> int:
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0
