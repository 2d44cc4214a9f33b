"""Another user attacks a session: `make test-root`. SECURITY.md says what is promised."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import stat
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import wait_until
from root_helpers import (
    ONE,
    OTHER,
    assert_no_names_or_ports,
    become,
    names_of_sockets,
    python_for_all,
    run_as,
)

pytestmark = [pytest.mark.root, pytest.mark.seconds(60)]

HERE = pathlib.Path(__file__).resolve().parent
ATTACK = HERE / "attack.py"
SECRET = "correct horse battery staple"

VICTIM = f"""
import os, sys
os.umask(0)
import pyray as ray
from pyray import api
from pyray.util.state import get_store
ray.init(num_cpus=2, object_store_memory=16 << 20,
         runtime_env={{"env_vars": {{"TOKEN": {SECRET!r}}}}})
kept = ray.put(bytes({SECRET!r}, "ascii") * 1000)

@ray.remote
def work(secret):
    print(secret)
    return os.environ["TOKEN"]

@ray.remote
class Keeper:
    def __init__(self, secret):
        self.secret = secret
    def ready(self):
        return len(self.secret)

keeper = Keeper.remote({SECRET!r})
assert ray.get(work.remote({SECRET!r})) == {SECRET!r}
assert ray.get(keeper.ready.remote())
spilled = [ray.put(bytes({SECRET!r}, "ascii") * 100_000) for _ in range(10)]
assert get_store().spill_used
print("@@" + " ".join(map(str, api.processes())), flush=True)
sys.stdin.read()
assert ray.get(work.remote("later")) == {SECRET!r}
assert len(ray.get(kept)) == 1000 * {len(SECRET)}
assert all(bytes(ray.get(ref)[:5]) == b"corre" for ref in spilled)
print("@@done", flush=True)
"""


class Victim:
    """A session of user ONE's, under a permissive umask, in a directory that all may write to."""

    def __init__(self, folder: pathlib.Path) -> None:
        python, path = python_for_all()
        folder.chmod(0o755)
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        script = folder / "victim.py"
        script.write_text(VICTIM)
        self.process = subprocess.Popen(
            [python, str(script)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "TMPDIR": str(self.tmp)},
            preexec_fn=lambda: become(ONE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.tmp,
        )

    def start(self) -> None:
        self.pids = [int(pid) for pid in self.line().split()]

    def line(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@@"):
                return line[2:].strip()
        raise AssertionError("the session ended")

    def finish(self) -> None:
        """It has noticed nothing."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.line() == "done"
        assert self.process.wait(20) == 0

    def targets(self) -> list[dict[str, Any]]:
        found = []
        for pid in self.pids:
            maps = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
            memory = next(line for line in maps if "memfd:pyray" in line)
            fds = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))
            found.append({"pid": pid, "address": int(memory.split("-")[0], 16), "fds": fds})
        return found


@pytest.fixture
def victim(tmp_path: pathlib.Path) -> Iterator[Victim]:
    for folder in tmp_path.parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    made = Victim(tmp_path)
    with made.process as process:
        try:
            yield made
        finally:
            process.kill()
            process.wait()


def attack(user: int, victim: Victim) -> dict[str, Any]:
    targets = {"processes": victim.targets(), "sockets": names_of_sockets(victim.pids)}
    done = run_as(user, ATTACK, json.dumps(targets))
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["uid"] == user
    return result


def test_another_user_gets_at_nothing(victim: Victim) -> None:
    victim.start()
    result = attack(OTHER, victim)
    assert result["got"] == []
    assert {why for _, why in result["failed"]} <= {"EACCES", "EPERM"}
    assert len(result["failed"]) > 40 * len(victim.pids)
    victim.finish()


def test_the_same_user_does(victim: Victim) -> None:
    """Who is trusted; and the attacks are none if they fail anyhow."""
    victim.start()
    done = {what.rpartition(" of ")[0] or what for what, _ in attack(ONE, victim)["got"]}
    for what in ("read mem", "read environ", "list fd", "list map_files", "read the memory"):
        assert what in done
    for fd in victim.targets()[0]["fds"][:3]:
        assert f"take fd {fd}" in done
    victim.finish()


def test_planted_names_are_neither_followed_nor_used(victim: Victim) -> None:
    """In a directory where all may write, another user has made what somebody might look for."""
    target = victim.tmp.parent / "target"
    target.write_text("precious")
    os.chown(target, ONE, ONE)
    names = ["pyray", "pyray-spill", f"pyray-{ONE}", f"pyray_{ONE}", "ray", "spill", ".pyray"]
    names += [f"pyray-{victim.process.pid}", f"pyray-spill-{victim.process.pid}"]
    for i, name in enumerate(names):
        path = victim.tmp / name
        if i % 2:
            path.mkdir(mode=0o777)
        else:
            path.symlink_to(target)
        os.chown(path, OTHER, OTHER, follow_symlinks=False)
    victim.start()
    assert sorted(p.name for p in victim.tmp.iterdir()) == sorted(names)
    victim.finish()
    assert sorted(p.name for p in victim.tmp.iterdir()) == sorted(names)
    assert target.read_text() == "precious"
    assert not [p for p in victim.tmp.iterdir() if p.is_dir() and any(p.iterdir())]


def test_files_and_memory_are_for_the_user_alone_whatever_the_umask(victim: Victim) -> None:
    victim.start()
    for pid in victim.pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            name = os.readlink(f"/proc/{pid}/fd/{fd}")
            if "memfd:pyray" in name or name.startswith(str(victim.tmp)):
                found = os.stat(f"/proc/{pid}/fd/{fd}")
                assert stat.S_IMODE(found.st_mode) == 0o600
                assert found.st_uid == ONE
    victim.finish()


def test_nothing_is_told_by_what_all_may_read(victim: Victim) -> None:
    """Command lines and names of processes, as `ps` shows them."""
    victim.start()
    for pid in victim.pids:
        for name in ("cmdline", "comm", "status", "stat", "statm", "wchan"):
            with contextlib.suppress(OSError):
                assert SECRET not in pathlib.Path(f"/proc/{pid}/{name}").read_text()
    victim.finish()


def test_no_socket_has_a_name_or_a_port(victim: Victim) -> None:
    victim.start()
    assert_no_names_or_ports(victim.pids)
    victim.finish()


def test_a_program_of_another_user_that_a_task_starts_inherits_nothing(
    tmp_path: pathlib.Path, victim: Victim
) -> None:
    """As `sudo -u other` in a task: root's session, since that may become others."""
    code = (
        "import os, subprocess, pyray as ray\n"
        "ray.init(num_cpus=1, object_store_memory=1 << 20)\n"
        "def look():\n"
        f"    return subprocess.run(['setpriv', '--reuid={OTHER}', 'sh', '-c',\n"
        "        'ls -l /proc/self/fd'], stdin=0, capture_output=True, text=True,\n"
        "        close_fds=False).stdout\n"
        "print(look()); print(ray.get(ray.remote(look).remote()))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    from helpers import run_python

    out = run_python(str(script)).stdout
    assert out.count("/proc/") >= 2
    for word in ("memfd", "socket:", "eventfd", "pidfd", "timerfd", "eventpoll"):
        assert word not in out, out


def test_the_attacker_cannot_stop_the_session(victim: Victim) -> None:
    victim.start()
    done = subprocess.run(
        ["sh", "-c", f"kill -9 {' '.join(map(str, victim.pids))}"],
        preexec_fn=lambda: become(OTHER),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    victim.finish()


def test_the_end_leaves_nothing_to_be_found(victim: Victim) -> None:
    victim.start()
    os.kill(victim.process.pid, signal.SIGKILL)
    pids = victim.pids[1:]
    wait_until(lambda: not [p for p in pids if os.path.exists(f"/proc/{p}")], 5, "their end")
    assert list(victim.tmp.iterdir()) == []
