"""What data are, and what samples go through: fingerprints that are the same in every process.

Nothing is told by its name or its place in memory. Data are told by their contents, as far as they can be read: files
by their bytes, arrays by their values, other data sets by their length and some samples. A transform is told by what
it does to some samples.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import Subset, TensorDataset

from lookalike._core.provenance import fingerprint_array, fingerprint_json, fingerprint_tensors
from lookalike._core.untouched import random_states, undoing
from lookalike.data.identity import content_keys
from lookalike.data.samples import as_tensor

if TYPE_CHECKING:
    from lookalike.data.batches import Batches

_DATA_SAMPLES = 16
_TRANSFORM_SAMPLES = 4
_READINGS = 4


def fingerprint_sample(batches: "Batches", index: int) -> str:
    """Returns a SHA-256 of a sample as the network takes it: the bytes of its tensors; or what reading it raises."""
    try:
        inputs, label = batches.fetch_sample(index)
    except Exception as error:  # the pass itself raises it again, or a loader's function takes no sample alone
        return type(error).__name__
    leaves, structure = tree_flatten(inputs)
    tensors = {str(i): as_tensor(leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor | np.ndarray)}
    others = [repr(leaf) for leaf in leaves if isinstance(leaf, str | int | float | bool)]
    return fingerprint_json([fingerprint_tensors(tensors), others, str(structure), label])


def fingerprint_first(batches: "Batches") -> list[str] | None:
    """Returns the first samples' fingerprints; None if reading one again gives other inputs, as augmentation does."""

    def read() -> list[str] | None:
        readings = [{fingerprint_sample(batches, row) for _ in range(_READINGS)} for row in _first_rows(batches)]
        return None if any(len(one) > 1 for one in readings) else [one.pop() for one in readings]

    return undoing(random_states(), read)


def fingerprint_transform(batches: "Batches") -> str:
    """Returns a SHA-256 of what samples go through.

    A transform that can describe itself (``to_dict``) is told by that. Any other, be it a function or an object, is
    told by the first four samples: their tensors' bytes, the loader's collation included. A random one is told as such.
    """
    if batches.is_array:
        return fingerprint_json("none")
    transform = getattr(_innermost(batches.dataset), "transform", None)
    described = getattr(transform, "to_dict", None)
    if callable(described) and not batches.has_own_collation:
        return fingerprint_json(described())
    if not batches.can_fetch:
        return fingerprint_json(["stream", type(transform).__qualname__])
    return fingerprint_json("random" if batches.is_random() else batches.first_fingerprints)


def fingerprint_data(batches: "Batches") -> str:
    """Returns a SHA-256 that changes when the data do; see ``Batches.fingerprint``."""
    rows = None if batches.rows is None else fingerprint_array(batches.rows)
    dataset, subsets = batches.dataset, []
    while isinstance(dataset, Subset):
        subsets.append(fingerprint_array(np.asarray(dataset.indices)))
        dataset = dataset.dataset
    own: Callable[[], Any] | None = getattr(dataset, "fingerprint", None)
    if callable(own):
        return fingerprint_json([own(), subsets, rows])
    if not batches.can_fetch:
        return fingerprint_json(["stream", type(dataset).__name__, batches.total])
    known = _known_contents(dataset)
    samples: list[Any] = []
    if known is None or not batches.is_random():
        samples = [[row, fingerprint_sample(batches, row)] for row in _evenly_spread_rows(batches)]
    return fingerprint_json([type(dataset).__name__, len(batches), samples, known, subsets, rows])


def _first_rows(batches: "Batches") -> list[int]:
    return _numbered(batches, np.arange(min(_TRANSFORM_SAMPLES, len(batches))))


def _evenly_spread_rows(batches: "Batches") -> list[int]:
    n = len(batches)
    return _numbered(batches, np.unique(np.linspace(0, n - 1, _DATA_SAMPLES).astype(int)) if n else np.arange(0))


def _numbered(batches: "Batches", positions: np.ndarray) -> list[int]:
    """Returns which samples of the data set are read at some positions."""
    return [int(row) for row in (positions if batches.rows is None else batches.rows[positions])]


def _innermost(dataset: Any) -> Any:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _known_contents(dataset: Any) -> Any:
    """Returns what tells a data set's contents whole, where there is something; None otherwise."""
    if isinstance(dataset, TensorDataset):
        return fingerprint_tensors({str(i): tensor for i, tensor in enumerate(dataset.tensors)})
    version = getattr(dataset, "_fingerprint", None)  # of Hugging Face's data sets: changes with every change of them
    if isinstance(version, str):
        return version
    samples = getattr(dataset, "samples", None)  # of torchvision's folders: files and their classes
    if isinstance(samples, list) and samples and all(_is_file(sample) for sample in samples):
        return fingerprint_json(
            [
                fingerprint_array(content_keys([Path(sample[0]) for sample in samples])),
                [int(sample[1]) for sample in samples],
            ]
        )
    return None


def _is_file(sample: Any) -> bool:
    return (
        isinstance(sample, tuple)
        and len(sample) == 2
        and isinstance(sample[0], str | Path)
        and isinstance(sample[1], int | np.integer)
    )
