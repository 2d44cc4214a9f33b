"""What is built on the public interface."""

from pyray.actor import list_named_actors

__all__ = ["list_named_actors"]
