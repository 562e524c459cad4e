"""``embed``: runs a data set through the encoder once, and returns or stores the embeddings."""

from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.folding import Folded, Pair
from lookalike._core.identity import identifying_as
from lookalike._core.profiling import step
from lookalike._core.progress import Advance, progress_bar
from lookalike._core.provenance import versions
from lookalike._core.replacing import roll_back
from lookalike._core.untouched import keeps_random_states, undoing
from lookalike._core.working_folder import alone, lock_beside, read_record
from lookalike.data import Batch, Batches
from lookalike.embedding.ahead import ReadAhead
from lookalike.embedding.effect import EFFECT, PrecisionEffect, note_of, summarised
from lookalike.embedding.folded import FOLDED, foldable_pairs
from lookalike.embedding.key import embedding_key, key_differences
from lookalike.embedding.options import EmbeddingOptions, embedding_settings
from lookalike.embedding.precision import choose_precision, computing
from lookalike.embedding.replicas import Replicas, check_devices
from lookalike.embedding.rows import Finish, MemoryAwareEmbedder, Transfer
from lookalike.embedding.store import META, EmbeddingStore
from lookalike.embedding.writing import JournalSink, MemorySink, Sink, remove_journal
from lookalike.encoder import Encoder, device_of, dtype_of
from lookalike.encoder.calls import take_rows
from lookalike.encoder.head import OUTPUT
from lookalike.encoder.outputs import Outputs

_TRIED_ROWS = 4  # normalised to choose how the pass is computed
_MAX_NAMED = 5  # samples named in a message


@keeps_random_states
def embed(
    model: nn.Module,
    data: Any,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | Advance | None = None,
    **options: Unpack[EmbeddingOptions],
) -> EmbeddingStore:
    """Embeds a data set in eval mode, without augmentation (paper section 3.2, step 1).

    The next images are read while the encoder works. With a folder, no finished work is lost: if a pass was
    interrupted or killed or ran out of disk space, a second call with ``resume`` continues where it stopped, and ends
    with the same bytes.

    Args:
        model: An ``Encoder``, a model that has one, or a trained classifier, which is cut at its head first.
        data: A data set, loader, or pair of arrays; see ``lookalike.data.Batches``.
        folder: Folder to write the embeddings to; None keeps them in memory.
        resume: Continue an interrupted pass. If the earlier pass was finished, its embeddings are returned.
        overwrite: Start again, and replace the folder if it exists.
        progress: Whether to show a progress bar; None shows one on a terminal. Or a function that advances your own.
        **options: ``batch_size``, ``num_workers``, ``on_error``, ``precision``, ``dtype``, ``head``,
            ``devices``; ``lookalike.embedding.EmbeddingSettings`` documents each.

    Returns:
        The embeddings, row by row in the order of the data.

    Raises:
        LookalikeError: If there are no samples; an embedding is not finite (the message names the samples); the folder
            contains other files, or unfinished embeddings of other weights, data or transform (the message says
            which); or the disk is full.
        TypeError: If there is no option of that name.
    """
    settings = embedding_settings(options)
    _check_arguments(model, folder, resume=resume, overwrite=overwrite, progress=progress)
    reading = (settings.batch_size, settings.num_workers, settings.on_error)
    batches = data if isinstance(data, Batches) else Batches(data, *reading)
    encoder = as_encoder(model, batches, settings.head)
    if batches.is_random():
        warn_of(
            "reading the same sample twice gives different inputs: the data are augmented at random, and the "
            "embeddings with them; use the transform without augmentation"
        )
    # embeddings of an earlier version are compared by the hash that it used
    with identifying_as(_stored_identity(folder) if resume and not overwrite else None):
        key = embedding_key(
            encoder,
            batches.fingerprint(),
            batches.transform_fingerprint(),
            precision=settings.precision,
            dtype=settings.dtype,
        )
    devices = None if settings.devices is None else check_devices(encoder, settings.devices)

    def run(sink: Sink) -> EmbeddingStore:
        return _run_pass(encoder, batches, sink, key, devices, progress)

    if folder is None:
        return run(MemorySink())
    return _embed_to_folder(batches, Path(folder), key, run, resume=resume, overwrite=overwrite)


