"""What this machine has: CPUs, memory, GPUs, as far as this process may use them."""

from __future__ import annotations

import os

STORE_SHARE = 0.3
# Left free when the store grows, so that the next to ask for memory is not killed.
RESERVE = 64 << 20
# How much of the memory may be used before tasks are ended, but for so many bytes at most.
THRESHOLD = 0.95
SPARE_AT_MOST = 1 << 30
# What the node has open besides its workers' pipes, sockets and handles, and for each of those, one
# that is being started included.
FILES_OF_NODE = 24
FILES_OF_WORKER = 4
# Version 1 of cgroups says so where there is no limit: as much as its counter can hold.
NO_LIMIT = 1 << 60

THRESHOLD_VARIABLE = "PYRAY_memory_usage_threshold"
REFRESH_VARIABLE = "PYRAY_memory_monitor_refresh_ms"


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
    for directory in _old_cgroups("cpu"):
        old = _number(f"{directory}/cpu.cfs_quota_us"), _number(f"{directory}/cpu.cfs_period_us")
        if old[0] is not None and old[1] and old[0] > 0:
            n = min(n, max(1, old[0] // old[1]))
    return max(1, min(n, 256))


def cgroups() -> list[str]:
    """Directories of this process's cgroup (version 2) and its ancestors, innermost first."""
    return _ancestors("", "/sys/fs/cgroup")


def _old_cgroups(controller: str) -> list[str]:
    """The same in the hierarchy that version 1 has for this controller; none if it has none."""
    return _ancestors(controller, f"/sys/fs/cgroup/{controller}")


def _ancestors(controller: str, root: str) -> list[str]:
    try:
        with open("/proc/self/cgroup") as f:
            lines = f.read().splitlines()
    except OSError:
        return []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and controller in controllers.split(","):
            parts = path.strip("/").split("/") if path.strip("/") else []
            # In a container the path may be the host's; what is mounted at the root is ours then.
            return ["/".join([root, *parts[:i]]) for i in range(len(parts), -1, -1)]
    return []


def _number(path: str) -> int | None:
    try:
        with open(path) as f:
            return int(f.read())
    except (OSError, ValueError):
        return None


def fields(path: str, *names: str) -> list[int]:
    """Numbers by their names out of a file of the kernel's; 0 for what is not there.

    What stands in kB comes as bytes.
    """
    try:
        with open(path, "rb", 0) as f:
            text = b"\n" + f.read()
    except OSError:
        return [0] * len(names)
    found = []
    for name in names:
        # Not line by line: this is done some times a second, and of fifty lines three are wanted.
        at = text.find(b"\n%b" % name.encode())
        line = text[at : text.find(b"\n", at + 1)].split() if at >= 0 else []
        number = int(line[1]) if len(line) > 1 and line[1].isdigit() else 0
        found.append(number << 10 if line[2:] == [b"kB"] else number)
    return found


def memory_limits() -> list[tuple[str, int, int]]:
    """(what, bytes that it allows, bytes in use) of whatever limits this process's memory.

    In use is what cannot be had again for the asking: files that the kernel keeps in memory do not
    count, although a cgroup's own figure has them.
    """
    found = []
    total, free = fields("/proc/meminfo", "MemTotal:", "MemAvailable:")
    if total:
        found.append(("the machine", total, total - free))
    for directory in cgroups():
        limit = _number(f"{directory}/memory.max")
        used = _number(f"{directory}/memory.current")
        if limit is not None and used is not None:
            used -= sum(fields(f"{directory}/memory.stat", "active_file ", "inactive_file "))
            found.append((f"the cgroup {directory}", limit, max(0, used)))
    for directory in _old_cgroups("memory"):
        limit = _number(f"{directory}/memory.limit_in_bytes")
        if limit is None or limit >= NO_LIMIT:
            continue
        used = _number(f"{directory}/memory.usage_in_bytes")
        if used is not None:
            names = "total_active_file ", "total_inactive_file "
            used -= sum(fields(f"{directory}/memory.stat", *names))
            found.append((f"the cgroup {directory}", limit, max(0, used)))
    return found


def oom_kills() -> int:
    """How often the kernel has ended a process for want of memory, here or in our cgroups."""
    files = ["/proc/vmstat"]
    files += [f"{directory}/memory.events" for directory in cgroups()]
    files += [f"{directory}/memory.oom_control" for directory in _old_cgroups("memory")]
    return sum(fields(file, "oom_kill ")[0] for file in files)


def usage_threshold() -> float:
    """The share of its limit up to which memory may be used: ``PYRAY_memory_usage_threshold``.

    Raises
    ------
    ValueError
        The variable is no number between 0 and 1.
    """
    text = os.environ.get(THRESHOLD_VARIABLE, str(THRESHOLD))
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(
            f"the environment variable {THRESHOLD_VARIABLE} is {text!r}; it is the share of the "
            "memory that may be used before tasks are ended, more than 0 and at most 1"
        )
    return share


def refresh_seconds() -> float:
    """How long the node may wait between two looks at memory: ``PYRAY_memory_monitor_refresh_ms``.

    0: it does not look.

    Raises
    ------
    ValueError
        The variable is no whole number.
    """
    text = os.environ.get(REFRESH_VARIABLE, "500")
    if not text.isdigit():
        raise ValueError(
            f"the environment variable {REFRESH_VARIABLE} is {text!r}; it is the number of "
            "milliseconds between two looks at the memory in use, 0 for none at all"
        )
    return int(text) / 1000


def memory_to_spare(limit: int, share: float) -> int:
    """Bytes of a limit that tasks leave free: what the user says, else no more than a gigabyte."""
    spare = int(limit * (1 - share))
    return min(spare, SPARE_AT_MOST) if share == THRESHOLD else spare


def available_memory() -> tuple[int, str]:
    """Bytes that can still be taken, and what sets that limit."""
    return min(
        ((max(0, limit - used), what) for what, limit, used in memory_limits()),
        default=(1 << 62, "the machine"),
    )


def total_memory() -> int:
    """Bytes of memory that the machine and the cgroup allow in all."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([total, *(limit for _, limit, _ in memory_limits())])


def default_store_memory() -> int:
    """Size of the object store unless the user says: 30% of what can be had now."""
    return max(1 << 20, int(available_memory()[0] * STORE_SHARE))


def task_memory() -> int:
    """The resource `memory`: what is left for tasks beside the store."""
    return int(total_memory() * (1 - STORE_SHARE))


def why_not_grow(size: int) -> str | None:
    """Why the store may not take so many more bytes of memory; None if it may.

    It leaves more free than tasks do, or they would be ended for what the store has taken.
    """
    share = usage_threshold()
    for what, limit, used in memory_limits():
        reserve = RESERVE + memory_to_spare(limit, share)
        if used + size + reserve > limit:
            return (
                f"{what} has {max(0, limit - used)} bytes left of {limit}, of which {reserve} are "
                "kept in reserve; free memory, or use a smaller object_store_memory, which reuses "
                "what it has"
            )
    return None


def workers_by_files(limit: int) -> int:
    """How many workers a node can have that may open so many files; -1: as many as it likes."""
    if limit < 0:
        return 1 << 20
    return max(0, limit - FILES_OF_NODE) // FILES_OF_WORKER


def why_not_start(num_cpus: int) -> str | None:
    """Why there can be no session here, whatever its size; None if there can."""
    import resource

    if not os.path.exists("/proc/self/fd"):
        return (
            "there is no /proc here, where pyray finds the processes of a session; mount it "
            "(mount -t proc proc /proc)"
        )
    # The soft limit is the driver's own affair; the node raises its to the hard one.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    need = max(1, num_cpus) + 1  # one more than the pool: for an actor
    if workers_by_files(files) < need:
        return (
            f"a process may open {files} files here, and a session of {num_cpus} CPUs needs "
            f"{FILES_OF_NODE + need * FILES_OF_WORKER}: raise the hard limit (ulimit -Hn) or use "
            "fewer CPUs (num_cpus=)"
        )
    return None


def which_limit(error: BaseException) -> str:
    """What in the limits on this process may be behind an error at the start: goes after it."""
    import errno
    import resource

    known = {
        errno.ENOMEM: (resource.RLIMIT_AS, "its address space", "ulimit -v"),
        errno.EFBIG: (resource.RLIMIT_FSIZE, "the size of its files", "ulimit -f"),
        errno.EMFILE: (resource.RLIMIT_NOFILE, "its open files", "ulimit -n"),
        errno.EAGAIN: (resource.RLIMIT_NPROC, "its user's processes and threads", "ulimit -u"),
    }
    code = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    if isinstance(error, RuntimeError):
        code = errno.EAGAIN  # that is how `threading` says it
    if code not in known:
        return ""
    number, what, command = known[code]
    limit = resource.getrlimit(number)[0]
    if limit == resource.RLIM_INFINITY:
        return ""
    return f"; this process has a limit on {what} ({command}): {limit}"


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
