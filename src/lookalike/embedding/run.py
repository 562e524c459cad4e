"""Embedding a data set: one pass of the encoder, kept with all that is needed to trust it later."""

import _thread
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.profiling import step
from lookalike._core.progress import Advance, progress_bar
from lookalike._core.provenance import versions
from lookalike._core.replacing import roll_back
from lookalike._core.untouched import keeps_random_states, undoing
from lookalike._core.working_folder import alone, lock_beside, read_record
from lookalike.data import Batch, Batches
from lookalike.embedding.key import embedding_key, other_than
from lookalike.embedding.precision import PRECISIONS, Precision, choose_precision, computing, effect_of
from lookalike.embedding.store import META, EmbeddingStore
from lookalike.embedding.writing import Journalled, Memory, Sink, finish
from lookalike.encoder import Encoder, device_of, dtype_of, place
from lookalike.encoder.calls import is_out_of_memory, n_rows, take_rows
from lookalike.encoder.head import OUTPUT

_NAMED = 5
_AHEAD = 2  # batches
_LITTLE, _PATIENCE, _LONG_PATIENCE = 0.001, 0.1, 1.0  # seconds


@keeps_random_states
def embed(
    model: nn.Module,
    data: Any,
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    precision: Precision = "auto",
    dtype: Literal["float32", "float16"] = "float32",
    on_error: Literal["stop", "skip"] = "stop",
    head: str | None = None,
    progress: bool | Advance | None = None,
) -> EmbeddingStore:
    """Embeds a data set, in eval mode, without augmentation of its own (paper section 3.2, step 1).

    Images are read while the encoder works on those before. In a folder nothing that was done is lost: a pass that
    was interrupted, killed or ran out of disk goes on where it stopped when it is called again with ``resume``, and
    ends with the same bytes.

    Args:
        model: An ``Encoder``, a model that has one, or a trained classifier, which is cut at its head first.
        data: A data set, loader, or pair of arrays; see ``lookalike.data.Batches``.
        batch_size: The most rows that pass through the encoder at once; None takes the loader's own, or 256. If the
            memory does not suffice for so many, fewer pass at once from then on.
        num_workers: Processes that read and prepare images.
        folder: Where to write the embeddings; None keeps them in memory.
        resume: Go on with what an earlier call has left; if that one had come to its end, its result is returned.
        overwrite: Start anew, and replace the folder if there is one.
        precision: In which numbers the encoder computes. ``"auto"`` takes half precision for long passes where the
            processor is quicker at it, else float32; what that changes is measured and told in ``info``.
        dtype: In which the embeddings are kept.
        on_error: ``"skip"`` goes on at an image that cannot be read, and lists it.
        head: The classifier's head, where it cannot be found.
        progress: Show a progress bar; None shows one on a terminal; or the function that moves your own.

    Returns:
        The embeddings, row by row in the data's order.

    Raises:
        LookalikeError: If there are no samples; an embedding is not finite (it names the samples); the folder holds
            something else, or unfinished embeddings of other weights, data or transform (it says which); or the disk
            is full.
    """
    checks.model("model", model)
    checks.one_of("precision", precision, PRECISIONS)
    checks.one_of("dtype", dtype, ("float32", "float16"))
    checks.flag("resume", resume)
    checks.flag("overwrite", overwrite)
    checks.optional(checks.path, "folder", folder)
    checks.progress("progress", progress)
    batches = data if isinstance(data, Batches) else Batches(data, batch_size, num_workers, on_error)
    encoder = as_encoder(model, batches, head)
    if batches.is_random():
        warn_of(
            "reading the same sample twice gives different inputs: the data are augmented at random, and the "
            "embeddings with them; use the transform without augmentation"
        )
    key = embedding_key(
        encoder, batches.fingerprint(), batches.transform_fingerprint(), precision=precision, dtype=dtype
    )
    if folder is None:
        return _embed(encoder, batches, Memory(), key, progress)
    lock = lock_beside(Path(folder))
    if resume and not overwrite:
        with alone(lock):
            roll_back(Path(folder))
            is_finished = (Path(folder) / META).is_file()
            if is_finished:
                finish(Path(folder))
        store = _finished(folder, key, batches) if is_finished else None
        if store is not None:
            return store
        overwrite = is_finished  # it was damaged
    with alone(lock):
        sink = Journalled(folder, key, resume=resume, overwrite=overwrite)
        _check_skipped(sink.skipped.values(), batches, sink.folder)
        return undoing(sink.release, lambda: _embed(encoder, batches, sink, key, progress))


