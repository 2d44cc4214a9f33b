"""Everything that user code can do to its process, at every point where pyray runs user code.

Whatever would end the driver itself, such as a crash while it pickles, happens in a task that
submits instead.
"""

from __future__ import annotations

from typing import Any

import fault_helpers as h
import pytest
from storm_helpers import Slowest

import pyray as ray
from pyray.exceptions import (
    ActorDiedError,
    PyrayError,
    SerializationError,
    TaskError,
    WorkerCrashedError,
)

KINDS = ["raise", "exit", "_exit", "segfault", "kill"]
RARE = ["abort", "term"]
PLACES = [
    "pickling an argument",
    "unpickling an argument",
    "unpickling an object",
    "running",
    "pickling the result",
    "unpickling the result",
    "in a destructor",
]
# Of a plain task or an actor's call, the driver does these.
IN_THE_CALLER = ("pickling an argument", "unpickling the result")


def body(place: str, how: tuple[str, str]) -> Any:
    match place:
        case "running":
            h.crash(*how)
        case "pickling the result":
            return [h.OnPickle(*how)]
        case "unpickling the result":
            return [h.OnUnpickle(*how)]
        case "in a destructor":
            h.OnDel(*how)
    return "fine"


def argument(place: str, how: tuple[str, str]) -> Any:
    match place:
        case "pickling an argument":
            return [h.OnPickle(*how)]
        case "unpickling an argument":
            return [h.OnUnpickle(*how)]
        case "unpickling an object":
            return ray.put({"k": h.OnUnpickle(*how)})
    return None


@ray.remote(max_retries=0)
def child(place: str, how: tuple[str, str], value: Any) -> Any:
    return body(place, how)


@ray.remote(max_retries=0)
def parent(place: str, how: tuple[str, str]) -> Any:
    return ray.get(child.remote(place, how, argument(place, how)))


@ray.remote
class Actor:
    def call(self, place: str, how: tuple[str, str], value: Any) -> Any:
        return body(place, how)

    def submit(self, place: str, how: tuple[str, str]) -> Any:
        return ray.get(child.remote(place, how, argument(place, how)))

    def linger(self, path: Any) -> int:
        return h.linger(path)


def call(subject: str, place: str, how: tuple[str, str]) -> Any:
    """Have it happen in a task, an actor's call, or below a task or an actor; its result."""
    match subject:
        case "task":
            ref = child.remote(place, how, argument(place, how))
        case "actor":
            ref = Actor.remote().call.remote(place, how, argument(place, how))
        case "nested task":
            ref = parent.remote(place, how)
        case _:
            ref = Actor.remote().submit.remote(place, how)
    return h.get(ref)


def check(subject: str, place: str, kind: str, pid: int, error: BaseException) -> None:
    """The error says which task it was, in which process, and what became of that."""
    text = str(error)
    if place in IN_THE_CALLER and subject in ("task", "actor"):
        # It happens in the driver, whose own code it is: there is nobody else to name.
        assert "boom" in text if kind == "raise" else isinstance(error, SystemExit)
        return
    assert isinstance(error, PyrayError)
    dies_above = place in IN_THE_CALLER
    name = {"task": "child", "actor": "Actor.call"}.get(subject, "child")
    if dies_above:
        name = "parent" if subject == "nested task" else "Actor.submit"
    if kind == "raise":
        assert isinstance(error, TaskError)
        pickles = place in ("pickling an argument", "pickling the result")
        assert isinstance(error, SerializationError if pickles else LookupError)
        assert name in text
        assert "boom" in text
        return
    signal, code = h.CRASHES[kind]
    assert f"pid={pid}" in text
    assert (signal or f"{code}") in text
    actor_dies = subject == "actor" or (dies_above and subject == "a task of an actor")
    assert isinstance(error, ActorDiedError if actor_dies else WorkerCrashedError)
    assert ("Actor" if actor_dies else name) in text
    # Of a task below another the error of the upper one holds that of the lower one.
    lower = error.cause if isinstance(error, TaskError) else error
    assert (lower.pid, lower.signal, lower.exit_code) == (pid, signal, code)


def some_short(subject: str, place: str) -> Any:
    """The matrix itself in the short run; what repeats it in other clothes in the full one."""
    more = subject == "a task of an actor" or (subject != "task" and "object" in place)
    return pytest.param(subject, place, marks=pytest.mark.storm if more else ())


SUBJECTS = ["task", "actor", "nested task", "a task of an actor"]


@pytest.mark.parametrize(("subject", "place"), [some_short(s, p) for s in SUBJECTS for p in PLACES])
def test_crash_matrix(tmp_path, figures, subject, place):
    ray.init(num_cpus=2, object_store_memory=64 << 20, log_to_driver=False)
    h.wait_until(lambda: len(h.idle_pids()) == 2, what="two workers")
    bystander = Actor.remote()
    lingers = ray.remote(num_cpus=0)(h.linger)
    slowest = Slowest()
    kinds = KINDS + RARE if place == "running" else KINDS
    if place in IN_THE_CALLER and subject in ("task", "actor"):
        kinds = ["raise", "exit"]
    with h.store_balanced():
        for kind in kinds:
            go, note = tmp_path / f"go {kind}", tmp_path / f"pid {kind}"
            beside = [lingers.remote(go), bystander.linger.remote(go)]
            queued = [h.double.remote(i) for i in range(10)]
            with slowest.timed():
                try:
                    value = call(subject, place, (kind, str(note)))
                except BaseException as error:
                    died = int(note.read_text())
                    check(subject, place, kind, died, error)
                else:
                    # Python ignores what a destructor raises.
                    assert place == "in a destructor" and kind in ("raise", "exit"), kind
                    assert value == "fine"
                    died = 0
            go.touch()
            pids = h.get(beside)
            assert len(set(pids)) == 2
            assert died not in pids
            assert h.get(queued) == [2 * i for i in range(10)]
            assert h.get(h.double.remote(4)) == 8
            del beside, queued
        del bystander
        h.assert_sound()
    figures(kinds=len(kinds), slowest_error_s=slowest.seconds)
