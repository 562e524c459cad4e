"""Data sets whose images have a mask of the object: ``MaskedFiles``, and the protocol that evaluation looks for."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor
from typing_extensions import override

from lookalike._core.errors import LookalikeError
from lookalike.data.folders import ImageFiles
from lookalike.data.images import decode_image
from lookalike.data.preprocessing import Preprocessing

ReadMask = Callable[[Path], Image.Image]

_OUTLINE = 3  # value of the object's border in a trimap; 1 is the object, 2 the background


@runtime_checkable
class HasMasks(Protocol):
    """A data set that knows where the object is in each image."""

    def mask(self, index: int) -> Tensor:
        """Returns whether each pixel of the network's input belongs to the object [H, W], bool."""


class MaskedFiles(ImageFiles):
    """Image files with a mask of the object in each.

    Args:
        root: Folder that contains the files.
        files: Paths of the N files.
        labels: [N].
        classes: Class names, by label.
        transform: Preprocessing of the images; the masks are resized and cropped by it too.
        read_mask: Returns an image's mask from the path of the image: grey, 255 inside the object.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        labels: Sequence[int] | np.ndarray,
        classes: list[str],
        transform: Preprocessing,
        read_mask: ReadMask,
    ) -> None:
        super().__init__(root, files, labels, classes, transform)
        self.read_mask = read_mask

    def mask(self, index: int) -> Tensor:
        """Returns whether each pixel of the network's input belongs to the object [H, W], bool.

        Raises:
            BrokenImageError: If the mask cannot be read; the message names its file.
            LookalikeError: If the images are prepared by a function that is no ``Preprocessing``.
        """
        return mask_as_prepared(self.read_mask(self.files[index]), self.transform)

    @override
    def select(self, rows: np.ndarray) -> "MaskedFiles":
        return self._with_masks(super().select(rows))

    @override
    def joined(self, other: ImageFiles) -> "MaskedFiles":
        return self._with_masks(super().joined(other))

    def _with_masks(self, files: ImageFiles) -> "MaskedFiles":
        masked = MaskedFiles(files.root, files.files, files.labels, files.classes, self.transform, self.read_mask)  # type: ignore[arg-type]
        masked._content_keys, masked._file_stats = files._content_keys, files._file_stats
        return masked


def mask_as_prepared(mask: Image.Image, transform: Any) -> Tensor:
    """Resizes and crops a grey mask like its image. Returns bool [H, W].

    Raises:
        LookalikeError: If ``transform`` is no ``Preprocessing``.
    """
    if not isinstance(transform, Preprocessing):
        raise LookalikeError(
            f"masks follow a Preprocessing; the images are prepared by a {type(transform).__name__}, so give "
            "evaluate(..., masks=...) the masks [N, H, W] as the network sees them"
        )
    geometry = replace(
        transform, mean=(0.0,), std=(1.0,), fill=(0,), channel_order="rgb", transparency="dropped", value_range=None
    )
    return geometry(mask.convert("L"))[0] >= 0.5


def alpha_mask(path: Path) -> Image.Image:
    """Returns an image's alpha channel: its object is what is not transparent."""
    image = decode_image(path)
    return image.convert("RGBA").getchannel("A")


def trimap_mask(path: Path) -> Image.Image:
    """Returns the mask of an Oxford-IIIT pet from ``annotations/trimaps``; the border counts as part of the pet."""
    trimap = np.asarray(decode_image(path.parent.parent / "annotations" / "trimaps" / f"{path.stem}.png").convert("L"))
    return Image.fromarray(np.where((trimap == 1) | (trimap == _OUTLINE), 255, 0).astype(np.uint8))
