"""What it costs to begin and to end."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache

from benchmarks.harness import PYRAY, Sample, Settings, Theme, at_most
from benchmarks.sessions import EXECUTOR, POOL

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@contextlib.contextmanager
def alone(settings: Settings) -> Iterator[Settings]:
    """Nothing but the settings: these benchmarks start interpreters of their own."""
    for name in ("life_pyray", "life_pool", "life_executor"):
        python("-m", "benchmarks.probes", name)  # fills the caches
    yield settings


THEME = Theme("startup", alone)


@cache
def _environment() -> dict[str, str]:
    """The environment of interpreters that keep their bytecode, as they do for users.

    It lies in a folder of this run's, whatever PYTHONDONTWRITEBYTECODE says here.
    """
    folder = tempfile.mkdtemp(prefix="pyray-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    result = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**result, "PYTHONPYCACHEPREFIX": folder}


def python(*arguments: str) -> str:
    """What an interpreter of its own prints."""
    return subprocess.run(
        [sys.executable, *arguments],
        check=True,
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@cache
def probe(name: str, number: int) -> dict[str, float]:
    """What a function of probes.py finds, the so-manieth time."""
    found: dict[str, float] = json.loads(python("-m", "benchmarks.probes", name))
    return found


def in_rounds(name: str, key: str) -> Sample:
    """One of the figures that a probe finds; in each round, benchmarks share one run of it."""
    numbers = itertools.count()
    return lambda: probe(name, next(numbers))[key]


def millis_beyond_bare(statement: str) -> Sample:
    """Milliseconds by which an interpreter that runs the statement outlasts a bare one."""

    def lifetime(code: str) -> float:
        start = time.perf_counter()
        python("-c", code)
        return (time.perf_counter() - start) * 1e3

    return lambda: -lifetime("pass") + lifetime(statement)


@THEME.add("import", "import pyray, beyond bare Python", "ms", at_most(40), quick_rounds=5)
def _import(settings: Settings) -> dict[str, Sample]:
    python("-c", "import numpy")  # fills the cache
    return {
        PYRAY: millis_beyond_bare("import pyray"),
        POOL: millis_beyond_bare("import multiprocessing.pool"),
        "numpy": millis_beyond_bare("import numpy"),
    }


def lives(key: str) -> dict[str, Sample]:
    """One of the figures that the probes of whole lives find."""
    probes = {PYRAY: "life_pyray", POOL: "life_pool", EXECUTOR: "life_executor"}
    return {contender: in_rounds(name, key) for contender, name in probes.items()}


@THEME.add("init", "init to first result", "ms", at_most(200), at_most(100), rounds=7)
def _init(settings: Settings) -> dict[str, Sample]:
    return lives("first")


@THEME.add("shutdown", "shutdown", "ms", at_most(50), rounds=7)
def _shutdown(settings: Settings) -> dict[str, Sample]:
    return lives("shutdown")
