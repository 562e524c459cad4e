"""Words that several places of a report share, so that they mean one thing everywhere."""

from lookalike.model import PrototypeModel

# As in the glossary of the documentation.
_FARTHER = "farther from its nearest prototype than every training image behind that prototype"
_NOVEL = "its novelty score is higher than that of nearly all validation images"


def unfamiliar_means(model: PrototypeModel) -> str:
    """Says what an unfamiliar image is, of this model: by a hint, or by the test of its calibration."""
    return f"it is {_FARTHER}" if model.doubt is None else _NOVEL
