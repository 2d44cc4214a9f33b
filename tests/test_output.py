"""What tasks print, and what pyray itself says."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys

import helpers
import pytest

import pyray
import pyray.session


class Recorder(io.TextIOBase):
    """A stream that keeps what is written to it, from whichever thread."""

    def __init__(self):
        self.pieces = []

    def write(self, text):
        self.pieces.append(text)
        return len(text)

    def text(self):
        return "".join(self.pieces)


@pytest.fixture
def record(monkeypatch):
    """Begin to record what this process prints; gives a function that waits until something has
    come out, and returns (out, err) so far.

    Not capfd: reading that while another thread writes loses output. Called in the test itself,
    since pytest sets its own streams after the fixtures.
    """

    def begin():
        out, err = Recorder(), Recorder()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)

        def wait(*texts):
            def there():
                both = out.text() + err.text()
                return all(t in both for t in texts)

            helpers.wait_until(there, what=f"{texts} in the output")
            return out.text(), err.text()

        return wait

    return begin


def test_prints_carry_name_and_pid(ray, record):
    output = record()

    @ray.remote
    def speak(text):
        print(text)
        print("to stderr:", text, file=sys.stderr)
        return os.getpid()

    pid = ray.get(speak.remote("hello"))
    other = ray.get(speak.options(name="speaker").remote("again\nand more"))
    out, err = output("to stderr: hello", "to stderr: again", "and more\n")
    assert sorted(out.splitlines()) == sorted(
        [
            f"(speak pid={pid}) hello",
            f"(speaker pid={other}) again",
            f"(speaker pid={other}) and more",
        ]
    )
    assert f"(speak pid={pid}) to stderr: hello\n" in err
    assert "to stderr" not in out


def test_lines_come_in_order_and_whole(ray1, record):
    output = record()

    @ray1.remote
    def count(n):
        for i in range(n):
            print("line", i, end="", flush=False)
            print("", "end")

    ray1.get(count.remote(3000))
    out, _ = output("line 2999 end\n")
    lines = [re.sub(r"^\(count pid=\d+\) ", "", line) for line in out.splitlines()]
    assert lines == [f"line {i} end" for i in range(3000)]


def test_lines_of_two_workers_do_not_mix(ray, record):
    output = record()

    @ray.remote
    def shout(letter):
        for _ in range(300):
            print(letter * 500)
        print("done", letter)

    ray.get([shout.remote("a"), shout.remote("b")])
    out, _ = output("done a", "done b")
    lines = [line.partition(") ")[2] for line in out.splitlines()]
    assert lines.count("a" * 500) == lines.count("b" * 500) == 300
    assert len(lines) == 602


def test_partial_lines_come_out_when_the_task_is_over(ray, record):
    output = record()

    @ray.remote
    def part():
        sys.stdout.write("no newline")
        sys.stderr.write("nor here")

    ray.get(part.remote())
    out, err = output("no newline", "nor here")
    assert re.fullmatch(r"\(part pid=\d+\) no newline\n", out)
    assert re.search(r"^\(part pid=\d+\) nor here\n", err, re.M)


def test_a_partial_line_is_not_lost_with_its_worker(ray, record):
    output = record()

    @ray.remote(max_retries=0)
    def part():
        print("all of it", flush=True)
        print("last words", end="", flush=True)
        os._exit(1)

    with pytest.raises(pyray.exceptions.WorkerCrashedError):
        ray.get(part.remote())
    out, _ = output("all of it", "last words")
    assert re.search(r"last words\n", out)


@pytest.mark.parametrize("text", ["", "ä€😀", "\udcff", "tab\there", "x" * 200_000, "(a pid=1) b"])
def test_odd_texts(ray, record, text):
    output = record()

    @ray.remote
    def speak():
        print(text)
        print("over")

    ray.get(speak.remote())
    out, _ = output(") over\n")
    shown = text.encode("utf-8", "backslashreplace").decode()
    pieces = "".join(re.sub(r"^\(\w+ pid=\d+\) ", "", line) for line in out.splitlines())
    assert pieces == shown + "over"


def test_output_of_c_code_and_of_child_processes(ray, record):
    output = record()

    @ray.remote
    def loud():
        os.write(1, b"from the descriptor\n")
        os.write(2, b"from the other\n")
        subprocess.run(["sh", "-c", "echo from a child; echo and err >&2"], check=True)
        subprocess.run([sys.executable, "-c", "print('python child')"], check=True)
        return os.getpid()

    pid = ray.get(loud.remote())
    out, err = output("from the descriptor", "from a child", "python child", "and err", "other")
    for text in ("from the descriptor", "from a child", "python child"):
        assert re.search(rf"^\(\w+ pid={pid}\) {text}$", out, re.M)
    assert re.search(rf"^\(\w+ pid={pid}\) and err$", err, re.M)


def test_logging_records_come_with_their_level(ray, record):
    output = record()

    @ray.remote
    def log():
        logging.getLogger("mine").info("informed")
        logging.getLogger("mine").warning("warned %d", 7)
        logging.getLogger("mine").debug("debugged")
        print("over", file=sys.stderr)

    ray.get(log.remote())
    _, err = output(") over\n")
    assert re.search(r"^\(log pid=\d+\) INFO:mine:informed$", err, re.M)
    assert re.search(r"^\(log pid=\d+\) WARNING:mine:warned 7$", err, re.M)
    assert "debugged" not in err


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["DEBUG", "INFO", "ERROR"]),
        (logging.ERROR, ["ERROR"]),
        ("INFO", ["INFO", "ERROR"]),
    ],
)
def test_logging_level(record, level, shown):
    output = record()
    pyray.init(num_cpus=1, logging_level=level)

    @pyray.remote
    def log():
        for name in ("debug", "info", "error"):
            getattr(logging, name)("text")
        print("over", file=sys.stderr)

    pyray.get(log.remote())
    _, err = output(") over\n")
    assert re.findall(r"(\w+):root:text", err) == shown


def test_log_to_driver_false_shows_nothing(capfd):
    pyray.init(num_cpus=1, log_to_driver=False)

    @pyray.remote
    def speak():
        print("hidden")
        os.write(2, b"hidden too\n")

    pyray.get([speak.remote() for _ in range(10)])
    pyray.shutdown()
    assert capfd.readouterr() == ("", "")


def test_what_is_printed_last_comes_out_before_the_end(tmp_path):
    """A script that ends at once still shows all that its tasks printed."""
    done = helpers.run_script(
        tmp_path / "script.py",
        """
