"""Whether a session's books are in order: `validate`, for tests and for whoever suspects a leak.

Not part of the public interface. What is proved is listed in docs/design.md, "The books".
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from pyray import session
from pyray.exceptions import NodeDiedError, PyrayError, SessionError

# How long a process that runs nothing may take to answer before the walk begins without it.
ANSWER_SECONDS = 0.25
PAUSE_SECONDS = 0.01


__all__ = ["AccountingError", "NodeDiedError", "Report", "validate"]


class AccountingError(PyrayError):
    """The session's books are not in order.

    Attributes
    ----------
    findings : list of str
        What is wrong, each beginning with its sort: ``leak``, ``double``, ``dead``, ...
    """

    findings: list[str]


class Report(NamedTuple):
    """What `validate` saw.

    Attributes
    ----------
    used, free, total : int
        Bytes of the store; used and free are all there is.
    in_hand : int
        Bytes of those used that processes which run something may have in hand.
    busy : list of int
        Slots of the processes that did not answer, because they run something.
    seconds : float
        How long it took.
    """

    used: int
    free: int
    total: int
    in_hand: int
    busy: list[int]
    seconds: float


def validate(seconds: float = 1.0) -> Report:
    """Check the session's books: each unit, block, record, hold and CPU has one owner, alive.

    Exact while nothing runs. Processes that run something are not asked what they have in hand, and
    only what is found again and again for `seconds` counts, since records change under the look.

    Parameters
    ----------
    seconds : float
        How long what is found may take to go away.

    Returns
    -------
    Report

    Raises
    ------
    AccountingError
        Something is wrong, and stays so.
    SessionError
        There is no session, or the caller is not its driver.
    """
    current = session.current()
    if not isinstance(current, session.Session) or current.local_mode:
        raise SessionError("validate() is called in a session's driver, and not in local mode")
    began = time.monotonic()
    lasting: set[str] | None = None
    while True:
        number, busy = _ask()
        found, (used, in_hand, units), unit = current.call("validate", number)
        lasting = set(found) if lasting is None else lasting & set(found)
        took = time.monotonic() - began
        if not lasting:
            if not found:
                free = (units - used) * unit
                return Report(used * unit, free, units * unit, in_hand * unit, busy, took)
            lasting = set(found)  # of another moment: is that to stay?
        if took > seconds:
            error = AccountingError(
                f"the session's books are not in order ({len(lasting)} findings that lasted "
                f"{took:.2f} s, {len(busy)} processes busy):\n  " + "\n  ".join(sorted(lasting))
            )
            error.findings = sorted(lasting)
            raise error
        time.sleep(PAUSE_SECONDS)


def _ask() -> tuple[int, list[int]]:
    """Have every process say what it holds: the question's number, and who is too busy."""
    from pyray._core import audit, control, tasks

    number = audit.ask()
    control.ask_sweep()
    tasks.sweep()
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        left: list[tuple[int, Any]] = audit.unanswered(number)
        if all(runs for _, runs in left) or time.monotonic() > deadline:
            return number, [slot for slot, _ in left]
        time.sleep(0.0002)
