"""Embedding a data set: one pass of the encoder, kept with all that is needed to trust it later."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lookalike.acceleration import Accelerated
from lookalike.artifact import fresh_folder
from lookalike.data import Batches
from lookalike.encoder import Encoder, device_of, dtype_of, place
from lookalike.encoder.head import OUTPUT
from lookalike.errors import LookalikeError, LookalikeWarning
from lookalike.progress import Advance, progress_bar
from lookalike.provenance import fingerprint_json, fingerprint_tensors, versions

_META = "embeddings.json"
_NAMED = 5


@dataclass
class EmbeddingStore:
    """The embeddings of a data set.

    Attributes:
        embeddings: [N, D], float32; memory-mapped when they lie in a folder.
        labels: [N], int64.
        indices: Which sample of the data each row is [N], int64.
        predictions: The black box's own predicted class per row [N], from the same pass; None without a head.
        class_names: As the data told them, or None.
        skipped: Messages about samples that could not be read.
        info: Fingerprints of weights, data and transform, and versions.
        folder: Where they lie, or None in memory.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    predictions: np.ndarray | None = None
    class_names: list[str] | None = None
    skipped: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def open(cls, folder: str | Path) -> "EmbeddingStore":
        """Opens a folder that ``embed(..., folder=…)`` wrote; the embeddings are memory-mapped.

        Raises:
            LookalikeError: If it is no such folder, or a file is missing or does not fit the others.
        """
        folder = Path(folder)
        try:
            meta = json.loads((folder / _META).read_text())
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in meta["arrays"]}
        except (OSError, ValueError, KeyError) as error:
            raise LookalikeError(f"{str(folder)!r} holds no complete embeddings: {error}") from error
        lengths = {name: len(array) for name, array in arrays.items()}
        if set(lengths.values()) != {meta["rows"]}:
            raise LookalikeError(f"the embeddings in {str(folder)!r} are damaged: {lengths} rows, not {meta['rows']}")
        return cls(
            embeddings=arrays["embeddings"],
            labels=np.array(arrays["labels"]),
            indices=np.array(arrays["indices"]),
            predictions=np.array(arrays["predictions"]) if "predictions" in arrays else None,
            class_names=meta["class_names"],
            skipped=meta["skipped"],
            info=meta["info"],
            folder=folder,
        )


def embed(
    model: nn.Module,
    data: Any,
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    on_error: Literal["stop", "skip"] = "stop",
    head: str | None = None,
    progress: bool | Advance | None = None,
) -> EmbeddingStore:
    """Embeds a data set, in eval mode, without augmentation of its own (paper section 3.2, step 1).

    Args:
        model: An ``Encoder``, a model that has one, or a trained classifier, which is cut at its head first.
        data: A data set, loader, or pair of arrays; see ``lookalike.data.Batches``.
        batch_size: The most rows that pass through the encoder at once; None takes the loader's own, or 256.
        num_workers: Processes that read and prepare images.
        folder: Where to write the embeddings; None keeps them in memory.
        overwrite: Replace the folder if there is one.
        on_error: ``"skip"`` goes on at an image that cannot be read, and lists it.
        head: The classifier's head, where it cannot be found.
        progress: Show a progress bar; None shows one on a terminal; or the function that moves your own.

    Returns:
        The embeddings, row by row in the data's order.

    Raises:
        LookalikeError: If there are no samples, or an embedding is not finite; it names the samples.
    """
    batches = data if isinstance(data, Batches) else Batches(data, batch_size, num_workers, on_error)
    encoder = as_encoder(model, batches, head)
    if batches.is_random():
        warn_of(
            "reading the same sample twice gives different inputs: the data are augmented at random, and the "
            "embeddings with them; use the transform without augmentation"
        )
    if folder is None:
        return _embed(encoder, batches, _Memory(), progress)
    with fresh_folder(folder, marker=_META, overwrite=overwrite) as aside:
        _embed(encoder, batches, _Files(aside), progress)
    return EmbeddingStore.open(folder)


def as_encoder(model: nn.Module, batches: Batches, head: str | None = None, **options: Any) -> Encoder:
    """Returns a model's encoder, or cuts a classifier with the first samples of the data."""
    own = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
    if isinstance(own, Encoder):
        return own
    first = next(iter(batches), None)
    if first is None:
        raise LookalikeError("there are no samples to embed" + _skipped_note(batches))
    if isinstance(own, nn.Module) and hasattr(model, "prototypes"):  # a prototype model that was trained as such
        return Encoder(own, first.inputs, head=OUTPUT, **options)
    return Encoder(model, first.inputs, head=head, **options)


