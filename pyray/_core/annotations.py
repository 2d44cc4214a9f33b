"""What annotations need of ``typing``, without importing it.

That module, and what it imports itself, would take a fifth of the time of ``import pyray``. No
annotation is evaluated at run time, so that any object will do; type checkers see the real one.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as Any
else:
    Any = object
