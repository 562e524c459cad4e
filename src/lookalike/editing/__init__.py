"""Edits of a model's prototypes: what each does is known at once, and all can be undone.

``state`` is what edits change, ``edits`` are pure functions on it, ``evidence`` counts the training data again,
``effect`` measures; ``session`` puts them together, ``history`` and ``storage`` lose nothing.
"""

from lookalike.editing.edits import (
    EDITS,
    Add,
    Describe,
    Drop,
    Edit,
    Erase,
    Merge,
    Move,
    Pin,
    Rename,
    Restrict,
    Show,
    Split,
    edit_from_dict,
)
from lookalike.editing.effect import Change, ClassEffect, Effect
from lookalike.editing.folder import open_session, save_session
from lookalike.editing.history import Entry, History, Opening
from lookalike.editing.script import read_script, resolve, run_step, script_of
from lookalike.editing.session import EditSession
from lookalike.editing.sources import EditOptions
from lookalike.editing.state import State

__all__ = [
    "EDITS",
    "Add",
    "Change",
    "ClassEffect",
    "Describe",
    "Drop",
    "Edit",
    "EditOptions",
    "EditSession",
    "Effect",
    "Entry",
    "Erase",
    "History",
    "Merge",
    "Move",
    "Opening",
    "Pin",
    "Rename",
    "Restrict",
    "Show",
    "Split",
    "State",
    "edit_from_dict",
    "open_session",
    "read_script",
    "resolve",
    "run_step",
    "save_session",
    "script_of",
]
