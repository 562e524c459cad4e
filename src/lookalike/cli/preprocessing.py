"""Options for the preprocessing of images."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lookalike._core.errors import LookalikeError

if TYPE_CHECKING:
    from lookalike.data import Preprocessing

ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        help="Input size, if not the network's usual one; the crop keeps its share of the image.",
        rich_help_panel="Images",
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW|none",
        help="Resize as torchvision does: N sets the shorter side, HxW stretches.",
        rich_help_panel="Images",
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW|none", help="Crop the centre as torchvision does, after resizing.", rich_help_panel="Images"
    ),
]
Interpolation = Annotated[
    Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None,
    typer.Option(help="Interpolation of the resizing, if not the network's usual one.", rich_help_panel="Images"),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="M|R,G,B",
        help="Mean of the pixels in [0, 1]; one number applies to all channels, or to grey images.",
        rich_help_panel="Images",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="S|R,G,B",
        help="Standard deviation of the pixels in [0, 1], in the same form.",
        rich_help_panel="Images",
    ),
]


@dataclass(frozen=True)
class ImageOptions:
    """The options for images, as text from the command line."""

    image_size: str | None = None
    resize: str | None = None
    crop: str | None = None
    interpolation: str | None = None
    mean: str | None = None
    std: str | None = None


def adjust_preprocessing(
    preprocessing: "Preprocessing | None",
    options: ImageOptions,
    problem: str | None = None,
    channels: int | None = None,
) -> "tuple[Preprocessing | None, list[str]]":
    """Applies the options to a network's own preprocessing.

    Args:
        preprocessing: The network's own preprocessing, if it is known.
        options: Options from the command line.
        problem: Why the network's own preprocessing is not known.
        channels: Number of channels of the network's images, if it is known.

    Returns:
        The preprocessing, None if it is unknown and no option was given; and notes about changes.

    Raises:
        LookalikeError: If options contradict each other, are invalid, or are incomplete.
    """
    if options == ImageOptions():
        if preprocessing is None and problem is not None:
            raise LookalikeError(problem)
        return preprocessing, []
    if preprocessing is None:
        return _preprocessing_from_options(options, problem, channels), []
    notes: list[str] = []
    adjusted = replace(preprocessing, **_normalisation(options, preprocessing.channels))
    if options.interpolation is not None:
        adjusted = replace(adjusted, interpolation=options.interpolation)
    if options.resize is not None or options.crop is not None:
        adjusted = replace(adjusted, **_torchvision_geometry(options, adjusted))
    elif options.image_size is not None:
        before, adjusted = adjusted, adjusted.with_size(_size("image-size", options.image_size))
        if adjusted != before and isinstance(before.resize, int) and before.crop is not None:
            share = before.crop[0] / before.resize
            notes.append(
                f"Image size {options.image_size}: resized to {_as_option(adjusted.resize)} and cropped to "
                f"{_as_option(adjusted.crop)}, so that the crop keeps its share of {share:.3g} "
                "(--resize and --crop set them)."
            )
    return adjusted, notes


def _preprocessing_from_options(options: ImageOptions, problem: str | None, channels: int | None) -> "Preprocessing":
    """Creates a preprocessing from the options alone."""
    from lookalike.data import Preprocessing

    sized = options.image_size is not None or options.resize is not None or options.crop is not None
    if not sized or options.mean is None or options.std is None:
        reason = problem or "the model does not say how its images are prepared"
        raise LookalikeError(
            f"{reason}; give --image-size, --mean and --std together (--image-size crops to a square; --resize 64x64 "
            "--crop none in its place keeps the whole image)"
        )
    normalisation = _normalisation(options, channels)
    extra: Any = {} if options.interpolation is None else {"interpolation": options.interpolation}
    if options.resize is None and options.crop is None:
        size = _pair(_size("image-size", str(options.image_size)))
        resize: Any = size[0] if size[0] == size[1] else size
        return Preprocessing(
            resize, size, **normalisation, **extra, fit="stretch" if isinstance(resize, int) else "cover"
        )
    plain = Preprocessing(None, None, **normalisation, **extra)
    return replace(plain, **_torchvision_geometry(options, plain))


def _torchvision_geometry(options: ImageOptions, base: "Preprocessing") -> dict[str, Any]:
    """Returns the fields for torchvision's Resize and CenterCrop; at least one of the two options is given."""
    resize: Any = base.resize if options.resize is None else _size_or_none("resize", options.resize)
    image_size = None if options.image_size is None else _pair(_size("image-size", options.image_size))
    if options.crop is not None:
        crop = _size_or_none("crop", options.crop)
        crop = None if crop is None else _pair(crop)
    elif image_size is not None:
        crop = image_size
    else:
        crop = base.crop
    if isinstance(resize, tuple) and resize == crop:
        crop = None if options.crop is None else crop
    output_size = crop or (resize if isinstance(resize, tuple) else None)
    if image_size is not None and output_size is not None and output_size != image_size:
        raise LookalikeError(
            f"--image-size {options.image_size} contradicts --resize {options.resize or _as_option(resize)} and --crop "
            f"{options.crop or _as_option(crop)}, which give {_as_option(output_size)}; leave --image-size out"
        )
    smallest = (resize, resize) if isinstance(resize, int) else resize
    if crop is not None and smallest is not None and (smallest[0] < crop[0] or smallest[1] < crop[1]):
        raise LookalikeError(
            f"resized to {_as_option(resize)}, an image is smaller than the crop of {_as_option(crop)}; "
            f"give --crop {_as_option(resize)}, or --crop none"
        )
    fit = base.fit if options.resize is None else "stretch"
    geometry = {"resize": resize, "crop": crop, "fit": fit, "window": None, "pad": None}
    return geometry | {"fill": (0,), "convention": "torchvision"}


def _normalisation(options: ImageOptions, channels: int | None) -> dict[str, Any]:
    """Reads --mean and --std. Without a number of channels, both are given, and it is the number of their values."""
    values_of_option = {
        name: _floats(name, text) for name in ("mean", "std") if (text := getattr(options, name)) is not None
    }
    if channels is None:
        channels = max(len(values) for values in values_of_option.values())
    for name, values in values_of_option.items():
        if len(values) == 1:
            values_of_option[name] = values * channels
        elif len(values) != channels:
            raise LookalikeError(
                f"--{name} has {len(values)} numbers, but the network takes images of {channels} "
                f"channel{'s' * (channels > 1)}; give {'one number' if channels == 1 else f'1 or {channels}'}"
            )
    return values_of_option


def _floats(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise LookalikeError(f"--{name} takes one or three numbers separated by commas, not {text!r}") from error


def _size_or_none(name: str, text: str) -> int | tuple[int, int] | None:
    return None if text.strip().lower() == "none" else _size(name, text)


def _size(name: str, text: str) -> int | tuple[int, int]:
    """Reads N or HxW."""
    side_texts = text.strip().lower().replace("×", "x").split("x")
    if len(side_texts) > 2 or not all(side.isascii() and side.isdecimal() and int(side) > 0 for side in side_texts):
        or_none = "" if name == "image-size" else ", or 'none'"
        raise LookalikeError(f"--{name} takes a number of pixels, or HxW (height x width){or_none}, not {text!r}")
    sides = [int(side) for side in side_texts]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns a size as (height, width)."""
    return (size, size) if isinstance(size, int) else size


def _as_option(size: int | tuple[int, int] | None) -> str:
    """Formats a size as the options take it."""
    if size is None:
        return "none"
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"