def warn_of(message: str) -> None:
    """Warns the caller of the package."""
    import warnings

    warnings.warn(message, LookalikeWarning, stacklevel=3)


def name_samples(indices: np.ndarray, describe: Callable[[int], str]) -> str:
    """Names up to five samples, and says how many more there are."""
    more = f" and {len(indices) - _NAMED} more" if len(indices) > _NAMED else ""
    return ", ".join(describe(int(index)) for index in indices[:_NAMED]) + more


def _embed(
    encoder: Encoder, batches: Batches, sink: "_Memory | _Files", progress: bool | Advance | None
) -> EmbeddingStore:
    device, dtype = device_of(encoder.model), dtype_of(encoder.model)
    broken: list[int] = []
    with torch.no_grad(), Accelerated(), progress_bar("Embedding", batches.total, progress) as advance:
        for batch in batches:
            z, scores = encoder.embed_and_score(place(batch.inputs, device, dtype))
            z = z.float()
            if not bool(z.isfinite().all()):
                bad = (~z.isfinite().all(1)).cpu().numpy()
                broken += batch.indices[bad].tolist()
            parts = {"embeddings": z.cpu().numpy(), "labels": batch.labels, "indices": batch.indices}
            if scores is not None and scores.ndim in (1, 2):
                parts["predictions"] = predicted_class(scores).cpu().numpy()
            sink.add(parts)
            advance(len(batch.labels))
    if broken:
        named = name_samples(np.asarray(broken), batches.describe)
        raise LookalikeError(f"{len(broken)} embeddings have NaN or infinite values: {named}")
    transform = getattr(batches.dataset, "transform", None)
    to_dict = getattr(transform, "to_dict", None)
    info = {
        "weights": fingerprint_tensors(encoder.model.state_dict()),
        "data": batches.fingerprint(),
        "transform": fingerprint_json(to_dict() if callable(to_dict) else repr(transform)),
        "head": encoder.head_name,
        "precision": "float32",
        "versions": versions(),
    }
    store = sink.close(batches.class_names, [batches.skipped[i] for i in sorted(batches.skipped)], info)
    if store is None:
        raise LookalikeError("there are no samples to embed" + _skipped_note(batches))
    return store


def predicted_class(scores: Tensor) -> Tensor:
    """Returns the predicted class [N] of class scores [N, K], or of one logit per sample [N] or [N, 1]."""
    if scores.ndim == 1 or scores.shape[1] == 1:
        return (scores.reshape(len(scores)) > 0).long()
    return scores.argmax(1)


def _skipped_note(batches: Batches) -> str:
    if not batches.skipped:
        return ""
    return f": none of {len(batches.skipped)} could be read (the first: {next(iter(batches.skipped.values()))})"


class _Memory:
    """Collects parts in memory."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, parts: dict[str, np.ndarray]) -> None:
        for name, part in parts.items():
            self._parts.setdefault(name, []).append(part)

    def close(self, class_names: list[str] | None, skipped: list[str], info: dict[str, Any]) -> EmbeddingStore | None:
        if not self._parts:
            return None
        arrays: dict[str, Any] = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return EmbeddingStore(**arrays, class_names=class_names, skipped=skipped, info=info)


class _Files:
    """Appends parts to ``.npy`` files, whose headers are completed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, np.dtype[Any]] = {}

    def add(self, parts: dict[str, np.ndarray]) -> None:
        for name, part in parts.items():
            if name not in self._files:
                self._files[name] = (self.folder / f"{name}.npy").open("w+b")
                self._shapes[name] = (0, *part.shape[1:])
                self._types[name] = part.dtype
                self._write_header(name)
            self._files[name].write(np.ascontiguousarray(part).data)
            rows, *rest = self._shapes[name]
            self._shapes[name] = (rows + len(part), *rest)

    def close(self, class_names: list[str] | None, skipped: list[str], info: dict[str, Any]) -> EmbeddingStore | None:
        for name, file in self._files.items():
            file.seek(0)
            self._write_header(name)
            file.close()
        if not self._files:
            return None
        meta = {
            "arrays": list(self._files),
            "rows": self._shapes["labels"][0],
            "class_names": class_names,
            "skipped": skipped,
            "info": info,
        }
        (self.folder / _META).write_text(json.dumps(meta, indent=2))
        return EmbeddingStore.open(self.folder)

    def _write_header(self, name: str) -> None:
        # numpy leaves room in the header for the first axis to grow, so its length stays the same
        header = {
            "shape": self._shapes[name],
            "fortran_order": False,
            "descr": np.lib.format.dtype_to_descr(self._types[name]),
        }
        np.lib.format.write_array_header_1_0(self._files[name], header)
