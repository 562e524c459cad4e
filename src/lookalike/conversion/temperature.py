"""The temperature between similarities and probabilities, fitted to held-out training samples [ours].

The prototypes are means of training samples, so a training sample is more similar to them than a new one would be. To
undo that, each class's training embeddings are split into folds. For each fold, a few steps of k-means from the model's
prototypes compute prototypes without the fold, and the fold's samples are compared with these. The temperature
minimises the log loss of these comparisons (Guo et al. 2017, "On Calibration of Modern Neural Networks"). It has the
unit of the similarity, so multiplying all embeddings by a constant does not change the probabilities.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.files import at_least_single, read_rows
from lookalike.doubt.calibration import best_temperature
from lookalike.model.classifier import NearestPrototype
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity

TemperatureOption = float | Literal["auto"]
ProbabilityReading = Literal["max", "sum"]

_FOLDS = 5
_STEPS = 2  # of k-means: few, as it starts from prototypes that are means of nearly the same samples
# A sample of each class is split into folds: at most 1,000 samples, fewer where many classes share 20,000, but at least
# 16 per prototype, or the means without a fold would be noisy. So the time does not grow with the training data.
_SAMPLES = 20_000
_PER_CLASS = 1_000
_PER_PROTOTYPE = 16
# Some of these samples are compared with all prototypes: 10,000 of all classes together, or fewer if K is large, so
# that there are at most 500,000 class scores, but at least 2,000 samples.
_SCORED, _LEAST_SCORED = 10_000, 2_000
_SCORES = 500_000
_CELLS = 20_000_000  # samples × prototypes compared or stored at a time
_BOUNDS = (1e-4, 1e3)  # of T / unit, see fit_temperature
_PRECISION = 1e-3  # relative; probabilities are printed with two digits or three
_SEED_OF_FOLDS = 0x7E  # makes these draws independent of the clustering's


@dataclass(frozen=True)
class Temperature:
    """A temperature and its origin.

    Attributes:
        value: T. Similarities are divided by it before the softmax.
        source: ``"fitted"``, ``"given"`` by the user, ``"kept"`` from an earlier conversion, or ``"not fitted"``, which
            means 1.
        n_samples: Number of training samples that it was fitted to.
        n_folds: Number of folds that these were split into.
        log_loss: Mean log loss of these samples at this temperature.
        log_loss_at_1: Mean log loss of these samples at temperature 1.
        note: Why it could not be fitted; None if it was fitted or given.
    """

    value: float = 1.0
    source: Literal["fitted", "given", "kept", "not fitted"] = "given"
    n_samples: int | None = None
    n_folds: int | None = None
    log_loss: float | None = None
    log_loss_at_1: float | None = None
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, without unknown ones."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class HeldOut:
    """Held-out training samples of one class, and the class's prototypes computed without each fold.

    Attributes:
        prototypes: The prototypes without each fold [F, L, D].
        filled: Whether each of them has a sample outside the fold [F, L].
        samples: Embeddings to compare with the prototypes without their fold [m, D].
        folds: The fold of each sample [m].
        n_training: Number of training samples of the class.
    """

    prototypes: Tensor
    filled: Tensor
    samples: Tensor
    folds: Tensor
    n_training: int


def check_temperature(value: Any) -> TemperatureOption:
    """Checks a temperature that a user gave: ``"auto"``, or a number above 0.

    Raises:
        LookalikeError: If it is neither.

    Example:
        >>> check_temperature(2)
        2.0
    """
    if isinstance(value, str) and value == "auto":
        return "auto"
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise checks.unfit("temperature", value, "'auto' or a number above 0")
    return checks.number("temperature", value, above=0)


def choose_temperature(
    option: TemperatureOption,
    embeddings: np.ndarray,
    labels: np.ndarray,
    prototypes: Prototypes,
    similarity: Similarity,
    *,
    reading: ProbabilityReading = "max",
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Temperature:
    """Returns the temperature that a user gave, or fits one to training embeddings.

    Args:
        option: A temperature, or ``"auto"`` to fit it.
        embeddings: Training embeddings [N, D]. From a memory map, a bounded sample of each class is read.
        labels: Classes of the embeddings [N].
        prototypes: The model's prototypes.
        similarity: The model's similarity, fitted.
        reading: How similarities become probabilities.
        seed: Seed; the same seed gives the same temperature.
        groups: A number per sample [N]. Samples with the same number, such as the patches of one image, are held out
            together.
    """
    if option != "auto":
        return Temperature(option)
    order = np.argsort(labels, kind="stable")
    rows_of_class = np.split(order, np.cumsum(np.bincount(labels, minlength=prototypes.n_classes))[:-1])
    dtype = at_least_single(embeddings.dtype)
    # a class may own none of the prototypes that all classes share; its samples cannot be compared with its own
    owners = set(prototypes.labels.tolist())
    held_out = [
        hold_out(
            lambda positions, rows=rows: read_rows(embeddings, rows[positions], dtype),  # type: ignore[misc]
            len(rows),
            k,
            prototypes.vectors[prototypes.labels == k].detach().cpu(),
            similarity,
            n_classes=prototypes.n_classes,
            seed=seed,
            groups=None if groups is None else groups[rows],
        )
        for k, rows in enumerate(rows_of_class)
        if k in owners
    ]
    return fit_temperature(held_out, similarity, reading)


@torch.no_grad()
def hold_out(
    read: Callable[[np.ndarray], np.ndarray],
    n_samples: int,
    k: int,
    prototypes: Tensor,
    similarity: Similarity,
    *,
    n_classes: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> HeldOut:
    """Splits a bounded sample of a class into folds, and computes the class's prototypes without each fold.

    A class with a single training sample has none to hold out. Its prototypes still compete for the samples of other
    classes.

    Args:
        read: Returns the class's embeddings [m, D] at ascending positions [m] within the class.
        n_samples: Number of training samples of the class.
        k: The class's number.
        prototypes: The class's prototypes [L, D].
        similarity: The model's similarity, fitted.
        n_classes: K. The more classes, the smaller the sample.
        seed: Seed of the conversion.
        groups: A number per sample of the class [n]; samples with the same number are held out together.
    """
    rng = np.random.default_rng([seed, k, _SEED_OF_FOLDS])
    n_drawn = min(n_samples, max(min(_PER_CLASS, _SAMPLES // n_classes), _PER_PROTOTYPE * len(prototypes)))
    rows = np.sort(rng.permutation(n_samples)[:n_drawn])
    points = torch.from_numpy(read(rows)).to(prototypes.dtype)
    folds = torch.from_numpy(_folds_of(rows if groups is None else groups[rows], rng))
    fold_prototypes, filled = _prototypes_without(points, folds, prototypes, similarity)
    scored_positions = np.sort(rng.permutation(n_drawn)[: _max_scored(n_classes)])
    scored_positions = scored_positions[folds.numpy()[scored_positions] >= 0]
    return HeldOut(fold_prototypes, filled, points[scored_positions], folds[scored_positions], n_samples)


def _max_scored(n_classes: int) -> int:
    """Returns the largest number of samples of a class that are compared with all prototypes."""
    max_of_all_classes = min(_SCORED, max(_LEAST_SCORED, _SCORES // n_classes))
    return max(4, max_of_all_classes // n_classes)


def _folds_of(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns each sample's fold [n]. Samples of one group share a fold; if there is only one group, the fold is −1."""
    distinct, group_of_sample = np.unique(groups, return_inverse=True)
    if len(distinct) < 2:
        return np.full(len(groups), -1)
    return (rng.permutation(len(distinct)) % _FOLDS)[group_of_sample]


