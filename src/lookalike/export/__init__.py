"""A model that leaves home: one plain module, one file, without this library.

``PlainModel`` computes what a ``PrototypeModel`` computes, without hooks and locks, and ``PlainParts`` what one of
patches does. ``export_model`` writes it as ONNX or as a PyTorch program, with everything that an explanation needs.
"""

from lookalike.export.file import export_model
from lookalike.export.options import ExportOptions
from lookalike.export.page import write_page
from lookalike.export.plain import Answer, PlainModel
from lookalike.export.plain_parts import PartsAnswer, PlainParts
from lookalike.export.quantised import Quantised, quantise

__all__ = [
    "Answer",
    "ExportOptions",
    "PartsAnswer",
    "PlainModel",
    "PlainParts",
    "Quantised",
    "export_model",
    "quantise",
    "write_page",
]
