"""Actors in ``local_mode``: an object in the driver, whose methods run at once.

Values still go through the store, so what is read-only or copied elsewhere is so here.
"""

from __future__ import annotations

from typing import Any

from pyray import local_mode
from pyray._core import actors, shm, tasks
from pyray._core.errors import ActorExit
from pyray.actor_handle import ActorHandle
from pyray.actor_interface import EVERY_ACTORS, Interface, bind, raw_method
from pyray.actor_options import check_method_options
from pyray.exceptions import ActorAlreadyExistsError, ActorDiedError

_named: dict[tuple[int, str | None, str], LocalHandle] = {}
_handles: dict[str, LocalHandle] = {}
# The actors whose methods are under way, the innermost last.
running: list[LocalHandle] = []


class LocalHandle(ActorHandle):
    """A handle of an actor that is an object of this process."""

    def __init__(self, cls: type, options: dict[str, Any]) -> None:
        interface = Interface(cls, 0, tuple(options["concurrency_groups"] or ()))
        super().__init__(actors.new_ref(), 0, interface, 0, {"options": options})
        env = local_mode.environment_of(options)
        self.__dict__.update(
            _pyray_class=cls, _pyray_instance=None, _pyray_error=None, _pyray_env=env
        )

    def __getattr__(self, name: str) -> Any:
        interface = self.__dict__.get("_pyray_interface")
        if interface is None or name not in interface.methods:
            return super().__getattr__(name)
        known = interface.methods[name]
        writable = self.__dict__["_pyray_settings"]["options"]["writable"]
        return LocalMethod(
            self, name, known.nreturns, writable if known.writable is None else known.writable
        )

    def __reduce__(self) -> tuple[Any, ...]:
        _handles[self._actor_id] = self
        return _handle, (self._actor_id,)


def _handle(number: str) -> LocalHandle:
    return _handles[number]


class LocalMethod:
    """A method of such an actor."""

    def __init__(self, handle: LocalHandle, name: str, nreturns: int | str, writable: bool) -> None:
        self._handle = handle
        self._name = name
        self._nreturns = nreturns
        self._writable = writable

    def options(self, **options: Any) -> LocalMethod:
        """The same method with other options for its calls."""
        changed = check_method_options(options, f"{self._name}.options()")
        return LocalMethod(
            self._handle,
            self._name,
            changed.get("num_returns", self._nreturns),
            changed.get("writable", self._writable),
        )

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Run the method now, and store what it returns or raises."""
        fields = self._handle.__dict__
        name = f"{fields['_pyray_interface'].name}.{self._name}"
        options = {"num_returns": self._nreturns, "writable": self._writable}
        raw = raw_method(fields["_pyray_class"], self._name)
        if raw is not None:
            skip = 0 if isinstance(raw, staticmethod) else 1
            bind(name, getattr(raw, "__func__", raw), skip, args, kwargs)
        if fields["_pyray_error"] is not None:
            return local_mode.call(
                _raise(fields["_pyray_error"]), name, options, (), {}, fields["_pyray_env"]
            )

        def run(*values: Any, **named: Any) -> Any:
            running.append(self._handle)
            try:
                return _finished(self._function(fields["_pyray_instance"])(*values, **named))
            except ActorExit as leaving:
                _end(self._handle, f"ended: {leaving}")
                raise fields["_pyray_error"] from None
            finally:
                running.pop()

        return local_mode.call(run, name, options, args, kwargs, fields["_pyray_env"])

    def _function(self, instance: Any) -> Any:
        if self._name not in EVERY_ACTORS:
            return getattr(instance, self._name)
        if self._name == "__ray_call__":
            return lambda function, *args, **kwargs: function(instance, *args, **kwargs)
        if self._name == "__ray_ready__":
            return lambda: True
        return _raise(ActorExit("__ray_terminate__ was called"))


def _raise(error: BaseException) -> Any:
    def function() -> None:
        raise error

    return function


def _finished(result: Any) -> Any:
    """The result, of a coroutine too."""
    if not hasattr(result, "__await__"):
        return result
    import asyncio

    async def wait() -> Any:
        return await result

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    # A loop runs here already, and a second one needs a thread of its own.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, wait()).result()


def make_actor(
    cls: type, options: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ActorHandle:
    """Make an actor in this process, or find the one of that name."""
    key = (shm.epoch(), options["namespace"], options["name"])
    if options["name"] is not None and key in _named:
        if options["get_if_exists"]:
            return _named[key]
        raise ActorAlreadyExistsError(f"there is an actor named {options['name']!r} already")
    handle = LocalHandle(cls, options)
    constructor = f"{cls.__name__}.__init__"
    env = handle.__dict__["_pyray_env"]
    how = {"num_returns": -1, "writable": options["writable"]}
    made = local_mode.call(cls, constructor, how, args, kwargs, env)
    if isinstance(made, BaseException):
        text = f"the actor {cls.__name__} could not be made: its constructor raised\n{made}"
        error = ActorDiedError(text, handle._actor_id, cls.__name__, cause=made)
        handle.__dict__["_pyray_error"] = error
    else:
        handle.__dict__["_pyray_instance"] = made
    actors.abandon_ref(handle._pyray_ref)
    if options["name"] is not None:
        _named[key] = handle
    return handle


def get_actor(name: str, namespace: str | None) -> ActorHandle:
    """The actor of that name."""
    found = _named.get((shm.epoch(), namespace, name))
    if found is None:
        raise ValueError(f"there is no actor named {name!r}")
    return found


def named(everywhere: bool) -> list[dict[str, str]]:
    """Name and namespace of each named actor."""
    return [
        {"name": name, "namespace": namespace or ""}
        for epoch, namespace, name in _named
        if epoch == shm.epoch() and (everywhere or namespace is None)
    ]


def kill(handle: ActorHandle) -> None:
    """End an actor."""
    _end(handle, "was killed by ray.kill")


def _end(handle: ActorHandle, why: str) -> None:
    fields = handle.__dict__
    name = handle._pyray_interface.name
    fields["_pyray_instance"] = None
    fields["_pyray_error"] = ActorDiedError(
        f"the actor {name} ({handle._actor_id}) {why}", handle._actor_id, name
    )
    for key in [k for k, found in _named.items() if found is handle]:
        del _named[key]
    tasks.sweep()
