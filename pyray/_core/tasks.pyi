from collections.abc import Callable
from typing import Any, TypeVar, final

from pyray._core.store import ObjectID

_T = TypeVar("_T")

RETRY_EXCEPTIONS: int
STREAM: int
DYNAMIC: int

class TaskContext: ...

class Target:
    func: int
    shape: int
    nreturns: int
    max_retries: int
    window: int
    flags: int
    group: int

@final
class Caller(Target):
    function: Any
    min_args: int
    max_args: int
    def __init__(
        self,
        function: Any,
        bind: Callable[[Caller], Callable[..., Any] | None],
        check: Callable[[tuple[Any, ...], dict[str, Any]], None],
    ) -> None: ...
    def bound(self) -> None: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

@final
class Mailbox: ...

class ArgumentPath:
    name: str
    def __init__(self, name: str) -> None: ...

def put(value: _T) -> ObjectID[_T]: ...
def put_result(value: Any, error: bool) -> ObjectID: ...
def sweep() -> int: ...
def current_task_id() -> bytes: ...
def current_task() -> tuple[bytes, int] | None: ...
def set_on_hold(on_hold: Callable[[], None] | None) -> None: ...
def held_tasks() -> int: ...
def unstarted_children() -> int: ...
def reset() -> None: ...
