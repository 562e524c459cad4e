"""The checks for prototype models pass good ones, and each fails a bad one."""

import pytest
import torch
from torch import nn

from lookalike import convert
from lookalike.testing import CHECKS, check_prototype_model


@pytest.mark.parametrize("similarity", ["l2", "log", "mahalanobis", "cosine", "dot"])
def test_converted_models_pass(net, blobs, similarity):
    sem = convert(net, blobs, n_prototypes=2, similarity=similarity, progress=False)
    left_out = [] if sem.similarity.falls_with_distance else ["similarities are monotone"]
    assert check_prototype_model(sem, blobs[0][:6]) == [name for name in CHECKS if name not in left_out]


def broken(sem, how):
    """Spoils a model in one way."""
    if how == "a class without a prototype":
        sem.prototypes.labels[sem.prototypes.labels == 2] = 1
    elif how == "probabilities above one":
        sem.classifier.probabilities = lambda s, labels, k: torch.full((len(s), k), 0.5)
    elif how == "a by-pass":
        sem.forward = lambda x: sem.scores_of(sem.encoder(x)) + x.flatten(1)[:, :3]
    elif how == "the wrong way round":
        forward = sem.similarity.forward
        sem.similarity.forward = lambda z, p: -forward(z, p)
    elif how == "NaN":
        sem.prototypes.vectors[0, 0] = torch.nan
    elif how == "batches":
        encode = sem.encoder.forward
        sem.encoder.forward = lambda x: encode(x) - encode(x).mean(0) * (len(x) > 1)
    elif how == "touches itself":
        embed = sem.embed

        def touching(x, batch_size=256):
            sem.prototypes.vectors.add_(1e-3)
            return embed(x, batch_size)

        sem.embed = touching
    return sem


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("a class without a prototype", r"classes: class \[2\] has no prototype"),
        ("probabilities above one", "predictions are consistent: the probabilities of an input do not sum to 1"),
        ("a by-pass", "something bypasses the embedding"),
        ("the wrong way round", "similarities are monotone: the similarity falls on the line"),
        ("NaN", "shapes: similarities.* has NaN"),
        ("batches", "batches make no difference"),
        ("touches itself", "the check has changed the model"),
    ],
)
def test_each_fault_is_named(net, blobs, how, message):
    sem = broken(convert(net, blobs, n_prototypes=2, progress=False), how)
    with pytest.raises(AssertionError, match=message):
        check_prototype_model(sem, blobs[0][:6])


def test_two_inputs_are_needed(net, blobs):
    sem = convert(net, blobs, progress=False)
    with pytest.raises(AssertionError, match="two inputs or more"):
        check_prototype_model(sem, blobs[0][:1])
    assert isinstance(net, nn.Module)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_inputs_of_another_precision_are_taken(net, blobs, dtype):
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    assert check_prototype_model(sem, blobs[0][:4].to(dtype)) == list(CHECKS)