def as_encoder(model: nn.Module, batches: Batches, head: str | None = None, **options: Any) -> Encoder:
    """Returns a model's encoder, or cuts a classifier with the first samples of the data."""
    own = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
    if isinstance(own, Encoder):
        return own
    checks.optional(checks.text, "head", head)
    first = next(iter(batches), None)
    if first is None:
        raise LookalikeError("there are no samples to embed" + _skipped_note(batches))
    if isinstance(own, nn.Module) and hasattr(model, "prototypes"):  # a prototype model that was trained as such
        return Encoder(own, first.inputs, head=OUTPUT, **options)
    return Encoder(model, first.inputs, head=head, **options)


def name_samples(indices: np.ndarray, describe: Callable[[int], str]) -> str:
    """Names up to five samples, and says how many more there are."""
    more = f" and {len(indices) - _NAMED} more" if len(indices) > _NAMED else ""
    return ", ".join(describe(int(index)) for index in indices[:_NAMED]) + more


def _embed(
    encoder: Encoder, batches: Batches, sink: Sink, key: dict[str, Any], progress: bool | Advance | None
) -> EmbeddingStore:
    device, weights_type = device_of(encoder.model), dtype_of(encoder.model)
    bar = progress_bar("Embedding", batches.total, progress)
    ahead = _Ahead(batches.starting_at(sink.start))

    def run() -> None:
        with torch.no_grad(), bar as advance, ExitStack() as stack:
            advance(sink.start)
            rows = _Rows(encoder)
            for batch in ahead:
                inputs = place(batch.inputs, device, weights_type)
                if rows.done == 0:
                    _note_precision(sink, key["precision"], encoder, inputs, batches.total, device)
                    stack.enter_context(computing(sink.notes["precision"], device))
                with step("encoder"):
                    z, scores = rows.embed(inputs)
                kept = z.half() if key["dtype"] == "float16" else z.float()
                finite = kept.isfinite().all(1)
                broken = [] if bool(finite.all()) else batch.indices[~finite.cpu().numpy()].tolist()
                parts = {"embeddings": kept.cpu().numpy(), "labels": batch.labels, "indices": batch.indices}
                if scores is not None and encoder.outputs is not None:
                    parts["predictions"] = encoder.outputs.predicted(scores).cpu().numpy()
                with step("write embeddings"):
                    sink.add(parts, batch.read, dict(batches.skipped), broken)
                advance(len(batch.labels))

    undoing(ahead.stop, run)
    if sink.broken:
        sink.discard()
        named = name_samples(np.asarray(sink.broken), batches.describe)
        raise LookalikeError(f"{len(sink.broken)} embeddings have NaN or infinite values: {named}")
    info = {**key, "asked_precision": key["precision"], **sink.notes, "versions": versions()}
    batches.skipped.update(sink.skipped)
    store = sink.close(batches.class_names, batches.skipped, info)
    if store is None:
        raise LookalikeError("there are no samples to embed" + _skipped_note(batches))
    return store


def _finished(folder: str | Path, key: dict[str, Any], batches: Batches) -> EmbeddingStore | None:
    """Returns what an earlier call has finished; None if it was damaged since, which is warned of.

    Raises:
        LookalikeError: If it was made with something else, or does not say with what.
    """
    folder = Path(folder)
    try:
        info = read_record(folder / META)["info"]
        held = {name: info.get(name) for name in key} | {"precision": info.get("asked_precision")}
    except (LookalikeError, KeyError, AttributeError) as error:
        raise LookalikeError(
            f"{str(folder)!r} does not say what its embeddings were made with ({error}): remove it, or overwrite it "
            "(overwrite=True)"
        ) from error
    differing = other_than(held, key, info.get("precision"))
    if differing:
        raise LookalikeError(
            f"{str(folder)!r} holds embeddings made with other {differing}: choose another place, remove it, or "
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
            f"the embeddings in {str(folder)!r} are taken as they are: of a stream no more than its type and length "
            "can be compared with those of an earlier call"
        )
    return store


