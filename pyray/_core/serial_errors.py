"""Errors of the serializer, and the search for the element that cannot be serialized."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyray._core.annotations import Any
from pyray._core.errors import PyrayError

__all__ = [
    "CorruptObjectError",
    "DefinitionNotFoundError",
    "RecursionDepthError",
    "SerializationError",
]

RECURSION_MESSAGE = (
    "This object exceeds the maximum recursion depth. It may contain itself recursively."
)


class SerializationError(PyrayError, TypeError):
    """A value cannot be serialized; the message starts with the path to the culprit.

    Attributes
    ----------
    path : str
        Where the offending element lies, the root's name included: ``x['a'][3].lock``.
    """

    path = ""


class RecursionDepthError(SerializationError, RecursionError, ValueError):
    """A value is nested more than 1,000 levels deep, or contains itself."""


class CorruptObjectError(PyrayError, ValueError):
    """Bytes that are not a serialized object."""


class DefinitionNotFoundError(CorruptObjectError, ImportError):
    """A class or function that an object needs cannot be imported here."""

    task_name: str = ""  # the task that needed it, where that is known


def describe(key: object) -> str:
    """Give a key's repr, shortened; a key whose repr fails still gets a name."""
    try:
        text = repr(key)
    except Exception:
        text = f"<{type(key).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


_ATOMS = (bool, int, float, complex, str, bytes, bytearray, type(None), type)
_PROBES_MAX = 10_000


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (label, part) of a value's elements, as one would write them in Python."""
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield f".<key {describe(key)}>", key
            yield f"[{describe(key)}]", item
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for name, item in zip(value._fields, value, strict=False):
            yield f".{name}", item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in list(value):
            yield "{...}", item
    elif isinstance(value, BaseException):
        for index, item in enumerate(value.args):
            yield f".args[{index}]", item
    elif type(value).__module__ == "numpy" and hasattr(value, "flat"):
        for index, item in enumerate(value.flat):
            yield f".flat[{index}]", item
    if hasattr(value, "__closure__") and hasattr(value, "__code__"):
        cells = value.__closure__ or ()
        for name, cell in zip(value.__code__.co_freevars, cells, strict=False):
            try:
                yield f".<closure {name}>", cell.cell_contents
            except ValueError:
                continue
        for name in value.__code__.co_names:
            if name in value.__globals__:
                yield f".<global {name}>", value.__globals__[name]
    if hasattr(value, "__func__") and hasattr(value, "__self__"):
        yield ".__self__", value.__self__
    elif hasattr(value, "func") and hasattr(value, "keywords"):
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    for name, item in list(getattr(value, "__dict__", {}).items()):
        yield f".{name}", item
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield f".{name}", getattr(value, name)


def explain(
    error: Exception, path: str, value: Any, probe: Callable[[Any], Exception | None]
) -> SerializationError:
    """Make the error that names the smallest element which cannot be serialized.

    Parameters
    ----------
    error : Exception
        What went wrong.
    path : str
        Where `value` lies.
    value : object
        The element whose serialization failed, whole.
    probe : callable
        Tries one value; gives the error, or None.

    Returns
    -------
    SerializationError
        To be raised from `error`.
    """
    seen = {id(value)}
    found = True
    try:
        while found:
            found = False
            for label, part in _parts(value):
                if isinstance(part, _ATOMS) or id(part) in seen or len(seen) > _PROBES_MAX:
                    continue
                seen.add(id(part))
                problem = probe(part)
                if problem is not None:
                    path, value, error, found = path + label, part, problem, True
                    break
    except Exception:
        found = False  # a hostile __getattr__ and the like: what is known must do
    text = str(error)
    kind = type(value)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", None):
        name = f"{kind.__module__}.{name}"
    if isinstance(error, RecursionError) or text.startswith("cannot pickle"):
        reason = f"cannot pickle {name} object"
    else:
        reason = f"cannot pickle {name} object: {type(error).__name__}: {text}"
    made = SerializationError(f"{path}: {reason}")
    made.path = path
    return made


# Users meet them in pyray.exceptions, and tracebacks are to name that.
for _class in list(globals().values()):
    if isinstance(_class, type) and issubclass(_class, PyrayError):
        _class.__module__ = "pyray.exceptions"
del _class
