"""One scale for a data set's greys: found in the training images, kept in the model, checked on other images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Subset

from lookalike._core.errors import BrokenImageError, LookalikeError, warn_of
from lookalike.data.bundle import DataBundle
from lookalike.data.grey_values import (
    SIXTEEN_BITS,
    ValueRange,
    has_own_scale,
    is_deep,
    kind_of_values,
    value_span,
)
from lookalike.data.images import decode_image, opened_image
from lookalike.data.preprocessing import Preprocessing

_LOOKED_AT = 256  # files, evenly spread, that are opened to see whether there are greys of more than 8 bits
_DECODED = 2_000  # files at most, evenly spread, whose values are read if there are
_DARK = 16  # a set that uses less than this part of 16 bits probably holds 12 bits
_CONVENTIONS = ((0.0, 1.0), (0.0, 255.0))  # of floating-point images, in this order


@dataclass(frozen=True)
class ValueSurvey:
    """The values of some images' greys of more than 8 bits.

    Attributes:
        low: The lowest value.
        high: The highest.
        kinds: What the values are, in words.
        n_deep: Of how many images.
        n_read: Of how many that were read.
        n_total: Of how many in the data set.
        own_scale: Whether all of them tell themselves what white is.
        spans: The lowest and highest value of each [n_deep, 2].
    """

    low: float
    high: float
    kinds: tuple[str, ...]
    n_deep: int
    n_read: int
    n_total: int
    own_scale: bool
    spans: np.ndarray

    @property
    def of_images(self) -> str:
        """Says of which images the values are."""
        return f"{self.n_deep:,} of {self.n_read:,} images read" + (
            f" (of {self.n_total:,})" if self.n_total > self.n_read else ""
        )


def survey_values(files: Sequence[Path], *, large_images: bool = False) -> ValueSurvey | None:
    """Reads the values of greys of more than 8 bits.

    Only the headers of up to 256 files are looked at; if any has such greys, up to 2,000 files are decoded.

    Args:
        files: Image files; those that cannot be read are left out.
        large_images: Read images beyond Pillow's limit too.

    Returns:
        None if there are none.
    """
    if not any(_looks_deep(files[int(row)]) for row in _evenly(len(files), _LOOKED_AT)):
        return None
    spans, kinds, own_scale, n_read = [], set(), True, 0
    for row in _evenly(len(files), _DECODED):
        try:
            image = decode_image(files[int(row)], large_images=large_images)
            n_read += 1
            if not is_deep(image):
                continue
            spans.append(value_span(image))
        except BrokenImageError:
            continue
        kinds.add(kind_of_values(image))
        own_scale = own_scale and has_own_scale(image)
    if not spans:
        return None
    table = np.asarray(spans)
    low, high = float(table[:, 0].min()), float(table[:, 1].max())
    return ValueSurvey(low, high, tuple(sorted(kinds)), len(spans), n_read, len(files), own_scale, table)


def settle_value_range(bundle: DataBundle) -> DataBundle:
    """Finds one scale for the greys of a data set's training images, where they have more than 8 bits.

    Unsigned 16 bits are read over 0…65535. Of floating-point and other whole numbers the training images must all lie
    in 0…1, or else in 0…255; that becomes the range of both parts, and of the model. It is said in the notes.

    Args:
        bundle: Image files; other data are returned as they are.

    Raises:
        LookalikeError: If the values fit neither, or are of several kinds: it says what they are.
    """
    files, p = _files_of(bundle.train), bundle.preprocessing
    found = None if files is None else survey_values(files, large_images=p.large_images)
    if found is None:
        return bundle
    if p.value_range is not None:
        return replace(bundle, notes=(*bundle.notes, *_clipped(found, p.value_range, "training")))
    if found.own_scale:
        dark = found.high < SIXTEEN_BITS[1] / _DARK
        note = f"greys of 16 bits are read over 0…65535; the training images use {found.low:g}…{found.high:g}"
        hint = (
            f"{note}, so they look nearly black: if they hold fewer bits, say so with --value-range 0,"
            f"{_next_power(found.high)} (value_range in Python)"
        )
        return replace(bundle, notes=(*bundle.notes, hint if dark else note))
    if len(found.kinds) > 1:
        raise LookalikeError(
            f"the training images hold {' and '.join(found.kinds)}, from {found.low:g} to {found.high:g}: one scale "
            f"cannot be guessed for them; {_way_out(found)}"
        )
    fitting = (r for r in _CONVENTIONS if r[0] <= found.low and found.high <= r[1])
    value_range = next(fitting, None)
    if value_range is None:
        raise LookalikeError(
            f"the training images hold {found.kinds[0]} from {found.low:g} to {found.high:g}, and nothing says which "
            f"of them are black and white; {_way_out(found)}"
        )
    settled = bundle.with_preprocessing(replace(p, value_range=value_range))
    note = (
        f"the training images hold {found.kinds[0]} from {found.low:g} to {found.high:g} ({found.of_images}): "
        f"{value_range[0]:g} is taken for black and {value_range[1]:g} for white, here and in the model; "
        "--value-range says otherwise"
    )
    return replace(settled, notes=(*settled.notes, note))


def warn_of_values(data: Any, what: str) -> None:
    """Warns if images have values beyond the range that a model reads, or use hardly any of it.

    Args:
        data: A data set; those that are not of image files are left alone.
        what: What to call it.

    Warns:
        LookalikeWarning: It says how many, and which values.
    """
    files, p = _files_of(data), getattr(data, "transform", None)
    if files is None or not isinstance(p, Preprocessing):
        return
    found = survey_values(files, large_images=p.large_images)
    if found is not None:
        for note in _clipped(found, p.value_range or SIXTEEN_BITS, what):
            warn_of(note)


def value_remark(image: Image.Image, preprocessing: Preprocessing) -> str | None:
    """Says what is odd about one image's values for a model that reads them over its own range."""
    if not is_deep(image) or (preprocessing.value_range is None and not has_own_scale(image)):
        return None  # nothing to say, or refused when it is prepared
    low, high = value_span(image)
    black, white = preprocessing.value_range or SIXTEEN_BITS
    read_over = f"the model reads {black:g}…{white:g}"
    if low < black or high > white:
        return f"its values, {low:g}…{high:g}, are cut off: {read_over}"
    if high < black + (white - black) / 100:
        return f"its values, {low:g}…{high:g}, are all nearly black: {read_over}"
    return None


