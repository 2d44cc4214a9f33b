from collections.abc import Callable, Sequence
from typing import Any

from pyray._core.store import ObjectID

def set_tick(tick: Callable[[float, list[Any]], None]) -> None: ...
def get(refs: Any, *, timeout: float | None = None) -> Any: ...
def wait(
    refs: Sequence[Any],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectID], list[ObjectID]]: ...
def arrow_parts(oid: ObjectID) -> tuple[bytes, bool]: ...
