"""Tasks: what goes in, what comes out, and where they run."""

from __future__ import annotations

import functools
import os
import threading

import helpers
import numpy as np
import pytest

from pyray import exceptions

# ---- arguments ---------------------------------------------------------------------------------


def test_arguments_of_every_kind(ray):
    @ray.remote
    def f(a, /, b, c=3, *rest, d, e=5, **more):
        return a, b, c, rest, d, e, more

    assert ray.get(f.remote(1, 2, d=4)) == (1, 2, 3, (), 4, 5, {})
    assert ray.get(f.remote(1, b=2, d=4)) == (1, 2, 3, (), 4, 5, {})
    assert ray.get(f.remote(1, 2, 30, 31, 32, d=4, e=50, z=6)) == (
        *(1, 2, 30, (31, 32), 4, 50),
        {"z": 6},
    )
    assert ray.get(f.remote(*range(20), **{"d": 1, "with space": 2})) == (
        *(0, 1, 2, tuple(range(3, 20)), 1, 5),
        {"with space": 2},
    )


VALUES = [
    None,
    True,
    -1,
    2**70,
    1.5,
    1j,
    "",
    "ä€😀" * 100,
    b"\0\1",
    bytearray(b"x" * 5000),
    [],
    [1, [2, (3, {"k": {4}})]],
    {"a": 1, 2: "b", (3, 4): None},
    frozenset([1]),
    range(5),
    ValueError("as a value"),
    ...,
    int,
    len,
    np.float32(1.5),
    np.datetime64("2020-01-01"),
]


def test_values_arrive_and_return_as_they_are(ray):
    @ray.remote
    def f(x, *, y):
        return type(x).__name__, x, y

    for value in VALUES:
        name, x, y = ray.get(f.remote(value, y=value))
        assert name == type(value).__name__
        for got in (x, y, ray.get(ray.put(value))):
            assert type(got) is type(value)
            assert got == value or repr(got) == repr(value)


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "'a'"),
        ((1, 2, 3), {}, "too many positional"),
        ((1,), {"z": 1}, "'z'"),
        ((1,), {"a": 1}, "'a'"),
    ],
)
def test_calls_that_do_not_fit_are_refused_at_the_call(ray, args, kwargs, text):
    @ray.remote
    def f(a, b=1):
        raise AssertionError("this must not run")

    for variant in (f, f.options(num_cpus=0)):
        with pytest.raises(TypeError, match=text):
            variant.remote(*args, **kwargs)
    with pytest.raises(TypeError, match="f.remote"):
        f.remote(*args, **kwargs)


def test_keyword_only_methods_partials_and_builtins(ray):
    class Adder:
        def __init__(self, n):
            self.n = n

        def add(self, x):
            return self.n + x

        def __call__(self, x):
            return self.n * x

    assert ray.get(ray.remote(Adder(2).add).remote(3)) == 5
    with pytest.raises(TypeError):
        ray.remote(Adder(2).add).remote(3, 4)
    assert ray.get(ray.remote(Adder(2)).remote(3)) == 6
    assert ray.get(ray.remote(functools.partial(divmod, 7)).remote(2)) == (3, 1)
    assert ray.get(ray.remote(max).remote(1, 5, 3)) == 5
    assert ray.get(ray.remote(lambda *, k: k).remote(k=2)) == 2
    with pytest.raises(TypeError, match="'k'"):
        ray.remote(lambda *, k: k).remote()


def test_a_remote_function_looks_like_its_function():
    import pyray

    @pyray.remote
    def documented(x):
        """What it does."""

    assert documented.__name__ == "documented"
    assert documented.__doc__ == documented.remote.__doc__ == "What it does."
    assert documented.__wrapped__(1) is None
    assert "documented" in repr(documented)
    with pytest.raises(TypeError, match=r"documented\.remote"):
        documented(1)
    assert not pyray.is_initialized()


def test_defaults_are_those_of_the_definition(ray):
    stored = np.arange(10_000)

    @ray.remote
    def f(x, y=stored, z=None):
        return x + int(y.sum()), z

    assert ray.get(f.remote(1)) == (1 + int(stored.sum()), None)
    assert ray.get(f.remote(1, z=2, y=np.ones(3))) == (4, 2)


def test_ids_as_arguments_become_values_but_not_inside_containers(ray):
    @ray.remote
    def f(a, b, *rest, c, **more):
        return a, b, rest, c, more

    one, big = ray.put(1), ray.put(np.arange(3000))
    a, b, rest, c, more = ray.get(f.remote(one, [one], one, {"k": one}, c=one, d=(one,), e=big))
    assert (a, c) == (1, 1)
    assert b == [one]
    assert rest == (1, {"k": one})
    assert more["d"] == (one,)
    assert more["e"].sum() == 2999 * 1500
    assert ray.get(b) == [1]


def test_results_of_tasks_as_arguments(ray, gate):
    @ray.remote
    def slow():
        gate.wait()
        return 1

    @ray.remote
    def add(*xs, extra=0):
        return sum(xs) + extra

    first = slow.remote()
    chain = first
    for _ in range(50):
        chain = add.remote(chain, 1)
    total = add.remote(first, chain, *[first] * 10, extra=first)
    assert ray.wait([total], timeout=0) == ([], [total])
    gate.open()
    assert ray.get(total) == 1 + 51 + 10 + 1


