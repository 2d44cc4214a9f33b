"""Streams: what a generator yields reaches its reader one object at a time.

A stream is a chain of *cells*, which are objects.  The task's first return is cell 0.  For each
value the runner stores an object, makes the record of the next cell, and seals the present one with
the ids of both.  So the rules for ids inside values keep alive what has not been read, whoever
dies, and to wait for the next value is to wait for an object.  The last cell says that it is the
last; one that is sealed with an error, by the runner or by whoever clears up after it, is itself
the object that the reader is given.  A cell needs no room besides its record.

The writer of another value is woken when a reader has taken over the ids inside; that of a cell
looks for itself, when it writes the next one, or sweeps.

Backpressure is one more object for each cell, its *credit*, which is sealed when the cell has been
read, or freed unread.  The runner waits for that of the oldest cell.
"""

cimport cython
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pyray._core.compact cimport compact_encode as encode_inline
from pyray._core.dispatch cimport about_to_search
from pyray._core.holds cimport sweep_now
from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.points cimport *
from pyray._core.objects cimport alive, returns_of, seal, sealed, try_free
from pyray._core.records cimport gen_in, gen_of
from pyray._core.room cimport new_record
from pyray._core.shm cimport Ctx, get_ctx, object_at, task_at
from pyray._core.store cimport ObjectID, escape, new_id
from pyray._core.values cimport RESULT, as_result, new_object, store_value

cdef Ctx *C = get_ctx()

cdef enum:
    TIDY = 256                  # entries of a list that are let go of at a time

# Writers, of streams under way or over, whose readers have not read everything.
cdef list _writers = []


# ---- writing -------------------------------------------------------------------------------

@cython.final
@cython.freelist(256)
cdef class Item:
    """A cell that has been filled and not read, and what it contains."""


@cython.final
cdef class Writer:
    """The runner's end of a stream; afterwards, what it still holds for the reader."""

    cdef int write(self, object value) except -1:
        """Store a value and pass it on, unless nobody wants it, or an earlier attempt did."""
        cdef Item item
        cdef pr_object *o
        cdef pr_cell *cell
        cdef uint64_t handle
        check_session()     # not in a child that the generator has forked
        if self.skip:
            self.skip -= 1
            return 0
        if at_load_relaxed32(&C.dispatch.sweep) != self.sweeps:
            self.sweeps = at_load32(&C.dispatch.sweep)
            sweep_now()
        self.release()
        if self.unwanted():
            return 0
        if self.index == <uint32_t>-2:
            raise OverflowError("a stream has at most 4,294,967,294 values")
        item = Item.__new__(Item)
        item.value = new_item(self.t, self.index + 1, value, 0)
        escape(item.value)
        if self.window:
            item.credit = self.new_credit()
        try:
            handle = new_record(C)
        except BaseException:
            self.forgo(item)
            raise
        # From here to the seal nothing can fail.  Each step can be told from the record by whoever
        # clears up after our death: see settle_stream.
        at_store64(&self.t.cell, handle)
        PR_POINT(C, POINT_CELL_ANNOUNCED)
        o = object_at(C, handle)
        (<pr_cell *>o.data).index = self.index + 1
        o.task = self.task
        o.owner = self.t.submitter
        item.next = new_id(handle, self.parent, self.counter | PR_CELLS, self.index + 1)
        escape(item.next)
        item.cell = self.returns[0]
        self.items.append(item)
        if not self.listed:
            self.listed = True
            _writers.append(self)
        o = object_at(C, item.cell)
        cell = <pr_cell *>o.data
        cell.value = item.value.handle
        cell.next = handle
        cell.counter = self.counter
        memcpy(cell.parent, <const char *>self.parent, 20)
        cell.index = self.index
        o.off = 0 if item.credit is None else item.credit.handle
        o.size = sizeof(pr_cell)
        o.liable = <uint16_t>C.self
        if not seal(C, item.cell, OBJ_INLINE | OBJ_NESTED | OBJ_CELL):
            # Somebody has ended the stream.
            self.items.pop()
            self.forgo(item)
            at_store64(&self.t.cell, 0)
            abandon(C, handle)
            return 0
        PR_POINT(C, POINT_CELL_SEALED)
        at_store64(&self.returns[0], handle)
        self.index += 1
        self.t.produced = self.index
        at_store64(&self.t.cell, 0)
        return 0

    cdef ObjectID new_credit(self):
        cdef uint64_t handle = new_record(C)
        cdef pr_object *o = object_at(C, handle)
        o.size = encode_inline(None, <char *>o.data, PR_INLINE_OBJECT)
        return new_id(handle, self.parent, self.counter | (PR_CELLS >> 1), self.index)

    cdef void forgo(self, Item item) noexcept:
        """A credit that no cell names: nobody else would seal it."""
        if item.credit is not None:
            seal(C, item.credit.handle, OBJ_INLINE)

    cdef int release(self) except -1:
        """Let go of what the reader has taken, and of what nobody will read."""
        cdef Item item
        cdef uint64_t s
        cdef Py_ssize_t n = len(self.items)
        while self.first < n:
            item = <Item>self.items[self.first]
            s = at_load64(&object_at(C, item.cell).state)
            if (gen_of(s) == gen_in(item.cell) and (s & 0xFF) == OBJ_SEALED
                    and not s & OBJ_ACKED):
                break
            # This may free the next cell, if nobody holds that, and so on.
            self.items[self.first] = None
            self.first += 1
            item = None
        if self.first == n:
            self.items.clear()
            self.first = 0
        elif self.first >= TIDY and self.first * 2 >= n:
            del self.items[:self.first]
            self.first = 0
        return 0

    cdef ObjectID must_wait(self):
        """Backpressure: what has to be there before the next value is asked for, or None."""
        if not self.window:
            return None
        if <Py_ssize_t>len(self.items) - self.first >= self.window:
            self.release()
        if <Py_ssize_t>len(self.items) - self.first < self.window:
            return None
        return (<Item>self.items[self.first]).credit

    cdef bint is_open(self):
        """Whether the stream goes on: not if an earlier attempt, or somebody else, has ended it."""
        cdef uint64_t s = at_load64(&object_at(C, self.returns[0]).state)
        return gen_of(s) == gen_in(self.returns[0]) and (s & 0xFF) == OBJ_CREATED

    cdef bint unwanted(self):
        """Whether its reader is gone.  A task whose reader never looked still begins, like any
        other, and gets as far as its first value."""
        return at_load64(&object_at(C, self.returns[0]).state) & OBJ_DROPPED != 0

    cdef int end(self) except -1:
        """Say that there is nothing more."""
        cdef uint64_t handle = self.returns[0]
        cdef pr_object *o = object_at(C, handle)
        cdef pr_cell *cell = <pr_cell *>o.data
        if alive(C, handle) and not sealed(C, handle):
            cell.value = cell.next = 0
            o.off = 0
            o.size = sizeof(pr_cell)
            about_to_search(C)
            seal(C, handle, OBJ_INLINE | OBJ_CELL)
        if alive(C, self.returns[1]) and not sealed(C, self.returns[1]):
            store_value(self.returns[1], None, 0, RESULT, None)
        return 0

    # ---- for coroutines

    def going(self):
        """Whether the stream goes on."""
        return self.is_open()

    def put(self, value):
        """Pass a value on."""
        self.write(value)

    def ahead(self):
        """What has to be awaited before the next value is asked for, or None."""
        return self.must_wait()

    def dropped(self):
        """Whether nobody wants more."""
        return self.unwanted()

    def finish(self):
        """Nothing more is to come."""
        check_session()
        self.end()


