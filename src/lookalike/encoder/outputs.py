"""Reads a classifier's output: which tensor holds the class scores, their layout, and whether they are logits."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lookalike._core.draws import normal, seeded
from lookalike._core.errors import LookalikeError

Kind = Literal["logits", "probabilities", "log-probabilities", "sigmoids"]
Of = Literal["score", "probability"]

_TOLERANCE = 0.02  # for sums of probabilities; bfloat16 rounds each probability by up to 0.4%
_PROBES = ((1.0, 0.0), (4.0, 0.0), (1.0, 6.0), (1.0, -6.0))  # standard deviation and mean of trial logits, a row each


@dataclass(frozen=True)
class Outputs:
    """How to read a classifier's class scores [N, C].

    A single column is the score of class 1 of two: a logit or its sigmoid.

    Attributes:
        key: The key or position of the output that holds them; None for the only output.
        n_columns: C.
        kind: What the numbers are: ``"logits"``, or the result of a softmax (``"probabilities"``), a log-softmax or
            log-sigmoid (``"log-probabilities"``), or one sigmoid per class (``"sigmoids"``).
        names: The names of the classes in the order of the outputs, if known.
        logits_from: The layer that produces the logits, if the network turns them into probabilities.

    Example:
        >>> outputs = Outputs(None, 1, "sigmoids")
        >>> outputs.predicted(torch.tensor([[0.2], [0.9]])), outputs.n_classes
        (tensor([0, 1]), 2)
    """

    key: str | int | None
    n_columns: int
    kind: Kind = "logits"
    names: tuple[str, ...] | None = None
    logits_from: str | None = None

    @property
    def single(self) -> bool:
        """Whether one column stands for two classes."""
        return self.n_columns == 1

    @property
    def n_classes(self) -> int:
        """K, the number of classes that the outputs distinguish."""
        return 2 if self.single else self.n_columns

    def predicted(self, scores: Tensor) -> Tensor:
        """Returns the predicted classes [N] for class scores [N, C]."""
        if not self.single:
            return scores.argmax(1)
        threshold = {"sigmoids": 0.5, "log-probabilities": math.log(0.5)}.get(self.kind, 0.0)
        return (scores[:, 0] > threshold).long()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns class probabilities [N, K] from class scores [N, C]; independent sigmoids stay independent."""
        if self.single:
            p = {"logits": torch.sigmoid, "log-probabilities": torch.exp}.get(self.kind, _identity)(scores)
            return torch.cat([1 - p, p], 1)
        if self.kind == "logits":
            return scores.softmax(1)
        return scores.exp() if self.kind == "log-probabilities" else scores

    def gradient(self, scores: Tensor, target: Tensor, of: Of) -> Tensor:
        """Returns the gradient of a class's score or probability with respect to the scores [N, C].

        Relevance propagation starts from it.

        Args:
            scores: Class scores [N, C].
            target: The class to explain for each sample [N].
            of: Whether its score or its probability is explained. With a single logit, class 0's score is its negative.
        """
        if self.single:
            slope = self._single_gradient(scores[:, 0].double(), of)
            return torch.where(target == 1, slope, -slope)[:, None].to(scores.dtype)
        return self._gradient(scores.double(), target, of).to(scores.dtype)

    def _single_gradient(self, score: Tensor, of: Of) -> Tensor:
        """Returns the gradient [N] of class 1's score or probability with respect to a single score."""
        if of == "score" or self.kind == "sigmoids":
            return torch.ones_like(score)
        if self.kind == "log-probabilities":
            return score.exp()
        return score.sigmoid() * (-score).sigmoid()  # p (1 − p), accurate even if p rounds to one

    def _gradient(self, scores: Tensor, target: Tensor, of: Of) -> Tensor:
        # not one_hot, which reads the classes to check them
        one_hot = torch.zeros_like(scores, dtype=torch.float64).scatter_(1, target[:, None], 1.0)
        if of == "score" and self.kind != "probabilities":
            return one_hot
        if self.kind == "sigmoids":
            return one_hot
        p = self.probabilities(scores)
        p_target = p.gather(1, target[:, None])
        p_others = p.scatter(1, target[:, None], 0.0)
        not_target = p_others.sum(1, keepdim=True)  # 1 − p_target, without the rounding of the subtraction
        if self.kind == "probabilities":
            # The backward pass of the softmax ignores a constant in this gradient. Subtracting p_target from the
            # one-hot vector thus changes nothing, except that the gradient stays accurate where p_target rounds to one.
            return (one_hot.new_zeros(one_hot.shape) - p_target).scatter(1, target[:, None], not_target)
        return (-p_target * p_others).scatter(1, target[:, None], p_target * not_target)


def named_outputs(result: Any) -> Iterator[tuple[str | int | None, Tensor]]:
    """Yields a model's output tensors by key, name of the field or position; a single tensor by None.

    Tensors of nested outputs, such as one per task, have keys like ``"outer.inner"``.

    Example:
        >>> [key for key, _ in named_outputs({"tasks": (torch.zeros(1), torch.ones(1))})]
        ['tasks.0', 'tasks.1']
    """
    if isinstance(result, Tensor):
        yield None, result
        return
    items = list(_items(result))
    if any(isinstance(value, Tensor) for _, value in items):
        yield from ((key, value) for key, value in items if isinstance(value, Tensor))
        return
    for key, value in items:
        yield from ((f"{key}.{inner}", tensor) for inner, tensor in named_outputs(value))


