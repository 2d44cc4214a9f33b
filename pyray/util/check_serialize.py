"""What it is in an object that cannot be serialized."""

from __future__ import annotations

import sys
import types
from typing import Any, TextIO

import pyray as ray
from pyray._core.serial_errors import _parts, describe

__all__ = ["FailureTuple", "inspect_serializability"]

# Whose serialization is not worth a try, as there are many of them and none fails.
_ATOMS = (bool, int, float, complex, str, bytes, bytearray, type(None))
# What a class's dictionary has of its own making.
_MEMBERS = (types.GetSetDescriptorType, types.MemberDescriptorType)
_WIDTH = 72


class FailureTuple:
    """One object that cannot be serialized, as :func:`inspect_serializability` finds it.

    Attributes
    ----------
    obj : object
        The object.
    name : str
        The name of the variable, attribute or element that holds it.
    parent : object
        What holds it; None for the object that was inspected.
    path : str
        How to get to it from there: ``f.<closure config>['lock']``.
    error : str
        What the attempt said.

    Examples
    --------
    >>> import io, threading
    >>> import pyray as ray
    >>> x = [threading.Lock()]
    >>> _, found = ray.util.inspect_serializability(x, "x", print_file=io.StringIO())
    >>> found.pop().path
    'x[0]'
    """

    def __init__(
        self, obj: Any, name: str, parent: Any, path: str | None = None, error: str = ""
    ) -> None:
        self.obj = obj
        self.name = name
        self.parent = parent
        self.path = name if path is None else path
        self.error = error

    def __repr__(self) -> str:
        obj, parent = describe(self.obj), describe(self.parent)
        return f"FailTuple({self.name} [path={self.path}, obj={obj}, parent={parent}])"


def inspect_serializability(
    base_obj: Any,
    name: str | None = None,
    depth: int = 3,
    print_file: TextIO | None = None,
) -> tuple[bool, set[FailureTuple]]:
    """Find out what it is in an object that cannot be serialized, and print a report.

    It looks into what functions capture, at the attributes of objects and classes, and into lists,
    tuples, dicts and sets.

    Parameters
    ----------
    base_obj : object
        A function, a class, a remote one, or any value.
    name : str, optional
        Its name in the report; default: its own, or its type's.
    depth : int, default 3
        Levels to look down.  What fails and lies deeper is reported by what holds it.
    print_file : file, optional
        Where the report goes; default: standard output.

    Returns
    -------
    bool
        Whether it can be serialized.
    set of FailureTuple
        What cannot.

    Raises
    ------
    ValueError
        `depth` is negative.

    Examples
    --------
    >>> import io, threading
    >>> import pyray as ray
    >>> lock = threading.Lock()
    >>> def f():
    ...     return lock
    >>> works, found = ray.util.inspect_serializability(f, print_file=io.StringIO())
    >>> works, [failure.name for failure in found]
    (False, ['lock'])
    """
    if depth < 0:
        raise ValueError(f"depth is the number of levels to look down, 0 or more, not {depth}")
    out = sys.stdout if print_file is None else print_file
    if name is None:
        name = getattr(base_obj, "__name__", None) or type(base_obj).__name__
    search = _Search(out)
    search.line("=" * _WIDTH)
    search.line(f"Checking whether {name} can be serialized: {describe(base_obj)}")
    search.line("=" * _WIDTH)
    problem = _problem(base_obj)
    if problem is not None:
        search.look(base_obj, problem, name, None, name, depth, 0)
    search.report(name)
    return not search.found, set(search.found)


class _Search:
    def __init__(self, out: Any) -> None:
        self.found: list[FailureTuple] = []
        self._out = out
        # Kept alive, so that their ids stay their own.
        self._seen: dict[int, Any] = {}
        self._above: set[int] = set()

    def line(self, text: str, indent: int = 0) -> None:
        print("    " * indent + text, file=self._out)

    def look(
        self, obj: Any, problem: str, name: str, parent: Any, path: str, depth: int, indent: int
    ) -> None:
        """Note the innermost things that fail in `obj`, which fails itself."""
        self.line(f"{path} fails: {problem}", indent)
        inside = False
        self._above.add(id(obj))
        for label, part in _children(obj) if depth else ():
            if isinstance(part, (_ATOMS, _MEMBERS)) or id(part) in self._above:
                continue  # what contains itself is at fault, not what it contains
            told = id(part) in self._seen  # by another way
            self._seen[id(part)] = part
            why = _problem(part)
            if why is not None:
                inside = True
                if not told:
                    self.look(part, why, _plain(label), obj, path + label, depth - 1, indent + 1)
        self._above.discard(id(obj))
        if not inside:
            self.found.append(FailureTuple(obj, name, parent, path, problem))

    def report(self, name: str) -> None:
        self.line("=" * _WIDTH)
        if not self.found:
            self.line(f"Nothing in {name} stands in the way of its serialization.")
        for failure in self.found:
            self.line(f"{failure.path} cannot be serialized:")
            self.line(f"object   {describe(failure.obj)}", 1)
            self.line(f"held by  {describe(failure.parent)}", 1)
            self.line(f"because  {failure.error}", 1)
        if self.found:
            self.line(
                "Make such a thing inside the function that uses it; or leave it out in the class's"
            )
            self.line("__getstate__; or say how it travels: pyray.register_custom_serializer.")
        self.line("=" * _WIDTH)


def _children(obj: Any) -> list[tuple[str, Any]]:
    """(label, part) of what is in an object, as far as it can be looked at."""
    if isinstance(obj, ray.RemoteFunction):
        return _children(obj.__wrapped__)
    found = []
    parts = _parts(obj)
    while True:
        try:
            found.append(next(parts))
        except StopIteration:
            break
        except Exception:
            break  # a hostile __getattr__: what is known must do
    for index, default in enumerate(getattr(obj, "__defaults__", None) or ()):
        found.append((f".<default {index}>", default))
    for label, default in (getattr(obj, "__kwdefaults__", None) or {}).items():
        found.append((f".<default {label}>", default))
    kind = type(obj)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        found.append((".__class__", kind))  # it travels too
    return found


def _plain(label: str) -> str:
    """'lock' for '.<global lock>' and for '.lock'; '[3]' stays."""
    text = label.removeprefix(".")
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1].partition(" ")[2]
    return text


def _problem(obj: Any) -> str | None:
    """What an attempt to serialize it says, or None if it succeeds."""
    from pyray._core import serializer

    try:
        serializer.encoded(obj, "x")
    except RecursionError as error:
        return str(error)
    except Exception as error:
        # Without the way to the culprit, which this search finds by itself.
        _, sign, rest = str(error).rpartition("cannot pickle ")
        return sign + rest or repr(error)
    return None
