"""What pyray says about errors: hints, what a wait gave up on, and errors that nobody asks for."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import helpers
import numpy as np
import pytest

import pyray
from pyray import exceptions as x


def error_of(ref: Any) -> Any:
    try:
        pyray.get(ref)
    except BaseException as error:
        return error
    raise AssertionError("no error")


@pyray.remote(max_retries=0)
def throw(make: Callable[[], BaseException]) -> None:
    raise make()


@pyray.remote(max_retries=0)
def returned(value: Any) -> Any:
    return value


# ---- hints -------------------------------------------------------------------------------------


def test_writing_to_an_argument_says_how_to(ray: Any) -> None:
    @ray.remote
    def write(a: Any) -> None:
        a[0] = 1

    @ray.remote
    def write_out(a: Any) -> None:
        np.add(a, 1, out=a)

    for f in (write, write_out):
        got = error_of(f.remote(np.zeros(1000)))
        assert isinstance(got, ValueError)
        assert any(".copy()" in note for note in got.__notes__)
        assert "".join(traceback.format_exception(got)).count(".copy()") == 1
    got = error_of(throw.remote(lambda: ValueError("something else")))
    assert not hasattr(got, "__notes__")


def test_infeasible_resources_say_the_next_step(ray: Any) -> None:
    with pytest.raises(x.InfeasibleResourcesError, match=r"CPU 3.*CPU 2.*init\(num_cpus=3\)"):
        throw.options(num_cpus=3).remote(OSError)
    with pytest.raises(x.InfeasibleResourcesError, match=r"init\(num_gpus=1, resources={'t': 2}\)"):
        throw.options(num_gpus=0.5, resources={"t": 2}).remote(OSError)


def test_a_timeout_says_what_the_task_is_doing(ray1: Any, gate: helpers.Gate) -> None:
    @ray1.remote
    def runs() -> None:
        gate.wait()

    @ray1.remote
    def queued(_: Any) -> None:
        pass

    first = runs.remote()
    second, third = queued.remote(1), queued.remote(first)
    helpers.wait_until(lambda: "runs in pid" in str(timeout_of(first)), what="the first to run")
    assert "runs, which runs in pid" in str(timeout_of(first))
    assert "queued, which is queued for a CPU" in str(timeout_of(second))
    assert "queued, which waits for its arguments" in str(timeout_of(third))
    several = str(timeout_of([ray1.put(1), second, third]))
    assert "2 of 3 objects" in several
    assert "queued for a CPU" in several
    gate.open()
    ray1.get([first, second, third])


def test_a_timeout_names_an_actors_method(ray1: Any, gate: helpers.Gate) -> None:
    @ray1.remote
    class Slow:
        def wait(self) -> None:
            gate.wait()

    actor = Slow.remote()
    call = actor.wait.remote()
    assert "Slow.wait" in str(timeout_of(call))
    with pytest.raises(x.GetTimeoutError, match=r"Slow\.wait"):
        ray1.get(call, timeout=0.01)
    gate.open()
    ray1.get(call)


def timeout_of(refs: Any) -> x.GetTimeoutError:
    with pytest.raises(x.GetTimeoutError) as caught:
        pyray.get(refs, timeout=0)
    return caught.value


# ---- errors that nobody asks for ---------------------------------------------------------------


def test_an_error_that_is_dropped_is_logged(ray: Any, caplog: pytest.LogCaptureFixture) -> None:
    ref = throw.remote(lambda: ValueError("a drop"))
    ray.wait([ref])
    assert not caplog.records
    del ref
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pyray", logging.ERROR)
    text = record.getMessage()
    assert "task throw (pid=" in text
    assert text.endswith("ValueError: a drop")


def test_an_error_that_was_asked_for_is_not(ray: Any, caplog: pytest.LogCaptureFixture) -> None:
    ref = throw.remote(lambda: ValueError("x"))
    error_of(ref)
    del ref
    # One of several is raised on behalf of all.
    error_of([throw.remote(lambda: ValueError("x")) for _ in range(5)])
    # Somebody else may have asked for what left this process.
    ref = throw.remote(lambda: ValueError("x"))
    error_of(returned.remote(ref))
    del ref
    # And results are no errors.
    ray.wait([returned.remote(ValueError("a result"))])
    assert not caplog.records


def test_of_a_loops_errors_a_few_are_logged(ray: Any, caplog: pytest.LogCaptureFixture) -> None:
    refs = [throw.options(name="loop").remote(lambda: KeyError("k")) for _ in range(30)]
    ray.wait(refs, num_returns=30)
    del refs
    texts = [r.getMessage() for r in caplog.records]
    assert len(texts) == 4
    assert texts[-1].endswith("(10 such so far)")


def test_an_error_of_a_call_whose_id_is_gone_is_told_by_the_worker(
    ray: Any, gate: helpers.Gate, capfd: pytest.CaptureFixture[str]
) -> None:
    said = ""

    def told() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "dropped" in said

    @ray.remote(name="left alone")
    def late() -> None:
        gate.wait()
        raise KeyError("k")

    late.remote()
    gate.open()
    helpers.wait_until(told, what="a line about the error")
    assert "task left alone (pid=" in said
    assert "KeyError: 'k'" in said
