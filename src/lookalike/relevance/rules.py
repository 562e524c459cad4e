"""Propagation rules. One rule is a few lines: from the relevance of an operation's outputs to that of its inputs.

All but ``Flat`` answer in the form "gradient × input": they return g with R_in = x ⊙ g, so that the operations between
two rules (additions, ReLU, pooling, reshaping) keep their ordinary gradients.

Sources: Bach et al. 2015 (ε, αβ), Montavon et al. 2017 (z⁺), Montavon et al. 2019 (γ), Lapuschkin et al. 2019 (flat),
Achtibat et al. 2024 (softmax, products and norms of transformers).
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.relevance.operations import STABILISER, Call, stabilised


class Rule(ABC):
    """What becomes of relevance at a linear operation y = A x + b."""

    name: ClassVar[str]

    @abstractmethod
    def gradient(self, call: Call, relevance: Tensor) -> Tensor:
        """Returns g with R_in = x ⊙ g.

        Args:
            call: The operation as it was executed.
            relevance: R_out, of the shape of its output.
        """

    def propagate(self, call: Call, gradient: Tensor) -> Tensor:
        """Returns the gradient at the input from the one at the output: what the engine asks for, layer by layer.

        A rule whose R_out / denominator can be had in one product from what a call keeps may override it.
        """
        return self.gradient(call, call.output * gradient)

    def relevance(self, call: Call, relevance: Tensor) -> Tensor:
        """Returns R_in itself: used at the first layer, whose inputs are pixels and may be zero."""
        return call.x * self.gradient(call, relevance)


class Epsilon(Rule):
    """R_i = x_i Σ_j w_ij R_j / (y_j ± ε)."""

    name = "epsilon"

    def __init__(self, epsilon: float = 1e-6) -> None:
        self.epsilon = checks.number("epsilon", epsilon, above=0)

    def gradient(self, call: Call, relevance: Tensor) -> Tensor:  # noqa: D102
        share = relevance / stabilised(call.output, self.epsilon)
        return call.operation.adjoint(share, call.weights("all"), call.x)

    def propagate(self, call: Call, gradient: Tensor) -> Tensor:  # noqa: D102
        size = call.output.abs()  # y g / (y ± ε) = |y| g / (|y| + ε)
        share = gradient * size
        return call.operation.adjoint(share.div_(size.add_(self.epsilon)), call.weights("all"), call.x)


class ZPlus(Rule):
    """R_i = Σ_j (x_i⁺ w_ij⁺ + x_i⁻ w_ij⁻) R_j / (Σ_i x_i⁺ w_ij⁺ + x_i⁻ w_ij⁻ + b_j⁺): positive contributions only."""

    name = "z-plus"

    def gradient(self, call: Call, relevance: Tensor) -> Tensor:  # noqa: D102
        return self._spread(call, relevance / call.shared("z-plus", lambda: self._denominator(call)))

    def propagate(self, call: Call, gradient: Tensor) -> Tensor:  # noqa: D102
        return self._spread(call, gradient * call.shared("output / z-plus", lambda: self._ratio(call)))

    @staticmethod
    def _spread(call: Call, share: Tensor) -> Tensor:
        op, x = call.operation, call.x
        g = op.adjoint(share, call.weights("positive"), x)
        if call.non_negative:
            return g
        return torch.where(x >= 0, g, op.adjoint(share, call.weights("negative"), x))

    def _ratio(self, call: Call) -> Tensor:
        denominator = self._denominator(call)
        return torch.div(call.output, denominator, out=denominator)

    @staticmethod
    def _denominator(call: Call) -> Tensor:
        weights = call.weights("positive")
        if call.bias is None:
            bias = weights.new_full((call.output.shape[call.operation.output_axis],), STABILISER)
        else:
            bias = call.bias.clamp(min=0) + STABILISER  # no sum of positive contributions is below zero
        if call.non_negative:
            return call.operation.apply(call.x, weights, bias)
        positive = call.operation.apply(call.x.clamp(min=0), weights, bias)
        return positive.add_(call.operation.apply(call.x.clamp(max=0), call.weights("negative"), None))


class AlphaBeta(Rule):
    """R_i = Σ_j (α c_ij⁺ / Σ_i c_ij⁺ − β c_ij⁻ / Σ_i c_ij⁻) R_j with contributions c_ij = x_i w_ij, and α − β = 1."""

    name = "alpha-beta"

    def __init__(self, alpha: float = 1.0, beta: float = 0.0) -> None:
        alpha, beta = checks.number("alpha", alpha), checks.number("beta", beta)
        if abs(alpha - beta - 1) > 1e-12 or beta < 0:
            raise LookalikeError(f"alpha - beta must be 1 and beta not negative, not alpha={alpha}, beta={beta}")
        self.alpha = alpha
        self.beta = beta

    def gradient(self, call: Call, relevance: Tensor) -> Tensor:  # noqa: D102
        g = self.alpha * ZPlus().gradient(call, relevance)
        if self.beta == 0:
            return g
        op, x = call.operation, call.x
        up, down = x.clamp(min=0), x.clamp(max=0)
        bias = None if call.bias is None else call.bias.clamp(max=0)
        total = op.apply(up, call.weights("negative"), bias) + op.apply(down, call.weights("positive"), None)
        share = relevance / stabilised(total)
        opposed = torch.where(
            x >= 0,
            op.adjoint(share, call.weights("negative"), x),
            op.adjoint(share, call.weights("positive"), x),
        )
        return g - self.beta * opposed


class Gamma(Rule):
    """Favours contributions of the output's own sign, by γ.

    For y_j > 0, R_i = Σ_j (x_i w_ij + γ c_ij⁺) R_j / Σ_i (x_i w_ij + γ c_ij⁺), c_ij⁺ the positive part of x_i w_ij; for
    y_j < 0 with the negative part.
    """

    name = "gamma"

    def __init__(self, gamma: float = 0.25) -> None:
        self.gamma = checks.number("gamma", gamma, least=0)

    def gradient(self, call: Call, relevance: Tensor) -> Tensor:  # noqa: D102
        op, x = call.operation, call.x
        up, down = x.clamp(min=0), x.clamp(max=0)
        weight, positive, negative = (call.weights(part) for part in ("all", "positive", "negative"))
        g = torch.zeros_like(x)
        signs = ((call.output > 0, positive, negative, True), (call.output < 0, negative, positive, False))
        for chosen, with_up, with_down, favours_positive in signs:
            if not bool(chosen.any()):
                continue
            bias = call.bias
            if bias is not None:
                bias = bias + self.gamma * (bias.clamp(min=0) if favours_positive else bias.clamp(max=0))
            heavy_up, heavy_down = weight + self.gamma * with_up, weight + self.gamma * with_down
            total = op.apply(up, heavy_up, bias) + op.apply(down, heavy_down, None)
            share = torch.where(chosen, relevance / stabilised(total), 0)
            g += torch.where(x >= 0, op.adjoint(share, heavy_up, x), op.adjoint(share, heavy_down, x))
        return g


class Flat(Rule):
    """R_i = Σ_j R_j / n_j over the n_j inputs in the receptive field of output j: spread evenly, whatever they are."""

    name = "flat"

    def relevance(self, call: Call, relevance: Tensor) -> Tensor:  # noqa: D102
        return call.operation.spread_evenly(relevance, call.weight, call.x)

    def gradient(self, call: Call, relevance: Tensor) -> Tensor:  # noqa: D102
        return self.relevance(call, relevance) / stabilised(call.x)
