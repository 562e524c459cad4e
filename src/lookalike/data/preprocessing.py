"""From an image to what a network takes, and back to what a person can look at."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from lookalike import checks
from lookalike.data.extreme import needs_crop_first, resize_and_crop
from lookalike.data.grey_values import array_to_image, checked_range, to_eight_bit
from lookalike.data.images import ImageSource, decode_image, naming, one_line, to_mode, upright
from lookalike.errors import BrokenImageError, LookalikeError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


_LARGEST = 100_000  # pixels along a side


def _check_size(name: str, value: tuple[int, int]) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise checks.unfit(name, value, "(height, width)")
    for side in value:
        checks.whole_number(name, side, 1, _LARGEST)


@dataclass(frozen=True)
class Preprocessing:
    """Resizes, crops, scales to [0, 1] and normalises an image, without any augmentation.

    It is plain data: it travels with a saved model, and undoes its own normalisation for display.

    Attributes:
        resize: The length of the shorter side, or (height, width) to stretch to; None leaves the size.
        crop: (height, width) of the crop at the centre; None crops nothing.
        mean: Per channel, of values in [0, 1]. Its length says whether the network takes grey (1) or RGB (3).
        std: Per channel.
        interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"`` or ``"lanczos"``.
        value_range: The values of black and white, (low, high), for greys of more than 8 bits: one scale for all
            images. None takes 0…65535 for unsigned 16 bits and refuses signed, 32-bit and floating-point greys.
        as_stored: Leave images as their pixels are stored; else they are turned upright by their EXIF orientation.
        large_images: Read files beyond Pillow's limit (``PIL.Image.MAX_IMAGE_PIXELS``) too. It concerns this machine,
            and is not kept in ``to_dict``.

    Example:
        >>> grey = Preprocessing.square(28, mean=(0.5,), std=(0.5,))
        >>> grey(Image.new("RGB", (56, 56), "white")).shape
        torch.Size([1, 28, 28])
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    value_range: tuple[float, float] | None = None
    as_stored: bool = False
    large_images: bool = False

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, Sequence) or isinstance(values, str):
                raise checks.unfit(name, values, "1 or 3 numbers")
            for value in values:
                checks.number(name, value)
        checks.optional(_check_size, "resize", self.resize if isinstance(self.resize, tuple) else None)
        checks.optional(_check_size, "crop", self.crop)
        if self.resize is not None and not isinstance(self.resize, tuple):
            checks.whole_number("resize", self.resize, 1, _LARGEST)
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise LookalikeError(f"mean and std need 1 or 3 numbers each, not {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise LookalikeError(f"std must be positive, not {self.std}")
        try:
            InterpolationMode(self.interpolation)
        except (ValueError, TypeError) as error:
            raise LookalikeError(f"no interpolation is called {self.interpolation!r}") from error
        if self.value_range is not None:
            object.__setattr__(self, "value_range", checked_range(self.value_range))

    @classmethod
    def square(cls, size: int, **options: Any) -> "Preprocessing":
        """Resizes the shorter side to ``size`` and crops the middle to a square."""
        return cls(resize=size, crop=(size, size), **options)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return len(self.mean)

    def with_size(self, size: int) -> "Preprocessing":
        """Returns the same for square images of another size."""
        return replace(self, resize=size, crop=(size, size))

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        """Prepares one image.

        Args:
            image: A picture of any mode, turned upright if it has an EXIF orientation (see ``as_stored``), or an array
                [H, W], [H, W, 1] or [H, W, 3] of uint8; of other numbers with ``value_range``.

        Returns:
            float32 [C, H, W].

        Raises:
            LookalikeError: If the image has no scale of its own, or its colours cannot be converted.
            BrokenImageError: If it cannot be decoded, has NaN pixels, or would be huge after resizing.
        """
        if isinstance(image, np.ndarray):
            image = array_to_image(image, self.value_range)
        elif isinstance(image, Image.Image):
            image = self._eight_bit(image)
        else:
            raise LookalikeError(f"an image must be a PIL image or an array, not a {type(image).__name__}")
        image = to_mode(image, "L" if self.channels == 1 else "RGB")
        image = self._fit(image)
        pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, self.channels)
        return self.normalise(pixels.permute(2, 0, 1).float() / 255)

    def read(self, source: ImageSource) -> Tensor:
        """Reads an image file and prepares it; [C, H, W].

        Args:
            source: A file, or its content as a stream.

        Raises:
            BrokenImageError: If it cannot be read; it names the file.
            LookalikeError: If its values have no scale of their own.
        """
        image = decode_image(source, large_images=self.large_images)
        with naming(source):
            return self(image)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Maps pixels [..., C, H, W] in [0, 1] to the network's input."""
        return (pixels - self._column(self.mean, pixels)) / self._column(self.std, pixels)

    def pixels(self, inputs: Tensor) -> Tensor:
        """Maps network inputs [..., C, H, W] back to pixels in [0, 1]."""
        return (inputs * self._column(self.std, inputs) + self._column(self.mean, inputs)).clamp(0, 1)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        del values["large_images"]  # what one machine may read is no property of a model
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """Makes one again from ``to_dict``."""
        read: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**read)

    def describe(self) -> str:
        """Says in a few words what happens to an image."""
        size = self.crop or self.resize
        shape = "any size" if size is None else f"{size[0]}×{size[1]}" if isinstance(size, tuple) else f"{size}"
        values = "" if self.value_range is None else ", values {:g}…{:g}".format(*self.value_range)
        return f"{shape} {'grey' if self.channels == 1 else 'RGB'}{values}{', as stored' if self.as_stored else ''}"

    def _eight_bit(self, image: Image.Image) -> Image.Image:
        try:
            image.load()  # an image may be opened and not yet decoded
        except Exception as error:  # decoders raise whatever their damaged input leads them to
            raise BrokenImageError("", one_line(error)) from error
        return to_eight_bit(image if self.as_stored else upright(image), self.value_range)

    def _fit(self, image: Image.Image) -> Image.Image:
        if isinstance(self.resize, int) and needs_crop_first(image, self.resize):
            return resize_and_crop(image, self.resize, self.crop, self.interpolation)
        if self.resize is not None:
            wanted = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            interpolation = InterpolationMode(self.interpolation)
            image = transforms.resize(image, wanted, interpolation=interpolation, antialias=True)
        if self.crop is not None and (image.height, image.width) != self.crop:
            image = transforms.center_crop(image, list(self.crop))
        return image

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
