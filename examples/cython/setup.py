"""Build the ``cython_examples`` package: one extension for each ``.pyx`` file.

``blas_kernels.pyx`` calls the BLAS that comes with scipy.  It is built where scipy is installed
and left out, with one line that says so, where it is not; everything else needs numpy alone.
"""

import importlib.util
import os
import sysconfig
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

PACKAGE = "cython_examples"
NEEDS_SCIPY = {"blas_kernels"}


def scipy_root():
    """Return the folder that scipy's ``cython_blas.pxd`` can be cimported from, or None.

    pip builds in an environment of its own, which has no scipy, but the interpreter's own
    site-packages, where ``pip install scipy`` put it, can still be asked for.
    """
    roots = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
    spec = importlib.util.find_spec("scipy")
    if spec is not None and spec.origin:
        roots.insert(0, os.path.dirname(os.path.dirname(spec.origin)))
    for root in roots:
        if os.path.exists(os.path.join(root, "scipy", "linalg", "cython_blas.pxd")):
            return root
    return None


def modules(with_blas):
    for source in sorted(glob(f"{PACKAGE}/*.pyx")):
        name = os.path.splitext(os.path.basename(source))[0]
        if name in NEEDS_SCIPY and not with_blas:
            print(f"{PACKAGE}: scipy was not found, so {name} (the BLAS example) is left out")
            continue
        yield Extension(
            f"{PACKAGE}.{name}",
            [source],
            extra_compile_args=["-O2", "-Wall"],
            libraries=["m"],
        )


if __name__ == "__main__":
    scipy_at = scipy_root()
    setup(
        ext_modules=cythonize(
            list(modules(with_blas=scipy_at is not None)),
            build_dir="build/cython",
            include_path=[scipy_at] if scipy_at else [],
            language_level=3,
            nthreads=os.cpu_count() or 1,
        ),
    )
