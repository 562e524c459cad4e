"""The temperature between similarities and probabilities, fitted on training samples that were held out [ours].

Every class's training embeddings are dealt into folds. For each fold the class's prototypes are made again without
it, by a few steps of k-means from the model's own, and the fold's samples are compared with them. The temperature is
the one that makes these comparisons' log loss least (Guo et al. 2017, "On Calibration of Modern Neural Networks"). It
is in the similarity's own unit, so that an embedding multiplied by a constant gets the same probabilities.
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
from lookalike.model.classifier import NearestPrototype
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity

TemperatureOption = float | Literal["auto"]
Reading = Literal["max", "sum"]

_FOLDS = 5
_STEPS = 2  # of k-means, from prototypes that are means of nearly the same samples
_SAMPLES = 20_000  # training samples that prototypes are made again from, all classes together
_PER_CLASS = 1_000
_PER_PROTOTYPE = 16
_SCORED, _LEAST_SCORED = 10_000, 2_000  # of them compared with all prototypes, all classes together
_SCORES = 500_000  # their class scores, unless that is fewer than the least
_CELLS = 20_000_000  # samples × prototypes compared or kept at a time
_NARROWEST, _WIDEST = math.log(1e-4), math.log(1e3)  # T over the mean lead of the best class over the average one
_PRECISION = 1e-3  # of T
_SEED_OF_FOLDS = 0x7E  # keeps these draws apart from the clustering's


@dataclass(frozen=True)
class Temperature:
    """A temperature, and where it comes from.

    Attributes:
        value: T, which similarities are divided by.
        source: ``"fitted"``, ``"given"`` by the user, ``"kept"`` from an earlier conversion, or ``"not fitted"``: 1.
        n_samples: How many training samples it was fitted on.
        n_folds: Into how many folds they were dealt.
        log_loss: Mean log loss of these samples with it.
        log_loss_at_1: The same with a temperature of 1.
        note: Why it could not be fitted; None if it was, or was given.
    """

    value: float = 1.0
    source: Literal["fitted", "given", "kept", "not fitted"] = "given"
    n_samples: int | None = None
    n_folds: int | None = None
    log_loss: float | None = None
    log_loss_at_1: float | None = None
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, without those that are not known."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class HeldOut:
    """Training samples of one class, and its prototypes made without each fold of them.

    Attributes:
        prototypes: [F, L, D].
        filled: Which of them have a sample outside the fold [F, L].
        samples: Embeddings to be compared with the prototypes of their fold [m, D].
        folds: Theirs [m].
        n_training: How many training samples the class has.
    """

    prototypes: Tensor
    filled: Tensor
    samples: Tensor
    folds: Tensor
    n_training: int


def check_temperature(value: Any) -> TemperatureOption:
    """Returns a temperature as a user may give it: ``"auto"``, or a number above 0.

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
    reading: Reading = "max",
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Temperature:
    """Returns the temperature that a user gave, or one fitted to training embeddings.

    Args:
        option: ``"auto"`` fits it.
        embeddings: Training embeddings [N, D]; of a memory map only a bounded sample of each class is read.
        labels: Their classes [N].
        prototypes: The model's.
        similarity: The model's, fitted.
        reading: How similarities become probabilities.
        seed: The same seed gives the same temperature.
        groups: Samples that must be held out together have the same number [N]: the patches of an image.
    """
    if option != "auto":
        return Temperature(option)
    order = np.argsort(labels, kind="stable")
    rows_of_class = np.split(order, np.cumsum(np.bincount(labels, minlength=prototypes.n_classes))[:-1])
    dtype = at_least_single(embeddings.dtype)
    held_out = [
        hold_out(
            lambda which, rows=rows: read_rows(embeddings, rows[which], dtype),  # type: ignore[misc]
            len(rows),
            k,
            prototypes.vectors[prototypes.labels == k].detach().cpu(),
            similarity,
            n_classes=prototypes.n_classes,
            seed=seed,
            groups=None if groups is None else groups[rows],
        )
        for k, rows in enumerate(rows_of_class)
    ]
    return fit_temperature(held_out, similarity, reading)