import pyray as ray
@ray.remote
def speak(i):
    for j in range(100):
        print("line", i, j)
ray.get([speak.remote(i) for i in range(20)])
""",
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2000
    assert all(re.fullmatch(r"\(speak pid=\d+\) line \d+ \d+", line) for line in lines)


def test_a_session_of_quiet_tasks_prints_nothing(tmp_path):
    done = helpers.run_script(
        tmp_path / "script.py",
        """
import numpy as np
import pyray as ray
ray.init()
f = ray.remote(lambda x: x)
ray.get([f.remote(np.ones(5000)) for i in range(20)])
""",
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_an_uncaught_task_error_shows_the_remote_traceback_once(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        """
import pyray as ray
@ray.remote
def divide(a, b):
    return a / b
@ray.remote
def outer(b):
    return ray.get(divide.remote(1, b))
ray.get(outer.remote(0))
"""
    )
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "return a / b" in done.stderr
    assert "task outer (pid=" in done.stderr
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "/pyray/worker/" not in done.stderr
    assert "multiprocessing" not in done.stderr


def test_task_streams_behave_like_files(ray, record):
    output = record()

    @ray.remote
    def probe():
        sys.stdout.writelines(["one\n", "two\n"])
        sys.stdout.buffer.write(b"raw\n")
        sys.stdout.buffer.flush()
        try:
            sys.stdout.write(3)
        except TypeError as error:
            refused = str(error)
        return sys.stdout.fileno(), sys.stdout.isatty(), sys.stdout.encoding, refused

    fileno, tty, encoding, refused = ray.get(probe.remote())
    assert (fileno, tty, encoding) == (1, False, "utf-8")
    assert "must be str" in refused
    out, _ = output("one", "two", "raw")
    assert [line.partition(") ")[2] for line in out.splitlines()] == ["one", "two", "raw"]


def test_a_closed_stdout_of_the_driver_does_no_harm(ray, monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    speak = ray.remote(lambda i: print("x") or i)
    assert ray.get([speak.remote(i) for i in range(20)]) == list(range(20))


def test_more_output_than_anybody_reads_at_once(ray1, record):
    output = record()

    @ray1.remote
    def flood():
        for _ in range(200):
            print("y" * 50_000)
        print("over")

    ray1.get(flood.remote())
    out, _ = output(") over\n")
    assert out.count("y") == 200 * 50_000


# ---- long waits --------------------------------------------------------------------------------


def _long_waits(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "pyray"]


def test_a_long_wait_says_once_what_it_awaits(ray, gate, caplog, monkeypatch):
    monkeypatch.setattr(pyray.session, "LONG_WAIT_SECONDS", 0.2)
    there = ray.put(1)

    @ray.remote
    def sluggish():
        gate.wait()
        return os.getpid()

    ref = sluggish.remote()
    with caplog.at_level(logging.WARNING):
        with pytest.raises(pyray.exceptions.GetTimeoutError):
            ray.get([there, ref], timeout=1)
        (message,) = _long_waits(caplog)
        gate.open()
        pid = ray.get(ref)
    assert "1 of 2 objects" in message
    assert "sluggish" in message
    assert f"pid {pid}" in message


def test_a_long_wait_for_resources_says_so(ray1, gate, caplog, monkeypatch):
    monkeypatch.setattr(pyray.session, "LONG_WAIT_SECONDS", 0.2)

    @ray1.remote
    def holds():
        gate.wait()

    @ray1.remote
    def queued(_=None):
        return 1

    def message(ref):
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(TimeoutError):
            ray1.get(ref, timeout=0.8)
        (text,) = _long_waits(caplog)
        return text

    first = holds.remote()
    pyray.wait([first], timeout=0.05)
    refs = [queued.remote(), queued.options(num_cpus=0.5).remote(), queued.remote(first)]
    texts = [message(ref) for ref in refs]
    assert "queued is queued for a CPU" in texts[0]
    assert "queued is queued" in texts[1]
    assert "CPU" in texts[1]
    assert "queued waits for its arguments" in texts[2]
    gate.open()
    assert ray1.get(refs) == [1, 1, 1]


def test_a_short_wait_says_nothing(ray, gate, caplog):
    ref = ray.remote(lambda: gate.wait()).remote()
    with caplog.at_level(logging.WARNING), pytest.raises(TimeoutError):
        ray.get(ref, timeout=0.3)
    assert _long_waits(caplog) == []
    gate.open()
    ray.get(ref)
