"""What joins shared arrays to the serializer."""

from collections.abc import Callable

def set_loader(loader: Callable[[], object]) -> None: ...
