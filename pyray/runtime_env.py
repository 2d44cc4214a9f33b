"""Runtime environments: what may be asked for, in one normal form.

An environment travels as text, since it is part of the key under which the node knows a task's
shape: tasks whose texts are equal share processes.  `pyray.worker.environment` puts it into effect.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import ModuleType

from pyray._core.annotations import Any

__all__ = ["RuntimeEnv"]

_KEYS = ("env_vars", "working_dir", "py_modules")

_INSTALL = "install what is needed into the Python that runs pyray: tasks run with the same"
# What else Ray has, and what to do on one machine instead.
_INSTEAD = {
    "pip": _INSTALL,
    "pip_check": _INSTALL,
    "uv": _INSTALL,
    "conda": _INSTALL,
    "packages": _INSTALL,
    "py_executable": "start the driver with that Python: tasks run with the same",
    "container": "start the driver in the container",
    "image_uri": "start the driver in the container",
    "excludes": "leave it out: working_dir is used where it lies, and nothing is copied",
    "java_jars": "there is no Java here; leave it out",
    "config": "leave it out: nothing is downloaded or installed that could take long",
    "worker_process_setup_hook": "call the function at the beginning of the tasks",
    "nsight": "start the profiler on the driver, and have it follow child processes",
    "rocprof_sys": "start the profiler on the driver, and have it follow child processes",
    "mpi": "start the program with mpirun in a task",
}


class RuntimeEnv(dict[str, Any]):
    """What processes that run tasks are to have besides what the driver has.

    A dictionary that is checked when it is made; a plain one does as well wherever this is taken.

    Parameters
    ----------
    env_vars : dict of str to str, optional
        Environment variables. ``${NAME}`` in a value stands for the variable as the worker has it,
        or for one set further ahead here; for nothing if there is none. What the loader and Python
        read only when a process starts (``LD_PRELOAD``, ``PYTHONHASHSEED``) takes effect in the
        processes that a task starts; ``PYTHONPATH`` and ``TZ`` at once.
    working_dir : str or path, optional
        Directory in which tasks run, and the first that modules are imported from. It is used where
        it lies, not copied: tasks see changes, and may make some.
    py_modules : list of (str, path or module), optional
        Packages (their directories) and modules (their files) to be importable; an imported module
        stands for its own. The directories they lie in come next on ``sys.path``.

    Raises
    ------
    TypeError
        A value of the wrong type.
    ValueError
        A path where nothing lies, a file or an address where a directory is needed, or a key of
        Ray's that there is no use for on one machine; the message says what to do instead.

    Notes
    -----
    Tasks that a task submits have its environment. One of their own is merged into that:
    `env_vars` variable by variable, the others replaced.

    Examples
    --------
    >>> import pyray as ray
    >>> from pyray.runtime_env import RuntimeEnv
    >>> @ray.remote(runtime_env=RuntimeEnv(env_vars={"GREETING": "hello"}))
    ... def greet():
    ...     import os
    ...     return os.environ["GREETING"]
    >>> ray.get(greet.remote())
    'hello'
    """

    def __init__(
        self,
        *,
        env_vars: Mapping[str, str] | None = None,
        working_dir: Any = None,
        py_modules: Any = None,
        **other: Any,
    ) -> None:
        given = {"env_vars": env_vars, "working_dir": working_dir, "py_modules": py_modules}
        super().__init__(_checked({**given, **other}, "RuntimeEnv"))

    def to_dict(self) -> dict[str, Any]:
        """The same as a plain dictionary.

        Examples
        --------
        >>> from pyray.runtime_env import RuntimeEnv
        >>> RuntimeEnv(env_vars={"A": "1"}).to_dict()
        {'env_vars': {'A': '1'}}
        """
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # Not through the constructor: a path that was there need not be there now, or in a worker.
        return _rebuild, (dict(self),)


def _rebuild(fields: dict[str, Any]) -> RuntimeEnv:
    env = RuntimeEnv.__new__(RuntimeEnv)
    env.update(fields)
    return env


def check(value: Any, what: str) -> RuntimeEnv | None:
    """An environment in its normal form; None for none, or an empty one.

    Parameters
    ----------
    value : mapping or None
        What the user gave.
    what : str
        Where it was given, for errors.

    Raises
    ------
    TypeError, ValueError
        See `RuntimeEnv`.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"{what}: runtime_env is a dict or a RuntimeEnv, not {value!r}")
    return _rebuild(_checked(value, what)) or None


