"""Small immutable records: frozen dataclasses without the code that those generate.

For each class `dataclasses` writes six functions as text and compiles them, which takes a third of
a millisecond: forty kinds of message would delay the node's start, and the first result, by 13 ms.
"""

from __future__ import annotations

from collections.abc import Callable

from pyray._core.annotations import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import dataclass_transform
else:

    def dataclass_transform(**options):
        return lambda made: made


__all__ = ["Frozen"]


@dataclass_transform(frozen_default=True)
class _Maker(type):
    """Turns what a class's body annotates into slots, and its values into defaults."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> _Maker:
        fields = tuple(f for f in body.get("__annotations__", ()) if f[0] != "_")
        body["_defaults"] = {field: body.pop(field) for field in fields if field in body}
        body["__slots__"] = body["__match_args__"] = body["_fields"] = fields
        made = super().__new__(mcs, name, bases, body)
        made._setters = tuple(vars(made)[field].__set__ for field in fields)
        return made

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]
    _setters: tuple[Callable[[Any, Any], None], ...]


class Frozen(metaclass=_Maker):
    """Base of a record: its class's annotations are its fields, which cannot be changed.

    Two are equal if they are of one class and their fields are. No class inherits fields.

    Raises
    ------
    TypeError
        Made from too many values, or too few, or by a name that there is not.
    AttributeError
        A field is assigned to.
    """

    def __init__(self, *values: Any, **named: Any) -> None:
        made = type(self)
        if named or len(values) != len(made._setters):
            values = _in_order(made, values, named)
        for put, value in zip(made._setters, values, strict=True):
            put(self, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"cannot assign to field {name!r} of a {type(self).__name__}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete field {name!r} of a {type(self).__name__}")

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in type(self)._fields])

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        fields = zip(type(self)._fields, self._values(), strict=True)
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in fields)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._values()


def _in_order(made: type[Frozen], values: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The value of each field, from those given in order, those given by name, and defaults."""
    fields = made._fields
    if len(values) > len(fields):
        raise TypeError(f"{made.__name__} has {len(fields)} fields, but got {len(values)} values")
    given = dict(zip(fields, values, strict=False))
    for name in named:
        if name not in fields or name in given:
            what = "got two values for" if name in given else "has no field"
            raise TypeError(f"{made.__name__} {what} {name!r}")
    found = {**made._defaults, **given, **named}
    missing = [name for name in fields if name not in found]
    if missing:
        raise TypeError(f"{made.__name__} needs a value for {', '.join(missing)}")
    return [found[name] for name in fields]
