"""What `remote`, `options` and local_mode take and refuse."""

from __future__ import annotations

import os

import helpers
import numpy as np
import pytest

import pyray
from pyray import exceptions

# ---- local_mode --------------------------------------------------------------------------------


def test_local_mode_runs_tasks_here_and_now():
    info = pyray.init(local_mode=True, num_cpus=1)
    assert info["node_pid"] is None
    ran = []

    @pyray.remote(num_returns=2)
    def f(a, b=1, *, c):
        ran.append(os.getpid())
        return a.sum() + b, c

    a = pyray.put(np.arange(5000))
    refs = f.remote(a, c=[a])
    assert ran == [os.getpid()]
    assert pyray.wait(refs, num_returns=2) == (refs, [])
    assert pyray.get(refs) == [5000 * 4999 // 2 + 1, [a]]
    with pytest.raises(TypeError, match="'c'"):
        f.remote(1)
    with pytest.raises(ValueError, match="read-only"):
        pyray.get(a)[0] = 1
    assert helpers.descendants() == []


def test_local_mode_raises_at_get():
    pyray.init(local_mode=True)

    @pyray.remote
    def bad():
        raise KeyError("k")

    @pyray.remote
    def pass_on(x):
        return x

    ref = bad.remote()
    with pytest.raises(KeyError) as caught:
        pyray.get(ref)
    assert isinstance(caught.value, exceptions.TaskError)
    with pytest.raises(KeyError):
        pyray.get(pass_on.remote(ref))
    with pytest.raises(exceptions.InfeasibleResourcesError):
        bad.options(num_gpus=3).remote()


# ---- remote ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"cpus": 1}, TypeError, "'cpus'"),
        ({"num_cpus": -1}, ValueError, "num_cpus"),
        ({"num_cpus": "1"}, TypeError, "num_cpus"),
        ({"num_gpus": 1.5}, ValueError, "num_gpus"),
        ({"num_cpus": float("inf")}, ValueError, "num_cpus"),
        ({"memory": -1}, ValueError, "memory"),
        ({"num_returns": -1}, ValueError, "num_returns"),
        ({"num_returns": 1.0}, TypeError, "num_returns"),
        ({"num_return_vals": "2"}, ValueError, "num_returns"),
        ({"num_returns": 2, "num_return_vals": 2}, TypeError, "old name"),
        ({"max_retries": -2}, ValueError, "max_retries"),
        ({"max_calls": -1}, ValueError, "max_calls"),
        ({"retry_exceptions": [3]}, TypeError, "retry_exceptions"),
        ({"name": 3}, TypeError, "name"),
        ({"resources": {"GPU": 1}}, ValueError, "num_gpus"),
        ({"resources": {"": 1}}, TypeError, "name"),
    ],
)
def test_bad_options_of_remote_are_named(options, error, text):
    with pytest.raises(error, match=text):
        pyray.remote(**options)
    f = pyray.remote(lambda: 1)
    with pytest.raises(error, match=text):
        f.options(**options)


def test_what_remote_cannot_take():
    f = pyray.remote(lambda: 1)
    for bad in (f, 3, "f", None):
        with pytest.raises(TypeError):
            pyray.remote(bad)
    with pytest.raises(TypeError, match="needs a function or options"):
        pyray.remote()
    with pytest.raises(TypeError):
        pyray.remote(num_cpus=1)(3)


def test_cluster_only_options_of_remote_are_accepted(ray):
    @ray.remote(scheduling_strategy="SPREAD", runtime_env={}, accelerator_type="x")
    def f():
        return 1

    assert ray.get(f.options(_metadata={}).remote()) == 1


def test_resources_of_the_session():
    pyray.init(num_cpus=2, num_gpus=2, resources={"tape": 1.5}, object_store_memory=32 << 20)
    total = pyray.cluster_resources()
    assert (total["CPU"], total["GPU"], total["tape"]) == (2, 2, 1.5)
    assert total["memory"] > 0
    assert 32 << 20 <= total["object_store_memory"] <= 33 << 20
    assert pyray.available_resources().keys() == total.keys()
    ref = pyray.put(bytes(1 << 20))
    less = total["object_store_memory"] - pyray.available_resources()["object_store_memory"]
    assert 1 << 20 <= less < 2 << 20
    del ref
