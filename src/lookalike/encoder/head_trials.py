"""Finds out by trials what a classifier's head gives: all class scores, the logits behind them, or a part of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lookalike._core.draws import normal, seeded
from lookalike._core.untouched import in_eval_mode
from lookalike.encoder.affine import CALL_ERRORS
from lookalike.encoder.calls import output_of, repeat_row, with_output
from lookalike.encoder.head import CONVOLUTIONS
from lookalike.encoder.outputs import (
    Kind,
    as_columns,
    can_only_be_logits,
    is_log_sigmoid,
    kind_of,
    probe_scores,
    select_output,
)

_SAME_SCORES = 1e-3  # of logits, relative and absolute: rounding, also that of a GPU
_SAME_FROM_FEATURES = 0.02  # relative, of scores with blank images beside the features


class HeadTrials:
    """Trials of a classifier's head.

    Args:
        model: The classifier.
        head: Its head.
        output_key: The key or position of the output with the class scores.
        run: Runs the classifier on inputs.
        classify: Returns the class scores [n, C] that the classifier computes from features.
        sample: One or a few inputs.
        features: The head's input for them.
    """

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        output_key: str | int | None,
        run: Callable[[Any], Any],
        classify: Callable[[Tensor], Tensor],
        sample: Any,
        features: Tensor,
    ) -> None:
        self._model, self._head, self._output_key = model, head, output_key
        self._run, self._classify = run, classify
        self._sample, self._features = sample, features
        self._is_plain = isinstance(head, (nn.Linear, *CONVOLUTIONS))

    def gives_scores(self, scores: Tensor | None) -> bool:
        """Says whether the head, called alone on the features, returns the class scores."""
        try:
            result = self._apply(self._features.clone())
        except CALL_ERRORS:  # it needs further arguments
            return False
        columns = as_columns(result, len(self._features)) if isinstance(result, Tensor) else None
        return (
            scores is not None
            and columns is not None
            and columns.shape == scores.shape
            and bool(torch.equal(columns, scores))
        )

    def kind_of_scores(self, scores: Tensor, is_head_enough: bool) -> Kind:
        """Finds out whether the class scores are logits, probabilities or their logarithms.

        Scores outside of the range of probabilities are logits. Otherwise known logits replace the head's output, and
        the class scores that follow from them show whether a softmax or sigmoid comes after the head.
        """
        if can_only_be_logits(scores) or (self._is_plain and is_head_enough):
            return "logits"
        try:
            if self._is_plain:
                trial = self._scores_of_logits()
                return "log-probabilities" if is_log_sigmoid(trial) else kind_of(trial)
            return kind_of(self._scores_of_far_features())
        except RuntimeError:
            # The network runs with this number of rows only. The scores at hand then decide: rows that sum to one are
            # no coincidence, but logits can look like sigmoids.
            kind = kind_of(scores)
            return "logits" if kind == "sigmoids" else kind

    def decides_alone(self, scores: Tensor, kind: Kind) -> bool:
        """Says whether the class scores depend on the images through the output of a plain head alone.

        Other images with the head's output for the sample must then have the sample's scores. These are compared as
        logits: probabilities that round to 1 would hide what else adds to them, such as a second head. What only whole
        numbers add, such as tokens, is not seen.
        """
        if not self._is_plain:
            return False
        try:
            output = output_of(self._head, lambda: self._run(self._sample)).clone()
            other = tree_map(_with_other_values, self._sample)
            columns = self._columns(with_output(self._head, output, lambda: self._run(other)), len(scores))
        except Exception:  # a network may refuse such images; whoever reads its logits sees the reason
            return True
        if columns is None or columns.shape != scores.shape:
            return False
        first, second = (_as_logits(values.double(), kind) for values in (scores, columns))
        return torch.allclose(first, second, rtol=_SAME_SCORES, atol=_SAME_SCORES, equal_nan=True)

    def features_decide_alone(self, scores: Tensor) -> bool:
        """Says whether the class scores follow from the features, with blank images beside them."""
        try:
            recomputed = self._classify(self._features)
        except Exception:  # a network may refuse blank images; whoever calls the head sees the reason
            return True
        if recomputed.shape != scores.shape:
            return True
        finite = scores[scores.isfinite()].abs()
        largest = max(float(finite.max()) if len(finite) else 0.0, 1e-6)
        differences = torch.where(recomputed == scores, 0, recomputed - scores)  # −∞ may hide a class
        return bool(differences.abs().max() <= _SAME_FROM_FEATURES * largest)

    def _apply(self, features: Tensor) -> Any:
        return in_eval_mode(self._model, lambda: self._head(features))

    def _columns(self, result: Any, rows: int) -> Tensor | None:
        return as_columns(select_output(result, self._output_key), rows)

    def _scores_of_logits(self) -> Tensor:
        """Returns the class scores [4, C] that the network returns when known logits replace the head's output."""
        shape = self._apply(self._features).shape[1:]
        channels_first = isinstance(self._head, CONVOLUTIONS)
        n_columns = shape[0] if channels_first else shape[-1]
        logits = probe_scores(n_columns).to(self._features)
        for _ in shape[1:]:
            logits = logits.unsqueeze(-1 if channels_first else 1)
        inputs, logits = repeat_row(self._sample, len(logits)), logits.expand(-1, *shape).clone()
        scores = self._columns(with_output(self._head, logits, lambda: self._run(inputs)), len(logits))
        assert scores is not None  # the sample's output is a row of scores
        return scores

    def _scores_of_far_features(self) -> Tensor:
        """Returns the class scores of a head of several layers for features at growing distances from the sample's."""
        noise = normal(self._features.shape, seeded(0)).to(self._features)
        scale = float(self._features.std().nan_to_num()) or 1.0
        distances = (0.0, 1.0, 10.0, 100.0)
        return torch.cat([self._classify(self._features + distance * scale * noise) for distance in distances])


def _with_other_values(leaf: Any) -> Any:
    """Returns other inputs of the same range: rows in another order, turned upside down, with half the contrast.

    Tokens and lengths stay, as they may say which of the head's outputs is read.
    """
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    other = leaf.flip(0, -1) if leaf.ndim > 1 else leaf.flip(0)
    return other.mean() + 0.5 * (other - other.mean())


def _as_logits(values: Tensor, kind: Kind) -> Tensor:
    """Returns probabilities as logits; their logarithms have the width of logits already."""
    return values.logit(1e-30) if kind in ("probabilities", "sigmoids") else values
