from collections.abc import Callable
from typing import Any, Literal, TypeAlias, final

from pyray._core.serial_errors import CorruptObjectError as CorruptObjectError
from pyray._core.serial_errors import DefinitionNotFoundError as DefinitionNotFoundError
from pyray._core.serial_errors import RecursionDepthError as RecursionDepthError
from pyray._core.serial_errors import SerializationError as SerializationError

# collections.abc.Buffer begins with Python 3.12.
_Buffer: TypeAlias = bytes | bytearray | memoryview

__all__ = [
    "CorruptObjectError",
    "DefinitionNotFoundError",
    "Pickled",
    "RecursionDepthError",
    "SerializationError",
    "dumps",
    "dumps_inline",
    "encoded",
    "loads",
    "loads_inline",
    "set_custom",
    "set_hooks",
    "to_arrow_stream",
]

@final
class _Encoded:
    @property
    def nbytes(self) -> int: ...
    @property
    def contained(self) -> list[Any]: ...

class Pickled:
    def __init__(self, value: Any) -> None: ...
    @property
    def value(self) -> Any: ...

def set_hooks(
    ref_type: type | None = None,
    pack: Callable[[Any], bytes] | None = None,
    unpack: Callable[[bytes], Any] | None = None,
    export_definition: Callable[[Any], int | None] | None = None,
    import_definition: Callable[[int], Any] | None = None,
) -> None: ...
def set_custom(
    cls: type,
    manner: Literal["custom", "pickle", "dict"] | None = None,
    serializer: Callable[[Any], Any] | None = None,
    deserializer: Callable[[Any], Any] | None = None,
) -> None: ...
def encoded(value: Any, root: str = "x") -> _Encoded: ...
def dumps(value: Any, root: str = "x") -> memoryview: ...
def loads(data: _Buffer) -> Any: ...
def dumps_inline(value: Any, cap: int = 256) -> bytes | None: ...
def loads_inline(data: _Buffer) -> Any: ...
def to_arrow_stream(data: _Buffer, inline: bool = False) -> bytes: ...
