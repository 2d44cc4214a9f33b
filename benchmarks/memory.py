"""What an idle session holds and burns."""

from __future__ import annotations

from benchmarks.harness import PYRAY, Sample, Settings, Target, Theme, at_most
from benchmarks.sessions import EXECUTOR, POOL
from benchmarks.startup import alone, in_rounds

THEME = Theme("memory", alone)

PROBES = {PYRAY: "idle_pyray", POOL: "idle_pool", EXECUTOR: "idle_executor"}


def beyond_bare(name: str, kind: str) -> Sample:
    """Megabytes more than a bare interpreter holds."""
    bare = in_rounds("idle_python", kind)
    all_in_all = in_rounds(name, kind)
    return lambda: all_in_all() - bare()


def add(name: str, title: str, kind: str, *targets: Target) -> None:
    @THEME.add(name, title, "MB", *targets, rounds=3, quick_rounds=1)
    def _memory(settings: Settings) -> dict[str, Sample]:
        return {contender: beyond_bare(name, kind) for contender, name in PROBES.items()}


add("memory", "idle session, beyond bare Python: its share of memory (PSS)", "pss", at_most(30))
add("memory-private", "the same, pages that one process alone has (USS)", "uss", at_most(30))


@THEME.add(
    "idle-cpu",
    "idle session: CPU over 1 s",
    "%",
    Target("0.0", lambda value, _: value < 0.05),
    rounds=3,
    quick_rounds=1,
)
def _idle_cpu(settings: Settings) -> dict[str, Sample]:
    return {contender: in_rounds(name, "cpu_percent") for contender, name in PROBES.items()}