def _check_skipped(skipped: Collection[str], batches: Batches, folder: Path) -> None:
    """Checks that no image was left out that the data are not to go without.

    Raises:
        LookalikeError: If one was, and ``on_error`` is ``"stop"``.
    """
    if skipped and batches.on_error == "stop":
        raise LookalikeError(
            f"{str(folder)!r} was made with on_error='skip' and leaves out {len(skipped)} images (the first: "
            f"{next(iter(skipped))}): give on_error='skip' again, or start anew (overwrite=True, or another folder)"
        )


def _note_precision(
    sink: Sink, asked: str, encoder: Encoder, inputs: Any, total: int | None, device: torch.device
) -> None:
    """Notes the precision with the first batch; a pass that is taken up goes on in its own."""
    if "precision" in sink.notes:
        return
    chosen = choose_precision(encoder, inputs, total, device) if asked == "auto" else asked
    notes: dict[str, Any] = {"precision": chosen}
    if chosen != "float32":
        notes["precision_effect"] = effect_of(encoder, inputs, chosen, device)
    sink.note(notes)


class _Rows:
    """Passes rows through an encoder, fewer at once from then on when the memory does not suffice."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.at_once: int | None = None
        self.done = 0

    def embed(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Returns embeddings [n, D] and class scores [n, K]."""
        n = n_rows(inputs)
        while True:
            step = n if self.at_once is None else self.at_once
            try:
                parts = [
                    self.encoder.embed_and_score(inputs if step >= n else take_rows(inputs, slice(start, start + step)))
                    for start in range(0, n, step)
                ]
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or step == 1:
                    raise
                self.at_once = max(1, min(step, n) // 2)
            else:
                self.done += n
                z, scores = (list(one) for one in zip(*parts, strict=True))
                return torch.cat(z), None if scores[0] is None else torch.cat(scores)
            if torch.cuda.is_available():  # outside of the handler, which holds on to the failed pass's tensors
                torch.cuda.empty_cache()
            warn_of(f"the memory does not suffice for {step} rows at once; going on with {self.at_once}")


class _Ahead:
    """Reads the next batches in a thread while this one is worked on.

    The two threads share nothing that has a lock in Python, and ``threading.Thread``, which has some, plays no part: an
    interruption between two steps of Python would leave a lock taken, and ``stop`` would wait for ever.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches = batches
        self.ready: SimpleQueue[Batch | BaseException | None] = SimpleQueue()
        self.room: SimpleQueue[None] = SimpleQueue()  # as many as there is room for further batches
        for _ in range(_AHEAD):
            self.room.put(None)
        self.asked = self.reading = self.stopped = self.ended = False

    def __iter__(self) -> Iterator[Batch]:
        self.asked = True
        _thread.start_new_thread(self._read, ())
        while True:
            with step("wait for images"):
                batch = self.ready.get()
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            self.room.put(None)
            yield batch

    def stop(self) -> None:
        """Ends the thread, at whatever it is."""
        self.stopped = True
        until = time.monotonic() + _LONG_PATIENCE  # interrupted before it was started, it never begins
        while self.asked and not self.ended and (self.reading or time.monotonic() < until):
            time.sleep(_LITTLE)

    def _read(self) -> None:
        self.reading = True
        try:
            if not self.stopped:
                self._read_all()
        finally:
            self.ended = True

    def _read_all(self) -> None:
        try:
            for batch in self.batches:
                self.ready.put(batch)
                if not self._has_room():
                    return
        except BaseException as error:
            self.ready.put(error)
        else:
            self.ready.put(None)

    def _has_room(self) -> bool:
        """Waits until there is room for another batch; False when the thread is to end."""
        while not self.stopped:
            with suppress(Empty):
                self.room.get(timeout=_PATIENCE)
                return not self.stopped
        return False


def _skipped_note(batches: Batches) -> str:
    if not batches.skipped:
        return ""
    return f": none of {len(batches.skipped)} could be read (the first: {next(iter(batches.skipped.values()))})"
