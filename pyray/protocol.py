"""Frames on the sockets between the node and the driver, and the node and its workers.

A frame is a fixed header (kind, mark, length) and so many bytes.  All of the header is checked
before anything is kept, and of what fails nothing is unpickled: the peer has ended, or something in
its process has written to a descriptor that was not its own.  The sockets are inherited pairs: no
other process can get at them.
"""

from __future__ import annotations

import struct

# Not `socket`: its enumerations and selectors would take 3 ms of each start, and nothing here needs
# more than what it is built on.
from _socket import SHUT_RDWR, socketpair
from _socket import socket as Socket

from pyray._core.annotations import Any

__all__ = ["SHUT_RDWR", "Frames", "Socket", "socketpair"]

# Environment variable that marks every process of a session.
SESSION_VARIABLE = "PYRAY_SESSION"

HEADER = struct.Struct("<B3sI")
MARK = b"pyr"
CAP = 1 << 28

CONFIG = 1  # driver -> node: pickled NodeConfig fields, once
HELLO = 2  # node -> driver: it is up
CALL = 3  # driver or worker -> node: number, pickled (operation, arguments)
REPLY = 4  # node -> caller: number, pickled (ok, value)
OUTPUT = 5  # node -> driver: stream, pid, name and a line of a worker's
SWEEP = 6  # node -> driver: let go of what is held for nothing
STOP = 7  # driver -> node: the session ends
FATAL = 8  # node -> driver: why it cannot go on
INTERRUPT = 9  # driver -> node: pickled list of tasks that Ctrl-C has ended a wait for
OUTPUT_HEAD = struct.Struct("<BxxxIH")
NUMBER = struct.Struct("<Q")
# Kinds, and how many bytes are the least of each.
LEAST = {
    CONFIG: 1,
    HELLO: 0,
    CALL: NUMBER.size + 1,
    REPLY: NUMBER.size + 1,
    OUTPUT: OUTPUT_HEAD.size,
    SWEEP: 0,
    STOP: 0,
    FATAL: 0,
    INTERRUPT: 1,
}


def frame(kind: int, payload: bytes = b"") -> bytes:
    """A frame, ready to send."""
    if len(payload) > CAP:
        raise ValueError(f"a message of {len(payload)} bytes is over the limit of {CAP}")
    return HEADER.pack(kind, MARK, len(payload)) + payload


def pickled(kind: int, value: Any) -> bytes:
    """A frame with a pickled value."""
    import pickle

    return frame(kind, pickle.dumps(value, protocol=5))


def call(number: int, operation: str, args: tuple[Any, ...]) -> bytes:
    """A call of the node's."""
    import pickle

    return frame(CALL, NUMBER.pack(number) + pickle.dumps((operation, args), protocol=5))


def reply(number: int, ok: bool, value: Any) -> bytes:
    """What a call returns, or (not `ok`) raises."""
    import pickle

    return frame(REPLY, NUMBER.pack(number) + pickle.dumps((ok, value), protocol=5))


def split(payload: bytes) -> tuple[int, bytes]:
    """(number, the pickled rest) of a call or a reply.

    Apart, since unpickling may fail where an id inside is gone: the number says whose failure that
    is. And the rest is unpickled by the thread that asked, so that no other keeps it alive.
    """
    (number,) = NUMBER.unpack_from(payload)
    return number, payload[NUMBER.size :]


def value_of(body: bytes) -> Any:
    """What a call has returned, by the body of its reply; raises what it has raised."""
    import pickle

    ok, value = pickle.loads(body)
    if ok:
        return value
    try:
        raise value
    finally:
        # Or this frame and the error would keep each other, and the caller's ids, until the garbage
        # collector comes.
        del value


def discard(body: bytes) -> None:
    """Let go of what a reply holds that nobody waits for any more."""
    import pickle

    try:
        pickle.loads(body)
    except Exception:
        return


def output(stream: int, pid: int, name: bytes, line: bytes) -> bytes:
    """A line that a worker printed (stream 1 or 2)."""
    return frame(OUTPUT, OUTPUT_HEAD.pack(stream, pid, len(name)) + name + line)


def split_output(payload: bytes) -> tuple[int, int, str, str]:
    """(stream, pid, name, line) of an OUTPUT frame."""
    stream, pid, length = OUTPUT_HEAD.unpack_from(payload)
    name = payload[OUTPUT_HEAD.size : OUTPUT_HEAD.size + length].decode("utf-8", "replace")
    line = payload[OUTPUT_HEAD.size + length :].decode("utf-8", "replace")
    return stream, pid, name, line


def _length(kind: int, mark: bytes, length: int) -> int:
    """How many bytes follow a header, if it is one."""
    if mark != MARK or kind not in LEAST:
        raise ValueError(f"a frame begins with {bytes([kind]) + mark!r}, which none of ours does")
    if not LEAST[kind] <= length <= CAP:
        raise ValueError(
            f"a frame of kind {kind} and {length} bytes: it has {LEAST[kind]} at least, and {CAP} "
            "at most"
        )
    return length


class Frames:
    """Takes in bytes as they come and gives out whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that are complete with these bytes.

        Raises
        ------
        ValueError
            This is no frame of ours. What came before it is lost with it.
        """
        self._buffer += data
        out = []
        at = 0
        while len(self._buffer) - at >= HEADER.size:
            kind, mark, length = HEADER.unpack_from(self._buffer, at)
            end = at + HEADER.size + _length(kind, mark, length)
            if len(self._buffer) < end:
                break
            out.append((kind, bytes(self._buffer[at + HEADER.size : end])))
            at = end
        del self._buffer[:at]
        return out


def read_frame(sock: Socket) -> tuple[int, bytes] | None:
    """The next frame of a blocking socket, or None at its end.

    Raises
    ------
    ValueError
        This is no frame of ours.
    """
    head = _read(sock, HEADER.size)
    if head is None:
        return None
    kind, mark, length = HEADER.unpack(head)
    payload = _read(sock, _length(kind, mark, length))
    return None if payload is None else (kind, payload)


def _read(sock: Socket, n: int) -> bytes | None:
    parts = []
    while n:
        data = sock.recv(min(n, 1 << 20))
        if not data:
            return None
        parts.append(data)
        n -= len(data)
    return b"".join(parts)
