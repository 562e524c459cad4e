"""What a model of patches computes, as one plain module."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lookalike.export.likenesses import Likenesses, number_of_nearest, rows_of
from lookalike.export.order import StableOrder
from lookalike.export.plain import is_negative_distance, only
from lookalike.export.trunk import trace_maps
from lookalike.model import PrototypeModel
from lookalike.model.decision import strongest_rivals
from lookalike.parts.segmentation import patch_parts


class PartsAnswer(NamedTuple):
    """What a plain model of patches answers, for N images of H · W patches and the k most similar prototypes of each.

    Attributes:
        scores: Class scores [N, K].
        probabilities: Class probabilities [N, K].
        nearest: Numbers of the prototypes to which any patch is most similar [N, k], the most similar first.
        similarities: The similarity of each of these to its most similar patch [N, k].
        distances: The distance to the nearest patch, in the space of the clustering [N, k].
        percentiles: How far out that is among the prototype's own training patches, in percent [N, k]; NaN without any.
        unfamiliar: Whether the nearest patch is farther from the first prototype than every training patch behind it
            [N].
        evidence: What each patch adds to the lead of the prototype's class over its strongest rival [N, k, H, W].
        places: Number of the patch that is most similar to the prototype, row by row of the map [N, k].
        concepts: The most similar prototype of each patch [N, H, W].
        contributions: What each patch adds to the score of each class [N, K, H, W].
    """

    scores: Tensor
    probabilities: Tensor
    nearest: Tensor
    similarities: Tensor
    distances: Tensor
    percentiles: Tensor
    unfamiliar: Tensor
    evidence: Tensor
    places: Tensor
    concepts: Tensor
    contributions: Tensor


class PlainParts(nn.Module):
    """Computes what a model of patches computes, on tensors alone: it can be exported, compiled and traced.

    Args:
        model: A model of patches; it is copied.
        n_nearest: k, the number of prototypes in an answer; None takes 3, or all if there are fewer.

    Raises:
        LookalikeError: If it is a model of whole images, its network has no plain graph, or there are fewer than k
            prototypes.
    """

    vectors: Tensor
    labels: Tensor

    def __init__(self, model: PrototypeModel, n_nearest: int | None = None) -> None:
        super().__init__()
        encoder, decision = patch_parts(model)
        prototypes = model.prototypes
        self.n_nearest = number_of_nearest(n_nearest, prototypes)
        self.n_classes = model.n_classes
        self.grid = encoder.grid
        self.trunk = trace_maps(encoder)
        self.similarity = copy.deepcopy(model.similarity)
        self.decision = copy.deepcopy(decision)
        self.order = StableOrder()
        self.likenesses = Likenesses(prototypes, self.n_nearest, self.order)
        self.register_buffer("vectors", prototypes.vectors.detach().clone())
        self.register_buffer("labels", prototypes.labels.clone())
        self.training = False

    @property
    def outputs(self) -> list[str]:
        """The names of what an answer has."""
        return list(PartsAnswer._fields)

    def forward(self, inputs: Tensor) -> PartsAnswer:
        """Returns the answer for images [N, C, H, W]; traced by ``torch.jit``, a tuple of ``outputs``."""
        patches = only(self.trunk(inputs)).to(self.vectors.dtype).flatten(2).transpose(1, 2)  # [N, S, D]
        by_patch = self.similarity(patches.flatten(0, 1), self.vectors).unflatten(0, (-1, patches.shape[1]))
        decided = by_patch, self.labels, self.n_classes
        scores, probabilities = self.decision(*decided), self.decision.probabilities(*decided)
        contributions = self.decision.patch_scores(*decided)  # [N, S, K]
        similarities, nearest = self.likenesses.most_similar(by_patch.amax(1))
        of_nearest = by_patch.gather(2, nearest[:, None].expand(-1, patches.shape[1], -1))  # [N, S, k]
        distances = self._distances(patches, similarities, nearest)
        answer = PartsAnswer(
            scores,
            probabilities,
            nearest,
            similarities,
            distances,
            self.likenesses.percentiles(distances, nearest),
            self.likenesses.are_far(distances, nearest),
            self._as_map(self._leads(scores, probabilities, contributions, nearest)),
            of_nearest.argmax(1),
            by_patch.argmax(2).unflatten(1, self.grid),
            self._as_map(contributions),
        )
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return tuple(answer)  # type: ignore[return-value]
        return answer

    def _distances(self, patches: Tensor, similarities: Tensor, nearest: Tensor) -> Tensor:
        """Returns the distances [N, k] of some prototypes to their nearest patch, in the space of the clustering."""
        if is_negative_distance(self.similarity):
            return -similarities
        points = self.similarity.project(patches.flatten(0, 1)).unflatten(0, (-1, patches.shape[1]))
        centres = rows_of(self.similarity.project(self.vectors), nearest)
        squares = (points[:, :, None] - centres[:, None]).double().square().sum(-1)  # [N, S, k]
        distances: Tensor = squares.amin(1).sqrt().to(patches.dtype)
        return distances

    def _leads(self, scores: Tensor, probabilities: Tensor, contributions: Tensor, nearest: Tensor) -> Tensor:
        """Returns what each patch adds to the leads of prototypes' classes over their strongest rivals [N, S, k].

        Of rivals with the same score, as with equally many votes, the most probable one counts.
        """
        classes = rows_of(self.labels[:, None], nearest)[..., 0]  # [N, k]
        rivals = strongest_rivals(scores, probabilities, classes)
        own, of_rivals = (
            contributions.gather(2, of_class[:, None].expand(-1, contributions.shape[1], -1))
            for of_class in (classes, rivals)
        )
        leads: Tensor = own - of_rivals
        return leads

    def _as_map(self, by_patch: Tensor) -> Tensor:
        """Returns values of patches [N, S, n] as maps [N, n, H, W]."""
        maps: Tensor = by_patch.transpose(1, 2).unflatten(2, self.grid)
        return maps
