"""Decode cases with the ordinary build, in a process that cannot unpickle: `test_fuzz.py` runs it.

Prints how many inputs there were, and how many were whole values. Anything but a value or a
CorruptObjectError ends it with a traceback.
"""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

NOTHING = "a pickle, which nobody reads"


def refuse(data: Any, **options: Any) -> Any:
    return NOTHING


# Before the decoder takes it: bytes made up by a fuzzer are not to be run.
pickle.loads = refuse

from pyray._core import serializer  # noqa: E402


def main(archive: Path) -> None:
    here = type(sys)("fuzzed")
    here.__dict__.update(Plain=type("Plain", (), {"__init__": lambda self, *a: None}), rebuild=list)
    sys.modules["fuzzed"] = here
    serializer.set_hooks(None, None, lambda data: "id", None, lambda number: here.Plain)
    inputs = whole = 0
    with zipfile.ZipFile(archive) as cases:
        for name in cases.namelist():
            data = cases.read(name)
            decode = serializer.loads if name.startswith("store") else serializer.loads_inline
            for one in (data, data[: len(data) // 2], data + bytes(64)):
                inputs += 1
                try:
                    repr(decode(one))
                    whole += 1
                except serializer.CorruptObjectError:
                    pass
    print(inputs, whole)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
