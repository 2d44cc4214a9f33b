"""The benchmarks run, and write what they found: a table, JSON and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import helpers
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.seconds(60)
def test_a_run_prints_a_table_and_writes_figures_and_pictures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    asked = ["actor-sync", "get-small", "live-get", "object-bytes"]
    options = ["--quick", "--json", str(figures), "--svg", str(tmp_path)]
    done = helpers.run_python("-m", "benchmarks", *options, *asked, cwd=ROOT, timeout=55)
    report = json.loads(figures.read_text())
    assert [result["name"] for result in report["results"]] == asked
    for result in report["results"]:
        assert result["title"] in done.stdout
        assert result["error"] is None
        assert result["contenders"]["pyray"]["median"] > 0
        assert all(target["met"] in (True, False) for target in result["targets"])
    assert [size for size, _ in report["growth"][0]["points"]] == [1_000, 10_000, 100_000]
    for name, words in (("benchmarks.svg", "get of an int"), ("growth.svg", "100,000")):
        text = ElementTree.parse(tmp_path / name).getroot().itertext()
        assert words in [part.strip() for part in text]


def test_an_unknown_name_is_an_error_that_says_where_the_names_are() -> None:
    with pytest.raises(AssertionError, match=r"exit 2(.|\n)*'teleport'; --help lists them"):
        helpers.run_python("-m", "benchmarks", "teleport", cwd=ROOT)
