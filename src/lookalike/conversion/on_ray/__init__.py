"""Conversion on a Ray cluster: the same model, from more images than one machine can embed.

A pool of actors embeds the data and writes the embeddings, as shards, to a folder that all nodes share. One task per
class clusters it; then tasks over the shards find the training images nearest to each prototype. Ray is imported when a
conversion starts, and the driver's modules when ``Ray`` is first used, so that actors start sooner.
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
