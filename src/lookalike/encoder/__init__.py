"""Cutting any trained classifier at the input of its head, and loading one from a spec."""

from lookalike.encoder.calls import device_of, dtype_of, place, rows_at_once
from lookalike.encoder.checkpoint import Checkpoint, read_checkpoint
from lookalike.encoder.class_map import ClassMap, map_classes, ordered
from lookalike.encoder.class_names import ClassOrder, match_names, natural_order, read_class_order
from lookalike.encoder.cut import Encoder, blank_inputs, unwrapped
from lookalike.encoder.outputs import Outputs
from lookalike.encoder.packaged import load_efficientnet_lite0, load_mobilenet_v2
from lookalike.encoder.saved import is_saved_classifier, open_classifier, save_classifier
from lookalike.encoder.specs import LoadedClassifier, describe_spec, head_of, load_classifier, read_spec, rebuild
from lookalike.encoder.weights import load_weights, pair_by_order, read_weights

__all__ = [
    "Checkpoint",
    "ClassMap",
    "ClassOrder",
    "Encoder",
    "LoadedClassifier",
    "Outputs",
    "blank_inputs",
    "describe_spec",
    "device_of",
    "dtype_of",
    "head_of",
    "is_saved_classifier",
    "load_classifier",
    "load_efficientnet_lite0",
    "load_mobilenet_v2",
    "load_weights",
    "map_classes",
    "match_names",
    "natural_order",
    "open_classifier",
    "ordered",
    "pair_by_order",
    "place",
    "read_checkpoint",
    "read_class_order",
    "read_spec",
    "read_weights",
    "rebuild",
    "rows_at_once",
    "save_classifier",
    "unwrapped",
]
