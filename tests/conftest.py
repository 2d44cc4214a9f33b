"""Every test has a hard time limit and must leave nothing behind.

After each test the session is shut down; then there may be no child process, no descriptor, no
thread that was not there before, and none of pyray's memory mapped any more. A test that takes too
long fails after a dump of the stacks of all processes; if even that does not end it, the whole run
ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import helpers
import stacks

TEST_SECONDS = 40.0
GRACE_SECONDS = 15.0

# Workers and nodes of the tests dump their stacks when they get a fatal signal, SIGABRT included.
os.environ.setdefault("PYTHONFAULTHANDLER", "1")

_failed = pytest.StashKey[bool]()


class TimeUpError(Exception):
    """Raised in the main thread when a test's time is up."""


class Watchdog:
    """One thread that looks after the time limit of the running test."""

    def __init__(self) -> None:
        self.deadline: float | None = None
        self.test = ""
        self.stderr = os.dup(2)
        self.main = threading.main_thread().ident
        self.changed = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="test-watchdog", daemon=True)
        self.thread.start()

    def set(self, test: str, seconds: float | None) -> None:
        self.test = test
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.changed.set()

    def _say(self, text: str) -> None:
        os.write(self.stderr, f"{text}\n".encode())

    def _watch(self) -> None:
        while True:
            deadline = self.deadline
            left = None if deadline is None else deadline - time.monotonic()
            if left is None or left > 0:
                self.changed.wait(left)
                self.changed.clear()
                continue
            test = self.test
            self._dump()
            if self.test != test:
                continue  # the dump has ended it
            self.deadline = time.monotonic() + GRACE_SECONDS
            assert self.main is not None
            signal.pthread_kill(self.main, signal.SIGUSR2)
            while self.deadline is not None and self.test == test:
                if time.monotonic() > self.deadline:
                    self._say(f"{test} cannot be ended: giving up")
                    stacks.kill_all()
                    os._exit(70)
                time.sleep(0.05)

    def _dump(self) -> None:
        self._say(f"\n==== {self.test} takes too long. This process:")
        faulthandler.dump_traceback(self.stderr)
        stacks.dump(self._say)


_watchdog: Watchdog | None = None


def pytest_configure(config: pytest.Config) -> None:
    global _watchdog
    if not config.getini("filterwarnings"):
        config.addinivalue_line("filterwarnings", "error")
    config.addinivalue_line("markers", "seconds(n): this test's time limit")

    def on_signal(number: int, frame: Any) -> None:
        raise TimeUpError("the test's time is up; the stacks are in the output")

    signal.signal(signal.SIGUSR2, on_signal)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So a shell has it for what it starts in the background; the tests send it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    stacks.prepare()
    _watchdog = Watchdog()


def pytest_unconfigure(config: pytest.Config) -> None:
    stacks.clear()


def limit(marker: pytest.Mark | None) -> float:
    """A test's time limit in seconds."""
    return float(marker.args[0] if marker else TEST_SECONDS) * helpers.SLOWNESS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say which tests are not run here for want of root, or under AddressSanitizer, and why.

    And keep pytest-timeout, if installed, behind the watchdog, which dumps every process.
    """
    meant = "root" in config.option.markexpr
    why = "it becomes other users, and makes cgroups and namespaces: say `make test-root`, as root"
    for item in items:
        if item.get_closest_marker("root") and (os.geteuid() or not meant):
            item.add_marker(pytest.mark.skip(reason=f"not run: {why}"))
        mark = item.get_closest_marker("no_asan")
        if mark and helpers.UNDER_ASAN:
            item.add_marker(pytest.mark.skip(reason=f"AddressSanitizer {mark.args[0]}"))
    if not config.pluginmanager.hasplugin("timeout"):
        return
    for item in items:
        marker = item.get_closest_marker("seconds")
        if marker and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(limit(marker) + GRACE_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    marker = item.get_closest_marker("seconds")
    assert _watchdog is not None
    _watchdog.set(item.nodeid, limit(marker))
    try:
        return (yield)
    finally:
        _watchdog.set("", None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name != "test-watchdog"}


def _new_fds(before: dict[int, str]) -> dict[int, str]:
    ignore = "/proc/"  # the listing's own
    return {
        fd: what
        for fd, what in helpers.open_fds().items()
        if before.get(fd) != what and not what.startswith(ignore)
    }


def _live_counts() -> dict[str, int] | None:
    """Ids and views that live: counted in debug builds (PYRAY_DEBUG=1) only."""
    store = sys.modules.get("pyray._core.store")
    return store.live_counts() if store is not None else None


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Shut pyray down after each test, and check that it left nothing."""
    fds = helpers.open_fds()
    threads = _threads()
    environ = dict(os.environ)
    directory = os.getcwd()
    live = _live_counts()
    yield
    session = sys.modules.get("pyray.session")
    try:
        if session is not None and not request.node.stash.get(_failed, False):
            helpers.check_books()
    finally:
        if session is not None:
            session.shutdown()
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(directory)
    failed = request.node.stash.get(_failed, False)
    if failed:
        return  # the traceback keeps arrays alive, and one failure is enough
    gone = "what the test left behind to go"
    with contextlib.suppress(AssertionError):
        helpers.wait_until(lambda: not _children(), 3, gone)
    left = [f"{p} {helpers.process_state(p)} {helpers.command(p)}" for p in _children()]
    assert not left, f"processes left: {left}"
    with contextlib.suppress(AssertionError):
        helpers.wait_until(lambda: not _threads() - threads, 3, gone)
    assert not _threads() - threads, f"threads left: {_threads() - threads}"
    if helpers.store_mappings():
        gc.collect()
    assert not helpers.store_mappings(), "pyray's memory is still mapped"
    if live != _live_counts():
        gc.collect()  # a debug build counts its objects
    assert live == _live_counts(), f"objects left: {_live_counts()}, before {live}"
    if _new_fds(fds):
        gc.collect()
    assert not _new_fds(fds), f"descriptors left: {_new_fds(fds)}"


def _children() -> list[int]:
    found = []
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/children") as f:
            found.extend(int(word) for word in f.read().split())
    return found


@pytest.fixture
def ray() -> Any:
    """The module, with a session of two CPUs."""
    import pyray

    pyray.init(num_cpus=2, object_store_memory=256 << 20)
    return pyray


@pytest.fixture
def ray1() -> Any:
    """The module, with a session of one CPU."""
    import pyray

    pyray.init(num_cpus=1, object_store_memory=256 << 20)
    return pyray


@pytest.fixture
def ray_in_memory() -> Any:
    """The module, with a session of two CPUs in which nothing goes to disk."""
    import pyray

    pyray.init(num_cpus=2, object_store_memory=256 << 20, max_spill_bytes=0)
    return pyray


@pytest.fixture
def gate(tmp_path: Any) -> helpers.Gate:
    """A gate that tasks can wait at."""
    return helpers.Gate(tmp_path / "gate")


@pytest.fixture
def tally(tmp_path: Any) -> helpers.Tally:
    """Something that counts across processes."""
    return helpers.Tally(tmp_path / "tally")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start driver scripts in processes of their own; whatever they leave is killed at the end."""
    from fault_drivers import Driver

    made = []

    def start(body: str, **options: Any) -> Driver:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Driver(folder, body, **options))
        return made[-1]

    yield start
    for one in made:
        one.clean()
