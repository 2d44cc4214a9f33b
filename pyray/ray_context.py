"""What `init` returns: what the session is, and a context manager that ends it."""

from __future__ import annotations

import sys

from pyray import session
from pyray._core.annotations import Any


class RayContext(dict[str, Any]):
    """The session as `init` made it; ``with init() as context:`` ends it with the block.

    A dict with ``node_pid``, ``num_cpus``, ``num_gpus``, ``object_store_memory``, ``address``,
    ``node_id`` and ``node_ip_address``.

    Examples
    --------
    >>> import pyray as ray
    >>> context = ray.init(num_cpus=2, ignore_reinit_error=True)
    >>> context["num_cpus"], context.dashboard_url
    (2, '')
    """

    dashboard_url = ""  # there is none
    python_version = ".".join(map(str, sys.version_info[:3]))

    @property
    def address_info(self) -> dict[str, Any]:
        """The same as a plain dict."""
        return dict(self)

    @property
    def ray_version(self) -> str:
        """pyray's version."""
        import pyray

        return pyray.__version__

    def disconnect(self) -> None:
        """End the session, as `shutdown` does."""
        session.shutdown()

    def __enter__(self) -> RayContext:
        return self

    def __exit__(self, *error: object) -> None:
        self.disconnect()
