"""Actors: classes that live in processes of their own, what is called on them and how."""

from __future__ import annotations

import gc
import os
import pathlib
import pickle
import subprocess
import sys
import types

import helpers
import pytest

import pyray
from pyray import exceptions


def make_counter():
    @pyray.remote
    class Counter:
        """Counts."""

        step = 1

        def __init__(self, start=0, *, log=None):
            self.n = start
            self.seen = [] if log is None else log

        def add(self, by=1):
            self.n += by * self.step
            return self.n

        def note(self, value):
            self.seen.append(value)

        def notes(self):
            return self.seen

        def pid(self):
            return os.getpid()

        def fail(self):
            raise LookupError("on purpose")

        @pyray.method(num_returns=2)
        def both(self, a, b):
            return b, a

        @pyray.method(num_returns=0)
        def nothing(self):
            self.n = -100

        @staticmethod
        def static(a, b=2):
            return a + b

        @classmethod
        def named(cls, suffix=""):
            return cls.__name__ + suffix

        @property
        def field(self):
            return self.n

    return Counter


@pytest.fixture
def counter_class(ray):
    """A remote class."""
    return make_counter()


# ---- the class ---------------------------------------------------------------------------------


def test_state_is_kept_between_calls(ray, counter_class):
    a, b = counter_class.remote(), counter_class.remote(100)
    assert ray.get([a.add.remote(), b.add.remote(), a.add.remote(5), b.add.remote(by=10)]) == [
        1,
        101,
        6,
        111,
    ]
    pids = ray.get([a.pid.remote(), b.pid.remote()])
    assert len({os.getpid(), *pids}) == 3


def test_class_static_methods_and_docstring(ray, counter_class):
    a = counter_class.remote()
    assert ray.get(a.static.remote(1)) == 3
    assert ray.get(a.named.remote("!")) == "Counter!"
    assert counter_class.__doc__ == "Counts."
    assert counter_class.step == 1
    assert counter_class.static(2, 2) == 4
    assert "Counter" in repr(counter_class) and "Counter" in repr(a)
    assert {"add", "static", "named"} <= set(dir(a)) and "field" not in dir(a)


def test_properties_and_fields_are_not_reached_from_outside(ray, counter_class):
    a = counter_class.remote()
    for name in ("field", "n", "zork"):
        with pytest.raises(AttributeError, match=rf"Counter has no method '{name}'.*add.*methods"):
            getattr(a, name)
    with pytest.raises(AttributeError, match="fields of an actor cannot be set"):
        a.n = 3
    assert not hasattr(a, "__len__")


def test_the_class_itself_is_not_called_nor_its_methods(ray, counter_class):
    with pytest.raises(TypeError, match=r"Counter\.remote"):
        counter_class()
    a = counter_class.remote()
    with pytest.raises(TypeError, match=r"Counter\.add.*\.add\.remote"):
        a.add()


def test_inheritance(ray):
    class Base:
        def __init__(self, name):
            self.name = name

        def hello(self):
            return f"hello, {self.name}"

        def overridden(self):
            return "base"

        @pyray.method(num_returns=2)
        def pair(self):
            return 1, 2

    class Mixin:
        def mixed(self):
            return f"{self.name} mixed"

    @ray.remote
    class Derived(Mixin, Base):
        def __init__(self, name, rank):
            super().__init__(name.upper())
            self.rank = rank

        def overridden(self):
            return f"derived of {super().overridden()}"

    a = Derived.remote("anna", rank=3)
    assert ray.get(a.hello.remote()) == "hello, ANNA"
    assert ray.get(a.mixed.remote()) == "ANNA mixed"
    assert ray.get(a.overridden.remote()) == "derived of base"
    assert ray.get(a.pair.remote()) == [1, 2]
    assert ray.get(ray.remote(Base).remote("x").hello.remote()) == "hello, x"
    with pytest.raises(TypeError, match="inherit from the plain class"):

        class Wrong(Derived):
            pass


