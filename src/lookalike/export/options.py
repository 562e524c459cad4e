"""Options of an export, which travel together from a model's method to the function."""

from typing import Literal, TypedDict


class ExportOptions(TypedDict, total=False):
    """The options of ``export_model``, which says what they mean and what they are if not given."""

    kind: str | None
    n_nearest: int | None
    pixels: bool
    images: bool | Literal["inside"]
    licence: str | None
    overwrite: bool
