"""The scripts in examples/ run, without a warning or a word on standard error."""

from __future__ import annotations

from pathlib import Path

import helpers
import pytest

ROOT = Path(__file__).resolve().parent.parent / "examples"
# What each says in the end, or on the way.
SAYS = {
    "async_pipeline.py": ["60 answers; ", "60 documents in "],
    "streaming.py": ["200000 values, mean ", "160 MB in "],
    "sweep.py": ["cancelled 3 at step ", "the best rate is 0.3; weights [-0.  1.  2.  3."],
}


def test_each_example_is_tested() -> None:
    assert sorted(path.name for path in ROOT.glob("*.py")) == sorted(SAYS)
    assert all(len(path.read_text().splitlines()) < 80 for path in ROOT.glob("*.py"))


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    done = helpers.run_python(str(ROOT / name), cwd=tmp_path)
    assert all(text in done.stdout for text in SAYS[name]), done.stdout
    assert done.stderr == ""
