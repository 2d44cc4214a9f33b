"""Arrays born in the store, which several tasks write to in place.

`empty`, `zeros`, `full` and `empty_like` make them; passed to a task or an actor's method, whole or
any view of them, they arrive as the same memory, writable. `seal`, or `put`, makes one an object
like any other, without a copy.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyray import session, tell
from pyray._core import census, control, shared_arrays, waiting
from pyray._core.store import ObjectID
from pyray.exceptions import SharedArrayInUseError

if TYPE_CHECKING:
    from typing import SupportsIndex

    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike

    Shape = SupportsIndex | Sequence[SupportsIndex]

    class SharedArray(np.ndarray[Any, np.dtype[Any]]):
        """An ndarray in shared memory; see `empty`."""

        def seal(self, timeout: float | None = 0) -> ObjectID[np.ndarray[Any, np.dtype[Any]]]: ...
        @property
        def sealed(self) -> bool: ...


__all__ = ["SharedArray", "empty", "empty_like", "full", "zeros"]

# What a task held is let go of a moment after its result is there.
GRACE_SECONDS = 0.1
_MAX_DIMS = 64
_NODE, _DEDICATED = 1, 3  # a process's slot, and a role
_kind: Any = None


def empty(shape: Shape, dtype: DTypeLike = float, order: str = "C") -> SharedArray:
    """An array in the store that tasks can write to in place.

    Parameters
    ----------
    shape : int or sequence of int
        Its lengths.
    dtype : dtype, default float
        Any but those whose elements are Python objects.
    order : {"C", "F"}
        Whether the last or the first index varies fastest.

    Returns
    -------
    SharedArray
        An ndarray whose memory lies in the store, aligned to 64 bytes, from 64 KiB on to a page.
        Its elements are what happened to be there.

    Raises
    ------
    ObjectStoreFullError
        There is no room.
    TypeError
        The dtype cannot lie in shared memory.
    ValueError
        A negative length, or an order that is none.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... def fill(part, value):
    ...     part[:] = value
    >>> a = ray.shared.empty(4)
    >>> _ = ray.get([fill.remote(a[:2], 1), fill.remote(a[2:], 2)])
    >>> a.tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    return _make("empty", shape, dtype, order, False)


def zeros(shape: Shape, dtype: DTypeLike = float, order: str = "C") -> SharedArray:
    """An array in the store, filled with zeros, that tasks can write to in place.

    Parameters
    ----------
    shape, dtype, order
        As for `empty`.

    Returns
    -------
    SharedArray
        Memory that nobody has used before is zero, and takes up none until it is written to.

    Raises
    ------
    ObjectStoreFullError, TypeError, ValueError
        As for `empty`.

    Examples
    --------
    >>> import pyray as ray
    >>> ray.shared.zeros((2, 2), dtype=int).tolist()
    [[0, 0], [0, 0]]
    """
    return _make("zeros", shape, dtype, order, True)


def full(
    shape: Shape, fill_value: ArrayLike, dtype: DTypeLike | None = None, order: str = "C"
) -> SharedArray:
    """An array in the store, filled with a value, that tasks can write to in place.

    Parameters
    ----------
    shape, order
        As for `empty`.
    fill_value : array_like
        What it is filled with: broadcast to `shape`.
    dtype : dtype, optional
        Default: that of `fill_value`.

    Returns
    -------
    SharedArray

    Raises
    ------
    ObjectStoreFullError, TypeError, ValueError
        As for `empty`.

    Examples
    --------
    >>> import pyray as ray
    >>> ray.shared.full(3, 7).tolist()
    [7, 7, 7]
    """
    import numpy as np

    if dtype is None:
        dtype = np.asarray(fill_value).dtype
    made = _make("full", shape, dtype, order, False)
    made[...] = fill_value
    return made


def empty_like(
    prototype: ArrayLike,
    dtype: DTypeLike | None = None,
    order: str = "K",
    shape: Shape | None = None,
) -> SharedArray:
    """An array in the store like another one, that tasks can write to in place.

    Parameters
    ----------
    prototype : array_like
        Gives its shape and dtype; its elements are not copied.
    dtype : dtype, optional
        Instead of the prototype's.
    order : {"K", "A", "C", "F"}
        "K" and "A": "F" if the prototype is in that order and not in "C" too.
    shape : int or sequence of int, optional
        Instead of the prototype's.

    Returns
    -------
    SharedArray

    Raises
    ------
    ObjectStoreFullError, TypeError, ValueError
        As for `empty`.

    Examples
    --------
    >>> import numpy as np, pyray as ray
    >>> ray.shared.empty_like(np.ones((2, 3), dtype="f4")).nbytes
    24
    """
    import numpy as np

    like = np.asanyarray(prototype)
    if order in ("K", "A"):
        order = "F" if like.flags.fnc else "C"
    return _make(
        "empty_like",
        like.shape if shape is None else shape,
        like.dtype if dtype is None else dtype,
        order,
        False,
    )


