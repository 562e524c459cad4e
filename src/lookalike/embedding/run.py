"""``embed``: runs a data set through the encoder once, and returns or stores the embeddings."""

import _thread
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.identity import identifying_as
from lookalike._core.profiling import step
from lookalike._core.progress import Advance, progress_bar
from lookalike._core.provenance import versions
from lookalike._core.replacing import roll_back
from lookalike._core.untouched import keeps_random_states, undoing
from lookalike._core.working_folder import alone, lock_beside, read_record
from lookalike.data import Batch, Batches
from lookalike.embedding.key import embedding_key, key_differences
from lookalike.embedding.options import EmbeddingOptions, embedding_settings
from lookalike.embedding.precision import choose_precision, computing, measure_effect
from lookalike.embedding.store import META, EmbeddingStore
from lookalike.embedding.writing import JournalSink, MemorySink, Sink, remove_journal
from lookalike.encoder import Encoder, device_of, dtype_of, place, rows_at_once
from lookalike.encoder.calls import is_out_of_memory, n_rows, take_rows
from lookalike.encoder.head import OUTPUT

_MAX_NAMED = 5  # samples named in a message
_BATCHES_AHEAD = 2
_POLL_INTERVAL = 0.001  # seconds between checks whether the reading thread has ended
_SLOT_TIMEOUT = 0.1  # seconds; so often the reading thread, when it has nothing to do, checks whether to end
_START_TIMEOUT = 1.0  # seconds that a thread may need to start


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
        **options: ``batch_size``, ``num_workers``, ``on_error``, ``precision``, ``dtype``, ``head``;
            ``lookalike.embedding.EmbeddingSettings`` documents each.

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
    # what an earlier version stored is identified in its way, so that it is taken up
    with identifying_as(_stored_identity(folder) if resume and not overwrite else None):
        key = embedding_key(
            encoder,
            batches.fingerprint(),
            batches.transform_fingerprint(),
            precision=settings.precision,
            dtype=settings.dtype,
        )
    if folder is None:
        return _run_pass(encoder, batches, MemorySink(), key, progress)
    return _embed_to_folder(encoder, batches, Path(folder), key, progress, resume=resume, overwrite=overwrite)


def _stored_identity(folder: str | Path | None) -> Any:
    """Returns the identity of the weights that finished or unfinished embeddings were made with, or None."""
    if folder is None:
        return None
    with suppress(LookalikeError, KeyError, AttributeError):  # such a folder is reported when it is opened
        return read_record(Path(folder) / META)["info"]["weights"]
    return JournalSink.key_of(folder).get("weights")


def _embed_to_folder(
    encoder: Encoder,
    batches: Batches,
    folder: Path,
    key: dict[str, Any],
    progress: bool | Advance | None,
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
        return undoing(sink.release, lambda: _run_pass(encoder, batches, sink, key, progress))


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
    encoder: Encoder, batches: Batches, sink: Sink, key: dict[str, Any], progress: bool | Advance | None
) -> EmbeddingStore:
    """Embeds all samples that the sink does not have yet, and returns the sink's embeddings."""
    device, weights_type = device_of(encoder.model), dtype_of(encoder.model)
    bar = progress_bar("Embedding", batches.total, progress)
    read_ahead = _ReadAhead(batches.starting_at(sink.start))

    def run() -> None:
        with torch.no_grad(), bar as advance, ExitStack() as stack:
            advance(sink.start)
            embedder = _MemoryAwareEmbedder(encoder)
            for batch in read_ahead:
                inputs = place(batch.inputs, device, weights_type)
                if embedder.n_done == 0:
                    _note_precision(sink, key["precision"], encoder, inputs, batches.total, device)
                    stack.enter_context(computing(sink.notes["precision"], device))
                with step("encoder"):
                    z, scores = embedder.embed(inputs)
                z = z.half() if key["dtype"] == "float16" else z.float()
                is_finite = z.isfinite().all(1)
                not_finite = [] if bool(is_finite.all()) else batch.indices[~is_finite.cpu().numpy()].tolist()
                arrays = {"embeddings": z.cpu().numpy(), "labels": batch.labels, "indices": batch.indices}
                if scores is not None and encoder.outputs is not None:
                    arrays["predictions"] = encoder.outputs.predicted(scores).cpu().numpy()
                with step("write embeddings"):
                    sink.add(arrays, batch.read, dict(batches.skipped), not_finite)
                advance(len(batch.labels))

    undoing(read_ahead.stop, run)
    if sink.not_finite:
        sink.discard()
        names = name_samples(np.asarray(sink.not_finite), batches.describe)
        raise LookalikeError(f"{len(sink.not_finite)} embeddings have NaN or infinite values: {names}")
    info = {**key, "asked_precision": key["precision"], **sink.notes, "versions": versions()}
    batches.skipped.update(sink.skipped)
    store = sink.close(batches.class_names, batches.skipped, info)
    if store is None:
        raise LookalikeError("there are no samples to embed" + _skipped_note(batches))
    return store


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


