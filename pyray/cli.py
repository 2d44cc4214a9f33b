"""The `pyray` command."""

from __future__ import annotations

import click

import pyray


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pyray.__version__, prog_name="pyray")
def main() -> None:
    """Ray's programming model on one machine."""


@main.command()
def check() -> None:
    """Start a session, run a task in it, and say what this machine offers."""
    import os
    import time

    began = time.perf_counter()
    info = pyray.init()
    up = time.perf_counter()
    worker = pyray.get(pyray.remote(os.getpid).remote())
    done = time.perf_counter()
    resources = pyray.cluster_resources()
    pyray.shutdown()
    over = time.perf_counter()
    click.echo(f"pyray {pyray.__version__} works here")
    click.echo(f"  CPUs {info['num_cpus']}, GPUs {info['num_gpus']}")
    click.echo(f"  object store {info['object_store_memory'] / 1e9:.1f} GB")
    click.echo(f"  memory for tasks {resources['memory'] / 1e9:.1f} GB")
    click.echo(
        f"  init {1e3 * (up - began):.0f} ms, first task (in process {worker}) "
        f"{1e3 * (done - up):.0f} ms, shutdown {1e3 * (over - done):.0f} ms"
    )


@main.command()
@click.option(
    "--filter", "pattern", default="", metavar="TEXT", help="Only rows whose name contains it."
)
@click.option(
    "--rounds", default=4, show_default=True, type=click.IntRange(1), help="Measurements of each."
)
@click.option(
    "--seconds",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="How long each lasts, at least; half of that goes before, to warm up.",
)
def microbenchmark(pattern: str, rounds: int, seconds: float) -> None:
    """Print rates, under the names that `ray microbenchmark` prints."""
    from pyray import microbenchmark as rows

    found = False
    for rate in rows.run(pattern, rounds, seconds, seconds / 2):
        found = True
        click.echo(rate)
    if not found:
        raise click.UsageError(
            f"no row's name contains {pattern!r}; the rows are:\n  "
            + "\n  ".join(row.name for row in rows.ROWS)
        )


if __name__ == "__main__":
    main()
