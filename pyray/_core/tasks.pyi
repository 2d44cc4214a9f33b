from collections.abc import Callable
from typing import Any, final

from pyray._core.store import ObjectID

@final
class Caller:
    function: Any
    func: int
    shape: int
    nreturns: int
    max_retries: int
    retry_exceptions: bool
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
class Function:
    def __init__(
        self,
        call: Callable[..., Any],
        name: str,
        retry: tuple[type[BaseException], ...] | None,
        max_calls: int,
    ) -> None: ...

class ArgumentPath:
    def __init__(self, function: Any) -> None: ...

class WorkerExit(BaseException):
    code: int
    def __init__(self, code: int) -> None: ...

def put(value: Any) -> ObjectID: ...
def put_result(value: Any, error: bool) -> ObjectID: ...
def sweep() -> int: ...
def set_worker_callbacks(
    load_function: Callable[[int], Function],
    make_error: Callable[[BaseException, Any, bool], BaseException],
    before_shaped: Callable[[str], None],
) -> None: ...
def current_name() -> str: ...
def current_task_id() -> bytes: ...
def running_task() -> tuple[bytes, int] | None: ...
def running_shaped() -> bool: ...
def work(seconds: float) -> int: ...
def reset() -> None: ...
