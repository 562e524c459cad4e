"""Folders of saved models and classifiers: their format, and reading one that may come from anyone.

Nothing in such a folder is executed. Everything is checked before anything is built: JSON, types, names, sizes,
checksums, shapes and values of tensors, and the headers of pictures.
"""

from lookalike.saved.checks import TRAINING_KEYS, below, check_classifier_tensors, check_model_tensors
from lookalike.saved.folder import (
    CONFIG,
    FORMAT,
    TENSORS,
    kind_of_folder,
    read_provenance,
    read_saved,
    refusing,
    write_saved,
)
from lookalike.saved.pictures import encode_image, read_pictures
from lookalike.saved.records import NamedOptions, SavedClassifier, SavedEncoder, SavedModel, SavedNetwork

__all__ = [
    "CONFIG",
    "FORMAT",
    "TENSORS",
    "TRAINING_KEYS",
    "NamedOptions",
    "SavedClassifier",
    "SavedEncoder",
    "SavedModel",
    "SavedNetwork",
    "below",
    "check_classifier_tensors",
    "check_model_tensors",
    "encode_image",
    "kind_of_folder",
    "read_pictures",
    "read_provenance",
    "read_saved",
    "refusing",
    "write_saved",
]
