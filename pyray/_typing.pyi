# The special cases of an overload stand before the general one, and overlap with it.
# mypy: disable-error-code="overload-overlap"
"""What type checkers see of `remote`, of remote functions and of actors.

A call of a remote function is checked in two ways, of which one has to fit: exactly as the
function's signature says, keywords and defaults included, or with up to ten positional arguments
each of which may be an ObjectRef of what the function takes. An ObjectRef as a *keyword* argument
can't be expressed: pass it by position.

There is nothing here at run time: `pyray.remote_function` and `pyray.actor` are what runs.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Annotated, Any, Concatenate, Generic, Literal, ParamSpec, Self, overload

from typing_extensions import TypeVar

from pyray._core.generators import ObjectRefGenerator
from pyray._core.store import ObjectID

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Y = TypeVar("_Y")
_F = TypeVar("_F", bound=Callable[..., Any])
_C = TypeVar("_C")
_C_co = TypeVar("_C_co", covariant=True)
_F_co = TypeVar("_F_co", bound=Callable[..., Any], covariant=True, default=Callable[..., Any])
_T0 = TypeVar("_T0")
_T1 = TypeVar("_T1")
_T2 = TypeVar("_T2")
_T3 = TypeVar("_T3")
_T4 = TypeVar("_T4")
_T5 = TypeVar("_T5")
_T6 = TypeVar("_T6")
_T7 = TypeVar("_T7")
_T8 = TypeVar("_T8")
_T9 = TypeVar("_T9")

class _Remote(Generic[_F_co]):
    """``.remote`` of what returns one value."""

    @overload
    def remote(
        self: _Remote[Callable[[_T0], _R]],
        a0: _T0 | ObjectID[_T0],
        /,
    ) -> ObjectID[_R]: ...
    @overload
    def remote(
        self: _Remote[Callable[[_T0, _T1], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        /,
    ) -> ObjectID[_R]: ...
    @overload
    def remote(
        self: _Remote[Callable[[_T0, _T1, _T2], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        /,
    ) -> ObjectID[_R]: ...
    @overload
    def remote(
        self: _Remote[Callable[[_T0, _T1, _T2, _T3], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        /,
    ) -> ObjectID[_R]: ...
    @overload
    def remote(
        self: _Remote[Callable[[_T0, _T1, _T2, _T3, _T4], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        /,
    ) -> ObjectID[_R]: ...
    @overload
    def remote(
        self: _Remote[Callable[[_T0, _T1, _T2, _T3, _T4, _T5], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        a5: _T5 | ObjectID[_T5],
        /,
    ) -> ObjectID[_R]: ...
    @overload
    def remote(
        self: _Remote[Callable[[_T0, _T1, _T2, _T3, _T4, _T5, _T6], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        a5: _T5 | ObjectID[_T5],
        a6: _T6 | ObjectID[_T6],
        /,
    ) -> ObjectID[_R]: ...
    @overload
    def remote(
        self: _Remote[Callable[[_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        a5: _T5 | ObjectID[_T5],
        a6: _T6 | ObjectID[_T6],
        a7: _T7 | ObjectID[_T7],
        /,
    ) -> ObjectID[_R]: ...
    @overload
    def remote(
        self: _Remote[Callable[[_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7, _T8], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        a5: _T5 | ObjectID[_T5],
        a6: _T6 | ObjectID[_T6],
        a7: _T7 | ObjectID[_T7],
        a8: _T8 | ObjectID[_T8],
        /,
    ) -> ObjectID[_R]: ...
    @overload
    def remote(
        self: _Remote[Callable[[_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7, _T8, _T9], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        a5: _T5 | ObjectID[_T5],
        a6: _T6 | ObjectID[_T6],
        a7: _T7 | ObjectID[_T7],
        a8: _T8 | ObjectID[_T8],
        a9: _T9 | ObjectID[_T9],
        /,
    ) -> ObjectID[_R]: ...
    @overload
    def remote(
        self: _Remote[Callable[_P, _R]], *args: _P.args, **kwargs: _P.kwargs
    ) -> ObjectID[_R]: ...

class _RemoteStream(Generic[_F_co]):
    """``.remote`` of a generator; its "return type" is what it yields."""

    @overload
    def remote(
        self: _RemoteStream[Callable[[_T0], _R]],
        a0: _T0 | ObjectID[_T0],
        /,
    ) -> ObjectRefGenerator[_R]: ...
    @overload
    def remote(
        self: _RemoteStream[Callable[[_T0, _T1], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        /,
    ) -> ObjectRefGenerator[_R]: ...
    @overload
    def remote(
        self: _RemoteStream[Callable[[_T0, _T1, _T2], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        /,
    ) -> ObjectRefGenerator[_R]: ...
    @overload
    def remote(
        self: _RemoteStream[Callable[[_T0, _T1, _T2, _T3], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        /,
    ) -> ObjectRefGenerator[_R]: ...
    @overload
    def remote(
        self: _RemoteStream[Callable[[_T0, _T1, _T2, _T3, _T4], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        /,
    ) -> ObjectRefGenerator[_R]: ...
    @overload
    def remote(
        self: _RemoteStream[Callable[[_T0, _T1, _T2, _T3, _T4, _T5], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        a5: _T5 | ObjectID[_T5],
        /,
    ) -> ObjectRefGenerator[_R]: ...
    @overload
    def remote(
        self: _RemoteStream[Callable[[_T0, _T1, _T2, _T3, _T4, _T5, _T6], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        a5: _T5 | ObjectID[_T5],
        a6: _T6 | ObjectID[_T6],
        /,
    ) -> ObjectRefGenerator[_R]: ...
    @overload
    def remote(
        self: _RemoteStream[Callable[[_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        a5: _T5 | ObjectID[_T5],
        a6: _T6 | ObjectID[_T6],
        a7: _T7 | ObjectID[_T7],
        /,
    ) -> ObjectRefGenerator[_R]: ...
    @overload
    def remote(
        self: _RemoteStream[Callable[[_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7, _T8], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        a5: _T5 | ObjectID[_T5],
        a6: _T6 | ObjectID[_T6],
        a7: _T7 | ObjectID[_T7],
        a8: _T8 | ObjectID[_T8],
        /,
    ) -> ObjectRefGenerator[_R]: ...
    @overload
    def remote(
        self: _RemoteStream[Callable[[_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7, _T8, _T9], _R]],
        a0: _T0 | ObjectID[_T0],
        a1: _T1 | ObjectID[_T1],
        a2: _T2 | ObjectID[_T2],
        a3: _T3 | ObjectID[_T3],
        a4: _T4 | ObjectID[_T4],
        a5: _T5 | ObjectID[_T5],
        a6: _T6 | ObjectID[_T6],
        a7: _T7 | ObjectID[_T7],
        a8: _T8 | ObjectID[_T8],
        a9: _T9 | ObjectID[_T9],
        /,
    ) -> ObjectRefGenerator[_R]: ...
    @overload
    def remote(
        self: _RemoteStream[Callable[_P, _R]], *args: _P.args, **kwargs: _P.kwargs
    ) -> ObjectRefGenerator[_R]: ...

class _Attributes:
    __name__: str
    __qualname__: str
    __module__: str
    __wrapped__: Callable[..., Any]

class RemoteFunction(_Remote[_F_co], _Attributes):
    @overload
    def options(self, *, num_returns: Literal[1] = 1, **options: Any) -> Self: ...
    @overload
    def options(self, *, num_returns: int | str | None, **options: Any) -> RemoteMany: ...

class RemoteGenerator(_RemoteStream[_F_co], _Attributes):
    @overload
    def options(
        self, *, num_returns: Literal["streaming"] = "streaming", **options: Any
    ) -> Self: ...
    @overload
    def options(self, *, num_returns: int | str | None, **options: Any) -> RemoteMany: ...

class RemoteMany(_Attributes):
    """With `num_returns`: how many ids a call gives is not known to a type checker."""

    def remote(self, *args: Any, **kwargs: Any) -> Any: ...
    def options(self, **options: Any) -> RemoteMany: ...

# ---- actors ------------------------------------------------------------------------------------

class _AnyMethod:
    """A method of which nothing is known."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any: ...
    def options(self, **options: Any) -> _AnyMethod: ...

