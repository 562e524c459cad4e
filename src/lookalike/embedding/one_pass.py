"""One pass over the data: the next images are read while these are computed and the last results are written."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lookalike._core.folding import Folded
from lookalike._core.profiling import step
from lookalike._core.progress import Advance
from lookalike.data import Batch, Batches
from lookalike.embedding.ahead import ReadAhead
from lookalike.embedding.effect import EFFECT, PrecisionEffect, note_of
from lookalike.embedding.folded import FOLDED, foldable_pairs
from lookalike.embedding.halved import HALVED, Halved, computes_in_halves, halved_copy
from lookalike.embedding.precision import choose_precision, computing
from lookalike.embedding.replicas import Replicas
from lookalike.embedding.rows import Finish, MemoryAwareEmbedder, Transfer
from lookalike.embedding.trial import Way, fastest_way
from lookalike.embedding.writing import Sink
from lookalike.encoder import Encoder, device_of, dtype_of
from lookalike.encoder.calls import take_rows

_TRIED_ROWS = 4  # normalised to choose how the pass is computed


class Pass:
    """Embeds the samples that a sink does not have yet.

        reading thread ── batch ──> embedder ── results ──> on their way from the device ── arrays ──> sink

    On a CUDA device a batch is written while the next one is computed; on a CPU it is written at once.

    Args:
        encoder: The encoder.
        batches: The data.
        sink: Takes the embeddings. What it has already is not computed again.
        precision: ``"auto"``, ``"fastest"``, or the precision of the pass.
        dtype: Type of the stored embeddings.
        devices: Devices to divide each batch among; None computes where the encoder is.
    """

    def __init__(
        self,
        encoder: Encoder,
        batches: Batches,
        sink: Sink,
        *,
        precision: str,
        dtype: str,
        devices: list[torch.device] | None,
    ) -> None:
        self._encoder = encoder
        self._batches = batches
        self._sink = sink
        self._precision = precision
        self._dtype = dtype
        self._devices = devices
        self._transfer = Transfer(device_of(encoder.model), dtype_of(encoder.model))
        on_gpu = self._transfer.device.type == "cuda"
        self._reading = ReadAhead(batches.unfinished_from(sink.start, for_gpu=on_gpu), pinned=on_gpu)
        self._settings = ExitStack()  # of the precision, and the threads of the devices, for the length of the pass
        self._effect: PrecisionEffect | None = None

    def run(self, bar: AbstractContextManager[Advance], when_begun: Callable[[], None] = lambda: None) -> None:
        """Runs the pass.

        Args:
            bar: Progress bar; it advances by the rows that are written.
            when_begun: Called when the first batch was computed.
        """
        embedder: MemoryAwareEmbedder | None = None
        arriving: _Arriving | None = None
        with torch.no_grad(), bar as advance, self._settings:
            advance(self._sink.start)
            try:
                for batch in self._reading:
                    inputs = self._transfer.to_device(batch.inputs, as_bytes=batch.finish is not None)
                    finish = None if batch.finish is None else _in_type(batch.finish, self._transfer.dtype)
                    embedder = embedder or self._begin(inputs, finish)
                    previous, arriving = arriving, self._embed(embedder, batch, inputs, finish)
                    when_begun()
                    if previous is not None:
                        advance(previous.write(self._sink))
                    if not self._transfer.is_asynchronous:
                        previous, arriving = arriving, None
                        advance(previous.write(self._sink))
            finally:  # an interruption loses nothing that was computed
                if arriving is not None:
                    advance(arriving.write(self._sink))

    def stop(self) -> None:
        """Ends the reading thread."""
        self._reading.stop()

    def _begin(self, inputs: Any, finish: Finish | None) -> MemoryAwareEmbedder:
        """Chooses by the first inputs how the pass is computed; a resumed pass continues as its notes say."""
        encoder, total, device = self._encoder, self._batches.total, self._transfer.device
        first = inputs if finish is None else finish(take_rows(inputs, slice(0, _TRIED_ROWS)))
        notes, is_new = self._sink.notes, "precision" not in self._sink.notes
        asked = notes.get("precision", self._precision)
        precision = choose_precision(encoder, first, total, device) if asked in ("auto", "fastest") else asked
        halved = self._halved(first, precision, is_new)
        if halved is not None:
            self._sink.note({"precision": precision, FOLDED: halved.n_folded, HALVED: True})
            self._effect = None if EFFECT in notes else PrecisionEffect(encoder, total, device)
            return MemoryAwareEmbedder(halved)
        # Passes that an earlier version began fold nothing.
        folds = self._devices is None and (is_new or notes.get(FOLDED))
        pairs = foldable_pairs(encoder, first, precision, total) if folds else []
        way = Way(precision, notes.get("channels_last", True))
        if is_new:
            note: dict[str, Any] = {}
            if asked == "fastest" and self._devices is None:
                rows = first if finish is None or device.type == "cpu" else finish(inputs)
                rows = take_rows(rows, slice(0, _TRIED_ROWS)) if device.type == "cpu" else rows
                trial = fastest_way(encoder, rows, precision, pairs, total, device)
                way, precision, note = trial.way, trial.way.precision, trial.note()
                pairs = pairs if way.folds else []
            self._sink.note({"precision": precision, FOLDED: len(pairs), **note})
        if precision != "float32" and EFFECT not in notes:
            self._effect = PrecisionEffect(encoder, total, device)
        if self._devices is None:
            self._settings.enter_context(computing(precision, device, way.accelerated()))
            return MemoryAwareEmbedder(encoder, Folded(pairs))
        replicas = Replicas(encoder, self._devices, precision)
        self._settings.callback(replicas.close)
        return MemoryAwareEmbedder(replicas)

    def _halved(self, first: Any, precision: str, is_new: bool) -> Halved | None:
        """Returns a copy of the network in bfloat16 to embed with, on a GPU, or None."""
        is_asked = is_new and self._precision in ("auto", "bfloat16")
        is_noted = bool(self._sink.notes.get(HALVED))
        if precision != "bfloat16" or self._devices is not None or not (is_asked or is_noted):
            return None
        if not computes_in_halves(self._transfer.device):
            return None
        return halved_copy(self._encoder, first, self._batches.total, is_tried=not is_noted)

    def _embed(self, embedder: MemoryAwareEmbedder, batch: Batch, inputs: Any, finish: Finish | None) -> "_Arriving":
        """Computes a batch, and starts to copy from the device what is stored of it."""
        with step("encoder"):
            z, scores = embedder.embed(inputs, finish)
        results = {"embeddings": z.half() if self._dtype == "float16" else z.float()}
        results["is_finite"] = results["embeddings"].isfinite().all(1)
        if scores is not None and self._encoder.outputs is not None:
            results["predictions"] = self._encoder.outputs.predicted(scores)
        if self._effect is not None:
            compared = self._effect.compare(batch.read - len(batch.labels), inputs, finish, z, scores)
            results |= {} if compared is None else {EFFECT: compared}
        arrays = self._transfer.to_arrays(list(results.values()))
        return _Arriving(batch, dict(self._batches.skipped), list(results), arrays)


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