def _stored_identity(folder: str | Path | None) -> Any:
    """Returns the identity of the weights that finished or unfinished embeddings were made with, or None."""
    if folder is None:
        return None
    with suppress(LookalikeError, KeyError, AttributeError):  # such a folder is reported when it is opened
        return read_record(Path(folder) / META)["info"]["weights"]
    return JournalSink.key_of(folder).get("weights")


def _embed_to_folder(
    batches: Batches,
    folder: Path,
    key: dict[str, Any],
    run: Callable[[Sink], EmbeddingStore],
    *,
    resume: bool,
    overwrite: bool,
) -> EmbeddingStore:
    """Returns the finished embeddings in a folder if ``resume`` finds any, else runs or resumes the pass."""
    lock = lock_beside(folder)
    if resume and not overwrite:
        with alone(lock):
            roll_back(folder)
            is_finished = (folder / META).is_file()
            if is_finished:
                remove_journal(folder)
        store = _open_finished(folder, key, batches) if is_finished else None
        if store is not None:
            return store
        overwrite = is_finished  # finished embeddings that cannot be opened are damaged, and are replaced
    with alone(lock):
        sink = JournalSink(folder, key, resume=resume, overwrite=overwrite)
        _check_skipped(sink.skipped.values(), batches, sink.folder)
        return undoing(sink.release, lambda: run(sink))


def _check_arguments(model: Any, folder: Any, *, resume: Any, overwrite: Any, progress: Any) -> None:
    """Checks the types of the arguments of ``embed``."""
    checks.model("model", model)
    checks.flag("resume", resume)
    checks.flag("overwrite", overwrite)
    checks.optional(checks.path, "folder", folder)
    checks.progress("progress", progress)


def as_encoder(model: nn.Module, batches: Batches, head: str | None = None, **options: Any) -> Encoder:
    """Returns a model's encoder, or makes one by cutting a classifier, for which the first samples are read."""
    encoder = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
    if isinstance(encoder, Encoder):
        return encoder
    checks.optional(checks.text, "head", head)
    first = next(iter(batches), None)
    if first is None:
        raise LookalikeError("there are no samples to embed" + _skipped_note(batches))
    if isinstance(encoder, nn.Module) and hasattr(model, "prototypes"):  # a prototype model that was trained as such
        return Encoder(encoder, first.inputs, head=OUTPUT, **options)
    return Encoder(model, first.inputs, head=head, **options)


def name_samples(indices: np.ndarray, describe: Callable[[int], str]) -> str:
    """Lists the names of up to five samples, and the number of the others."""
    ending = f" and {len(indices) - _MAX_NAMED} more" if len(indices) > _MAX_NAMED else ""
    return ", ".join(describe(int(index)) for index in indices[:_MAX_NAMED]) + ending


