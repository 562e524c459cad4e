"""Checks to run on your own prototype model, like scikit-learn's checks for estimators."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lookalike._core.provenance import fingerprint_tensors
from lookalike.encoder import Encoder, dtype_of, place
from lookalike.encoder.calls import n_rows, take_rows
from lookalike.explanation import explain
from lookalike.model import PrototypeModel, load
from lookalike.model.classifier import LinearHead
from lookalike.model.decision import PatchLinear
from lookalike.relevance import prp

_Check = Callable[[PrototypeModel, Any], bool | None]  # returns False if it does not apply
CHECKS: dict[str, _Check] = {}


def check_prototype_model(model: PrototypeModel, x: Any) -> list[str]:
    """Runs all checks on a prototype model.

    Args:
        model: Prototype model.
        x: Two or more inputs of the model [N, …].

    Returns:
        Names of the checks that ran, all of which have passed. A check is left out where it does not apply, such as
        saving where the encoder is no ``Encoder``.

    Raises:
        AssertionError: If a check fails; the message has the check's name and the reason.

    Example:
        >>> from torch import nn
        >>> from lookalike import convert
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> sem = convert(net, (x, (x[:, 0] > 0).long()), n_prototypes=3)
        >>> len(check_prototype_model(sem, x[:5]))
        7
    """
    if n_rows(x) < 2:
        raise AssertionError("check_prototype_model needs two inputs or more")
    x = place(x, model.device, dtype_of(model.encoder))
    passed = []
    for name, check in CHECKS.items():
        state_before = _model_state(model)
        try:
            passed += [] if check(model, x) is False else [name]
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        _expect(
            _model_state(model) == state_before, f"{name}: the check has changed the model (weights, modes or hooks)"
        )
    return passed


def _check(name: str) -> Callable[[_Check], _Check]:
    def register(check: _Check) -> _Check:
        CHECKS[name] = check
        return check

    return register


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _model_state(model: PrototypeModel) -> tuple[Any, ...]:
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    return (
        fingerprint_tensors(tensors),
        [m.training for m in model.modules()],
        hooks,
        [p.requires_grad for p in model.parameters()],
        [p.grad is None for p in model.parameters()],
    )


@_check("shapes")
def _shapes(model: PrototypeModel, x: Any) -> None:
    n, n_prototypes, k = n_rows(x), len(model.prototypes), model.n_classes
    dim = model.prototypes.vectors.shape[1]
    if model.has_patches:  # an embedding is a row of several patches
        dim *= model.patches_of(model.embed(x)).shape[1]
    for call, output, expected_shape in (
        ("embed(x)", model.embed(x), (n, dim)),
        ("similarities(x)", model.similarities(x), (n, n_prototypes)),
        ("model(x)", model(x).detach(), (n, k)),
        ("predict_proba(x)", model.predict_proba(x), (n, k)),
        ("predict(x)", model.predict(x), (n,)),
    ):
        _expect(
            tuple(output.shape) == expected_shape, f"{call} has the shape {tuple(output.shape)}, not {expected_shape}"
        )
    _expect(bool(model.similarities(x).isfinite().all()), "similarities(x) has NaN or infinite values")


@_check("classes")
def _classes(model: PrototypeModel, _x: Any) -> None:
    p = model.prototypes
    _expect(len(p.class_names) == p.n_classes, "there are not as many class names as classes")
    if isinstance(model.classifier, LinearHead | PatchLinear):  # each prototype counts for every class
        return
    missing = sorted(set(range(p.n_classes)) - set(p.labels.tolist()))
    _expect(not missing, f"class {missing[:1]} has no prototype")


@_check("similarities are monotone")
def _similarities_are_monotone(model: PrototypeModel, x: Any) -> bool:
    """On a straight line from an embedding to a prototype, the similarity must not fall."""
    if not model.similarity.falls_with_distance:
        return False
    z = model.patches_of(model.embed(x))[:, 0]
    steps = torch.linspace(0, 1, 6, device=z.device)
    for j in range(min(len(model.prototypes), 10)):
        path = z[0] + steps[:, None] * (model.prototypes.vectors[j] - z[0])
        similarities = model.similarities_of(path)[:, j].detach()
        # rounding may let it fall a little
        tolerance = 1e-5 * (1 + similarities.abs().max())
        _expect(
            bool((similarities.diff() >= -tolerance).all()),
            f"the similarity falls on the line from an input to prototype {j}: {similarities.tolist()}",
        )
    return True


@_check("predictions are consistent")
def _predictions_are_consistent(model: PrototypeModel, x: Any) -> None:
    scores, proba, predicted = model(x).detach(), model.predict_proba(x), model.predict(x)
    _expect(bool(torch.equal(scores.argmax(1), predicted)), "predict(x) is not the class with the largest score")
    _expect(bool(((proba.sum(1) - 1).abs() < 1e-4).all()), "the probabilities of an input do not sum to 1")
    _expect(bool((proba >= 0).all()), "a probability is below 0")
    scores_of_embedding = model.scores_of(model.embed(x)).detach()
    close = torch.allclose(scores_of_embedding, scores, rtol=1e-4, atol=1e-5)
    _expect(close, "scores_of(embed(x)) is not model(x): something bypasses the embedding")


@_check("batches make no difference")
def _batches_make_no_difference(model: PrototypeModel, x: Any) -> None:
    together, one_by_one = model.similarities(x), model.similarities(x, batch_size=1)
    close = torch.allclose(together, one_by_one, rtol=1e-3, atol=1e-4)
    _expect(close, "similarities(x) depends on the batch: is a batch norm or dropout in train mode?")


@_check("explanations")
def _explanations(model: PrototypeModel, x: Any) -> None:
    explanations = explain(model, take_rows(x, slice(0, 2)), n_nearest=1)
    _expect(len(explanations) == 2, f"explain gives {len(explanations)} explanations for 2 inputs")
    predicted = model.predict(take_rows(x, slice(0, 2))).tolist()
    _expect(
        [explanation.prediction for explanation in explanations] == predicted,
        "explain and predict name different classes",
    )
    if isinstance(x, Tensor) and x.ndim == 4:
        maps = prp(model, x[:2]).maps
        _expect(bool(maps.isfinite().all()), "a relevance map has NaN or infinite values")
        _expect(float(maps.abs().sum()) > 0, "the relevance maps are zero everywhere")


@_check("save and load")
def _save_and_load(model: PrototypeModel, x: Any) -> bool:
    if not isinstance(model.encoder, Encoder):
        return False
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        model.save(target)
        loaded = load(target, model=model.encoder.model).to(model.device)
    _expect(bool(torch.equal(loaded.predict(x), model.predict(x))), "a saved and loaded model predicts other classes")
    close = torch.allclose(loaded(x).detach(), model(x).detach(), rtol=1e-4, atol=1e-5)
    _expect(close, "a saved and loaded model gives other scores")
    return True
