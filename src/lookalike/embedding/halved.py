"""A copy of a network in bfloat16, in which a GPU embeds: batch norms folded, channels last, all weights cast once.

Autocast casts to bfloat16 before each operation and back after some, and the modes that speed up a pass on a CPU look
at each operation in Python. A GPU such as an H100 waits for both: it computes faster than they can be asked for. The
copy has nothing that must be asked for, and is used if its embeddings are as near to those in float32 as bfloat16
allows.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lookalike._core.folding import NotFoldableError, Pair, find_pairs, folded_weights, is_watched
from lookalike.encoder import Encoder
from lookalike.encoder.calls import take_rows
from lookalike.encoder.shadow import shadow_of

HALVED = "bfloat16_weights"  # the note of a pass
_TRIAL_ROWS = 2
_FEWEST_ROWS = 512  # of a pass that is worth the trial
_TOLERANCE = 0.015  # of an embedding's norm, about four roundings to bfloat16; under autocast it is two
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # layers that do nothing else; those with an activation stay as they are


class Halved:
    """Embeds by a copy of a network in bfloat16.

    Args:
        encoder: The encoder; it stays as it is.
        pairs: The batch norms to fold.

    Attributes:
        model: The network, by whose device batches are made.
        n_folded: Number of batch norms that are folded.
    """

    def __init__(self, encoder: Encoder, pairs: list[Pair]) -> None:
        self.model: nn.Module = encoder.model
        self._copy = shadow_of(encoder)
        self.n_folded = _fold(self._copy, pairs)
        _cast(self._copy)

    def embed_and_score(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Returns embeddings [n, D] and class scores [n, K], if any, in bfloat16."""
        return self._copy.embed_and_score(tree_map(_in_bfloat16, inputs))


def computes_in_halves(device: torch.device) -> bool:
    """Says whether passes in bfloat16 on a device use such a copy."""
    return device.type == "cuda"


@torch.no_grad()
def halved_copy(encoder: Encoder, inputs: Any, total: int | None, *, is_tried: bool = True) -> Halved | None:
    """Returns a copy in bfloat16; None if it does not serve the pass.

    It does not if the pass is short, if hooks could see what its layers return, or if embeddings differ by more than
    1.5% of their norm from those in float32.

    Args:
        encoder: The encoder, on a GPU.
        inputs: The first rows, as the network takes them.
        total: Number of rows of the pass; None if unknown.
        is_tried: Whether to compare embeddings; a resumed pass has done so.
    """
    too_short = total is not None and total < _FEWEST_ROWS
    if too_short or type(encoder) is not Encoder or is_watched(encoder.model):
        return None
    rows = take_rows(inputs, slice(0, _TRIAL_ROWS))
    try:
        with torch.random.fork_rng(devices=[]):
            trial = shadow_of(encoder)
            pairs, plain = find_pairs(lambda: trial(rows))
            halved = Halved(encoder, pairs)
            embeddings = halved.embed_and_score(rows)[0].float()
    except (Exception, NotFoldableError):  # the user's code may raise any error; if it is real, the pass raises it
        return None
    deviations = (embeddings - plain).norm(dim=1) / plain.norm(dim=1).clamp_min(1e-30)
    return halved if not is_tried or bool((deviations <= _TOLERANCE).all()) else None


def _fold(network: nn.Module, pairs: list[Pair]) -> int:
    """Folds batch norms of a copied network into the convolutions before them; returns how many."""
    by_weight: dict[int, list[nn.Module]] = defaultdict(list)
    by_mean: dict[int, list[nn.Module]] = defaultdict(list)
    parents: dict[nn.Module, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            by_weight[id(module._parameters.get("weight"))].append(module)
        elif type(module) in _NORMS:
            by_mean[id(module._buffers.get("running_mean"))].append(module)
        for name, child in module._modules.items():
            if child is not None:
                parents[child].append((module, name))
    n_folded = 0
    for pair in pairs:
        convolutions, norms = by_weight[id(pair.weight)], by_mean[id((pair.norm or [None])[0])]
        if len(convolutions) != 1 or len(norms) != 1:
            continue
        parameters = convolutions[0]._parameters
        weight, bias = folded_weights(pair, parameters.get("bias"))
        parameters.update(weight=nn.Parameter(weight, False), bias=nn.Parameter(bias, False))
        for parent, name in parents[norms[0]]:
            parent._modules[name] = nn.Identity()
        n_folded += 1
    return n_folded


def _cast(network: nn.Module) -> None:
    """Casts the parameters and buffers of a copied network; those of the network itself stay as they are."""
    cast: dict[int, Tensor] = {}
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_floating_point():
                    if id(tensor) not in cast:  # weights that are shared stay shared
                        half = _in_bfloat16(tensor.detach())
                        cast[id(tensor)] = nn.Parameter(half, False) if isinstance(tensor, nn.Parameter) else half
                    tensors[name] = cast[id(tensor)]  # type: ignore[assignment]


def _in_bfloat16(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    layout = torch.channels_last if leaf.ndim == 4 else torch.contiguous_format
    return leaf.to(torch.bfloat16, memory_format=layout)