def _prototypes_without(
    points: Tensor, folds: Tensor, prototypes: Tensor, similarity: Similarity
) -> tuple[Tensor, Tensor]:
    """Runs a few steps of k-means from a class's prototypes, once without each fold.

    All folds run together, as F · L centres. Each point chooses its nearest centre once per fold, and a point of the
    fold itself gets weight 0 in that fold's means:

        outside_fold [n, F]      0 where the point is of the fold, else 1
        membership   [n, F · L]  outside_fold at the point's nearest centre of each fold, else 0
        means        [F · L, D]  membershipᵀ points / column sums of membership

    Args:
        points: The class's embeddings [n, D].
        folds: The fold of each embedding [n].
        prototypes: Centres to start from [L, D].
        similarity: Fitted; distances are measured in its Euclidean space.

    Returns:
        Means [F, L, D] in the embedding space, and whether each is the mean of at least one sample [F, L].
    """
    n_prototypes = len(prototypes)
    space, start_centres = similarity.project(points), similarity.project(prototypes)
    offset = start_centres.mean(0)  # subtracted, as a common offset would cost digits
    space, centres = space - offset, (start_centres - offset).repeat(_FOLDS, 1)  # [F · L, D]
    outside_fold = (folds[:, None] != torch.arange(_FOLDS)).to(points.dtype)  # [n, F]
    membership = points.new_zeros(0)
    for _ in range(_STEPS):
        closeness = torch.addmm(0.5 * centres.square().sum(1), space, centres.T, beta=-1)
        nearest = closeness.view(len(points), _FOLDS, n_prototypes).argmax(2, keepdim=True)
        membership = points.new_zeros(len(points), _FOLDS, n_prototypes)
        membership = membership.scatter_(2, nearest, outside_fold[..., None]).flatten(1)
        counts = membership.sum(0)
        centres = torch.where(counts[:, None] > 0, membership.T @ space / counts.clamp_min(1)[:, None], centres)
    counts = membership.sum(0)
    offset_of_points = points.mean(0)
    means = membership.T @ (points - offset_of_points) / counts.clamp_min(1)[:, None] + offset_of_points
    return means.view(_FOLDS, n_prototypes, -1), (counts > 0).view(_FOLDS, n_prototypes)


