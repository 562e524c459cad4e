"""Prototypes to similarities to a class: the self-explainable model, and its folder on disk."""

from lookalike.model.images import Origin
from lookalike.model.learned_metrics import HeadMetric, Mahalanobis
from lookalike.model.prototype_model import PrototypeModel, load
from lookalike.model.prototypes import Prototypes

__all__ = ["HeadMetric", "Mahalanobis", "Origin", "PrototypeModel", "Prototypes", "load"]
