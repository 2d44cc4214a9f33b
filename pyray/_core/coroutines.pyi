import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from types import ModuleType
from typing import Any, final

from pyray._core.running import Call, WorkerExit

@final
class Starter:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        variable: ContextVar[Any],
        asyncio: ModuleType,
        finish: Callable[[Call, Any, bool], Coroutine[Any, Any, None]],
        ended: Callable[[Call], None],
        leave: Callable[[WorkerExit], None],
    ) -> None: ...
    def start(self, call: Call) -> asyncio.Task[None] | None: ...
    def close(self) -> None: ...
