"""Words that several places of a report share, so that they mean one thing everywhere."""

from lookalike._core.wording import why_unfamiliar
from lookalike.model import PrototypeModel

NO_CLASS = "a class that this model does not have"  # the original may predict one


def unfamiliar_means(model: PrototypeModel) -> str:
    """Says what an unfamiliar image is, of this model: by a hint, or by the test of its calibration."""
    return why_unfamiliar(is_calibrated=model.doubt is not None)
