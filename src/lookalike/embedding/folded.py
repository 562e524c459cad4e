"""Which batch norms are folded into convolutions during a pass; see ``lookalike._core.folding``."""

from typing import Any

import torch

from lookalike._core.folding import Folded, NotFoldableError, Pair, find_pairs, is_watched
from lookalike.encoder import Encoder
from lookalike.encoder.calls import take_rows
from lookalike.encoder.shadow import shadow_of

FOLDED = "folded_batch_norms"
_TRIAL_ROWS = 2  # each passes twice
_HIGHEST_SHARE = 0.02  # of the pass
_TIMES_SLOWER = {"float32": 1, "bfloat16": 7, "float16": 7}  # a row of the trial, in float32, than a row of the pass
_TOLERANCE = 1e-5  # of an embedding's norm


@torch.no_grad()
def foldable_pairs(encoder: Encoder, inputs: Any, precision: str, total: int | None) -> list[Pair]:
    """Returns the pairs of convolution and batch norm that are folded; none if that is not certainly the same.

    Two rows pass through a copy of the network, in float32, without and with folding. Nothing is folded if hooks could
    see a layer's output, if embeddings differ by more than 1e-5 of their norm, or if the pass is so short that the
    trial would be over 2% of it.

    Args:
        encoder: The encoder.
        inputs: The first rows, as the network takes them.
        precision: The precision of the pass.
        total: Number of rows of the pass; None if unknown.
    """
    cost = 2 * _TRIAL_ROWS * _TIMES_SLOWER.get(precision, 1)
    too_short = total is not None and cost > _HIGHEST_SHARE * total
    if too_short or type(encoder) is not Encoder or is_watched(encoder.model):
        return []
    rows = take_rows(inputs, slice(0, _TRIAL_ROWS))
    try:
        with torch.random.fork_rng(devices=[]):
            trial = shadow_of(encoder)
            pairs, plain = find_pairs(lambda: trial(rows))
            if not pairs:
                return []
            with Folded(pairs):
                folded = trial(rows)
    except (Exception, NotFoldableError):  # the user's code may raise any error; if it is real, the pass raises it
        return []
    deviations = (folded - plain).norm(dim=1) / plain.norm(dim=1).clamp_min(1e-30)
    return pairs if bool((deviations <= _TOLERANCE).all()) else []
