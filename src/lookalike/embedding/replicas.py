"""An encoder on several devices of one machine: each batch is divided among copies of the network."""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.acceleration import Accelerated
from lookalike._core.errors import LookalikeError, first_line
from lookalike._core.folding import is_watched
from lookalike.embedding.precision import computing
from lookalike.encoder import Encoder, device_of, place
from lookalike.encoder.calls import n_rows, take_rows
from lookalike.encoder.shadow import shadow_of


def check_devices(encoder: Encoder, devices: Sequence[str]) -> list[torch.device]:
    """Returns the devices of the given names.

    Raises:
        LookalikeError: If one cannot be used, or hooks of the network would see a part of the rows only.
    """
    if is_watched(encoder.model):
        raise LookalikeError("the network has hooks, which would see the rows of one device only; give one device")
    found = []
    for name in devices:
        try:
            found.append(torch.device(name))
            torch.zeros(1, device=found[-1])
        except (RuntimeError, AssertionError) as error:
            raise LookalikeError(f"the device {name!r} cannot be used: {first_line(error)}") from error
    return found


class Replicas:
    """Copies of an encoder on several devices; each computes its part of a batch in a thread of its own.

    The copies have weights of their own and none of the network's hooks. The network itself stays as it is.

    Args:
        encoder: The encoder. Results come back to its device.
        devices: The devices, one part of each batch for each.
        precision: The precision of the pass.

    Attributes:
        model: The network on the encoder's own device.
    """

    def __init__(self, encoder: Encoder, devices: Sequence[torch.device], precision: str) -> None:
        self.model: nn.Module = encoder.model
        self._device = device_of(encoder.model)
        self._precision = precision
        self._pool = ThreadPoolExecutor(len(devices), thread_name_prefix="lookalike-device")
        self._parts = [(device, copy.deepcopy(shadow_of(encoder)).to(device), Accelerated()) for device in devices]

    def embed_and_score(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Returns embeddings [N, D] and class scores [N, C], if any, in the order of the rows."""
        n, n_parts = n_rows(inputs), len(self._parts)
        bounds = [n * part // n_parts for part in range(n_parts + 1)]
        running = [
            self._pool.submit(self._run, part, take_rows(inputs, slice(start, end)))
            for part, start, end in zip(self._parts, bounds[:-1], bounds[1:], strict=True)
            if end > start
        ]
        results = [one.result() for one in running]
        z, scores = (list(column) for column in zip(*results, strict=True))
        return torch.cat(z), None if scores[0] is None else torch.cat(scores)

    def _run(self, part: tuple[torch.device, Encoder, Accelerated], inputs: Any) -> tuple[Tensor, Tensor | None]:
        device, encoder, accelerated = part
        with torch.no_grad(), ExitStack() as stack:  # modes are settings of a thread
            stack.enter_context(computing(self._precision, device, accelerated))
            z, scores = encoder.embed_and_score(place(inputs, device))
            return z.to(self._device), None if scores is None else scores.to(self._device)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
