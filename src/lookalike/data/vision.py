"""The paper's data sets that torchvision reads: MNIST, Fashion-MNIST, SVHN, CIFAR-10, STL-10 (paper, appendix A.1)."""

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
from lookalike.data.bundle import DATASETS, DataBundle, DatasetEntry, ImageArray
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import kept_statistics

_DAMAGED = (ValueError, AssertionError, EOFError, KeyError, TypeError, IndexError, pickle.UnpicklingError, zlib.error)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]  # train x, y, test x, y, class names


@dataclass(frozen=True)
class _Source:
    """A data set that torchvision reads.

    Attributes:
        name: Its registered name.
        description: One line.
        size: The side that the paper's networks take.
        files: Which files to put where, without a network.
        read: Reads it from a folder, or downloads it there first.
    """

    name: str
    description: str
    size: int
    files: str
    read: Callable[[Path, bool], Arrays]


def data_folder() -> Path:
    """Returns where data sets are kept: ``$LOOKALIKE_DATA``, or ``~/.cache/lookalike/data``."""
    return Path(os.environ.get("LOOKALIKE_DATA") or Path.home() / ".cache" / "lookalike" / "data")


def _load(source: _Source, preprocessing: Preprocessing | None = None) -> DataBundle:
    root = data_folder()
    train_x, train_y, test_x, test_y, names = _read(source, root)
    if preprocessing is None:
        mean, std = kept_statistics(root, source.name, train_x)
        preprocessing = Preprocessing((source.size, source.size), None, mean, std)
    train, test = (
        ImageArray(x, y.astype(np.int64), names, preprocessing) for x, y in ((train_x, train_y), (test_x, test_y))
    )
    return DataBundle(source.name, train, test, names, preprocessing)


def _read(source: _Source, root: Path) -> Arrays:
    """Reads a data set; downloads it if it is not there.

    Raises:
        LookalikeError: If it is neither there nor to be had, or a file is damaged.
    """
    try:
        return source.read(root, False)
    except (RuntimeError, OSError) as error:
        if isinstance(error, gzip.BadGzipFile):
            raise _damaged(source, root, error) from error
    except _DAMAGED as error:
        raise _damaged(source, root, error) from error
    try:
        root.mkdir(parents=True, exist_ok=True)
        return source.read(root, True)
    except (RuntimeError, OSError) as error:
        raise LookalikeError(
            f"{source.name!r} is not in {str(root)!r}, or not with its original files, and could not be downloaded "
            f"({_reason(error)}); put {source.files} there, or set LOOKALIKE_DATA to the folder that has it"
        ) from error
    except _DAMAGED as error:
        raise _damaged(source, root, error) from error


def _damaged(source: _Source, root: Path, error: Exception) -> LookalikeError:
    return LookalikeError(
        f"the files of {source.name!r} in {str(root)!r} are damaged ({_reason(error)}); "
        "remove them and load the data set again"
    )


def _reason(error: Exception) -> str:
    return first_line(error).rstrip(".")


def _read_idx(kind: str, root: Path, download: bool) -> Arrays:
    from torchvision import datasets

    parts = [getattr(datasets, kind)(root, train=train, download=download) for train in (True, False)]
    x, y = ([part.data.numpy() for part in parts], [part.targets.numpy() for part in parts])
    for images, labels in zip(x, y, strict=True):
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
    return x[0], y[0], x[1], y[1], [name.split(" - ")[0] for name in parts[0].classes]


def _read_svhn(root: Path, download: bool) -> Arrays:
    from torchvision.datasets import SVHN

    train, test = (SVHN(root / "svhn", split=split, download=download) for split in ("train", "test"))
    x = [np.ascontiguousarray(part.data.transpose(0, 2, 3, 1)) for part in (train, test)]
    return x[0], train.labels, x[1], test.labels, [str(digit) for digit in range(10)]


def _read_cifar10(root: Path, download: bool) -> Arrays:
    from torchvision.datasets import CIFAR10

    train, test = (CIFAR10(root, train=part, download=download) for part in (True, False))
    return train.data, np.array(train.targets), test.data, np.array(test.targets), list(train.classes)


def _read_stl10(root: Path, download: bool) -> Arrays:
    from torchvision.datasets import STL10

    train, test = (STL10(root, split=split, download=download) for split in ("train", "test"))
    x = [np.ascontiguousarray(part.data.transpose(0, 2, 3, 1)) for part in (train, test)]
    return x[0], train.labels, x[1], test.labels, list(train.classes)


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
