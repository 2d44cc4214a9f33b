"""`pyray microbenchmark` prints Ray's rows, in Ray's form."""

from __future__ import annotations

import re

import helpers
import pytest
from click.testing import CliRunner

from pyray import microbenchmark
from pyray.cli import main
from pyray.exceptions import SessionError

LINE = re.compile(r"(.+) per second ([0-9]+\.[0-9]{2}) \+- ([0-9]+\.[0-9]{2})")


@pytest.mark.parametrize("name", ["single client wait 1k refs", "1:1 async-actor calls sync"])
def test_a_row_is_measured_and_printed(name: str) -> None:
    done = helpers.run_python(
        "-m", "pyray.cli", "microbenchmark", "--filter", name, "--rounds", "2", "--seconds", "0.01"
    )
    (line,) = done.stdout.splitlines()
    found = LINE.fullmatch(line)
    assert found, line
    assert found[1] == name
    assert float(found[2]) > 0
    assert 0 <= float(found[3]) < float(found[2])


def test_a_rate_counts_operations_and_not_calls() -> None:
    one, thousand = (
        next(microbenchmark.run(name, rounds=1, seconds=0.05, warm_up=0.05)).mean
        for name in ("single client tasks and get batch", "single client tasks async")
    )
    assert thousand > 50 * one  # the same batch, counted as 1 and as 1,000


def test_a_filter_that_matches_nothing_is_an_error_that_lists_the_rows() -> None:
    done = CliRunner().invoke(main, ["microbenchmark", "--filter", "single client teleport"])
    assert done.exit_code == 2
    assert "'single client teleport'" in done.output
    assert all(row.name in done.output for row in microbenchmark.ROWS)


def test_a_session_that_is_there_is_not_measured(ray: object) -> None:
    with pytest.raises(SessionError, match="shutdown"):
        next(microbenchmark.run("single client get"))