def test_abstract_generic_and_dataclasses(ray):
    import abc
    import dataclasses
    from typing import Generic, TypeVar

    T = TypeVar("T")

    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...

    class Square(Shape):
        def area(self):
            return 4

    @dataclasses.dataclass
    class Point:
        x: int
        y: int = 2

        def total(self):
            return self.x + self.y

    class Box(Generic[T]):
        def __init__(self, value: T):
            self.value = value

        def get(self) -> T:
            return self.value

    assert ray.get(ray.remote(Square).remote().area.remote()) == 4
    assert ray.get(ray.remote(Point).remote(1).total.remote()) == 3
    assert ray.get(ray.remote(Box).remote("v").get.remote()) == "v"
    with pytest.raises(exceptions.ActorDiedError, match="abstract"):
        ray.get(ray.remote(Shape).remote().area.remote())


def test_a_class_without_constructor_and_one_with_new(ray):
    class Plain:
        def one(self):
            return 1

    class Made:
        def __new__(cls, value):
            made = super().__new__(cls)
            made.value = value
            return made

        def get(self):
            return self.value

    class Slots:
        __slots__ = ("x",)

        def __init__(self, x):
            self.x = x

        def get(self):
            return self.x

    assert ray.get(ray.remote(Plain).remote().one.remote()) == 1
    assert ray.get(ray.remote(Made).remote(7).get.remote()) == 7
    assert ray.get(ray.remote(Slots).remote(8).get.remote()) == 8
    with pytest.raises(TypeError, match="Plain.*takes no arguments"):
        ray.remote(Plain).remote(1)


def test_methods_of_every_name(ray):
    """Dunder methods, private ones, and names that a handle has itself."""

    @ray.remote
    class Odd:
        def __init__(self):
            self.items = {"a": 1}

        def __getitem__(self, key):
            return self.items[key]

        def __call__(self, x):
            return x + 1

        def __len__(self):
            return 17

        def _private(self):
            return "private"

        def remote(self):
            return "remote"

        def options(self):
            return "options"

        def get(self):
            return "get"

        lam = lambda self, x: x * 3  # noqa: E731

    a = Odd.remote()
    assert ray.get(a.__getitem__.remote("a")) == 1
    assert ray.get(a.__call__.remote(1)) == 2
    assert ray.get(a.__len__.remote()) == 17
    assert ray.get(a._private.remote()) == "private"
    assert ray.get(a.remote.remote()) == "remote"
    assert ray.get(a.options.remote()) == "options"
    assert ray.get(a.get.remote()) == "get"
    assert ray.get(a.lam.remote(2)) == 6


def test_private_names_are_the_users(ray):
    """Names that a handle might have for itself."""
    names = ["_check", "_actor", "_ref", "_interface", "_settings", "_number", "_id", "_name"]
    cls = type("Own", (), {name: lambda self, n=name: n for name in names})
    a = ray.remote(cls).remote()
    assert ray.get([getattr(a, name).remote() for name in names]) == names
    again = ray.get(ray.put(a))
    assert ray.get(again._actor.remote()) == "_actor" and again == a


def test_the_cython_class_of_the_examples_is_an_actor(tmp_path):
    pytest.importorskip("numpy")
    examples = pathlib.Path(__file__).resolve().parent.parent / "examples" / "cython"
    if not list((examples / "cython_examples").glob("cython_class.*.so")):
        pytest.skip("the Cython examples are not built")
    script = f"""
import sys
sys.path.insert(0, {str(examples)!r})
import numpy as np, pyray as ray
from cython_examples.cython_class import Moments
ray.init(num_cpus=1)
a = ray.remote(Moments).remote()
for part in np.split(np.arange(100.0), 4):
    a.feed.remote(part)
whole = ray.get(a.merged.remote(Moments()))
print(whole.count, whole.mean)
"""
    done = helpers.run_script(tmp_path / "script.py", script)
    assert done.stdout.split() == ["100", "49.5"]


CYTHON = """
cdef class Counter:
    cdef long n

    def __init__(self, long n=0):
        self.n = n

    def add(self, long by=1):
        self.n += by
        return self.n

    cpdef long value(self):
        return self.n

    @staticmethod
    def double(long x):
        return 2 * x
"""


