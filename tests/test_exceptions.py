"""The hierarchy of exceptions: names, attributes on all ways, classes kept, texts."""

from __future__ import annotations

import copyreg
import dataclasses
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pyray
from pyray import exceptions as x

Error = x.PyrayError


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
def returned(error: BaseException) -> BaseException:
    return error


def shown(error: BaseException) -> str:
    """What Python prints for it."""
    return "".join(traceback.format_exception(error))


# ---- names and attributes ----------------------------------------------------------------------


def test_rays_names_and_what_they_are() -> None:
    assert x.RayError is x.PyrayError
    assert x.RayTaskError is x.TaskError
    assert x.ActorError is x.RayActorError
    assert x.LocalRayletDiedError is x.NodeDiedError
    parents = {
        "ActorDiedError": x.RayActorError,
        "ActorUnavailableError": x.RayActorError,
        "ActorAlreadyExistsError": ValueError,
        "GetTimeoutError": TimeoutError,
        "ObjectFetchTimedOutError": x.ObjectLostError,
        "ObjectFreedError": x.ObjectLostError,
        "ObjectReconstructionFailedError": x.ObjectLostError,
        "OwnerDiedError": x.ObjectLostError,
        "ReferenceCountingAssertionError": AssertionError,
    }
    for name, parent in parents.items():
        assert issubclass(getattr(x, name), parent)
    for name in x.__all__:
        cls = getattr(x, name)
        assert cls.__module__ == "pyray.exceptions"
        assert cls.__doc__
        assert issubclass(cls, x.RayError) != (cls is x.AsyncioActorExit)


def test_leaving_an_actor_passes_through_what_catches_exceptions() -> None:
    def method() -> None:
        try:
            raise x.AsyncioActorExit
        except Exception:
            return

    with pytest.raises(x.AsyncioActorExit):
        method()


def samples() -> list[BaseException]:
    made: list[BaseException] = []
    for name in x.__all__:
        cls = getattr(x, name)
        if cls not in (x.TaskError, x.TaskCancelledError):
            made.append(cls("some words"))
    made += [
        x.WorkerCrashedError("w", "a task", 12, "SIGSEGV", None),
        x.WorkerCrashedError("w", "a task", 12, None, 3),
        x.TaskCancelledError(b"\x01" * 20),
        x.TaskCancelledError(None, "cancelled by hand"),
        x.ActorDiedError("gone", "ab" * 8, "Counter", 7, "SIGKILL", None),
        x.ActorUnavailableError("later", actor_id="cd", name="n", pid=8, exit_code=1),
        x.RayActorError("no actor", cause=ValueError("in the constructor")),
    ]
    for error in made:
        error.add_note("a note")
        error.extra = {"a": [1]}  # type: ignore[attr-defined]
    return made


def same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    assert str(one) == str(other)
    assert one.args == other.args
    mine, theirs = dict(vars(one)), dict(vars(other))
    causes = mine.pop("cause", None), theirs.pop("cause", None)
    assert repr(causes[0]) == repr(causes[1])
    assert mine == theirs


def test_attributes_survive_pickle() -> None:
    for error in samples():
        same(pickle.loads(pickle.dumps(error)), error)
        same(pickle.loads(pickle.dumps(error, protocol=2)), error)
        assert str(error)


def test_attributes_survive_the_store_and_tasks(ray: Any) -> None:
    errors = samples()
    for got, error in zip(ray.get(ray.put(errors)), errors, strict=True):
        same(got, error)
    for got, error in zip(ray.get([returned.remote(e) for e in errors]), errors, strict=True):
        same(got, error)


def test_they_are_raised_with_class_attributes_and_cause(ray: Any) -> None:
    for error in samples():
        if not isinstance(error, x.PyrayError):
            continue
        got = error_of(throw.remote(lambda error=error: error))
        assert isinstance(got, x.TaskError)
        assert isinstance(got, type(error))
        assert got.extra == {"a": [1]}
        same(got.cause, error)
        wrapped = x.ActorDiedError("because", cause=got)
        again = pickle.loads(pickle.dumps(wrapped)).cause
        assert type(again.cause) is type(error)
        assert str(again) == str(got)


def test_messages_say_what_is_known() -> None:
    assert "01" * 20 in str(x.TaskCancelledError(b"\x01" * 20))
    assert str(x.TaskCancelledError(message="by hand")) == "by hand"
    died = x.ActorDiedError("Counter died", cause=KeyError("k"))
    assert died.error_msg == "Counter died"
    assert died.actor_init_failed
    assert not x.ActorDiedError("it died").actor_init_failed


