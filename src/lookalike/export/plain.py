"""What a prototype model computes, as one plain module."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.doubt.novelty import usable_spreads
from lookalike.encoder import Encoder
from lookalike.export.evidence import Evidence, kind_of
from lookalike.export.likenesses import Likenesses, number_of_nearest, rows_of
from lookalike.export.order import StableOrder
from lookalike.export.thresholds import Thresholds
from lookalike.export.trunk import trace_trunk
from lookalike.model import PrototypeModel
from lookalike.model.classifier import NearestPrototype
from lookalike.model.learned_metrics import HeadMetric, Mahalanobis
from lookalike.model.similarity import L2, Similarity


class Answer(NamedTuple):
    """What a plain model answers, for N inputs and their k most similar prototypes.

    Attributes:
        scores: Class scores [N, K].
        probabilities: Class probabilities [N, K].
        nearest: Numbers of the most similar prototypes [N, k], the most similar first.
        similarities: Their similarities [N, k].
        distances: Their distances in the space of the clustering [N, k].
        percentiles: How far out that is among the prototype's own training samples, in percent [N, k]; NaN without any.
        unfamiliar: Whether an input is farther from its nearest prototype than every training sample behind it [N]; of
            a calibrated model, whether its novelty is above the threshold of the calibration.
        evidence: What each position of the last feature map adds to the lead of a prototype over its strongest rival of
            another class [N, k, H, W]; 1 × 1 if the network does not average a map, or the similarity has no such sum.
        in_set: Of a calibrated model: the classes that an input may have, at the calibration's coverage [N, K]. Not one
            class: like nothing known. None without a calibration.
        answered: Of a calibrated model: whether the prediction is probable enough to be given as an answer, if at most
            5% of all answers may be wrong (with a confidence of 90%) [N]. None without a calibration, or with one that
            has too few images for that bound.
    """

    scores: Tensor
    probabilities: Tensor
    nearest: Tensor
    similarities: Tensor
    distances: Tensor
    percentiles: Tensor
    unfamiliar: Tensor
    evidence: Tensor
    in_set: Tensor | None = None
    answered: Tensor | None = None


class PlainModel(nn.Module):
    """Computes what a prototype model computes, on tensors alone: it can be exported, compiled and traced.

    Args:
        model: A prototype model; it is copied.
        n_nearest: k, the number of prototypes in an answer; None takes 3, or all if there are fewer.

    Raises:
        LookalikeError: If its network has no plain graph, or there are fewer than k prototypes.

    Example:
        >>> from lookalike import convert
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> sem = convert(net, (x, (x[:, 0] > 0).long()), n_prototypes=3)
        >>> answer = PlainModel(sem, n_nearest=2)(x)
        >>> answer.nearest.shape, bool((answer.scores - sem(x)).abs().max() < 1e-4)
        (torch.Size([40, 2]), True)
    """

    vectors: Tensor
    labels: Tensor
    spreads: Tensor
    members: Tensor | None
    no_evidence: Tensor | None

    def __init__(self, model: PrototypeModel, n_nearest: int | None = None) -> None:
        super().__init__()
        checks.instance("model", model, PrototypeModel, "a PrototypeModel")
        if not isinstance(model.encoder, Encoder):
            raise LookalikeError("only models whose network was cut by an Encoder can be exported")
        if model.has_patches:
            raise LookalikeError("a model of patches is a PlainParts, not a PlainModel")
        prototypes = model.prototypes
        self.n_nearest = number_of_nearest(n_nearest, prototypes)
        self.n_classes = model.n_classes
        self.trunk, self.has_map = trace_trunk(model.encoder)
        self.similarity = copy.deepcopy(model.similarity)
        self.classifier = copy.deepcopy(model.classifier)
        self.order = StableOrder()
        self.likenesses = Likenesses(prototypes, self.n_nearest, self.order)
        has_evidence = self.has_map and self.n_classes > 1 and kind_of(model.similarity) is not None
        self.evidence = Evidence(prototypes, model.similarity) if has_evidence else None
        doubt = model.doubt
        self.register_buffer("spreads", usable_spreads(prototypes.quantiles[:, 50]))
        self.thresholds = None if doubt is None else Thresholds(doubt, self.order)
        self.register_buffer("vectors", prototypes.vectors.detach().clone())
        self.register_buffer("labels", prototypes.labels.clone())
        self.register_buffer("members", self._members(prototypes.labels))
        # looked up like a prototype's other values: zeros of another value's shape are three operations of ONNX
        self.register_buffer("no_evidence", None if has_evidence else torch.zeros_like(prototypes.vectors[:, :1]))
        in_order = torch.arange(len(prototypes), device=prototypes.labels.device)
        self.are_members_in_order = self.members is not None and torch.equal(self.members.flatten(), in_order)
        self.are_scores_log_probabilities = getattr(self.classifier, "reading", None) == "max"
        self.training = False

    @property
    def outputs(self) -> list[str]:
        """The names of what an answer of this model has: those of ``Answer`` that are not None."""
        absent = {"in_set", "answered"} if self.thresholds is None else set()
        if self.thresholds is not None and not self.thresholds.can_answer:
            absent = {"answered"}
        return [name for name in Answer._fields if name not in absent]

    def _members(self, labels: Tensor) -> Tensor | None:
        """Returns the prototypes of each class [K, L], some of them repeated if classes have fewer than L.

        None if the scores are not those of the most similar prototype, or a class has no prototype.
        """
        of_class = [torch.nonzero(labels == k)[:, 0] for k in range(self.n_classes)]
        if type(self.classifier) is not NearestPrototype or min(map(len, of_class)) == 0:
            return None
        largest = max(map(len, of_class))
        return torch.stack(
            [numbers[torch.arange(largest, device=labels.device) % len(numbers)] for numbers in of_class]
        )

    def forward(self, inputs: Tensor) -> Answer:
        """Returns the answer for inputs [N, …] of the network; traced by ``torch.jit``, a tuple of ``outputs``."""
        outputs = self.trunk(inputs)
        embeddings, feature_map = outputs if self.has_map else (only(outputs), None)
        embeddings = embeddings.to(self.vectors.dtype)
        similarities = self.similarity(embeddings, self.vectors)
        scores = self._scores(similarities)
        if self.are_scores_log_probabilities:
            probabilities = scores.softmax(1)
        else:
            probabilities = self.classifier.probabilities(similarities, self.labels, self.n_classes)
        nearest_similarities, nearest = self.likenesses.most_similar(similarities)
        distances = self._distances(embeddings, nearest_similarities, nearest)
        percentiles = self.likenesses.percentiles(distances, nearest)
        if self.thresholds is None:
            unfamiliar, in_set, answered = self.likenesses.are_far(distances, nearest), None, None
        else:
            unfamiliar, in_set, answered = self._doubt(self.thresholds, embeddings, similarities, scores, probabilities)
        if self.evidence is not None and feature_map is not None:
            evidence = self.evidence(embeddings, feature_map, similarities, nearest)
        else:
            assert self.no_evidence is not None  # there is one of both
            evidence = rows_of(self.no_evidence, nearest)[..., None]
        answer = Answer(
            scores,
            probabilities,
            nearest,
            nearest_similarities,
            distances,
            percentiles,
            unfamiliar,
            evidence,
            in_set,
            answered,
        )
        # a traced function returns tensors only: a plain tuple of ``outputs``
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return tuple(value for value in answer if value is not None)  # type: ignore[return-value]
        return answer

    def _scores(self, similarities: Tensor) -> Tensor:
        """Returns the class scores [N, K]."""
        if self.members is None:
            scores: Tensor = self.classifier(similarities, self.labels, self.n_classes)
            return scores
        if not self.are_members_in_order:
            similarities = similarities.index_select(1, self.members.flatten())
        of_class = similarities.unflatten(1, self.members.shape)
        best: Tensor = of_class.amax(-1) / self.classifier.temperature
        return best

    def _doubt(
        self, thresholds: Thresholds, embeddings: Tensor, similarities: Tensor, scores: Tensor, probabilities: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns what a calibration says: unfamiliar [N], the classes in the set [N, K], answered [N]."""
        project = self.similarity.project
        novelty: Tensor = thresholds.score(project(embeddings), project(self.vectors), self.spreads)
        predicted = scores.argmax(1)
        log_probabilities = scores
        if not self.are_scores_log_probabilities:
            log_probabilities = self.classifier.log_probabilities(similarities, self.labels, self.n_classes)
        in_set = thresholds.in_set(novelty, log_probabilities, predicted)
        confidences = probabilities.gather(1, predicted[:, None])[:, 0]
        answered = thresholds.answered(confidences) if thresholds.can_answer else None
        return thresholds.unfamiliar(novelty), in_set, answered

    def _distances(self, embeddings: Tensor, similarities: Tensor, nearest: Tensor) -> Tensor:
        """Returns the distances [N, k] to some prototypes, in the space of the clustering."""
        if is_negative_distance(self.similarity):
            return -similarities
        points = self.similarity.project(embeddings)
        centres = rows_of(self.similarity.project(self.vectors), nearest)
        distances: Tensor = (points[:, None] - centres).double().square().sum(-1).sqrt().to(embeddings.dtype)
        return distances


def is_negative_distance(similarity: Similarity) -> bool:
    """Says whether a similarity is the distance in the space of the clustering, with a minus."""
    return isinstance(similarity, L2 | Mahalanobis | HeadMetric)


def only(outputs: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """Returns the only output of a graph, which may come in a tuple."""
    return outputs[0] if isinstance(outputs, tuple | list) else outputs
