"""References for what the machine allows: ping-pongs in C, copies of memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache

import numpy as np

from benchmarks.harness import Sample, timed

SPINNING = "spinning ping-pong in C"
PARKED = "parked ping-pong in C"
RESTED = "parked, after 100 ms each time"
REST = 100_000  # µs


@cache
def _ping_pong() -> Callable[[int, int, int], float] | None:
    """`ping_pong` of limits.c; None where there is no compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or platform.machine() not in ("x86_64", "i686"):
        return None
    source = os.path.join(os.path.dirname(__file__), "limits.c")
    with tempfile.TemporaryDirectory(prefix="pyray-bench-") as folder:
        library = os.path.join(folder, "limits.so")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", library, source]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return None
        function = ctypes.CDLL(library).ping_pong
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint]
    return function


def ping_pongs(*kinds: str) -> dict[str, Sample]:
    """Microseconds of a round trip between two processes; empty where there is no compiler."""
    function = _ping_pong()
    if function is None:
        return {}
    how = {SPINNING: (10_000, 0, 0), PARKED: (200, 1, 0), RESTED: (5, 1, REST)}
    return {k: lambda k=k: function(*how[k]) * 1e6 for k in kinds}


def copy_to_warm(array: np.ndarray) -> Sample:
    """Milliseconds of a single-threaded memcpy into memory that this process wrote before."""
    target = np.ones_like(array)

    def copy() -> None:
        ctypes.memmove(target.ctypes.data, array.ctypes.data, array.nbytes)

    return lambda: timed(copy) * 1e3


def copy_to_untouched_shared(array: np.ndarray) -> Sample:
    """Milliseconds of a single-threaded memcpy into shared memory that nobody has touched."""

    def sample() -> float:
        with mmap.mmap(-1, array.nbytes) as memory:
            view = np.frombuffer(memory, np.uint8)
            address = view.ctypes.data
            del view
            return timed(lambda: ctypes.memmove(address, array.ctypes.data, array.nbytes)) * 1e3

    return sample
