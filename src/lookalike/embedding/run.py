"""``embed``: runs a data set through the encoder once, and returns or stores the embeddings."""

from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.identity import identifying_as
from lookalike._core.progress import Advance, progress_bar
from lookalike._core.provenance import versions
from lookalike._core.replacing import roll_back
from lookalike._core.untouched import keeps_random_states, undoing
from lookalike._core.wording import counted
from lookalike._core.working_folder import alone, lock_beside, read_record
from lookalike.data import Batches
from lookalike.embedding.beside import Beside
from lookalike.embedding.effect import summarised
from lookalike.embedding.key import embedding_key, key_differences
from lookalike.embedding.one_pass import Pass
from lookalike.embedding.options import EmbeddingOptions, embedding_settings
from lookalike.embedding.replicas import check_devices
from lookalike.embedding.store import META, EmbeddingStore
from lookalike.embedding.writing import JournalSink, MemorySink, Sink, remove_journal
from lookalike.encoder import Encoder, device_of
from lookalike.encoder.head import OUTPUT

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
    batches.warn_if_random()
    devices = None if settings.devices is None else check_devices(encoder, settings.devices)

    def key() -> dict[str, Any]:
        return embedding_key(
            encoder,
            batches.fingerprint(),
            batches.transform_fingerprint(),
            precision=settings.precision,
            dtype=settings.dtype,
        )

    def run(sink: Sink, known: Beside[dict[str, Any]]) -> EmbeddingStore:
        work = Pass(encoder, batches, sink, precision=settings.precision, dtype=settings.dtype, devices=devices)
        return _run_pass(work, batches, sink, known, progress)

    at_once = torch.device("cpu")
    if folder is None:
        # a data set of any other kind need not allow to be read in two threads
        device = device_of(encoder.model) if batches.may_be_read_in_threads else at_once
        return run(MemorySink(), Beside(key, device))
    # embeddings of an earlier version are compared by the hash that it used
    with identifying_as(_stored_identity(folder) if resume and not overwrite else None):
        known = key()
    return _embed_to_folder(
        batches,
        Path(folder),
        known,
        lambda sink: run(sink, Beside(lambda: known, at_once)),
        resume=resume,
        overwrite=overwrite,
    )


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

        def check_and_run() -> EmbeddingStore:
            _check_skipped(sink.skipped.values(), batches, sink.folder)
            return run(sink)

        return undoing(sink.release, check_and_run)


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
    work: Pass, batches: Batches, sink: Sink, known: Beside[dict[str, Any]], progress: bool | Advance | None
) -> EmbeddingStore:
    """Embeds all samples that the sink does not have yet, and returns the sink's embeddings."""
    undoing(work.stop, lambda: work.run(progress_bar("Embedding", batches.total, progress), when_begun=known.start))
    if sink.not_finite:
        sink.discard()
        names = name_samples(np.asarray(sink.not_finite), batches.describe)
        raise LookalikeError(f"{len(sink.not_finite)} embeddings have NaN or infinite values: {names}")
    key = known.result()
    info = {**key, "asked_precision": key["precision"], **summarised(sink.notes), "versions": versions()}
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
            f"{str(folder)!r} does not say what its embeddings were made with ({error}): choose another place, or "
            "remove it"
        ) from error
    different = key_differences(stored_key, key, info.get("precision"))
    if different:
        raise LookalikeError(
            f"{str(folder)!r} holds embeddings made with other {different}: remove it, or choose another place "
            "(embed also takes overwrite=True)"
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
            f"{str(folder)!r} was made with on_error='skip' and leaves out {counted(len(skipped), 'image')} (the "
            f"first: {next(iter(skipped))}): give on_error='skip' again, remove it, or "
            "choose another place (embed also takes overwrite=True)"
        )


def _skipped_note(batches: Batches) -> str:
    if not batches.skipped:
        return ""
    return f": none of {len(batches.skipped)} could be read (the first: {next(iter(batches.skipped.values()))})"
