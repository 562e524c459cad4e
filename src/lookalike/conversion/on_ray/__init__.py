"""Conversion on a Ray cluster: the same model, from more images than one machine can embed.

A pool of actors embeds the data, and each writes its embeddings to a folder that all nodes share. A task per class
clusters; tasks over the shards find the images behind each prototype. Ray is imported when a conversion starts, and
what only the driver needs is loaded when it asks for ``Ray``, so that actors start sooner.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lookalike.conversion.on_ray.conversion import Ray

__all__ = ["Ray"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lookalike.conversion.on_ray' has no attribute {name!r}")
    from lookalike.conversion.on_ray.conversion import Ray

    return Ray
