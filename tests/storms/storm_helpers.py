"""What the storms share: their sizes, killers, and what has to be as it was afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import fault_helpers as h
import helpers
import pytest

from pyray import session


def sizes(seconds: float, short: dict[str, Any], full: dict[str, Any]) -> Any:
    """Mark a storm as one of two sizes: the test gets them as `size`.

    Parameters
    ----------
    seconds : float
        Time limit of the full size.
    short, full : dict
        Attributes of `size`; `full` says only what differs.
    """
    return pytest.mark.parametrize(
        "size",
        [
            pytest.param(SimpleNamespace(**short), id="short"),
            pytest.param(
                SimpleNamespace(**{**short, **full}),
                id="full",
                marks=[pytest.mark.storm, pytest.mark.seconds(seconds)],
            ),
        ],
    )


class Killer:
    """Signals a random one of some processes every so many seconds.

    Parameters
    ----------
    every : float
        Seconds between two.
    victims : callable
        The process IDs to choose from.
    act : callable, optional
        What is done to one instead of killing it; with its process ID.
    """

    def __init__(
        self,
        every: float,
        victims: Callable[[], Sequence[int]],
        act: Callable[[int], None] | None = None,
        seed: int = 1,
    ) -> None:
        self.every = every
        self.victims = victims
        self.act = act or (lambda pid: os.kill(pid, signal.SIGKILL))
        self.random = random.Random(seed)
        self.struck: list[int] = []
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="killer")

    def _run(self) -> None:
        try:
            while not self.stop.wait(self.every):
                pids = self.victims()
                if pids:
                    pid = self.random.choice(pids)
                    with contextlib.suppress(ProcessLookupError):
                        self.act(pid)
                        self.struck.append(pid)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Killer:
        self.thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stop.set()
        self.thread.join()
        if self.error is not None and exception[0] is None:
            raise self.error

    def __len__(self) -> int:
        return len(self.struck)


def worker_pids() -> list[int]:
    return [w["pid"] for w in h.workers()]


def pool_pids() -> list[int]:
    """Workers that are no actors."""
    return [w["pid"] for w in h.workers() if not w["dedicated"]]


def _fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


class Baseline:
    """What a session has when nothing happens, and that it has no more once a storm is over."""

    def __init__(self) -> None:
        h.assert_whole()
        self.node = session.current().node.pid
        helpers.wait_until(lambda: self.quiet(), what="a quiet session")
        self.before = self.now()

    def quiet(self) -> bool:
        return len(h.workers()) == self.cpus() and len(h.idle_pids()) == self.cpus()

    @staticmethod
    def cpus() -> int:
        return int(session.current().config["num_cpus"])

    def now(self) -> dict[str, int]:
        return {
            "processes": len(helpers.descendants(self.node)),
            "node_fds": _fds(self.node),
            "node_threads": _threads(self.node),
            "driver_fds": _fds(os.getpid()),
            "driver_threads": threading.active_count(),
            "store": h.used(),
        }

    def assert_back(
        self, seconds: float = 5.0, room: int = 16 * h.UNIT, but: Sequence[str] = ()
    ) -> float:
        """Everything is as it was within so many seconds; how many it took.

        Parameters
        ----------
        room : int
            Bytes that the store may hold more: of blocks of small objects, which stay open.
        but : sequence of str
            What of `now` may take longer.
        """
        begun = time.monotonic()
        limit = helpers.patience(seconds)
        most = {**self.before, "store": self.before["store"] + room}
        more = dict(most)
        total, free = {}, {}
        while time.monotonic() - begun < limit:
            total, free = h.resources()
            now = self.now()
            more = {name: n for name, n in now.items() if n > most[name] and name not in but}
            if total == free and not more:
                took = time.monotonic() - begun
                h.assert_sound()
                return took
            time.sleep(0.02)
        raise AssertionError(
            f"after {limit:g} s there is still more than before: {more} (before: {self.before}); "
            f"resources {free} of {total}; threads {[t.name for t in threading.enumerate()]}"
        )


@contextlib.contextmanager
def stopped(pid: int, seconds: float) -> Iterator[None]:
    """A process does not run for so many seconds, or until the block ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
        time.sleep(seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Slowest:
    """The longest time that anything in its blocks has taken, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds = max(self.seconds, time.monotonic() - begun)
