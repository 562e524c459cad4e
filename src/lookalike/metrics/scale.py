"""Notes on figures that depend on the scale of the embedding [ours].

If the embedding is multiplied by c and the head divided by c, the black box is the same and so are its prototypes. A
temperature that is fitted to training data cancels c in every figure. A temperature or a length given by the user does
not: the figures then depend on an arbitrary scale, and a note says so.
"""

from collections.abc import Collection, Mapping
from typing import Any

from lookalike.model import PrototypeModel
from lookalike.model.classifier import NearestPrototype

# figure → its title, for figures that change with the temperature of the nearest-prototype classifier
_BY_TEMPERATURE = {
    "calibration_error": "ECE",
    "log_loss": "log loss",
    "brier_score": "Brier score",
    "explanation_divergence": "D_fth",
    "auroc": "AUROC",
    "average_drop": "AD",
    "diversity": "D_dvs",
}
# the same for classifiers that weight similarities without a temperature
_BY_ACTIVATION = {"average_drop": "AD", "diversity": "D_dvs"}
# similarities that do not change when the embedding is multiplied by c
_SCALE_FREE = ("cosine", "ned", "mahalanobis")


def scale_notes(model: PrototypeModel, figures: Collection[str]) -> list[str]:
    """Returns a sentence for each constant that makes measured figures depend on the scale of the embedding.

    Args:
        model: The measured model.
        figures: Names of the measured figures.
    """
    notes = []
    if isinstance(model.classifier, NearestPrototype):
        calibration = model.provenance.get("calibration")
        source = calibration.get("source") if isinstance(calibration, Mapping) else None
        names = _titles_of(_BY_TEMPERATURE, figures)
        if (
            names
            and model.doubt is None
            and source not in ("fitted", "kept")
            and model.similarity.name not in _SCALE_FREE
        ):
            value = f"{model.classifier.temperature:.4g}"
            notes.append(
                f"{names} depend on the scale of the embedding: the temperature {value} was not fitted to training data"
            )
    else:
        names = _titles_of(_BY_ACTIVATION, figures)
        if names and model.similarity.name not in _SCALE_FREE:
            depend, they_are = ("depend", "they are") if " and " in names else ("depends", "it is")
            notes.append(
                f"{names} {depend} on the scale of the embedding: {they_are} of similarities that the classifier "
                f"{model.classifier.name!r} weights, not divided by a temperature"
            )
    lengths: Any = model.provenance.get("given_lengths")
    if isinstance(lengths, Mapping) and lengths and _titles_of(_BY_TEMPERATURE, figures):
        listed = ", ".join(f"{name} = {value}" for name, value in lengths.items())
        notes.append(
            f"{_titles_of(_BY_TEMPERATURE, figures)} depend on the scale of the embedding: the similarity's {listed} "
            "is a length that was given, not fitted to training data"
        )
    return notes


def _titles_of(titles: Mapping[str, str], figures: Collection[str]) -> str:
    """Lists the titles of the measured figures, as in "AD and D_dvs"."""
    names = [title for figure, title in titles.items() if figure in figures]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
