"""KMEx on a Ray cluster: the same conversion, for more images than one machine can embed.

The data are embedded by a pool of actors, each of which writes what it has embedded to a folder that all nodes
share; a task per class clusters; tasks over the shards find the images behind each prototype. The model that comes
out is that of ``KMEx`` on one machine. Ray is imported when a conversion starts, not before; and what only the
driver needs is loaded when it asks for ``convert``, so that actors start sooner.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lookalike.conversion.on_ray.conversion import convert

__all__ = ["convert"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lookalike.conversion.on_ray' has no attribute {name!r}")
    from lookalike.conversion.on_ray.conversion import convert

    return convert
