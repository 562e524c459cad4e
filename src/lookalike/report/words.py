"""Words that several places of a report share, so that they mean one thing everywhere."""

import re
from collections.abc import Sequence
from typing import Any

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


_NAME = re.compile(r"(?P<stem>.*?)(?P<extension>\.[A-Za-z]\w{0,4})?(?P<end>[^\w.]*)", re.DOTALL)
_SEPARATOR = re.compile(r"(?:(?<=[/\\_-])|(?<=[^\d\s]\.))(?=[^/\\_.-])")


def breakable(text: Any) -> Any:
    """Returns a text with names of files as markup: they wrap after separators, and never inside the extension."""
    from markupsafe import Markup

    return Markup(" ").join(_breakable_word(word) for word in visible(str(text)).split(" "))


def _breakable_word(word: str) -> Any:
    from markupsafe import Markup

    match = _NAME.fullmatch(word)
    assert match is not None  # the stem takes anything
    stem = Markup("<wbr>").join(_SEPARATOR.split(match["stem"]))
    if match["extension"] is None:
        return stem + match["end"]
    return stem + Markup('<wbr><span class="nowrap">{}</span>').format(match["extension"] + match["end"])


def unfamiliar_means(model: PrototypeModel) -> str:
    """Says what an unfamiliar image is, of this model: by a hint, or by the test of its calibration."""
    return why_unfamiliar(is_calibrated=model.doubt is not None, of_patches=model.has_patches)
