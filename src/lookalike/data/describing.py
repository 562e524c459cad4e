"""Describes a preprocessing in one line of text."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lookalike.data.preprocessing import Preprocessing

_CONVENTIONS = {
    "transformers": "as Transformers does it on bytes",
    "transformers-pillow": "as Transformers does it with Pillow",
    "transformers-float": "as Transformers does it on floats",
}
_FITS = {"stretch": "stretched to", "cover": "resized to cover", "contain": "resized to fit into"}


def describe_preprocessing(preprocessing: "Preprocessing") -> str:
    """Describes a preprocessing in one line: colour, sizes, interpolation, border, mean and std.

    Example:
        >>> from lookalike.data import Preprocessing
        >>> describe_preprocessing(Preprocessing((32, 48), None, (0.5,) * 3, (0.25,) * 3))
        'RGB; stretched to 32×48 (bilinear); mean 0.5, std 0.25'
    """
    colour = "grey" if preprocessing.channels == 1 else preprocessing.channel_order.upper()
    if preprocessing.transparency != "dropped":
        colour += f", transparency on {preprocessing.transparency}"
    if preprocessing.value_range is not None:
        colour += ", values {:g}…{:g}".format(*preprocessing.value_range)
    if preprocessing.as_stored:
        colour += ", as stored"
    if preprocessing.scaled_decoding:
        colour += ", JPEG decoded at a reduced size"
    return "; ".join([colour, ", ".join(_geometry(preprocessing)), _normalisation(preprocessing)])


def side_by_side(size: tuple[int, ...]) -> str:
    """Formats (height, width) for a text.

    Example:
        >>> side_by_side((224, 320))
        '224×320'
    """
    return "×".join(map(str, size))


def _geometry(preprocessing: "Preprocessing") -> list[str]:
    steps = []
    if preprocessing.window is not None:
        high, wide = preprocessing.window
        steps.append(f"centre crop of {high:.3g} × {wide:.3g} shorter sides")
    resize = preprocessing.resize
    if isinstance(resize, int):
        steps.append(f"shorter side to {resize} ({preprocessing.interpolation})")
    elif resize is not None:
        steps.append(f"{_FITS[preprocessing.fit]} {side_by_side(resize)} ({preprocessing.interpolation})")
    if preprocessing.crop is not None:
        steps.append(f"centre crop {side_by_side(preprocessing.crop)}")
        if any(preprocessing.fill) or preprocessing.fit == "contain":
            steps.append(f"border {' '.join(map(str, preprocessing.fill))} of 255")
    if preprocessing.pad is not None:
        steps.append(f"padded to {side_by_side(preprocessing.pad)}")
    if not steps:
        steps.append("size as it is")
    if preprocessing.convention in _CONVENTIONS:
        steps.append(_CONVENTIONS[preprocessing.convention])
    return steps


def _normalisation(preprocessing: "Preprocessing") -> str:
    mean, std = preprocessing.mean, preprocessing.std
    if not any(mean):
        if all(value == 1 for value in std):
            return "pixels in 0…1"
        if all(math.isclose(value, 1 / 255) for value in std):
            return "pixels in 0…255"
    return f"mean {_numbers(mean)}, std {_numbers(std)}"


def _numbers(values: tuple[float, ...]) -> str:
    texts = [f"{value:.4g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else " ".join(texts)
