"""Arming the kill points, for tests: which process is to be killed, or stopped, at which step.

The steps are listed in points.h.  One is armed at a time in a session, for a sort of process and a
number of passes: the process that makes the last of them sends itself the signal.
"""

from libc.stdint cimport uint32_t

from pyray._core.layout cimport *
from pyray._core.liveness cimport check_session
from pyray._core.shm cimport Ctx, get_ctx

import signal

cdef Ctx *C = get_ctx()

cdef extern from *:
    """
    #define PR_POINT_TEXT(name, text) text,
    static const char *const pr_point_texts[] = {"", PR_POINT_LIST(PR_POINT_TEXT)};
    """
    const char *const *pr_point_texts

cdef int _n
_ALL = tuple([(<bytes>pr_point_texts[_n]).decode() for _n in range(1, POINT_COUNT)])
# Those that a task without arguments or value passes, compiled in on demand only.
HOT = (
    "record freed",
    "record taken",
    "task taken",
    "submitted",
    "entry written",
    "tail moved",
    "about to claim",
    "running",
    "event half written",
    "results sealed",
)
NAMES = tuple([name for name in _ALL if PR_HAS_HOT_POINTS or name not in HOT])
ROLES = {"driver": ROLE_DRIVER, "node": ROLE_NODE, "worker": ROLE_WORKER, "actor": ROLE_DEDICATED}


def arm(str name, roles="worker", uint32_t count=1, int number=signal.SIGKILL):
    """Have the process that comes to a step for the `count`-th time get a signal.

    Parameters
    ----------
    name : str
        One of `NAMES`, those that this build has.
    roles : str or tuple of str
        Whose passes count: of `ROLES`. An "actor" is any process outside the pool.
    count : int
        All such processes count together, from now on.
    number : int
        The signal: SIGKILL, or SIGSTOP, which whoever arms it has to see to.
    """
    cdef uint32_t mask = 0
    check_session()
    if name not in NAMES:
        raise ValueError(f"{name!r} is no step of this build; those with PYRAY_KILL_POINTS=1 have "
                         f"{', '.join(_ALL)}")
    for role in (roles,) if isinstance(roles, str) else roles:
        mask |= 1 << <int>ROLES[role]
    at_store32(&C.head.point, POINT_NONE)
    at_store32(&C.head.point_left, count)
    at_store32(&C.head.point_signal, number)
    at_store32(&C.head.point_pid, 0)
    at_store32(&C.head.point_roles, mask)
    at_store32(&C.head.point, _ALL.index(name) + 1)


def disarm():
    """Arm none."""
    check_session()
    at_store32(&C.head.point, POINT_NONE)


def passes_left():
    """How often the armed step is still to be passed."""
    check_session()
    return at_load32(&C.head.point_left)


def victim():
    """Process ID of the one that got the signal since the last call of `arm`, or 0."""
    check_session()
    return at_load32(&C.head.point_pid)