class ActorMethod(_Remote[_F_co]):
    """A method that `@ray.method` was put on: to be called in the class, and ``.remote`` of it in
    an `ActorProxy`."""

    def __call__(
        self: ActorMethod[Callable[_P, _R]], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R: ...
    def options(self, **options: Any) -> _AnyMethod: ...

class AsyncActorMethod(_Remote[_F_co]):
    """The same of an async method: its value is what it returns in the end."""

    def __call__(
        self: AsyncActorMethod[Callable[_P, _R]], *args: _P.args, **kwargs: _P.kwargs
    ) -> Coroutine[Any, Any, _R]: ...
    def options(self, **options: Any) -> _AnyMethod: ...

class GeneratorActorMethod(_RemoteStream[_F_co]):
    """The same of a generator."""

    def __call__(
        self: GeneratorActorMethod[Callable[_P, _R]], *args: _P.args, **kwargs: _P.kwargs
    ) -> Generator[_R, Any, Any]: ...
    def options(self, **options: Any) -> _AnyMethod: ...

class AsyncGeneratorActorMethod(_RemoteStream[_F_co]):
    """The same of an async generator."""

    def __call__(
        self: AsyncGeneratorActorMethod[Callable[_P, _R]], *args: _P.args, **kwargs: _P.kwargs
    ) -> AsyncGenerator[_R, Any]: ...
    def options(self, **options: Any) -> _AnyMethod: ...

class ActorHandle(Any, Generic[_C_co]):  # type: ignore[misc]
    """Any of an actor's methods, without their types.

    May be assigned to what is declared as an `ActorProxy`, which has their types.
    """

    def __getattr__(self, name: str) -> _AnyMethod: ...

# What the class is: of its methods those with @ray.method have a typed ``.remote``.
ActorProxy = Annotated[_C, "an actor"]

class ActorClass(Generic[_C_co]):
    # A handle, or whatever the variable is declared as that it is assigned to.
    def remote(self, *args: Any, **kwargs: Any) -> _H: ...  # type: ignore[type-var]
    def options(self, **options: Any) -> ActorClass[_C_co]: ...

_H = TypeVar("_H", default=ActorHandle[Any])

# ---- the decorators ----------------------------------------------------------------------------

class _Decorator:
    """``remote(options)``."""

    @overload
    def __call__(self, function: type[_C], /) -> ActorClass[_C]: ...
    @overload
    def __call__(
        self, function: Callable[_P, Coroutine[Any, Any, _R]], /
    ) -> RemoteFunction[Callable[_P, _R]]: ...
    @overload
    def __call__(
        self, function: Callable[_P, Iterator[_Y]], /
    ) -> RemoteGenerator[Callable[_P, _Y]]: ...
    @overload
    def __call__(
        self, function: Callable[_P, AsyncIterator[_Y]], /
    ) -> RemoteGenerator[Callable[_P, _Y]]: ...
    @overload
    def __call__(self, function: _F, /) -> RemoteFunction[_F]: ...

class _ManyDecorator:
    """``remote(num_returns=2)``."""

    def __call__(self, function: Callable[..., Any], /) -> RemoteMany: ...

class _MethodDecorator:
    """``method(options)``."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, _P], Coroutine[Any, Any, _R]], /
    ) -> AsyncActorMethod[Callable[_P, _R]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, _P], Iterator[_Y]], /
    ) -> GeneratorActorMethod[Callable[_P, _Y]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, _P], AsyncIterator[_Y]], /
    ) -> AsyncGeneratorActorMethod[Callable[_P, _Y]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, _P], _R], /
    ) -> ActorMethod[Callable[_P, _R]]: ...

class _ManyMethodDecorator:
    """``method(num_returns=2)``."""

    def __call__(self, function: Callable[..., Any], /) -> _AnyMethod: ...

@overload
def remote(function: type[_C], /) -> ActorClass[_C]: ...
@overload
def remote(
    function: Callable[_P, Coroutine[Any, Any, _R]], /
) -> RemoteFunction[Callable[_P, _R]]: ...
@overload
def remote(function: Callable[_P, Iterator[_Y]], /) -> RemoteGenerator[Callable[_P, _Y]]: ...
@overload
def remote(function: Callable[_P, AsyncIterator[_Y]], /) -> RemoteGenerator[Callable[_P, _Y]]: ...
@overload
def remote(function: _F, /) -> RemoteFunction[_F]: ...
@overload
def remote(*, num_returns: Literal[1] = 1, **options: Any) -> _Decorator: ...
@overload
def remote(*, num_returns: int | str | None, **options: Any) -> _ManyDecorator: ...
@overload
def method(
    function: Callable[Concatenate[Any, _P], Coroutine[Any, Any, _R]], /
) -> AsyncActorMethod[Callable[_P, _R]]: ...
@overload
def method(
    function: Callable[Concatenate[Any, _P], Iterator[_Y]], /
) -> GeneratorActorMethod[Callable[_P, _Y]]: ...
@overload
def method(
    function: Callable[Concatenate[Any, _P], AsyncIterator[_Y]], /
) -> AsyncGeneratorActorMethod[Callable[_P, _Y]]: ...
@overload
def method(function: Callable[Concatenate[Any, _P], _R], /) -> ActorMethod[Callable[_P, _R]]: ...
@overload
def method(*, num_returns: Literal[1] = 1, **options: Any) -> _MethodDecorator: ...
@overload
def method(*, num_returns: int | str | None, **options: Any) -> _ManyMethodDecorator: ...
