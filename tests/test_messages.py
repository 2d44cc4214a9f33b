"""Messages of driver, node and workers: what is none of ours is refused, and never unpickled."""

from __future__ import annotations

import os
import pickle
import random
from typing import Any

import pytest
from helpers import wait_until

import pyray
from pyray import protocol, session
from pyray.exceptions import NodeDiedError, SessionError
from pyray.node import calls, loop
from pyray.node.calls import Calls
from pyray.node.loop import Loop

ATTEMPTS = 10_000


class Link:
    """A socket that bytes come from."""

    def __init__(self, parts: list[bytes]) -> None:
        self.parts = parts
        self.sent: list[bytes] = []
        self.shut = False

    def recv(self, n: int) -> bytes:
        return self.parts.pop(0)

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)

    def fileno(self) -> int:
        return 99

    def setblocking(self, blocking: bool) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        pass

    def shutdown(self, how: int) -> None:
        self.shut = True


class Peer:
    """A worker, as far as its messages go."""

    pid = 4711

    def __init__(self, data: bytes, rng: random.Random) -> None:
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(4)))
        ends = [*cuts, len(data)]
        starts = [0, *cuts]
        parts = [data[a:b] for a, b in zip(starts, ends, strict=True) if a < b]
        self.link = Link(parts)
        self.frames = protocol.Frames()


class Mute:
    """A shell, as far as a worker that is cut off needs one."""

    def say(self, line: str, pid: int, name: str) -> None:
        pass


class Loads:
    """In place of the node's `pickle`: what it is asked to unpickle."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def loads(self, data: bytes) -> Any:
        self.asked.append(data)
        return pickle.loads(data)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> tuple[Loop, Loads]:
    """A node's loop that answers calls, but has no session, and what it unpickles."""
    loads = Loads()
    for module in (calls, loop):
        monkeypatch.setattr(module, "pickle", loads)
    made: Any = Loop.__new__(Loop)
    made.by_fd = {}
    made.shell = Mute()
    made.calls = Calls.__new__(Calls)
    monkeypatch.setattr(made.calls, "call_twice", lambda x: 2 * x, raising=False)
    return made, loads


def hear(node: Loop, data: bytes, rng: random.Random) -> Link:
    peer: Any = Peer(data, rng)
    while peer.link.parts and not peer.link.shut:
        node._on_worker_call(peer, 0)
    link: Link = peer.link
    return link


def test_a_call_is_answered(node: tuple[Loop, Loads]) -> None:
    """Or the next test would prove nothing."""
    for seed in range(20):
        link = hear(node[0], protocol.call(7, "twice", (21,)), random.Random(seed))
        (sent,) = link.sent
        ((kind, payload),) = protocol.Frames().feed(sent)
        number, body = protocol.split(payload)
        assert (kind, number, pickle.loads(body)) == (protocol.REPLY, 7, (True, 42))
    assert len(node[1].asked) == 20


def malformed(rng: random.Random) -> tuple[bytes, bool]:
    """Bytes that are no message, and whether that can be told from them (and not: the rest of it
    has not come yet)."""
    good = protocol.call(rng.randrange(1 << 40), "twice", (rng.randbytes(rng.randrange(200)),))
    head, body = bytearray(good[: protocol.HEADER.size]), good[protocol.HEADER.size :]
    match rng.randrange(6):
        case 0:  # noise
            return b"\xff" + rng.randbytes(rng.randrange(protocol.HEADER.size, 400)), True
        case 1:  # one bit of the mark
            head[rng.randrange(1, 4)] ^= 1 << rng.randrange(8)
            return bytes(head) + body, True
        case 2:  # a kind that there is not
            head[0] = rng.choice([0, *range(max(protocol.LEAST) + 1, 256)])
            return bytes(head) + body, True
        case 3:  # far too long
            length = rng.randrange(protocol.CAP + 1, 1 << 32)
            return protocol.HEADER.pack(protocol.CALL, protocol.MARK, length) + body, True
        case 4:  # too short to have a number and something to unpickle
            length = rng.randrange(protocol.LEAST[protocol.CALL])
            return protocol.HEADER.pack(protocol.CALL, protocol.MARK, length) + body, True
        case _:  # cut off
            return good[: rng.randrange(1, len(good))], False


def test_what_is_malformed_never_reaches_an_unpickler(node: tuple[Loop, Loads]) -> None:
    rng = random.Random(6)
    told = 0
    for _ in range(ATTEMPTS):
        data, can_be_told = malformed(rng)
        link = hear(node[0], data, rng)
        assert link.shut == can_be_told, data
        assert not link.sent
        told += can_be_told
    assert not node[1].asked
    assert told > ATTEMPTS / 2


def test_a_good_call_before_a_bad_one_is_all_that_is_read(node: tuple[Loop, Loads]) -> None:
    rng = random.Random(7)
    for _ in range(1000):
        data, can_be_told = malformed(rng)
        link = hear(node[0], protocol.call(1, "twice", (1,)) + data, rng)
        assert link.shut == can_be_told
        assert len(link.sent) <= 1
    assert set(node[1].asked) == {pickle.dumps(("twice", (1,)), protocol=5)}


def test_frames_of_any_size_arrive_whole_in_any_pieces() -> None:
    rng = random.Random(8)
    for _ in range(300):
        sent = [(protocol.FATAL, rng.randbytes(rng.randrange(3000))) for _ in range(5)]
        data = b"".join(protocol.frame(*one) for one in sent)
        frames, got = protocol.Frames(), []
        while data:
            n = rng.randrange(1, 4000)
            got += frames.feed(data[:n])
            data = data[n:]
        assert got == sent


def test_a_message_over_the_limit_is_not_even_sent() -> None:
    with pytest.raises(ValueError, match="is over the limit"):
        protocol.frame(protocol.CALL, bytes(protocol.CAP + 1))


def test_a_task_that_writes_to_the_nodes_socket(
    ray: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """As code does that closes descriptors that are not its own, and goes on to use their numbers.

    The node lets go of that worker's messages, and nobody else notices. It gets a successor.
    """

    @ray.remote(max_retries=0)
    def vandal() -> str:
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    os.write(int(name), b"GET / HTTP/1.1\r\n\r\n" * 100)
            except FileNotFoundError:
                continue  # the listing's own
        try:
            ray.cluster_resources()
        except SessionError as error:
            return type(error).__name__
        return "nothing"

    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    others = [double.remote(i) for i in range(100)]
    assert ray.get(vandal.remote()) == "NodeDiedError"
    assert ray.get(others) == [2 * i for i in range(100)]
    assert ray.cluster_resources()["CPU"] == 2
    said = ""

    def heard() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "cannot call the node any more" in said

    wait_until(heard, what="the node's word on it")
    assert "b'GET '" in said

    @ray.remote
    def resources() -> tuple[int, float]:
        return os.getpid(), ray.cluster_resources()["CPU"]

    pid = int(said.split("pid=")[1].split(")")[0])
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the vandal's end")
    assert {n for _, n in ray.get([resources.remote() for _ in range(20)])} == {2.0}


def test_a_driver_that_writes_to_the_nodes_socket(ray: Any) -> None:
    current = session.current()
    assert isinstance(current, session.Session) and current.node is not None

    @ray.remote
    def lasts() -> None:
        import time

        time.sleep(60)

    ref = lasts.remote()
    current.node._sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(NodeDiedError, match="what came from the driver is no message"):
        ray.get(ref)
    pyray.init(num_cpus=1, object_store_memory=1 << 20)
    assert ray.get(ray.put(1)) == 1
