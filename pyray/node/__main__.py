"""Entry of the node process; the driver runs this file with the descriptors that it passes on."""

import gc
import os
import sys

# What `importlib` is made of, which takes a millisecond to import.
from _frozen_importlib import module_from_spec
from _frozen_importlib_external import PathFinder

if __name__ == "__main__":
    # Nothing that imports leave behind is garbage, and looking for some takes a tenth of the time;
    # the loop turns it on.
    gc.disable()
    # Not `-m pyray.node`: that needs pyray on the default path, and would search the current
    # directory first, where a user's file may be called random.py.
    # And not by putting pyray's directory on the path, which may be the user's own, with more such
    # files; behind what is on it, it might not be this pyray that is found, but one installed.
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    spec = PathFinder.find_spec("pyray", [root])
    assert spec is not None and spec.loader is not None
    package = sys.modules["pyray"] = module_from_spec(spec)
    spec.loader.exec_module(package)
    from pyray.node.loop import main

    main(*(int(a) for a in sys.argv[1:6]))
