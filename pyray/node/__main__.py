"""Entry of the node process; the driver runs this file with the descriptors that it passes on."""

import gc
import os
import sys

if __name__ == "__main__":
    # Nothing that imports leave behind is garbage, and looking for some takes a tenth of the time;
    # the shell turns it on.
    gc.disable()
    # Not `-m pyray.node`: that needs pyray on the default path, and would search the current
    # directory first, where a user's file may be called random.py.
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    # In front: another pyray that is installed is not to serve this driver.  The shell sets the
    # driver's own path before anything of the user's is looked for.
    if root not in sys.path:
        sys.path.insert(0, root)
    from pyray.node.shell import main

    main(*(int(a) for a in sys.argv[1:6]))
