"""Cutting any trained classifier at the input of its head, and loading one from a spec."""

from lookalike.encoder.calls import device_of, dtype_of, place
from lookalike.encoder.cut import Encoder, blank_inputs
from lookalike.encoder.saved import is_saved_classifier, open_classifier, save_classifier
from lookalike.encoder.specs import LoadedClassifier, describe_spec, load_classifier, read_spec, rebuild
from lookalike.encoder.weights import load_weights, pair_by_order, read_weights

__all__ = [
    "Encoder",
    "LoadedClassifier",
    "blank_inputs",
    "describe_spec",
    "device_of",
    "dtype_of",
    "is_saved_classifier",
    "load_classifier",
    "load_weights",
    "open_classifier",
    "pair_by_order",
    "place",
    "read_spec",
    "read_weights",
    "rebuild",
    "save_classifier",
]