@torch.no_grad()
def hold_out(
    read: Callable[[np.ndarray], np.ndarray],
    n: int,
    k: int,
    prototypes: Tensor,
    similarity: Similarity,
    *,
    n_classes: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> HeldOut:
    """Deals a bounded sample of a class into folds, and makes its prototypes again without each of them.

    A class with a single sample has none to hold out: its prototypes are rivals to the other classes' samples.

    Args:
        read: Returns the class's embeddings of some rows [m, D], the rows ascending.
        n: How many training samples it has.
        k: Its number.
        prototypes: Its prototypes [L, D].
        similarity: The model's, fitted.
        n_classes: K, which decides how large the sample may be.
        seed: Of the whole conversion.
        groups: Which of the class's samples must be held out together [n].
    """
    rng = np.random.default_rng([seed, k, _SEED_OF_FOLDS])
    size = min(n, max(min(_PER_CLASS, _SAMPLES // n_classes), _PER_PROTOTYPE * len(prototypes)))
    rows = np.sort(rng.permutation(n)[:size])
    points = torch.from_numpy(read(rows)).to(prototypes.dtype)
    folds = torch.from_numpy(_deal(rows if groups is None else groups[rows], rng))
    made, filled = _prototypes_without(points, folds, prototypes, similarity)
    scored = np.sort(rng.permutation(size)[: _most_scored(n_classes)])
    scored = scored[folds.numpy()[scored] >= 0]
    return HeldOut(made, filled, points[scored], folds[scored], n)


def _most_scored(n_classes: int) -> int:
    """Returns how many samples of a class are compared with all prototypes, at most."""
    most = min(_SCORED, max(_LEAST_SCORED, _SCORES // n_classes))
    return max(4, most // n_classes)


def _deal(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a fold for each sample [n], the same for those of a group; −1 if there is only one group."""
    distinct, group_of_sample = np.unique(groups, return_inverse=True)
    if len(distinct) < 2:
        return np.full(len(groups), -1)
    return (rng.permutation(len(distinct)) % _FOLDS)[group_of_sample]


def _prototypes_without(
    points: Tensor, folds: Tensor, prototypes: Tensor, similarity: Similarity
) -> tuple[Tensor, Tensor]:
    """Runs a few steps of k-means from a class's prototypes, once without each fold.

    Args:
        points: The class's embeddings [n, D].
        folds: Theirs [n].
        prototypes: Where to start [L, D].
        similarity: Fitted; distances are taken in its Euclidean space.

    Returns:
        Means [F, L, D] in the embedding space, and which of them are means of any sample [F, L].
    """
    n_prototypes = len(prototypes)
    space, start = similarity.project(points), similarity.project(prototypes)
    offset = start.mean(0)  # keeps the digits that a common offset would cost
    space, centres = space - offset, (start - offset).repeat(_FOLDS, 1)  # [F · L, D]
    kept = (folds[:, None] != torch.arange(_FOLDS)).to(points.dtype)  # [n, F]
    members = points.new_zeros(0)
    for _ in range(_STEPS):
        closeness = torch.addmm(0.5 * centres.square().sum(1), space, centres.T, beta=-1)
        nearest = closeness.view(len(points), _FOLDS, n_prototypes).argmax(2, keepdim=True)
        members = points.new_zeros(len(points), _FOLDS, n_prototypes).scatter_(2, nearest, kept[..., None]).flatten(1)
        counts = members.sum(0)
        centres = torch.where(counts[:, None] > 0, members.T @ space / counts.clamp_min(1)[:, None], centres)
    counts = members.sum(0)
    middle = points.mean(0)
    means = members.T @ (points - middle) / counts.clamp_min(1)[:, None] + middle
    return means.view(_FOLDS, n_prototypes, -1), (counts > 0).view(_FOLDS, n_prototypes)


@torch.no_grad()
def fit_temperature(held_out: Sequence[HeldOut], similarity: Similarity, reading: Reading = "max") -> Temperature:
    """Fits the temperature to held-out samples of all classes; it never fails.

    Each sample counts for as many training samples as it was drawn from. Targets are smoothed by one sample in n + 2,
    as Platt (1999) does: where all n held-out samples are right, this is what keeps T from 0.

    Args:
        held_out: Of each class [K].
        similarity: The model's, fitted.
        reading: How similarities become probabilities.

    Returns:
        The temperature; 1 with a note if it cannot be fitted.
    """
    if len(held_out) < 2:
        return _not_fitted("there is only one class")
    counts = torch.tensor([len(one.samples) for one in held_out])
    if int((counts > 0).sum()) < 2:
        return _not_fitted("fewer than two classes have a second training sample to hold out")
    scores, owners, labels = _scores(held_out, similarity, reading)
    weights = (torch.tensor([one.n_training for one in held_out]) / counts.clamp_min(1)).double()[labels]
    n_samples = len(labels)
    unit = float((scores.amax(1) - _finite_mean(scores)).mean())
    if not (math.isfinite(unit) and unit > 0):
        return _not_fitted("the similarities of held-out training samples do not tell prototypes apart")
    smoothing, shares = 1 / (n_samples + 2), weights / weights.sum()

    def log_loss(temperature: float, smoothing: float = 0.0) -> float:
        log_p = _log_probabilities(scores, owners, len(held_out), reading, temperature)
        own = log_p.gather(1, labels[:, None])[:, 0]
        others = (log_p.sum(1) - own) / (len(held_out) - 1)
        return -float((shares * ((1 - smoothing) * own + smoothing * others)).sum())

    value = _least(lambda exponent: log_loss(unit * math.exp(exponent), smoothing))
    if value is None:
        return _not_fitted("the log loss of held-out training samples is not finite")
    value *= unit
    return Temperature(value, "fitted", n_samples, _FOLDS, log_loss(value), log_loss(1.0))


def _least(loss: Callable[[float], float]) -> float | None:
    """Returns T in units of the scores, at which a loss of log T is least; None where it is not finite."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(loss, bounds=(_NARROWEST, _WIDEST), method="bounded", options={"xatol": _PRECISION})
    value = math.exp(float(found.x))
    return value if math.isfinite(float(found.fun)) and math.isfinite(value) else None


def _scores(held_out: Sequence[HeldOut], similarity: Similarity, reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
    """Compares held-out samples with the prototypes made without their fold.

    Returns:
        Scores [n, K] of the classes with the class of each column [K], or, where the reading needs them, similarities
        [n, P] with the class of each prototype [P]; and the samples' classes [n].
    """
    owners = torch.cat([torch.full((one.filled.shape[1],), k) for k, one in enumerate(held_out)])
    labels = torch.cat([torch.full((len(one.samples),), k) for k, one in enumerate(held_out)])
    samples, folds = torch.cat([one.samples for one in held_out]), torch.cat([one.folds for one in held_out])
    classes = torch.arange(len(held_out))
    if reading == "sum":  # all similarities are kept
        chosen = torch.linspace(0, len(labels) - 1, min(len(labels), max(2, _CELLS // len(owners)))).long()
        labels, samples, folds = labels[chosen], samples[chosen], folds[chosen]
    width = len(classes) if reading == "max" else len(owners)
    scores = torch.empty(len(labels), width, dtype=torch.float64)
    nearest = NearestPrototype()
    for fold in range(_FOLDS):
        vectors = torch.cat([one.prototypes[fold] for one in held_out])
        missing = ~torch.cat([one.filled[fold] for one in held_out])
        for rows in torch.nonzero(folds == fold)[:, 0].split(max(1, _CELLS // len(owners))):
            found = similarity(samples[rows], vectors).double().masked_fill(missing, -torch.inf)
            scores[rows] = nearest(found, owners, len(classes)) if reading == "max" else found
    return scores, classes if reading == "max" else owners, labels


def _log_probabilities(scores: Tensor, owners: Tensor, n_classes: int, reading: Reading, temperature: float) -> Tensor:
    """Returns what the classifier makes of scores [n, K], or of similarities [n, P], with a temperature; [n, K]."""
    if reading == "max":
        return (scores / temperature).log_softmax(1)
    return NearestPrototype(reading, temperature).log_probabilities(scores, owners, n_classes).log_softmax(1)


def _finite_mean(scores: Tensor) -> Tensor:
    """Returns the mean of each row's finite values [n]."""
    finite = scores.isfinite()
    return scores.masked_fill(~finite, 0).sum(1) / finite.sum(1)


def _not_fitted(reason: str) -> Temperature:
    return Temperature(
        1.0, "not fitted", note=f"the temperature of the probabilities was not fitted and is 1: {reason}"
    )
