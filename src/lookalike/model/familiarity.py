"""Which of many inputs are unfamiliar: the rule of ``Explanation.unfamiliar``, for all rows at once."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lookalike.model.doubting import novelty_of
from lookalike.model.prototypes import ENOUGH_SAMPLES, ROUNDING

if TYPE_CHECKING:
    from lookalike.model.prototype_model import PrototypeModel


@torch.no_grad()
def are_unfamiliar(model: "PrototypeModel", embeddings: Tensor) -> np.ndarray | None:
    """Says which of N embeddings [N, D] are unfamiliar [N].

    Without a calibration an input is unfamiliar if it is farther from its nearest prototype than every training sample
    behind that prototype; of fewer than ten, all of its class count, and of fewer than ten of these, all. A calibrated
    model tests the novelty score.

    Returns:
        None if a calibrated model had too few validation images to test this.
    """
    if model.doubt is not None:
        return model.doubt.are_unfamiliar(model.doubt.p_values(novelty_of(model, model.doubt, embeddings)))
    familiar = model.prototypes.familiar_range()
    nearest = model.similarities_of(embeddings).argsort(dim=1, descending=True, stable=True)[:, :1]
    distances = model.distances_of(embeddings).gather(1, nearest)[:, 0].cpu()
    nearest = nearest[:, 0].cpu()
    is_far = distances > familiar.farthest.cpu()[nearest] * (1 + ROUNDING)
    result: np.ndarray = ((familiar.counts.cpu()[nearest] >= ENOUGH_SAMPLES) & is_far).numpy()
    return result
