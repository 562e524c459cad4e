"""Probable label errors: samples that look like the prototypes of another class [ours].

The prototypes that a sample is compared with are learned without it, and without its fold. Suspects are left out when
the prototypes are learned a second time, so that a wrong label does not vouch for itself or for its like. A sample is a
suspect by the rule of confident learning (Northcutt et al., 2021): another class is more probable, and at least as
probable as it is, on average, for the samples that are labelled with it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import keeps_torch_settings
from lookalike.conversion.clustering import cluster
from lookalike.model.classifier import best_of_classes
from lookalike.model.similarity import Similarity, make_similarity

_ROUNDS = 2  # the second leaves out the suspects of the first
_FEW = 3  # prototypes of a class: fewer are means of so many samples that some wrong labels hardly move them, and
# leaving out what does not fit would only narrow the class
_CERTAIN = 0.95  # where a class's samples are all but certain, their mean is no bar that another can pass
_CELLS = 20_000_000  # samples × prototypes at a time
_LEAST_PER_PROTOTYPE = 12  # samples: a prototype of fewer may be one of wrong labels


@dataclass(frozen=True, eq=False)
class LabelCheck:
    """How well each label fits the prototypes of its class.

    Attributes:
        probabilities: Out-of-fold class probabilities [N, K].
        margins: Log-probability of the most probable other class minus that of the label [N]; above 0, another class
            is more probable.
        predicted: The most probable class [N].
        suspect: Whether the label is probably wrong [N].
        nearest: Classes of the three most similar prototypes [N, 3], most similar first; −1 where there are fewer.
        temperature: What similarities are divided by before they become probabilities.
        usual: Mean probability of each class for the samples that are labelled with it [K]; 1 without any.
    """

    probabilities: np.ndarray
    margins: np.ndarray
    predicted: np.ndarray
    suspect: np.ndarray
    nearest: np.ndarray
    temperature: float
    usual: np.ndarray


@keeps_torch_settings
@torch.no_grad()
def check_labels(
    embeddings: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    similarity: Similarity | None = None,
    *,
    n_prototypes: int = 10,
    n_folds: int = 5,
    seed: int = 0,
) -> LabelCheck:
    """Compares each sample with prototypes that were learned without it.

    Args:
        embeddings: [N, D].
        labels: Classes [N].
        n_classes: K.
        similarity: A fitted similarity; None takes ``l2``.
        n_prototypes: Prototypes per class; fewer in classes of few samples.
        n_folds: Number of folds.
        seed: Seed of folds and clustering.

    Raises:
        LookalikeError: If there are fewer than two classes with samples in two folds.
    """
    n_prototypes = checks.whole_number("n_prototypes", n_prototypes, 1)
    n_folds = checks.whole_number("n_folds", n_folds, 2)
    seed = checks.seed("seed", seed)
    if (np.bincount(labels, minlength=n_classes) >= 2).sum() < 2:
        raise LookalikeError("to find wrong labels takes two classes with two samples each, or more")
    similarity = similarity or make_similarity("l2")
    folds = _folds(labels, n_folds, seed)
    trusted = np.ones(len(labels), dtype=bool)
    scores, nearest = torch.zeros(0, dtype=torch.float32), np.zeros(0)
    for _ in range(_ROUNDS):
        scores, nearest = _out_of_fold(
            embeddings, labels, n_classes, similarity, folds, trusted, n_prototypes=n_prototypes, seed=seed
        )
        trusted = scores.argmax(1).numpy() == labels
    temperature = _temperature(scores, labels)
    probabilities = (scores / temperature).double().softmax(1).numpy()
    usual = np.array([probabilities[labels == k, k].mean() if (labels == k).any() else 1.0 for k in range(n_classes)])
    return _checked(scores, labels, nearest, temperature, usual)


@torch.no_grad()
def check_other_labels(
    checked: LabelCheck,
    embeddings: np.ndarray,
    labels: np.ndarray,
    others: tuple[np.ndarray, np.ndarray],
    similarity: Similarity | None = None,
    *,
    n_prototypes: int = 10,
    seed: int = 0,
) -> LabelCheck:
    """Compares other samples, such as test images, with prototypes of all samples whose label is not in doubt.

    Args:
        checked: The check of the samples.
        embeddings: [N, D].
        labels: Classes of the samples [N].
        others: Embeddings [M, D] and labels [M] of the other samples.
        similarity: As in ``check_labels``, as are the options.
        n_prototypes: Prototypes per class.
        seed: Seed of the clustering.

    Returns:
        The check of the other samples, by the temperature and the usual probabilities of the samples.
    """
    similarity = similarity or make_similarity("l2")
    n_classes = len(checked.usual)
    scores, nearest = _no_scores(len(others[1]), n_classes)
    learned = _learned(
        embeddings, labels, np.ones(len(labels), bool), similarity, checked.predicted == labels, n_classes,
        n_prototypes=n_prototypes, seed=seed,
    )  # fmt: skip
    _score(others[0], np.arange(len(others[1])), learned, similarity, scores, nearest)
    return _checked(scores, others[1], nearest, checked.temperature, checked.usual)


def _checked(
    scores: Tensor, labels: np.ndarray, nearest: np.ndarray, temperature: float, usual: np.ndarray
) -> LabelCheck:
    """Applies the rule to class scores [N, K]."""
    log_p = (scores / temperature).double().log_softmax(1).numpy()
    rows = np.arange(len(labels))
    log_p_of_others = log_p.copy()
    log_p_of_others[rows, labels] = -np.inf
    log_p_of_label = np.maximum(log_p[rows, labels], -1e6)  # a class of one sample has no prototypes without it
    margins = log_p_of_others.max(1) - log_p_of_label
    probabilities = np.exp(log_p)
    predicted = probabilities.argmax(1)
    suspect = (predicted != labels) & (probabilities[rows, predicted] >= np.minimum(usual, _CERTAIN)[predicted])
    return LabelCheck(probabilities, margins, predicted, suspect, nearest, temperature, usual)


def _no_scores(n: int, n_classes: int) -> tuple[Tensor, np.ndarray]:
    return torch.full((n, n_classes), -torch.inf, dtype=torch.float32), np.full((n, 3), -1)


def _folds(labels: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Returns a fold for each sample [N], such that each class is spread over all folds."""
    rng = np.random.default_rng([seed, 0xF01D])
    folds = np.empty(len(labels), dtype=np.int64)
    for k in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == k))
        folds[rows] = (np.arange(len(rows)) + rng.integers(n_folds)) % n_folds
    return folds


