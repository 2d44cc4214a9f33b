"""The examples in docstrings run."""

from __future__ import annotations

import doctest

import pytest

import pyray
import pyray.remote_function
from pyray._core import store

PUBLIC = {n: getattr(pyray, n) for n in pyray.__all__ if callable(getattr(pyray, n))}
PUBLIC |= {f"shared.{n}": getattr(pyray.shared, n) for n in pyray.shared.__all__}


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_in_docstrings(name: str) -> None:
    thing = PUBLIC[name]
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
