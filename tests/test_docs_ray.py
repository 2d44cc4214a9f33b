"""docs/coming-from-ray.md tells the truth: what it says is there is there, and nothing else is.

Names are looked up, and options given to what checks them. How things behave is tested elsewhere.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyray
from pyray import runtime_env, session
from pyray.actor_options import check_actor_options, check_method_options
from pyray.options import check_options

PAGE = Path(__file__).resolve().parent.parent / "docs" / "coming-from-ray.md"
STATES = ("yes", "differs", "ignored", "no")


class Row(NamedTuple):
    """A name of Ray's, and what the page says of it."""

    options: str  # of what, in tables of options
    name: str
    state: str


def rows() -> Iterator[Row]:
    options = ""
    for line in PAGE.read_text().splitlines():
        if found := re.fullmatch(r"<!-- options: (\w+) -->", line):
            options = found[1]
        elif line.startswith("#"):
            options = ""
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) >= 3:
            assert cells[1] in STATES, line
            for name in re.findall(r"`([^`]+)`", cells[0]):
                yield Row(options, name, cells[1])


ROWS = list(rows())
NAMES = [row for row in ROWS if row.name.startswith("ray.")]
OPTIONS = [row for row in ROWS if row.options]


def is_there(name: str) -> bool:
    """Whether a script can reach it, by attributes or by importing what is before a dot."""
    parts = name.removeprefix("ray.").split(".")
    for n in range(len(parts), -1, -1):
        # A function may have the name of the module that it is in: ray.util.placement_group.
        try:
            thing: Any = importlib.import_module(".".join(["pyray", *parts[:n]]))
        except ImportError:
            continue
        for part in parts[n:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        break
    return True


def test_names() -> None:
    assert len(NAMES) > 200
    assert [row for row in NAMES if is_there(row.name) != (row.state != "no")] == []


def init_takes(name: str) -> bool:
    return name in inspect.signature(pyray.init).parameters or name in session.CLUSTER_ONLY


# A value that each option takes; None does for all others.
VALUES: dict[str, Any] = {
    "num_returns": 1,
    "num_return_vals": 1,
    "max_retries": 1,
    "retry_exceptions": True,
    "max_restarts": 1,
    "max_task_retries": 1,
    "max_pending_calls": 1,
    "placement_group_bundle_index": -1,
    "env_vars": {"A": "1"},
    "working_dir": "/",
    "py_modules": ["/"],
    "enable_task_events": True,
    "name": "x",
    "get_if_exists": False,
}


def accepts(check: Callable[[dict[str, Any]], Any]) -> Callable[[str], bool]:
    def takes(name: str) -> bool:
        try:
            check({name: VALUES.get(name)})
        except (TypeError, ValueError):
            return False
        return True

    return takes


TAKES: dict[str, Callable[[str], bool]] = {
    "init": init_takes,
    "task": accepts(check_options),
    "actor": accepts(check_actor_options),
    "method": accepts(check_method_options),
    "runtime_env": accepts(lambda env: runtime_env.check({k: v or 1 for k, v in env.items()}, "x")),
}


def test_options() -> None:
    assert len(OPTIONS) > 80
    assert [r for r in OPTIONS if TAKES[r.options](r.name) != (r.state != "no")] == []


def test_ignored_options_are_those_that_the_code_ignores() -> None:
    said = {row.name for row in OPTIONS if row.options == "init" and row.state == "ignored"}
    assert said - session.CLUSTER_ONLY == set()
    rest = session.CLUSTER_ONLY - said
    assert not rest, f"ignored by init, and not on the page: {sorted(rest)}"


def test_every_public_name_is_on_the_page() -> None:
    text = PAGE.read_text()
    missing = [
        name
        for module, names in (
            ("ray", pyray.__all__),
            ("ray.exceptions", pyray.exceptions.__all__),
        )
        for name in names
        if f"`{module}.{name}`" not in text and f"`{name}`" not in text
    ]
    assert not missing
