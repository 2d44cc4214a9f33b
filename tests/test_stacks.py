"""When a test takes too long, what every process was doing is told."""

from __future__ import annotations

import os
import signal
import time

import helpers
import stacks
from cancel_helpers import workers

import pyray
from pyray.stacks import VARIABLE


@pyray.remote(max_retries=0)
def never_ends_by_itself(gate):
    child = os.fork()
    if child == 0:
        time.sleep(1000)
    gate.wait()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return os.getpid()


@pyray.remote(max_retries=0)
def waits_for_the_other(refs):
    return pyray.get(refs[0])


def test_every_process_says_what_it_does_and_goes_on(ray, gate):
    ref = waits_for_the_other.remote([never_ends_by_itself.remote(gate)])
    helpers.wait_until(lambda: len(workers()) >= 2)
    node = pyray.session.current().node.pid

    def told():
        said = []
        stacks.dump(said.append)
        return "\n".join(said)

    def seen():
        text = told()
        return text if text.count("never_ends_by_itself") >= 2 else None

    text = helpers.wait_until(seen, what="the task's stack, and its child's")
    assert "waits_for_the_other" in text
    assert f"==== {node} " in text
    assert 'node/loop.py", line' in text
    assert "do_epoll_wait" in text or "system call" in text
    pids = workers()
    gate.open()
    assert ray.get(ref) in pids
    assert workers() == pids


def test_a_driver_and_its_node_say_so_too(driver):
    d = driver(
        """
begin()
@ray.remote
def sits_there():
    time.sleep(1000)
def asks_for_it(ref):
    say(now=1)
    ray.get(ref)
asks_for_it(sits_there.remote())
"""
    )
    d.said("now")

    def seen():
        said = []
        stacks.dump(said.append)
        text = "\n".join(said)
        return "in asks_for_it" in text and "in sits_there" in text

    helpers.wait_until(seen, what="both stacks")
    os.kill(d.pid, signal.SIGKILL)
    d.ended()
    d.assert_gone()


def test_a_file_that_cannot_be_written_stops_nobody(monkeypatch):
    monkeypatch.setenv(VARIABLE, "/nonexistent/stacks")
    pyray.init(num_cpus=1)
    assert pyray.get(pyray.remote(lambda: 42).remote()) == 42
