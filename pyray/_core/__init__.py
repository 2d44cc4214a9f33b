"""The Cython core: shared memory, ids, the object store, queues and the serializer.

Imports nothing above it; see ``docs/design.md`` for what lies where.

Its modules are all in one shared library, that of ``native``, where the import system would look
for one file each: to map and link 42 of them takes three times as long, and each has pages of its
own in every process.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib_external import ExtensionFileLoader, spec_from_file_location
from _imp import extension_suffixes

from pyray._core.annotations import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_LIBRARY = f"{__path__[0]}/native{extension_suffixes()[0]}"
# Those that are in it; a test compares them with the sources.
_MODULES = frozenset(
    [
        "actors",
        "arena",
        "arrow_block",
        "arrow_decode",
        "arrow_encode",
        "arrow_format",
        "arrow_layout",
        "arrow_numpy",
        "arrow_pickle",
        "audit",
        "by_reference",
        "cancelling",
        "census",
        "compact",
        "control",
        "coroutines",
        "dispatch",
        "events",
        "functions",
        "futures",
        "generators",
        "heap",
        "holds",
        "ids",
        "interrupts",
        "liveness",
        "mailboxes",
        "native",
        "objects",
        "pins",
        "points",
        "private_copy",
        "queues",
        "records",
        "recovery",
        "room",
        "running",
        "serializer",
        "shared_arrays",
        "shm",
        "spilling",
        "store",
        "streams",
        "tasks",
        "values",
        "waiting",
        "yielding",
    ]
)
if not os.path.exists(_LIBRARY):
    raise ImportError(
        f"pyray's core is not built for this Python: there is no {_LIBRARY}; say "
        "`pip install -e .` in pyray's directory"
    )


class _Finder:
    """Finds the modules in the library, in front of any file of theirs: of an older build, say."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        if package != __name__ or module not in _MODULES:
            return None
        return spec_from_file_location(name, _LIBRARY, loader=ExtensionFileLoader(name, _LIBRARY))


sys.meta_path.insert(0, _Finder)