def _run_pass(
    encoder: Encoder,
    batches: Batches,
    sink: Sink,
    key: dict[str, Any],
    devices: list[torch.device] | None,
    progress: bool | Advance | None,
) -> EmbeddingStore:
    """Embeds all samples that the sink does not have yet, and returns the sink's embeddings."""
    transfer = Transfer(device_of(encoder.model), dtype_of(encoder.model))
    bar = progress_bar("Embedding", batches.total, progress)
    read_ahead = ReadAhead(batches.unfinished_from(sink.start), pinned=transfer.device.type == "cuda")

    def run() -> None:
        with torch.no_grad(), bar as advance, ExitStack() as stack:
            advance(sink.start)
            writing = _Writing(encoder.outputs, key["dtype"], transfer)
            arriving: _Arriving | None = None
            embedder: MemoryAwareEmbedder | None = None
            try:
                for batch in read_ahead:
                    inputs = transfer.to_device(batch.inputs, as_bytes=batch.finish is not None)
                    finish = None if batch.finish is None else _in_type(batch.finish, transfer.dtype)
                    if embedder is None:
                        first = inputs if finish is None else finish(take_rows(inputs, slice(0, _TRIED_ROWS)))
                        total = batches.total
                        plan = _plan(sink, key["precision"], encoder, first, total, folds=devices is None)
                        if devices is None:
                            stack.enter_context(computing(plan.precision, transfer.device))
                            embedder = MemoryAwareEmbedder(encoder, Folded(plan.pairs) if plan.pairs else None)
                        else:
                            replicas = Replicas(encoder, devices, plan.precision)
                            stack.callback(replicas.close)
                            embedder = MemoryAwareEmbedder(replicas)
                    with step("encoder"):
                        z, scores = embedder.embed(inputs, finish)
                    sums = None
                    if plan.effect is not None:
                        sums = plan.effect.compare(batch.read - len(batch.labels), inputs, finish, z, scores)
                    results = _Results(z, scores, sums)
                    previous, arriving = arriving, _Arriving.of(batch, results, dict(batches.skipped), writing)
                    if previous is not None:
                        advance(previous.write(sink))
                    if not transfer.is_asynchronous:
                        previous, arriving = arriving, None
                        advance(previous.write(sink))
            finally:  # an interruption loses nothing that was computed
                if arriving is not None:
                    advance(arriving.write(sink))

    undoing(read_ahead.stop, run)
    if sink.not_finite:
        sink.discard()
        names = name_samples(np.asarray(sink.not_finite), batches.describe)
        raise LookalikeError(f"{len(sink.not_finite)} embeddings have NaN or infinite values: {names}")
    info = {**key, "asked_precision": key["precision"], **summarised(sink.notes), "versions": versions()}
    batches.skipped.update(sink.skipped)
    store = sink.close(batches.class_names, batches.skipped, info)
    if store is None:
        raise LookalikeError("there are no samples to embed" + _skipped_note(batches))
    return store


@dataclass(frozen=True)
class _Plan:
    """How a pass is computed: its precision, the pairs that are folded, and what measures the precision's effect."""

    precision: str
    pairs: list[Pair]
    effect: PrecisionEffect | None


@dataclass(frozen=True)
class _Results:
    """Embeddings [n, D], class scores [n, K] and the sums of compared rows [4] of a batch, on the device."""

    z: Tensor
    scores: Tensor | None
    sums: Tensor | None


@dataclass(frozen=True)
class _Writing:
    """How results are read and stored: the class scores' meaning, the type of the embeddings, the way back."""

    outputs: Outputs | None
    dtype: str
    transfer: Transfer


@dataclass(frozen=True)
class _Arriving:
    """The results of a batch on their way from the device.

    Attributes:
        batch: The batch.
        skipped: Error messages of the samples that could not be read up to this batch, by number.
        names: Names of the arrays.
        arrays: Waits for the arrays, and returns them.
    """

    batch: Batch
    skipped: dict[int, str]
    names: list[str]
    arrays: Callable[[], list[np.ndarray]]

    @classmethod
    def of(
        cls,
        batch: Batch,
        results: "_Results",
        skipped: dict[int, str],
        writing: "_Writing",
    ) -> "_Arriving":
        """Starts to copy the embeddings, and what follows from the class scores."""
        z = results.z.half() if writing.dtype == "float16" else results.z.float()
        tensors = {"embeddings": z, "is_finite": z.isfinite().all(1)}
        if results.scores is not None and writing.outputs is not None:
            tensors["predictions"] = writing.outputs.predicted(results.scores)
        if results.sums is not None:
            tensors[EFFECT] = results.sums
        return cls(batch, skipped, list(tensors), writing.transfer.to_arrays(list(tensors.values())))

    def write(self, sink: Sink) -> int:
        """Adds the batch to the sink when it has arrived; returns its number of rows."""
        arrays = dict(zip(self.names, self.arrays(), strict=True))
        not_finite = self.batch.indices[~arrays.pop("is_finite")].tolist()
        # Before the batch: if it is lost, its rows are compared again, and the same note replaces this one.
        if EFFECT in arrays:
            sink.note(note_of(self.batch.read - len(self.batch.labels), arrays.pop(EFFECT)))
        arrays |= {"labels": self.batch.labels, "indices": self.batch.indices}
        with step("write embeddings"):
            sink.add(arrays, self.batch.read, self.skipped, not_finite)
        return len(self.batch.labels)


