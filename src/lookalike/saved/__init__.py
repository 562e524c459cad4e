"""Writes and reads folders of saved models and classifiers.

A folder may come from anyone: no code in it is run, and everything is checked before anything is built: JSON, types,
names, sizes, checksums, shapes and values of tensors, and the headers of pictures.
"""

from lookalike.saved.checks import (
    below,
    check_not_finite,
    check_weights,
    is_finite,
    not_finite_buffers,
)
from lookalike.saved.folder import (
    CONFIG,
    EDITS_JSON,
    FORMAT,
    TENSORS,
    check_no_edits,
    kind_of_folder,
    listed_files,
    read_provenance,
    read_saved,
    read_spec_of_own_network,
    refusing,
    without_checksum,
    write_saved,
)
from lookalike.saved.pictures import encode_image, read_pictures
from lookalike.saved.records import (
    NamedOptions,
    SavedClassifier,
    SavedEncoder,
    SavedNetwork,
    SavedPatches,
    check_class_names,
    check_preprocessing,
    prototype_dim,
)
from lookalike.saved.tensor_file import write_tensors

__all__ = [
    "CONFIG",
    "EDITS_JSON",
    "FORMAT",
    "TENSORS",
    "NamedOptions",
    "SavedClassifier",
    "SavedEncoder",
    "SavedNetwork",
    "SavedPatches",
    "below",
    "check_class_names",
    "check_no_edits",
    "check_not_finite",
    "check_preprocessing",
    "check_weights",
    "encode_image",
    "is_finite",
    "kind_of_folder",
    "listed_files",
    "not_finite_buffers",
    "prototype_dim",
    "read_pictures",
    "read_provenance",
    "read_saved",
    "read_spec_of_own_network",
    "refusing",
    "without_checksum",
    "write_saved",
    "write_tensors",
]
