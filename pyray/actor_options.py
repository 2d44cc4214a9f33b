"""Options of actors and their methods: which there are, and what is a valid value."""

from __future__ import annotations

from collections.abc import Mapping

from pyray._core.annotations import Any
from pyray.options import (
    CLUSTER_ONLY,
    check_exceptions,
    check_flag,
    check_options,
    check_returns,
    check_whole,
    check_window,
)
from pyray.scheduling import OLD_OPTIONS

# Shared with functions, and checked there.
_COMMON = (
    "num_cpus", "num_gpus", "memory", "resources", "name", "runtime_env", "scheduling_strategy",
    "writable", *OLD_OPTIONS,
)  # fmt: skip
# Ray's, without effect on one machine.
_IGNORED = CLUSTER_ONLY | {"object_store_memory", "enable_tensor_transport", "_actor_init_args"}

ACTOR_DEFAULTS: dict[str, Any] = {
    "num_cpus": None,
    "num_gpus": None,
    "memory": None,
    "resources": None,
    "name": None,
    "namespace": None,
    "get_if_exists": False,
    "lifetime": None,
    "max_restarts": 0,
    "max_task_retries": 0,
    "max_pending_calls": -1,
    "max_concurrency": None,
    "concurrency_groups": None,
    "allow_out_of_order_execution": None,
    "runtime_env": None,
    "scheduling_strategy": None,
    "writable": False,
}
METHOD_DEFAULTS: dict[str, Any] = {
    "num_returns": None,
    "max_task_retries": None,
    "retry_exceptions": None,
    "concurrency_group": None,
    "name": None,
    "_generator_backpressure_num_objects": None,
    "writable": None,
}
_METHOD_IGNORED = frozenset({"enable_task_events", "tensor_transport", "_tensor_transport"})
MOST = 2**31 - 1


def check_actor_options(given: Mapping[str, Any], what: str = "@remote") -> dict[str, Any]:
    """The options of a class, or an error that says what is wrong.

    Raises
    ------
    TypeError
        An unknown option, or a value of the wrong type.
    ValueError
        A value out of range, or options that contradict each other.
    """
    for name in given:
        if name not in ACTOR_DEFAULTS and name not in _IGNORED and name not in OLD_OPTIONS:
            raise TypeError(
                f"{what} of a class has no option {name!r}; there are "
                f"{', '.join(sorted(ACTOR_DEFAULTS))}"
            )
    out = check_options({k: given[k] for k in _COMMON if k in given}, what)
    rest = {k: v for k, v in given.items() if k in ACTOR_DEFAULTS and k not in _COMMON}
    for name in ("max_restarts", "max_task_retries"):
        if name in rest:
            check_whole(rest[name], name, what, -1, MOST if name == "max_restarts" else 32767)
    if "max_pending_calls" in rest:
        check_whole(rest["max_pending_calls"], "max_pending_calls", what, -1, MOST)
        if rest["max_pending_calls"] == 0:
            raise ValueError(f"{what}: max_pending_calls is 1 or more, or -1 for no limit, not 0")
    if rest.get("max_concurrency") is not None:
        check_whole(rest["max_concurrency"], "max_concurrency", what, 1, MOST)
    for name in ("namespace", "lifetime"):
        if rest.get(name) is not None and not isinstance(rest[name], str):
            raise TypeError(f"{what}: {name} is a string, not {rest[name]!r}")
    if rest.get("lifetime") not in (None, "detached", "non_detached"):
        raise ValueError(
            f"{what}: lifetime is 'detached', 'non_detached' or None, not {rest['lifetime']!r}"
        )
    for name in ("get_if_exists", "allow_out_of_order_execution"):
        if rest.get(name) is not None and not isinstance(rest[name], bool):
            raise TypeError(f"{what}: {name} is True or False, not {rest[name]!r}")
    if out.get("name") == "" or rest.get("namespace") == "":
        raise ValueError(f"{what}: an actor's name and namespace are not empty strings")
    groups = rest.get("concurrency_groups")
    if groups is not None:
        rest["concurrency_groups"] = _groups(groups, what)
    return {**out, **rest}


def _groups(groups: Any, what: str) -> dict[str, int]:
    if isinstance(groups, (list, tuple)):
        # Ray's other form.
        groups = {g["name"]: g["max_concurrency"] for g in groups}
    if not isinstance(groups, Mapping):
        raise TypeError(
            f"{what}: concurrency_groups is a dict of group name to number of calls at a time, "
            f"not {groups!r}"
        )
    for name, n in groups.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"{what}: a concurrency group's name is a string, not {name!r}")
        check_whole(n, f"concurrency_groups[{name!r}]", what, 1, MOST)
    if len(groups) > 65000:
        raise ValueError(f"{what}: {len(groups)} concurrency groups; there may be 65,000")
    return dict(groups)


def check_actor(options: Mapping[str, Any], what: str) -> None:
    """What can only be said of all options together.

    Raises
    ------
    ValueError
        They contradict each other.
    """
    if options["get_if_exists"] and options["name"] is None:
        raise ValueError(f"{what}: get_if_exists=True needs a name to look for")
    if options["namespace"] is not None and options["name"] is None:
        raise ValueError(f"{what}: a namespace is of no use without a name")


def check_method_options(given: Mapping[str, Any], what: str = "@method") -> dict[str, Any]:
    """The options of a method, or of one call of it.

    Raises
    ------
    TypeError, ValueError
        As for `check_actor_options`.
    """
    out: dict[str, Any] = {}
    for name, value in given.items():
        if name in _METHOD_IGNORED:
            continue
        if name not in METHOD_DEFAULTS:
            raise TypeError(
                f"{what} of a method has no option {name!r}; there are "
                f"{', '.join(sorted(METHOD_DEFAULTS))}"
            )
        if value is not None:
            out[name] = value
    if "num_returns" in out:
        check_returns(out["num_returns"], what)
    if "max_task_retries" in out:
        check_whole(out["max_task_retries"], "max_task_retries", what, -1, 32767)
    if "retry_exceptions" in out:
        out["retry_exceptions"] = check_exceptions(out["retry_exceptions"], what)
    for name in ("concurrency_group", "name"):
        if name in out and not isinstance(out[name], str):
            raise TypeError(f"{what}: {name} is a string, not {out[name]!r}")
    if "_generator_backpressure_num_objects" in out:
        check_window(out["_generator_backpressure_num_objects"], what)
    if "writable" in out:
        check_flag(out["writable"], "writable", what)
    return out
