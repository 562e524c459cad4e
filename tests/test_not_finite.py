"""Inputs with NaN or infinite values: no class is nearest to them, so none is named."""

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import convert, explain
from lookalike._core.errors import LookalikeError
from lookalike.parts import contributions


@pytest.fixture
def sem(net, blobs):
    return convert(net, blobs, n_prototypes=2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_named(sem, blobs, value):
    x = blobs[0][:20].clone()
    x[[3, 11], 0, 2, 2] = value
    calls = (sem.predict, sem.predict_proba, sem.similarities, sem.embed, lambda x, batch_size: explain(
        sem, x, batch_size=batch_size))  # fmt: skip
    for call in calls:
        for given in (x, x.numpy()):
            with pytest.raises(LookalikeError, match=r"2 inputs have embeddings with NaN.*row 3, row 11;"):
                call(given, batch_size=20)
    with pytest.raises(LookalikeError, match="row 11;"):
        sem.predict(torch.where(torch.arange(20)[:, None, None, None] == 3, 0, x), batch_size=7)
    with pytest.raises(LookalikeError, match=r"row 3;"):
        explain(sem, x, batch_size=7)
    with pytest.raises(LookalikeError, match=r"eve, mallory;"):
        explain(sem, x[[3, 11]], names=["eve", "mallory"])


def test_a_forward_pass_hands_nan_on(sem, blobs):
    x = blobs[0][:4].clone()
    x[1, 0, 0, 0] = torch.nan
    scores = sem(x)
    assert scores.isnan().all(1).tolist() == [False, True, False, False]
    assert sem.predict(x[[0, 2, 3]]).shape == (3,)


def test_patches_that_are_not_finite_are_refused(blobs):
    x, y = blobs
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    found = convert(net, (x, y), n_prototypes=2, level="patch")
    broken = x[:9].clone()
    broken[7] = np.nan
    for call in (found.predict, found.segment):
        with pytest.raises(LookalikeError, match="row 7;"):
            call(broken, batch_size=4)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
@pytest.mark.parametrize("classes", [(), (1,), (1, 2)])
def test_what_positions_add_to_an_infinite_embedding_is_refused_for_that_reason(blobs, value, classes):
    """All prototypes are infinitely far: this is no class without prototypes."""
    x, y = blobs
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    nn.init.constant_(net[0].weight, 1.0)
    found = convert(net, (x, y), n_prototypes=2, progress=False)
    broken = x[:9].clone()
    broken[7] = value
    with pytest.raises(LookalikeError, match=r"1 inputs have embeddings with NaN.*row 7;"):
        contributions(found, broken, *classes, batch_size=4)
