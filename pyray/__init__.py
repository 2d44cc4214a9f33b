"""pyray: Ray's programming model on one machine.

>>> import pyray as ray
>>> @ray.remote
... def square(x):
...     return x * x
>>> ray.get([square.remote(i) for i in range(4)])
[0, 1, 4, 9]
"""

from pyray import exceptions
from pyray._core.annotations import TYPE_CHECKING, Any
from pyray._core.store import ObjectID
from pyray.actor import get_actor, kill
from pyray.api import (
    arrow_stream,
    available_resources,
    cluster_resources,
    get,
    get_gpu_ids,
    init,
    is_initialized,
    nodes,
    put,
    shutdown,
    wait,
)
from pyray.cancelling import cancel
from pyray.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from pyray.runtime_context import get_runtime_context
from pyray.serialization import register_custom_serializer
from pyray.trace import timeline

if TYPE_CHECKING:
    from pyray import shared as shared
    from pyray._typing import ActorClass, ActorHandle, ActorProxy, RemoteFunction, method, remote
else:
    from pyray.actor import ActorClass
    from pyray.actor_handle import ActorHandle
    from pyray.actor_interface import method
    from pyray.remote_function import RemoteFunction, remote

    # To a type checker the class itself: `counter: ActorProxy[Counter]` has Counter's methods.
    ActorProxy = ActorHandle

ObjectRef = ObjectID

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `ray.util` needs no import of its own in Ray either; here it costs nothing until it is used.
    if name in ("util", "shared"):
        import importlib

        return importlib.import_module(f"pyray.{name}")
    if name == "cloudpickle":
        import cloudpickle

        return cloudpickle
    raise AttributeError(f"module 'pyray' has no attribute {name!r}")


__all__ = [
    "ActorClass",
    "ActorHandle",
    "ActorProxy",
    "DynamicObjectRefGenerator",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "RemoteFunction",
    "__version__",
    "arrow_stream",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "register_custom_serializer",
    "remote",
    "shutdown",
    "timeline",
    "wait",
]
