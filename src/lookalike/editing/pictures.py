"""The training images that show edited prototypes, each read once."""

import threading

import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike.data import Batches, Preprocessing
from lookalike.model.images import pixels_of

NO_SAMPLE = -1  # stands for the nearest sample of a prototype that has none
_MOST_BYTES = 2**28  # of pictures that can be read again


class Pictures:
    """Training images as the network sees them, by the number of their sample.

    Args:
        batches: The training data; None if there are none to read more from.
        value_range: The inputs' values of black and white [2, C].
        preprocessing: Preprocessing of the images, if it is known.
    """

    def __init__(
        self, batches: Batches | None, value_range: Tensor | None, preprocessing: Preprocessing | None
    ) -> None:
        self._batches = batches if batches is not None and batches.can_fetch else None
        self._value_range, self._preprocessing = value_range, preprocessing
        self._lock = threading.RLock()  # the studio shows pictures while edits are made
        self._known: dict[int, Tensor] = {}
        self._read: dict[int, None] = {}  # those of them that can be read again, in the order of their use

    def keep(self, nearest: Tensor, images: Tensor) -> None:
        """Keeps the images [P, M, H, W, C] of samples [P, at least M]."""
        for samples, pictures in zip(nearest[:, : images.shape[1]].tolist(), images, strict=True):
            for sample, picture in zip(samples, pictures, strict=False):
                if sample >= 0:
                    self._known.setdefault(sample, picture)

    def of(self, nearest: Tensor, number: int) -> Tensor:
        """Returns the images of some samples [P, at least M] as uint8 [P, M, H, W, C].

        Raises:
            LookalikeError: If one is not known and cannot be read.
        """
        if nearest.shape[1] < number:
            nearest = torch.cat([nearest, nearest.new_full((len(nearest), number - nearest.shape[1]), -1)], 1)
        rows = nearest[:, :number]
        rows = torch.where(rows < 0, rows[:, :1], rows)  # too few images: repeat the nearest
        with self._lock:
            return self._of_rows(rows.tolist())

    def _of_rows(self, rows: list[list[int]]) -> Tensor:
        needed = sorted({sample for samples in rows for sample in samples} - {NO_SAMPLE})
        self.read(needed)
        self._use(needed)
        blank = {NO_SAMPLE: torch.full_like(next(iter(self._known.values())), 255)} if self._known else {}
        known = self._known | blank  # a prototype without training images is white
        stacked = torch.stack([torch.stack([known[sample] for sample in samples]) for samples in rows])
        self._forget()
        return stacked

    def read(self, samples: list[int]) -> None:
        """Reads images that are not known yet.

        Raises:
            LookalikeError: If they cannot be read.
        """
        missing = [sample for sample in samples if sample not in self._known]
        if not missing:
            return
        if self._batches is None or self._value_range is None:
            raise LookalikeError(
                f"the picture of training sample {missing[0]} is needed to show a prototype, and the model does not "
                "hold it: give the training data themselves, as in sem.edit(train), on the command line --data DATA"
            )
        for start in range(0, len(missing), self._batches.batch_size):
            chunk = missing[start : start + self._batches.batch_size]
            inputs = self._batches.fetch(chunk)
            if not isinstance(inputs, Tensor) or inputs.ndim != 4:
                raise LookalikeError("the training data are not images of one size; they cannot show prototypes")
            pixels = pixels_of(inputs, self._value_range, self._preprocessing)
            self._known.update(zip(chunk, pixels, strict=True))
            self._read.update(dict.fromkeys(chunk))

    def _use(self, samples: list[int]) -> None:
        """Notes that pictures were used last."""
        for sample in samples:
            if sample in self._read:
                del self._read[sample]
                self._read[sample] = None

    def _forget(self) -> None:
        """Forgets the pictures that were used longest ago and can be read again, beyond a bound of memory."""
        for sample in list(self._read):
            if len(self._read) * self._known[sample].nbytes <= _MOST_BYTES:
                return
            del self._read[sample], self._known[sample]

    def __getitem__(self, sample: int) -> Tensor:
        """Returns one image, uint8 [H, W, C]."""
        with self._lock:
            self.read([sample])
            picture = self._known[sample]
            self._use([sample])
            self._forget()
        return picture
