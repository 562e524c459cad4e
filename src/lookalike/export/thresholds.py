"""A model's calibration as constants of a file: which classes an input may have, and whether to answer."""

import copy
import math

import torch
from torch import Tensor, nn

from lookalike.doubt import Doubt, conformal_threshold
from lookalike.doubt.sets import novelty_limit
from lookalike.export.order import StableOrder
from lookalike.model.doubting import usual_abstention


class Thresholds(nn.Module):
    """Computes what ``predict_set`` and ``abstention`` say, with every threshold a constant.

    The score of a class in ``doubt.set_scores`` is the larger of two parts, and a class is in the set if both are at
    most the threshold t. The part of the novelty rises with it, so its test is one limit for the novelty. The part of
    the probabilities is −log of the share of all classes that are at most as probable, so its test is a share of e⁻ᵗ.

    Args:
        doubt: The calibration of a model.
        order: How values are ordered.

    Attributes:
        score: The novelty score.
        unfamiliar_above: Novelty above which an input is unfamiliar.
        set_threshold: t, at the coverage of the calibration, for all classes together.
        novelty_up_to: Novelty up to which a set has any class.
        answered_from: Smallest probability of the predicted class with which the input is answered, with at most 5% of
            wrong answers at a confidence of 90%; None if too few validation images can show that.
    """

    def __init__(self, doubt: Doubt, order: StableOrder) -> None:
        super().__init__()
        self.score = copy.deepcopy(doubt.score)
        self.unfamiliar_above = doubt.unfamiliar_above
        draws = doubt.draws_for()
        draw = 0.0 if draws is None else float(draws[-1])
        self.set_threshold = conformal_threshold(doubt.scores.cpu().numpy(), doubt.facts.coverage, draw)
        self.novelty_up_to = novelty_limit(self.set_threshold, doubt.fitted_novelty.cpu().numpy())
        rule = usual_abstention(doubt)
        self.answered_from = None if rule is None else rule.threshold
        self.order = order

    @property
    def can_answer(self) -> bool:
        """Whether it is known when to answer."""
        return self.answered_from is not None

    def unfamiliar(self, novelty: Tensor) -> Tensor:
        """Returns whether inputs with this novelty [N] are unfamiliar [N]."""
        return novelty > self.unfamiliar_above

    def in_set(self, novelty: Tensor, log_probabilities: Tensor, predicted: Tensor) -> Tensor:
        """Returns whether each class is in the set of each input [N, K].

        Args:
            novelty: Novelty of the inputs [N].
            log_probabilities: Of the classes, up to a constant per input [N, K].
            predicted: Predicted classes [N].
        """
        if self.set_threshold == math.inf:
            return torch.ones_like(log_probabilities, dtype=torch.bool)
        margins = (log_probabilities.gather(1, predicted[:, None]) - log_probabilities).clamp_min(0).double()
        negative, classes = self.order.largest(-margins, margins.shape[1])
        ordered = -negative
        # the smallest are summed first, so that none is lost beside a large one
        tails = (-ordered).exp().flip(1).cumsum(1).flip(1)
        is_in = (tails >= tails[:, :1] * math.exp(-self.set_threshold)) | (ordered == 0)
        is_in = is_in & (ordered < torch.inf) & (novelty.double() <= self.novelty_up_to)[:, None]
        return torch.zeros_like(is_in).scatter(1, classes, is_in)

    def answered(self, confidences: Tensor) -> Tensor:
        """Returns whether inputs whose predicted class has this probability [N] are answered [N]."""
        assert self.answered_from is not None  # asked for only if can_answer
        return confidences.double() >= self.answered_from
