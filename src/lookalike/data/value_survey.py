"""Finds one scale for a data set's greys of more than 8 bits from the training images; warns of others outside it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lookalike._core.errors import BrokenImageError, LookalikeError, warn_of
from lookalike._core.wording import counted
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
from lookalike.data.samples import whole_data_set
from lookalike.data.statistics import evenly_spread

_MAX_HEADERS = 256  # files, evenly spread, whose headers are searched for greys of more than 8 bits
_MAX_DECODED = 2_000  # files, evenly spread, whose values are read if there are such greys
_TWELVE_BITS = 16  # values up to 1/16 of the 16-bit range probably have 12 bits
_USUAL_RANGES = ((0.0, 1.0), (0.0, 255.0))  # of floating-point images; the first that fits is taken


@dataclass(frozen=True)
class ValueSurvey:
    """The values of a data set's images that have greys of more than 8 bits.

    Attributes:
        low: The lowest value.
        high: The highest value.
        kinds: The kinds of values, in words.
        n_deep: Number of images with greys of more than 8 bits.
        n_read: Number of images that were read.
        n_total: Number of images in the data set.
        own_scale: Whether the formats of all these images define white.
        spans: Lowest and highest value of each image [n_deep, 2].
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
        """Says how many images the values are from."""
        return f"{self.n_deep:,} of {self.n_read:,} images read" + (
            f" (of {self.n_total:,})" if self.n_total > self.n_read else ""
        )


def survey_values(files: Sequence[Path], *, large_images: bool = False) -> ValueSurvey | None:
    """Reads the values of images with greys of more than 8 bits.

    The headers of up to 256 files are read first. If any has such greys, up to 2,000 files are decoded.

    Args:
        files: Image files; those that cannot be read are ignored.
        large_images: Read images beyond Pillow's limit too.

    Returns:
        The survey, or None if no image has such greys.
    """
    if not any(_has_deep_header(files[int(row)]) for row in evenly_spread(len(files), _MAX_HEADERS)):
        return None
    spans, kinds, own_scale, n_read = [], set(), True, 0
    for row in evenly_spread(len(files), _MAX_DECODED):
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
    lows_highs = np.asarray(spans)
    low, high = float(lows_highs[:, 0].min()), float(lows_highs[:, 1].max())
    return ValueSurvey(low, high, tuple(sorted(kinds)), len(spans), n_read, len(files), own_scale, lows_highs)


def settle_value_range(bundle: DataBundle) -> DataBundle:
    """Finds one scale for a data set whose images have greys of more than 8 bits.

    Unsigned 16 bits are read over 0…65535. For floating-point and other whole numbers, the values of all training
    images must be in 0…1, or else in 0…255. That becomes the value range of both parts and of the model, and a note
    says so.

    Args:
        bundle: Image files; other data are returned unchanged.

    Raises:
        LookalikeError: If the values are in neither range, or are of several kinds; the message says what they are.
    """
    files, preprocessing = _files_of(bundle.train), bundle.preprocessing
    survey = None if files is None else survey_values(files, large_images=preprocessing.large_images)
    if survey is None:
        return bundle
    if preprocessing.value_range is not None:
        return replace(bundle, notes=(*bundle.notes, *_range_notes(survey, preprocessing.value_range, "training")))
    if survey.own_scale:
        return replace(bundle, notes=(*bundle.notes, _note_on_sixteen_bits(survey)))
    if len(survey.kinds) > 1:
        raise LookalikeError(
            f"the training images hold {' and '.join(survey.kinds)}, from {survey.low:g} to {survey.high:g}: one scale "
            f"cannot be guessed for them; {_way_out(survey)}"
        )
    # Floating-point or 32-bit values: nothing in the file defines white. A range is guessed only if it is a usual one.
    value_range = next((r for r in _USUAL_RANGES if r[0] <= survey.low and survey.high <= r[1]), None)
    if value_range is None:
        raise LookalikeError(
            f"the training images hold {survey.kinds[0]} from {survey.low:g} to {survey.high:g}, and nothing says "
            f"which of them are black and white; {_way_out(survey)}"
        )
    settled = bundle.with_preprocessing(replace(preprocessing, value_range=value_range))
    note = (
        f"the training images hold {survey.kinds[0]} from {survey.low:g} to {survey.high:g} ({survey.of_images}): "
        f"{value_range[0]:g} stands for black and {value_range[1]:g} for white, here and in the model; "
        "--value-range changes this"
    )
    return replace(settled, notes=(*settled.notes, note))


