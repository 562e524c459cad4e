"""KMEx on a Ray cluster: the same conversion, for more images than one machine can embed.

The data are embedded by a pool of actors, each of which writes what it has embedded to a folder that all nodes
share; a task per class clusters; tasks over the shards find the images behind each prototype. The model that comes
out is that of ``KMEx`` on one machine. Ray is imported when a conversion starts, not before.
"""

from lookalike.distributed.conversion import convert

__all__ = ["convert"]
