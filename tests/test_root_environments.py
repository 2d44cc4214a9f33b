"""Strange surroundings that only root can make: `make test-root`.

In a mount namespace of their own each, so that nobody else sees them. Beware of what reaches beyond
it: with `remount` the options of /proc change for all, so a new one is mounted instead.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from root_helpers import ONE, become, python_for_all, run_as

import pyray

pytestmark = [pytest.mark.root, pytest.mark.seconds(60)]

HERE = pathlib.Path(__file__).resolve().parent
SCRIPT = HERE / "strange.py"
ROOT = str(pathlib.Path(pyray.__file__).parent.parent)


def inside(
    shell: str, *flags: str, before: Callable[[], Any] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a shell's commands in namespaces of their own; $RUN is the script."""
    return subprocess.run(
        ["unshare", "-m", *flags, "sh", "-ec", shell],
        env={**os.environ, "PYTHONPATH": ROOT, "RUN": f"{sys.executable} {SCRIPT}", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        cwd="/",
        preexec_fn=before,
    )


def works(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "OK", done.stdout + done.stderr


def test_a_read_only_file_system() -> None:
    done = inside(
        "mount --bind / /mnt\n"
        "mount -o remount,ro,bind /\n"
        "cd /\n"
        "if touch /written 2>&1; then exit 9; fi\n"
        "TMPDIR=/var/tmp $RUN"
    )
    works(done)


def test_a_tmpdir_on_a_full_disk(tmp_path: pathlib.Path) -> None:
    done = inside(
        f"mount -t tmpfs -o size=16k none {tmp_path}\n"
        f"dd if=/dev/zero of={tmp_path}/fill bs=4k 2>&1 || true\n"
        f"if (echo x > {tmp_path}/more) 2>&1; then exit 9; fi\n"
        f"TMPDIR={tmp_path} $RUN"
    )
    works(done)


@pytest.mark.parametrize(
    "shell",
    ["mount -t tmpfs -o ro none /dev/shm", "mount -t tmpfs -o size=64k none /dev/shm"],
    ids=["none", "64 kB"],
)
def test_dev_shm_is_no_matter(shell: str) -> None:
    """The session's memory has no name anywhere; an object of 5 MB lies in it, see strange.py."""
    works(inside(f"{shell}\n$RUN"))


def test_no_proc() -> None:
    done = inside("mount -t tmpfs none /proc\n$RUN")
    assert done.stdout.startswith("SessionError: a session cannot be started: there is no /proc")


def test_no_dev_null() -> None:
    done = inside("mount -t tmpfs none /dev\n$RUN")
    assert done.stdout.startswith("SessionError: ")
    assert "/dev/null" in done.stdout


def test_memory_that_is_not_executable_is_asked_for() -> None:
    """Some systems allow no other; the setting is its namespace's own."""
    if not os.path.exists("/proc/sys/vm/memfd_noexec"):
        pytest.skip("this kernel knows no such setting")
    shell = "echo 2 > /proc/sys/vm/memfd_noexec\n$RUN"
    works(inside(shell, "--fork", "--pid", "--mount-proc"))


def test_no_sys() -> None:
    works(inside("mount -t tmpfs none /sys\n$RUN"))


def test_other_users_processes_are_hidden() -> None:
    works(run_as(ONE, SCRIPT, shell="mount -t proc -o hidepid=2 proc /proc"))


def test_a_user_without_rights_or_a_name() -> None:
    works(run_as(ONE, SCRIPT))


@pytest.mark.parametrize("direct", [False, True], ids=["below a shell", "by itself"])
def test_as_the_first_process_of_a_container(direct: bool) -> None:
    """Process 1 gets everybody's orphans, and ignores signals that it has no handler for."""
    works(inside(f"{'exec ' if direct else ''}$RUN", "--fork", "--pid", "--mount-proc"))


def test_as_roots_double_in_a_user_namespace() -> None:
    works(inside("$RUN", "-Ur"))


def test_without_any_network() -> None:
    works(inside("$RUN", "-n"))


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 5, 12])
def test_few_processes(processes: int) -> None:
    """The limit counts all of a user's processes and threads, so it takes a user without others."""
    python, path = python_for_all()
    done = subprocess.run(
        ["prlimit", f"--nproc={processes}", python, str(SCRIPT)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path},
        preexec_fn=lambda: become(ONE + 1000 + processes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        cwd="/",
    )
    said = done.stdout.strip().splitlines()[-1]
    if processes == 12:
        assert said == "OK", done.stderr
    elif processes == 5:  # enough for the pool, but not for an actor
        assert said == "OK" or said.startswith("ProcessLimitError: "), said
        assert said == "OK" or "Resource temporarily unavailable" in said
    else:
        assert said.startswith("SessionError: "), said
        assert f"(ulimit -u): {processes}" in said
        assert "Traceback" not in done.stderr
