"""Imports run downward only, and importing pyray stays light."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyray

PACKAGE = Path(pyray.__file__).parent

# From the bottom up; a module may import what stands before it, in its own layer only what is there
# already or is listed with it.
LAYERS = [
    ["_core"],
    ["identity"],
    ["_task_error"],
    ["exceptions", "serialization", "protocol", "machine", "generators", "child", "stacks"],
    ["frozen"],
    ["spilling"],
    ["held_back"],
    ["runtime_env"],
    ["scheduling"],
    ["options"],
    ["actor_options"],
    ["definitions", "actor_interface"],
    ["tell"],
    ["node_process"],
    ["session"],
    ["accounting"],
    ["history"],
    ["shared"],
    ["trace"],
    ["placement"],
    ["worker.errors", "worker.output", "worker.environment"],
    ["worker.actor"],
    ["worker.threaded_actor"],
    ["worker.async_actor"],
    ["worker.main"],
    ["node.resources"],
    ["node.messages", "node.task", "node.tokens", "node.bundles"],
    ["node.audit", "node.pool", "node.memory"],
    ["node.questions"],
    ["node.reserving"],
    ["node.scheduler"],
    ["node.workers"],
    ["node.dedicated", "node.actors", "node.cancels", "node.groups"],
    ["node.state", "node.watch", "node.shapes"],
    ["node.shell"],
    ["node.books"],
    ["node.calls", "node.deaths"],
    ["node.loop"],
    ["local_mode", "ray_context"],
    ["actor_handle"],
    ["local_actor"],
    ["actor"],
    ["api", "remote_function", "cancelling"],
    ["runtime_context"],
    ["__init__"],
    ["util", "node.__main__"],
    ["microbenchmark"],
    ["cli"],
]
# Looked up when they are called, not at import: each with its reason.
LATE = {
    ("trace", "history"): "what a timeline alone needs",
    ("session", "shared"): "numpy is imported by programs that have shared arrays",
    ("node.workers", "worker.main"): "what a forked worker becomes",
    ("worker.actor", "worker.async_actor"): "asyncio is imported by actors that need it",
    ("worker.actor", "worker.threaded_actor"): "beside it",
}


def layer_of(module: str) -> int:
    for level, names in enumerate(LAYERS):
        for name in names:
            if module == name or module.startswith(name + "."):
                return level
    raise AssertionError(f"{module} has no place in the layers; give it one")


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name.endswith(".__init__"):
            name = name.removesuffix(".__init__")
        found.append((name, path))
    return found


def imported(path: Path) -> set[str]:
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            base = node.module
            if base == "pyray" or base.startswith("pyray."):
                base = base.removeprefix("pyray").lstrip(".")
                out |= {f"{base}.{a.name}".lstrip(".") for a in node.names}
        elif isinstance(node, ast.Import):
            out |= {a.name.removeprefix("pyray.") for a in node.names if "pyray." in a.name}
    return out


def resolve(name: str) -> str:
    """The module that an imported name is, or lies in."""
    known = {m for m, _ in modules()}
    while name not in known and "." in name:
        name = name.rpartition(".")[0]
    return name


def test_imports_run_downward_only() -> None:
    wrong = []
    for name, path in modules():
        if name in ("node", "worker", "util"):
            continue
        for target in imported(path):
            module = resolve(target)
            if module in ("node", "worker", name) or (name, module) in LATE:
                continue
            if module not in {m for m, _ in modules()}:
                module = "_core" if module.startswith("_core") else "__init__"
            if layer_of(module) > layer_of(name):
                wrong.append(f"{name} imports {module}")
    assert not wrong, wrong


def test_the_core_imports_nothing_above_it() -> None:
    wrong = []
    for path in sorted((PACKAGE / "_core").glob("*.p*")):
        if path.suffix not in (".pyx", ".pxd", ".py", ".pyi"):
            continue
        for line in path.read_text().splitlines():
            found = re.match(r"\s*(?:from|cimport|import)\s+(pyray[\w.]*)", line)
            if found and not found[1].startswith("pyray._core"):
                wrong.append(f"{path.name}: {line.strip()}")
    assert not wrong, wrong


def test_the_core_s_library_has_all_of_its_modules() -> None:
    from pyray import _core

    assert {path.stem for path in (PACKAGE / "_core").glob("*.pyx")} == _core._MODULES
    with pytest.raises(ModuleNotFoundError, match=r"pyray\._core\.nothing"):
        importlib.import_module("pyray._core.nothing")


def test_importing_pyray_imports_no_heavy_library() -> None:
    """numpy alone would triple the time that `import pyray` takes."""
    heavy = ["numpy", "pyarrow", "cloudpickle", "multiprocessing", "asyncio", "inspect", "click"]
    heavy += ["typing", "re", "contextlib"]
    # But for what the interpreter has imported by itself: in some environments it imports re.
    code = "import sys; before = set(sys.modules); import pyray; new = set(sys.modules) - before; "
    code += f"print([m for m in {heavy} if m in new])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert out.stdout.strip() == "[]"


def test_each_public_name_surfaces_once() -> None:
    assert len(set(pyray.__all__)) == len(pyray.__all__)
    missing = [n for n in pyray.__all__ if not hasattr(pyray, n)]
    assert not missing
