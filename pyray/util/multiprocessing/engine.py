"""Hands chunks of work to actors that are free, and sees to it that each chunk ends somehow.

An actor has one chunk at a time.  A second one queued behind it would save the way there and back
between the two; but it could not go to another actor that becomes free meanwhile, and a program in
which one call waits for another would hang where the standard pool does not.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback  # type: ignore[attr-defined]
from typing import Any

import pyray as ray
from pyray.util.multiprocessing.results import PoolTerminatedError, Result
from pyray.util.multiprocessing.threads import SerialThread
from pyray.util.pool_worker import PoolWorker

__all__ = ["Chunk", "Engine"]

# How long join() waits for the processes of a closed pool to end; they have nothing left to do.
JOIN_SECONDS = 10.0


class Chunk:
    """What an actor is given at a time."""

    __slots__ = ("ended", "function", "index", "items", "kind", "result")

    def __init__(self, result: Result, index: int, function: Any, items: Any, kind: int) -> None:
        self.result = result
        self.index = index
        self.function = function
        self.items = items
        self.kind = kind
        self.ended = False


class _Member:
    """One actor of the pool."""

    __slots__ = ("handle", "ref", "used")

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.ref: Any = None  # of the call under way, kept so that its object is
        self.used = 0


class Engine:
    """The actors of a pool, what they do, and what waits for them.

    Parameters
    ----------
    processes : int
        Number of actors.
    initializer, initargs
        What each begins with.
    max_chunks : int, optional
        An actor that has had so many chunks is replaced.
    options : dict
        The actors' options.
    """

    def __init__(
        self,
        processes: int,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
        max_chunks: int | None,
        options: dict[str, Any],
    ) -> None:
        # Reentrant: a future that is done already calls back at once, in the thread that asks.
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._events = SerialThread("pyray-pool")
        self.callbacks = SerialThread("pyray-pool-callbacks")
        self._max_chunks = max_chunks
        actor = ray.remote(PoolWorker).options(**{"num_cpus": 0, **options})
        self._make = functools.partial(actor.remote, initializer, tuple(initargs))
        self._members: set[_Member] = set()
        self._idle: deque[_Member] = deque()
        self._busy = 0
        self._sources: deque[Iterator[Chunk]] = deque()
        self._feeders = 0
        self._results: set[Any] = set()
        self._broken: BaseException | None = None
        self._ending: list[Any] = []
        self.closed = False
        for _ in range(processes):
            self._add_member()

    # ---- work comes in

    def open(self, result: Result) -> bool:
        """Note a result that is to come; False if none can come any more, and it has been told."""
        with self._lock:
            if self.closed:
                raise ValueError("Pool not running")
            if self._broken is None:
                self._results.add(result)
                return True
        result.fail(self._broken)
        return False

    def shared(self, result: Result, function: Any) -> Any:
        """A function that many chunks have in common, pickled once: a list of its id."""
        try:
            if not ray.is_initialized():
                # To `put` it now would begin another session.
                raise ray.exceptions.SessionError("the session of this pool has ended")
            return [ray.put(function)]
        except Exception as error:
            result.fail(error)
            return function  # its chunks fail too, and nobody minds

    def forget(self, result: Result) -> None:
        """Called when a result is complete."""
        with self._lock:
            self._results.discard(result)
        self._end_if_drained()

    def add(self, chunks: Iterator[Chunk]) -> None:
        """Have chunks worked on, after those before them."""
        with self._lock:
            if self._over.is_set() or self._broken is not None:
                return
            self._sources.append(chunks)
        self._pump()

    def begin_feeding(self) -> None:
        """Say that somebody will still add chunks, after a close() too."""
        with self._lock:
            self._feeders += 1

    def end_feeding(self) -> None:
        with self._lock:
            self._feeders -= 1
        self._end_if_drained()

    def stopped(self) -> bool:
        """Whether nothing that is added now would be worked on."""
        return self._over.is_set() or self._broken is not None

    # ---- work goes out

    def _pump(self) -> None:
        """Give chunks to the actors that are free."""
        while True:
            with self._lock:
                if not self._idle or self.stopped():
                    break
                chunk = self._next_chunk()
                if chunk is None:
                    break
                member = self._idle.popleft()
                self._busy += 1
            # Not under the lock: pickling arguments runs code of the user's.
            try:
                ref = member.handle.run.remote(chunk.function, chunk.items, chunk.kind)
                self._watch(member, chunk, ref)
            except BaseException as error:
                # In the pool's own thread, where chunks end; the caller sees it in its result.
                self._events.submit(self._settle, member, chunk, None, error)
                if not isinstance(error, Exception):
                    raise  # an interrupt, which is not the chunk's affair
        self._end_if_drained()

    def _next_chunk(self) -> Chunk | None:
        while self._sources:
            for chunk in self._sources[0]:
                return chunk
            self._sources.popleft()
        return None

    def _watch(self, member: _Member, chunk: Chunk | None, ref: Any) -> None:
        member.ref = ref
        ref.future().add_done_callback(functools.partial(self._noticed, member, chunk))

    def _noticed(self, member: _Member, chunk: Chunk | None, future: Any) -> None:
        """In whatever thread tells about objects, and so brief."""
        if not self._over.is_set():
            self._events.submit(self._settle, member, chunk, future, None)

    # ---- work comes back

    def _settle(
        self, member: _Member, chunk: Chunk | None, future: Any, error: BaseException | None
    ) -> None:
        """A chunk has ended, or an actor has come up (no chunk)."""
        value = None
        if error is None:
            error = _error_of(future)
            if error is None:
                value = future.result()
        with self._lock:
            member.ref = None
            if chunk is not None:
                if chunk.ended:
                    return  # an interrupt came just after it was sent
                chunk.ended = True
                self._busy -= 1
            member.used += chunk is not None
            if not self.stopped():
                self._settle_member(member, chunk, error)
        # Before the result is told, which may run for long: the actors are not to wait for it.
        self._pump()
        if chunk is not None:
            if error is None:
                chunk.result.chunk_done(chunk.index, True, value)
            else:
                chunk.result.chunk_done(chunk.index, False, _users(error))
            self._end_if_drained()

    def _settle_member(
        self, member: _Member, chunk: Chunk | None, error: BaseException | None
    ) -> None:
        """What becomes of an actor that has ended a chunk, or come up."""
        own = error is not None and not isinstance(error, ray.exceptions.RayTaskError)
        if own and isinstance(error, (ray.exceptions.SessionError, ray.exceptions.NodeDiedError)):
            self._break(error)
        elif chunk is None and error is not None:
            self._break(_users(error))
        elif own and isinstance(error, ray.exceptions.RayActorError):
            self._replace(member, end=False)
        elif self._max_chunks is not None and member.used >= self._max_chunks:
            self._replace(member, end=True)
        else:
            self._idle.append(member)

    # ---- actors

    def _add_member(self) -> None:
        member = _Member(self._make())
        self._members.add(member)
        # It gets work once it is up: one for which there is no room yet keeps none waiting.
        self._watch(member, None, member.handle.ready.remote())

    def _replace(self, member: _Member, end: bool) -> None:
        self._members.discard(member)
        if end:
            _end_actor(member.handle)
        if self.closed and not self._sources and not self._feeders:
            return
        if not ray.is_initialized():
            # shutdown() was called: to make an actor now would begin a session.
            self._break(ray.exceptions.SessionError("the session was shut down"))
            return
        try:
            self._add_member()
        except Exception as error:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """Nothing can run any more: the session has ended, or the initializer raises."""
        self._broken = error
        self._sources.clear()
        for result in list(self._results):
            # By the pool's own thread: not under the lock.
            self._events.submit(result.fail, error)
        self._kill_all()

    def _kill_all(self) -> None:
        self._idle.clear()
        members, self._members = self._members, set()
        for member in members:
            if not ray.is_initialized():
                return  # they end with the session
            try:
                ray.kill(member.handle)
            except ray.exceptions.RayError:
                continue  # dead already

    # ---- the end

    def close(self) -> None:
        """Take no more calls; the actors end when those there are have finished."""
        with self._lock:
            self.closed = True
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        with self._lock:
            if not self.closed or self._over.is_set() or self._results:
                return
            if self._broken is None and (self._busy or self._feeders or self._sources):
                return
            self._over.set()
            self._idle.clear()
            while self._members:
                self._ending += _end_actor(self._members.pop().handle)
        self._end_threads()

    def terminate(self) -> None:
        """End the actors at once; results that are not there never will be."""
        with self._lock:
            self.closed = True
            self._over.set()
            self._sources.clear()
            results = list(self._results)
            self._kill_all()
        error = PoolTerminatedError("the pool was terminated before this result was there")
        for result in results:
            result.fail(error)
        self._end_threads()

    def _end_threads(self) -> None:
        self._events.close()
        self.callbacks.close()

    def join(self) -> None:
        """Wait until a closed pool has ended."""
        if not self.closed:
            raise ValueError("Pool is still running")
        self._over.wait()
        with self._lock:
            ending, self._ending = self._ending, []
        if ending:
            try:
                ray.wait(ending, num_returns=len(ending), timeout=JOIN_SECONDS)
            except ray.exceptions.RayError:
                pass  # the session has ended, and they with it
        self._events.join()
        self.callbacks.join()


def _end_actor(handle: Any) -> list[Any]:
    """Have an idle actor end as a process does that is done, not by a signal."""
    try:
        return [handle.__ray_terminate__.remote()]
    except ray.exceptions.RayError:
        return []


def _error_of(future: Any) -> BaseException | None:
    from concurrent.futures import CancelledError

    try:
        error: BaseException | None = future.exception()
    except CancelledError as cancelled:
        return cancelled
    return error


def _users(error: BaseException) -> BaseException:
    """The exception that the function raised, as the standard pool hands it on: the very class,
    with the traceback of the other process as its cause."""
    if not isinstance(error, ray.exceptions.RayTaskError):
        return error
    cause = error.cause
    if cause is None:
        return error  # it could not be pickled
    if isinstance(cause, ray.exceptions.SerializationError):
        cause = MaybeEncodingError(cause, "the function's result")
    cause.__cause__ = RemoteTraceback(f'\n"""\n{error.remote_traceback}"""')
    return cause
