"""Measures of how self-explainable, and how faithful, a prototype model is."""

from lookalike.metrics.conversion import Comparison, compare, predict_store, store_ghosting
from lookalike.metrics.faithfulness import accuracy, agreement
from lookalike.metrics.transparency import activation_counts, ghosting

__all__ = [
    "Comparison",
    "accuracy",
    "activation_counts",
    "agreement",
    "compare",
    "ghosting",
    "predict_store",
    "store_ghosting",
]
