"""Reading a classifier's output: which tensor holds the class scores, their layout, and what the numbers are."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError

Kind = Literal["logits", "probabilities", "log-probabilities", "sigmoids"]
Of = Literal["score", "probability"]

_TOLERANCE = 0.02  # of a sum of probabilities; bfloat16 rounds each by up to 0.4%
_PROBES = ((1.0, 0.0), (4.0, 0.0), (1.0, 6.0), (1.0, -6.0))  # deviation and mean of logits to try a tail with


@dataclass(frozen=True)
class Outputs:
    """How to read a classifier's class scores [N, C].

    A single column speaks for class 1 of two: a logit, or what a sigmoid makes of it.

    Attributes:
        key: Which of several outputs holds them; None for the only one.
        n_columns: C.
        kind: What the numbers are: ``"logits"``, what a softmax (``"probabilities"``), a log-softmax or log-sigmoid
            (``"log-probabilities"``), or one sigmoid per class (``"sigmoids"``) made of them.
        names: The classes' names, in the outputs' order, where they are known.
        logits_from: The layer that gives the logits, where something made probabilities of them.

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
        """K: how many classes the outputs distinguish."""
        return 2 if self.single else self.n_columns

    def predicted(self, scores: Tensor) -> Tensor:
        """Returns the predicted class [N] of class scores [N, C]."""
        if not self.single:
            return scores.argmax(1)
        threshold = {"sigmoids": 0.5, "log-probabilities": math.log(0.5)}.get(self.kind, 0.0)
        return (scores[:, 0] > threshold).long()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns class probabilities [N, K] of class scores [N, C]; independent sigmoids stay independent."""
        if self.single:
            p = {"logits": torch.sigmoid, "log-probabilities": torch.exp}.get(self.kind, _same)(scores)
            return torch.cat([1 - p, p], 1)
        if self.kind == "logits":
            return scores.softmax(1)
        return scores.exp() if self.kind == "log-probabilities" else scores

    def gradient(self, scores: Tensor, target: Tensor, of: Of) -> Tensor:
        """Returns the gradient at the scores [N, C] at which relevance of a class's score or probability starts.

        Args:
            scores: [N, C].
            target: Classes [N].
            of: What is explained. The score of class 0 of a single logit is its negative.
        """
        if self.single:
            towards = self._single_gradient(scores[:, 0].double(), of)
            return torch.where(target == 1, towards, -towards)[:, None].to(scores.dtype)
        return self._gradient(scores.double(), target, of).to(scores.dtype)

    def _single_gradient(self, score: Tensor, of: Of) -> Tensor:
        """Returns the gradient [N] of class 1's score or probability; class 0's is its negative."""
        if of == "score" or self.kind == "sigmoids":
            return torch.ones_like(score)
        if self.kind == "log-probabilities":
            return score.exp()
        return score.sigmoid() * (-score).sigmoid()  # p (1 − p), also where p is all but one

    def _gradient(self, scores: Tensor, target: Tensor, of: Of) -> Tensor:
        one_hot = nn.functional.one_hot(target, scores.shape[1]).double()
        if of == "score" and self.kind != "probabilities":
            return one_hot
        if self.kind == "sigmoids":
            return one_hot
        p = self.probabilities(scores)
        own = p.gather(1, target[:, None])
        others = p.scatter(1, target[:, None], 0.0)
        rest = others.sum(1, keepdim=True)  # 1 − p, without its rounding
        if self.kind == "probabilities":  # a softmax passes on no constant: less p, the gradient survives p = 1
            return (one_hot.new_zeros(one_hot.shape) - own).scatter(1, target[:, None], rest)
        return (-own * others).scatter(1, target[:, None], own * rest)


def named_outputs(result: Any) -> Iterator[tuple[str | int | None, Tensor]]:
    """Yields a model's output tensors: the only one under None, others under their key, field's name or position.

    Where there are none but within outputs, those of a task each say, they come under ``"outer.inner"``.

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
    """Returns the output of that key; without one, the only output, or the one that is called ``logits``.

    Raises:
        LookalikeError: If there is no such output, or it is not clear which is meant.
    """
    if isinstance(result, Tensor) and key is None:
        return result
    outputs = dict(named_outputs(result))
    if key in outputs:
        return outputs[key]
    if isinstance(key, int) and isinstance(result, tuple) and -len(result) <= key < len(result):
        value = result[key]  # of a named tuple, whose outputs have names too
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
    """Returns class scores [N, C] of an output of any layout: [N, C], [N], [N, C, 1, 1], [N, 1, C].

    Args:
        output: What the model returned.
        rows: N; a model that squeezes its output returns [C] or a single number for one row.

    Returns:
        None if the output has more than one axis besides the rows: it is no row of scores.
    """
    if output.ndim == 0 or (rows == 1 and output.ndim == 1 and len(output) != 1):
        output = output.reshape(1, -1)
    if output.ndim == 2 and len(output) == rows:
        return output
    if len(output) != rows or sum(size != 1 for size in output.shape[1:]) > 1:
        return None
    return output.reshape(rows, math.prod(output.shape[1:]))  # a size of -1 is ambiguous without rows


def can_only_be_logits(scores: Tensor) -> bool:
    """Says whether some scores [N, C] rule out that they are probabilities, or logarithms of such.

    The reverse does not hold: logits may look like probabilities. ``kind_of`` decides by scores made for it.
    """
    values = _finite_rows(scores)
    if not len(values):
        return False
    low, high = float(values.min()), float(values.max())
    in_range = low >= -_TOLERANCE and high <= 1 + _TOLERANCE
    return not in_range and not _is_logarithm(values)


def kind_of(scores: Tensor) -> Kind:
    """Returns what the numbers of scores [N, C] are, which a wide range of logits led to.

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
    """Returns logits [4, C] that tell by what is made of them what a network does with its logits."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(n_columns, generator=generator) * spread + mean for spread, mean in _PROBES]
    return torch.stack(rows)


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


def _same(scores: Tensor) -> Tensor:
    return scores
