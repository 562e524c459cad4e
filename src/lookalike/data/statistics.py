"""Mean and standard deviation of a training set, per channel, computed once and saved in a file."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np

from lookalike._core.errors import WriteError
from lookalike._core.files import write_whole
from lookalike._core.provenance import fingerprint_array

_IMAGES_AT_ONCE = 1000
_MAX_SAMPLED = 2000

Channels = tuple[float, ...]


def channel_statistics(images: np.ndarray) -> tuple[Channels, Channels]:
    """Returns the mean and deviation per channel of images uint8 [N, H, W] or [N, H, W, 3], scaled to [0, 1].

    For grey images the values are repeated for three channels, as networks for RGB need (paper, appendix A.1).

    Example:
        >>> mean, std = channel_statistics(np.full((2, 4, 4), 51, dtype=np.uint8))
        >>> [round(value, 3) for value in (*mean, *std)]
        [0.2, 0.2, 0.2, 0.0, 0.0, 0.0]
    """
    channels = images.shape[3] if images.ndim == 4 else 1
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        values = images[start : start + _IMAGES_AT_ONCE].reshape(-1, channels).astype(np.float64) / 255
        total += values.sum(0)
        squares += np.square(values).sum(0)
    n = images.size / channels
    mean = total / n
    std = np.sqrt(np.maximum(squares / n - mean**2, 0))
    repeat = 3 if channels == 1 else 1
    return tuple(map(float, np.tile(mean, repeat))), tuple(map(float, np.tile(std, repeat)))


def saved_statistics(root: Path, name: str, images: np.ndarray) -> tuple[Channels, Channels]:
    """Returns ``channel_statistics``, and saves them in ``statistics.json`` for the next call with the same images.

    Args:
        root: Folder of ``statistics.json``. If it cannot be written to, nothing is saved.
        name: Name of the data set.
        images: The training images.
    """
    path = root / "statistics.json"
    probed_rows = np.linspace(0, len(images) - 1, 16).astype(int)
    key = fingerprint_array(np.asarray(images[probed_rows])) + f":{len(images)}"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved[name]["key"] == key:
            return tuple(saved[name]["mean"]), tuple(saved[name]["std"])
    except (OSError, ValueError, KeyError, TypeError):
        saved = {}
    mean, std = channel_statistics(images)
    of_all_data_sets = saved if isinstance(saved, dict) else {}
    with suppress(OSError, WriteError):
        write_whole(path, json.dumps({**of_all_data_sets, name: {"key": key, "mean": mean, "std": std}}, indent=2))
    return mean, std


def evenly_spread(n: int, at_most: int = _MAX_SAMPLED) -> np.ndarray:
    """Returns some of n rows, evenly spread; by default the 2,000 from which mean and deviation are estimated."""
    return np.unique(np.linspace(0, n - 1, min(at_most, n)).astype(int))