def _out_of_fold(
    embeddings: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    similarity: Similarity,
    folds: np.ndarray,
    trusted: np.ndarray,
    *,
    n_prototypes: int,
    seed: int,
) -> tuple[Tensor, np.ndarray]:
    """Returns class scores [N, K] and the classes of the three most similar prototypes [N, 3], fold by fold."""
    scores, nearest = _no_scores(len(labels), n_classes)
    for fold in np.unique(folds):
        learned = _learned(
            embeddings, labels, folds != fold, similarity, trusted, n_classes, n_prototypes=n_prototypes, seed=seed
        )
        _score(embeddings, np.flatnonzero(folds == fold), learned, similarity, scores, nearest)
    return scores, nearest


def _learned(
    embeddings: np.ndarray,
    labels: np.ndarray,
    outside_fold: np.ndarray,
    similarity: Similarity,
    trusted: np.ndarray,
    n_classes: int,
    *,
    n_prototypes: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Returns prototypes [P, D] of the samples outside of a fold [N], and their classes [P]."""
    vectors, prototype_labels = [], []
    for k in range(n_classes):
        of_class = np.flatnonzero(outside_fold & (labels == k))
        if not len(of_class):
            continue
        number = max(1, min(n_prototypes, len(of_class) // _LEAST_PER_PROTOTYPE))
        fitting = of_class[trusted[of_class]]
        rows = fitting if number >= _FEW and len(fitting) else of_class
        points = similarity.project(_read(embeddings, rows)).numpy()
        centres = cluster(points, number, n_init=3, seed=seed).centres
        vectors.append(similarity.unproject(torch.from_numpy(np.ascontiguousarray(centres))))
        prototype_labels += [k] * len(centres)
    return torch.cat(vectors), torch.tensor(prototype_labels)


def _score(
    embeddings: np.ndarray,
    members: np.ndarray,
    learned: tuple[Tensor, Tensor],
    similarity: Similarity,
    scores: Tensor,
    nearest: np.ndarray,
) -> None:
    """Writes the class scores of some samples, and the classes of their three most similar prototypes."""
    prototypes, classes = learned
    step = max(256, _CELLS // max(len(prototypes), embeddings.shape[1]))
    for start in range(0, len(members), step):
        chunk = members[start : start + step]
        similarities = similarity(_read(embeddings, chunk), prototypes)
        scores[chunk] = best_of_classes(similarities, classes, scores.shape[1]).float()
        top = classes[similarities.topk(min(3, len(prototypes)), dim=1).indices].numpy()
        nearest[chunk, : top.shape[1]] = top


def _read(embeddings: np.ndarray, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(embeddings[rows], dtype=np.float32))


def _temperature(scores: Tensor, labels: np.ndarray) -> float:
    """Returns the temperature that minimises the log loss, where a wrong label costs a bounded amount.

    Targets are smoothed by one sample in n + 2, as Platt (1999) does: samples without any error would otherwise make
    the temperature as small as it is tried, and every probability 0 or 1.
    """
    label_column = torch.from_numpy(labels)[:, None]
    finite = scores.gather(1, label_column)[:, 0].isfinite()
    if not bool(finite.any()):
        return 1.0
    shifted = (scores - scores.max(1, keepdim=True).values)[finite].double()
    top = shifted.topk(2, dim=1).values
    unit = float((top[:, 0] - top[:, 1]).clamp_max(1e30).mean())
    if unit <= 0:
        return 1.0
    candidates = [unit * float(factor) for factor in np.exp(np.linspace(-4, 3, 60))]
    smoothing = 1 / (len(shifted) + 2)
    is_label = torch.zeros_like(shifted, dtype=torch.bool).scatter(1, label_column[finite], value=True)
    is_other = shifted.isfinite() & ~is_label
    n_others = is_other.sum(1).clamp_min(1)

    def loss(temperature: float) -> float:
        log_p = (shifted / temperature).log_softmax(1)
        bounded = (0.99 * log_p.exp()[is_label] + 1e-3).log()
        of_others = log_p.where(is_other, 0.0).sum(1) / n_others
        return -float(((1 - smoothing) * bounded + smoothing * of_others).mean())

    return min(candidates, key=loss)
