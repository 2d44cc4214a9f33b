"""Strange surroundings: a session works in them, or there is a clear error at `init`.

Each test runs strange.py, a whole small session, in a process of its own. Those that need root (a
read-only file system, no /proc, …) are in test_root_environments.py.
"""

from __future__ import annotations

import os
import pathlib
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from helpers import run_script

import pyray

HERE = pathlib.Path(__file__).resolve().parent
ROOT = str(pathlib.Path(pyray.__file__).parent.parent)


def run(
    tmp_path: pathlib.Path,
    before: Callable[[], Any] | None = None,
    env: dict[str, str | None] | None = None,
    clean: bool = False,
    **popen: Any,
) -> str:
    """What the script says of its session; nothing may be left of that, and no file."""
    result = tmp_path / "result"
    full: dict[str, str | None] = {} if clean else dict(os.environ)
    full |= {"PYTHONPATH": ROOT, "TEST_RESULT": str(result), **(env or {})}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "strange.py")],
        env={k: v for k, v in full.items() if v is not None},
        preexec_fn=before,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **popen,
    )
    try:
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert result.exists(), out.decode(errors="replace")
    assert process.returncode == 0, out.decode(errors="replace")
    said = result.read_text()
    result.unlink()
    return said


def closing(*fds: int) -> Callable[[], None]:
    def close() -> None:
        for fd in fds:
            os.close(fd)

    return close


def limited(what: int, soft: int, hard: int | None = None) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (soft, soft if hard is None else hard))


def in_a_deleted_directory(path: pathlib.Path) -> Callable[[], None]:
    def go() -> None:
        path.mkdir()
        os.chdir(path)
        path.rmdir()

    return go


# ---- descriptors, limits -----------------------------------------------------------------------


@pytest.mark.parametrize("fds", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_standard_streams_are_closed(tmp_path: pathlib.Path, fds: tuple[int, ...]) -> None:
    assert run(tmp_path, closing(*fds)) == "OK"


@pytest.mark.parametrize("files", [64, 36])
def test_few_open_files(tmp_path: pathlib.Path, files: int) -> None:
    assert run(tmp_path, limited(resource.RLIMIT_NOFILE, files)) == "OK"


@pytest.mark.parametrize("files", [35, 20, 12])
def test_too_few_open_files(tmp_path: pathlib.Path, files: int) -> None:
    said = run(tmp_path, limited(resource.RLIMIT_NOFILE, files))
    assert said.startswith("SessionError: ")
    assert f"may open {files} files" in said
    assert "36" in said
    assert "ulimit -Hn" in said


def test_the_soft_limit_alone_is_no_matter(tmp_path: pathlib.Path) -> None:
    assert run(tmp_path, limited(resource.RLIMIT_NOFILE, 24, 4096)) == "OK"


def test_no_descriptor_is_left_where_there_were_too_few(tmp_path: pathlib.Path) -> None:
    """However many there are left to the driver, `init` works or raises, and leaves none."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, resource, sys, warnings\n"
        "warnings.simplefilter('error')\n"
        "import pyray as ray\n"
        "ray.init(num_cpus=1, object_store_memory=1 << 20)\n"  # what it imports is there then
        "ray.shutdown()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))\n"
        "for left in range(0, 16):\n"
        "    taken = [os.dup(0)]\n"
        "    while taken[-1] < 63 - left:\n"
        "        taken.append(os.dup(0))\n"
        "    try:\n"
        "        ray.init(num_cpus=1, object_store_memory=1 << 20)\n"
        "        said = 'works'\n"
        "    except ray.exceptions.SessionError as error:\n"
        "        said = str(error)\n"
        "    ray.shutdown()\n"
        "    for fd in taken:\n"
        "        os.close(fd)\n"
        "    last = len(os.listdir('/proc/self/fd'))\n"
        "    print(left, last, said)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert len(lines) == 16
    assert len({open_ for _, open_, _ in lines}) == 1, done.stdout
    assert lines[-1][2] == "works"
    assert "open files" in lines[0][2]


@pytest.mark.no_asan("needs address space by the terabyte")
def test_too_little_address_space(tmp_path: pathlib.Path) -> None:
    said = run(tmp_path, limited(resource.RLIMIT_AS, 1 << 30))
    assert said.startswith("SessionError: ")
    assert "(ulimit -v): 1073741824" in said


@pytest.mark.no_asan("needs address space by the terabyte")
def test_little_address_space(tmp_path: pathlib.Path) -> None:
    assert run(tmp_path, limited(resource.RLIMIT_AS, 4 << 30)) == "OK"


def test_a_limit_on_the_size_of_files_counts_for_shared_memory(tmp_path: pathlib.Path) -> None:
    said = run(tmp_path, limited(resource.RLIMIT_FSIZE, 1 << 20))
    assert said.startswith("SessionError: ")
    assert "(ulimit -f): 1048576" in said


# ---- directories, files, environment -----------------------------------------------------------


def test_a_long_tmpdir(tmp_path: pathlib.Path) -> None:
    """Longer than a socket's path may be."""
    long = tmp_path / ("x" * 100) / ("y" * 100)
    long.mkdir(parents=True)
    assert run(tmp_path, env={"TMPDIR": str(long)}) == "OK"
    assert list(long.iterdir()) == []


@pytest.mark.parametrize("where", ["/nonexistent/directory", "/dev/null", ""])
def test_no_tmpdir(tmp_path: pathlib.Path, where: str) -> None:
    assert run(tmp_path, env={"TMPDIR": where}) == "OK"


@pytest.mark.parametrize(
    "env",
    [
        {"HOME": None, "USER": None, "LOGNAME": None},
        {"HOME": "/nonexistent"},
        {"PATH": None},
        {"LANG": None, "LC_ALL": None, "LC_CTYPE": None},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "no_SUCH.locale"},
    ],
    ids=lambda env: " ".join(f"{k}={v}" for k, v in env.items()),
)
def test_the_environment(tmp_path: pathlib.Path, env: dict[str, str | None]) -> None:
    assert run(tmp_path, env=env) == "OK"


