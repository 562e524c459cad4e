"""Rows on their way through the network: to its device, through it as memory allows, and back."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lookalike._core.errors import warn_of
from lookalike._core.folding import Folded
from lookalike._core.recording import RECORDINGS
from lookalike.encoder import device_of, place, rows_at_once
from lookalike.encoder.calls import is_out_of_memory, n_rows, split_rows
from lookalike.encoder.side_by_side import SideBySide

Finish = Callable[[Tensor], Tensor]


class Embeds(Protocol):
    """An encoder, or copies of one."""

    model: nn.Module

    def embed_and_score(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Returns embeddings [n, D] and class scores [n, K], if any."""


class MemoryAwareEmbedder:
    """Runs batches through an encoder; when memory runs out, it halves the rows at once, then and in later batches.

    Attributes:
        max_rows: Largest number of rows at once; None as long as whole batches fit.
        n_done: Number of rows embedded so far.
    """

    def __init__(self, encoder: Embeds, folded: Folded | None = None) -> None:
        self.encoder = encoder
        self.folded = Folded([]) if folded is None else folded
        self._side_by_side = SideBySide(encoder)
        self.max_rows: int | None = None
        self.n_done = 0

    def embed(self, inputs: Any, finish: Finish | None = None) -> tuple[Tensor, Tensor | None]:
        """Returns embeddings [n, D] and class scores [n, K].

        Args:
            inputs: n rows, on the encoder's device.
            finish: Turns rows of ``inputs`` into the network's input; only the rows that pass at once are turned.
        """
        n = n_rows(inputs)
        while True:
            rows = rows_at_once(inputs, n, device_of(self.encoder.model)) if self.max_rows is None else self.max_rows
            try:
                parts = split_rows(inputs, rows)
                results = self._side_by_side.run(functools.partial(self._embed_rows, finish=finish), parts)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or rows == 1:
                    raise
                self.max_rows = max(1, min(rows, n) // 2)
            else:
                self.n_done += n
                z, scores = (list(column) for column in zip(*results, strict=True))
                return torch.cat(z), None if scores[0] is None else torch.cat(scores)
            # not in the handler: there the error still refers to the failed pass's tensors
            RECORDINGS.forget_all()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            warn_of(f"not enough memory for {rows} rows at once; going on with {self.max_rows}")

    def _embed_rows(self, encoder: Embeds, inputs: Any, finish: Finish | None) -> tuple[Tensor, Tensor | None]:
        ready = inputs if finish is None else finish(inputs)
        return self.folded.run(lambda: encoder.embed_and_score(ready))


class Transfer:
    """Copies inputs to a network's device and results back, without waiting for the device where it can.

    On a CUDA device the next batch is copied on a stream of its own while the current one is computed, and results are
    read one batch later, when they have arrived:

        copy     [batch 1][batch 2]        [batch 3]
        compute           [batch 1][back 1][batch 2][back 2]
        read                                        [1]
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self.device = device
        self.dtype = dtype
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def is_asynchronous(self) -> bool:
        """Whether results arrive later than they are asked for."""
        return self._stream is not None

    def to_device(self, inputs: Any, *, as_bytes: bool) -> Any:
        """Returns inputs on the device; images as bytes stay bytes."""
        if self._stream is None:
            return inputs if as_bytes else place(inputs, self.device, self.dtype)
        with torch.cuda.stream(self._stream):
            moved = inputs.to(self.device, non_blocking=True) if as_bytes else place(inputs, self.device, self.dtype)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._stream)
        for leaf in tree_leaves(moved):
            if isinstance(leaf, Tensor) and leaf.is_cuda:
                leaf.record_stream(computing)  # its memory is not given away before it was computed with
        return moved

    def to_arrays(self, tensors: list[Tensor]) -> Callable[[], list[np.ndarray]]:
        """Starts to copy tensors to the CPU; the returned function waits for them and returns them as arrays."""
        if self._stream is None:
            arrays = [tensor.cpu().numpy() for tensor in tensors]
            return lambda: arrays
        pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for target, tensor in zip(pinned, tensors, strict=True):
            target.copy_(tensor, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(self.device))

        def read() -> list[np.ndarray]:
            arrived.synchronize()
            return [tensor.numpy().copy() for tensor in pinned]  # pinned memory is scarce

        return read