@pytest.mark.slow
@pytest.mark.seconds(60)
def test_extension_types_are_actors(tmp_path):
    """A cdef class, compiled here; the one among the examples is of the same kind."""
    pytest.importorskip("Cython")
    (tmp_path / "fast_counter.pyx").write_text(CYTHON)
    subprocess.run(
        [sys.executable, "-m", "Cython.Build.Cythonize", "-3", "-i", "-q", "fast_counter.pyx"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        env={**os.environ, "CFLAGS": "-O0"},
    )
    script = """
import pyray as ray
from fast_counter import Counter
ray.init(num_cpus=1)
Remote = ray.remote(Counter)
a = Remote.remote(5)
print(ray.get([a.add.remote(), a.add.remote(10), a.value.remote(), a.double.remote(4)]))
try:
    a.zork.remote()
except AttributeError as error:
    print(error)
"""
    done = helpers.run_script(tmp_path / "script.py", script)
    first, second = done.stdout.splitlines()
    assert first == "[6, 16, 16, 8]"
    assert "no method 'zork'" in second


# ---- arguments ---------------------------------------------------------------------------------


def test_constructor_arguments(ray):
    np = pytest.importorskip("numpy")

    @ray.remote
    class Keeper:
        def __init__(self, *args, **kwargs):
            self.args, self.kwargs = args, kwargs

        def get(self):
            return self.args, self.kwargs

    big = np.arange(1_000_000)
    ref = ray.put("by id")
    slow = ray.remote(lambda: "from a task").remote()
    inside = ray.put("inside")
    a = Keeper.remote(1, ref, big, slow, [inside], key=ref, other=big)
    args, kwargs = ray.get(a.get.remote())
    assert args[0] == 1 and args[1] == "by id" and args[3] == "from a task"
    assert (args[2] == big).all() and (kwargs["other"] == big).all()
    assert ray.get(args[4]) == ["inside"] and kwargs["key"] == "by id"
    many = Keeper.remote(*[ray.put(i) for i in range(50)])
    assert ray.get(many.get.remote())[0] == tuple(range(50))


def test_a_constructor_argument_that_fails(ray, counter_class):
    @ray.remote
    def fail():
        raise LookupError("no argument")

    a = counter_class.remote(fail.remote())
    with pytest.raises(exceptions.ActorDiedError, match="no argument"):
        ray.get(a.add.remote())


def test_arguments_of_calls(ray, counter_class):
    np = pytest.importorskip("numpy")
    a = counter_class.remote()
    big = np.arange(300_000)
    a.note.remote(ray.put(1))
    a.note.remote(value=ray.put(2))
    a.note.remote(big)
    a.note.remote([ray.put(3)])
    a.note.remote("x" * 500)
    one, two, array, (inner,), text = ray.get(a.notes.remote())
    assert (one, two, text) == (1, 2, "x" * 500) and (array == big).all()
    assert ray.get(inner) == 3


def test_an_argument_that_failed_fails_the_call_and_no_other(ray, counter_class):
    a = counter_class.remote()
    bad = a.fail.remote()
    first, second, third = a.add.remote(), a.add.remote(bad), a.add.remote()
    with pytest.raises(LookupError, match="on purpose"):
        ray.get(second)
    assert ray.get([first, third]) == [1, 2]


def test_wrong_arguments_are_errors_at_the_call(ray, counter_class):
    a = counter_class.remote()
    for call in (
        lambda: a.add.remote(1, 2),
        lambda: a.add.remote(zork=1),
        lambda: a.add.remote(1, by=2),
        lambda: a.note.remote(),
        lambda: a.static.remote(),
        lambda: a.static.remote(1, 2, 3),
        lambda: a.both.remote(1),
        lambda: a.named.remote(1, 2),
    ):
        with pytest.raises(TypeError, match=r"Counter\.\w+\.remote\(\)"):
            call()
    assert ray.get(a.add.remote()) == 1


def test_wrong_constructor_arguments_are_errors_at_the_call(ray, counter_class):
    for args, kwargs in [((1, 2), {}), ((), {"zork": 1}), ((1,), {"start": 1})]:
        with pytest.raises(TypeError, match=r"Counter\.remote\(\)"):
            counter_class.remote(*args, **kwargs)


def test_wrong_arguments_are_errors_in_other_processes_too(ray, counter_class):
    @ray.remote
    def call(a):
        try:
            a.add.remote(1, 2, 3)
        except TypeError as error:
            return str(error)

    a = counter_class.remote()
    assert "Counter.add" in ray.get(call.remote(a))


# ---- what calls return -------------------------------------------------------------------------


def test_num_returns(ray, counter_class):
    a = counter_class.remote()
    one, two = a.both.remote(1, 2)
    assert ray.get([one, two]) == [2, 1]
    assert ray.get(a.both.options(num_returns=1).remote(1, 2)) == (2, 1)
    assert a.nothing.remote() is None
    assert ray.get(a.add.remote(0)) == -100
    assert a.add.options(num_returns=0).remote(1) is None
    assert ray.get(a.add.remote(0)) == -99
    (three,) = [a.static.options(num_returns=3).remote([1], [2, 3])]
    assert ray.get(three) == [1, 2, 3]


def test_a_wrong_number_of_results(ray, counter_class):
    a = counter_class.remote()
    x, y = a.add.options(num_returns=2).remote()
    with pytest.raises(TypeError, match=r"Counter\.add was to return 2 values.*int"):
        ray.get(x)
    x, y, z = a.both.options(num_returns=3).remote(1, 2)
    for ref in (x, y, z):
        with pytest.raises(ValueError, match="3 values.*returned 2"):
            ray.get(ref)


def test_errors_of_methods(ray, counter_class):
    a = counter_class.remote()
    with pytest.raises(LookupError, match="on purpose") as caught:
        ray.get(a.fail.remote())
    assert isinstance(caught.value, exceptions.TaskError)
    assert "Counter.fail" in str(caught.value) and "line" in str(caught.value)
    assert ray.get(a.add.remote()) == 1  # it lives on


def test_results_that_cannot_be_pickled(ray):
    @ray.remote
    class Unpicklable:
        def lock(self):
            import threading

            return threading.Lock()

        def fine(self):
            return 1

    a = Unpicklable.remote()
    with pytest.raises(TypeError, match="lock"):
        ray.get(a.lock.remote())
    assert ray.get(a.fine.remote()) == 1


def test_large_results(ray_in_memory):
    ray = ray_in_memory
    np = pytest.importorskip("numpy")

    @ray.remote
    class Maker:
        def zeros(self, n):
            return np.zeros(n, np.uint8)

    a = Maker.remote()
    for n in (10, 10_000, 20 << 20):
        assert len(ray.get(a.zeros.remote(n))) == n
    with pytest.raises(exceptions.ObjectStoreFullError):
        ray.get(a.zeros.remote(1 << 30))
    assert len(ray.get(a.zeros.remote(5))) == 5


# ---- order -------------------------------------------------------------------------------------


def test_calls_of_one_caller_run_in_order(ray, counter_class):
    a = counter_class.remote()
    for i in range(3000):
        a.note.remote(i)
    assert ray.get(a.notes.remote()) == list(range(3000))


def test_a_call_whose_argument_is_not_there_holds_up_those_behind_it(ray, counter_class, gate):
    @ray.remote
    def late():
        gate.wait()
        return "late"

    a = counter_class.remote()
    a.note.remote(late.remote())
    refs = [a.note.remote(i) for i in range(5)]
    other = ray.remote(lambda a: ray.get(a.note.remote("other")))
    ray.get(other.remote(a))  # another caller is not held up
    assert not ray.wait(refs, timeout=0.1)[0]
    gate.open()
    assert ray.get(a.notes.remote()) == ["other", "late", 0, 1, 2, 3, 4]


def test_each_callers_calls_are_in_order(ray, counter_class):
    @ray.remote(num_cpus=0)
    def send(a, who):
        for i in range(300):
            a.note.remote((who, i))
        return ray.get(a.add.remote())

    a = counter_class.remote()
    refs = [send.remote(a, who) for who in range(4)]
    for i in range(300):
        a.note.remote(("driver", i))
    ray.get(refs)
    notes = ray.get(a.notes.remote())
    assert len(notes) == 1500
    for who in (0, 1, 2, 3, "driver"):
        assert [i for w, i in notes if w == who] == list(range(300))


def test_calls_from_many_threads_of_the_driver(ray, counter_class):
    import threading

    a = counter_class.remote()

    def send(who):
        for i in range(300):
            a.note.remote((who, i))
            if i % 50 == 0:
                ray.get(a.add.remote())

    threads = [threading.Thread(target=send, args=(who,)) for who in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    notes = ray.get(a.notes.remote())
    assert len(notes) == 2400
    for who in range(8):
        assert [i for w, i in notes if w == who] == list(range(300))


def test_more_calls_than_a_segment_of_a_mailbox_holds(ray, gate):
    """8,191 of them; and what they occupied is used again."""

    @ray.remote
    class Count:
        def __init__(self):
            self.n = 0

        def wait(self):
            gate.wait()

        def add(self, i):
            assert i == self.n, (i, self.n)
            self.n += 1

        def get(self):
            return self.n

    a = Count.remote()
    a.wait.remote()
    refs = [a.add.remote(i) for i in range(30_000)]
    gate.open()
    ray.get(refs[-1])
    for i in range(30_000, 60_000):
        ref = a.add.remote(i)
        if i % 1000 == 0:
            ray.get(ref)
    assert ray.get(a.get.remote()) == 60_000
    del refs


# ---- handles -----------------------------------------------------------------------------------


def test_handles_travel(ray, counter_class):
    """As an argument, inside containers, inside objects, as a result, in a closure."""
    a = counter_class.remote()

    @ray.remote
    def call(handle):
        return ray.get(handle.add.remote())

    @ray.remote
    def call_in(box):
        return ray.get(box["list"][0].add.remote())

    @ray.remote
    def fetch(box):
        return ray.get(ray.get(box[0])["a"].add.remote())

    @ray.remote
    def closure():
        return ray.get(a.add.remote())

    @ray.remote
    def back(handle):
        return handle, [handle]

    assert ray.get(call.remote(a)) == 1
    assert ray.get(call.remote(handle=a)) == 2
    assert ray.get(call.remote(ray.put(a))) == 3
    assert ray.get(call_in.remote({"list": [a]})) == 4
    assert ray.get(fetch.remote([ray.put({"a": a})])) == 5
    assert ray.get(closure.remote()) == 6
    one, (two,) = ray.get(back.remote(a))
    assert one == a == two and hash(one) == hash(a) and len({a, one, two}) == 1
    assert ray.get([one.add.remote(), two.add.remote()]) == [7, 8]


def test_handles_and_methods_between_actors(ray, counter_class):
    @ray.remote
    class Outer:
        def __init__(self, inner, method):
            self.inner, self.method = inner, method

        def call(self):
            return ray.get([self.inner.add.remote(), self.method.remote(10)])

        def hand_over(self, other):
            return ray.get(other.call.remote())

    inner = counter_class.remote()
    outer = Outer.remote(inner, inner.add)
    assert ray.get(outer.call.remote()) == [1, 11]
    second = Outer.remote(inner, inner.add.options(num_returns=1))
    assert ray.get(second.hand_over.remote(outer)) == [12, 22]


def test_actors_made_in_tasks_and_actors(ray, counter_class):
    @ray.remote
    def make():
        return counter_class.remote(10)

    @ray.remote
    class Factory:
        def make(self, n):
            made = counter_class.remote(n)
            ray.get(made.add.remote())
            return made

    a = ray.get(make.remote())
    b = ray.get(Factory.remote().make.remote(20))
    assert ray.get([a.add.remote(), b.add.remote()]) == [11, 22]


def test_an_actor_that_calls_itself_and_one_that_gets_its_own_handle(ray):
    @ray.remote
    class Loop:
        def start(self, me):
            self.me = me
            self.ref = me.step.remote(3)

        def step(self, n):
            return [self.me.step.remote(n - 1)] if n else "end"

        def result(self):
            return self.ref

    a = Loop.remote()
    a.start.remote(a)
    value = ray.get(a.result.remote())
    for _ in range(4):
        value = ray.get(value[0] if isinstance(value, list) else value)
    assert value == "end"


def test_handles_are_pickled_within_the_session(ray, counter_class):
    cloudpickle = pytest.importorskip("cloudpickle")
    a = counter_class.remote()
    for module in (pickle, cloudpickle):
        again = pickle.loads(module.dumps(a))
        assert again == a and type(again) is type(a)
        method = pickle.loads(module.dumps(a.add))
        assert ray.get(again.add.remote()) + 1 == ray.get(method.remote())
    kept = pickle.dumps(a)
    ray.shutdown()
    ray.init(num_cpus=1)
    with pytest.raises(exceptions.ForeignObjectError):
        pickle.loads(kept)


def test_a_handle_of_a_session_that_is_over(ray, counter_class):
    a = counter_class.remote()
    used = a.add
    assert ray.get(used.remote()) == 1
    ray.shutdown()
    for round in range(2):
        if round:
            ray.init(num_cpus=1, object_store_memory=256 << 20)
            # The first actor of the new session has the same place in the table.
            b = counter_class.remote(1000)
            assert ray.get(b.add.remote()) == 1001
        for call in (used.remote, lambda: a.add.remote(), lambda: a.pid.remote()):
            with pytest.raises(exceptions.SessionError):
                call()
        with pytest.raises(exceptions.SessionError):
            ray.kill(a)
        with pytest.raises(exceptions.SessionError):
            pickle.dumps(a)
    assert ray.get(b.add.remote()) == 1002
    with pytest.raises(exceptions.SerializationError, match="SessionError"):
        b.note.remote(a)


def test_handles_are_no_refs(ray, counter_class):
    a = counter_class.remote()
    with pytest.raises(TypeError):
        ray.get(a)
    with pytest.raises(TypeError):
        ray.wait([a])
    assert pickle.dumps(ray.get(ray.put([a]))[0])


# ---- methods that every actor has --------------------------------------------------------------


def test_ready_and_call(ray, counter_class):
    a = counter_class.remote(5)
    ray.get(a.__ray_ready__.remote())
    assert ray.get(a.__ray_call__.remote(lambda self, x, k=0: (self.n, x, k), 1, k=2)) == (5, 1, 2)
    assert ray.get([a.add.remote() for _ in range(2)]) == [6, 7]


# ---- definitions -------------------------------------------------------------------------------


def test_a_later_cell_redefines_the_class(ray, monkeypatch):
    """As in a notebook: the same name, defined anew in __main__."""
    module = types.ModuleType("__main__")
    module.ray = ray
    monkeypatch.setitem(sys.modules, "__main__", module)
    cell = """
@ray.remote
class Cell:
    def value(self):
        return {value}
    {more}
a = Cell.remote()
result = ray.get(a.value.remote())
"""
    exec(cell.format(value=1, more=""), module.__dict__)
    assert module.result == 1
    old = module.a
    exec(cell.format(value=2, more="def added(self): return 3"), module.__dict__)
    assert module.result == 2
    assert ray.get(module.a.added.remote()) == 3
    assert ray.get(old.value.remote()) == 1
    with pytest.raises(AttributeError, match="added"):
        old.added.remote()


def test_a_class_can_be_made_in_a_task_that_captures_it(ray, counter_class):
    options = counter_class.options(num_cpus=0)

    @ray.remote
    def make(cls):
        return ray.get(cls.remote(3).add.remote()), ray.get(options.remote(4).add.remote())

    assert ray.get(make.remote(counter_class)) == (4, 5)


def test_options_leave_the_class_alone(ray, counter_class):
    named = counter_class.options(name="one")
    a = named.remote()
    b = counter_class.remote()
    assert ray.get_actor("one") == a != b
    with pytest.raises(exceptions.ActorAlreadyExistsError, match="'one'"):
        named.remote()
    both = counter_class.options(name="two").options(num_cpus=0)
    c = both.remote()
    assert ray.get_actor("two") == c


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_cpu": 1}, TypeError),
        ({"num_returns": 2}, TypeError),
        ({"max_retries": 2}, TypeError),
        ({"num_cpus": -1}, ValueError),
        ({"num_gpus": -0.5}, ValueError),
        ({"num_cpus": "1"}, TypeError),
        ({"max_restarts": -2}, ValueError),
        ({"max_restarts": 1.5}, TypeError),
        ({"max_restarts": True}, TypeError),
        ({"max_task_retries": -2}, ValueError),
        ({"max_concurrency": 0}, ValueError),
        ({"max_concurrency": "2"}, TypeError),
        ({"max_pending_calls": 0}, ValueError),
        ({"max_pending_calls": -2}, ValueError),
        ({"lifetime": "forever"}, ValueError),
        ({"lifetime": 1}, TypeError),
        ({"name": ""}, ValueError),
        ({"name": 3}, TypeError),
        ({"namespace": "", "name": "x"}, ValueError),
        ({"namespace": "n"}, ValueError),
        ({"get_if_exists": True}, ValueError),
        ({"get_if_exists": "yes", "name": "x"}, TypeError),
        ({"concurrency_groups": {"io": 0}}, ValueError),
        ({"concurrency_groups": 3}, TypeError),
        ({"concurrency_groups": {1: 1}}, TypeError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"resources": {"tape": -1}}, ValueError),
    ],
    ids=str,
)
def test_wrong_options(options, error):
    """At the call, before there is a session."""
    with pytest.raises(error):
        make_counter().options(**options).remote()
    assert not pyray.is_initialized()


