"""The storms: each comes in a short form, for the ordinary suite, and in full size."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Called with what a storm has measured; one line with all of it is printed at the end.

    At once where the storm has its full size, whatever pytest does with the output; that of the
    short form is shown as any test's is (``-rP``).
    """
    told: dict[str, Any] = {}
    yield lambda **what: told.update(what)
    if not told:
        return
    line = f"{request.node.name}: " + ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}"
        if isinstance(value, float)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in told.items()
    )
    full = request.node.get_closest_marker("storm") or request.node.get_closest_marker("soak")
    capture = request.config.pluginmanager.getplugin("capturemanager")
    if full and capture is not None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", flush=True)
    else:
        print(line)
