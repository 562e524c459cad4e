"""Encoders under ``torch.compile``, which follows neither hooks nor locks.

Imported only where a network is being compiled: torch's compiler takes as long to import as torch itself.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike.encoder.graphs import encoder_of, number_of

_NOT_STRICT = (
    "a prototype model cannot be exported with strict=True: leave strict out, or export "
    "lookalike.export.PlainModel(model), which takes both"
)


def _refuse() -> None:
    raise LookalikeError(_NOT_STRICT)


# called where a strict export arrives: the front end follows neither hooks nor locks, and would fail in a riddle
refuse_strict_export: Callable[[], None] = torch.compiler.disable(_refuse, reason=_NOT_STRICT)


@torch._dynamo.nonstrict_trace  # taken for one operation, and traced behind the compiler's front end
def _run(number: int, tensors: dict[str, Tensor], inputs: Any) -> Tensor:
    """Runs an encoder with the given weights and buffers, so that the graph sees them as its inputs."""
    result: Tensor = torch.func.functional_call(encoder_of(number), tensors, (inputs,))
    return result


def embed_compiled(encoder: nn.Module, inputs: Any) -> Tensor:
    """Returns an encoder's embeddings [N, D] in code that is being compiled; gradients reach its weights."""
    tensors = dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    embeddings: Tensor = _run(number_of(encoder), tensors, inputs)
    return embeddings
