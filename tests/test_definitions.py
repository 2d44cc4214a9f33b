"""Functions however they are defined: closures, scripts, modules, `python -c`, each other."""

from __future__ import annotations

import logging

import helpers
import numpy as np
import pytest


def test_lambdas_closures_and_nested_functions(ray):
    k = 10

    def outer(n):
        def inner(x):
            return x * n + k

        return inner

    assert ray.get([ray.remote(outer(i)).remote(2) for i in range(5)]) == [
        2 * i + 10 for i in range(5)
    ]
    assert ray.get(ray.remote(lambda x: outer(3)(x)).remote(1)) == 13


def test_recursion(ray):
    def plain(n):
        return 1 if n == 0 else n * plain(n - 1)

    @ray.remote
    def remote_factorial(n):
        return 1 if n == 0 else n * ray.get(remote_factorial.remote(n - 1))

    assert ray.get(ray.remote(plain).remote(20)) == 2432902008176640000
    assert ray.get(remote_factorial.remote(20)) == 2432902008176640000


def test_functions_defined_later_and_mutual_recursion(ray):
    @ray.remote
    def even(n):
        return True if n == 0 else ray.get(odd.remote(n - 1))

    @ray.remote
    def odd(n):
        return False if n == 0 else ray.get(even.remote(n - 1))

    assert ray.get([even.remote(10), odd.remote(10), even.remote(7)]) == [True, False, False]


def test_a_remote_function_as_argument_result_and_in_containers(ray):
    @ray.remote
    def f(x):
        return x + 1

    @ray.remote
    def call(g, box, x):
        assert box["f"] is not None
        return ray.get(g.remote(ray.get(box["f"].remote(x))))

    @ray.remote
    def give():
        return f

    assert ray.get(call.remote(f, {"f": f.options(num_cpus=0)}, 1)) == 3
    assert ray.get(ray.get(give.remote()).remote(5)) == 6
    with pytest.raises(TypeError, match=r"\.remote"):
        ray.get(give.remote())(5)


def test_classes_and_their_instances(ray):
    class Point:
        def __init__(self, x):
            self.x = x

        def __eq__(self, other):
            return type(other) is Point and self.x == other.x

        __hash__ = None

    @ray.remote
    def move(p):
        assert isinstance(p, Point)
        return Point(p.x + 1)

    got = ray.get(move.remote(ray.get(move.remote(Point(1)))))
    assert type(got) is Point
    assert got == Point(3)


def _warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "pyray"]


def test_a_large_closure_is_warned_of_by_name(ray, caplog):
    table = np.zeros(3_000_000, dtype=np.uint8)
    small = 1

    @ray.remote
    def uses():
        return int(table.sum()) + small

    with caplog.at_level(logging.WARNING):
        assert ray.get([uses.remote() for _ in range(3)]) == [1, 1, 1]
    (message,) = _warnings(caplog)
    assert "'table'" in message
    assert "uses" in message
    assert "3.0 MB" in message
    assert "put()" in message


def test_a_small_closure_is_not_warned_of(ray, caplog):
    table = list(range(1000))
    with caplog.at_level(logging.WARNING):
        assert ray.get(ray.remote(lambda: sum(table)).remote()) == 499500
    assert _warnings(caplog) == []


SCRIPT = """
import helper_module
import pyray as ray

class Box:
    def __init__(self, v):
        self.v = v

@ray.remote
def g(n):
    return [ray.get(f.remote(n)), helper_module.twice(n), Box(n)]

@ray.remote
def f(n):
    return n + OFFSET

OFFSET = 100
print("ran")
box = ray.get(g.remote(5))
print(box[:2], type(box[2]) is Box, box[2].v)
ray.shutdown()
print(ray.get(f.remote(1)))
"""


def test_a_script_without_a_main_guard_and_a_module_beside_it(tmp_path):
    (tmp_path / "helper_module.py").write_text("def twice(x):\n    return 2 * x\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for cwd in (tmp_path, elsewhere):
        done = helpers.run_script(tmp_path / "script.py", SCRIPT, cwd=cwd)
        assert done.stdout == "ran\n[105, 10] True 5\n101\n"
        assert done.stderr == ""


def test_python_c_and_standard_input(tmp_path):
    (tmp_path / "beside.py").write_text("X = 3\n")
    code = (
        "import pyray as ray, beside\n"
        "@ray.remote\n"
        "def f(x): return x + beside.X + K\n"
        "K = 10\n"
        "print(ray.get(f.remote(1)))\n"
    )
    assert helpers.run_python("-c", code, cwd=tmp_path).stdout == "14\n"
    with helpers.running("-", cwd=tmp_path) as process:
        out, _ = process.communicate(code, timeout=30)
        assert out == "14\n"


def test_python_m(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sub.py").write_text("def g(x):\n    return -x\n")
    (package / "__main__.py").write_text(
        "import pyray as ray\n"
        "from package.sub import g\n"
        "from . import sub\n"
        "def h(x): return sub.g(x) + 1\n"
        "print(ray.get([ray.remote(g).remote(1), ray.remote(h).remote(1)]))\n"
    )
    assert helpers.run_python("-m", "package", cwd=tmp_path).stdout == "[-1, 0]\n"


REDEFINED = """
import pyray as ray

def helper():
    return "old"

@ray.remote
def f():
    return helper()

@ray.remote
def caller():
    return ray.get(f.remote())

print(ray.get([f.remote(), caller.remote()]))

def helper():
    return "new"

@ray.remote
def f():
    return helper() + "er"

@ray.remote
def caller():
    return ray.get(f.remote())

print(ray.get([f.remote(), caller.remote()]))

def plain(x):
    return x

plain = ray.remote(plain)       # the name of the function now means the remote function
again = ray.remote(lambda x: ray.get(plain.remote(x)))
print(ray.get(again.remote(3)))

# A recursive function whose name is bound to its remote version.
def count(n):
    return [] if n == 0 else [n, *ray.get(count.remote(n - 1))]
count = ray.remote(count)
print(ray.get(count.remote(3)))
"""


def test_redefined_names_as_in_a_notebook(tmp_path):
    done = helpers.run_script(tmp_path / "script.py", REDEFINED)
    assert done.stdout == "['old', 'old']\n['newer', 'newer']\n3\n[3, 2, 1]\n", done.stderr


MODULE = """
import pyray as ray

def helper(x):
    return x * 3

@ray.remote
def f(x):
    return helper(x)

@ray.remote
def g(x):
    return ray.get(f.remote(x)) + 1

class Thing:
    static = f
"""


def test_remote_functions_of_an_imported_module(tmp_path):
    (tmp_path / "tasks_module.py").write_text(MODULE)
    done = helpers.run_script(
        tmp_path / "script.py",
        "import pyray as ray, tasks_module as m\n"
        "print(ray.get([m.f.remote(1), m.g.remote(1), m.Thing().static.remote(2)]))\n"
        "@ray.remote\n"
        "def outer(x): return ray.get(m.g.remote(x)) + m.helper(1)\n"
        "print(ray.get(outer.remote(1)))\n",
    )
    assert done.stdout == "[3, 4, 6]\n7\n", done.stderr


CLOSURE = """
import pyray as ray
table = bytes(5_000_000)

@ray.remote
def f():
    return len(table)

print(ray.get(f.remote()))
"""


def test_a_large_global_of_a_script_is_named_in_one_line(tmp_path):
    done = helpers.run_script(tmp_path / "script.py", CLOSURE)
    assert done.stdout == "5000000\n"
    (line,) = done.stderr.splitlines()
    assert "'table'" in line
    assert "5.0 MB" in line
