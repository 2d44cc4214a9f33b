"""Two pictures of what was measured: ``python -m benchmarks.plot FIGURES.json FOLDER``.

Plain SVG of some kilobytes, the same for the same figures: it is kept in the repository.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.harness import PYRAY
from benchmarks.sessions import EXECUTOR, POOL
from benchmarks.table import number

COLOURS = {
    PYRAY: "#c2410c",
    POOL: "#1d4ed8",
    EXECUTOR: "#0891b2",
    "joblib/loky": "#7c3aed",
    "Dask distributed": "#ca8a04",
    "Ray": "#15803d",
}
LIMIT = "#6b7280"  # memcpy, ping-pongs and the like
INK, FAINT = "#1f2937", "#e5e7eb"

# Microseconds of one operation, of what is counted in such units.
MICROS = {"µs": lambda v: v, "ms": lambda v: 1e3 * v, "per s": lambda v: 1e6 / v}

Figures = list[dict[str, Any]]


def picture(width: int, height: float, parts: Iterator[str]) -> str:
    # A background of its own: pages may be dark.
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
            f'font-family="sans-serif" font-size="12" fill="{INK}">',
            '<rect width="100%" height="100%" fill="#fff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: str, **style: Any) -> str:
    attributes = "".join(f' {k.replace("_", "-")}="{v}"' for k, v in style.items())
    return f'<text x="{x:.0f}" y="{y:.0f}"{attributes}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = FAINT, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" fill="none"{dashed}/>'


def duration(micros: float) -> str:
    unit, factor = next(
        ((u, f) for u, f in (("s", 1e6), ("ms", 1e3), ("µs", 1)) if micros >= f), ("ns", 1e-3)
    )
    return f"{number(micros / factor)} {unit}"


# ---- all figures that are times, one line each ---------------------------------------------------


def bars(results: Figures) -> str:
    """A bar of pyray's, and a dot for each reference, along one logarithmic axis."""
    rows = [
        (r["title"], {n: MICROS[r["unit"]](c["median"]) for n, c in r["contenders"].items()})
        for r in results
        if r["unit"] in MICROS and PYRAY in r["contenders"] and r["theme"] != "growth"
    ]
    values = [v for _, contenders in rows for v in contenders.values() if v > 0] or [1.0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    left, top, step, width = 330, 52, 20, 900

    def x(value: float) -> float:
        share = (math.log10(max(value, 10**low)) - low) / max(1, high - low)
        return left + share * (width - left - 30)

    bottom = top + step * len(rows)

    def parts() -> Iterator[str]:
        place = 10.0
        for name, colour in {
            **COLOURS,
            "other references": LIMIT,
        }.items():
            yield f'<circle cx="{place:.0f}" cy="15" r="5" fill="{colour}"/>'
            yield text(place + 9, 19, name)
            place += 26 + 6.6 * len(name)
        for exponent in range(low, high + 1):
            yield line(x(10**exponent), top - 6, x(10**exponent), bottom)
            label = duration(10**exponent).replace(".00", "").replace(".0", "")
            yield text(x(10**exponent), top - 10, label, text_anchor="middle", fill=LIMIT)
        for i, (title, contenders) in enumerate(rows):
            y = top + step * i + step / 2
            ours = contenders.pop(PYRAY)
            yield text(left - 8, y + 4, title, text_anchor="end", font_size=11)
            yield (
                f'<rect x="{left}" y="{y - 5:.0f}" width="{max(2.0, x(ours) - left):.1f}" '
                f'height="10" fill="{COLOURS[PYRAY]}"><title>pyray: {duration(ours)}</title></rect>'
            )
            for name, value in contenders.items():
                yield (
                    f'<circle cx="{x(value):.1f}" cy="{y:.0f}" r="4.5" stroke="#fff" '
                    f'fill="{COLOURS.get(name, LIMIT)}">'
                    f"<title>{escape(name)}: {duration(value)}</title></circle>"
                )
        yield text(left, bottom + 18, "time of one operation: shorter is better", fill=LIMIT)

    return picture(width, bottom + 28, parts())


# ---- cost against size ---------------------------------------------------------------------------


def curves(growth: Figures, allowed: float) -> str:
    """A small panel for each figure; the dashed line is what it may cost."""
    columns, width, height = 3, 300, 170

    def panel(i: int, curve: dict[str, Any]) -> Iterator[str]:
        left, top = width * (i % columns) + 24, height * (i // columns) + 40
        right, bottom = left + width - 60, top + height - 75
        sizes, costs = zip(*curve["points"], strict=True)
        limit = allowed * costs[0]
        high = 1.15 * max(limit, *costs)
        span = math.log10(sizes[-1] / sizes[0]) or 1.0

        def at(size: float, cost: float) -> tuple[float, float]:
            share = math.log10(size / sizes[0]) / span
            return left + share * (right - left), bottom - cost / high * (bottom - top)

        yield text(left - 10, top - 14, curve["title"], font_size=11)
        yield line(left, bottom, right, bottom, LIMIT)
        yield line(left, at(1, limit)[1], right, at(1, limit)[1], LIMIT, "4 3")
        path = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in curve["points"])
        yield f'<polyline points="{path}" stroke="{COLOURS[PYRAY]}" stroke-width="2" fill="none"/>'
        for size, cost in curve["points"]:
            x, y = at(size, cost)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[PYRAY]}"/>'
            yield text(x, y - 6, number(cost), text_anchor="middle", font_size=10)
            yield text(x, bottom + 13, f"{size:,}", text_anchor="middle", font_size=10, fill=LIMIT)

    rows = -(-len(growth) // columns)
    parts = (part for i, curve in enumerate(growth) for part in panel(i, curve))
    return picture(columns * width, rows * height + 10, parts)


def draw(report: dict[str, Any], folder: str) -> list[str]:
    """Write ``benchmarks.svg`` and ``growth.svg``, of what the report has; gives their paths."""
    from benchmarks.growth import ALLOWED

    pictures = {}
    if any(result["theme"] != "growth" for result in report["results"]):
        pictures["benchmarks.svg"] = bars(report["results"])
    if report["growth"]:
        pictures["growth.svg"] = curves(report["growth"], ALLOWED)
    os.makedirs(folder, exist_ok=True)
    for name, content in pictures.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(content)
    return [os.path.join(folder, name) for name in pictures]


if __name__ == "__main__":
    with open(sys.argv[1]) as figures:
        print(*draw(json.load(figures), sys.argv[2]), sep="\n")
