"""Whether this process has a session that can be used, and what is raised if it has none."""

from pyray._core.objects cimport notify_all
from pyray._core.shm cimport Ctx, get_ctx

from pyray._core.errors import NodeDiedError, SessionError

cdef Ctx *C = get_ctx()

cdef str _broken_reason = ""


def break_session(str reason):
    """The node is gone: whoever waits raises, and so does every later call."""
    global _broken_reason
    _broken_reason = reason
    if C.attached:
        C.broken = True
        notify_all(C)


cdef int check_session() except -1:
    if C.forked:
        raise SessionError(
            "this process was forked from one that uses pyray; it cannot use its parent's "
            "session. Call pyray in the parent, or start pyray anew in a process of its own")
    if C.broken:
        raise NodeDiedError(_broken_reason)
    if not C.attached:
        raise SessionError("there is no session in this process: call pyray.init() first")
    return 0


def check():
    """Raise unless this process has a session that can be used."""
    check_session()


def is_broken():
    """Whether the session's node process is gone."""
    return bool(C.broken)
