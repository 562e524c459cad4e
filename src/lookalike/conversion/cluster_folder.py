"""A folder that stores the prototypes of each class as soon as the class is clustered."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.provenance import fingerprint_json, fingerprint_tensors, versions
from lookalike._core.records import plain_json
from lookalike._core.replacing import remove_folder
from lookalike._core.working_folder import (
    clean,
    differences,
    is_foreign,
    read_record,
    read_sealed,
    write_record,
    write_sealed,
    writing_to,
)
from lookalike.conversion.out_of_core import bytes_of, streamed_classes
from lookalike.conversion.per_class import Clustering, numbers_per_class
from lookalike.embedding import EmbeddingStore
from lookalike.model.similarity import Similarity

_KEY = "clusters.json"
_N_PROBES = 4  # embeddings whose projections identify a similarity's space


def cluster_key(
    store: EmbeddingStore,
    similarity: Similarity,
    class_names: list[str],
    clustering: Clustering,
) -> dict[str, Any]:
    """Returns everything that the clusters of all classes depend on, as JSON values by name.

    Embeddings and labels are identified by their bytes, whatever produced them. A similarity is identified by its
    class, its options, its state, and its projections of a few embeddings.
    """
    limit = clustering.memory_limit
    large = streamed_classes(np.bincount(store.labels), store.embeddings.shape[1], limit)
    return {
        "embeddings": fingerprint_json(store.fingerprint()),
        "class_names": class_names,
        "n_prototypes": numbers_per_class(clustering.n_prototypes, class_names),
        **similarity_key(similarity, store.take(np.arange(min(_N_PROBES, len(store))))),
        "clusterer": clustering.clusterer,
        "n_init": clustering.n_init,
        "seed": clustering.seed,
        "in_parts": large,
        "memory_limit": bytes_of(limit) if large else None,  # where all classes fit, it changes nothing
        "versions": versions(),
    }


def similarity_key(similarity: Similarity, embeddings: np.ndarray | None = None) -> dict[str, Any]:
    """Returns the properties of a similarity that a clustering depends on.

    Args:
        similarity: Any similarity.
        embeddings: For a fitted similarity, some embeddings [n, D]: their projections identify its space, which a
            user's similarity may not show in its options or state.
    """
    tensors = dict(similarity.state_dict())
    if embeddings is not None:
        with torch.no_grad():
            tensors["space"] = similarity.project(torch.from_numpy(embeddings))
    kind = f"{type(similarity).__module__}.{type(similarity).__qualname__}"
    return {
        "similarity": similarity.name,
        "similarity_options": plain_json(_options_as_json(similarity.options())),
        "similarity_state": fingerprint_json([kind, fingerprint_tensors(tensors)]),
    }


def _options_as_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options with tensors and arrays replaced by their fingerprints."""
    return {
        name: fingerprint_tensors({name: torch.as_tensor(value)}) if getattr(value, "ndim", 0) else value
        for name, value in options.items()
    }


class ClusterFolder:
    """Stores the prototypes of classes, one file with a checksum per class.

    Args:
        folder: Folder to store them in. Prototypes stored with another key are deleted.
        key: What the prototypes depend on; see ``cluster_key``.

    Raises:
        LookalikeError: If the folder holds other files, or cannot be written to.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder = folder
        record = folder / _KEY
        clean(folder)
        if is_foreign(folder) and not record.is_file():
            raise LookalikeError(f"{str(folder)!r} holds files, and no clusters; choose another working folder")
        with writing_to(folder):
            if record.is_file() and self._has_other_key(record, key):
                remove_folder(folder)
            if not record.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                write_record(record, key)

    def get(self, k: int) -> Tensor | None:
        """Returns a class's prototypes [L, D]; None if there are none, or, with a warning, if they are damaged."""
        content = read_sealed(self._file(k))
        return None if content is None else torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))

    def put(self, k: int, prototypes: Tensor) -> None:
        """Stores a class's prototypes.

        Raises:
            LookalikeError: If the disk is full.
        """
        buffer = io.BytesIO()
        np.save(buffer, prototypes.numpy())
        with writing_to(self.folder, "the embeddings and the classes clustered so far are safe"):
            write_sealed(self._file(k), buffer.getvalue())

    def _has_other_key(self, record: Path, key: dict[str, Any]) -> bool:
        """Returns whether a record holds another key, or cannot be read, which is warned of."""
        try:
            return bool(differences(read_record(record), key))
        except LookalikeError as error:
            warn_of(f"{str(record)!r} cannot be used: {error}; all classes are clustered again")
            return True

    def _file(self, k: int) -> Path:
        return self.folder / f"class-{k:06d}.npy"
