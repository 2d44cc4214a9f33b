"""How objects travel: registering serializers of one's own, and pickling a value whole.

Numbers, strings, arrays and containers of them travel as Arrow; an object of a plain class as a
dictionary of its fields; everything else by pickle.  Where that is not what a class needs, say so
here.
"""

from __future__ import annotations

from collections.abc import Callable

from pyray._core.annotations import Any
from pyray._core.serializer import (
    CorruptObjectError,
    DefinitionNotFoundError,
    Pickled,
    RecursionDepthError,
    SerializationError,
    set_custom,
)

__all__ = [
    "CorruptObjectError",
    "DefinitionNotFoundError",
    "Pickled",
    "RecursionDepthError",
    "SerializationError",
    "deregister_serializer",
    "register_custom_serializer",
    "register_serializer",
]


def register_custom_serializer(
    cls: type,
    serializer: Callable[[Any], Any] | None = None,
    deserializer: Callable[[Any], Any] | None = None,
    use_pickle: bool = False,
    use_dict: bool = False,
    local: bool = False,
    job_id: Any = None,
    class_id: Any = None,
) -> None:
    """Say how the instances of a class travel.

    It holds for this process and for exactly this class, not for its subclasses.  The deserializer
    travels with each object, so other processes need no registration to read it.

    Parameters
    ----------
    cls : type
        The class.
    serializer : callable, optional
        Turns an instance into something that can be serialized.
    deserializer : callable, optional
        Turns that into an instance again.
    use_pickle : bool
        Pickle the instances whole.
    use_dict : bool
        Take an instance for a dictionary of its fields, even where that looks wrong: only its
        ``__dict__`` travels, and no method of the class is called.
    local, job_id, class_id : optional
        Accepted for the sake of older programs, and ignored.

    Raises
    ------
    TypeError
        If `cls` is no class, or a (de)serializer cannot be called.
    ValueError
        If not exactly one manner is asked for.

    Examples
    --------
    >>> import pyray as ray
    >>> class Temperature:
    ...     def __init__(self, celsius):
    ...         self.celsius = celsius
    >>> ray.register_custom_serializer(
    ...     Temperature, serializer=lambda t: t.celsius, deserializer=Temperature
    ... )
    >>> ray.get(ray.put(Temperature(21))).celsius
    21
    """
    if not isinstance(cls, type):
        raise TypeError(f"a class is needed, not {cls!r}")
    pair = serializer is not None or deserializer is not None
    if pair + bool(use_pickle) + bool(use_dict) != 1:
        raise ValueError(
            "give exactly one of: serializer and deserializer, use_pickle=True, use_dict=True"
        )
    if pair:
        if not (callable(serializer) and callable(deserializer)):
            raise TypeError("both serializer and deserializer are needed, and must be callable")
        set_custom(cls, "custom", serializer, deserializer)
    else:
        set_custom(cls, "pickle" if use_pickle else "dict")


def register_serializer(
    cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]
) -> None:
    """Give the instances of a class a serializer of their own.

    Parameters
    ----------
    cls : type
        The class; its subclasses are not meant.
    serializer : callable
        Turns an instance into something that can be serialized.
    deserializer : callable
        Turns that into an instance again; it travels with each object.
    """
    register_custom_serializer(cls, serializer, deserializer)


def deregister_serializer(cls: type) -> None:
    """Forget what was registered for a class, if anything.

    Parameters
    ----------
    cls : type
        The class.
    """
    set_custom(cls)
