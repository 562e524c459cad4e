"""The paper's data sets that torchvision provides: MNIST, Fashion-MNIST, SVHN, CIFAR-10, STL-10 (paper, A.1)."""

import functools
import gzip
import os
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lookalike._core.errors import LookalikeError, first_line
from lookalike._core.startup import import_with_torchvision
from lookalike.data.bundle import DATASETS, DataBundle, DatasetEntry, ImageArray
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import saved_statistics

# The errors that torchvision's readers raise on damaged files.
_DAMAGED_FILE_ERRORS = (
    ValueError,
    AssertionError,
    EOFError,
    KeyError,
    TypeError,
    IndexError,
    pickle.UnpicklingError,
    zlib.error,
)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]  # train x, y, test x, y, class names


@dataclass(frozen=True)
class _Source:
    """A data set that torchvision provides.

    Attributes:
        name: Registered name.
        description: One line about the data set.
        size: Side in pixels of the paper's network input.
        files: For offline use: the files that the user has to provide, and in which folder.
        read: ``read(folder, download)`` reads the data set from a folder, after downloading it if asked to.
    """

    name: str
    description: str
    size: int
    files: str
    read: Callable[[Path, bool], Arrays]


def data_folder() -> Path:
    """Returns the folder of downloaded data sets: ``$LOOKALIKE_DATA``, or ``~/.cache/lookalike/data``."""
    return Path(os.environ.get("LOOKALIKE_DATA") or Path.home() / ".cache" / "lookalike" / "data")


def _load(source: _Source, preprocessing: Preprocessing | None = None) -> DataBundle:
    root = data_folder()
    train_x, train_y, test_x, test_y, names = _read(source, root)
    if preprocessing is None:
        mean, std = saved_statistics(root, source.name, train_x)
        preprocessing = Preprocessing((source.size, source.size), None, mean, std)
    train, test = (
        ImageArray(x, y.astype(np.int64), names, preprocessing) for x, y in ((train_x, train_y), (test_x, test_y))
    )
    return DataBundle(source.name, train, test, names, preprocessing)


def _read(source: _Source, root: Path) -> Arrays:
    """Reads a data set, after downloading it if it is missing.

    Raises:
        LookalikeError: If the data set is missing and cannot be downloaded, or a file is damaged.
    """
    try:
        return source.read(root, False)
    except LookalikeError:
        raise
    except (RuntimeError, OSError) as error:
        if isinstance(error, gzip.BadGzipFile):
            raise _damaged_files_error(source, root, error) from error
    except _DAMAGED_FILE_ERRORS as error:
        raise _damaged_files_error(source, root, error) from error
    try:
        root.mkdir(parents=True, exist_ok=True)
        return source.read(root, True)
    except (RuntimeError, OSError) as error:
        raise LookalikeError(
            f"{source.name!r} is not in {str(root)!r}, or not with its original files, and could not be downloaded "
            f"({_reason(error)}); put {source.files} there, or set LOOKALIKE_DATA to the folder that has it"
        ) from error
    except _DAMAGED_FILE_ERRORS as error:
        raise _damaged_files_error(source, root, error) from error


def _damaged_files_error(source: _Source, root: Path, error: Exception) -> LookalikeError:
    return LookalikeError(
        f"the files of {source.name!r} in {str(root)!r} are damaged ({_reason(error)}); "
        "remove them and load the data set again"
    )


def _reason(error: Exception) -> str:
    return first_line(error).rstrip(".")


def _read_idx(kind: str, root: Path, download: bool) -> Arrays:
    datasets = import_with_torchvision("torchvision.datasets")
    train, test = (getattr(datasets, kind)(root, train=is_train, download=download) for is_train in (True, False))
    for dataset in (train, test):
        if len(dataset.data) != len(dataset.targets):
            raise ValueError(f"{len(dataset.data)} images and {len(dataset.targets)} labels")
    names = [name.split(" - ")[0] for name in train.classes]
    return train.data.numpy(), train.targets.numpy(), test.data.numpy(), test.targets.numpy(), names


def _read_svhn(root: Path, download: bool) -> Arrays:
    datasets = import_with_torchvision("torchvision.datasets")
    train, test = (datasets.SVHN(root / "svhn", split=split, download=download) for split in ("train", "test"))
    train_x, test_x = (np.ascontiguousarray(dataset.data.transpose(0, 2, 3, 1)) for dataset in (train, test))
    return train_x, train.labels, test_x, test.labels, [str(digit) for digit in range(10)]


def _read_cifar10(root: Path, download: bool) -> Arrays:
    datasets = import_with_torchvision("torchvision.datasets")
    train, test = (datasets.CIFAR10(root, train=is_train, download=download) for is_train in (True, False))
    return train.data, np.array(train.targets), test.data, np.array(test.targets), list(train.classes)


def _read_stl10(root: Path, download: bool) -> Arrays:
    datasets = import_with_torchvision("torchvision.datasets")
    train, test = (datasets.STL10(root, split=split, download=download) for split in ("train", "test"))
    train_x, test_x = (np.ascontiguousarray(dataset.data.transpose(0, 2, 3, 1)) for dataset in (train, test))
    return train_x, train.labels, test_x, test.labels, list(train.classes)


_IDX = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte into {}/raw"

_SOURCES = (
    _Source(
        "mnist",
        "70,000 handwritten digits, 28×28, 60,000 for training",
        32,
        _IDX.format("MNIST"),
        functools.partial(_read_idx, "MNIST"),
    ),
    _Source(
        "fashion-mnist",
        "70,000 articles of clothing, 28×28, 60,000 for training",
        32,
        _IDX.format("FashionMNIST"),
        functools.partial(_read_idx, "FashionMNIST"),
    ),
    _Source(
        "svhn",
        "99,289 house numbers, 32×32, 73,257 for training",
        32,
        "train_32x32.mat and test_32x32.mat into svhn",
        _read_svhn,
    ),
    _Source(
        "cifar10",
        "60,000 photographs of ten classes, 32×32, 50,000 for training",
        32,
        "the folder cifar-10-batches-py (of cifar-10-python.tar.gz)",
        _read_cifar10,
    ),
    _Source(
        "stl10",
        "13,000 photographs of ten classes, 96×96, 5,000 for training",
        96,
        "the folder stl10_binary (of stl10_binary.tar.gz)",
        _read_stl10,
    ),
)

for _source in _SOURCES:
    DATASETS.register(_source.name)(DatasetEntry(_source.description, functools.partial(_load, _source)))