def _note_precision(
    sink: Sink, requested: str, encoder: Encoder, inputs: Any, total: int | None, device: torch.device
) -> None:
    """Chooses and notes the precision at the first batch; a resumed pass continues in the precision that it noted."""
    if "precision" in sink.notes:
        return
    precision = choose_precision(encoder, inputs, total, device) if requested == "auto" else requested
    notes: dict[str, Any] = {"precision": precision}
    if precision != "float32":
        notes["precision_effect"] = measure_effect(encoder, inputs, precision, device)
    sink.note(notes)


class _MemoryAwareEmbedder:
    """Runs batches through an encoder; when memory runs out, it halves the rows at once, then and in later batches.

    Attributes:
        max_rows: Largest number of rows at once; None as long as whole batches fit.
        n_done: Number of rows embedded so far.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.max_rows: int | None = None
        self.n_done = 0

    def embed(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Returns embeddings [n, D] and class scores [n, K]."""
        n = n_rows(inputs)
        while True:
            rows = rows_at_once(inputs, n, device_of(self.encoder.model)) if self.max_rows is None else self.max_rows
            try:
                results = [
                    self.encoder.embed_and_score(inputs if rows >= n else take_rows(inputs, slice(start, start + rows)))
                    for start in range(0, n, rows)
                ]
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or rows == 1:
                    raise
                self.max_rows = max(1, min(rows, n) // 2)
            else:
                self.n_done += n
                z, scores = (list(column) for column in zip(*results, strict=True))
                return torch.cat(z), None if scores[0] is None else torch.cat(scores)
            if (
                torch.cuda.is_available()
            ):  # not in the handler: there the error still refers to the failed pass's tensors
                torch.cuda.empty_cache()
            warn_of(f"not enough memory for {rows} rows at once; going on with {self.max_rows}")


class _ReadAhead:
    """Reads the next batches in a thread while the caller works on the current one.

        reading thread ── batches, error or None ──▶  _results  ──▶  __iter__
        reading thread ◀── one item per free slot ──  _free_slots ◀──  __iter__

    The threads share nothing with a lock that is handled in Python code, and therefore no ``threading.Thread``: an
    interruption (Ctrl-C) between two steps of Python code would leave such a lock taken, and ``stop`` would wait for
    ever. ``SimpleQueue`` is written in C.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._results: SimpleQueue[Batch | BaseException | None] = SimpleQueue()
        self._free_slots: SimpleQueue[None] = SimpleQueue()
        for _ in range(_BATCHES_AHEAD):
            self._free_slots.put(None)
        self._is_started = self._is_running = self._is_stopped = self._has_ended = False

    def __iter__(self) -> Iterator[Batch]:
        self._is_started = True
        _thread.start_new_thread(self._run_thread, ())
        while True:
            with step("wait for images"):
                batch = self._results.get()
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            self._free_slots.put(None)
            yield batch

    def stop(self) -> None:
        """Tells the thread to end, and waits for it."""
        self._is_stopped = True
        # An interruption may come after `_is_started` is set and before the thread starts: then it never runs.
        deadline = time.monotonic() + _START_TIMEOUT
        while self._is_started and not self._has_ended and (self._is_running or time.monotonic() < deadline):
            time.sleep(_POLL_INTERVAL)

    def _run_thread(self) -> None:
        self._is_running = True
        try:
            if not self._is_stopped:
                self._read_all()
        finally:
            self._has_ended = True

    def _read_all(self) -> None:
        try:
            for batch in self._batches:
                self._results.put(batch)
                if not self._wait_for_slot():
                    return
        except BaseException as error:
            self._results.put(error)
        else:
            self._results.put(None)

    def _wait_for_slot(self) -> bool:
        """Waits until another batch may be read; returns False if the thread has to end instead."""
        while not self._is_stopped:
            with suppress(Empty):
                self._free_slots.get(timeout=_SLOT_TIMEOUT)
                return not self._is_stopped
        return False


def _skipped_note(batches: Batches) -> str:
    if not batches.skipped:
        return ""
    return f": none of {len(batches.skipped)} could be read (the first: {next(iter(batches.skipped.values()))})"
