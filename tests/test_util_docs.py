"""Each public thing in pyray.util has a docstring, and its examples run; it needs no internals."""

from __future__ import annotations

import ast
import doctest
import inspect
import pathlib

import pytest

import pyray.util
import pyray.util.actor_pool
import pyray.util.check_serialize
import pyray.util.helpers
import pyray.util.iter
import pyray.util.multiprocessing
import pyray.util.queue

MODULES = [
    pyray.util.actor_pool,
    pyray.util.check_serialize,
    pyray.util.helpers,
    pyray.util.iter,
    pyray.util.multiprocessing,
    pyray.util.multiprocessing.pool,
    pyray.util.multiprocessing.results,
    pyray.util.queue,
]
# What looks into objects as the serializer does, and names that lie elsewhere in pyray and are
# found under Ray's names here.
NEEDS_INTERNALS = {
    "check_serialize.py",
    "__init__.py",
    "placement_group.py",
    "scheduling_strategies.py",
    "tell.py",
}


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_examples_run(module):
    """One session for all of a module's: each would begin one, and take a second."""
    pyray.init(num_cpus=2)
    finder = doctest.DocTestFinder(recurse=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tests = [test for test in finder.find(module) if test.examples]
    assert tests
    for test in tests:
        assert runner.run(test).failed == 0, f"the example of {test.name} failed: see above"


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_all_that_is_public_has_a_docstring_and_an_example(module):
    missing = []
    for name in module.__all__:
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if thing.__module__.startswith("pyray.util") and ">>>" not in (thing.__doc__ or ""):
            missing.append(name)
        if inspect.isclass(thing):
            public = [n for n, m in vars(thing).items() if n[0] != "_" and callable(m)]
            missing += [f"{name}.{n}" for n in public if not inspect.getdoc(getattr(thing, n))]
    assert not missing


def test_it_is_built_on_the_public_interface():
    folder = pathlib.Path(pyray.util.__file__).parent
    wrong = []
    for path in folder.rglob("*.py"):
        if path.name in NEEDS_INTERNALS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.startswith("pyray.") and not name.startswith(
                    ("pyray.util", "pyray.serialization")
                ):
                    wrong.append(f"{path.relative_to(folder)} imports {name}")
    assert not wrong
