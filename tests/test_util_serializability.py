"""inspect_serializability finds what stands in the way."""

from __future__ import annotations

import functools
import io
import threading

import pytest

import pyray
from pyray.util import inspect_serializability

LOCK = threading.Lock()


def inspect(obj, name=None, **options):
    out = io.StringIO()
    works, found = inspect_serializability(obj, name, print_file=out, **options)
    assert works == (not found)
    return found, out.getvalue()


def names(found):
    return sorted(failure.name for failure in found)


class Holder:
    def __init__(self, **fields):
        self.__dict__.update(fields)


@pytest.mark.parametrize("value", [3, [1, {"a": (2, None)}], len, Holder(a=[1])])
def test_what_can_be_serialized(value):
    found, report = inspect(value, "value")
    assert found == set()
    assert "value" in report


def test_a_global_variable_of_a_function():
    def make():
        return eval("lambda: lock", {"lock": LOCK})

    found, report = inspect(make(), "f")
    assert names(found) == ["lock"]
    (failure,) = found
    assert failure.obj is LOCK
    assert failure.path == "f.<global lock>"
    assert "cannot pickle" in failure.error and "lock" in repr(failure)
    assert "f.<global lock> cannot be serialized" in report


def test_all_captured_variables_that_fail_are_found_and_the_others_not():
    lock, works, file = LOCK, [1, 2], io.TextIOWrapper(io.BytesIO())

    def f():
        return lock, works, file

    found, _ = inspect(f)
    assert names(found) == ["file", "lock"]
    assert {id(x.obj) for x in found} == {id(LOCK), id(file)}
    assert {x.parent for x in found} == {f}


def test_inside_attributes_and_containers():
    found, _ = inspect(Holder(a={"key": [0, LOCK]}, b=1), "h", depth=5)
    assert [x.path for x in found] == ["h.a['key'][1]"]


def test_depth_is_how_far_it_looks_down():
    deep = [[[LOCK]]]
    assert [x.path for x in inspect(deep, "x", depth=3)[0]] == ["x[0][0][0]"]
    assert [x.path for x in inspect(deep, "x", depth=1)[0]] == ["x[0]"]
    assert [x.path for x in inspect(deep, "x", depth=0)[0]] == ["x"]
    with pytest.raises(ValueError, match="depth"):
        inspect(deep, depth=-1)


def test_a_class_and_its_instances():
    lock = LOCK

    class Local:
        def method(self):
            return lock

    assert names(inspect(Local)[0]) == ["lock"]
    assert names(inspect(Local())[0]) == ["lock"]


def test_partials_methods_and_remote_functions():
    def f(x):
        return x

    assert names(inspect(functools.partial(f, LOCK))[0]) == ["[0]"]
    assert names(inspect(Holder(lock=LOCK).__init__)[0]) == ["lock"]

    def with_default(x=LOCK, *, y=LOCK):
        return x

    assert names(inspect(with_default)[0]) == ["0"]

    @pyray.remote
    def g():
        return captured

    captured = LOCK
    assert names(inspect(g)[0]) == ["captured"]


def test_what_is_reached_twice_is_found_once():
    found, _ = inspect(Holder(a=[LOCK], b=LOCK), "h")
    assert len(found) == 1


def test_a_value_that_contains_itself():
    ring = []
    ring.append(ring)
    found, _ = inspect(ring, "ring")
    assert [x.path for x in found] == ["ring"]
    assert "recursively" in found.pop().error


def test_a_class_that_says_how_it_travels(ray):
    class Handle:
        def __init__(self):
            self.lock = threading.Lock()

    assert inspect(Handle())[0]
    ray.register_custom_serializer(
        Handle, serializer=lambda h: None, deserializer=lambda none: Handle()
    )
    try:
        assert not inspect(Handle())[0]
    finally:
        pyray.util.deregister_serializer(Handle)


def test_the_report_goes_to_standard_output(capsys):
    works, found = inspect_serializability(LOCK, "lock")
    assert (works, names(found)) == (False, ["lock"])
    assert "lock cannot be serialized" in capsys.readouterr().out
