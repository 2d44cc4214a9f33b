"""Cython code that ``cython_main.py`` runs in pyray tasks: plain compiled modules, no pyray inside.

==================  =====================================================================
``cython_simple``   functions of every kind that Cython has: def, typed, cpdef, cdef
``cython_class``    an extension type that travels between processes
``masked_log``      a numpy function over a typed memoryview
``kernels``         compute-heavy loops without the GIL, in place and returning their result
``blas_kernels``    the same matrix through scipy's BLAS (only where scipy was there at build)
==================  =====================================================================
"""
