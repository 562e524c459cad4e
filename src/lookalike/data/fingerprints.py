"""Fingerprints of data and of transforms, the same in every process.

No fingerprint depends on a name or a memory address. Data are hashed by their contents, as far as these can be read:
files by their bytes, arrays by their values, other data sets by their length and some samples. A transform is hashed by
its effect on some samples.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import Subset, TensorDataset

from lookalike._core.identity import identify_array, identify_json, identify_tensors
from lookalike._core.untouched import random_states, undoing
from lookalike.data.identity import content_keys
from lookalike.data.samples import as_tensor

if TYPE_CHECKING:
    from lookalike.data.batches import Batches

_DATA_SAMPLES = 16
_TRANSFORM_SAMPLES = 4
# Readings of each sample. A random flip, half of the time, gives four equal readings in 1 of 8 cases, and for all four
# samples in 1 of 4,096.
_READINGS = 4


def fingerprint_sample(batches: "Batches", index: int) -> str:
    """Returns an identity of a sample's tensors and label, or the name of the error that reading it raises."""
    try:
        inputs, label = batches.fetch_sample(index)
    except Exception as error:  # if it matters, the pass over the data raises it again; some collate_fn need a batch
        return type(error).__name__
    leaves, structure = tree_flatten(inputs)
    tensors = {str(i): as_tensor(leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor | np.ndarray)}
    scalars = [repr(leaf) for leaf in leaves if isinstance(leaf, str | int | float | bool)]
    return identify_json([identify_tensors(tensors), scalars, str(structure), label])


def fingerprint_first(batches: "Batches") -> list[str] | None:
    """Returns the fingerprints of the first samples; None if reading one again gives other inputs (augmentation)."""

    def read() -> list[str] | None:
        readings = [{fingerprint_sample(batches, row) for _ in range(_READINGS)} for row in _first_rows(batches)]
        return None if any(len(distinct) > 1 for distinct in readings) else [distinct.pop() for distinct in readings]

    return undoing(random_states(), read)


def fingerprint_transform(batches: "Batches") -> str:
    """Returns an identity of the transform that samples go through.

    A transform with ``to_dict`` is hashed by those settings, any other function or object by the tensors of the first
    four samples, after the loader's collation. All random transforms have the same hash.
    """
    if batches.is_array:
        return identify_json("none")
    transform = getattr(_innermost(batches.dataset), "transform", None)
    to_dict = getattr(transform, "to_dict", None)
    if callable(to_dict) and not batches.has_own_collation:
        return identify_json(to_dict())
    if not batches.can_fetch:
        return identify_json(["stream", type(transform).__qualname__])
    return identify_json("random" if batches.is_random() else batches.first_fingerprints)


def fingerprint_data(batches: "Batches") -> str:
    """Returns an identity that changes when the data do; see ``Batches.fingerprint``."""
    rows = None if batches.rows is None else identify_array(batches.rows)
    dataset, subsets = batches.dataset, []
    while isinstance(dataset, Subset):
        subsets.append(identify_array(np.asarray(dataset.indices)))
        dataset = dataset.dataset
    fingerprint: Callable[[], Any] | None = getattr(dataset, "fingerprint", None)
    if callable(fingerprint):
        return identify_json([fingerprint(), subsets, rows])
    if not batches.can_fetch:
        # not the number of samples, which is known to be another once a stream of batches was read
        n_items = len(dataset) if hasattr(dataset, "__len__") else None
        return identify_json(["stream", type(dataset).__name__, n_items])
    contents = _fingerprint_contents(dataset)
    samples: list[Any] = []
    # Randomly augmented samples would change the fingerprint at each call; they are left out if the contents are known.
    if contents is None or not batches.is_random():
        samples = [[row, fingerprint_sample(batches, row)] for row in _evenly_spread_rows(batches)]
    return identify_json([type(dataset).__name__, len(batches), samples, contents, subsets, rows])


def _first_rows(batches: "Batches") -> list[int]:
    return _sample_indices(batches, np.arange(min(_TRANSFORM_SAMPLES, len(batches))))


def _evenly_spread_rows(batches: "Batches") -> list[int]:
    n = len(batches)
    return _sample_indices(batches, np.unique(np.linspace(0, n - 1, _DATA_SAMPLES).astype(int)) if n else np.arange(0))


def _sample_indices(batches: "Batches", positions: np.ndarray) -> list[int]:
    """Returns the data set's indices of the samples that are read at some positions."""
    return [int(row) for row in (positions if batches.rows is None else batches.rows[positions])]


def _innermost(dataset: Any) -> Any:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _fingerprint_contents(dataset: Any) -> Any:
    """Returns a fingerprint of all contents, for the kinds of data set that allow it; None for others."""
    if isinstance(dataset, TensorDataset):
        return identify_tensors({str(i): tensor for i, tensor in enumerate(dataset.tensors)})
    version = getattr(dataset, "_fingerprint", None)  # Hugging Face: it changes with every change of the data
    if isinstance(version, str):
        return version
    samples = getattr(dataset, "samples", None)  # torchvision's folders: (file, label) pairs
    if isinstance(samples, list) and samples and all(_is_file_and_label(sample) for sample in samples):
        return identify_json(
            [
                identify_array(content_keys([Path(sample[0]) for sample in samples])),
                [int(sample[1]) for sample in samples],
            ]
        )
    return None


def _is_file_and_label(sample: Any) -> bool:
    return (
        isinstance(sample, tuple)
        and len(sample) == 2
        and isinstance(sample[0], str | Path)
        and isinstance(sample[1], int | np.integer)
    )
