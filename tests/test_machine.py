"""What the machine and its cgroups allow, read from files of theirs: both versions of cgroups."""

from __future__ import annotations

import builtins
import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from pyray import machine

GB = 1 << 30
Files = Callable[[dict[str, str]], None]

MEMINFO = "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n"


@pytest.fixture
def files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Have `machine` see these files of /proc and /sys, and no others."""

    def show(contents: dict[str, str]) -> None:
        for name, text in contents.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def open_there(path: str, *args: Any) -> Any:
        assert path.startswith(("/proc/", "/sys/"))
        return builtins.open(str(tmp_path) + path, *args)

    monkeypatch.setattr(machine, "open", open_there, raising=False)
    show({"/proc/meminfo": MEMINFO})
    return show


V2 = {
    "/proc/self/cgroup": "0::/user.slice/job\n",
    "/sys/fs/cgroup/user.slice/memory.max": "max\n",
    "/sys/fs/cgroup/user.slice/memory.current": f"{5 * GB}\n",
    "/sys/fs/cgroup/user.slice/job/memory.max": f"{4 * GB}\n",
    "/sys/fs/cgroup/user.slice/job/memory.current": f"{3 * GB}\n",
    "/sys/fs/cgroup/user.slice/job/memory.stat": (
        f"anon {GB}\nfile {2 * GB}\ninactive_anon 7\nactive_file {GB}\ninactive_file {GB // 2}\n"
    ),
}
V1 = {
    "/proc/self/cgroup": "9:name=systemd:/x\n4:memory:/job/inner\n1:cpu,cpuacct:/job\n0::/\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{2 * GB}\n",
    "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{2 * GB - 4096}\n",
    "/sys/fs/cgroup/memory/job/memory.stat": (
        f"cache 1\nactive_file 5\ntotal_active_file {GB // 2}\ntotal_inactive_file {GB // 2}\n"
    ),
    "/sys/fs/cgroup/memory/job/inner/memory.limit_in_bytes": "9223372036854771712\n",
    "/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "100000\n",
    "/sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
}


def test_the_machine_alone(files: Files) -> None:
    assert machine.memory_limits() == [("the machine", 16 * GB, 8 * GB)]
    assert machine.available_memory() == (8 * GB, "the machine")


def test_cgroups_of_version_2(files: Files) -> None:
    files(V2)
    name = "the cgroup /sys/fs/cgroup/user.slice/job"
    # Files that the kernel keeps in memory are not in use.
    assert machine.memory_limits()[1:] == [(name, 4 * GB, 3 * GB - GB - GB // 2)]
    assert machine.available_memory() == (4 * GB - 3 * GB // 2, name)
    assert machine.total_memory() <= 4 * GB


def test_cgroups_of_version_1(files: Files) -> None:
    files(V1)
    name = "the cgroup /sys/fs/cgroup/memory/job"
    assert machine.memory_limits()[1:] == [(name, 2 * GB, GB - 4096)]
    assert machine.cpus() == 1


def test_a_container_that_sees_the_hosts_path(files: Files) -> None:
    files(
        {
            "/proc/self/cgroup": "4:memory:/docker/0123\n",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GB}\n",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes": "4096\n",
        }
    )
    assert machine.memory_limits()[1:] == [("the cgroup /sys/fs/cgroup/memory", GB, 4096)]


def test_nothing_can_be_read(files: Files, tmp_path: pathlib.Path) -> None:
    (tmp_path / "proc/meminfo").unlink()
    assert machine.memory_limits() == []
    assert machine.why_not_grow(1 << 40) is None
    assert machine.oom_kills() == 0
    assert machine.total_memory() > 0
    files({"/proc/self/cgroup": "nonsense:\n0::/\n::\n", "/sys/fs/cgroup/memory.max": "much\n"})
    assert machine.memory_limits() == []


def test_the_store_leaves_more_than_tasks_do(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or tasks would be ended for what the store has taken."""
    monkeypatch.delenv(machine.THRESHOLD_VARIABLE, raising=False)
    files(V1)
    spare = machine.memory_to_spare(2 * GB, machine.usage_threshold())
    left = 2 * GB - (GB - 4096)
    assert machine.why_not_grow(left - spare - machine.RESERVE) is None
    why = machine.why_not_grow(left - spare - machine.RESERVE + 1)
    assert why is not None and f"{left} bytes left of {2 * GB}" in why
    monkeypatch.setenv(machine.THRESHOLD_VARIABLE, "0.5")
    assert machine.why_not_grow(GB // 2) is not None


def test_what_is_spared() -> None:
    assert machine.memory_to_spare(2 * GB, 0.95) == pytest.approx(0.05 * 2 * GB, abs=1)
    assert machine.memory_to_spare(1000 * GB, 0.95) == GB  # and not fifty of them
    assert machine.memory_to_spare(1000 * GB, 0.9) == pytest.approx(100 * GB, abs=1)


def test_kills_of_the_kernels_are_counted(files: Files) -> None:
    files(
        {
            **V2,
            "/proc/vmstat": "nr_free_pages 1\noom_kill 3\n",
            "/sys/fs/cgroup/user.slice/job/memory.events": "low 0\noom 9\noom_kill 2\n",
        }
    )
    assert machine.oom_kills() == 5


def test_this_machines_own_files() -> None:
    for what, limit, used in machine.memory_limits():
        assert 0 <= used <= limit * 1.01, what
    assert machine.available_memory()[0] <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
