"""What a process owned that died: others who hold it still have it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import helpers
import numpy as np
import pytest

import pyray
from pyray import exceptions


def test_ids_inside_what_the_dead_owned_outlive_it_in_a_full_store(tally: helpers.Tally) -> None:
    """Its children's errors need room then, so that the node sweeps while it clears up."""
    pyray.init(num_cpus=1, object_store_memory=64 << 20, max_spill_bytes=0, log_to_driver=False)

    @pyray.remote
    def outer() -> Any:
        return [pyray.put([pyray.put(np.arange(1000)), "outer" * 1000])], os.getpid()

    @pyray.remote
    def never(x: int) -> int:
        return x

    @pyray.remote(max_retries=0)
    def parent() -> Any:
        refs = [never.remote(0) for _ in range(300)]
        tally.add(os.getpid())
        time.sleep(1000)
        return refs

    [ref], pid = pyray.get(outer.remote())
    ended = parent.remote()
    helpers.wait_until(lambda: tally.lines() == [str(pid)])
    kept: list[Any] = []
    size = 16 << 20
    while size >= 1 << 10:
        try:
            kept.append(pyray.put(np.zeros(size, np.uint8)))
        except exceptions.ObjectStoreFullError:
            size //= 2
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(exceptions.WorkerCrashedError):
        pyray.get(ended, timeout=20)
    del kept
    assert pyray.get(pyray.get(ref)[0]).sum() == 499500
