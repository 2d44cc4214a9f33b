"""The results as one table of plain text."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import PYRAY, Result

HEADINGS = (
    "figure", "pyray", "unit", "min – max", "reference", "its figure", "× better", "target", "met",
)  # fmt: skip
RIGHT = {"pyray", "its figure", "× better"}


def lines(results: list[Result]) -> list[str]:
    """Headings, then a line per figure and one more for each further reference."""
    rows = [HEADINGS]
    for result in results:
        rows += _rows(result)
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    text = [_line(row, widths) for row in rows]
    errors = [f"{r.benchmark.name} failed: {r.error}" for r in results if r.error]
    return [text[0], "─" * max(map(len, text)), *text[1:], *errors]


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = (
        cell.rjust(width) if heading in RIGHT else cell.ljust(width)
        for heading, cell, width in zip(HEADINGS, row, widths, strict=True)
    )
    return "  ".join(cells).rstrip()


def _rows(result: Result) -> Iterator[tuple[str, ...]]:
    medians = result.medians
    samples = result.samples.get(PYRAY)
    if result.error or not samples:
        yield (result.title, "failed", *("" for _ in HEADINGS[2:]))
        return
    references = [name for name in medians if name != PYRAY]
    targets = list(zip(result.benchmark.targets, result.met(), strict=True))
    words = {True: "yes", False: "no", None: "?"}
    for i in range(max(1, len(references), len(targets))):
        ours = ("", "", "", "")
        if i == 0:
            spread = f"{number(min(samples))} – {number(max(samples))}"
            ours = (result.title, number(medians[PYRAY]), result.benchmark.unit, spread)
        theirs = ("", "", "")
        if i < len(references):
            times = result.times_better(references[i])
            better = "" if times is None or times <= 0 else number(times)
            theirs = (references[i], number(medians[references[i]]), better)
        target = (targets[i][0].text, words[targets[i][1]]) if i < len(targets) else ("", "")
        yield (*ours, *theirs, *target)


def number(value: float) -> str:
    """Three digits that mean something."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or size == 0 else f"{value:.3f}"
