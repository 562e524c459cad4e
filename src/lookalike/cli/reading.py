"""Reading the images of a command: batch by batch, and what is to be told of them at the end."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike._core.names import visible
from lookalike._core.wording import counted
from lookalike.cli.console import err

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lookalike.data import Preprocessing


class ImageReader:
    """Reads image files as a network takes them, and keeps what is to be told of them.

    Args:
        files: The files.
        preprocessing: What the images go through.
        batch_size: Most images in a batch.
        on_error: Whether an image that cannot be read is an error (``"stop"``), or is left out (``"skip"``).

    Attributes:
        skipped: Messages about images that could not be read.
        remarks: Remarks about unusual pixel values and dropped transparency, by file.
        n_read: Number of images that were read so far.

    Raises:
        LookalikeError: If ``on_error`` is neither.
    """

    def __init__(self, files: list[Path], preprocessing: "Preprocessing", batch_size: int, on_error: str) -> None:
        if on_error not in ("stop", "skip"):
            raise LookalikeError(f"--on-error takes 'stop' or 'skip', not {on_error!r}")
        self._files, self._preprocessing, self._batch_size, self._on_error = files, preprocessing, batch_size, on_error
        self.skipped: list[str] = []
        self.remarks: dict[str, str] = {}
        self.n_read = 0

    def batches(self) -> "Iterator[tuple[list[str], Any]]":
        """Yields the names and network inputs of the files.

        Raises:
            LookalikeError: If one cannot be read, and none is to be left out; or if none of them can be read.
        """
        from itertools import groupby

        import torch

        for start in range(0, len(self._files), self._batch_size):
            read = [(file, self._input_of(file)) for file in self._files[start : start + self._batch_size]]
            pairs = [(str(file), image) for file, image in read if image is not None]
            self.n_read += len(pairs)
            # Without a fixed size, images have different shapes: each run of equal shapes is one batch.
            for _, same_shape in groupby(pairs, key=lambda pair: pair[1].shape):
                names, images = zip(*same_shape, strict=True)
                yield list(names), torch.stack(images)
        if self._files and not self.n_read:
            of_all = counted(len(self._files), "image")
            raise LookalikeError(f"none of {of_all} could be read; the first: {self.skipped[0]}")

    def _input_of(self, file: Path) -> Any:
        """Returns an image as the network takes it; None if it cannot be read and is left out."""
        from lookalike.data.images import naming_file_in_errors

        try:
            image = self._preprocessing.decode(file)
            with naming_file_in_errors(file):
                remark = _remark_on(image, self._preprocessing)
                prepared = self._preprocessing(image)
        except BrokenImageError as error:
            if self._on_error == "stop":
                raise
            self.skipped.append(str(error))
            return None
        if remark is not None:
            self.remarks[str(file)] = remark
        return prepared

    def report(self) -> None:
        """Lists the images that could not be read, and warns of those whose transparency or values do not fit."""
        from lookalike.data.transparency import REMARK_ON_TRANSPARENCY, TransparentImages

        report_skipped(self.skipped)
        transparent = [file for file, remark in self.remarks.items() if REMARK_ON_TRANSPARENCY in remark]
        sentence = TransparentImages(self.n_read, len(transparent), next(iter(transparent), None)).sentence()
        lines = [] if sentence is None else [sentence]
        of_values = {
            file: text for file, remark in self.remarks.items() if (text := remark.split(REMARK_ON_TRANSPARENCY)[0])
        }
        if of_values:
            file, remark = next(iter(of_values.items()))
            like_it = f" (and {counted(len(of_values) - 1, 'more image')} like it)" if len(of_values) > 1 else ""
            lines.append(f"{visible(file)}: {remark.removesuffix('; ')}{like_it}")
        for line in lines:
            err.print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)


def report_skipped(skipped: list[str]) -> None:
    """Lists the images that could not be read."""
    if skipped:
        err.print(f"Skipped {counted(len(skipped), 'image')} that could not be read:", style="yellow")
        for message in skipped:
            err.print(f"  {visible(message)}", markup=False, soft_wrap=True)


def _remark_on(image: Any, preprocessing: "Preprocessing") -> str | None:
    """Says what is unusual about an image for a model."""
    from lookalike.data import is_transparent, value_remark
    from lookalike.data.transparency import REMARK_ON_TRANSPARENCY

    drops = preprocessing.transparency == "dropped" and is_transparent(image)
    remarks = [value_remark(image, preprocessing), REMARK_ON_TRANSPARENCY if drops else None]
    return "; ".join(remark for remark in remarks if remark is not None) or None
