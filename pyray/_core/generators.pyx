"""What calls of remote generators return: the reader's end of a stream (see streams.pyx).

The reader is always the process that submitted the task, since a generator cannot be sent away.  It
holds what a cell contains before it says ACKED; from then on nobody needs the cell.
"""

cimport cython
from libc.stdint cimport int64_t

from pyray._core.layout cimport *
from pyray._core.objects cimport seal, sealed
from pyray._core.shm cimport Ctx, get_ctx, object_at
from pyray._core.store cimport ObjectID, adopt, check_id
from pyray._core.waiting cimport Waitable, deadline, wait_for

from pyray._core.futures import awaitable

cdef Ctx *C = get_ctx()


@cython.final
cdef class Seal:
    """For ``await``: that an object is there, whatever its value."""
    cdef ObjectID oid

    def __init__(self, oid):
        self.oid = oid

    def __await__(self):
        return awaitable(self.oid, False)


@cython.final
cdef class ObjectRefGenerator(Waitable):
    """What a call of a remote generator returns: gives an ObjectRef for each value yielded.

    Iterating waits until the task has yielded the next value, which it does not wait to be asked
    for (see ``_generator_backpressure_num_objects``). An exception in the task is what ``get`` of
    the last ObjectRef raises; after that one iteration ends. Also for ``async for``, and `wait`
    takes it. When it is dropped or closed the task is told at its next ``yield``, which raises
    GeneratorExit in it.

    Belongs to the process that made the call: it cannot be passed to tasks. The ObjectRefs can.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... def count(n):
    ...     for i in range(n):
    ...         yield i
    >>> [ray.get(ref) for ref in count.remote(3)]
    [0, 1, 2]
    """
    cdef ObjectID end           # sealed when the task is over
    cdef list ready             # in local_mode: all there is
    cdef Py_ssize_t position
    cdef bytes parent
    cdef object __weakref__

    def __init__(self, *args):
        raise TypeError("an ObjectRefGenerator is made by calling a remote generator only")

    def __iter__(self):
        return self

    def __next__(self):
        return self.advance(-1)

    def __aiter__(self):
        return self

    async def __anext__(self):
        cdef ObjectID cell
        while True:
            cell = self.awaited
            if cell is None:
                raise StopAsyncIteration
            check_id(cell)
            if not sealed(C, cell.handle):
                await Seal(cell)
                if self.awaited is not cell:
                    continue
            if self.at_end(cell):
                self.awaited = None
                raise StopAsyncIteration
            return self.take(cell)

    cdef object advance(self, int64_t until):
        """The next id; None if the time is up."""
        cdef ObjectID cell
        while True:
            cell = self.awaited
            if cell is None:
                raise StopIteration
            check_id(cell)
            if not sealed(C, cell.handle):
                if wait_for(&cell.handle, 1, 1, until, False, [cell]) < 1:
                    return None
                if self.awaited is not cell:
                    continue        # another thread was quicker: this one waits for the next
            return self.take(cell)

    cdef object take(self, ObjectID cell):
        """What a sealed cell says."""
        cdef pr_object *o = object_at(C, cell.handle)
        cdef pr_cell *link = <pr_cell *>o.data
        cdef ObjectID value, following
        if self.ready is not None:
            self.position += 1
            self.awaited = None
            if self.position < <Py_ssize_t>len(self.ready):
                self.awaited = self.ready[self.position]
            return cell
        if not at_load64(&o.state) & OBJ_CELL:
            self.awaited = None
            return cell             # an error: see above
        if link.value == 0:
            self.awaited = None
            raise StopIteration
        if self.parent is None:
            self.parent = (<const char *>link.parent)[:20]
        value = adopt(link.value, self.parent, link.counter, link.index + 1)
        following = adopt(link.next, self.parent, link.counter | PR_CELLS, link.index + 1)
        at_or64(&o.state, OBJ_ACKED)
        if o.off:
            seal(C, o.off, OBJ_INLINE)      # its credit
        self.awaited = following
        return value

    cdef bint at_end(self, ObjectID cell):
        """Whether a cell is sealed and the last, with nothing in it."""
        cdef pr_object *o = object_at(C, cell.handle)
        return (self.ready is None and sealed(C, cell.handle) and at_load64(&o.state) & OBJ_CELL
                and (<pr_cell *>o.data).value == 0)

    def _next_sync(self, timeout_s=None):
        """The next ObjectRef, or None if the task has not yielded it after so many seconds."""
        return self.advance(-1 if timeout_s is None or timeout_s == -1 else deadline(timeout_s))

    def next_ready(self):
        """Whether ``next`` would give an ObjectRef without waiting.

        Returns
        -------
        bool
            False also when there is nothing more: see `is_finished`.
        """
        cdef ObjectID cell = self.awaited
        if cell is None:
            return False
        check_id(cell)
        return bool(sealed(C, cell.handle)) and not self.at_end(cell)

    def is_finished(self):
        """Whether the task is over and all ObjectRefs have been taken.

        Returns
        -------
        bool
        """
        cdef ObjectID cell = self.awaited
        if cell is None:
            return True
        check_id(cell)
        return bool(self.at_end(cell))

    def completed(self):
        """An ObjectRef that is there when the task is over.

        Returns
        -------
        ObjectRef
            Its value is None; if the task failed, ``get`` raises why.
        """
        return self.end

    def close(self):
        """Take no more: the task is told at its next ``yield``."""
        self.awaited = None

    @property
    def _generator_ref(self):
        return self.end

    def __repr__(self):
        return f"ObjectRefGenerator({self.end.hex()})"

    def __reduce__(self):
        raise TypeError(
            "an ObjectRefGenerator cannot be passed to a task or stored: the task that yields "
            "reports to the process that called it. Pass on the ObjectRefs that it gives, or have "
            "the other task call the generator")

    def __class_getitem__(cls, item):
        return cls


cdef object new_generator(ObjectID cell, ObjectID end):
    cdef ObjectRefGenerator g = ObjectRefGenerator.__new__(ObjectRefGenerator)
    g.awaited = cell
    g.end = end
    end.asked = True        # its error, if it has one, is the last item's
    return g


def local_generator(list refs, ObjectID end):
    """In local_mode, where everything has been yielded when the call returns."""
    cdef ObjectRefGenerator g = new_generator(refs[0] if refs else None, end)
    g.ready = refs
    return g


class DynamicObjectRefGenerator:
    """The value of a call with ``num_returns="dynamic"``: the ObjectRefs of all that was yielded.

    Parameters
    ----------
    refs : list of ObjectRef
        In order; if the task raised, the last is of the exception.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote(num_returns="dynamic")
    ... def count(n):
    ...     for i in range(n):
    ...         yield i
    >>> [ray.get(ref) for ref in ray.get(count.remote(3))]
    [0, 1, 2]
    """

    def __init__(self, refs):
        self._refs = list(refs)

    def __iter__(self):
        return iter(self._refs)

    def __len__(self):
        return len(self._refs)

    def __repr__(self):
        return f"DynamicObjectRefGenerator({len(self._refs)} ObjectRefs)"
