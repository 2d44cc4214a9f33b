"""Build pyray's Cython core; everything else about the package stands in ``pyproject.toml``.

All of ``pyray/_core/*.pyx`` becomes one shared library, which ``pyray/_core/__init__.py`` loads the
modules from: one library each would take more time at ``import pyray``, and memory in every
process.  Three environment variables choose another build than the release one, and each kind of
build keeps its own folder under ``build/``, so that going from one to another never mixes objects
of both:

``PYRAY_DEBUG=1``
    no optimisation, C ``assert`` on, ``PYRAY_DEBUG`` defined for the C code, bounds checks on.
``PYRAY_KILL_POINTS=1``
    with all kill points; the others have those off the hottest paths (``points.h``).
``PYRAY_SANITIZE=address|undefined|address,undefined``
    the same code under GCC's or Clang's sanitizers.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

CORE = "pyray/_core"
MACHINES = ("x86_64", "aarch64")
PYTHONS = ((3, 11), (3, 13))
SANITIZERS = ("address", "undefined")


def why_unsupported() -> str | None:
    """Say what on this machine pyray cannot run on, or None if it can."""
    if sys.platform != "linux":
        return (
            f"the operating system is {sys.platform}, and pyray needs Linux (memfd, futex, pidfd)"
        )
    if platform.machine() not in MACHINES:
        return f"the processor is {platform.machine()}, and pyray knows {' and '.join(MACHINES)}"
    if sys.implementation.name != "cpython":
        return f"the interpreter is {sys.implementation.name}, and pyray needs CPython"
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return f"this is Python {platform.python_version()}, and pyray needs 3.11, 3.12 or 3.13"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "this is the free-threaded build of Python, and pyray relies on the GIL"
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        libc = ""
    if not libc.startswith("glibc"):
        return "the C library is not glibc (musl, as on Alpine, is not supported)"
    return None


def debug_wanted() -> bool:
    return os.environ.get("PYRAY_DEBUG", "").strip() not in ("", "0")


def points_wanted() -> bool:
    return os.environ.get("PYRAY_KILL_POINTS", "").strip() not in ("", "0")


def sanitizers_wanted() -> list[str]:
    names = [n.strip() for n in os.environ.get("PYRAY_SANITIZE", "").split(",") if n.strip()]
    for name in names:
        if name not in SANITIZERS:
            sys.exit(f"PYRAY_SANITIZE={name}: unknown sanitizer; known are {', '.join(SANITIZERS)}")
    return sorted(set(names))


def flavour() -> str:
    """Name this kind of build, and so its folder: ``release``, ``debug-address``, …"""
    points = ["points"] if points_wanted() else []
    return "-".join(["debug" if debug_wanted() else "release", *points, *sanitizers_wanted()])


def compile_flags() -> list[str]:
    flags = ["-std=gnu11", "-fvisibility=hidden", "-pthread", "-Wall"]
    # Cython's own code has both at every turn: helpers left unused, range() over an unsigned index.
    flags += ["-Wno-unused-function", "-Wno-sign-compare"]
    sanitizers = sanitizers_wanted()
    if sanitizers:
        flags += [f"-fsanitize={','.join(sanitizers)}", "-fno-omit-frame-pointer", "-g", "-O1"]
    if points_wanted():
        flags += ["-DPYRAY_KILL_POINTS=1"]
    if debug_wanted():
        flags += ["-O0", "-g", "-UNDEBUG", "-DPYRAY_DEBUG=1"]
    if not sanitizers and not debug_wanted():
        flags += ["-O2"]
    return flags


def link_flags() -> list[str]:
    sanitizers = sanitizers_wanted()
    return ["-pthread", *([f"-fsanitize={','.join(sanitizers)}"] if sanitizers else [])]


def core_library() -> Extension:
    return Extension(
        "pyray._core.native",
        sorted(glob(f"{CORE}/*.pyx")),
        include_dirs=[CORE],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        # Whatever the modules share: an edit of any of these rebuilds them all.
        depends=sorted(glob(f"{CORE}/*.h") + glob(f"{CORE}/*.pxd")) + ["setup.py"],
        extra_compile_args=compile_flags(),
        extra_link_args=link_flags(),
        language="c",
    )


class build_in_flavour(build):
    """``build``, in a folder for this kind of build alone."""

    def finalize_options(self) -> None:
        if self.build_base == "build":
            self.build_base = os.path.join("build", flavour())
        super().finalize_options()

    def run(self) -> None:
        # A wheel takes whatever lies in build_lib: a module deleted since must not be there, nor
        # what other flags, or another compiler, have made.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        shutil.rmtree(self.build_temp, ignore_errors=True)
        super().run()


class build_core(build_ext):
    """``build_ext`` that runs Cython and all compilers side by side, and only when building."""

    def finalize_options(self) -> None:
        if self.parallel is None:
            self.parallel = os.cpu_count() or 1
        if self.editable_mode:
            # pip hands a throw-away folder over; ours lets the next build reuse this one.
            tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
            self.build_lib = os.path.join("build", flavour(), f"lib.{tag}")
            self.build_temp = os.path.join("build", flavour(), f"temp.{tag}")
        super().finalize_options()

    def run(self) -> None:
        if self.extensions:
            self.translate()
        super().run()

    def translate(self) -> None:
        """Have Cython write the C files, and put them in the place of the ``.pyx`` ones."""
        import Cython
        import numpy
        from Cython.Build import cythonize

        debug = debug_wanted()
        (library,) = self.extensions
        # One by one, since what an Extension is called is its module's name to Cython.
        written = cythonize(
            [
                Extension(f"pyray._core.{os.path.basename(source)[:-4]}", [source])
                for source in library.sources
            ],
            build_dir=os.path.join("build", flavour(), f"cython-{Cython.__version__}"),
            nthreads=os.cpu_count() or 1,
            force=self.force,
            quiet=not self.distribution.verbose,
            emit_linenums=debug or bool(sanitizers_wanted()),
            compiler_directives={
                "language_level": 3,
                "boundscheck": debug,
                "wraparound": False,
                "initializedcheck": debug,
                "cdivision": True,
                "binding": True,
                "embedsignature": True,
            },
        )
        library.sources = [source for module in written for source in module.sources]
        library.include_dirs = [*library.include_dirs, numpy.get_include()]

    def build_extension(self, ext: Extension) -> None:
        """Compile what has changed, side by side: setuptools has whole libraries side by side."""
        with ThreadPoolExecutor(max(1, self.parallel)) as pool:
            objects = list(pool.map(lambda source: self.compile(ext, source), ext.sources))
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            extra_postargs=ext.extra_link_args,
            debug=self.debug,
            build_temp=self.build_temp,
            target_lang=ext.language,
        )

    def compile(self, ext: Extension, source: str) -> str:
        """One module's object file."""
        (made,) = self.compiler.object_filenames([source], output_dir=self.build_temp)
        if self.force or newer_group([source, *ext.depends], made):
            self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                macros=ext.define_macros,
                include_dirs=ext.include_dirs,
                extra_postargs=ext.extra_compile_args,
                debug=self.debug,
                depends=ext.depends,
            )
        return str(made)

    def copy_extensions_to_source(self) -> None:
        # Without force an older build of another kind would not replace a newer one in place.
        force, self.force = self.force, True
        try:
            super().copy_extensions_to_source()
        finally:
            self.force = force


if __name__ == "__main__":
    reason = why_unsupported()
    if reason is not None:
        sys.exit(f"pyray can't be built here: {reason}.")
    setup(
        ext_modules=[core_library()],
        cmdclass={"build": build_in_flavour, "build_ext": build_core},
    )
