"""QuickDraw: ten classes of sketches, 1,000 each, from the data's own ``.npy`` files (paper, appendix A.1)."""

from pathlib import Path

import numpy as np

from lookalike._core.errors import LookalikeError
from lookalike.data.bundle import DATASETS, DataBundle, DatasetEntry, ImageArray
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import kept_statistics
from lookalike.data.vision import data_folder

CLASSES = ("ant", "apple", "banana", "carrot", "cat", "cow", "dog", "frog", "grapes", "lion")
PER_CLASS = 1000
_TRAIN_SHARE = 0.8
_SIDE = 28
_SOURCE = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap/{}.npy"


def load_quickdraw(preprocessing: Preprocessing | None = None) -> DataBundle:
    """Loads 1,000 sketches of each class, chosen once by a fixed seed, 800 for training.

    Args:
        preprocessing: What the network takes; None is 32×32 with three channels, normalised by the training part.

    Raises:
        LookalikeError: If a file is neither there nor to be had, or is damaged; it names the file.
    """
    root = data_folder()
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for label, name in enumerate(CLASSES):
        images = _read(root / "quickdraw", name)
        chosen = np.random.default_rng([0, label]).permutation(len(images))[:PER_CLASS]
        n_train = round(_TRAIN_SHARE * len(chosen))
        for part, rows in (("train", chosen[:n_train]), ("test", chosen[n_train:])):
            parts[part].append(np.array(images[np.sort(rows)]).reshape(-1, _SIDE, _SIDE))
    x = {part: np.concatenate(found) for part, found in parts.items()}
    y = {part: np.repeat(np.arange(len(CLASSES)), [len(one) for one in found]) for part, found in parts.items()}
    if preprocessing is None:
        mean, std = kept_statistics(root, "quickdraw", x["train"])
        preprocessing = Preprocessing((32, 32), None, mean, std)
    train, test = (ImageArray(x[part], y[part], list(CLASSES), preprocessing) for part in ("train", "test"))
    return DataBundle("quickdraw", train, test, list(CLASSES), preprocessing)


def _read(folder: Path, name: str) -> np.ndarray:
    """Opens a class's file, memory-mapped; downloads it if it is not there."""
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
        raise LookalikeError(f"{str(path)!r} holds {len(images)} sketches; two at least are needed")
    return images


def _download(folder: Path, name: str) -> None:
    from torchvision.datasets.utils import download_url

    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_url(_SOURCE.format(name), str(folder), f"{name}.npy")
    except (OSError, RuntimeError) as error:
        (folder / f"{name}.npy").unlink(missing_ok=True)
        raise LookalikeError(
            f"'quickdraw' has no {name!r} in {str(folder)!r}, and it could not be downloaded ({error}); put "
            f"{', '.join(f'{one}.npy' for one in CLASSES)} there, or set LOOKALIKE_DATA to the folder above"
        ) from error


DATASETS.register("quickdraw")(
    DatasetEntry("10,000 sketches of ten classes, 28×28, 8,000 for training", load_quickdraw)
)
