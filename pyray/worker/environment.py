"""Putting a runtime environment into effect in this process.

Workers are forked, so an environment is laid over what the driver has.  It is set up before
anything of the user's is imported.  Where that fails (a directory has gone since the call), each
task of the process fails with the reason, after another attempt.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyray.exceptions import RuntimeEnvSetupError

_REFERENCE = re.compile(r"\$\{([^${}]+)\}")

_pending: Mapping[str, Any] | None = None
_Place = tuple[dict[str, str], list[str], str]  # variables, sys.path, working directory
# In local_mode: the environment of the call that runs, and what there was outside all calls.
_local: tuple[Mapping[str, Any], _Place] | None = None


def set_up(env: Mapping[str, Any] | None) -> None:
    """Give this process its environment; if that fails, `require` says so."""
    global _pending
    _pending = env
    with contextlib.suppress(RuntimeEnvSetupError):
        require(lambda: "this worker")


def require(name: Callable[[], str]) -> None:
    """Make sure that the environment is there.

    Parameters
    ----------
    name : callable
        Says for whom, in the error.

    Raises
    ------
    RuntimeEnvSetupError
        It still cannot be set up.
    """
    global _pending
    if _pending is None:
        return
    try:
        apply(_pending)
    except (OSError, ValueError) as problem:
        raise RuntimeEnvSetupError(
            f"the runtime_env of {name()} could not be set up in pid={os.getpid()}: {problem}"
        ) from problem
    _pending = None


def apply(env: Mapping[str, Any]) -> None:
    """Set variables, the working directory and `sys.path`.

    Raises
    ------
    OSError, ValueError
        With nothing changed.
    """
    where = env.get("working_dir")
    modules = env.get("py_modules", ())
    given = env.get("env_vars", {})
    for path in modules:
        os.stat(path)
    before = dict(os.environ)
    try:
        for name, value in given.items():
            os.environ[name] = expanded(value)
        if where is not None:
            os.chdir(where)
    except (OSError, ValueError):
        _replace_environment(before)
        raise
    if "TZ" in given:
        import time

        time.tzset()
    ours = [where] if where is not None else []
    ours += [os.path.dirname(path) for path in modules]
    others = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    # A fresh Python would begin with what the user says in PYTHONPATH.
    _prepend(ours + (others if "PYTHONPATH" in given else []))
    if ours:
        # For what tasks start: it does not inherit sys.path.
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(ours + others))


def expanded(value: str) -> str:
    """A variable's value with each ``${NAME}`` replaced by what this process has, or nothing."""
    return _REFERENCE.sub(lambda found: os.environ.get(found[1], ""), value)


def _prepend(paths: list[str]) -> None:
    if paths:
        import importlib

        sys.path[:] = dict.fromkeys(paths + sys.path)
        importlib.invalidate_caches()


def _replace_environment(variables: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    os.environ.update(variables)


@contextlib.contextmanager
def applied(env: Mapping[str, Any] | None) -> Iterator[None]:
    """For local_mode: this environment and no other for as long as this lasts.

    Raises
    ------
    RuntimeEnvSetupError
        It cannot be set up.
    """
    global _local
    outer = _local
    if (env or None) == (outer[0] if outer else None):
        yield
        return
    here = (dict(os.environ), list(sys.path), os.getcwd())
    # Not on top of the outer call's: references to variables would be replaced twice.
    plain = outer[1] if outer else here
    try:
        _go_back(plain)
        try:
            apply(env or {})
        except (OSError, ValueError) as problem:
            raise RuntimeEnvSetupError(
                f"the runtime_env of this call could not be set up: {problem}"
            ) from problem
        _local = (env or {}, plain)
        yield
    finally:
        _local = outer
        _go_back(here)


def _go_back(to: _Place) -> None:
    variables, path, where = to
    _replace_environment(variables)
    sys.path[:] = path
    os.chdir(where)
