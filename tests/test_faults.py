"""One task goes wrong: what `get` raises, and that nobody else notices."""

import asyncio
import os
import pickle
import threading

import fault_helpers as h
import pytest

import pyray as ray
from pyray.exceptions import TaskError, WorkerCrashedError


@pytest.fixture(autouse=True)
def whole():
    """A session before the test, and the same one in good order after it."""
    ray.init(num_cpus=2, object_store_memory=64 << 20, log_to_driver=False)
    h.wait_until(lambda: len(h.idle_pids()) == 2, what="two workers")
    yield
    h.assert_whole()


@pytest.fixture
def go(tmp_path):
    """A file that tasks linger for; there at the test's end at the latest."""
    path = tmp_path / "go"
    yield path
    path.touch()


def thrower(error):
    @ray.remote(max_retries=0)
    def throw():
        raise error

    return throw


# ---- exceptions --------------------------------------------------------------------------------


class Plain(ValueError):
    pass


class Bare(BaseException):
    pass


class KeywordsOnly(Exception):
    def __init__(self, *, code):
        super().__init__(f"code {code}")
        self.code = code

    def __reduce__(self):
        return rebuild_keywords_only, (self.code,)


def rebuild_keywords_only(code):
    return KeywordsOnly(code=code)


class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")  # so that unpickling calls it with one argument


class Slotted(Exception):
    __slots__ = ("extra",)

    def __init__(self, extra):
        super().__init__(extra)
        self.extra = extra


def test_the_class_is_kept_and_the_text_is_the_remote_traceback():
    @ray.remote(name="the one that throws")
    def outer():
        def inner_function():
            error = Plain("a word", 7)
            error.detail = [1, 2]
            raise error

        inner_function()

    with pytest.raises(Plain) as caught:
        h.get(outer.remote())
    error = caught.value
    assert isinstance(error, TaskError)
    assert isinstance(error, ray.exceptions.RayTaskError)
    assert error.args == ("a word", 7)
    assert error.detail == [1, 2]
    assert type(error.cause) is Plain
    assert error.task == "the one that throws"
    assert error.pid in [w["pid"] for w in h.workers()]
    text = str(error)
    assert "the one that throws" in text
    assert f"pid={error.pid}" in text
    assert "inner_function()" in text
    assert "raise error" in text
    assert os.path.basename(__file__) in text
    assert "_core" not in text


def test_what_caused_it_is_in_the_text():
    @ray.remote
    def f():
        try:
            {}["a key"]
        except KeyError as e:
            raise Plain("outer") from e

    error = h.error_of(f.remote())
    assert isinstance(error, Plain)
    assert "KeyError: 'a key'" in str(error)
    assert "direct cause" in str(error)


def test_the_error_is_raised_by_each_get():
    ref = thrower(Plain("again")).remote()
    for _ in range(3):
        with pytest.raises(Plain):
            h.get(ref)
    with pytest.raises(Plain):
        h.get([h.double.remote(1), ref])


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (KeyError("k"), ()),
        (OSError(2, "no such", "a file"), ("errno", "strerror", "filename")),
        (FileNotFoundError(2, "no such", "a file"), ("errno", "filename")),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"), ("object", "start", "end", "reason")),
        (ImportError("no", name="a_module", path="/x"), ("name", "path")),
        (AttributeError("no", name="an_attribute"), ("name",)),
        (SyntaxError("bad", ("file", 3, 4, "text")), ("filename", "lineno", "offset", "text")),
        (StopIteration(5), ("value",)),
        (StopAsyncIteration(), ()),
        (RecursionError("deep"), ()),
        (MemoryError("much"), ()),
        (KeywordsOnly(code=4), ("code",)),
        (Slotted(3), ("extra",)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Exception) else "",
)
def test_exceptions_with_ways_of_their_own(error, fields):
    got = h.error_of(thrower(error).remote())
    assert isinstance(got, TaskError)
    assert isinstance(got, type(error))
    assert got.args == error.args
    copy = pickle.loads(pickle.dumps(error))  # pickle itself forgets some fields before Python 3.12
    for name in fields:
        assert getattr(got, name) == getattr(copy, name)
    assert type(error).__name__ in str(got)


def test_exception_groups():
    group = ExceptionGroup("several", [Plain("one"), ExceptionGroup("more", [KeyError("two")])])
    seen = []
    try:
        h.get(thrower(group).remote())
    except* Plain as part:
        seen += [type(e) for e in part.exceptions]
    except* KeyError as part:
        seen += [type(e.exceptions[0]) for e in part.exceptions]
    assert seen == [Plain, KeyError]
    got = h.error_of(thrower(group).remote())
    assert isinstance(got, TaskError)
    assert "Plain: one" in str(got)