@pytest.mark.no_asan("must be preloaded by the environment")
def test_an_empty_environment(tmp_path: pathlib.Path) -> None:
    assert run(tmp_path, clean=True) == "OK"


def test_node_and_workers_run_the_driver_s_pyray(tmp_path: pathlib.Path) -> None:
    """Not another one that the interpreter finds by itself."""
    (tmp_path / "pyray").symlink_to(pathlib.Path(pyray.__file__).parent)
    source = """
import pyray as ray
ray.init(num_cpus=1)
where = ray.remote(lambda: ray.__file__)
assert ray.get(where.remote()) == ray.__file__, (ray.get(where.remote()), ray.__file__)
print(ray.__file__)
"""
    done = run_script(tmp_path / "script.py", source)
    assert done.stdout.startswith(str(tmp_path))


def test_files_beside_the_driver_s_pyray_are_not_the_node_s(tmp_path: pathlib.Path) -> None:
    """It may lie in a project of the user's, which calls its modules as it likes."""
    (tmp_path / "pyray").symlink_to(pathlib.Path(pyray.__file__).parent)
    (tmp_path / "numbers.py").write_text("raise RuntimeError('not the one that was meant')\n")
    source = """
import pyray as ray
ray.init(num_cpus=1)
print(ray.get(ray.remote(lambda: 3).remote()))
"""
    assert run_script(tmp_path / "script.py", source).stdout == "3\n"


def test_the_current_directory_is_deleted(tmp_path: pathlib.Path) -> None:
    said = run(tmp_path, in_a_deleted_directory(tmp_path / "gone"))
    assert said.startswith("SessionError: the current directory has been deleted")


@pytest.mark.parametrize("mask", [0, 0o777], ids=oct)
def test_umasks(tmp_path: pathlib.Path, mask: int) -> None:
    path = tmp_path / "result"
    path.touch()  # its mode would be the mask's
    assert run(tmp_path, lambda: os.umask(mask)) == "OK"


# ---- signals -----------------------------------------------------------------------------------


def test_signals_are_blocked(tmp_path: pathlib.Path) -> None:
    """As they are in a child of a thread that has blocked them."""
    everything = signal.valid_signals()
    assert run(tmp_path, lambda: signal.pthread_sigmask(signal.SIG_BLOCK, everything)) == "OK"


def test_tasks_are_cancelled_where_signals_are_blocked(driver: Any) -> None:
    d = driver("""
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
begin()
@ray.remote
def spin():
    pathlib.Path(HERE, "spins").touch()
    while True:
        time.sleep(0.01)
ref = spin.remote()
while not os.path.exists(HERE + "/spins"):
    time.sleep(0.005)
ray.cancel(ref)
try:
    ray.get(ref, timeout=10)
except ray.exceptions.RayError as error:
    say(error=type(error).__name__)
""")
    assert d.said("error") == "TaskCancelledError"
    assert d.ended() == 0
    d.assert_gone()


@pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_ignored(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    assert run(tmp_path, lambda: signal.signal(number, signal.SIG_IGN)) == "OK"
