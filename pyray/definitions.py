"""Functions and classes that travel by value: each is pickled and published once per session.

A definition has a number; what refers to it carries the number.  A worker unpickles it the first
time it meets the number.  Inside a definition other functions and classes are pickled in place
(cloudpickle keeps one class one class), so definitions never import each other while being
imported; only a remote function inside is a reference, looked up when it is called.  That is why
the order of definitions does not matter, and recursion needs nothing special.
"""

from __future__ import annotations

import threading

from pyray._core import functions, shm
from pyray._core.annotations import Any

# By id(); the object is kept so that its id stays its own.  Emptied when the session changes.
_numbers: dict[int, tuple[Any, int]] = {}
_objects: dict[int, Any] = {}
_epoch = -1
_lock = threading.RLock()

LARGE = 1 << 20


def _current() -> None:
    global _epoch
    if _epoch != shm.epoch():
        _numbers.clear()
        _objects.clear()
        _epoch = shm.epoch()


def export(obj: Any, key: Any = None, extra: Any = None) -> int:
    """The number of an object, publishing it if this process has not yet.

    `key` is the object whose identity counts (default: `obj`), `extra` is published beside it.
    """
    import cloudpickle

    with _lock:
        _current()
        key = obj if key is None else key
        found = _numbers.get(id(key))
        if found is not None:
            return found[1]
        number: int = functions.reserve()
        _numbers[id(key)] = (key, number)
        try:
            # The name in front and alone, so that the node can read it without user code.
            name = extra[0] if extra else getattr(obj, "__qualname__", "")
            try:
                body = cloudpickle.dumps((obj, extra), protocol=5)
            except Exception as problem:
                raise _name_the_culprit(obj, name, problem) from problem
            blob = cloudpickle.dumps(name) + body
            if len(blob) >= LARGE:
                _say_large(obj, len(blob))
            functions.publish(number, blob)
        except BaseException:
            del _numbers[id(key)]
            raise
        _objects[number] = obj
        return number


def _name_the_culprit(obj: Any, name: str, problem: Exception) -> Exception:
    """An error that says which captured variable of a function cannot be pickled."""
    import cloudpickle

    from pyray._core.serial_errors import explain

    def probe(part: Any) -> Exception | None:
        try:
            cloudpickle.dumps(part)
        except Exception as error:
            return error
        return None

    return explain(problem, name, obj, probe)


def load(number: int) -> tuple[Any, Any]:
    """(object, extra) of a definition, unpickled."""
    import io
    import pickle

    stream = io.BytesIO(functions.read(number))
    pickle.load(stream)
    return pickle.load(stream)  # type: ignore[no-any-return]


def name_of(number: int) -> str:
    """The name of a definition, without unpickling the thing itself."""
    import pickle

    try:
        return str(pickle.loads(functions.read(number)))
    except Exception:
        return f"function {number}"


def import_definition(number: int) -> Any:
    """The object of a definition; the same one each time in one process."""
    with _lock:
        _current()
        if number not in _objects:
            _objects[number] = load(number)[0]
        return _objects[number]


def known(number: int) -> Any:
    """The object of a definition if this process has it already, else None."""
    with _lock:
        _current()
        return _objects.get(number)


def export_value(obj: Any) -> int | None:
    """For the serializer: the number of a class or function met in a value, or None to pickle it in
    place.

    Only what is defined at the top of ``__main__`` is worth a number: it lives as long as the
    session does.  A lambda or a local class may be one of a million.
    """
    if getattr(obj, "__module__", None) != "__main__" or not shm.attached():
        return None
    name = getattr(obj, "__qualname__", "<")
    if "<" in name or shm.forked():
        return None
    return export(obj)


def _say_large(obj: Any, size: int) -> None:
    """One line that names what makes a function's closure large."""
    import logging

    name, biggest, at_least = None, None, 0
    function = getattr(obj, "__func__", obj)
    code = getattr(function, "__code__", None)
    captured: dict[str, Any] = {}
    if code is not None:
        cells = getattr(function, "__closure__", None) or ()
        for variable, cell in zip(code.co_freevars, cells, strict=False):
            try:
                captured[variable] = cell.cell_contents
            except ValueError:
                continue
        scope = getattr(function, "__globals__", {})
        for variable in code.co_names:
            if variable in scope and function.__module__ == "__main__":
                captured.setdefault(variable, scope[variable])
    for variable, value in captured.items():
        n = _size(value)
        if n > at_least:
            name, biggest, at_least = variable, value, n
    what = getattr(obj, "__qualname__", type(obj).__name__)
    detail = ""
    if name is not None:
        detail = f" because of the variable {name!r} ({type(biggest).__name__}) that it captures"
    logging.getLogger("pyray").warning(
        "%s is %.1f MB when pickled%s; put() the value once and pass the ObjectID instead",
        what,
        size / 1e6,
        detail,
    )


def _size(value: Any) -> int:
    n = getattr(value, "nbytes", None)
    if isinstance(n, int):
        return n
    import sys

    if isinstance(value, (list, tuple, set, dict)):
        return sys.getsizeof(value) + sum(sys.getsizeof(v) for v in list(value)[:100_000])
    return sys.getsizeof(value)
