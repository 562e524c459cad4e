"""``Preprocessing``: prepares images for a network, and turns network inputs back into pixels for display."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike._core.records import from_json
from lookalike.data.decoders import STARTS_A_PROGRAM
from lookalike.data.describing import describe_preprocessing
from lookalike.data.extreme import resize_and_crop, would_be_huge
from lookalike.data.geometry import (
    CONVENTIONS,
    FILTERS,
    FITS,
    crop_picture,
    crop_tensor,
    resize_picture,
    resize_tensor,
    resized_size,
    window_size,
)
from lookalike.data.grey_values import array_to_image, checked_range, to_eight_bit
from lookalike.data.images import ImageSource, decode_image, naming_file_in_errors, one_line, to_mode, upright
from lookalike.data.scaled import scale_of
from lookalike.data.transparency import TRANSPARENCIES, laid_on
from lookalike.data.turbo import read_jpeg

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The deviation of pixels in [0, 1] is at most 0.5, and 1 leaves pixels unchanged. Larger values are for 0…255.
_HIGHEST_STD = 2.0
_ALWAYS_SAVED = ("resize", "crop", "mean", "std", "interpolation")
_NEVER_SAVED = ("large_images",)  # it depends on the memory of a machine, and is no property of a model


@dataclass(frozen=True)
class Preprocessing:
    """Resizes, crops, scales to [0, 1] and normalises an image, without any augmentation.

    The steps, in this order: turn upright, scale to 8 bits, lay on a colour, convert to grey or RGB, crop ``window``,
    ``resize``, ``crop``, scale to [0, 1], normalise, ``pad``.

    It is plain data and is saved with a model. It can undo its own normalisation for display. The fields after
    ``interpolation`` reproduce the preprocessing of other libraries; ``lookalike.data.foreign`` and
    ``lookalike.data.processors`` read them from a library's configuration.

    Attributes:
        resize: Length of the shorter side, or (height, width); None does not resize.
        crop: (height, width) of the centre crop; None does not crop.
        mean: Mean per channel of pixels in [0, 1]. One number stands for a grey network, three for RGB.
        std: Deviation per channel of pixels in [0, 1]: the network's input is (pixel − mean) / std.
        interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, ``"box"`` or ``"hamming"``.
        fit: How an image is resized to a ``resize`` of (height, width): ``"stretch"`` it to that size, or keep the
            aspect ratio and ``"cover"`` that size, or be ``"contain"``-ed in it.
        fill: Colour of the border if an image is smaller than the crop, 0…255 per channel or one number for all; a
            grey image takes the mean.
        window: (height, width) of a centre crop before the resizing, as shares of the image's shorter side.
        pad: (height, width) to which the normalised image is padded with zeros, at the right and the bottom.
        convention: The library whose resizing and cropping is reproduced exactly: ``"torchvision"`` (also timm),
            ``"transformers"`` (resizes bytes with torch), ``"transformers-pillow"`` or ``"transformers-float"``.
        channel_order: Channel order of the network's input, ``"rgb"`` or ``"bgr"``; ``mean`` and ``std`` are always in
            the order of RGB.
        transparency: What transparent pixels become: ``"dropped"`` shows the colour stored in them, which is arbitrary;
            ``"white"`` or ``"black"`` lays the picture on that colour.
        value_range: The values of black and white, (low, high), for greys of more than 8 bits: one scale for all
            images. None takes 0…65535 for unsigned 16 bits and refuses signed, 32-bit and floating-point greys.
        as_stored: Ignore the EXIF orientation; otherwise images are turned upright by it.
        scaled_decoding: Decode JPEG files at a half, a quarter or an eighth of their size if that is still at least
            twice the size to which they are resized. It saves time with large photographs and changes pixels a
            little; pictures that are already decoded stay as they are.
        large_images: Read files beyond Pillow's limit (``PIL.Image.MAX_IMAGE_PIXELS``) too. ``to_dict`` leaves this
            out, because it depends on the machine.

    Example:
        >>> grey = Preprocessing.square(28, mean=(0.5,), std=(0.5,))
        >>> grey(Image.new("RGB", (56, 56), "white")).shape
        torch.Size([1, 28, 28])
        >>> grey.describe()
        'grey; shorter side to 28 (bilinear), centre crop 28×28; mean 0.5, std 0.5'
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    fit: str = "stretch"
    fill: tuple[int, ...] = (0,)
    window: tuple[float, float] | None = None
    pad: tuple[int, int] | None = None
    convention: str = "torchvision"
    channel_order: str = "rgb"
    transparency: str = "dropped"
    value_range: tuple[float, float] | None = None
    as_stored: bool = False
    scaled_decoding: bool = False
    large_images: bool = False

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            numbers = _as_tuple(getattr(self, name))
            if not isinstance(numbers, tuple):
                raise checks.unfit(name, numbers, "1 or 3 numbers")
            object.__setattr__(self, name, tuple(checks.number(name, value) for value in numbers))
        _check_normalisation(self.mean, self.std)
        if self.value_range is not None:
            object.__setattr__(self, "value_range", checked_range(self.value_range))
        if not isinstance(self.interpolation, str) or self.interpolation not in FILTERS:
            raise LookalikeError(f"unknown interpolation {self.interpolation!r}; choose one of {', '.join(FILTERS)}")
        if self.on_tensors and self.interpolation in ("box", "hamming"):
            raise LookalikeError(f"torch has no interpolation {self.interpolation!r}; only Pillow has it")
        for name, allowed in (
            ("fit", FITS),
            ("convention", CONVENTIONS),
            ("channel_order", ("rgb", "bgr")),
            ("transparency", TRANSPARENCIES),
        ):
            if getattr(self, name) not in allowed:
                raise LookalikeError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name in ("resize", "crop", "pad"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _sizes(name, getattr(self, name)))
        object.__setattr__(self, "fill", _colour(self.fill))
        if self.on_tensors and any(self.fill):
            raise LookalikeError(f"the border of the convention {self.convention!r} is black: leave fill out")
        if self.window is not None:
            object.__setattr__(self, "window", _shares("window", self.window))

    @classmethod
    def square(cls, size: int, **options: Any) -> "Preprocessing":
        """Resizes the shorter side to ``size`` and crops the centre to a square."""
        return cls(resize=size, crop=(size, size), **options)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return len(self.mean)

    @property
    def on_tensors(self) -> bool:
        """Whether images are resized by torch; otherwise Pillow resizes them."""
        return self.convention in ("transformers", "transformers-float")

    @property
    def fits_tensors(self) -> bool:
        """Whether torch resizes and crops most images as Pillow does."""
        # Torch's bicubic filter differs from Pillow's by up to 30 levels at sharp edges, its bilinear one by one level.
        is_alike = self.on_tensors or self.interpolation == "bilinear" or self.resize is None
        return is_alike and self.window is None and self.pad is None

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of the network's input; None if it depends on the image."""
        if self.pad is not None:
            return self.pad
        if self.crop is not None:
            return self.crop
        return self.resize if isinstance(self.resize, tuple) and self.fit == "stretch" else None

    def with_size(self, size: int | tuple[int, int]) -> "Preprocessing":
        """Returns the same preprocessing for another input size, a side or (height, width).

        The crop keeps its share of the resized image. The current size changes nothing.

        Example:
            >>> Preprocessing(256, (224, 224)).with_size(32).resize
            36
        """
        new = (size, size) if isinstance(size, int) else size
        old = self.output_size
        if new == old:
            return self
        if old is not None and self.crop is None and self.pad is None:  # stretched
            return replace(self, resize=new)
        if old is None or self.crop is None or self.resize is None or self.pad is not None:  # no share to keep
            covering = replace(self, resize=new, crop=new, fit="cover", pad=None)
            return replace(covering, resize=new[0], fit="stretch") if new[0] == new[1] else covering
        # From here on there is a crop of a resized image: the resize is scaled by the same factor as the crop.
        if isinstance(self.resize, tuple):
            scaled = zip(self.resize, new, old, strict=True)
            resize: Any = tuple(side * new_side // old_side for side, new_side, old_side in scaled)
            return replace(self, resize=resize, crop=new)
        if new[0] * old[1] == new[1] * old[0]:  # of the same shape
            return replace(self, resize=self.resize * new[0] // old[0], crop=new)
        # `resize` is a shorter side, and a crop is not square: the new shorter side need not be the same one.
        sides = new[0] * self.resize // min(old), new[1] * self.resize // min(old)
        return replace(self, resize=sides, crop=new, fit="cover")

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        """Prepares one image.

        Args:
            image: A picture of any mode, which is turned upright if it has an EXIF orientation (see ``as_stored``), or
                an array [H, W], [H, W, 1] or [H, W, 3] of uint8; arrays of other numbers need ``value_range``.

        Returns:
            float32 [C, H, W].

        Raises:
            LookalikeError: If the image's values have no scale, or its colours cannot be converted.
            BrokenImageError: If the image cannot be decoded, has NaN pixels, or would be huge after resizing.
        """
        return self.finish(self.fit_picture(image))

    def fit_picture(self, image: Image.Image | np.ndarray) -> Tensor:
        """Resizes and crops one image: all steps before the pixels are scaled to [0, 1] and normalised.

        Takes and raises what calling the preprocessing does. ``finish`` does the rest, for a whole batch at once and
        on any device, so that a batch travels as bytes.

        Returns:
            [C, H, W], uint8 0…255; float32 in [0, 1] for the convention ``"transformers-float"``.
        """
        if isinstance(image, np.ndarray):
            image = array_to_image(image, self.value_range)
        elif isinstance(image, Image.Image):
            if image.format in STARTS_A_PROGRAM:  # the caller may have opened it and not decoded it
                raise BrokenImageError("", f"Pillow starts a program to decode {image.format} images; convert it first")
            image = self._to_eight_bit(image)
        else:
            raise LookalikeError(f"an image must be a PIL image or an array, not a {type(image).__name__}")
        image = laid_on(image, self.transparency)
        image = to_mode(image, "L" if self.channels == 1 else "RGB")
        if self.window is not None:
            size = window_size(image.height, image.width, self.window)
            image = crop_picture(image, size, self.convention, self.fill)
        fitted = self._resize_and_crop(image)
        if self.pad is not None and (fitted.shape[1] > self.pad[0] or fitted.shape[2] > self.pad[1]):
            sizes = f"{fitted.shape[2]}×{fitted.shape[1]} pixels, more than the {self.pad[1]}×{self.pad[0]}"
            raise BrokenImageError(
                "", f"after resizing it has {sizes} to which images are padded; crop it to another shape"
            )
        return fitted

    def finish(self, fitted: Tensor) -> Tensor:
        """Scales fitted images [..., C, H, W] to [0, 1], normalises and pads them, on their device; float32."""
        if fitted.is_floating_point():
            inputs = self.normalise(fitted.contiguous())
        else:  # in place: each pass over new memory takes as long as the arithmetic
            inputs = fitted.contiguous().float().div_(255)
            inputs = self.reordered(inputs.sub_(self._column(self.mean, inputs)).div_(self._column(self.std, inputs)))
        if self.pad is None:
            return inputs
        return torch.nn.functional.pad(inputs, [0, self.pad[1] - inputs.shape[-1], 0, self.pad[0] - inputs.shape[-2]])

    def read(self, source: ImageSource, look: Callable[[Image.Image], Any] | None = None) -> Tensor:
        """Reads an image file and prepares it; returns [C, H, W].

        Args:
            source: A path, or the file's content as a stream.
            look: Called with the picture as it is stored, unless it is a JPEG file, which has no transparency.

        Raises:
            BrokenImageError: If the file cannot be read; the message names it.
            LookalikeError: If the image's values have no scale.
        """
        return self.finish(self.fit_file(source, look))

    def fit_file(self, source: ImageSource, look: Callable[[Image.Image], Any] | None = None) -> Tensor:
        """Reads an image file, and resizes and crops it; see ``fit_picture``.

        Most JPEG files are decoded by libjpeg-turbo and, if they are resized bilinearly, resized by torch. The pixels
        differ from those of Pillow, which reads all other files, by at most one of 255 levels.
        """
        decoded = read_jpeg(source, self.channels, self._scale_of, in_scratch=True)
        if decoded is not None and (fitted := self.fit_decoded(decoded)) is not None:
            is_scratch = fitted.untyped_storage().data_ptr() == decoded.untyped_storage().data_ptr()
            return fitted.clone() if is_scratch else fitted  # the next picture takes the scratch memory
        if decoded is None:
            image: Any = self.decode(source)
            if look is not None:
                look(image)
        else:
            image = np.ascontiguousarray(decoded.permute(1, 2, 0).numpy())
        with naming_file_in_errors(source):
            return self.fit_picture(image)

    def decode(self, source: ImageSource) -> Image.Image:
        """Decodes an image file by Pillow, at the size that ``scaled_decoding`` asks for; see ``decode_image``."""
        return decode_image(source, large_images=self.large_images, scale_of=self._scale_of)

    def fit_decoded(self, image: Tensor) -> Tensor | None:
        """Resizes and crops bytes [C, H, W] or [n, C, H, W] with torch; None where it might not be as Pillow does."""
        stored = image.shape[-2], image.shape[-1]
        size = self._resized_size(*stored)
        if not self.fits_tensors or would_be_huge(size, stored):
            return None
        if self.crop is not None and (size[0] < self.crop[0] or size[1] < self.crop[1]):
            return None
        if self.on_tensors:
            return self._resize_and_crop_tensor(image, size)
        resized = image if self.resize is None else resize_tensor(image, size, self.interpolation)
        return resized if self.crop is None else crop_tensor(resized, self.crop, self.convention)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Maps pixels [..., C, H, W] in [0, 1] to the network's input."""
        return self.reordered((pixels - self._column(self.mean, pixels)) / self._column(self.std, pixels))

    def pixels(self, inputs: Tensor) -> Tensor:
        """Maps network inputs [..., C, H, W] back to pixels in [0, 1]."""
        values = self.reordered(inputs)
        return (values * self._column(self.std, values) + self._column(self.mean, values)).clamp(0, 1)

    def reordered(self, values: Tensor) -> Tensor:
        """Converts values [..., C, H, W] between the channel orders of RGB and of the network, in either direction."""
        return values.flip(-3) if self.channel_order == "bgr" and self.channels > 1 else values

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values: the first five fields, and the others if they differ from their defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key in _ALWAYS_SAVED or (value != defaults[key] and key not in _NEVER_SAVED)
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """Restores a preprocessing from the values of ``to_dict``.

        Raises:
            LookalikeError: If this version does not know a setting, or a value is invalid.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise LookalikeError(
                f"the preprocessing has unknown settings: {', '.join(unknown)}; "
                "it was saved by a later version of lookalike: update it"
            )
        return from_json(cls, values, "preprocessing")  # type: ignore[no-any-return]

    def describe(self) -> str:
        """Describes the preprocessing in one line: colour, sizes, interpolation, border, mean and std."""
        return describe_preprocessing(self)

    def _to_eight_bit(self, image: Image.Image) -> Image.Image:
        try:
            image.load()  # the caller may have opened it and not decoded it
        except Exception as error:  # decoders raise errors of any type on damaged files
            raise BrokenImageError("", one_line(error)) from error
        return to_eight_bit(image if self.as_stored else upright(image), self.value_range)

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) to which an image is resized."""
        return (height, width) if self.resize is None else resized_size(height, width, self.resize, self.fit)

    def _scale_of(self, stored: tuple[int, int], is_on_its_side: bool) -> int:
        """Returns the divisor of the sides at which a JPEG file is decoded."""
        if not self.scaled_decoding:
            return 1
        if is_on_its_side and not self.as_stored:
            stored = stored[1], stored[0]
        region = stored if self.window is None else window_size(*stored, self.window)
        return scale_of(region, self._resized_size(*region))

    def _crops_first(self, image: Image.Image) -> bool:
        """Says whether to crop before resizing, because the whole resized image would be huge.

        Raises:
            BrokenImageError: If it would be huge and there is no crop.
        """
        stored = image.height, image.width
        size = self._resized_size(*stored)
        is_bounded = isinstance(self.resize, tuple) and self.fit != "cover"  # by `resize`, whatever the image's shape
        if is_bounded or not would_be_huge(size, stored):
            return False
        if self.crop is None:
            sizes = f"its {image.width:,}×{image.height:,} pixels would be resized to {size[1]:,}×{size[0]:,}"
            raise BrokenImageError("", f"{sizes}; crop it to a usual shape, or give the preprocessing a crop (--crop)")
        return True

    def _resize_and_crop(self, image: Image.Image) -> Tensor:
        """Resizes and crops a picture; returns [C, H, W], see ``fit_picture``."""
        size = self._resized_size(image.height, image.width)
        if self._crops_first(image) and self.crop is not None:
            options: Any = {"convention": self.convention, "fill": (0,) if self.on_tensors else self.fill}
            fitted = self._to_tensor(resize_and_crop(image, size, self.crop, self.interpolation, **options))
            return self._as_convention(fitted)
        if self.on_tensors:
            return self._resize_and_crop_tensor(self._to_tensor(image), size)
        if self.resize is not None:
            image = resize_picture(image, size, self.interpolation)
        if self.crop is not None and (image.height, image.width) != self.crop:
            image = crop_picture(image, self.crop, self.convention, self.fill)
        return self._to_tensor(image)

    def _resize_and_crop_tensor(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Resizes bytes [C, H, W] to (height, width) and crops them with torch; see ``fit_picture``."""
        image = self._as_convention(image)
        if self.resize is not None:
            image = resize_tensor(image, size, self.interpolation)
        if self.crop is not None:
            image = crop_tensor(image, self.crop, self.convention)
        return image

    def _as_convention(self, image: Tensor) -> Tensor:
        """Returns bytes [C, H, W] as they are, or as float32 in [0, 1] for the convention that computes with these."""
        if self.convention != "transformers-float":
            return image
        # Transformers multiplies; dividing by 255 may differ in the last bit, and std enlarges it
        return image.float() * (1 / 255)

    def _to_tensor(self, image: Image.Image) -> Tensor:
        """Returns a picture's bytes [C, H, W]."""
        pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, self.channels)
        return pixels.permute(2, 0, 1).contiguous()

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        """Returns values per channel as [C, 1, 1], which broadcasts over images."""
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def _check_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise LookalikeError(f"mean and std need 1 or 3 numbers each, not {mean} and {std}")
    for name, values, highest in (("mean", mean, 1.0), ("std", std, _HIGHEST_STD)):
        for value in values:
            if not math.isfinite(value):
                raise LookalikeError(f"{name} must be finite, not {values}")
            if value > highest:
                raise LookalikeError(
                    f"mean and std are of pixels in [0, 1]; the {name} {value:g} looks like 0…255: "
                    f"give {value / 255:.3g}"
                )
    if min(std) <= 0:
        raise LookalikeError(f"std must be positive, not {std}")


def _as_tuple(values: Any) -> Any:
    """Returns lists and arrays of one axis as tuples of Python's numbers, and all else as it is."""
    if isinstance(values, np.ndarray | Tensor) and values.ndim == 1:
        values = values.tolist()
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str | bytes) else values


_MOST_PIXELS = 10**9  # of one image: 12 GB as the network takes it


def _sizes(name: str, sizes: Any) -> int | tuple[int, int]:
    """Returns a checked (height, width), or the length of the shorter side, which ``resize`` may be."""
    expected = "of whole numbers of pixels, at least 1"
    as_given = _as_tuple(sizes)
    numbers = as_given if isinstance(as_given, tuple) else (as_given,)
    if len(numbers) != 2 and (name != "resize" or len(numbers) != 1):
        raise checks.unfit(name, sizes, f"(height, width), {expected}")
    if any(not isinstance(size, Integral) or isinstance(size, bool) or size < 1 for size in numbers):
        raise LookalikeError(f"{name} must be {expected}, not {sizes}")
    if int(numbers[0]) * int(numbers[-1]) > _MOST_PIXELS:
        raise LookalikeError(f"{name} must be at most {_MOST_PIXELS:,} pixels in all, not {sizes}")
    return int(numbers[0]) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]))


def _colour(fill: Any) -> tuple[int, ...]:
    """Returns the checked colour of the border."""
    as_given = _as_tuple(fill)
    levels = as_given if isinstance(as_given, tuple) else (as_given,)
    if len(levels) not in (1, 3) or not all(_is_level(level) for level in levels):
        raise checks.unfit("fill", fill, "1 or 3 whole numbers of 0 to 255")
    return tuple(int(level) for level in levels)


def _is_level(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) <= 255


def _shares(name: str, shares: Any) -> tuple[float, float]:
    as_given = _as_tuple(shares)
    if not isinstance(as_given, tuple) or len(as_given) != 2:
        raise checks.unfit(name, shares, "(height, width), as shares of an image's shorter side")
    height, width = (checks.number(name, share, above=0) for share in as_given)
    return height, width
