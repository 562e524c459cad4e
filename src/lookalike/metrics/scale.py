"""Which figures depend on the scale of the embedding, to be said beside them [ours].

An embedding times c with a head by 1/c is the same black box, and converts to the same prototypes. A fitted temperature
keeps c out of every figure; a temperature or a length that a user gives does not.
"""

from collections.abc import Collection, Mapping
from typing import Any

from lookalike.model import PrototypeModel
from lookalike.model.classifier import NearestPrototype

_BY_TEMPERATURE = {
    "calibration_error": "ECE",
    "explanation_divergence": "D_fth",
    "auroc": "AUROC",
    "average_drop": "AD",
    "diversity": "D_dvs",
}
_BY_ACTIVATION = {"average_drop": "AD", "diversity": "D_dvs"}
_SCALE_FREE = ("cosine", "ned", "mahalanobis")


def scale_notes(model: PrototypeModel, figures: Collection[str]) -> list[str]:
    """Returns a sentence for each constant that ties measured figures to the scale of the embedding.

    Args:
        model: The model that was measured.
        figures: Which figures were measured.
    """
    notes = []
    if isinstance(model.classifier, NearestPrototype):
        calibration = model.provenance.get("calibration")
        source = calibration.get("source") if isinstance(calibration, Mapping) else None
        names = _named(_BY_TEMPERATURE, figures)
        if names and source not in ("fitted", "kept") and model.similarity.name not in _SCALE_FREE:
            value = f"{model.classifier.temperature:.4g}"
            notes.append(
                f"{names} depend on the scale of the embedding: the temperature {value} was not fitted to training data"
            )
    else:
        names = _named(_BY_ACTIVATION, figures)
        if names:
            notes.append(
                f"{names} depend on the scale of the embedding: they are of similarities that the classifier "
                f"{model.classifier.name!r} weights, not divided by a temperature"
            )
    lengths: Any = model.provenance.get("given_lengths")
    if isinstance(lengths, Mapping) and lengths and _named(_BY_TEMPERATURE, figures):
        shown = ", ".join(f"{name} = {value}" for name, value in lengths.items())
        notes.append(
            f"{_named(_BY_TEMPERATURE, figures)} depend on the scale of the embedding: the similarity's {shown} is a "
            "length that was given, not fitted to training data"
        )
    return notes


def _named(titles: Mapping[str, str], figures: Collection[str]) -> str:
    """Names those figures that were measured, as in "AD and D_dvs"."""
    names = [title for figure, title in titles.items() if figure in figures]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
