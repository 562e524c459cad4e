"""Mean and standard deviation of a training set, per channel, computed once and kept."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np

from lookalike._core.files import write_whole
from lookalike._core.provenance import fingerprint_array

_IMAGES = 1000  # at a time
_SAMPLED = 2000

Channels = tuple[float, ...]


def channel_statistics(images: np.ndarray) -> tuple[Channels, Channels]:
    """Returns mean and standard deviation of images uint8 [N, H, W] or [N, H, W, 3], of values in [0, 1].

    Grey images give three equal channels, as networks for RGB take them (paper, appendix A.1: 3 channels).

    Example:
        >>> mean, std = channel_statistics(np.full((2, 4, 4), 51, dtype=np.uint8))
        >>> [round(value, 3) for value in (*mean, *std)]
        [0.2, 0.2, 0.2, 0.0, 0.0, 0.0]
    """
    channels = images.shape[3] if images.ndim == 4 else 1
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(images), _IMAGES):
        values = images[start : start + _IMAGES].reshape(-1, channels).astype(np.float64) / 255
        total += values.sum(0)
        squares += np.square(values).sum(0)
    n = images.size / channels
    mean = total / n
    std = np.sqrt(np.maximum(squares / n - mean**2, 0))
    repeat = 3 if channels == 1 else 1
    return tuple(map(float, np.tile(mean, repeat))), tuple(map(float, np.tile(std, repeat)))


def kept_statistics(root: Path, name: str, images: np.ndarray) -> tuple[Channels, Channels]:
    """Returns ``channel_statistics``, from ``statistics.json`` in a folder if they are there for these very images.

    Args:
        root: Where they are kept; a folder that cannot be written to is left alone.
        name: The data set's.
        images: The training images.
    """
    path = root / "statistics.json"
    few = np.linspace(0, len(images) - 1, 16).astype(int)
    key = fingerprint_array(np.asarray(images[few])) + f":{len(images)}"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept[name]["key"] == key:
            return tuple(kept[name]["mean"]), tuple(kept[name]["std"])
    except (OSError, ValueError, KeyError, TypeError):
        kept = {}
    mean, std = channel_statistics(images)
    others = kept if isinstance(kept, dict) else {}
    with suppress(OSError):
        write_whole(path, json.dumps({**others, name: {"key": key, "mean": mean, "std": std}}, indent=2))
    return mean, std


def evenly_spread(n: int) -> np.ndarray:
    """Returns up to 2,000 of n rows, evenly spread: images whose mean and deviation stand for all."""
    return np.unique(np.linspace(0, n - 1, min(_SAMPLED, n)).astype(int))