@torch.no_grad()
def fit_temperature(
    held_out: Sequence[HeldOut], similarity: Similarity, reading: ProbabilityReading = "max"
) -> Temperature:
    """Fits the temperature to held-out samples of all classes.

    Each sample is weighted by the number of training samples that it represents. Targets are smoothed by one sample in
    n + 2, as Platt (1999) does: if all n held-out samples are classified correctly, this keeps T above 0.

    Args:
        held_out: The held-out samples of each class [K].
        similarity: The model's similarity, fitted.
        reading: How similarities become probabilities.

    Returns:
        The temperature; 1 with a note if it cannot be fitted.
    """
    if len(held_out) < 2:
        return _not_fitted("there is only one class with prototypes")
    counts = torch.tensor([len(of_class.samples) for of_class in held_out])
    if int((counts > 0).sum()) < 2:
        return _not_fitted("fewer than two classes have a second training sample to hold out")
    scores, column_labels, labels = _held_out_scores(held_out, similarity, reading)
    class_weights = torch.tensor([of_class.n_training for of_class in held_out]) / counts.clamp_min(1)
    weights = class_weights.double()[labels]
    n_samples = len(labels)
    # T is searched as a multiple of this: the mean lead of the best class over the average one
    unit = float((scores.amax(1) - _finite_mean(scores)).mean())
    if not (math.isfinite(unit) and unit > 0):
        return _not_fitted("the similarities of held-out training samples do not tell prototypes apart")
    smoothing, sample_weights = 1 / (n_samples + 2), weights / weights.sum()

    def log_loss(temperature: float, smoothing: float = 0.0) -> float:
        log_p = _log_probabilities(scores, column_labels, len(held_out), reading, temperature)
        log_p_of_label = log_p.gather(1, labels[:, None])[:, 0]
        mean_log_p_of_others = (log_p.sum(1) - log_p_of_label) / (len(held_out) - 1)
        return -float((sample_weights * ((1 - smoothing) * log_p_of_label + smoothing * mean_log_p_of_others)).sum())

    multiple = best_temperature(lambda multiple: log_loss(unit * multiple, smoothing), _BOUNDS, _PRECISION)
    if multiple is None:
        return _not_fitted("the log loss of held-out training samples is not finite")
    value = unit * multiple
    return Temperature(value, "fitted", n_samples, _FOLDS, log_loss(value), log_loss(1.0))


def _held_out_scores(
    held_out: Sequence[HeldOut], similarity: Similarity, reading: ProbabilityReading
) -> tuple[Tensor, Tensor, Tensor]:
    """Compares held-out samples with the prototypes computed without their fold.

    Returns:
        For the reading ``"max"``, class scores [n, K]; for ``"sum"``, similarities to all prototypes [n, P]. Then the
        class of each column, and the class of each sample [n].
    """
    prototype_labels = torch.cat([torch.full((of_class.filled.shape[1],), k) for k, of_class in enumerate(held_out)])
    labels = torch.cat([torch.full((len(of_class.samples),), k) for k, of_class in enumerate(held_out)])
    samples = torch.cat([of_class.samples for of_class in held_out])
    folds = torch.cat([of_class.folds for of_class in held_out])
    classes = torch.arange(len(held_out))
    if reading == "sum":  # all similarities are stored: a spread of the samples, to bound the memory
        n_stored = min(len(labels), max(2, _CELLS // len(prototype_labels)))
        spread_rows = torch.linspace(0, len(labels) - 1, n_stored).long()
        labels, samples, folds = labels[spread_rows], samples[spread_rows], folds[spread_rows]
    width = len(classes) if reading == "max" else len(prototype_labels)
    scores = torch.empty(len(labels), width, dtype=torch.float64)
    nearest = NearestPrototype()
    for fold in range(_FOLDS):
        vectors = torch.cat([of_class.prototypes[fold] for of_class in held_out])
        without_samples = ~torch.cat([of_class.filled[fold] for of_class in held_out])
        for rows in torch.nonzero(folds == fold)[:, 0].split(max(1, _CELLS // len(prototype_labels))):
            similarities = similarity(samples[rows], vectors).double().masked_fill(without_samples, -torch.inf)
            scores[rows] = nearest(similarities, prototype_labels, len(classes)) if reading == "max" else similarities
    return scores, classes if reading == "max" else prototype_labels, labels


def _log_probabilities(
    scores: Tensor, column_labels: Tensor, n_classes: int, reading: ProbabilityReading, temperature: float
) -> Tensor:
    """Returns log-probabilities [n, K] from class scores [n, K] or, for ``"sum"``, from similarities [n, P]."""
    if reading == "max":
        return (scores / temperature).log_softmax(1)
    return NearestPrototype(reading, temperature).log_probabilities(scores, column_labels, n_classes).log_softmax(1)


def _finite_mean(scores: Tensor) -> Tensor:
    """Returns the mean of each row's finite values [n]."""
    finite = scores.isfinite()
    return scores.masked_fill(~finite, 0).sum(1) / finite.sum(1)


def _not_fitted(reason: str) -> Temperature:
    return Temperature(
        1.0, "not fitted", note=f"the temperature of the probabilities was not fitted and is 1: {reason}"
    )
