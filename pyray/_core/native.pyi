"""The shared library that all of the core's modules are in, as a module; it holds nothing."""
