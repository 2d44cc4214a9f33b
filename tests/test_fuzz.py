"""What the fuzzer (tests/fuzz, `make fuzz`) came across, in the ordinary build; and the frames.

`cases.zip` holds inputs that each reached something that those before had not, and whatever was
found wrong and has been mended.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import helpers
import pytest

from pyray import protocol

FUZZ = Path(__file__).parent / "fuzz"


def test_cases_are_values_or_a_clear_error():
    command = [sys.executable, str(FUZZ / "replay.py"), str(FUZZ / "cases.zip")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=helpers.patience(30))
    assert done.returncode == 0, done.stderr
    inputs, whole = map(int, done.stdout.split())
    assert inputs > 500 and 20 < whole < inputs


# ---- frames ------------------------------------------------------------------------------------


def pieces(data, rng):
    while data:
        n = rng.choice((1, 3, 8, 9, 64, 1000))
        yield data[:n]
        data = data[n:]


def test_frames_come_out_as_they_went_in_however_they_are_cut():
    rng = random.Random(1)
    for _ in range(300):
        sent = []
        for _ in range(rng.randrange(6)):
            kind, least = rng.choice(list(protocol.LEAST.items()))
            sent.append((kind, rng.randbytes(least + rng.choice((0, 1, 7, 100, 2000)))))
        frames = protocol.Frames()
        stream = b"".join(protocol.frame(*one) for one in sent)
        assert [f for piece in pieces(stream, rng) for f in frames.feed(piece)] == sent


def test_damaged_frames_are_frames_or_refused():
    """No length asks for memory that is not there, and nothing is unpickled by taking frames in."""
    rng = random.Random(2)
    whole = refused = 0
    for _ in range(20_000):
        stream = bytearray(protocol.call(7, "f", ()) + protocol.output(1, 9, b"name", b"line"))
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(stream))
            stream[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        frames = protocol.Frames()
        try:
            taken = frames.feed(bytes(stream))
        except ValueError:
            refused += 1
            continue
        whole += len(taken)
        assert sum(len(payload) for _, payload in taken) <= len(stream)
        for kind, payload in taken:
            assert len(payload) >= protocol.LEAST[kind]
            if kind in (protocol.CALL, protocol.REPLY):
                protocol.split(payload)
            elif kind == protocol.OUTPUT:
                protocol.split_output(payload)
    assert whole > 10_000 and refused > 100


# ---- the fuzzer itself: its build takes a minute -----------------------------------------------


@pytest.mark.slow
@pytest.mark.seconds(900)
def test_the_fuzzer_finds_a_planted_mistake():
    """A read behind the end, behind a comparison of eight bytes that chance does not pass."""
    command = [sys.executable, str(FUZZ / "run.py"), "--inputs=3000000", "--seed=1", "--stop",
               "planted"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "heap-buffer-overflow" in done.stdout


@pytest.mark.slow
@pytest.mark.seconds(900)
def test_the_decoder_under_the_fuzzer():
    command = [sys.executable, str(FUZZ / "run.py"), "--inputs=300000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.seconds(900)
@pytest.mark.parametrize("broken", [[], ["--broken"]], ids=["as it is", "without order"])
def test_the_core_under_thread_sanitizer(broken):
    races = Path(__file__).parent / "stress" / "races.py"
    command = [sys.executable, str(races), "--ops=50000", *broken]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