def select_output(result: Any, key: str | int | None) -> Tensor:
    """Returns the output with this key; without a key, the only output or the one named ``logits``.

    Raises:
        LookalikeError: If there is no such output, or several may be meant.
    """
    if isinstance(result, Tensor) and key is None:
        return result
    outputs = dict(named_outputs(result))
    if key in outputs:
        return outputs[key]
    if isinstance(key, int) and isinstance(result, tuple) and -len(result) <= key < len(result):
        value = result[key]  # a position in a named tuple, whose outputs are keyed by name
        if isinstance(value, Tensor):
            return value
    if key is None and "logits" in outputs:
        return outputs["logits"]
    if key is None and len(outputs) == 1:
        return next(iter(outputs.values()))
    keys = ", ".join(repr(name) for name in outputs) or "no tensors"
    if key is None:
        raise LookalikeError(f"the model has several outputs: {keys}; say which holds the class scores with output=")
    raise LookalikeError(f"the model has no single output {key!r}; it has {keys}; say which with output=")


def as_columns(output: Tensor, rows: int) -> Tensor | None:
    """Returns class scores as a matrix [N, C], from an output of shape [N, C], [N], [N, C, 1, 1] or [N, 1, C].

    Args:
        output: What the model returned.
        rows: N; a model that squeezes its output returns [C] or a single number for one row.

    Returns:
        The matrix; None if the output has more than one axis besides the rows, and so no row of scores.
    """
    if output.ndim == 0 or (rows == 1 and output.ndim == 1 and len(output) != 1):
        output = output.reshape(1, -1)
    if output.ndim == 2 and len(output) == rows:
        return output
    if len(output) != rows or sum(size != 1 for size in output.shape[1:]) > 1:
        return None
    return output.reshape(rows, math.prod(output.shape[1:]))  # -1 would be ambiguous with 0 rows


def as_rows(features: Tensor, rows: int) -> Tensor:
    """Returns a layer's input with a row per sample; a model that squeezes its features leaves out the row of one.

    Args:
        features: What the layer got: [N, …], or […] for one row.
        rows: N.
    """
    return features[None] if rows == 1 and features.ndim and len(features) != 1 else features


def can_only_be_logits(scores: Tensor) -> bool:
    """Says whether scores [N, C] can be neither probabilities nor log-probabilities.

    False does not mean that they are: logits may look like probabilities. ``kind_of`` decides, from trial logits.
    """
    values = _finite_rows(scores)
    if not len(values):
        return False
    low, high = float(values.min()), float(values.max())
    in_range = low >= -_TOLERANCE and high <= 1 + _TOLERANCE
    return not in_range and high > _TOLERANCE  # else they may be logarithms


def kind_of(scores: Tensor) -> Kind:
    """Returns what scores [N, C] are, given that the logits behind them had a wide range.

    Example:
        >>> logits = probe_scores(2)
        >>> kind_of(logits), kind_of(logits.softmax(1)), kind_of(logits.sigmoid())
        ('logits', 'probabilities', 'sigmoids')
    """
    values = _finite_rows(scores)
    if not len(values):
        return "logits"
    single = values.shape[1] == 1
    low, high = float(values.min()), float(values.max())
    positive, varied = low >= -_TOLERANCE, high - low > 1e-6
    if positive and not single and float((values.sum(1) - 1).abs().max()) < _TOLERANCE:
        return "probabilities"
    if _is_logarithm(values):
        return "log-probabilities"
    if positive and high <= 1 + _TOLERANCE and varied:
        return "sigmoids"
    return "logits"


def probe_scores(n_columns: int) -> Tensor:
    """Returns trial logits [4, C]: the class scores that a network computes from them show what it does with logits."""
    generator = seeded(0)
    rows = [normal((n_columns,), generator) * spread + mean for spread, mean in _PROBES]
    return torch.stack(rows)


def is_log_sigmoid(scores: Tensor) -> bool:
    """Says whether scores that a network computed from ``probe_scores`` [4, C] are logarithms of their sigmoids."""
    expected = torch.nn.functional.logsigmoid(probe_scores(scores.shape[1]).double())
    return torch.allclose(scores.detach().double().cpu(), expected, rtol=_TOLERANCE, atol=_TOLERANCE)


def _is_logarithm(values: Tensor) -> bool:
    if float(values.max()) > _TOLERANCE:
        return False
    if values.shape[1] == 1:
        return float(values.max() - values.min()) > 1e-6
    return float(values.logsumexp(1).abs().max()) < _TOLERANCE


def _finite_rows(scores: Tensor) -> Tensor:
    values = scores.detach().double()
    return values[values.isfinite().all(1)]


def _items(result: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(result, Mapping):
        yield from result.items()
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        yield from zip(result._fields, result, strict=True)
    elif isinstance(result, tuple | list):
        yield from enumerate(result)
    elif hasattr(type(result), "__dataclass_fields__"):
        for name in type(result).__dataclass_fields__:
            yield name, getattr(result, name)


def _identity(scores: Tensor) -> Tensor:
    return scores
