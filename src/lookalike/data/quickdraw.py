"""QuickDraw: ten classes of 1,000 sketches each, from the published ``.npy`` files (paper, appendix A.1)."""

from pathlib import Path

import numpy as np

from lookalike._core.errors import LookalikeError
from lookalike._core.startup import import_with_torchvision
from lookalike.data.bundle import DATASETS, DataBundle, DatasetEntry, ImageArray
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import saved_statistics
from lookalike.data.vision import data_folder

CLASSES = ("ant", "apple", "banana", "carrot", "cat", "cow", "dog", "frog", "grapes", "lion")
PER_CLASS = 1000
_TRAIN_SHARE = 0.8
_SIDE = 28
_SOURCE = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap/{}.npy"


def load_quickdraw(preprocessing: Preprocessing | None = None) -> DataBundle:
    """Loads 1,000 sketches of each class, drawn with a fixed seed; 800 of them are for training.

    Args:
        preprocessing: How the images are prepared for the network; None is 32×32 with three channels, normalised by
            the training part.

    Raises:
        LookalikeError: If a file is missing and cannot be downloaded, or is damaged; the message names the file.
    """
    root = data_folder()
    train_per_class: list[np.ndarray] = []
    test_per_class: list[np.ndarray] = []
    for label, name in enumerate(CLASSES):
        images = _open_class(root / "quickdraw", name)
        rows = np.random.default_rng([0, label]).permutation(len(images))[:PER_CLASS]
        n_train = round(_TRAIN_SHARE * len(rows))
        train_per_class.append(_select(images, rows[:n_train]))
        test_per_class.append(_select(images, rows[n_train:]))
    if preprocessing is None:
        mean, std = saved_statistics(root, "quickdraw", np.concatenate(train_per_class))
        preprocessing = Preprocessing((32, 32), None, mean, std)
    train, test = (
        ImageArray(np.concatenate(per_class), _labels(per_class), list(CLASSES), preprocessing)
        for per_class in (train_per_class, test_per_class)
    )
    return DataBundle("quickdraw", train, test, list(CLASSES), preprocessing)


def _select(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Copies some sketches [n, 28, 28] out of a class's file, in the file's order."""
    return np.array(images[np.sort(rows)]).reshape(-1, _SIDE, _SIDE)


def _labels(images_per_class: list[np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(len(CLASSES)), [len(images) for images in images_per_class])


def _open_class(folder: Path, name: str) -> np.ndarray:
    """Memory-maps a class's file; downloads it first if it is missing."""
    path = folder / f"{name}.npy"
    if not path.exists():
        _download(folder, name)
    try:
        images: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LookalikeError(f"{str(path)!r} is damaged ({error}); remove it and load the data set again") from error
    if images.ndim != 2 or images.shape[1] != _SIDE**2 or images.dtype != np.uint8:
        raise LookalikeError(f"{str(path)!r} holds {images.dtype} {images.shape}, not sketches uint8 [N, {_SIDE**2}]")
    if len(images) < 2:
        raise LookalikeError(f"{str(path)!r} holds {len(images)} sketches; at least two are needed")
    return images


def _download(folder: Path, name: str) -> None:
    utils = import_with_torchvision("torchvision.datasets.utils")

    try:
        folder.mkdir(parents=True, exist_ok=True)
        utils.download_url(_SOURCE.format(name), str(folder), f"{name}.npy")
    except (OSError, RuntimeError) as error:
        (folder / f"{name}.npy").unlink(missing_ok=True)
        raise LookalikeError(
            f"'quickdraw' has no {name!r} in {str(folder)!r}, and it could not be downloaded ({error}); put "
            f"{', '.join(f'{class_}.npy' for class_ in CLASSES)} there, or set LOOKALIKE_DATA to the folder above"
        ) from error


DATASETS.register("quickdraw")(
    DatasetEntry("10,000 sketches of ten classes, 28×28, 8,000 for training", load_quickdraw)
)
