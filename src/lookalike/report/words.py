"""Words that several places of a report share, so that they mean one thing everywhere."""

from collections.abc import Sequence

from lookalike._core.names import telling_name, visible, without_common_folder
from lookalike._core.wording import why_unfamiliar
from lookalike.model import PrototypeModel

NO_CLASS = "a class that this model does not have"  # the original may predict one


def image_names(names: Sequence[str | None], numbers: Sequence[int], class_names: Sequence[str]) -> list[str]:
    """Returns what to call images: by their files, without the folder that all are in, or by number and class.

    Args:
        names: Names of the files; None for none.
        numbers: Numbers of the images in their data.
        class_names: Names of their classes.
    """
    told = [telling_name(name) for name in names]
    files = iter(without_common_folder([name for name in told if name is not None]))
    return [
        f"image {number} ({visible(class_name)})" if name is None else next(files)
        for name, number, class_name in zip(told, numbers, class_names, strict=True)
    ]


def unfamiliar_means(model: PrototypeModel) -> str:
    """Says what an unfamiliar image is, of this model: by a hint, or by the test of its calibration."""
    return why_unfamiliar(is_calibrated=model.doubt is not None)
