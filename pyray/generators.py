"""What calls of remote generators return; the core implements it (``_core/generators.pyx``)."""

from pyray._core.generators import DynamicObjectRefGenerator, ObjectRefGenerator

# Users meet them here, and tracebacks and pickles are to name that.
DynamicObjectRefGenerator.__module__ = "pyray.generators"

__all__ = ["DynamicObjectRefGenerator", "ObjectRefGenerator"]
