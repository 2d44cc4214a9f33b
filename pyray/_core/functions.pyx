"""Definitions: pickled functions and classes, published once and known by number everywhere.

A table in shared memory maps numbers to objects.  The bytes are held in the node's name, which
never lets go, so a definition outlives the process that made it.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.points cimport *
from pyray._core.objects cimport hold_for
from pyray._core.shm cimport Ctx, get_ctx
from pyray._core.store cimport ObjectID, escape
from pyray._core.tasks cimport current_base
from pyray._core.values cimport load_raw, put_value

from pyray._core.errors import OutOfRecordsError, SessionError

cdef Ctx *C = get_ctx()

cdef enum:
    NODE = 1                # the node's process slot


def reserve():
    """A number for a definition whose bytes follow: one that refers to itself needs it first."""
    cdef uint32_t number
    check_session()
    number = at_add32(&C.head.funcs_used, 1)
    if number >= PR_MAX_FUNCS:
        at_add32(&C.head.funcs_used, <uint32_t>-1)
        raise OutOfRecordsError(f"a session holds at most {PR_MAX_FUNCS} definitions of functions "
                                "and classes; define remote functions once, not in a loop")
    PR_POINT(C, POINT_DEFINITION_RESERVED)
    return number


def publish(uint32_t number, bytes blob):
    """Give a reserved number its bytes; they stay for the rest of the session."""
    cdef ObjectID oid
    check_session()
    oid = put_value(blob, current_base(), <uint64_t>number << 40, "definition")
    escape(oid)
    # In the name of the node, which never lets go: definitions outlive the process that made them.
    hold_for(C, oid.handle, NODE)
    PR_POINT(C, POINT_DEFINITION_HELD)
    at_store64(&C.funcs[number].object, oid.handle)


def read(uint32_t number):
    """The bytes of a definition; waits while another process is still writing it."""
    cdef int64_t end = now_ns() + 10000000000
    check_session()
    while at_load64(&C.funcs[number].object) == 0:
        if now_ns() > end:
            raise SessionError(f"definition {number} was announced 10 s ago but never written: the "
                               "process that was writing it died")
        with nogil:
            futex_wait(&C.dispatch.sweep, C.dispatch.sweep, 1000000)
        PyErr_CheckSignals()
    return load_raw(C.funcs[number].object, None)