@pytest.mark.parametrize(
    "error", [Bare("x"), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()], ids=repr
)
def test_what_is_no_exception_does_not_stop_the_driver(error):
    got = h.error_of(thrower(error).remote())
    assert isinstance(got, TaskError)
    assert isinstance(got, Exception)
    assert type(got.cause) is type(error)
    assert type(error).__name__ in str(got)


class HoldsALock(Exception):
    def __init__(self):
        super().__init__("with a lock")
        self.lock = threading.Lock()


class FailsToPickle(Exception):
    def __reduce__(self):
        raise RuntimeError("not me")


class FailsToUnpickle(Exception):
    def __reduce__(self):
        return h.crash, ("raise",)


@pytest.mark.parametrize("kind", [FailsToPickle, FailsToUnpickle, TwoArguments])
def test_an_exception_that_pickle_cannot_rebuild_keeps_its_class(kind):
    """Made again from its parts, without its constructor or its `__reduce__`."""

    @ray.remote
    def throw():
        error = kind(1, 2) if kind is TwoArguments else kind()
        error.extra = 7
        raise error

    got = h.error_of(throw.remote())
    assert isinstance(got, kind)
    assert isinstance(got, TaskError)
    assert type(got.cause) is kind
    assert got.extra == got.cause.extra == 7


def test_an_exception_that_cannot_travel_gives_its_text():
    kind = HoldsALock

    @ray.remote
    def throw():
        raise kind()

    pids = sorted(h.idle_pids())
    got = h.error_of(throw.remote())
    assert type(got) is TaskError
    assert got.cause is None
    assert got.task == "throw"
    assert got.pid in pids
    assert kind.__name__ in str(got)
    assert "in throw" in str(got)
    h.wait_until(lambda: sorted(h.idle_pids()) == pids, what="the same idle workers")


class LiesAboutItself(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def test_an_exception_without_a_text():
    got = h.error_of(thrower(LiesAboutItself()).remote())
    assert isinstance(got, TaskError)
    assert "LiesAboutItself" in str(got)


def test_an_exception_that_kills_whoever_unpickles_it():
    class Deadly(Exception):
        def __reduce__(self):
            return h.crash, ("kill",)

    @ray.remote(max_retries=0)
    def throw():
        raise Deadly

    got = h.error_of(throw.remote())
    assert isinstance(got, WorkerCrashedError)
    assert got.signal == "SIGKILL"


@pytest.mark.parametrize("size", [5 << 20, 80 << 20], ids=["fits", "is larger than the store"])
def test_an_exception_with_a_huge_payload(size):
    @ray.remote
    def throw():
        raise Plain(bytes(size))

    with h.store_balanced():
        got = h.error_of(throw.remote(), 30)  # its text is four times as large as its payload
        assert type(got) is not ray.exceptions.GetTimeoutError
        assert isinstance(got, TaskError)
        assert len(str(got)) < 1 << 20
        if size < 64 << 20:
            assert isinstance(got, Plain)
            assert len(got.args[0]) == size
        else:
            assert "Plain" in str(got)
        del got


def test_a_result_that_cannot_be_pickled_fails_that_task_alone():
    @ray.remote(num_returns=2)
    def f():
        return 1, {"a": [threading.Lock()]}

    first, second = f.remote()
    got = h.error_of(second)
    assert isinstance(got, TaskError)
    assert "lock" in str(got)
    with pytest.raises(TaskError):
        h.get([first, second])


def test_a_wrong_number_of_results():
    @ray.remote(num_returns=3)
    def f():
        return 1, 2

    got = h.error_of(f.remote()[0])
    assert isinstance(got, ValueError)
    assert isinstance(got, TaskError)
    assert "3" in str(got)


# ---- crashes: see storms/test_storm_crash_matrix.py for all the places where one can come --------


@ray.remote(max_retries=0)
def while_running(kind, note):
    h.crash(kind, note)


@pytest.mark.parametrize(("argument", "code"), [(None, 0), (0, 0), ("a message", 1), (True, 1)])
def test_sys_exit_in_a_task(argument, code):
    @ray.remote(max_retries=0)
    def leave():
        raise SystemExit(argument)

    error = h.error_of(leave.remote())
    assert isinstance(error, WorkerCrashedError)
    assert error.exit_code == code
    assert "leave" in str(error)


def test_a_crash_with_many_returns_fails_them_all(tmp_path):
    refs = while_running.options(num_returns=5).remote("kill", None)
    for ref in refs:
        assert isinstance(h.error_of(ref), WorkerCrashedError)


def test_wait_returns_what_crashed(tmp_path):
    ref = while_running.remote("segfault", None)
    assert ray.wait([ref], timeout=h.LIMIT) == ([ref], [])


def test_a_crash_of_an_idle_worker_is_nobodys_error():
    for pid in h.idle_pids():
        os.kill(pid, 9)
    assert h.get([h.double.remote(i) for i in range(100)]) == [2 * i for i in range(100)]