class Picky(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__("composed", code)
        self.code = code


def test_a_cause_that_pickle_cannot_rebuild_by_itself() -> None:
    died = pickle.loads(pickle.dumps(x.ActorDiedError("gone", cause=Picky(code=4))))
    assert type(died.cause) is Picky
    assert died.cause.code == 4


# ---- the user's class --------------------------------------------------------------------------


class Composes(Exception):
    """Its constructor makes another message of what it is given."""

    def __init__(self, what: str) -> None:
        super().__init__(f"about {what}")
        self.what = what


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int
    task: str


class Registered(Exception):
    known: list[str] = []

    def __init_subclass__(cls, *, key: str) -> None:
        Registered.known.append(key)


class OwnNew(ValueError):
    def __new__(cls, *, key: str) -> OwnNew:
        made = super().__new__(cls, key)
        made.key = key
        return made

    def __init__(self, *, key: str) -> None:
        super().__init__(key)

    key: str


class OwnState(Exception):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return OwnState, (), [1, 2]

    def __setstate__(self, state: Any) -> None:
        self.values = state


class ThroughCopyreg(Exception):
    def __init__(self, where: Any) -> None:
        super().__init__("it")
        self.where = where


copyreg.pickle(ThroughCopyreg, lambda e: (ThroughCopyreg, ("by copyreg",)))


class Crash(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(5, "bad disk", path)


CASES: list[tuple[Callable[[], BaseException], dict[str, Any]]] = [
    (lambda: Composes("a thing"), {"args": ("about a thing",), "what": "a thing"}),
    (lambda: Frozen(3, "mine"), {"code": 3}),
    (lambda: Registered("r"), {"args": ("r",)}),
    (lambda: OwnNew(key="k"), {"key": "k", "args": ("k",)}),
    (lambda: OwnState("gone"), {"values": [1, 2]}),
    (lambda: ThroughCopyreg("here"), {"where": "by copyreg"}),
    (lambda: Crash("/a"), {"errno": 5, "strerror": "bad disk", "filename": "/a"}),
]


@pytest.mark.parametrize(("make", "fields"), CASES)
def test_a_class_with_ways_of_its_own_is_kept(
    ray: Any, make: Callable[[], BaseException], fields: dict[str, Any]
) -> None:
    got = error_of(throw.remote(make))
    assert isinstance(got, x.TaskError)
    assert isinstance(got, type(make()))
    assert type(got.cause) is type(make())
    for name, value in fields.items():
        assert getattr(got, name) == value
        assert getattr(got.cause, name) == value
    assert got.task == "throw"
    again = pickle.loads(pickle.dumps(got))
    assert type(again) is type(got)
    assert str(again) == str(got)


def test_classes_that_register_their_subclasses_see_none_of_ours(ray: Any) -> None:
    error_of(throw.remote(lambda: Registered("r")))
    assert Registered.known == []


class Interrupts(BaseException):
    pass


def test_exceptions_that_are_none_keep_their_class_but_for_those_that_end_programs(
    ray: Any,
) -> None:
    with pytest.raises(Interrupts):
        ray.get(throw.remote(lambda: Interrupts("x")))
    for cls in (KeyboardInterrupt, GeneratorExit):
        got = error_of(throw.remote(lambda cls=cls: cls("x")))
        assert type(got) is x.TaskError
        assert type(got.cause) is cls
        assert got.as_instanceof_cause() is got
        assert cls.__name__ in str(got)


def test_as_instanceof_cause(ray: Any) -> None:
    got = error_of(throw.remote(lambda: ValueError("v")))
    assert got.as_instanceof_cause() is got
    by_hand = x.TaskError()
    by_hand.cause = KeyError("k")
    by_hand.task = "somewhere"
    made = by_hand.as_instanceof_cause()
    assert isinstance(made, KeyError)
    assert isinstance(made, x.TaskError)
    assert "somewhere" in str(made)
    assert isinstance(pickle.loads(pickle.dumps(made)).cause, KeyError)


def test_what_is_added_in_the_driver_travels_on(ray: Any) -> None:
    got = error_of(throw.remote(lambda: ValueError("v")))
    got.add_note("seen in the driver")
    got.seen = 1
    (back,) = ray.get(ray.put([got]))
    assert back.__notes__ == ["seen in the driver"]
    assert back.seen == 1
    assert not hasattr(back.cause, "__notes__")


# ---- chains and notes --------------------------------------------------------------------------


def test_cause_context_and_notes_of_the_exception(ray: Any) -> None:
    @ray.remote
    def chained() -> None:
        try:
            try:
                {}["a key"]
            except KeyError as e:
                raise Picky(code=1) from e
        except Picky:
            error = ValueError("last")
            error.add_note("a note of the task's")
            raise error  # noqa: B904

    got = error_of(chained.remote())
    cause = got.cause
    assert type(cause.__context__) is Picky
    assert cause.__context__.code == 1
    assert type(cause.__context__.__cause__) is KeyError
    assert cause.__context__.__suppress_context__
    assert got.__notes__ == cause.__notes__ == ["a note of the task's"]
    text = shown(got)
    for words, times in [
        ("KeyError: 'a key'", 1),
        ("Picky: ('composed', 1)", 1),
        ("ValueError: last", 1),
        ("a note of the task's", 1),
        ("direct cause", 1),
        ("During handling", 1),
    ]:
        assert text.count(words) == times, text


def test_a_chain_that_cannot_be_pickled_leaves_the_exception(ray: Any) -> None:
    @ray.remote
    def f() -> None:
        import threading

        try:
            raise KeyError(threading.Lock())
        except KeyError as e:
            raise ValueError("v") from e

    got = error_of(f.remote())
    assert type(got.cause) is ValueError
    assert got.cause.__cause__ is None
    assert "KeyError: <unlocked" in str(got)


def test_a_chain_that_bites_its_tail(ray: Any) -> None:
    @ray.remote
    def f() -> None:
        one, two = ValueError("one"), KeyError("two")
        one.__cause__, two.__cause__ = two, one
        one.me = one  # type: ignore[attr-defined]
        raise one

    got = error_of(f.remote())
    assert got.cause.__cause__.__cause__ is got.cause
    assert got.cause.me is got.cause


def test_each_hop_is_there_once_without_frames_of_ours(ray: Any) -> None:
    @ray.remote
    def bottom() -> None:
        raise Composes("the bottom")

    @ray.remote
    def middle(refs: list[Any]) -> Any:
        return ray.get(refs[0])

    @ray.remote
    def top(refs: list[Any]) -> Any:
        try:
            return ray.get(refs)
        except Composes as e:
            raise RuntimeError("from the top") from e

    got = error_of(top.remote([middle.remote([bottom.remote()])]))
    text = shown(got)
    for words in (
        "RuntimeError: from the top",
        "about the bottom",
        "in bottom",
        "in middle",
        "task bottom",
        "task middle",
        "task top",
    ):
        assert text.count(words) == 1, text
    assert text.count("in top") == 2, text  # where it got, and where it raised
    assert "_core" not in str(got)
    assert "/pyray/" not in str(got)
    frames = [f.name for f in traceback.extract_tb(got.__traceback__)]
    assert frames[0] == "error_of"
    assert len(frames) == 2  # and get itself
    assert type(got.cause.__cause__.cause) is Composes
    # As it is: the user's own class.
    got = error_of(middle.remote([bottom.remote()]))
    assert isinstance(got, Composes)
    assert type(got.cause) is Composes


def test_an_actors_error_has_its_own_frames_and_chain_alone(ray: Any) -> None:
    @ray.remote
    class Actor:
        def fail(self) -> None:
            raise Composes("a call")

        async def fail_later(self) -> None:
            raise Composes("a call")

    class Unmade:
        def __init__(self) -> None:
            raise Composes("its making")

    actor = Actor.remote()
    for ref in (actor.fail.remote(), actor.fail_later.remote()):
        got = error_of(ref)
        assert isinstance(got, Composes)
        assert got.cause.__context__ is None
        text = str(got)
        assert text.count("Traceback") == 1
        assert text.count("  File ") == 1, text
    died = error_of(ray.remote(Unmade).remote().__ray_ready__.remote())
    assert isinstance(died, x.ActorDiedError)
    assert isinstance(died.cause, Composes)
    assert str(died).count("Traceback") == 1


def test_a_failed_argument_is_the_same_error(ray: Any) -> None:
    failed = throw.remote(lambda: Picky(code=9))
    with pytest.raises(Picky) as caught:
        ray.get(returned.remote(failed))
    assert caught.value.task == "throw"
    assert caught.value.code == 9
    assert str(caught.value).count("raised") == 1


def test_frames_of_other_packages_stay(ray: Any) -> None:
    """numpy has a folder _core of its own."""
    got = error_of(throw.options(name="np").remote(lambda: np.stack([])))
    assert "_core" in str(got)
    assert "shape_base" in str(got)


# ---- groups ------------------------------------------------------------------------------------


class Several(ExceptionGroup[Exception]):
    def __new__(cls, code: int, errors: list[Exception]) -> Several:
        made = super().__new__(cls, f"code {code}", errors)
        made.code = code
        return made

    code: int

    def derive(self, excs: Any) -> Several:
        return Several(self.code, excs)


def make_group() -> BaseException:
    return Several(3, [ValueError("v"), ExceptionGroup("inner", [KeyError("k"), Picky(code=5)])])


def test_a_group_is_that_group(ray: Any) -> None:
    got = error_of(throw.remote(make_group))
    assert isinstance(got, x.TaskError)
    assert isinstance(got, Several)
    assert (got.message, got.code) == ("code 3", 3)
    assert [type(e) for e in got.exceptions] == [ValueError, ExceptionGroup]
    assert got.exceptions[1].exceptions[1].code == 5
    assert type(got.cause) is Several
    again = pickle.loads(pickle.dumps(got))
    assert repr(again.exceptions) == repr(got.exceptions)


def test_except_star_in_the_driver(ray: Any) -> None:
    seen = []

    def handled() -> None:
        try:
            ray.get(throw.remote(make_group))
        except* KeyError as part:
            seen.append(part)
        except* TypeError:
            raise AssertionError("there is none") from None

    with pytest.raises(Several) as caught:
        handled()
    (part,) = seen
    assert isinstance(part, Several)
    assert isinstance(part, x.TaskError)
    assert repr(part.exceptions) == "(ExceptionGroup('inner', [KeyError('k')]),)"
    rest = caught.value
    assert isinstance(rest, x.TaskError)
    assert rest.code == 3
    assert [type(e) for e in rest.exceptions] == [ValueError, ExceptionGroup]
    assert "part" in str(rest)
    assert "task throw" in str(rest)
    again = pickle.loads(pickle.dumps(rest))
    assert str(again) == str(rest)
    assert repr(again.exceptions) == repr(rest.exceptions)


def test_split_subgroup_and_derive(ray: Any) -> None:
    got = error_of(throw.remote(make_group))
    match, rest = got.split(Picky)
    assert match.exceptions[0].exceptions[0].code == 5
    assert [type(e) for e in rest.exceptions] == [ValueError, ExceptionGroup]
    assert got.subgroup(OSError) is None
    assert got.subgroup((ValueError, KeyError)).task == "throw"
    derived = got.derive([OSError(1, "x")])
    assert isinstance(derived, Several)
    assert derived.pid == got.pid


def test_a_group_with_what_ends_programs(ray: Any) -> None:
    def make() -> BaseException:
        inner = BaseExceptionGroup("inner", [GeneratorExit()])
        return BaseExceptionGroup("g", [ValueError("v"), KeyboardInterrupt(), inner])

    got = error_of(throw.remote(make))
    assert isinstance(got, BaseExceptionGroup)
    assert isinstance(got, Exception)
    value, interrupt, inner = got.exceptions
    assert type(value) is ValueError
    assert type(interrupt) is x.TaskError
    assert type(interrupt.cause) is KeyboardInterrupt
    assert interrupt.task == "throw"
    assert type(inner.exceptions[0].cause) is GeneratorExit
    assert type(got.cause.exceptions[1]) is KeyboardInterrupt

    def handled() -> None:
        try:
            raise got
        except* ValueError:
            matched.append(1)

    matched: list[int] = []
    with pytest.raises(x.TaskError) as caught:
        handled()
    assert matched == [1]
    assert "KeyboardInterrupt" in shown(caught.value)


def test_the_text_of_a_group_has_the_tracebacks_of_its_members(ray: Any) -> None:
    @ray.remote
    def f() -> None:
        errors = []
        for i in range(2):
            try:
                int(f"no number {i}")
            except ValueError as e:
                errors.append(e)
        raise ExceptionGroup("both", errors)

    text = str(error_of(f.remote()))
    assert text.count('int(f"no number {i}")') == 2
    assert "both (2 sub-exceptions)" in text
