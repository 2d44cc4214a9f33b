"""Memory runs short in a real cgroup: `make test-root`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from root_helpers import memory_cgroup, oom_kills

pytestmark = [pytest.mark.root, pytest.mark.seconds(90)]

LIMIT = 2 << 30
JOIN = """
open(os.environ["TEST_CGROUP"] + "/cgroup.procs", "w").write(str(os.getpid()))
"""
TASKS = """
def take(megabytes):
    return [b"x" * (1 << 20) for _ in range(megabytes)]
@ray.remote
def hog(megabytes):
    kept = []
    for _ in range(megabytes // 5):  # not faster than a node that gets no CPU for a while can look
        kept += take(5)
        time.sleep(0.01)
    time.sleep(60)
@ray.remote(max_retries=0)
def bystander():
    pathlib.Path(HERE, "begun").touch()
    limit = time.monotonic() + 60
    while not os.path.exists(HERE + "/go"):
        assert time.monotonic() < limit
        time.sleep(0.01)
    return os.getpid()
def told(f, *args):
    try:
        return dict(value=f(*args))
    except ray.exceptions.RayError as e:
        return dict(kind=type(e).__name__, text=str(e), **{k: v for k, v in vars(e).items()
                    if isinstance(v, (int, str, type(None)))})
def hog_beside_a_bystander(retries):
    other = bystander.remote()
    while not os.path.exists(HERE + "/begun"):
        time.sleep(0.01)
    say(error=told(ray.get, hog.options(max_retries=retries).remote(3000)))
    pathlib.Path(HERE, "go").touch()
    say(other=told(ray.get, other), after=ray.get(double.remote(4)))
"""


@pytest.fixture
def cgroup() -> Iterator[pathlib.Path]:
    """One of 2 GiB."""
    with memory_cgroup(LIMIT) as directory:
        yield directory


def start(driver: Any, cgroup: pathlib.Path, body: str, **env: str) -> Any:
    return driver(JOIN + body, env={"TEST_CGROUP": str(cgroup), **env})


def test_three_gigabytes_under_a_limit_of_two(driver: Any, cgroup: pathlib.Path) -> None:
    d = start(driver, cgroup, "begin()" + TASKS + "hog_beside_a_bystander(0)")
    error = d.said("error", 60)
    assert error["kind"] == "OutOfMemoryError"
    assert error["limit"] == LIMIT
    assert 1.5e9 < error["memory"] < LIMIT
    assert f"the cgroup {cgroup}'s 2.15 GB were in use" in error["text"]
    assert f"bystander (pid={d.said('other')['value']}) had " in error["text"]
    assert d.said("after") == 8
    assert d.ended() == 0
    assert oom_kills(cgroup) == 0
    d.assert_gone()


def test_what_the_kernel_kills_is_told_as_such(driver: Any, cgroup: pathlib.Path) -> None:
    d = start(
        driver,
        cgroup,
        "begin()" + TASKS + "hog_beside_a_bystander(0)",
        PYRAY_memory_monitor_refresh_ms="0",
    )
    error = d.said("error", 60)
    assert error["kind"] == "WorkerCrashedError"
    assert error["signal"] == "SIGKILL"
    assert "likely by the kernel's out-of-memory killer (it had up to 2." in error["text"]
    assert d.said("other")["value"]
    assert d.said("after") == 8
    assert d.ended() == 0
    assert oom_kills(cgroup) == 1
    d.assert_gone()


def test_a_kill_of_somebody_elses_is_not_told_as_such(driver: Any, cgroup: pathlib.Path) -> None:
    d = start(
        driver,
        cgroup,
        "begin()"
        + TASKS
        + """
@ray.remote(max_retries=0)
def killed():
    os.kill(os.getpid(), signal.SIGKILL)
say(error=told(ray.get, killed.remote()))
""",
    )
    assert "out-of-memory" not in d.said("error")["text"]


def test_the_store_leaves_room_for_the_tasks(driver: Any, cgroup: pathlib.Path) -> None:
    """Objects are memory of the cgroup's: there is an error before anybody is ended for them."""
    d = start(
        driver,
        cgroup,
        "begin(object_store_memory=4 << 30, max_spill_bytes=0)"
        + TASKS
        + """
other = bystander.remote()
kept = []
def fill():
    while True:
        kept.append(ray.put(os.urandom(1 << 20) * 16))
say(error=told(fill), count=len(kept))
pathlib.Path(HERE, "go").touch()
say(other=told(ray.get, other), sizes=[len(x) for x in ray.get(kept[:2])])
""",
    )
    error = d.said("error", 60)
    assert error["kind"] == "ObjectStoreFullError"
    assert f"the cgroup {cgroup} has " in error["text"]
    assert 90 < d.said("count") < 125
    assert d.said("other")["value"]
    assert d.ended() == 0
    assert oom_kills(cgroup) == 0
    assert "memory ran short" not in d.stderr()


def test_objects_go_to_disk_before_the_cgroup_is_full(
    driver: Any, cgroup: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    d = start(
        driver,
        cgroup,
        f"begin(object_store_memory=4 << 30, spill_directory={str(tmp_path)!r})"
        + TASKS
        + """
import zlib
other = bystander.remote()
kept, sums = [], []
for i in range(150):
    value = os.urandom(1 << 20) * 16
    kept.append(ray.put(value))
    sums.append(zlib.crc32(value))
pathlib.Path(HERE, "go").touch()
say(other=told(ray.get, other), good=[zlib.crc32(ray.get(ref)) for ref in kept] == sums)
""",
    )
    assert d.said("good", 60)
    assert d.said("other")["value"]
    assert d.ended() == 0
    assert oom_kills(cgroup) == 0


def test_files_that_were_read_are_no_memory_in_use(driver: Any, tmp_path: pathlib.Path) -> None:
    """They fill a cgroup, and are given back for the asking."""
    path = tmp_path / "large"
    with open(path, "wb") as f:
        f.write(b"x" * (450 << 20))
        f.flush()
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with memory_cgroup(512 << 20) as cgroup:
        d = start(
            driver,
            cgroup,
            f"""
with open({str(path)!r}, "rb") as f:
    while f.read(1 << 20):
        pass
info = begin()
say(store=info["object_store_memory"], value=len(ray.get(ray.put(bytes(100 << 20)))))
""",
        )
        assert d.said("store", 60) > 120 << 20
        assert d.said("value") == 100 << 20
        assert d.ended() == 0


@pytest.mark.parametrize("size", [256 << 20, 128 << 20])
def test_a_small_cgroup(driver: Any, size: int) -> None:
    with memory_cgroup(size) as cgroup:
        d = start(
            driver,
            cgroup,
            "info = begin(max_spill_bytes=0)"
            + TASKS
            + """
say(store=info["object_store_memory"], values=ray.get([double.remote(i) for i in range(100)]))
say(error=told(ray.get, hog.options(max_retries=0).remote(400)))
say(put=told(lambda: [ray.put(bytes(1 << 20)) for i in range(400)]))
say(after=ray.get(double.remote(2)))
""",
        )
        assert d.said("store") < size * 0.3
        assert d.said("values") == [2 * i for i in range(100)]
        error = d.said("error")
        # Of 128 MB only 6 are spare, which the kernel may be quicker to see used up.
        assert error["kind"] == "OutOfMemoryError" or size < 256 << 20
        assert error["signal"] == "SIGKILL"
        assert "memory" in error["text"]
        assert d.said("put")["kind"] == "ObjectStoreFullError"
        assert d.said("after") == 4
        assert d.ended() == 0
        assert oom_kills(cgroup) == 0 or size < 256 << 20
        d.assert_gone()
