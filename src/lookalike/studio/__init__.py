"""A local page to look at a model, change its prototypes, and undo: a thin layer over ``lookalike.editing``."""

from lookalike.studio.desk import Desk
from lookalike.studio.server import StudioServer

__all__ = ["Desk", "StudioServer"]
