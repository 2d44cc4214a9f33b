"""Run benchmarks and print one table: ``python -m benchmarks [NAME...]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from benchmarks import (
    actors,
    growth,
    memory,
    objects,
    peers,
    plot,
    scaling,
    shared,
    spilling,
    startup,
    table,
    tasks,
)
from benchmarks.harness import Benchmark, Neighbours, Result, Settings, Theme, environment

THEMES: list[Theme] = [
    startup.THEME,
    memory.THEME,
    tasks.THEME,
    actors.THEME,
    objects.THEME,
    objects.LARGE,
    shared.THEME,
    spilling.THEME,
    scaling.THEME,
    growth.THEME,
]
BENCHMARKS: list[Benchmark] = [benchmark for theme in THEMES for benchmark in theme.benchmarks]


def parser() -> argparse.ArgumentParser:
    names = "\n".join(
        f"  {theme.name + ':':<15}{' '.join(b.name for b in theme.benchmarks)}" for theme in THEMES
    )
    result = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What pyray costs, beside what one would use without it.",
        epilog=f"themes and benchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "names", metavar="NAME", nargs="*", help="a benchmark or a theme; default: all"
    )
    result.add_argument("--quick", action="store_true", help="fewer rounds, smaller arrays")
    result.add_argument("--peers", action="store_true", help="beside Ray, Dask and joblib/loky too")
    result.add_argument("--json", metavar="FILE", help="write every sample there as well")
    result.add_argument("--svg", metavar="FOLDER", help="draw the figures there")
    return result


def chosen(names: list[str]) -> set[str]:
    """The benchmarks that are named, themselves or by their themes; all if none is."""
    known = {b.name: {b.name} for b in BENCHMARKS}
    known |= {theme.name: {b.name for b in theme.benchmarks} for theme in THEMES}
    unknown = [name for name in names if name not in known]
    if unknown:
        parser().error(f"there is no benchmark or theme {unknown[0]!r}; --help lists them")
    return set().union(*(known[name] for name in names or known))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 if a benchmark failed (not if a target was missed)."""
    options = parser().parse_args(arguments)
    names = chosen(options.names)
    settings = Settings(options.quick)
    machine = environment()
    print(_machine_line(machine), flush=True)
    started = time.perf_counter()
    neighbours = Neighbours()
    results: list[Result] = []
    for theme in THEMES:
        for result in theme.run(names, settings):
            results.append(result)
            _progress(f"{len(results)} of {len(names)}: {result.benchmark.name}")
    machine["others_cores_busy"] = neighbours.cores_busy()
    if options.peers:
        for message in peers.run(results, settings):
            _progress("")
            print(message, flush=True)
    _progress("")
    print("", *table.lines(results), "", sep="\n")
    machine["seconds"] = time.perf_counter() - started
    print(
        f"medians; {machine['seconds']:.0f} s; meanwhile other processes kept "
        f"{machine['others_cores_busy']:.2f} of {machine['cores']} cores busy"
    )
    report = {
        "environment": machine,
        "results": [result.as_json() for result in results],
        "growth": growth.curves(results),
    }
    if options.json:
        os.makedirs(os.path.dirname(options.json) or ".", exist_ok=True)
        with open(options.json, "w") as file:
            json.dump(report, file, indent=1)
            file.write("\n")
    if options.svg:
        plot.draw(report, options.svg)
    return int(any(result.error for result in results))


def _machine_line(machine: dict[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_available'] / 1e9:.1f} GB available, Linux {machine['kernel']}, "
        f"Python {machine['python']}, pyray {machine['pyray']}, load {machine['load']:.2f}"
    )


def _progress(text: str) -> None:
    """What is being done, where somebody looks on."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
