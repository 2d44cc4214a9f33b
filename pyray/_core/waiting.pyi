from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from pyray._core.store import ObjectID

_T = TypeVar("_T")

def set_tick(tick: Callable[[float, list[Any]], None]) -> None: ...
def set_interrupted(interrupted: Callable[[list[Any]], None]) -> None: ...
def set_doing(doing: Callable[[int], str]) -> None: ...
@overload
def get(refs: ObjectID[_T], *, timeout: float | None = None, writable: bool = False) -> _T: ...
@overload
def get(
    refs: Sequence[ObjectID[_T]], *, timeout: float | None = None, writable: bool = False
) -> list[_T]: ...
def wait(
    refs: Sequence[ObjectID[_T]],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectID[_T]], list[ObjectID[_T]]]: ...
def arrow_parts(oid: ObjectID) -> tuple[bytes, bool]: ...