def test_wrong_options_of_methods(ray, counter_class):
    a = counter_class.remote()
    for options, error in [
        ({"num_returns": -1}, ValueError),
        ({"num_returns": "3"}, ValueError),
        ({"num_returns": 1.5}, TypeError),
        ({"num_cpus": 1}, TypeError),
        ({"max_task_retries": -2}, ValueError),
        ({"concurrency_group": 3}, TypeError),
        ({"retry_exceptions": 3}, TypeError),
    ]:
        with pytest.raises(error):
            a.add.options(**options).remote()
        with pytest.raises(error):
            pyray.method(**options)
    with pytest.raises(ValueError, match="no concurrency group 'zork'"):
        a.add.options(concurrency_group="zork").remote()


# ---- local mode --------------------------------------------------------------------------------


def test_local_mode():
    pyray.init(local_mode=True, num_cpus=1)
    counter = make_counter()
    a = counter.remote(5)
    assert pyray.get([a.add.remote(), a.add.remote(by=2)]) == [6, 8]
    assert pyray.get(a.pid.remote()) == os.getpid()
    assert pyray.get(a.both.remote(1, 2)) == [2, 1]
    with pytest.raises(LookupError, match="on purpose"):
        pyray.get(a.fail.remote())
    with pytest.raises(AttributeError, match="zork"):
        a.zork.remote()
    assert pyray.get(pyray.remote(lambda h: pyray.get(h.add.remote())).remote(a)) == 9
    named = counter.options(name="n").remote()
    assert pyray.get_actor("n") == named
    assert counter.options(name="n", get_if_exists=True).remote() == named
    with pytest.raises(exceptions.ActorAlreadyExistsError):
        counter.options(name="n").remote()
    pyray.kill(named)
    with pytest.raises(exceptions.ActorDiedError):
        pyray.get(named.add.remote())
    with pytest.raises(ValueError, match="no actor"):
        pyray.get_actor("n")


