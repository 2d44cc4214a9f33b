"""The examples in docstrings run, and the first script of the README prints what it says."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyray
import pyray.remote_function
from pyray._core import store

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = [n for n in pyray.__all__ if callable(getattr(pyray, n))]


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_in_docstrings(name: str) -> None:
    thing = getattr(pyray, name)
    assert thing.__doc__, f"{name} has no docstring"
    finder = doctest.DocTestFinder(recurse=True)
    tests = [t for t in finder.find(thing, name, module=False) if t.examples]
    assert tests, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in tests:
        assert runner.run(test).failed == 0, f"the example of {test.name} failed: see above"


def test_examples_of_the_package() -> None:
    assert doctest.testmod(pyray).failed == 0
    assert store.ObjectID is pyray.ObjectRef


def test_the_first_script_prints_what_the_readme_says(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## A first script") :]
    code, output = re.findall(r"```(?:python|text)\n(.*?)```", section, re.DOTALL)[:2]
    (tmp_path / "first.py").write_text(code)
    run = subprocess.run(
        [sys.executable, "first.py"], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 0, run.stderr
    # All but the seconds at the end, which depend on the machine.
    assert run.stdout.splitlines()[0] == output.splitlines()[0]
    assert run.stderr == ""
