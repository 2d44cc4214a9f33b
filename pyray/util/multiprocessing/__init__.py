"""`multiprocessing.Pool` with pyray's actors as its processes.

Change the import, and a program that uses the standard pool runs as it is:

>>> from pyray.util.multiprocessing import Pool
>>> with Pool(2) as pool:
...     pool.map(abs, [-1, 2, -3])
[1, 2, 3]
"""

from __future__ import annotations

from multiprocessing import TimeoutError

from pyray.util.multiprocessing.pool import Pool
from pyray.util.multiprocessing.results import AsyncResult, PoolTerminatedError

__all__ = ["AsyncResult", "Pool", "PoolTerminatedError", "TimeoutError"]