@pytest.mark.parametrize("n", [4, 1000])
def test_many_ids_as_arguments(ray, n):
    @ray.remote
    def one(i):
        return i

    @ray.remote
    def f(*xs, **more):
        return sum(xs) + sum(more.values())

    refs = [one.remote(i) if i % 3 else ray.put(i) for i in range(n)]
    assert ray.get(f.remote(*refs)) == n * (n - 1) // 2
    named = {f"k{i}": r for i, r in enumerate(refs)}
    assert ray.get(f.remote(*refs, **named)) == n * (n - 1)


def test_a_failed_argument_fails_the_task(ray, tally):
    @ray.remote
    def bad():
        raise KeyError("root of it")

    @ray.remote
    def f(*xs, y=None):
        tally.add()

    chained = f.remote(f.remote(bad.remote()))
    for ref in (f.remote(1, bad.remote()), f.remote(y=bad.remote()), chained):
        with pytest.raises(KeyError, match="root of it") as caught:
            ray.get(ref)
        assert caught.value.task == "bad"
    assert len(tally) == 0


def test_big_arguments(ray):
    @ray.remote
    def f(a, b, text):
        return int(a.sum()) + len(b) + len(text), a.flags.writeable

    a = np.ones(2_000_000, dtype=np.uint8)
    got = ray.get([f.remote(a, bytes(3_000_000), "x" * 4_000_000) for _ in range(3)])
    assert got == [(9_000_000, False)] * 3


def test_arguments_that_cannot_be_serialized_are_named(ray):
    @ray.remote
    def f(*a, **k):
        return 1

    with pytest.raises(exceptions.SerializationError, match=r"\['x'\]\[1\]: cannot pickle .*lock"):
        f.remote(1, {"x": [0, threading.Lock()]})
    with pytest.raises(exceptions.SerializationError, match="lock"):
        f.remote(k=threading.Lock())
    assert ray.get(f.remote(1)) == 1


def test_a_function_that_cannot_be_serialized_says_so_each_time(ray):
    lock = threading.Lock()

    @ray.remote
    def f():
        return lock

    for _ in range(2):
        with pytest.raises((TypeError, exceptions.SerializationError), match="lock"):
            f.remote()
    assert ray.get(ray.remote(lambda: 1).remote()) == 1


# ---- results -----------------------------------------------------------------------------------


def test_numbers_of_returns(ray, tally):
    @ray.remote
    def f(n):
        tally.add()
        return tuple(range(n))

    assert f.options(num_returns=0).remote(3) is None
    helpers.wait_until(lambda: len(tally) == 1, what="the task that returns nothing")
    one = f.remote(3)
    assert ray.get(one) == (0, 1, 2)
    refs = f.options(num_returns=3).remote(3)
    assert len(refs) == len(set(refs)) == 3
    assert ray.get(refs) == [0, 1, 2]
    (last,) = ray.get(refs[2:])
    assert last == 2
    many = f.options(num_return_vals=500).remote(500)
    assert ray.get(many) == list(range(500))


@pytest.mark.parametrize("make", [list, tuple, iter, np.arange], ids=str)
def test_several_values_from_any_iterable(ray, make):
    @ray.remote(num_returns=2)
    def f():
        return make(2) if make is np.arange else make([0, 1])

    assert ray.get(f.remote()) == [0, 1]


def test_a_wrong_number_of_values_is_an_error_of_each(ray):
    @ray.remote(num_returns=2)
    def f(n):
        return [1] * n

    @ray.remote(num_returns=2)
    def number():
        return 1

    for n in (1, 3):
        for ref in f.remote(n):
            with pytest.raises(ValueError, match=f"2 values .*{n}"):
                ray.get(ref)
    with pytest.raises(TypeError):
        ray.get(number.remote())


def test_results_that_cannot_be_serialized_are_errors(ray):
    @ray.remote
    def f():
        return {"a": [threading.Lock()]}

    with pytest.raises(exceptions.SerializationError, match=r"\['a'\]\[0\].*lock"):
        ray.get(f.remote())
    assert ray.get(ray.remote(lambda: 1).remote()) == 1


def test_exceptions_have_class_task_pid_and_traceback(ray):
    class OwnError(Exception):
        def __init__(self, code, text):
            super().__init__(code, text)
            self.code = code

    @ray.remote
    def fails():
        error = OwnError(7, "seven")
        error.note = [1]
        raise error

    with pytest.raises(OwnError) as caught:
        ray.get(fails.options(name="seventh").remote())
    error = caught.value
    assert isinstance(error, exceptions.TaskError)
    assert (error.code, error.note, error.args) == (7, [1], (7, "seven"))
    assert error.task == "seventh"
    assert error.pid not in (0, os.getpid())
    assert "raise error" in str(error)
    assert "seventh" in str(error)
    assert "_core" not in str(error)


def test_an_exception_that_cannot_be_pickled_is_its_text(ray1):
    @ray1.remote
    def f():
        error = RuntimeError("holds a lock")
        error.lock = threading.Lock()
        raise error

    with pytest.raises(exceptions.TaskError, match="holds a lock") as caught:
        ray1.get(f.remote())
    assert caught.value.cause is None
    assert ray1.get(ray1.remote(os.getpid).remote()) == caught.value.pid


def test_a_class_that_says_it_belongs_to_a_module_that_is_not_loaded(ray):
    """numpy's recarray does; it is imported there, and not sent by value, which breaks it."""

    @ray.remote
    def first(records):
        return type(records) is np.recarray, records[0].a.item(), records.b.tolist()

    records = np.rec.fromarrays([[1, 2], [3, 4]], names="a,b")
    assert ray.get(first.remote(records)) == (True, 1, [3, 4])