def merge(parent: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a task has whose submitter has one environment and which asks for another."""
    merged = {**(parent or {}), **(own or {})}
    variables = {**(parent or {}).get("env_vars", {}), **(own or {}).get("env_vars", {})}
    if variables:
        merged["env_vars"] = variables
    return merged


def to_text(env: Mapping[str, Any] | None) -> str | None:
    """The form in which an environment travels, and is compared; None for an empty one."""
    import json

    # The order of the variables counts: one may refer to those before it.
    fields = {key: env[key] for key in _KEYS if env.get(key)} if env else {}
    return json.dumps(fields) if fields else None


def from_text(text: str | None) -> RuntimeEnv | None:
    """The environment that `to_text` wrote."""
    import json

    return None if text is None else _rebuild(json.loads(text))


def _checked(given: Mapping[Any, Any], what: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key == "env_vars":
            out[key] = _variables(value, what)
        elif key == "working_dir":
            out[key] = _directory(value, f"{what}: runtime_env's working_dir")
        elif key == "py_modules":
            out[key] = _modules(value, what)
        elif key in _INSTEAD:
            raise ValueError(f"{what}: runtime_env has no {key!r} on one machine: {_INSTEAD[key]}")
        else:
            raise ValueError(
                f"{what}: runtime_env has no {key!r}; there are {', '.join(_KEYS)}. Leave it out"
            )
    return out


def _variables(value: Any, what: str) -> dict[str, str]:
    from pyray.protocol import SESSION_VARIABLE

    if not isinstance(value, Mapping):
        raise TypeError(f"{what}: runtime_env's env_vars is a dict of str to str, not {value!r}")
    for name, text in value.items():
        if not isinstance(name, str):
            raise TypeError(f"{what}: a variable's name in env_vars is a string, not {name!r}")
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{what}: env_vars has {name!r}, which no variable can be called")
        if not isinstance(text, str):
            raise TypeError(
                f"{what}: env_vars[{name!r}] is a string, not {text!r} "
                f"({type(text).__name__}); write {str(text)!r}"
            )
        if "\0" in text:
            raise ValueError(f"{what}: env_vars[{name!r}] contains a null character")
        if name == SESSION_VARIABLE:
            raise ValueError(
                f"{what}: {name} marks the session's processes and cannot be in env_vars"
            )
    return dict(value)


def _path(value: Any, what: str) -> str:
    """An absolute path; what is no local path is refused."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{what} is a path, not {value!r}")
    path = os.fspath(value)
    if not isinstance(path, str):
        raise TypeError(f"{what} is a path of type str, not {value!r}")
    if not path or "\0" in path:
        raise ValueError(f"{what} is the path {path!r}, which cannot be")
    if "://" in path:
        raise ValueError(
            f"{what} is the address {path!r}: there is nothing here to fetch it with. Download and "
            "unpack it, and give the directory"
        )
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(path):
        raise ValueError(f"{what} is {path!r}, where nothing lies")
    if os.path.isfile(path) and path.lower().endswith((".zip", ".whl", ".tar.gz", ".tgz", ".jar")):
        raise ValueError(f"{what} is the archive {path!r}: unpack it, and give the directory")
    return path


def _directory(value: Any, what: str) -> str:
    path = _path(value, what)
    if not os.path.isdir(path):
        raise ValueError(f"{what} is {path!r}, which is not a directory")
    return path


def _modules(value: Any, what: str) -> list[str]:
    if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
        raise TypeError(
            f"{what}: runtime_env's py_modules is a list of paths and modules, not {value!r}"
        )
    found = []
    for i, item in enumerate(value):
        name = f"{what}: runtime_env's py_modules[{i}]"
        path = _path(_lies_at(item, name) if isinstance(item, ModuleType) else item, name)
        if not os.path.isdir(path) and not path.endswith(".py"):
            raise ValueError(f"{name} is {path!r}, which is neither a directory nor a .py file")
        found.append(path)
    return found


def _lies_at(module: ModuleType, what: str) -> str:
    """The directory of a package that is imported, or the file of a module."""
    if "." in module.__name__:
        raise ValueError(
            f"{what} is the module {module.__name__!r}, a part of a package: give the package "
            f"{module.__name__.partition('.')[0]!r}"
        )
    places = list(getattr(module, "__path__", None) or ())
    place = places[0] if places else getattr(module, "__file__", None)
    if place is None:
        raise ValueError(
            f"{what} is the module {module.__name__!r}, which has no file: it is built in, and "
            "there already"
        )
    return str(place)