cdef Writer new_writer(uint64_t task):
    """For a task that this process runs."""
    cdef Writer w = Writer.__new__(Writer)
    cdef pr_task *t = task_at(C, task)
    w.task = task
    w.t = t
    w.returns = returns_of(C, t)
    w.parent = (<const char *>t.parent_id)[:20]
    w.counter = t.counter
    w.index = w.skip = t.produced
    w.window = t.window
    w.sweeps = C.swept
    w.items = []
    return w


cdef ObjectID new_item(pr_task *t, uint32_t index, object value, uint64_t flags):
    """An object with a value that a task has yielded; its id is that of a return."""
    return new_object(as_result(value), flags, "item", (<const char *>t.parent_id)[:20], t.counter,
                      index)


cdef void abandon(Ctx *c, uint64_t handle) noexcept nogil:
    """A cell that is not to be filled: its record goes once nobody holds it."""
    if alive(c, handle):
        object_at(c, handle).size = 0
        seal(c, handle, OBJ_INLINE)
        try_free(c, handle)


cdef void settle_stream(Ctx *c, pr_task *t) noexcept nogil:
    """After the death of the process that ran it: have the record say which cell is to be filled.

    It may have died while it filled one, before or after the seal.  A cell that is gone has been
    sealed: it was read since, or nobody wanted it.
    """
    cdef uint64_t *rets = returns_of(c, t)
    cdef uint64_t next = at_load64(&t.cell)
    if next == 0:
        return
    if rets[0] != next and alive(c, rets[0]) and not sealed(c, rets[0]):
        at_store64(&t.cell, 0)
        abandon(c, next)
        return
    at_store64(&rets[0], next)
    if alive(c, next):
        t.produced = (<pr_cell *>object_at(c, next).data).index
    at_store64(&t.cell, 0)


# ---- what is held for readers --------------------------------------------------------------

cdef bint holds_for_readers():
    """Whether this process holds values that readers of its streams have not taken."""
    return len(_writers) != 0


cdef int sweep_streams() except -1:
    """Let go of what readers have taken, and of what they have dropped."""
    cdef Writer w
    for w in list(_writers):
        w.release()
        if not w.items and w.listed:
            w.listed = False
            _writers.remove(w)
    return 0


cdef void streams_reset():
    _writers.clear()
