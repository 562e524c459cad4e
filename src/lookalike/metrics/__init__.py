"""Measures of how self-explainable, and how faithful, a prototype model is (paper section 4.3)."""

from lookalike.metrics.attributes import AttributeRepresentation, attribute_representation, correlations
from lookalike.metrics.black_box import BlackBox
from lookalike.metrics.calibration import ExpectedCalibrationError, expected_calibration_error
from lookalike.metrics.context import Context, Options
from lookalike.metrics.conversion import Comparison, compare, predict_store, store_ghosting
from lookalike.metrics.divergence import ExplanationDivergence, explanation_divergence, relevance_shares
from lookalike.metrics.diversity import diversity, reference_diversity
from lookalike.metrics.evaluation import evaluate
from lookalike.metrics.faithfulness import (
    FaithfulnessOfPredictions,
    PredictionFaithfulness,
    accuracy,
    agreement,
    faithfulness_of_predictions,
)
from lookalike.metrics.intervals import Share, paired_difference, share
from lookalike.metrics.robustness import (
    IncreaseAndDrop,
    Noise,
    OrderingCurves,
    RelevanceOrdering,
    increase_and_drop,
    positive_activations,
    relevance_ordering,
)
from lookalike.metrics.scorecard import FIGURES, Scorecard
from lookalike.metrics.sections import SECTIONS, Section
from lookalike.metrics.separability import ClassSeparability, separability
from lookalike.metrics.transparency import Ghosting, activation_counts, ghosting
from lookalike.metrics.verdict import Thresholds

__all__ = [
    "FIGURES",
    "SECTIONS",
    "AttributeRepresentation",
    "BlackBox",
    "ClassSeparability",
    "Comparison",
    "Context",
    "ExpectedCalibrationError",
    "ExplanationDivergence",
    "FaithfulnessOfPredictions",
    "Ghosting",
    "IncreaseAndDrop",
    "Noise",
    "Options",
    "OrderingCurves",
    "PredictionFaithfulness",
    "RelevanceOrdering",
    "Scorecard",
    "Section",
    "Share",
    "Thresholds",
    "accuracy",
    "activation_counts",
    "agreement",
    "attribute_representation",
    "compare",
    "correlations",
    "diversity",
    "evaluate",
    "expected_calibration_error",
    "explanation_divergence",
    "faithfulness_of_predictions",
    "ghosting",
    "increase_and_drop",
    "paired_difference",
    "positive_activations",
    "predict_store",
    "reference_diversity",
    "relevance_ordering",
    "relevance_shares",
    "separability",
    "share",
    "store_ghosting",
]
