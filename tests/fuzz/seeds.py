"""Where the fuzzer starts: real encodings, of values made by hand and by hypothesis."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import sys
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np

from pyray._core import serializer

LARGEST = 6000


@dataclasses.dataclass
class Plain:
    a: Any
    b: Any = None


class Ref:
    """Stands for an ObjectID."""


class Custom:
    pass


def rebuild(value: Any) -> Any:
    return value


# As the fuzzer's own process knows them.
for thing in (Plain, rebuild, Custom):
    thing.__module__ = "fuzzed"
fuzzed = type(sys)("fuzzed")
fuzzed.__dict__.update(Plain=Plain, rebuild=rebuild, Custom=Custom)
sys.modules["fuzzed"] = fuzzed

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.complex_numbers()
)  # fmt: skip
KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner) | st.sets(KEYS)
        | st.frozensets(KEYS) | st.builds(Plain, inner, inner)
    ),
    max_leaves=30,
)  # fmt: skip

ARRAYS = [
    np.arange(5),
    np.ones((2, 3, 4), order="F"),
    np.zeros((0, 4)),
    np.array(7.5),
    np.array([True, False]),
    np.zeros((2, 2), "M8[ns]"),
    np.zeros(2, [("a", "i4"), ("b", "f2")]),
    np.ones(3, complex),
    np.arange(6, dtype=">i4"),
    np.array(["ab", "c"]),
    *(np.ones(3, t) for t in "bhilBHILefd?"),
]
VALUES_BY_HAND = [
    [1, 2.5, "text", b"bytes", None, True, (1, {"k": [2]})],
    [{1, 2}, frozenset([3]), 2**100, -(2**70), 1j, bytearray(b"abc"), "\ud800"],
    [np.float32(1), np.int8(3), np.datetime64("2020-01-01"), np.bool_(True)],
    ARRAYS,
    *ARRAYS,
    [ARRAYS[0], ARRAYS[0], {"same": ARRAYS[0]}],
    [Plain(1, [2]), Plain(3), Plain, Plain, rebuild, collections.OrderedDict],
    [datetime.date(2020, 1, 2), decimal.Decimal("1.5"), range(3), slice(1, 2)],
    [np.arange(400), bytearray(2000), datetime.timedelta(1)],
    Ref(),
    {"ref": Ref(), "refs": [Ref(), (Ref(),)]},
    [Custom(), Custom()],
    [[[[[[[[[[1]]]]]]]]]],
    {i: str(i) for i in range(40)},
    list(range(-200, 200, 3)),
    ["x" * n for n in (0, 1, 31, 32, 255, 256)],
    tuple(b"y" * n for n in (0, 1, 255, 256, 300)),
    [2**31, -(2**31), 2**62, -129, -128, 128, 1e300, float("nan")],
]


def main(folder: str) -> None:
    values: list[Any] = list(VALUES_BY_HAND)

    @hypothesis.given(VALUES)
    @hypothesis.settings(
        max_examples=300, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    def collect(value: Any) -> None:
        values.append(value)

    collect()
    serializer.set_hooks(Ref, lambda ref: b"r" * 36, lambda data: Ref(), lambda obj: 1)
    serializer.set_custom(Custom, "custom", lambda value: [1, "state"], rebuild)
    for name in ("store", "compact"):
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
    for i, value in enumerate(values):
        store = bytes(serializer.dumps(value))
        if len(store) <= LARGEST:
            (Path(folder) / "store" / f"{i:04}").write_bytes(store)
        compact = serializer.dumps_inline(value, 4096)
        if compact is not None:
            (Path(folder) / "compact" / f"{i:04}").write_bytes(compact)


if __name__ == "__main__":
    main(sys.argv[1])
