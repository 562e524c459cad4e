"""Decodes JPEG files on a CUDA device by nvJPEG, a batch at once.

Only plain files go to the device: baseline, 8 bits, upright, in as many colours as the network takes. All others, and
whatever nvJPEG refuses, are read on the CPU as without it. Pixels may differ from the CPU's by some levels, as nvJPEG
has arithmetic of its own; so it is only used if asked for.

    file ──▶ plain JPEG? ──yes──▶ its bytes ──nvJPEG──▶ [C, H, W] on the device ──resize, crop──▶ [C, h, w]
                 └──no──▶ decoded, resized and cropped on the CPU ◀──refused──┘
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.startup import import_with_torchvision
from lookalike.data.fitted import FittedSamples
from lookalike.data.parallel import Item, in_threads
from lookalike.data.turbo import is_baseline, read_content

Decode = Callable[[list[Tensor]], list[Tensor]]  # contents of files, uint8 [bytes] → images [C, H, W] on a device
Read = Callable[[int], Item]

_MOST_VALUES = 1 << 26  # in images that are resized together, as float32


def decoding_on(name: str | torch.device, samples: FittedSamples | None) -> "OnDevice":
    """Returns a reader of image files on a CUDA device.

    Args:
        name: The device, or its name.
        samples: The files; None for data of another kind.

    Raises:
        LookalikeError: If there is no such device, torchvision was built without nvJPEG, or the data do not allow it.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise LookalikeError(f"decode_on must name a CUDA device, not {name!r}") from error
    return OnDevice(samples, device, nvjpeg(device, 3 if samples is None else samples.preprocessing.channels))


def nvjpeg(device: torch.device, channels: int) -> Decode:
    """Returns torchvision's decoder on a CUDA device."""
    if device.type != "cuda" or not torch.cuda.is_available():
        raise LookalikeError(
            f"JPEG files are decoded on a CUDA device, and {str(device)!r} is none; leave decode_on out"
        )
    io = import_with_torchvision("torchvision.io")  # registers the operation
    if not hasattr(torch.ops.image, "decode_jpegs_cuda"):
        raise LookalikeError("torchvision was built without nvJPEG; leave decode_on out")
    mode = io.ImageReadMode.RGB if channels == 3 else io.ImageReadMode.GRAY

    def decode(contents: list[Tensor]) -> list[Tensor]:
        with warnings.catch_warnings():  # torchvision wants its users to change to another package
            warnings.simplefilter("ignore")
            images: list[Tensor] = io.decode_jpeg(contents, mode=mode, device=device)
        return images

    return decode


class OnDevice:
    """Reads image files, those that allow it on a device.

    Args:
        samples: The files.
        device: The device.
        decode: Decodes the contents of files; it raises a ``RuntimeError`` if it cannot decode one of them.

    Raises:
        LookalikeError: If the data are no files, or their preprocessing needs the CPU for all of them.
    """

    def __init__(self, samples: FittedSamples | None, device: torch.device, decode: Decode) -> None:
        if samples is None or samples.file is None:
            raise LookalikeError("only image files with a Preprocessing are decoded on a device; leave decode_on out")
        preprocessing = samples.preprocessing
        if preprocessing.scaled_decoding:
            raise LookalikeError("the device decodes whole pictures; leave out scaled_decoding, or decode_on")
        if not preprocessing.fits_tensors:
            raise LookalikeError(f"Pillow must prepare these images ({preprocessing.describe()}); leave decode_on out")
        self._file, self._preprocessing = samples.file, preprocessing
        self._device, self._decode = device, decode

    def items(self, read: Read, chunks: Sequence[np.ndarray], n_threads: int) -> Iterator[list[Item]]:
        """Yields the samples of each chunk of indices; threads read the next files while the device decodes."""
        for started in in_threads(lambda index: self.start(index, read), chunks, n_threads):
            yield self.end(started, read)

    def start(self, index: int, read: Read) -> Item:
        """Returns the bytes of a file for the device [bytes], or what ``read`` returns of it on the CPU."""
        file, label = self._file(index)
        content = read_content(file)
        if content is None or not is_baseline(content, self._preprocessing.channels):
            return read(index)
        return index, (torch.frombuffer(bytearray(content), dtype=torch.uint8), label), None

    def end(self, started: Sequence[Item], read: Read) -> list[Item]:
        """Decodes, resizes and crops what ``start`` left to the device; returns all images of a batch there."""
        items = list(started)
        rows = [row for row, (_, sample, error) in enumerate(items) if error is None and sample[0].ndim == 1]
        images = self._fitted(self._decoded([items[row][1][0] for row in rows]))
        for row, image in zip(rows, images, strict=True):
            index, (_, label), _ = items[row]
            items[row] = read(index) if image is None else (index, (image, label), None)
        return [
            (index, None if error is not None else (sample[0].to(self._device), sample[1]), error)
            for index, sample, error in items
        ]

    def _fitted(self, images: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Resizes and crops images, those of one size together; None for those that are left to the CPU."""
        fitted: list[Tensor | None] = [None] * len(images)
        of_size: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
        for row, image in enumerate(images):
            if image is not None:
                of_size[image.shape].append((row, image))
        for size, group in of_size.items():
            at_once = max(1, _MOST_VALUES // size.numel())
            for part in (group[start : start + at_once] for start in range(0, len(group), at_once)):
                together = self._preprocessing.fit_decoded(torch.stack([image for _, image in part]))
                if together is not None:
                    for (row, _), image in zip(part, together, strict=True):
                        fitted[row] = image
        return fitted

    def _decoded(self, contents: list[Tensor]) -> list[Tensor | None]:
        """Decodes a batch; if a file of it fails, which fails all, one file after the other."""
        if not contents:
            return []
        try:
            return list(self._decode(contents))
        except RuntimeError:
            if len(contents) == 1:
                return [None]
            return [image for content in contents for image in self._decoded([content])]
