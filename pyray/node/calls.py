"""What the driver and the workers ask of the node, and its answers."""

from __future__ import annotations

import pickle
from typing import Any

from pyray import protocol
from pyray._core import control
from pyray._core.store import ObjectID
from pyray.exceptions import SessionError
from pyray.node.cancels import Cancels
from pyray.node.shell import Shell
from pyray.node.state import Remembered, names_of, tell_of_actor, tell_of_worker
from pyray.placement import Place


class Calls:
    """Answers calls; each ``call_...`` is one.

    Parameters
    ----------
    shell : Shell
    cancels : Cancels
    past : Remembered
        What has ended.
    """

    def __init__(self, shell: Shell, cancels: Cancels, past: Remembered) -> None:
        self._shell = shell
        self._cancels = cancels
        self._past = past

    def answer(self, payload: bytes) -> bytes:
        """The reply to a call's payload, as a frame."""
        number, body = protocol.split(payload)
        try:
            operation, args = pickle.loads(body)
            return protocol.reply(number, True, getattr(self, "call_" + operation)(*args))
        except Exception as error:
            try:
                return protocol.reply(number, False, error)
            except Exception:
                return protocol.reply(number, False, SessionError(f"{type(error)}: {error}"))

    def call_shape(
        self,
        request: dict[str, float],
        exclusive: bool = False,
        env: str | None = None,
        place: Place | None = None,
        keeps_cpus: bool = False,
    ) -> tuple[int | None, str | None]:
        """Number of a shape of resources, or why it can never be met."""
        return self._shell.shapes.number(request, exclusive, env, place, keeps_cpus)

    def call_create_group(self, spec: dict[str, Any]) -> None:
        """Make a placement group."""
        self._shell.groups.create(spec)

    def call_group_ready(self, id: str, slot: int) -> ObjectID:
        """An object that is sealed when a placement group is reserved."""
        return self._shell.groups.ready(id, slot)

    def call_remove_group(self, id: str) -> None:
        """Remove a placement group."""
        self._shell.groups.remove(id)

    def call_group_table(self, id: str | None) -> list[dict[str, Any]]:
        """Placement groups."""
        return self._shell.groups.table(id)

    def call_named_group(self, name: str) -> dict[str, Any] | None:
        """The placement group of this name."""
        return self._shell.groups.named(name)

    def call_numbered_group(self, number: int) -> dict[str, Any]:
        """The placement group of this number."""
        return self._shell.groups.numbered(number)

    def call_create_actor(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Make an actor; what its handle consists of."""
        return self._shell.actors.create(spec)

    def call_get_actor(self, name: str, namespace: str | None, slot: int) -> dict[str, Any]:
        """What a handle of a named actor consists of, for the process in this slot."""
        return self._shell.actors.get(name, namespace, slot)

    def call_named_actors(self, everywhere: bool) -> list[dict[str, str]]:
        """Names and namespaces of named actors."""
        return self._shell.actors.named(everywhere)

    def call_actor_spec(self, handle: int) -> dict[str, Any]:
        """What an actor's process needs to know."""
        return self._shell.actors.spec(handle)

    def call_actor_made(self, handle: int) -> None:
        """An actor is there that is never made again."""
        self._shell.actors.made(handle)

    def call_actor_unmade(self, handle: int, error: ObjectID) -> None:
        """An actor's constructor has failed."""
        self._shell.actors.unmade(handle, error)

    def call_kill_actor(self, handle: int, no_restart: bool) -> None:
        """End an actor."""
        self._shell.actors.kill(handle, no_restart)

    def call_settle_actor(self, handle: int, slot: int) -> None:
        """Fail a call that came too late."""
        self._shell.actors.settle(handle, slot)

    def call_cancel(self, task: int, force: bool, recursive: bool) -> None:
        """Cancel a task."""
        self._cancels.cancel(task, force, recursive)

    def call_cancel_children(self, task: int) -> None:
        """Cancel what a cancelled task has submitted."""
        self._cancels.children(task)

    def call_resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """(all, available) resources."""
        self._shell.look()
        free = control.available_tokens()
        return self._shell.scheduler.totals(), self._shell.scheduler.available(free)

    def call_workers(self) -> list[dict[str, Any]]:
        """What the workers are doing."""
        out = []
        for w in self._shell.workers.values():
            _, blocked, _, current, ran = control.process_view(w.slot)
            task = control.task_view(current) if current else None
            out.append(
                {
                    "pid": w.pid,
                    "slot": w.slot,
                    "up": w.up,
                    "blocked": bool(blocked),
                    "dedicated": w.dedicated,
                    "task": self._shell.name_of(current) if task else None,
                    "ran": ran,
                }
            )
        return out

    def call_state(self, what: str) -> Any:
        """Workers, actors, their names, shapes, or which of those are in placement groups: for
        those who list what there is."""
        if what == "workers":
            return [*self._past.workers, *(tell_of_worker(w) for w in self._shell.workers.values())]
        if what == "actors":
            self._shell.look()
            groups = self._shell.groups.of_shapes()
            return [
                {**tell_of_actor(actor), "group": groups.get(actor.spec["shape"])}
                for actor in self._shell.actors.all.values()
            ]
        if what == "groups of shapes":
            return self._shell.groups.of_shapes()
        if what == "names":
            return names_of(self._shell.actors, self._past)
        return self._shell.shapes.requests()

    def call_validate(self, number: int) -> Any:
        """Whether the books are in order: see `pyray.accounting`."""
        from pyray.node import books

        return books.validate(self._shell, number)

    def call_task_name(self, task: int) -> str:
        """What a task runs."""
        return self._shell.name_of(task)

    def call_explain(self, task: int) -> str:
        """Where a task stands, for the line that a long wait prints."""
        view = control.task_view(task)
        if view is None:
            return "finished"
        status, attempt, _, shape, _, _ = view
        name = self._shell.name_of(task)
        again = f" (attempt {attempt + 1})" if attempt else ""
        if status in (3, 4):
            for w in self._shell.workers.values():
                v = control.process_view(w.slot)
                if v[3] == task:
                    doing = "waits in pid" if v[1] else "runs in pid"
                    return f"{name}{again} {doing} {w.pid}"
            return f"{name}{again} runs"
        if status == 1:
            return f"{name} waits for its arguments"
        if self._shell.watch.holds(task):
            return f"{name}{again} waits for memory: its worker was ended for want of it"
        if shape:
            why = self._shell.scheduler.why_waiting(task, control.token_counts()[0])
            return f"{name} is queued: {why or 'for resources'}"
        if control.task_target(task)[0]:
            return f"{name} waits for its turn at the actor"
        lent, size = self._shell.scheduler.lent_tokens, self._shell.config["num_cpus"]
        held = f", and actors and placement groups hold {lent} of {size}" if lent else ""
        return f"{name} is queued for a CPU{held}"

    def call_explain_ref(self, ref: ObjectID) -> str:
        """The same for an object that no task makes."""
        return self._shell.groups.explain(ref)
