"""What a worker does that has become an actor, for the rest of its life."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from pyray import definitions, session
from pyray._core import actors, control, running, tasks
from pyray._core.errors import ActorExit
from pyray.actor_interface import EVERY_ACTORS, options_of
from pyray.exceptions import ActorDiedError, TaskError
from pyray.worker import environment
from pyray.worker.errors import make_error

# How long the loop waits for a call before it comes back to do its chores: soon after calls have
# run, seldom when nothing happens.
BUSY_SECONDS = 0.05
IDLE_SECONDS = 5.0


class Actor:
    """The actor in this process.

    Parameters
    ----------
    task : int
        The creation task, claimed.
    """

    def __init__(self, task: int) -> None:
        self.task = task
        self.number = actors.actor_of(task)
        spec = session.require().call("actor_spec", self.number)
        self.spec: dict[str, Any] = spec
        self.options: dict[str, Any] = spec["options"]
        self.id: str = spec["id"]
        self.name: str = spec["class_name"]
        self.instance: Any = None
        self.methods: list[str] = spec["methods"]
        self.made = False

    def make(self) -> bool:
        """Run the constructor; whether there is an actor now."""
        running.set_worker_callbacks(self.load_method, self.make_error, lambda lease: None)
        constructor = running.Function(self._construct, f"{self.name}.__init__", None, 0)
        error = actors.construct(self.task, constructor)
        self.made = error is None
        if not self.made:
            # Passed on as an object: the node does not unpickle what users' classes are in.
            session.require().call("actor_unmade", self.number, error)
            actors.leave_unmade(self.number)
        elif self.spec["drops_arguments"]:
            session.require().call("actor_made", self.number)
        if self.made and not self.spec["keeps_cpus"]:
            actors.release_cpus()
        return self.made

    def _construct(self, *args: Any, **kwargs: Any) -> None:
        environment.require(lambda: self.name)
        cls = definitions.import_definition(self.spec["class"])
        global current
        current = self
        self.instance = cls(*args, **kwargs)

    def load_method(self, number: int) -> running.Function:
        """A method by its number, ready to be called."""
        name = self.methods[number]
        if name in EVERY_ACTORS:
            return running.Function(self._of_every_actor(name), f"{self.name}.{name}", None, 0)
        bound = getattr(self.instance, name)
        retry = options_of(bound).get("retry_exceptions")
        only = retry if isinstance(retry, tuple) else None
        return running.Function(bound, f"{self.name}.{name}", only, 0)

    def _of_every_actor(self, name: str) -> Callable[..., Any]:
        if name == "__ray_call__":
            return lambda function, *args, **kwargs: function(self.instance, *args, **kwargs)
        if name == "__ray_ready__":
            return lambda: True
        return self._terminate

    def _terminate(self) -> None:
        raise ActorExit(f"{self.name}.__ray_terminate__ was called")

    def make_error(self, error: BaseException, detail: Any, unstorable: bool) -> BaseException:
        """The exception that ``get`` is to raise for a call."""
        if unstorable or (isinstance(error, Exception) and self.made):
            return make_error(error, detail, unstorable)
        pid = os.getpid()
        if not self.made:
            cause: BaseException
            if isinstance(error, TaskError):
                cause, what = error, "an argument of its constructor is an error"
            else:
                cause = make_error(error, detail, False)
                what = f"its constructor, in worker pid={pid}, raised"
            return ActorDiedError(
                f"the actor {self.name} ({self.id}) could not be made: {what}\n{cause}",
                self.id,
                self.name,
                pid,
                cause=cause,
            )
        if isinstance(error, ActorExit):
            text = f"the actor {self.name} ({self.id}, pid={pid}) ended: {error}"
            return ActorDiedError(text, self.id, self.name, pid, None, 0)
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            text = (
                f"the actor {self.name} ({self.id}, pid={pid}) ended: {detail} called "
                f"sys.exit({error.code!r})"
            )
            return ActorDiedError(text, self.id, self.name, pid, None, code)
        return make_error(error, detail, False)


current: Actor | None = None


def live(task: int) -> int:
    """Be an actor until it ends; the process's exit code."""
    actor = Actor(task)
    if not actor.make():
        return 1
    options = actor.options
    out_of_order = bool(options["allow_out_of_order_execution"])
    groups = options["concurrency_groups"] or {}
    asynchronous = actor.spec["asynchronous"]
    limit = options["max_concurrency"] or (1000 if asynchronous else 1)
    sequential = limit == 1 and not groups and not asynchronous
    host = actors.Host(actor.number, not out_of_order, sequential)
    limits = [limit, *groups.values()]
    try:
        if sequential:
            code = _serve_in_turn(host)
        elif asynchronous:
            from pyray.worker.async_actor import serve_in_loop

            code = serve_in_loop(host, limits)
        else:
            from pyray.worker.threaded_actor import serve_in_threads

            code = serve_in_threads(host, limits)
    except running.WorkerExit as e:
        code = int(e.code)
    if code == 0:
        host.leave()
    return code


def _serve_in_turn(host: actors.Host) -> int:
    seconds = BUSY_SECONDS
    while True:
        ran = host.serve(seconds)
        if control.stopping() or host.over:
            return 0
        holding = chores()
        seconds = BUSY_SECONDS if ran or holding else IDLE_SECONDS


def chores() -> int:
    """When nothing is to do: pass on what was printed, let go of what is held for nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    return tasks.sweep_idly()
