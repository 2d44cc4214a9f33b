"""Builds some of the core's modules once more, with a sanitizer and a driver beside them.

For `tests/fuzz` and `tests/stress`, which need another build than the suite: not the whole package,
compiled with flags that would slow everything down, and reached from a driver in Cython.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "pyray" / "_core"
FLAGS = ["-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-pthread", "-w"]
PLAIN = ["annotations.py", "errors.py", "serial_errors.py", "hex_id.py"]
# Run in a process of its own: setuptools takes its orders from sys.argv.
SETUP = """
import json, re, sys
import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
wish = json.loads(sys.argv[1])
made = [
    Extension(name, [source], include_dirs=[*wish["include"], numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=flags, extra_link_args=wish["link"], depends=wish["depends"])
    for name, source, flags in wish["modules"]
]
made = cythonize(made, build_dir=wish["build"] + "/c", include_path=[wish["root"]], quiet=True,
    emit_linenums=True, compiler_directives=dict(language_level=3, boundscheck=False,
    wraparound=False, initializedcheck=False, cdivision=True))
for extension in made:
    # What is a process's own becomes a thread's own; but for CONSTANTS.
    if extension.name.rpartition(".")[2] in wish["thread_local"]:
        with open(extension.sources[0]) as f:
            text = f.read()
        new = re.sub(r"^static (?!__thread|PyObject|[^;]*_[A-Z]{2,})"
                     r"([^()\\n]*\\b__pyx_v_\\w+(\\[\\w+\\])*(\\s=[^\\n;]*)?;)",
                     r"static __thread \\1", text, flags=re.M)
        if new != text:
            with open(extension.sources[0], "w") as f:
                f.write(new)
sys.argv = ["setup.py", "-q", "build_ext", "-b", wish["build"] + "/lib", "-t", wish["build"]
            + "/obj", "-j", "2"]
setup(name="sanitized", packages=[], ext_modules=made)
"""


def compiler() -> str:
    return str((sysconfig.get_config_var("CC") or "gcc").split()[0])


def library(name: str) -> str:
    """Where the compiler has a sanitizer's library."""
    path = subprocess.check_output([compiler(), f"-print-file-name={name}"], text=True).strip()
    if "/" not in path:
        raise SystemExit(f"{compiler()} has no {name} here: it needs GCC's sanitizers")
    return path


def build(
    folder: Path,
    modules: Sequence[str],
    driver: Path,
    sanitize: Sequence[str],
    *,
    instrument: Sequence[str] = (),
    thread_local: Sequence[str] = (),
    edit: Callable[[str, str], str] | None = None,
) -> None:
    """Make `folder`/lib, or bring it up to date: an empty package `pyray` with some modules of the
    core in it, and the driver as a module named like its file.

    `instrument`: more flags for the compiler. `thread_local`: modules whose variables each
    thread is to have for itself, as each process does. `edit(name, text)`: what a header of the
    core is to say instead.
    """
    import json

    core = folder / "lib" / "pyray" / "_core"
    core.mkdir(parents=True, exist_ok=True)
    # Empty, since importing pyray itself would want the modules that are not built here.
    (folder / "lib" / "pyray" / "__init__.py").write_text("")
    (core / "__init__.py").write_text("")
    for name in PLAIN:
        shutil.copyfile(CORE / name, core / name)
    headers = folder / "include"
    headers.mkdir(exist_ok=True)
    for header in CORE.glob("*.h"):
        text = header.read_text()
        text = text if edit is None else edit(header.name, text)
        if not (headers / header.name).exists() or (headers / header.name).read_text() != text:
            (headers / header.name).write_text(text)
    # Before -I, where Cython has the headers themselves.
    flags = [*FLAGS, *sanitize, f"-iquote{headers}"]
    wish = {
        "modules": [
            *[[f"pyray._core.{n}", str(CORE / f"{n}.pyx"), [*flags, *instrument]] for n in modules],
            [driver.stem, str(driver), [*flags, *instrument]],
        ],
        "include": [str(headers)],
        "link": list(sanitize),
        "build": str(folder),
        "root": str(ROOT),
        "thread_local": list(thread_local),
        "depends": sorted(str(p) for p in [*headers.glob("*.h"), *CORE.glob("*.pxd")]),
    }
    subprocess.run([sys.executable, "-c", SETUP, json.dumps(wish)], check=True, cwd=ROOT)


def environment(folder: Path, preload: Sequence[str], **more: str) -> dict[str, str]:
    """For a process that imports what was built."""
    path = os.pathsep.join([str(folder / "lib"), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": path, "LD_PRELOAD": " ".join(preload), **more}
