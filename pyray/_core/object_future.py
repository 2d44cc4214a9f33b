"""What ``ref.future()`` returns; imported when it is first called, since concurrent.futures is slow
to import."""

from __future__ import annotations

import concurrent.futures
from typing import Any

from pyray._core import futures
from pyray._core.errors import without_core
from pyray._core.store import ObjectID


class NotDecodedError(Exception):
    """Stands for an error that nobody has looked at yet."""


class ObjectFuture(concurrent.futures.Future[Any]):
    """The value of an object, as code that knows nothing of pyray wants it.

    Small plain values are decoded when the object is there, others by whoever asks first.

    Parameters
    ----------
    ref : ObjectID
        Held until its value has been decoded.
    """

    def __init__(self, ref: ObjectID) -> None:
        super().__init__()
        self.ref: ObjectID | None = ref
        self.pending: futures.Pending | None = None

    # ---- for the bridge --------------------------------------------------------------------

    def found(self, value: Any) -> None:
        """The object is there, and this is its value."""
        self.ref = self.pending = None
        try:
            self.set_result(value)
        except concurrent.futures.InvalidStateError:
            return  # cancelled at this moment

    def found_undecoded(self, error: bool) -> None:
        """The object is there; its value is an error or not."""
        try:
            if error:
                self.set_exception(NotDecodedError())
            else:
                self.set_result(None)
        except concurrent.futures.InvalidStateError:
            return
        self.pending = None

    def fail(self, error: BaseException) -> None:
        """There will be no value."""
        self.ref = None
        try:
            self.set_exception(error)
        except concurrent.futures.InvalidStateError:
            return
        self.pending = None

    # ---- for its users ---------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> Any:
        self._fetch(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._fetch(timeout)
        return super().exception(0)

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        with self._condition:
            pending, self.pending = self.pending, None
        if pending is not None:
            self.ref = None
            futures.cancel(pending)
            # What an executor's worker would do: wait() and as_completed() count it only then.
            self.set_running_or_notify_cancel()
        return True

    def _fetch(self, timeout: float | None) -> None:
        """Wait, and see to it that what there is has been decoded."""
        if not self.done():
            futures.before_wait(self.pending, self.ref, timeout)
        super().exception(timeout)
        futures.settle()
        ref = self.ref
        if ref is None:
            return
        value: Any = None
        error: BaseException | None = None
        try:
            value = futures.load(ref)
        except Exception as e:
            error = without_core(e)
        with self._condition:
            if self.ref is not None:  # else another thread was quicker, and its value stands
                self._result, self._exception, self.ref = value, error, None
