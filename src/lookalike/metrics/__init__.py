"""Measures of how self-explainable, and how faithful, a prototype model is (paper section 4.3).

The metrics of torchmetrics are loaded when first used: its import takes as long as a short command.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lookalike._core.intervals import Range, Share, holm, paired_difference, range_of_another, share, sign_test
from lookalike.metrics.attributes import AttributeRepresentation, attribute_representation, correlations
from lookalike.metrics.black_box import BlackBox
from lookalike.metrics.calibration import CalibrationBins, expected_calibration_error
from lookalike.metrics.compactness import complexity, sparseness
from lookalike.metrics.context import Context, Options
from lookalike.metrics.controls import CONTROLS, with_permuted_labels, with_random_head
from lookalike.metrics.conversion import Comparison, compare, predict_store, store_ghosting
from lookalike.metrics.correlation import explanation_correlation
from lookalike.metrics.divergence import explanation_divergence, relevance_shares
from lookalike.metrics.diversity import diversity, reference_diversity
from lookalike.metrics.evaluation import evaluate
from lookalike.metrics.example_sections import randomised
from lookalike.metrics.examples import identical_class, identical_subclass, mislabelled_detection, rank_agreement
from lookalike.metrics.faithfulness import (
    PredictionFaithfulness,
    accuracy,
    agreement,
    faithfulness_of_predictions,
    independent_agreement,
)
from lookalike.metrics.faithfulness_correlation import RandomSubsets, faithfulness_correlation
from lookalike.metrics.localisation import pointing_game, relevance_mass, relevance_rank
from lookalike.metrics.map_stability import MapStability, map_stability
from lookalike.metrics.measures import MEASURES, MeasureInfo, measures_table
from lookalike.metrics.noise import Noise
from lookalike.metrics.options import EvaluationOptions, EvaluationSettings
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
    OrderingCurves,
    increase_and_drop,
    positive_activations,
    relevance_ordering,
)
from lookalike.metrics.same_embedding import PlainClassifier, compare_on_embedding, plain_predictions
from lookalike.metrics.sanity import (
    Likenesses,
    SanityCheck,
    rank_similarity,
    sanity_check,
    structural_similarity,
    with_prototypes_of_permuted_labels,
)
from lookalike.metrics.scorecard import FIGURES, Scorecard
from lookalike.metrics.sections import SECTIONS, Section
from lookalike.metrics.separability import ClassSeparability, separability
from lookalike.metrics.thresholds import Thresholds
from lookalike.metrics.transparency import activation_counts, ghosting

if TYPE_CHECKING:
    from lookalike.metrics.accumulated import (
        ExpectedCalibrationError,
        ExplanationCorrelation,
        ExplanationDivergence,
        FaithfulnessOfPredictions,
        Ghosting,
        RelevanceOrdering,
    )

__all__ = [
    "CONTROLS",
    "FIGURES",
    "MEASURES",
    "SECTIONS",
    "AttributeRepresentation",
    "BlackBox",
    "CalibrationBins",
    "ClassSeparability",
    "Comparison",
    "Context",
    "EvaluationOptions",
    "EvaluationSettings",
    "ExpectedCalibrationError",
    "ExplanationCorrelation",
    "ExplanationDivergence",
    "FaithfulnessOfPredictions",
    "Ghosting",
    "IncreaseAndDrop",
    "Likenesses",
    "MapStability",
    "MeasureInfo",
    "Noise",
    "Options",
    "OrderingCurves",
    "PixelCurves",
    "PlainClassifier",
    "PredictionFaithfulness",
    "PrototypeStability",
    "RandomSubsets",
    "Range",
    "RelevanceOrdering",
    "RoadCurve",
    "SanityCheck",
    "Scorecard",
    "Section",
    "Share",
    "Thresholds",
    "accuracy",
    "activation_counts",
    "agreement",
    "attribute_representation",
    "compare",
    "compare_on_embedding",
    "complexity",
    "correlations",
    "deletion",
    "diversity",
    "evaluate",
    "expected_calibration_error",
    "explanation_correlation",
    "explanation_divergence",
    "faithfulness_correlation",
    "faithfulness_of_predictions",
    "ghosting",
    "holm",
    "identical_class",
    "identical_subclass",
    "impute",
    "increase_and_drop",
    "independent_agreement",
    "insertion",
    "map_stability",
    "measures_table",
    "mislabelled_detection",
    "paired_difference",
    "plain_predictions",
    "pointing_game",
    "positive_activations",
    "predict_store",
    "prototype_likeness",
    "prototype_stability",
    "randomised",
    "range_of_another",
    "rank_agreement",
    "rank_similarity",
    "reference_diversity",
    "relevance_mass",
    "relevance_ordering",
    "relevance_rank",
    "relevance_shares",
    "road",
    "sanity_check",
    "separability",
    "share",
    "shift_stability",
    "sign_test",
    "sparseness",
    "store_ghosting",
    "structural_similarity",
    "with_permuted_labels",
    "with_prototypes_of_permuted_labels",
    "with_random_head",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lookalike.metrics' has no attribute {name!r}")
    return getattr(import_module("lookalike.metrics.accumulated"), name)