def _clipped(found: ValueSurvey, value_range: ValueRange, what: str) -> list[str]:
    black, white = value_range
    notes = []
    beyond = int(((found.spans[:, 0] < black) | (found.spans[:, 1] > white)).sum())
    if beyond:
        notes.append(
            f"{beyond:,} {what} images have values beyond {black:g}…{white:g}, which are cut off "
            f"(they reach from {found.low:g} to {found.high:g}; {found.of_images})"
        )
    dark = int((found.spans[:, 1] < black + (white - black) / 100).sum())
    if dark:
        notes.append(f"{dark:,} {what} images use less than 1% of {black:g}…{white:g} and are nearly black")
    return notes


def _way_out(found: ValueSurvey) -> str:
    return (
        f"say so with --value-range LOW,HIGH, e.g. --value-range {found.low:g},{found.high:g} "
        "(Preprocessing(value_range=(low, high)) in Python)"
    )


def _next_power(value: float) -> int:
    return int(2 ** np.ceil(np.log2(max(value, 1.0) + 1))) - 1


def _files_of(data: Any) -> list[Path] | None:
    """Returns a data set's image files, where it is prepared by a ``Preprocessing``."""
    rows: np.ndarray | None = None
    while isinstance(data, Subset):
        chosen = np.asarray(data.indices)
        rows, data = chosen if rows is None else chosen[rows], data.dataset
    files = getattr(data, "files", None)
    if not isinstance(files, list) or not isinstance(getattr(data, "transform", None), Preprocessing):
        return None
    return files if rows is None else [files[int(row)] for row in rows]


def _looks_deep(file: Path) -> bool:
    """Says whether an image's header tells of greys of more than 8 bits; a file that cannot be opened has none."""
    try:
        with opened_image(file) as image:
            return is_deep(image)
    except BrokenImageError:
        return False


def _evenly(n: int, at_most: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(at_most, n)).astype(int)) if n else np.arange(0)
