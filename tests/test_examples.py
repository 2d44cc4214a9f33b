"""The scripts in examples/ run, without a warning or a word on standard error."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import helpers
import pytest

ROOT = Path(__file__).resolve().parent.parent / "examples"
CYTHON = ROOT / "cython"
# What each says in the end, or on the way.
SAYS = {
    "async_pipeline.py": ["60 answers; ", "60 documents in "],
    "streaming.py": ["200000 values, mean ", "160 MB in "],
    "sweep.py": ["cancelled 3 at step ", "the best rate is 0.3; weights [-0.  1.  2.  3."],
    "shared_arrays/histogram.py": ["200,000 of them lie between -5 and 5"],
}
SMALL = {"shared_arrays/histogram.py": ["--millions=0.2"]}
# Has a test of its own; and what the examples beside it import.
OTHERS = {"shared_arrays/heat.py", "shared_arrays/measure.py"}
# With the same done by other means they are longer.
LINES = {"shared_arrays": 160}


def built(module: str) -> bool:
    return bool(list((CYTHON / "cython_examples").glob(f"{module}.*.so")))


def test_each_example_is_tested() -> None:
    found = [*ROOT.glob("*.py"), *ROOT.glob("shared_arrays/*.py")]
    assert {str(path.relative_to(ROOT)) for path in found} == {*SAYS, *OTHERS}
    for path in found:
        limit = LINES.get(path.parent.name, 80)
        assert len(path.read_text().splitlines()) < limit, path


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    done = helpers.run_python(str(ROOT / name), *SMALL.get(name, []), cwd=tmp_path)
    assert all(text in done.stdout for text in SAYS[name]), done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is not None, reason="Ray takes too long for a test"
)
@pytest.mark.no_asan("takes memory of its own")
def test_the_heat_equation_beside_other_means(tmp_path: Path) -> None:
    script = str(ROOT / "shared_arrays" / "heat.py")
    done = helpers.run_python(script, "--size=1300", "--steps=2", "--output=hot.ppm", cwd=tmp_path)
    assert done.stderr == ""
    assert "all of them end with " in done.stdout
    more = dict(re.findall(r"^(.+?)  +\d+ MB +(\d+\.\d) MB +\S+ s +\S+ s$", done.stdout, re.M))
    assert list(more) == ["pyray.shared", "pyray, rows returned", "multiprocessing.shared_memory"]
    assert "Ray, rows returned              Ray is not installed here\n" in done.stdout
    # Two grids, and little else; rows that are returned are in workers and in the store.
    grid = 1300 * 1300 * 8 / 1e6
    assert 2 * grid < float(more["pyray.shared"]) < 2.5 * grid < float(more["pyray, rows returned"])
    header, pixels = (tmp_path / "hot.ppm").read_bytes().split(b" 255\n", 1)
    assert header == b"P6 434 434"
    assert len(pixels) == 434 * 434 * 3
    assert {0, 255} < set(pixels)


@pytest.mark.skipif(not built("kernels"), reason="the Cython examples are not built")
def test_the_cython_examples_run(tmp_path: Path) -> None:
    main = str(CYTHON / "cython_main.py")
    done = helpers.run_python(main, "--size=200000", "all", cwd=tmp_path)
    left_out = 0 if built("blas_kernels") else 2
    assert f"{11 - left_out} ran well, {left_out} left out, 0 failed" in done.stdout, done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(not built("blas_kernels"), reason="the BLAS example is not built")
def test_blas_fills_part_of_a_shared_matrix(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(CYTHON)!r})
import numpy as np, pyray as ray
from cython_examples import blas_kernels
fill = ray.remote(max_retries=0)(blas_kernels.fill_kernel_rows_blas)
points = np.random.default_rng(0).normal(size=(60, 3))
whole = blas_kernels.kernel_matrix_blas(points, 0.3)
ray.init(num_cpus=2)
matrix = ray.shared.full((60, 60), -1.0)
ray.get([fill.remote(matrix[a:b], points, 0.3, a) for a, b in ((7, 20), (20, 20), (20, 60))])
print((matrix[:7] == -1).all(), np.allclose(matrix[7:], whole[7:]))
fill.remote(matrix[:0], points[:, :0].copy(), 0.3, 3)
ray.get(fill.remote(matrix, np.zeros((60, 0)), 0.3))
print((matrix == 1).all())
for part, first in ((matrix[:10], 51), (matrix[:10], -1), (matrix[:10, :59].copy(), 0)):
    try:
        ray.get(fill.remote(part, points, 0.3, first))
    except ValueError as error:
        print(str(error.cause))
"""
    done = helpers.run_script(tmp_path / "script.py", script)
    assert done.stdout.splitlines() == [
        "True True",
        "True",
        "rows 51 to 61 of 60 columns are no part of the 60 × 60 matrix of 60 points",
        "rows -1 to 9 of 60 columns are no part of the 60 × 60 matrix of 60 points",
        "buffer source array is read-only",
    ]
