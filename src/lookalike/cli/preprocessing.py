"""Options that say what images go through before the network."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lookalike._core.errors import LookalikeError

if TYPE_CHECKING:
    from lookalike.data import Preprocessing

ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW", help="The network's input size, if not its usual one; the crop keeps its share of the image."
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(metavar="N|HxW|none", help="As torchvision's Resize: N is the shorter side, HxW stretches."),
]
Crop = Annotated[
    str | None, typer.Option(metavar="N|HxW|none", help="As torchvision's CenterCrop, after the resizing.")
]
Interpolation = Annotated[
    Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None,
    typer.Option(help="Of the resizing, if not the network's usual one."),
]
Mean = Annotated[
    str | None,
    typer.Option(metavar="M|R,G,B", help="Mean of the pixels in [0, 1]; one number is for every channel, or grey."),
]
Std = Annotated[str | None, typer.Option(metavar="S|R,G,B", help="Standard deviation, likewise.")]


@dataclass(frozen=True)
class ImageOptions:
    """What the command line says of the images, as it was written."""

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
        preprocessing: The network's own, where it is known.
        options: As given on the command line.
        problem: Why it is not known.
        channels: Of the network's images, where that is known.

    Returns:
        The preprocessing, None where nothing is known and nothing was asked for; and notes on what it changed.

    Raises:
        LookalikeError: If options contradict each other or make no sense, or some that are needed are missing.
    """
    if options == ImageOptions():
        if preprocessing is None and problem is not None:
            raise LookalikeError(problem)
        return preprocessing, []
    if preprocessing is None:
        return _stated(options, problem, channels), []
    notes: list[str] = []
    adjusted = replace(preprocessing, **_normalisation(options, preprocessing.channels))
    if options.interpolation is not None:
        adjusted = replace(adjusted, interpolation=options.interpolation)
    if options.resize is not None or options.crop is not None:
        adjusted = replace(adjusted, **_own_geometry(options, adjusted))
    elif options.image_size is not None:
        before, adjusted = adjusted, adjusted.with_size(_size("image-size", options.image_size))
        if adjusted != before and isinstance(before.resize, int) and before.crop is not None:
            share = before.crop[0] / before.resize
            notes.append(
                f"Image size {options.image_size}: resized to {_written(adjusted.resize)} and cropped to "
                f"{_written(adjusted.crop)}, so that the crop keeps its share of {share:.3g} "
                "(--resize and --crop set them)."
            )
    return adjusted, notes


def _stated(options: ImageOptions, problem: str | None, channels: int | None) -> "Preprocessing":
    """Makes a preprocessing of the options alone."""
    from lookalike.data import Preprocessing

    sized = options.image_size is not None or options.resize is not None or options.crop is not None
    if not sized or options.mean is None or options.std is None:
        reason = problem or "the model does not tell what its images go through"
        raise LookalikeError(f"{reason}; give --image-size, --mean and --std together")
    normalisation = _normalisation(options, channels)
    extra: Any = {} if options.interpolation is None else {"interpolation": options.interpolation}
    if options.resize is None and options.crop is None:
        size = _pair(_size("image-size", str(options.image_size)))
        resize: Any = size[0] if size[0] == size[1] else size
        return Preprocessing(
            resize, size, **normalisation, **extra, fit="stretch" if isinstance(resize, int) else "cover"
        )
    plain = Preprocessing(None, None, **normalisation, **extra)
    return replace(plain, **_own_geometry(options, plain))


def _own_geometry(options: ImageOptions, known: "Preprocessing") -> dict[str, Any]:
    """Returns the fields of torchvision's Resize and CenterCrop, where at least one of them is given."""
    resize: Any = known.resize if options.resize is None else _size_or_none("resize", options.resize)
    size = None if options.image_size is None else _pair(_size("image-size", options.image_size))
    if options.crop is not None:
        crop = _size_or_none("crop", options.crop)
        crop = None if crop is None else _pair(crop)
    elif size is not None:
        crop = size
    else:
        crop = known.crop
    if isinstance(resize, tuple) and resize == crop:
        crop = None if options.crop is None else crop
    result = crop or (resize if isinstance(resize, tuple) else None)
    if size is not None and result is not None and result != size:
        raise LookalikeError(
            f"--image-size {options.image_size} contradicts --resize {options.resize or _written(resize)} and --crop "
            f"{options.crop or _written(crop)}, which give {_written(result)}; leave --image-size out"
        )
    smallest = (resize, resize) if isinstance(resize, int) else resize
    if crop is not None and smallest is not None and (smallest[0] < crop[0] or smallest[1] < crop[1]):
        raise LookalikeError(
            f"resized to {_written(resize)}, an image is smaller than the crop of {_written(crop)}; "
            f"give --crop {_written(resize)}, or --crop none"
        )
    fit = known.fit if options.resize is None else "stretch"
    geometry = {"resize": resize, "crop": crop, "fit": fit, "window": None, "pad": None}
    return geometry | {"fill": (0,), "convention": "torchvision"}


def _normalisation(options: ImageOptions, channels: int | None) -> dict[str, Any]:
    """Reads --mean and --std for a network of that many channels; None: as many as there are numbers."""
    given = {name: _floats(name, text) for name in ("mean", "std") if (text := getattr(options, name)) is not None}
    if channels is None:
        channels = max((len(values) for values in given.values()), default=1)
    for name, values in given.items():
        if len(values) == 1:
            given[name] = values * channels
        elif len(values) != channels:
            raise LookalikeError(
                f"--{name} has {len(values)} numbers, but the network takes images of {channels} "
                f"channel{'s' * (channels > 1)}; give {'one number' if channels == 1 else f'1 or {channels}'}"
            )
    return given


def _floats(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise LookalikeError(f"--{name} takes one or three numbers with commas between, not {text!r}") from error


def _size_or_none(name: str, text: str) -> int | tuple[int, int] | None:
    return None if text.strip().lower() == "none" else _size(name, text)


def _size(name: str, text: str) -> int | tuple[int, int]:
    """Reads N or HxW."""
    parts = text.strip().lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
        none = "" if name == "image-size" else ", or 'none'"
        raise LookalikeError(f"--{name} takes a number of pixels, or HxW (height x width){none}, not {text!r}")
    sides = [int(part) for part in parts]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _written(size: int | tuple[int, int] | None) -> str:
    """Writes a size as the options take it."""
    if size is None:
        return "none"
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"
