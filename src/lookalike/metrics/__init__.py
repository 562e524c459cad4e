"""Measures of how self-explainable, and how faithful, a prototype model is (paper section 4.3)."""

from lookalike.metrics.attributes import AttributeRepresentation, attribute_representation, correlations
from lookalike.metrics.black_box import BlackBox
from lookalike.metrics.compactness import complexity, sparseness
from lookalike.metrics.context import Context, Options
from lookalike.metrics.conversion import Comparison, compare, predict_store, store_ghosting
from lookalike.metrics.divergence import ExplanationDivergence, explanation_divergence, relevance_shares
from lookalike.metrics.diversity import diversity
from lookalike.metrics.evaluation import evaluate
from lookalike.metrics.example_sections import randomised
from lookalike.metrics.examples import identical_class, identical_subclass, mislabelled_detection, rank_agreement
from lookalike.metrics.faithfulness import (
    FaithfulnessOfPredictions,
    PredictionFaithfulness,
    accuracy,
    agreement,
    faithfulness_of_predictions,
)
from lookalike.metrics.faithfulness_correlation import faithfulness_correlation
from lookalike.metrics.intervals import Share, paired_difference, share
from lookalike.metrics.localisation import relevance_mass
from lookalike.metrics.map_stability import MapStability, map_stability
from lookalike.metrics.measures import MEASURES, MeasureInfo, measures_table
from lookalike.metrics.perturbation import PixelCurves, deletion, insertion
from lookalike.metrics.prototype_stability import (
    PrototypeStability,
    prototype_likeness,
    prototype_stability,
    shift_stability,
)
from lookalike.metrics.road import RoadCurve, impute, road
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
    "MEASURES",
    "SECTIONS",
    "AttributeRepresentation",
    "BlackBox",
    "ClassSeparability",
    "Comparison",
    "Context",
    "ExplanationDivergence",
    "FaithfulnessOfPredictions",
    "Ghosting",
    "IncreaseAndDrop",
    "MapStability",
    "MeasureInfo",
    "Noise",
    "Options",
    "OrderingCurves",
    "PixelCurves",
    "PredictionFaithfulness",
    "PrototypeStability",
    "RelevanceOrdering",
    "RoadCurve",
    "Scorecard",
    "Section",
    "Share",
    "Thresholds",
    "accuracy",
    "activation_counts",
    "agreement",
    "attribute_representation",
    "compare",
    "complexity",
    "correlations",
    "deletion",
    "diversity",
    "evaluate",
    "explanation_divergence",
    "faithfulness_correlation",
    "faithfulness_of_predictions",
    "ghosting",
    "identical_class",
    "identical_subclass",
    "impute",
    "increase_and_drop",
    "insertion",
    "map_stability",
    "measures_table",
    "mislabelled_detection",
    "paired_difference",
    "positive_activations",
    "predict_store",
    "prototype_likeness",
    "prototype_stability",
    "randomised",
    "rank_agreement",
    "relevance_mass",
    "relevance_ordering",
    "relevance_shares",
    "road",
    "separability",
    "share",
    "shift_stability",
    "sparseness",
    "store_ghosting",
]
