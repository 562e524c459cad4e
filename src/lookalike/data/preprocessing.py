"""From an image to what a network takes, and back to what a person can look at."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from lookalike.data.images import to_eight_bit
from lookalike.errors import LookalikeError
from lookalike.records import from_json

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise LookalikeError(f"mean and std need 1 or 3 numbers each, not {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise LookalikeError(f"std must be positive, not {self.std}")
        try:
            InterpolationMode(self.interpolation)
        except ValueError as error:
            raise LookalikeError(f"no interpolation is called {self.interpolation!r}") from error

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
            image: A picture of any mode, or an array [H, W], [H, W, 1] or [H, W, 3] of uint8.

        Returns:
            float32 [C, H, W].
        """
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image.squeeze(-1) if image.ndim == 3 and image.shape[-1] == 1 else image)
        image = to_eight_bit(image).convert("L" if self.channels == 1 else "RGB")
        image = self._fit(image)
        pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, self.channels)
        return self.normalise(pixels.permute(2, 0, 1).float() / 255)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Maps pixels [..., C, H, W] in [0, 1] to the network's input."""
        return (pixels - self._column(self.mean, pixels)) / self._column(self.std, pixels)

    def pixels(self, inputs: Tensor) -> Tensor:
        """Maps network inputs [..., C, H, W] back to pixels in [0, 1]."""
        return (inputs * self._column(self.std, inputs) + self._column(self.mean, inputs)).clamp(0, 1)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """Makes one again from ``to_dict``.

        Raises:
            LookalikeError: If a value is unknown, missing or of another type; it names it.
        """
        return from_json(cls, values, "preprocessing")  # type: ignore[no-any-return]

    def describe(self) -> str:
        """Says in a few words what happens to an image."""
        size = self.crop or self.resize
        shape = "any size" if size is None else f"{size[0]}×{size[1]}" if isinstance(size, tuple) else f"{size}"
        return f"{shape} {'grey' if self.channels == 1 else 'RGB'}"

    def _fit(self, image: Image.Image) -> Image.Image:
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
