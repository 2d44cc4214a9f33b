"""Options of remote functions: which there are, and what is a valid value."""

from __future__ import annotations

from collections.abc import Mapping

from pyray import runtime_env
from pyray._core.annotations import Any
from pyray.scheduling import OLD_OPTIONS, check_strategy, old_options

# Options of Ray's that mean something on a cluster only: accepted, without effect.
CLUSTER_ONLY = frozenset(
    {
        "accelerator_type", "enable_task_events", "fallback_strategy", "label_selector", "_labels",
        "_metadata",
    }
)  # fmt: skip

DEFAULTS: dict[str, Any] = {
    "num_cpus": None,
    "num_gpus": None,
    "resources": None,
    "memory": None,
    "num_returns": None,
    "_generator_backpressure_num_objects": None,
    "max_calls": None,
    "max_retries": 3,
    "retry_exceptions": False,
    "name": None,
    "runtime_env": None,
    "scheduling_strategy": None,
    "writable": False,
}


def check_options(given: Mapping[str, Any], what: str = "@remote") -> dict[str, Any]:
    """The options, with their defaults' names, or an error that says what is wrong.

    Raises
    ------
    TypeError
        An unknown option, or a value of the wrong type.
    ValueError
        A value out of range.
    """
    out: dict[str, Any] = {}
    for key, value in given.items():
        name = "num_returns" if key == "num_return_vals" else key
        if name in CLUSTER_ONLY or name in OLD_OPTIONS:
            continue
        if name not in DEFAULTS:
            raise TypeError(
                f"{what} has no option {key!r}; there are {', '.join(sorted(DEFAULTS))}"
            )
        if name in out:
            raise TypeError(f"{what}: num_return_vals is the old name of num_returns; give one")
        out[name] = value
    for name in ("num_cpus", "num_gpus", "memory"):
        if out.get(name) is not None:
            check_amount(out[name], name, what)
    if out.get("num_gpus") is not None and out["num_gpus"] > 1 and out["num_gpus"] % 1:
        raise ValueError(
            f"{what}: num_gpus above 1 is a whole number, not {out['num_gpus']!r}: "
            "a task gets whole GPUs, or a part of one"
        )
    resources = out.get("resources")
    if resources is not None:
        if not isinstance(resources, Mapping):
            raise TypeError(f"{what}: resources is a dict of name to amount, not {resources!r}")
        for key, value in resources.items():
            if not isinstance(key, str) or not key:
                raise TypeError(f"{what}: a resource's name is a string, not {key!r}")
            if key in ("CPU", "GPU", "memory"):
                option = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}[key]
                raise ValueError(f"{what}: ask for {key} with {option}=, not in resources")
            check_amount(value, f"resources[{key!r}]", what)
        out["resources"] = dict(resources)
    if out.get("num_returns") is not None:
        check_returns(out["num_returns"], what)
    if out.get("_generator_backpressure_num_objects") is not None:
        check_window(out["_generator_backpressure_num_objects"], what)
    if out.get("max_calls") is not None:
        check_whole(out["max_calls"], "max_calls", what, 0, 2**31 - 1)
    if "max_retries" in out:
        check_whole(out["max_retries"], "max_retries", what, -1, 32767)
    if "retry_exceptions" in out:
        out["retry_exceptions"] = check_exceptions(out["retry_exceptions"], what)
    if "writable" in out:
        check_flag(out["writable"], "writable", what)
    if out.get("name") is not None and not isinstance(out["name"], str):
        raise TypeError(f"{what}: name is a string, not {out['name']!r}")
    if "runtime_env" in out:
        out["runtime_env"] = runtime_env.check(out["runtime_env"], what)
    if "scheduling_strategy" in out or any(name in given for name in OLD_OPTIONS):
        out["scheduling_strategy"] = check_strategy(old_options(given, what), what)
    return out


def check_amount(value: Any, name: str, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what}: {name} is a number, not {value!r}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{what}: {name} is 0 or more and finite, not {value!r}")


def check_flag(value: Any, name: str, what: str) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{what}: {name} is True or False, not {value!r}")


def check_whole(value: Any, name: str, what: str, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what}: {name} is a whole number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{what}: {name} is between {low} and {high}, not {value}")


def check_returns(n: Any, what: str) -> None:
    if isinstance(n, str):
        if n not in ("streaming", "dynamic"):
            raise ValueError(
                f"{what}: num_returns is a number, 'streaming' or 'dynamic', not {n!r}"
            )
    else:
        check_whole(n, "num_returns", what, 0, 65535)


def check_window(n: Any, what: str) -> None:
    name = "_generator_backpressure_num_objects"
    check_whole(n, name, what, -1, 2**31 - 1)
    if n == 0:
        raise ValueError(f"{what}: {name} is 1 or more, or -1 for no limit, not 0")


def check_exceptions(value: Any, what: str) -> bool | tuple[type, ...]:
    if isinstance(value, bool):
        return value
    if isinstance(value, (list, tuple)) and all(
        isinstance(c, type) and issubclass(c, BaseException) for c in value
    ):
        return tuple(value)
    raise TypeError(
        f"{what}: retry_exceptions is True, False or a list of exception classes, not {value!r}"
    )


def resource_request(options: Mapping[str, Any]) -> dict[str, float]:
    """What a call asks for, by resource name; ``{"CPU": 1}`` is the default shape."""
    request: dict[str, float] = {}
    cpus = options.get("num_cpus")
    request["CPU"] = 1 if cpus is None else cpus
    if options.get("num_gpus"):
        request["GPU"] = options["num_gpus"]
    if options.get("memory"):
        request["memory"] = options["memory"]
    for name, amount in (options.get("resources") or {}).items():
        if amount:
            request[name] = amount
    return request
