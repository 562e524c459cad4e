"""Relevance rules for linear operations y = A x + b: from the relevance of the outputs to that of the inputs.

An output y_j is the sum of contributions c_ij = x_i w_ij and of a bias. A rule says which contributions count, and
divides R_j among the inputs in proportion to them::

    x_1 ──c_1j──┐                                                  which contributions c count:
    x_2 ──c_2j──┼──▶ y_j      R_i = Σ_j c_ij / (Σ_k c_kj + b_j) R_j      ε     all
    x_3 ──c_3j──┘                                                        z⁺    positive ones
                                                                         γ     all, but those of y_j's sign more
                                                                         flat  all inputs alike, whatever c is

With the shares s_j = R_j / (Σ_k c_kj + b_j) and the weights A of the contributions that count, this is R = x ⊙ Aᵀ s. So
all rules but ``Flat`` return g = Aᵀ s, the form "gradient × input" in which the engine propagates relevance (see
``engine``): the operations between two layers (additions, ReLU, pooling, reshaping) keep their ordinary gradients.
``Flat`` is made for the first layer, whose inputs are pixels that may be zero; it returns R itself.

Sources: Bach et al. 2015 (ε, αβ), Montavon et al. 2017 (z⁺), Montavon et al. 2019 (γ), Lapuschkin et al. 2019 (flat),
Achtibat et al. 2024 (softmax, products and norms of transformers).
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.relevance.operations import STABILISER, Call, stabilised


class Rule(ABC):
    """A relevance rule for a linear operation y = A x + b.

    Attributes:
        name: Its name in the table of rules.
        ignores_outputs_without_relevance: Whether outputs with R_j = 0 change nothing, whatever their value. Then a
            ReLU behind the operation is joined with it, which spares a pass over the gradient.
    """

    name: ClassVar[str]
    ignores_outputs_without_relevance: ClassVar[bool] = False

    @abstractmethod
    def gradient(self, call: Call, relevance: Tensor) -> Tensor:
        """Returns g with R_in = x ⊙ g.

        Args:
            call: The executed operation, with its input, weights and output.
            relevance: R_out, of the shape of the output.
        """

    def propagate(self, call: Call, gradient: Tensor) -> Tensor:
        """Propagates g from the operation's output to its input, where R_out = y ⊙ g; the engine calls this.

        A rule may override it if a cached tensor gives s = R_out / denominator in one product, as y / denominator.
        """
        return self.gradient(call, call.output * gradient)

    def relevance(self, call: Call, relevance: Tensor) -> Tensor:
        """Returns R_in itself; used at the first layer, whose inputs are pixels that may be zero."""
        return call.x * self.gradient(call, relevance)


class Epsilon(Rule):
    """R_i = x_i Σ_j w_ij R_j / (y_j ± ε)."""

    name = "epsilon"
    ignores_outputs_without_relevance = True

    def __init__(self, epsilon: float = 1e-6) -> None:
        self.epsilon = checks.number("epsilon", epsilon, above=0)

    @override
    def gradient(self, call: Call, relevance: Tensor) -> Tensor:
        share = relevance / stabilised(call.output, self.epsilon)
        return call.operation.adjoint(share, call.weights("all"), call.x)

    @override
    def propagate(self, call: Call, gradient: Tensor) -> Tensor:
        size = call.output.abs()  # s = y g / (y ± ε) = |y| g / (|y| + ε), which needs no sign
        share = gradient * size
        return call.operation.adjoint(share.div_(size.add_(self.epsilon)), call.weights("all"), call.x)


class ZPlus(Rule):
    """R_i = Σ_j (x_i⁺ w_ij⁺ + x_i⁻ w_ij⁻) R_j / (Σ_i x_i⁺ w_ij⁺ + x_i⁻ w_ij⁻ + b_j⁺): positive contributions only."""

    name = "z-plus"
    ignores_outputs_without_relevance = True

    @override
    def gradient(self, call: Call, relevance: Tensor) -> Tensor:
        return self._spread(call, relevance / call.shared("z-plus", lambda: self._denominator(call)))

    @override
    def propagate(self, call: Call, gradient: Tensor) -> Tensor:
        ratio = call.shared("output / z-plus", lambda: self._ratio(call))
        is_kept = "output / z-plus" in call.cache
        return self._spread(call, gradient * ratio if is_kept else ratio.mul_(gradient))

    @staticmethod
    def _spread(call: Call, share: Tensor) -> Tensor:
        """Returns g: positive inputs contribute by positive weights, negative inputs by negative weights."""
        op, x = call.operation, call.x
        g = op.adjoint(share, call.weights("positive"), x)
        if call.non_negative:
            return g
        is_positive = call.shared("is positive", lambda: x >= 0)
        return torch.where(is_positive, g, op.adjoint(share, call.weights("negative"), x))

    def _ratio(self, call: Call) -> Tensor:
        """Returns y / denominator."""
        denominator = self._denominator(call)
        return torch.div(call.output, denominator, out=denominator)

    @staticmethod
    def _denominator(call: Call) -> Tensor:
        """Returns the sum of all positive contributions and the positive part of the bias, plus ε."""
        weights = call.weights("positive")
        if call.bias is None:
            bias = weights.new_full((call.output.shape[call.operation.output_axis],), STABILISER)
        else:
            # the denominator is never negative, so ε can be added to the bias
            bias = call.bias.clamp(min=0) + STABILISER
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

    @override
    def gradient(self, call: Call, relevance: Tensor) -> Tensor:
        g = self.alpha * ZPlus().gradient(call, relevance)
        if self.beta == 0:
            return g
        op, x = call.operation, call.x
        positive_x, negative_x = x.clamp(min=0), x.clamp(max=0)
        bias = None if call.bias is None else call.bias.clamp(max=0)
        total = op.apply(positive_x, call.weights("negative"), bias) + op.apply(
            negative_x, call.weights("positive"), None
        )
        share = relevance / stabilised(total)
        negative_part = torch.where(
            x >= 0,
            op.adjoint(share, call.weights("negative"), x),
            op.adjoint(share, call.weights("positive"), x),
        )
        return g - self.beta * negative_part


class Gamma(Rule):
    """Favours contributions with the sign of the output, by a factor 1 + γ.

    For y_j > 0: R_i = Σ_j (c_ij + γ c_ij⁺) R_j / Σ_i (c_ij + γ c_ij⁺), with c_ij⁺ the positive part of c_ij = x_i w_ij;
    for y_j < 0, with the negative part.
    """

    name = "gamma"

    def __init__(self, gamma: float = 0.25) -> None:
        self.gamma = checks.number("gamma", gamma, least=0)

    @override
    def gradient(self, call: Call, relevance: Tensor) -> Tensor:
        op, x = call.operation, call.x
        positive_x, negative_x = x.clamp(min=0), x.clamp(max=0)
        weight, positive, negative = (call.weights(name) for name in ("all", "positive", "negative"))
        g = torch.zeros_like(x)
        # positive contributions come from positive inputs with positive weights, and from negative inputs with negative
        # weights; negative contributions the other way round
        signs = ((call.output > 0, positive, negative, True), (call.output < 0, negative, positive, False))
        for with_sign, favoured_by_positive, favoured_by_negative, favours_positive in signs:
            bias = call.bias
            if bias is not None:
                bias = bias + self.gamma * (bias.clamp(min=0) if favours_positive else bias.clamp(max=0))
            weight_of_positive, weight_of_negative = (
                weight + self.gamma * favoured_by_positive,
                weight + self.gamma * favoured_by_negative,
            )
            total = op.apply(positive_x, weight_of_positive, bias) + op.apply(negative_x, weight_of_negative, None)
            share = torch.where(with_sign, relevance / stabilised(total), 0)
            g += torch.where(x >= 0, op.adjoint(share, weight_of_positive, x), op.adjoint(share, weight_of_negative, x))
        return g


class Flat(Rule):
    """R_i = Σ_j R_j / n_j: each output's relevance is spread evenly over the n_j inputs of its receptive field."""

    name = "flat"
    ignores_outputs_without_relevance = True

    @override
    def relevance(self, call: Call, relevance: Tensor) -> Tensor:
        return call.operation.spread_evenly(relevance, call.weight, call.x, call.mask)

    @override
    def gradient(self, call: Call, relevance: Tensor) -> Tensor:
        return self.relevance(call, relevance) / stabilised(call.x)