def _make(what: str, shape: Shape, dtype: DTypeLike, order: str, zero: bool) -> SharedArray:
    import numpy as np

    if order not in ("C", "F"):
        raise ValueError(f"{what}: order is 'C' or 'F', not {order!r}")
    try:
        lengths: tuple[int, ...] = (operator.index(shape),)  # type: ignore[arg-type]
    except TypeError:
        try:
            lengths = tuple(operator.index(n) for n in shape)  # type: ignore[union-attr]
        except TypeError:
            raise TypeError(
                f"{what}: shape is a whole number or a sequence of such, not {shape!r}"
            ) from None
    kind: Any = np.dtype(dtype)
    if kind.subdtype is not None:
        kind, more = kind.subdtype
        lengths += more
    if kind.hasobject:
        raise TypeError(
            f"{what}: elements of dtype {kind} are references to objects of this process, which "
            "mean nothing in another one; use numbers, or put() a list"
        )
    if not kind.itemsize:
        raise TypeError(f"{what}: dtype {kind} has no size; say how long, as in 'U10'")
    if len(lengths) > _MAX_DIMS:
        raise ValueError(f"{what}: at most {_MAX_DIMS} dimensions, not {len(lengths)}")
    nbytes = kind.itemsize
    for n in lengths:
        if n < 0:
            raise ValueError(f"{what}: the lengths of a shape are 0 or more, not {n}")
        nbytes *= n
    if nbytes >= 1 << 62:
        raise ValueError(f"{what}: shape {lengths} of {kind} makes {nbytes} bytes")
    session.require()
    _class()
    made: SharedArray = shared_arrays.create(kind, lengths, order == "F", zero)
    return made


# ---- the class -------------------------------------------------------------------------------


def seal(self: SharedArray, timeout: float | None = 0) -> ObjectID[Any]:
    """Make the array an object like any other, where it lies.

    From then on nobody can write to it: its views in this process turn read-only, and others map it
    read-only.

    Parameters
    ----------
    timeout : float or None, default 0
        Seconds to wait for tasks that have it still; None: without limit.

    Returns
    -------
    ObjectID
        The same one each time.

    Raises
    ------
    BufferError
        A plain array made of it, or a memoryview, could still write to it.
    SharedArrayInUseError
        Tasks or actors have it still; the message says which.
    SessionError
        It is of a session that is over.
    ValueError
        It is not the whole array; or a bad `timeout`.

    Examples
    --------
    >>> import pyray as ray
    >>> a = ray.shared.zeros(3)
    >>> a[1] = 5
    >>> ref = a.seal()
    >>> ray.get(ref).tolist(), a.flags.writeable
    ([0.0, 5.0, 0.0], False)
    """
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout is a number of seconds or None, not {timeout!r}")
        if not timeout >= 0:
            raise ValueError(f"timeout is a number of seconds, 0 or more, not {timeout!r}")
    others: Any = None

    def look() -> ObjectID[Any] | None:
        nonlocal others
        found = shared_arrays.try_seal(self)
        if isinstance(found, ObjectID):
            return found
        others = found
        return None

    limit = -1 if timeout is None else max(timeout, GRACE_SECONDS)
    made: ObjectID[Any] | None = waiting.poll(look, limit)
    if made is None:
        raise SharedArrayInUseError(_in_use(self, timeout or 0, *others))
    return made


def _in_use(array: SharedArray, waited: float, tasks: list[int], slots: list[int]) -> str:
    """Who else could write to an array."""
    who = [tell.doing(task) for task in tasks[:3]]
    if len(tasks) > 3:
        who.append(f"{len(tasks) - 3} more tasks")
    for slot in slots:
        if slot == _NODE:
            who.append("an actor that may have to be made again (its constructor was given it)")
        else:
            who.append(_holder(slot))
    if not who:
        who.append("a task that is just ending")
    shape = "x".join(map(str, array.shape))
    return (
        f"this shared array ({shape} {array.dtype}) cannot be sealed"
        + (f" after {waited:g} s" if waited else "")
        + f", for others may still write to it: {'; '.join(who)}. get() what those tasks return "
        "first, or wait for them here with seal(timeout=...)"
    )


def _holder(slot: int) -> str:
    """What another process that has the array is doing."""
    pid, _, role = census.process(slot)
    task = control.current_of(slot)
    if task:
        return f"{tell.doing(task)}, or a task that it has submitted"
    if role == _DEDICATED:
        return f"an actor in pid {pid}, which has kept it"
    return f"pid {pid}, which runs no task now: something outside of its tasks has kept a view"


def _sealed(self: SharedArray) -> bool:
    """Whether it has been sealed, and so can be written to no more."""
    return shared_arrays.is_sealed(self)


def _array_wrap(
    self: SharedArray, array: Any, context: Any = None, return_scalar: bool = True
) -> Any:
    """What a computation with it returns: a plain array, unless the result was written to it."""
    # Before numpy 2 nobody says whether a scalar is wanted; it always was.
    if type(array) is not _kind and return_scalar and array.ndim == 0:
        return array[()]
    return array


def _reduce(self: SharedArray, protocol: Any = None) -> Any:
    """What pickle makes of it, and with it whatever sends it elsewhere."""
    if not shared_arrays.is_sealed(self):
        raise TypeError(
            "a SharedArray is passed to tasks and actors of its session, as an argument; pickle "
            "would make a copy of it. numpy.array(a) makes one, if that is wanted"
        )
    import numpy as np

    return np.array(self).__reduce_ex__(2 if protocol is None else protocol)


def _class() -> Any:
    """The class SharedArray; with it numpy is imported."""
    global _kind
    if _kind is None:
        kind: Any = shared_arrays.array_class()
        kind.seal = seal
        kind.sealed = property(_sealed)
        kind.__array_wrap__ = _array_wrap
        kind.__reduce_ex__ = _reduce
        kind.__reduce__ = _reduce
        shared_arrays.set_sealer(seal)
        _kind = kind
    return _kind


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "SharedArray":
            return _class()
        raise AttributeError(f"module 'pyray.shared' has no attribute {name!r}")
