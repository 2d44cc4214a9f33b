"""What annotations need of ``typing``, without importing it.

That module, and what it imports itself, would take a fifth of the time of ``import pyray``. Nothing
of pyray's evaluates annotations; for who does, any class will do. Type checkers see the real one.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as Any
else:
    Any = object
