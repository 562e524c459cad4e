"""How far a model may be relied on: calibrated probabilities, sets with coverage, abstention, and what is unfamiliar.

Everything here works on plain arrays: scores, labels, distances. ``lookalike.model`` applies it to a prototype model.
"""

from lookalike.doubt.abstention import Abstention, accuracy_rejection, choose_abstention
from lookalike.doubt.calibration import CalibrationFigures, calibration_figures, fit_factor, least_log_loss
from lookalike.doubt.martingale import ExchangeabilityTest
from lookalike.doubt.novelty import NOVELTIES, Novelty, conformal_p_values
from lookalike.doubt.record import Doubt, DoubtFacts
from lookalike.doubt.sets import PredictionSets, conformal_threshold, least_samples

__all__ = [
    "NOVELTIES",
    "Abstention",
    "CalibrationFigures",
    "Doubt",
    "DoubtFacts",
    "ExchangeabilityTest",
    "Novelty",
    "PredictionSets",
    "accuracy_rejection",
    "calibration_figures",
    "choose_abstention",
    "conformal_p_values",
    "conformal_threshold",
    "fit_factor",
    "least_log_loss",
    "least_samples",
]
