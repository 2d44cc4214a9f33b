"""Handles of actors, and their methods."""

from __future__ import annotations

import weakref

from pyray import definitions
from pyray._core import actors, shm, store, tasks
from pyray._core.annotations import Any
from pyray._core.store import ObjectID
from pyray.actor_interface import ANY_NUMBER, Interface, bind, raw_method
from pyray.actor_options import check_method_options
from pyray.exceptions import ActorDiedError, PendingCallsLimitExceeded


class ActorMethod(actors.MethodCaller):
    """A method of an actor, as ``handle.method``.

    Attributes
    ----------
    remote : callable
        ``handle.method.remote(*args, **kwargs)`` has the actor run it and returns its ObjectID at
        once: a list of them with ``num_returns`` above 1, None with 0.
    """

    def __init__(self, handle: ActorHandle, name: str, options: dict[str, Any]) -> None:
        interface = handle._pyray_interface
        known = interface.methods[name]
        super().__init__(
            handle._pyray_ref, handle._pyray_actor, f"{interface.name}.{name}", known.number
        )
        # Not the handle: it keeps its methods, and a cycle would outlive the last reference.
        self._interface = interface
        self._settings = handle._pyray_settings
        self._method = name
        self._options = options
        self.min_args, self.max_args = known.least, known.most
        window = options.get("_generator_backpressure_num_objects", known.window)
        self.returns(options.get("num_returns", known.nreturns), max(0, window))
        retries = options.get("max_task_retries", known.retries)
        self.max_retries = (
            handle._pyray_settings["max_task_retries"] if retries is None else retries
        )
        if options.get("retry_exceptions", known.retry_exceptions):
            self.flags |= tasks.RETRY_EXCEPTIONS
        writable = options.get("writable", known.writable)
        if handle._pyray_settings["writable"] if writable is None else writable:
            self.flags |= tasks.WRITABLE
        group = options.get("concurrency_group")
        self.group = known.group if group is None else interface.group(group, name)
        self.max_pending = max(0, handle._pyray_settings["max_pending_calls"])

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options for the calls made through what this returns.

        Raises
        ------
        TypeError, ValueError
            An unknown option or a bad value.
        """
        changed = check_method_options(options, f"{self._name}.options()")
        if isinstance(changed.get("retry_exceptions"), tuple):
            raise ValueError(
                f"{self._name}.options(): a list of exceptions to retry is given to @method, where "
                "the class is defined; here retry_exceptions is True or False"
            )
        handle = ActorHandle(self.ref, self.actor, self._interface, 0, self._settings)
        return ActorMethod(handle, self._method, {**self._options, **changed})

    def check(self, args: Any, kwargs: Any) -> None:
        """Raise the TypeError that the call would raise, where the class is known."""
        cls = definitions.known(self._interface.definition)
        raw = None if cls is None else raw_method(cls, self._method)
        if raw is not None:
            skip = 0 if isinstance(raw, staticmethod) else 1
            bind(self._name, getattr(raw, "__func__", raw), skip, args, kwargs)
        elif not kwargs and self.max_args >= 0:
            # The class is not known in this process, but how many arguments it takes.
            least, most = self.min_args, self.max_args
            count = f"at least {least}" if most == ANY_NUMBER else f"{least} to {most}"
            raise TypeError(
                f"{self._name}.remote() takes {least if least == most else count} arguments, not "
                f"{len(args)}"
            )

    def dead(self) -> ActorDiedError:
        """The error of a call of an actor that is gone, where no other is kept."""
        return ActorDiedError(
            f"the actor {self._interface.name} ({actor_id(self.ref)}) is dead: it was killed, or "
            "ended by itself",
            actor_id(self.ref),
            self._interface.name,
        )

    def full(self, pending: int) -> None:
        """Refuse a call because too many are unfinished."""
        raise PendingCallsLimitExceeded(
            f"{self._name}: {pending} calls from this process are unfinished, and the actor's "
            f"max_pending_calls is {self.max_pending}; get some results first"
        )

    def settle(self) -> None:
        """Have the node fail a call that came too late."""
        from pyray import session

        current = session.current()
        if current is not None:  # else another thread is ending it, and the call with it
            current.call("settle_actor", self.actor, shm.self_slot())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"the actor's method {self._name} cannot be called directly: call "
            f".{self._method}.remote(...)"
        )

    def __repr__(self) -> str:
        return f"ActorMethod({self._name})"

    def __reduce__(self) -> tuple[Any, ...]:
        handle = ActorHandle(self.ref, self.actor, self._interface, 0, self._settings)
        return _rebuild_method, (handle, self._method, self._options)


def _rebuild_method(handle: ActorHandle, name: str, options: dict[str, Any]) -> ActorMethod:
    return ActorMethod(handle, name, options)


class ActorHandle:
    """Refers to an actor: its attributes are the actor's methods.

    An actor lives as long as there are handles of it, in any process, in arguments of tasks or in
    objects. Handles can be passed to tasks and other actors.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... class Box:
    ...     def keep(self, x):
    ...         return x
    >>> box = Box.remote()
    >>> isinstance(box, ray.ActorHandle), ray.get(box.keep.remote(1))
    (True, 1)
    """

    _pyray_ref: ObjectID
    _pyray_actor: int
    _pyray_interface: Interface
    _pyray_number: int
    _pyray_settings: dict[str, Any]

    def __init__(
        self,
        ref: ObjectID,
        actor: int,
        interface: Interface,
        number: int,
        settings: dict[str, Any],
    ) -> None:
        # Straight into the dictionary: `__getattr__` answers for whatever is not there.
        self.__dict__.update(
            _pyray_ref=ref,
            _pyray_actor=actor,
            _pyray_interface=interface,
            _pyray_number=number,
            _pyray_settings=settings,
        )

    def __class_getitem__(cls, item: Any) -> type[ActorHandle]:
        return cls  # for annotations

    def __getattr__(self, name: str) -> ActorMethod:
        interface: Interface | None = self.__dict__.get("_pyray_interface")
        if interface is None or name not in interface.methods:
            if interface is None or (name.startswith("__") and name.endswith("__")):
                raise AttributeError(name)
            there = ", ".join(n for n in interface.methods if not n.startswith("__"))
            raise AttributeError(
                f"the actor class {interface.name} has no method {name!r}; it has {there or 'none'}"
                " (an actor's fields are reached through methods only)"
            )
        made = self.__dict__[name] = ActorMethod(self, name, {})
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"{self!r}: fields of an actor cannot be set from outside ({name!r}); write a method "
            "that does"
        )

    def __dir__(self) -> list[str]:
        return sorted(self._pyray_interface.methods)

    @property
    def _actor_id(self) -> str:
        return actor_id(self._pyray_ref)

    @property
    def _ray_actor_id(self) -> str:
        return actor_id(self._pyray_ref)

    def __repr__(self) -> str:
        return f"Actor({self._pyray_interface.name}, {actor_id(self._pyray_ref)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ActorHandle):
            return NotImplemented
        return bool(self._pyray_ref == other._pyray_ref)

    def __hash__(self) -> int:
        return hash(self._pyray_ref)

    def __copy__(self) -> ActorHandle:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ActorHandle:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        number = self._pyray_number or definitions.export(self._pyray_interface)
        # An actor's handle of itself keeps nobody alive; the one that is passed on does.
        ref = store.strong(self._pyray_ref)
        return _rebuild, (ref, self._pyray_actor, number, self._pyray_settings)


def actor_id(ref: ObjectID) -> str:
    """An actor's id, in hexadecimal digits: the first 16 bytes of its ref's."""
    return ref.hex()[:32]


def rebuild_handle(ref: ObjectID, actor: int, interface: int, settings: dict[str, Any]) -> Any:
    """A handle from what the node says of an actor."""
    return _rebuild(ref, actor, interface, settings)


# Handles that came in, by their actor's number. Who gets one again has the first, with its methods
# made: a handle does not change, and a thousand in a list cost what their actors cost.
#
# No WeakValueDictionary: a Ctrl-C that comes while it takes out one that has died is lost, as any
# exception in a weak reference's callback is.
_received: dict[int, weakref.ref[ActorHandle]] = {}
_many = 64  # with so many those that have died are taken out


def _rebuild(ref: ObjectID, actor: int, number: int, settings: dict[str, Any]) -> ActorHandle:
    global _many
    found = _received.get(actor)
    known = None if found is None else found()
    if (
        known is not None
        and known._pyray_ref == ref
        and (known._pyray_number, known._pyray_settings) == (number, settings)
    ):
        return known
    interface = definitions.import_definition(number)
    handle = ActorHandle(ref, actor, interface, number, settings)
    if len(_received) >= _many:
        for old, there in list(_received.items()):
            if there() is None:
                _received.pop(old, None)
        _many = max(64, 2 * len(_received))
    _received[actor] = weakref.ref(handle)
    return handle


__all__ = ["ANY_NUMBER", "ActorHandle", "ActorMethod", "actor_id", "rebuild_handle"]