def test_local_mode_errors():
    pyray.init(local_mode=True, num_cpus=1)

    @pyray.remote
    class Bad:
        def __init__(self, fails):
            if fails:
                raise LookupError("made wrong")

        async def later(self, x):
            return x + 1

        def leave(self):
            pyray.actor.exit_actor()

    with pytest.raises(exceptions.ActorDiedError, match="made wrong"):
        pyray.get(Bad.remote(True).later.remote(1))
    a = Bad.remote(False)
    assert pyray.get(a.later.remote(1)) == 2
    with pytest.raises(exceptions.ActorDiedError):
        pyray.get(a.leave.remote())
    with pytest.raises(exceptions.ActorDiedError):
        pyray.get(a.later.remote(1))
    with pytest.raises(TypeError, match="remote"):
        Bad.remote(1, 2)
    b = Bad.remote(pyray.put(False))
    with pytest.raises(TypeError, match="later"):
        b.later.remote()


# ---- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["called", "put", "returned"])
def test_an_actor_ends_with_its_last_handle_without_the_garbage_collector(ray, way):
    @ray.remote
    class Some:
        def pid(self):
            return os.getpid()

    @ray.remote
    def make():
        some = Some.remote()
        ray.get(some.pid.remote())
        return some

    gc.disable()
    try:
        some = ray.get(make.remote()) if way == "returned" else Some.remote()
        pid = ray.get(some.pid.remote())
        if way == "put":
            kept = ray.put([some])
            assert ray.get(ray.get(kept)[0].pid.remote()) == pid
            del kept
        del some
        helpers.wait_until(lambda: not helpers.alive(pid), 5, "the actor's end")
    finally:
        gc.enable()


def test_an_actor_that_was_a_tasks_argument_ends_while_the_driver_is_idle(ray):
    """What a task needed is let go of without a further call."""

    @ray.remote
    class Sitter:
        def pid(self):
            return os.getpid()

    @ray.remote
    def look(handle):
        return 1

    sitter = Sitter.remote()
    pid = ray.get(sitter.pid.remote())
    assert ray.get(look.remote(sitter)) == 1
    del sitter
    helpers.wait_until(lambda: not helpers.alive(pid), 10, "the actor's end")
