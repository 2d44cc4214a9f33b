"""The node's book of actors: making, naming, restarting and ending them.

The shell tells it what happens to actors' processes, and carries out what it asks through the few
calls in `Shell` that it is given. What callers and the actors themselves do needs nobody here.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Any

from pyray._core import actors as core
from pyray._core import control, store, tasks
from pyray._core.store import ObjectID
from pyray.exceptions import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    ProcessLimitError,
    describe_exit,
)

# Dead actors that are remembered, for the errors of calls that come late.
REMEMBERED = 512
MOST = 8191
# Options that its handles go by.
_HANDLES_CARRY = ("max_task_retries", "max_pending_calls", "name", "writable")
PENDING, ALIVE, DEAD, SETTLED = 1, 2, 3, 4
LEAVE_NO, LEAVE_INTENDED, LEAVE_UNMADE = 0, 1, 2


class Actor:
    """What the node knows of an actor.

    Attributes
    ----------
    handle : int
        Its number.
    spec : dict
        What its creator said.
    ref : bytes
        Its ref, packed.
    kept : list of ObjectID
        Its constructor's arguments, while it may have to be made again; itself, if detached.
    slot, pid : int
        Of its process; 0: none.
    restarts : int
        How often it has been made again.
    ending : str
        Why it is to end, if the node has decided so.
    """

    def __init__(self, handle: int, spec: dict[str, Any], ref: ObjectID) -> None:
        self.handle = handle
        self.spec = spec
        self.options: dict[str, Any] = spec["options"]
        self.ref = store.pack(ref)
        self.id = ref.hex()[:32]
        self.task = 0
        self.detached = self.options["lifetime"] == "detached"
        self.kept: list[ObjectID] = [ref] if self.detached else []
        self.slot = 0
        self.pid = 0
        self.restarts = 0
        self.released = False
        self.ending = ""
        self.restart_anyway = False
        self.dead = False
        self.cause = ""
        self.why = ""  # of its death, for those who ask
        self.died_as: type[ActorDiedError] = ActorDiedError
        self.unmade: ObjectID | None = None  # the error of its constructor

    @property
    def name(self) -> str:
        """For messages: its name if it was given one, and its class."""
        given = self.options["name"]
        what = self.spec["class_name"]
        return f"{what} {given!r}" if given else str(what)

    def settings(self) -> dict[str, Any]:
        """What its handles carry."""
        return {k: self.options[k] for k in _HANDLES_CARRY}

    def answer(self, ref: ObjectID) -> dict[str, Any]:
        """What a handle is made of."""
        return {
            "ref": ref,
            "actor": self.handle,
            "interface": self.spec["interface"],
            "settings": self.settings(),
        }

    def left(self) -> bool:
        """Whether it may be made again."""
        most = self.options["max_restarts"]
        return bool(most < 0 or self.restarts < most)


class Actors:
    """All actors of the session.

    Parameters
    ----------
    namespace : str or None
        The session's.
    submit : callable
        ``(task, shape, depth)``: have the scheduler place a creation task again.
    cancel : callable
        ``(task)``: have the scheduler forget one that is not placed yet.
    """

    def __init__(
        self,
        namespace: str | None,
        submit: Callable[[int, int, int], None],
        cancel: Callable[[int], None],
    ) -> None:
        self.namespace = namespace or ""
        self._submit = submit
        self._cancel = cancel
        self.on_forget: Callable[[Actor], None] = lambda actor: None
        self.all: dict[int, Actor] = {}
        self.by_task: dict[int, Actor] = {}
        self.by_slot: dict[int, Actor] = {}
        self.names: dict[tuple[str, str], Actor] = {}
        self.gone: deque[Actor] = deque()
        self.causes: dict[int, ObjectID] = {}
        self._indices = 0

    # ---- calls -----------------------------------------------------------------------------

    def create(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Make a new actor, or find the one of that name (``get_if_exists``)."""
        options = spec["options"]
        ref: ObjectID = spec.pop("ref")
        key = None
        if options["name"] is not None:
            key = (self._space(options["namespace"]), options["name"])
            found = self._find(key)
            if found is not None:
                if options["get_if_exists"]:
                    return self._lend(*found, spec["slot"])
                raise ActorAlreadyExistsError(
                    f"there is an actor named {key[1]!r} in namespace {key[0]!r} already; "
                    "get_actor() finds it, and get_if_exists=True takes it where there is one"
                )
        actor = Actor(core.node_open(self._index(), ref), spec, ref)
        payload, deps = spec.pop("payload"), spec.pop("deps")
        actor.kept += [oid for _, oid in deps]
        if isinstance(payload, ObjectID):
            actor.kept.append(payload)
        actor.task = core.node_create(
            actor.handle,
            ref,
            spec["class"],
            spec["shape"],
            spec["depth"],
            spec["flags"],
            payload,
            deps,
        )
        self.all[actor.handle] = actor
        self.by_task[actor.task] = actor
        if key is not None:
            self.names[key] = actor
        return actor.answer(ref)

    def _space(self, namespace: str | None) -> str:
        return self.namespace if namespace is None else namespace

    def _find(self, key: tuple[str, str]) -> tuple[Actor, ObjectID] | None:
        actor = self.names.get(key)
        if actor is None:
            return None
        ref = core.node_ref(actor.handle, actor.ref)
        if ref is None or actor.released or actor.ending:
            # It lives on until it has run its calls, but nobody can reach it any more.
            del self.names[key]
            return None
        return actor, ref

    @staticmethod
    def _lend(actor: Actor, ref: ObjectID, slot: int) -> dict[str, Any]:
        """The answer for a process, which holds the actor from here on."""
        core.node_lend(ref, slot)
        return actor.answer(ref)

    def get(self, name: str, namespace: str | None, slot: int) -> dict[str, Any]:
        """The actor of that name."""
        key = (self._space(namespace), name)
        found = self._find(key)
        if found is None:
            there = sorted(n for space, n in self.names if space == key[0])
            raise ValueError(
                f"there is no actor named {name!r} in namespace {key[0]!r}; named actors there: "
                f"{', '.join(there) or 'none'}. It may have died, or have lost its last handle: "
                "lifetime='detached' keeps one until the session ends"
            )
        return self._lend(*found, slot)

    def named(self, everywhere: bool) -> list[dict[str, str]]:
        """Name and namespace of each named actor."""
        return [
            {"name": name, "namespace": space}
            for (space, name), actor in self.names.items()
            if (everywhere or space == self.namespace) and not actor.released
        ]

    def spec(self, handle: int) -> dict[str, Any]:
        """What an actor's process needs to know of itself."""
        actor = self.all[handle]
        drops = not actor.options["max_restarts"] and len(actor.kept) > actor.detached
        return {
            **actor.spec,
            "id": actor.id,
            "restarts": actor.restarts,
            "ref": actor.ref,
            "settings": actor.settings(),
            "drops_arguments": drops,
        }

    def made(self, handle: int) -> None:
        """An actor that is never made again is there: its constructor's arguments may go."""
        actor = self.all[handle]
        del actor.kept[actor.detached :]

    def unmade(self, handle: int, error: ObjectID) -> None:
        """An actor's constructor has failed, and its process is about to end."""
        self.all[handle].unmade = error

    def kill(self, handle: int, no_restart: bool) -> None:
        """End an actor at once."""
        actor = self.all.get(handle)
        if actor is None or actor.dead:
            return
        if no_restart:
            actor.ending = "was killed by ray.kill"
        if actor.pid:
            actor.cause = "was killed by ray.kill"
            _kill(actor.pid)
        elif no_restart:
            self._cancel(actor.task)
            self._end(actor, self._died(actor, "was killed by ray.kill before it was made"))

    def end_with_group(self, actor: Actor, label: str) -> None:
        """An actor's placement group has been removed."""
        if actor.dead:
            return
        actor.died_as = ActorPlacementGroupRemoved
        actor.ending = f"was killed with its placement group, {label}"
        if actor.pid:
            actor.cause = actor.ending
            _kill(actor.pid)
        else:
            text = f"was not made: its placement group, {label}, has been removed"
            self._end(actor, self._died(actor, text))

    def settle(self, handle: int, slot: int) -> None:
        """Fail a call that a process entered after the actor was dead."""
        actor = self.all.get(handle)
        if actor is None:
            core.node_settle(handle, slot, ActorDiedError("this actor is long dead"))
        elif actor.dead:
            core.node_settle(handle, slot, self._died(actor, actor.cause))

    # ---- what happens to processes ---------------------------------------------------------

    def placed(self, task: int, slot: int, pid: int) -> None:
        """A creation task has been given to a process."""
        actor = self.by_task.get(task)
        if actor is not None:
            actor.slot, actor.pid = slot, pid
            self.by_slot[slot] = actor
            core.node_placed(actor.handle, slot)

    def refused(self, task: int) -> None:
        """A creation task has failed for want of a process."""
        actor = self.by_task.get(task)
        if actor is not None:
            self._end(actor, core.node_cause(actor.handle) or self._died(actor, "was not made"))

    def leave(self, slot: int) -> Actor | None:
        """The process in this slot is dead: the actor that it was, if it was one."""
        return self.by_slot.pop(slot, None)

    def not_taken_up(self, actor: Actor | None) -> bool:
        """A process died before it took up the creation task; whether that is to be placed again,
        and not because the process was killed to end the actor."""
        if actor is None:
            return True
        if actor.ending:
            return False  # `process_ended` does the rest
        actor.slot = actor.pid = 0
        core.node_placed(actor.handle, 0)
        return True

    def process_ended(
        self, actor: Actor, slot: int, code: int | None, what: str
    ) -> tuple[str, str] | None:
        """An actor's process is gone, and `what` says how: make it again, or settle what it leaves.

        Returns
        -------
        tuple of (str, str), or None
            The actor's name and a line for the driver's output, if it ended by a fault.
        """
        core.node_died(actor.handle, slot)
        _, _, leaving, _, _ = core.node_view(actor.handle)
        _, signal_name, exit_code = describe_exit(code)
        pid, actor.slot, actor.pid = actor.pid, 0, 0
        killed, actor.cause = actor.cause, ""
        name = str(actor.spec["class_name"])
        if leaving == LEAVE_UNMADE or control.task_view(actor.task) is None:
            error = actor.unmade or core.node_cause(actor.handle)
            self._end(actor, error or self._died(actor, "could not be made", pid), slot)
            return None
        if leaving == LEAVE_INTENDED and not actor.ending:
            text = "has ended" if actor.released else "ended by itself (exit_actor)"
            self._end(actor, self._died(actor, text, pid, None, 0), slot)
            return None
        said = None if killed or actor.released else (name, f"this worker {what}")
        text = f"{killed or what} (pid={pid})"
        # One that nobody holds is made again for the calls that it was sent, and for no other use.
        idle = actor.released and actor.left() and not core.node_left(actor.handle, slot)
        if actor.ending or idle or not actor.left():
            again = f", after {actor.restarts} restart(s)" if actor.restarts else ""
            text = text + again if killed else f"died: its process {text}{again}"
            self._end(actor, self._died(actor, text, pid, signal_name, exit_code), slot)
            return said and (name, f"{said[1]}; the actor is dead")
        actor.restarts += 1
        most = actor.options["max_restarts"]
        count = f"{actor.restarts} of {most}" if most > 0 else f"{actor.restarts}"
        error = ActorUnavailableError(
            f"the actor {actor.name} ({actor.id}) is being restarted ({count}): its process "
            f"{text}. Whether this call had an effect is not known; max_task_retries has calls run "
            "again by themselves",
            actor.id,
            actor.name,
            pid,
            signal_name,
            exit_code,
        )
        core.node_lost(actor.handle, slot, error, False)
        task = core.node_pending(actor.handle)
        self._submit(task, actor.spec["shape"], actor.spec["depth"])
        return said and (name, f"{said[1]}; the actor is made again (restart {count})")

    def name_of(self, handle: int, creates: bool, number: int) -> str:
        """``Class.method`` of a call, ``Class.__init__`` of a creation task."""
        actor = self.all.get(handle)
        if actor is None:
            return "a method of a dead actor"
        methods = actor.spec["methods"]
        method = "__init__" if creates else methods[number] if number < len(methods) else "?"
        return f"{actor.spec['class_name']}.{method}"

    def look(self) -> None:
        """End actors that have lost their last handle."""
        if not core.actors_dropped():
            return
        for actor in list(self.all.values()):
            if actor.dead or actor.released:
                continue
            status, _, _, held, waits = core.node_view(actor.handle)
            if held:
                continue
            actor.released = True
            self._forget_name(actor)
            if status == PENDING and not actor.slot and not waits:
                self._cancel(actor.task)
                self._end(actor, self._died(actor, "was dropped before it was made"))
            else:
                core.node_release(actor.handle)

    # ---- the end of an actor ---------------------------------------------------------------

    def _died(
        self,
        actor: Actor,
        text: str,
        pid: int = 0,
        signal_name: str | None = None,
        exit_code: int | None = None,
    ) -> ActorDiedError:
        return actor.died_as(
            f"the actor {actor.name} ({actor.id}) {text}",
            actor.id,
            actor.name,
            pid,
            signal_name,
            exit_code,
        )

    def _end(self, actor: Actor, error: BaseException | ObjectID, slot: int = 0) -> None:
        """It is dead for good: its calls, present and future, fail with this error."""
        actor.dead = True
        actor.cause = "is dead"
        actor.why = "its constructor raised" if isinstance(error, ObjectID) else str(error)
        self._forget_name(actor)
        del self.by_task[actor.task]
        # Kept for calls to come, as long as the actor is remembered.
        cause = error if isinstance(error, ObjectID) else None
        if cause is None:
            try:
                cause = tasks.put(error)
            except Exception:
                pass  # the store is full: they get a plainer one
        if cause is not None:
            self.causes[actor.handle] = cause
        core.node_dead(actor.handle, cause)
        core.node_lost(actor.handle, slot, error, True)
        core.node_settled(actor.handle, error)
        actor.kept.clear()
        self.gone.append(actor)

    def _forget_name(self, actor: Actor) -> None:
        name = actor.options["name"]
        if name is not None:
            key = (self._space(actor.options["namespace"]), name)
            if self.names.get(key) is actor:
                del self.names[key]

    def _index(self) -> int:
        """A place in the table: a new one, or that of the actor that died longest ago."""
        if len(self.gone) > REMEMBERED or (self._indices == MOST and self.gone):
            old = self.gone.popleft()
            del self.all[old.handle]
            self.on_forget(old)
            self.causes.pop(old.handle, None)
            return old.handle & 0xFFFFFFFF
        if self._indices == MOST:
            raise ProcessLimitError(
                f"the session has its limit of {MOST} actors that are alive or to be made; end "
                "some, or let go of their handles, before making more"
            )
        self._indices += 1
        return self._indices


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
