"""What mypy and pyright make of code that uses pyray: the right types, and errors where they are.

Both read ``typing_sample.py``; its valid part is run, too, since a declaration that no checker
objects to may still be untrue.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyray

SAMPLE = Path(__file__).with_name("typing_sample.py")
PACKAGE = Path(pyray.__file__).parent


def expected(checker: str) -> set[int]:
    """Numbers of the sample's lines that have an error."""
    lines = enumerate(SAMPLE.read_text().splitlines(), 1)
    found = [(n, re.search(r"# error(?:: (\w+))?$", line)) for n, line in lines]
    return {n for n, mark in found if mark and mark[1] in (None, checker)}


def difference(found: dict[int, str], checker: str) -> str:
    """The lines where what was found is not what was expected."""
    said = [f"line {n}: {text}" for n, text in sorted(found.items()) if n not in expected(checker)]
    missed = [f"line {n}: no error" for n in sorted(expected(checker) - set(found))]
    return "\n".join(said + missed)


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert len(expected("mypy")) > 15


@pytest.mark.seconds(120)
def test_mypy(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"]
        + ["--no-error-summary", "--hide-error-context", "--cache-dir", str(tmp_path), SAMPLE.name],
        cwd=SAMPLE.parent,
        env={"MYPYPATH": str(PACKAGE.parent), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert not run.stderr
    found = {}
    for line in run.stdout.splitlines():
        name, number, severity, text = line.split(":", 3)
        assert name == SAMPLE.name, line
        if severity.strip() == "error":
            found[int(number)] = text
    assert not difference(found, "mypy"), difference(found, "mypy")


@pytest.mark.seconds(120)
@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright is not installed")
def test_pyright(tmp_path: Path) -> None:
    settings = {
        "include": [SAMPLE.name],
        "extraPaths": [str(PACKAGE.parent)],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "reportMissingModuleSource": False,
        # Consequences of the errors in `wrong`, in the same lines or in later ones.
        "reportUnknownMemberType": False,
        "reportUnknownVariableType": False,
        "reportUnknownArgumentType": False,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    shutil.copy(SAMPLE, tmp_path)
    run = subprocess.run(
        ["pyright", "--outputjson", "--project", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    told = json.loads(run.stdout)
    assert told["summary"]["filesAnalyzed"] == 1, run.stderr
    found = {
        problem["range"]["start"]["line"] + 1: problem["message"]
        for problem in told["generalDiagnostics"]
        if problem["severity"] == "error"
    }
    assert not difference(found, "pyright"), difference(found, "pyright")


def test_what_is_declared_is_so(ray: Any) -> None:
    import typing_sample

    for value, kind in typing_sample.valid():
        assert type(value) is kind


def test_the_generic_classes_can_be_subscribed_at_run_time() -> None:
    for cls in (pyray.ObjectRef, pyray.RemoteFunction, pyray.ActorClass, pyray.ActorHandle):
        assert cls[int] is cls
    assert pyray.ActorProxy[int] is pyray.ActorHandle
