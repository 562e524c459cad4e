"""Cutting any trained classifier at the input of its head, and loading one from a spec."""

from lookalike.encoder.calls import device_of, dtype_of, evaluating, place
from lookalike.encoder.cut import Encoder, blank_inputs
from lookalike.encoder.specs import LoadedClassifier, load_classifier, rebuild
from lookalike.encoder.weights import load_weights, pair_by_order, read_weights

__all__ = [
    "Encoder",
    "LoadedClassifier",
    "blank_inputs",
    "device_of",
    "dtype_of",
    "evaluating",
    "load_classifier",
    "load_weights",
    "pair_by_order",
    "place",
    "read_weights",
    "rebuild",
]