def warn_of_values(data: Any, what: str) -> None:
    """Warns if images have values outside the range that a model reads, or use hardly any of it.

    Args:
        data: A data set of image files; other data are ignored.
        what: Name of the data in the warning, such as ``"test"``.

    Warns:
        LookalikeWarning: With the number of such images and their values.
    """
    files, preprocessing = _files_of(data), getattr(data, "transform", None)
    if files is None or not isinstance(preprocessing, Preprocessing):
        return
    survey = survey_values(files, large_images=preprocessing.large_images)
    if survey is not None:
        for note in _range_notes(survey, preprocessing.value_range or SIXTEEN_BITS, what):
            warn_of(note)


def value_remark(image: Image.Image, preprocessing: Preprocessing) -> str | None:
    """Returns a remark if an image's values are outside the range that a model reads, or use hardly any of it."""
    if not is_deep(image) or (preprocessing.value_range is None and not has_own_scale(image)):
        return None  # 8 bits, or an image without a scale, which the preprocessing refuses
    low, high = value_span(image)
    black, white = preprocessing.value_range or SIXTEEN_BITS
    read_over = f"the model reads {black:g}…{white:g}"
    if low < black or high > white:
        return f"its values, {low:g}…{high:g}, are cut off: {read_over}"
    is_twelve_bits = preprocessing.value_range is None and high < SIXTEEN_BITS[1] / _TWELVE_BITS
    if high < black + (white - black) / 100 or is_twelve_bits:
        return f"its values, {low:g}…{high:g}, are all nearly black: {read_over}"
    return None


def _note_on_sixteen_bits(survey: ValueSurvey) -> str:
    note = f"greys of 16 bits are read over 0…65535; the training images use {survey.low:g}…{survey.high:g}"
    if survey.high >= SIXTEEN_BITS[1] / _TWELVE_BITS:
        return note
    return (
        f"{note}, so they look nearly black: if they hold fewer bits, say so with --value-range 0,"
        f"{_highest_of_bits(survey.high)} (value_range in Python)"
    )


def _range_notes(survey: ValueSurvey, value_range: ValueRange, what: str) -> list[str]:
    """Returns notes on images with values outside the range, and on images that use less than 1% of it."""
    black, white = value_range
    notes = []
    n_outside = int(((survey.spans[:, 0] < black) | (survey.spans[:, 1] > white)).sum())
    if n_outside:
        notes.append(
            f"values of {counted(n_outside, f'{what} image')} are beyond {black:g}…{white:g}, which are cut off "
            f"(they reach from {survey.low:g} to {survey.high:g}; {survey.of_images})"
        )
    n_dark = int((survey.spans[:, 1] < black + (white - black) / 100).sum())
    if n_dark:
        notes.append(f"{n_dark:,} {what} images use less than 1% of {black:g}…{white:g} and are nearly black")
    return notes


def _way_out(survey: ValueSurvey) -> str:
    return (
        f"say so with --value-range LOW,HIGH, e.g. --value-range {survey.low:g},{survey.high:g} "
        "(Preprocessing(value_range=(low, high)) in Python)"
    )


def _highest_of_bits(value: float) -> int:
    """Returns the highest number with as many bits as ``value``: 4095 for 3000."""
    return int(2 ** np.ceil(np.log2(max(value, 1.0) + 1))) - 1


def _files_of(data: Any) -> list[Path] | None:
    """Returns a data set's image files; None if it has no files, or its transform is no ``Preprocessing``."""
    data, rows = whole_data_set(data)
    files = getattr(data, "files", None)
    if not isinstance(files, list) or not isinstance(getattr(data, "transform", None), Preprocessing):
        return None
    return files if rows is None else [files[int(row)] for row in rows]


def _has_deep_header(file: Path) -> bool:
    """Says whether an image has greys of more than 8 bits, by its header; False if it cannot be opened."""
    try:
        with opened_image(file) as image:
            return is_deep(image)
    except BrokenImageError:
        return False