def _in_type(finish: Finish, dtype: torch.dtype | None) -> Finish:
    """Returns ``finish`` with its results in the type of the network's weights."""
    return finish if dtype in (None, torch.float32) else lambda inputs: finish(inputs).to(dtype)


def _open_finished(folder: Path, key: dict[str, Any], batches: Batches) -> EmbeddingStore | None:
    """Opens the finished embeddings of an earlier call; warns and returns None if they are damaged.

    Raises:
        LookalikeError: If they were made with another key, or their key is not recorded.
    """
    try:
        info = read_record(folder / META)["info"]
        stored_key = {name: info.get(name) for name in key} | {"precision": info.get("asked_precision")}
    except (LookalikeError, KeyError, AttributeError) as error:
        raise LookalikeError(
            f"{str(folder)!r} does not say what its embeddings were made with ({error}): remove it, or overwrite it "
            "(overwrite=True)"
        ) from error
    different = key_differences(stored_key, key, info.get("precision"))
    if different:
        raise LookalikeError(
            f"{str(folder)!r} holds embeddings made with other {different}: choose another place, remove it, or "
            "overwrite it (overwrite=True)"
        )
    try:
        store = EmbeddingStore.open(folder)
        store.check()
    except LookalikeError as error:
        warn_of(f"{error}; the data are embedded again")
        return None
    _check_skipped(store.skipped, batches, folder)
    if not batches.can_fetch:
        warn_of(
            f"the embeddings in {str(folder)!r} are used without comparing the data: a stream's contents cannot be "
            "compared with those of an earlier call"
        )
    return store


def _check_skipped(skipped: Collection[str], batches: Batches, folder: Path) -> None:
    """Checks that stored embeddings leave out no image, unless this call allows it too.

    Raises:
        LookalikeError: If images were skipped, and ``on_error`` is ``"stop"``.
    """
    if skipped and batches.on_error == "stop":
        raise LookalikeError(
            f"{str(folder)!r} was made with on_error='skip' and leaves out {len(skipped)} images (the first: "
            f"{next(iter(skipped))}): give on_error='skip' again, or start again (overwrite=True, or another folder)"
        )


def _plan(sink: Sink, requested: str, encoder: Encoder, inputs: Any, total: int | None, *, folds: bool) -> _Plan:
    """Chooses how the pass is computed, and notes it; a resumed pass continues in the way that it noted."""
    device = device_of(encoder.model)
    notes, is_new = sink.notes, "precision" not in sink.notes
    precision = notes.get("precision")
    if precision is None:
        precision = choose_precision(encoder, inputs, total, device) if requested == "auto" else requested
    # Passes that an earlier version began fold nothing.
    tries = folds and (is_new or notes.get(FOLDED))
    pairs = foldable_pairs(encoder, inputs, precision, total) if tries else []
    if is_new:
        sink.note({"precision": precision, FOLDED: len(pairs)})
    has_effect = precision != "float32" and EFFECT not in notes
    return _Plan(precision, pairs, PrecisionEffect(encoder, total, device) if has_effect else None)


def _skipped_note(batches: Batches) -> str:
    if not batches.skipped:
        return ""
    return f": none of {len(batches.skipped)} could be read (the first: {next(iter(batches.skipped.values()))})"
