"""Remote classes: ``@remote`` on a class, handles of actors, and their methods."""

from __future__ import annotations

from types import NoneType

from pyray import definitions, placement
from pyray._core import actors, shm, tasks
from pyray._core.annotations import Any
from pyray._core.errors import ActorExit, ObjectLostError, SessionError
from pyray.actor_handle import ActorHandle, ActorMethod, rebuild_handle
from pyray.actor_interface import Interface, bind
from pyray.actor_options import ACTOR_DEFAULTS, check_actor, check_actor_options
from pyray.options import resource_request

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor", "get_actor", "kill"]


class ActorClass:
    """A class whose instances live in worker processes of their own; made by :func:`pyray.remote`.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... class Counter:
    ...     def __init__(self, start=0):
    ...         self.n = start
    ...     def add(self, by=1):
    ...         self.n += by
    ...         return self.n
    >>> counter = Counter.remote(start=10)
    >>> ray.get([counter.add.remote() for _ in range(3)])
    [11, 12, 13]
    """

    def __init__(self, cls: type, options: dict[str, Any], shared: _Shared | None = None) -> None:
        if not isinstance(cls, type):
            # What `class B(A)` makes of a remote A.
            raise TypeError(
                f"{cls} cannot inherit from a remote class: inherit from the plain class, and make "
                "the result remote"
            )
        self._options = {**ACTOR_DEFAULTS, **options}
        self._shared = shared or _Shared(cls)
        name = cls.__name__
        self._name = name
        self.__name__ = name
        self.__qualname__ = getattr(cls, "__qualname__", name)
        self.__module__ = getattr(cls, "__module__", None) or "builtins"
        self.__doc__ = getattr(cls, "__doc__", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"the remote class {self._name} cannot be instantiated directly: call "
            f"{self._name}.remote(...)"
        )

    def __class_getitem__(cls, item: Any) -> type[ActorClass]:
        return cls  # for annotations

    def __repr__(self) -> str:
        return f"ActorClass({self.__module__}.{self.__qualname__})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_shared" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._shared.cls(), name)

    def options(self, **options: Any) -> ActorClass:
        """The same class with other options for the actors made through what this returns.

        Raises
        ------
        TypeError, ValueError
            An unknown option or a bad value.

        Examples
        --------
        >>> import pyray as ray
        >>> @ray.remote
        ... class Echo:
        ...     def say(self, x):
        ...         return x
        >>> echo = Echo.options(name="echo", get_if_exists=True).remote()
        >>> ray.get(ray.get_actor("echo").say.remote(1))
        1
        """
        changed = check_actor_options(options, f"{self._name}.options()")
        return ActorClass(self._shared.stand_in(), {**self._options, **changed}, self._shared)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Make an actor: returns its handle at once.

        Raises
        ------
        TypeError
            The constructor does not take these arguments.
        ValueError
            There is an actor of that name already.
        InfeasibleResourcesError
            It asks for more than the session has in all.
        """
        from pyray import session

        options = self._options
        check_actor(options, f"{self._name}.options()")
        self._shared.check_constructor(self._name, args, kwargs)
        current = session.require()
        if current.local_mode:
            from pyray import local_actor

            return local_actor.make_actor(self._shared.cls(), options, args, kwargs)
        interface, number = self._shared.interface(options["concurrency_groups"])
        request = resource_request(options)
        env = current.environment(options["runtime_env"])
        place = placement.place_of(options, self._name)
        keeps = bool(options["num_cpus"])
        # Raises if it could never be.
        shape = current.shape(request, self._name, True, env, place=place, keeps_cpus=keeps)
        ref = actors.new_ref()
        try:
            flags, payload, deps = actors.prepare(args, kwargs, tasks.ArgumentPath(self._name))
            if options["writable"]:
                flags |= tasks.WRITABLE
            made = _find(
                current,
                "create_actor",
                {
                    "ref": ref,
                    "interface": number,
                    "class": interface.definition,
                    "class_name": interface.name,
                    "methods": list(interface.methods),
                    "asynchronous": interface.asynchronous,
                    "groups": interface.groups,
                    "shape": shape,
                    "keeps_cpus": keeps,
                    "flags": flags,
                    "payload": payload,
                    "deps": deps,
                    "depth": actors.depth() + 1,
                    "slot": shm.self_slot(),
                    "request": request,
                    "options": {k: options[k] for k in _FOR_THE_NODE},
                },
            )
        except BaseException:
            actors.abandon_ref(ref)
            raise
        if made["ref"] != ref:
            actors.abandon_ref(ref)  # get_if_exists found one
        return rebuild_handle(**made)

    def __reduce__(self) -> tuple[Any, ...]:
        given = {k: v for k, v in self._options.items() if v != ACTOR_DEFAULTS[k]}
        if shm.attached() and not shm.forked():
            return _rebuild_class, (self._shared.definition(), self._name, given)
        return ActorClass, (self._shared.cls(), given)


_FOR_THE_NODE = (
    "name",
    "namespace",
    "get_if_exists",
    "lifetime",
    "max_restarts",
    "max_task_retries",
    "max_pending_calls",
    "max_concurrency",
    "concurrency_groups",
    "allow_out_of_order_execution",
    "writable",
)


class _Shared:
    """What a remote class and its ``.options()`` variants have in common."""

    def __init__(self, cls: type | None, definition: int | None = None, name: str = "") -> None:
        self._cls = cls
        self._known = definition
        self._name = name if cls is None else cls.__name__
        self._interfaces: dict[tuple[str, ...], tuple[Interface, int]] = {}
        self._epoch = -1
        self._accepted: set[Any] = set()

    def cls(self) -> type:
        if self._cls is None:
            assert self._known is not None
            self._cls = definitions.import_definition(self._known)
        return self._cls

    def stand_in(self) -> Any:
        """The class, or something with its name where that has not been needed yet."""
        return self._cls or type(self._name, (), {})

    def definition(self) -> int:
        if self._epoch != shm.epoch():
            self._interfaces.clear()
            self._epoch = shm.epoch()
            if self._cls is not None:
                self._known = None
        if self._known is None:
            self._known = definitions.export(self._cls)
        return self._known

    def interface(self, groups: dict[str, int] | None) -> tuple[Interface, int]:
        """What handles know, and its number."""
        definition = self.definition()
        key = tuple(groups or ())
        found = self._interfaces.get(key)
        if found is None:
            made = Interface(self.cls(), definition, key)
            found = self._interfaces[key] = made, definitions.export(made)
        return found

    def check_constructor(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shape = (len(args), *kwargs)
        if shape in self._accepted or self._cls is None:
            return  # where the class is not known, its constructor will say
        cls: Any = self._cls
        if cls.__init__ is not object.__init__:
            bind(name, cls.__init__, 1, args, kwargs)
        elif cls.__new__ is not object.__new__:
            bind(name, cls.__new__, 1, args, kwargs)
        elif args or kwargs:
            raise TypeError(f"{name}.remote(): {name}() takes no arguments")
        if len(self._accepted) < 1000:
            self._accepted.add(shape)


def _rebuild_class(definition: int, name: str, options: dict[str, Any]) -> ActorClass:
    """A remote class in another process: the class is looked up when it is needed."""
    shared = _Shared(None, definition, name)
    return ActorClass(shared.stand_in(), options, shared)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """A handle of a named actor.

    Parameters
    ----------
    name : str
        As it was given in ``options(name=...)``.
    namespace : str, optional
        Default: the session's.

    Raises
    ------
    ValueError
        There is none of that name.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... class Echo:
    ...     def say(self, x):
    ...         return x
    >>> keep = Echo.options(name="named").remote()
    >>> ray.get(ray.get_actor("named").say.remote("hello"))
    'hello'
    """
    from pyray import session

    for what, given in (("name", name), ("namespace", namespace)):
        if given == "" or not isinstance(given, str if what == "name" else (str, NoneType)):
            raise ValueError(f"an actor's {what} is a string that is not empty, not {given!r}")
    current = session.require()
    if current.local_mode:
        from pyray import local_actor

        return local_actor.get_actor(name, namespace)
    handle: ActorHandle = rebuild_handle(
        **_find(current, "get_actor", name, namespace, shm.self_slot())
    )
    return handle


def _find(current: Any, operation: str, *args: Any) -> dict[str, Any]:
    """The node's answer with what a handle consists of.

    The node holds the actor for this process until it has the handle. Should another thread drop
    its own last handle just then, it lets go of that hold too; and if nobody else has one, the
    actor is about to end: the node finds another, or none, the next time.
    """
    for _ in range(50):
        try:
            found: dict[str, Any] = current.call(operation, *args)
            return found
        except ObjectLostError:
            continue
    raise ObjectLostError(f"{operation}: what was found was gone each time")


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Names of the actors that `get_actor` finds.

    Parameters
    ----------
    all_namespaces : bool, default False
        Those of all name spaces, and not only of the session's.

    Returns
    -------
    list of str, or list of dict
        With `all_namespaces` dictionaries of ``name`` and ``namespace``.

    Examples
    --------
    >>> import pyray as ray
    >>> from pyray.util import list_named_actors
    >>> @ray.remote
    ... class Echo:
    ...     pass
    >>> keep = Echo.options(name="listed").remote()
    >>> "listed" in list_named_actors()
    True
    """
    from pyray import session

    current = session.require()
    if current.local_mode:
        from pyray import local_actor

        found = local_actor.named(all_namespaces)
    else:
        found = current.call("named_actors", bool(all_namespaces))
    return found if all_namespaces else [entry["name"] for entry in found]


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor at once, in the middle of what it runs.

    Calls under way and to come raise ActorDiedError. An actor that nobody holds any more ends by
    itself, after the calls that it was sent.

    Parameters
    ----------
    actor : ActorHandle
    no_restart : bool
        With False the actor is made again, if its ``max_restarts`` allow.

    Examples
    --------
    >>> import pyray as ray
    >>> @ray.remote
    ... class Sleeper:
    ...     def sleep(self):
    ...         import time
    ...         time.sleep(1000)
    >>> sleeper = Sleeper.remote()
    >>> ref = sleeper.sleep.remote()
    >>> ray.kill(sleeper)
    >>> try:
    ...     ray.get(ref)
    ... except ray.exceptions.ActorDiedError:
    ...     print("gone")
    gone
    """
    from pyray import session

    if not isinstance(actor, ActorHandle):
        raise ValueError(
            f"kill ends actors: it takes a handle, not {actor!r}"
            + ("; cancel() is for tasks" if type(actor).__name__ == "ObjectID" else "")
        )
    actors.check_ref(actor._pyray_ref)
    current = session.current()
    if current is None:  # another thread is ending it: not to be begun anew for this
        raise SessionError("the session was shut down during this call")
    if current.local_mode:
        from pyray import local_actor

        local_actor.kill(actor)
        return
    current.call("kill_actor", actor._pyray_actor, bool(no_restart))


def exit_actor() -> None:
    """End the actor whose method calls this, on purpose: it is not made again.

    The call itself, and those that have not run, raise ActorDiedError.

    Raises
    ------
    TypeError
        Called outside of an actor.
    """
    import sys

    worker = sys.modules.get("pyray.worker.actor")
    local = sys.modules.get("pyray.local_actor")
    if (worker is None or worker.current is None) and (local is None or not local.running):
        raise TypeError("exit_actor() is called in a method of an actor")
    raise ActorExit("exit_actor() was called")
