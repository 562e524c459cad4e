"""Advice: would another similarity, or another number of prototypes, do better on the same embeddings [ours]?

Each choice is cross-fitted: the training samples are halved, each half is predicted by prototypes of the other. Below
1,000 samples a half is too few, and one division says little: they are divided into five parts, three times. Test data
play no part, so what is chosen by it can still be tested.
"""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.files import at_least_single, read_rows
from lookalike.conversion.automatic_number import choose_n_clusters
from lookalike.conversion.many_divisions import cluster_without
from lookalike.conversion.per_class import Clustering, learn_class, numbers_per_class
from lookalike.doubt import least_log_loss
from lookalike.embedding import EmbeddingStore
from lookalike.model.classifier import best_of_classes
from lookalike.model.similarity import Similarity, make_similarity

_MOST_SAMPLES = 2_000  # two seconds on two cores for the seven choices below, at 10 classes × 512 dimensions
# (``mahalanobis`` takes half of it: with more dimensions than samples it decomposes a matrix of the samples' size)
_MOST_CLASSES = 200  # each class is clustered 14 times; with more it takes longer than many conversions
_ENOUGH_FOR_HALVES = 1_000  # samples
_PARTS_OF_FEW, _DIVISIONS_OF_FEW = 5, 3
_MOST_TOGETHER = 300  # samples of a class; more are clustered as fast one time after the other
_NUMBERS = (1, 5, 20)
_LEAST_PER_PROTOTYPE = 2  # samples of a class of median size: with fewer, nearly every sample is its own prototype
_SIMILARITIES = ("l2", "head", "mahalanobis", "cosine")
_LEAST_GAIN = 0.01  # of accuracy: less is not worth a sentence
# A choice need not be certain, as a claim must: with few samples no gain is, and the paper's similarity would stay.
_LEAST_GAIN_OF_CHOICE = 0.005
_CERTAIN = 1.96  # standard errors of a paired difference

_BEFORE_EDITS = "This was before the edits, and was not tried again."


@dataclass(frozen=True)
class Choice:
    """One way to convert, and how well it does.

    Attributes:
        similarity: Name of the similarity.
        n_prototypes: Number of prototypes per class, or what was asked for.
        accuracy: Cross-fitted accuracy on training samples.
        log_loss: Mean log loss of the same predictions, at the temperature that suits them best.
    """

    similarity: str
    n_prototypes: Any
    accuracy: float
    log_loss: float


@dataclass(frozen=True)
class Advice:
    """What other choices would give.

    Attributes:
        taken: The choice that the conversion was made with.
        others: The other choices.
        best: The choice with the highest accuracy if it is clearly better than the one taken, else None.
        n_samples: Number of training samples that were predicted.
    """

    taken: Choice
    others: tuple[Choice, ...]
    best: Choice | None
    n_samples: int

    def sentence(self) -> str:
        """Returns the advice in one line."""
        on = f"on {self.n_samples:,} training images held out in turn"
        flatters = "If the network was trained on these images, such figures flatter."
        if self.best is None:
            return (
                f"No other similarity or number of prototypes does clearly better than {self.taken.similarity} with "
                f"{self.taken.n_prototypes} per class ({self.taken.accuracy:.1%} {on}). {flatters}"
            )
        changes = []
        if self.best.similarity != self.taken.similarity:
            changes.append(f"--similarity {self.best.similarity}")
        if self.best.n_prototypes != self.taken.n_prototypes:
            changes.append(f"--n-prototypes {self.best.n_prototypes}")
        return (
            f"{' '.join(changes)} did better: {self.best.accuracy:.1%} instead of {self.taken.accuracy:.1%} {on}. "
            f"{flatters}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        choices = (self.taken, *self.others)
        best = None if self.best is None else choices.index(self.best)
        rows = [asdict(choice) for choice in choices]
        return {"choices": rows, "best": best, "n_samples": self.n_samples, "sentence": self.sentence()}


def advise(
    store: EmbeddingStore, class_names: list[str], head_weight: Tensor | None, similarity: str, clustering: Clustering
) -> Advice | None:
    """Compares other similarities and numbers of prototypes with the choice that was taken.

    Args:
        store: Training embeddings.
        class_names: K names.
        head_weight: Weights of the black box's head [K, D], or None.
        similarity: Name of the similarity that was taken.
        clustering: How the classes were clustered.

    Returns:
        The advice; None if there are more than 200 classes, or no class has two samples.
    """
    trials = _try_choices(store, class_names, head_weight, similarity, clustering, numbers=_NUMBERS)
    if trials is None:
        return None
    (choice_taken, correct), *other_trials = trials
    best, best_correct = max(other_trials, key=lambda trial: trial[0].accuracy)
    is_better = _is_clearly_better(best_correct, correct)
    return Advice(choice_taken, tuple(choice for choice, _ in other_trials), best if is_better else None, len(correct))


def _try_choices(
    store: EmbeddingStore,
    class_names: list[str],
    head_weight: Tensor | None,
    similarity: str,
    clustering: Clustering,
    *,
    numbers: tuple[int, ...],
) -> list[tuple[Choice, np.ndarray]] | None:
    """Returns choices, the one taken first, each with how often it predicts each held-out sample correctly [n]."""
    if len(class_names) > _MOST_CLASSES:
        return None
    rows, parts = _sample(np.asarray(store.labels), clustering.seed)
    if not (parts >= 0).any():
        return None
    clustering = _within_largest_class(clustering, np.asarray(store.labels))
    z = read_rows(store.embeddings, rows, at_least_single(store.embeddings.dtype))
    sample = _Sample(torch.from_numpy(z), np.asarray(store.labels)[rows], parts, class_names, head_weight)
    quick = replace(clustering, n_init=1, memory_limit=None)
    others = [name for name in _SIMILARITIES if name != similarity and (name != "head" or head_weight is not None)]
    trials = [_choice(sample, name, quick) for name in (similarity, *others)]
    if not isinstance(clustering.n_prototypes, Mapping | str):
        largest = np.median(np.bincount(sample.labels)) / _LEAST_PER_PROTOTYPE
        different = [number for number in numbers if number != clustering.n_prototypes and number <= largest]
        trials += [_choice(sample, similarity, replace(quick, n_prototypes=number)) for number in different]
    return trials


def _within_largest_class(clustering: Clustering, labels: np.ndarray) -> Clustering:
    """Returns the clustering with no more prototypes per class than the largest class has samples."""
    if isinstance(clustering.n_prototypes, Mapping | str):
        return clustering
    return replace(clustering, n_prototypes=min(int(clustering.n_prototypes), int(np.bincount(labels).max())))


def choose_similarity(
    store: EmbeddingStore, class_names: list[str], head_weight: Tensor | None, clustering: Clustering
) -> str:
    """Returns the similarity that does best on held-out training samples.

    The paper's ``"l2"`` stays if no other is more accurate by half a point. Below 1,000 samples that would often be one
    image, so the similarity with the least log loss is taken. Whether the gain is beyond chance is not asked: on few
    samples hardly any is, and a choice costs nothing if two similarities are equally good.

    Raises:
        LookalikeError: If there are too many classes, or too few samples, to choose by.
    """
    trials = _try_choices(store, class_names, head_weight, "l2", clustering, numbers=())
    if trials is None:
        raise LookalikeError(
            f"similarity='auto' needs at most {_MOST_CLASSES} classes, and two samples of one; name a similarity"
        )
    if len(store.labels) < _ENOUGH_FOR_HALVES:
        return min((choice for choice, _ in trials), key=lambda choice: choice.log_loss).similarity
    (choice_taken, _), *other_trials = trials
    best, _ = max(other_trials, key=lambda trial: trial[0].accuracy)
    return best.similarity if best.accuracy > choice_taken.accuracy + _LEAST_GAIN_OF_CHOICE else "l2"


@dataclass(frozen=True)
class _Sample:
    """Training samples, and how they are held out in turn to be predicted.

    Attributes:
        z: Embeddings [n, D].
        labels: Their classes [n].
        parts: The part of each sample in each division [R, n], from 0; −1 for the only sample of a class.
        class_names: K names.
        head_weight: Weights of the black box's head [K, D], or None.
        prototypes: Prototypes of each turn that were found among the embeddings as they are, by their number:
            similarities that cluster in this space share them.
    """

    z: Tensor
    labels: np.ndarray
    parts: np.ndarray
    class_names: list[str]
    head_weight: Tensor | None
    prototypes: dict[str, "_Found"] = field(default_factory=dict)

    @functools.cached_property
    def held_out(self) -> Tensor:
        """Which samples each part of each division holds out [V, n]."""
        return torch.from_numpy(np.concatenate([parts == np.arange(parts.max() + 1)[:, None] for parts in self.parts]))

    def spaces(self, name: str) -> list["_Space"]:
        """Returns the similarity fitted without each held-out part [V]; one for all if it learns nothing of samples."""
        if make_similarity(name).fits_to in ("nothing", "head"):
            return [self.space(name, torch.full(self.labels.shape, True))] * len(self.held_out)
        return [self.space(name, ~is_held_out) for is_held_out in self.held_out]

    def space(self, name: str, is_train: Tensor) -> "_Space":
        """Returns a similarity, fitted to some of the samples, and all embeddings as it is to compare them.

        If the nearest prototype in the similarity's Euclidean space is the most similar one, all are mapped there once:
        the answers are the same, without a way back from its space for each class.
        """
        similarity, rows = make_similarity(name), is_train.numpy()
        train = (self.z.numpy()[rows], self.labels[rows], self.head_weight)
        if similarity.falls_with_distance:
            return _Space(make_similarity("l2"), similarity.fit_and_project(*train, self.z))
        return _Space(similarity.fit(*train), self.z)


class _Space(NamedTuple):
    """A fitted similarity, and embeddings [n, D] to compare by it."""

    similarity: Similarity
    z: Tensor


_Found = list[tuple[Tensor, Tensor]]  # prototypes [P, D] and their classes [P], of each turn


def _sample(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws training samples, as many of each class as it has its share, and divides each class into parts.

    Returns:
        Their rows [n], sorted, and ``_Sample.parts`` [R, n].
    """
    rng = np.random.default_rng([seed, 0xAD])
    share = min(1.0, _MOST_SAMPLES / len(labels))
    is_few = len(labels) < _ENOUGH_FOR_HALVES
    n_parts, n_divisions = (_PARTS_OF_FEW, _DIVISIONS_OF_FEW) if is_few else (2, 1)
    rows, parts = [], []
    for k in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == k))
        of_class = of_class[: max(2, round(share * len(of_class)))]
        in_turn = np.arange(len(of_class)) % n_parts if len(of_class) > 1 else np.array([-1])
        rows.append(of_class)
        parts.append(np.stack([in_turn, *(rng.permutation(in_turn) for _ in range(n_divisions - 1))]))
    order = np.argsort(np.concatenate(rows), kind="stable")
    return np.concatenate(rows)[order], np.concatenate(parts, axis=1)[:, order]


def _choice(sample: _Sample, similarity: str, clustering: Clustering) -> tuple[Choice, np.ndarray]:
    scores = _scores(sample, similarity, clustering)
    is_held_out = sample.parts[0] >= 0
    scores, labels = scores[:, is_held_out], sample.labels[is_held_out]
    correct: np.ndarray = (scores.argmax(2) == labels).mean(0)
    loss = least_log_loss(scores.reshape(-1, scores.shape[2]), np.tile(labels, len(scores)))
    return Choice(similarity, clustering.to_dict()["n_prototypes"], float(correct.mean()), loss), correct


@torch.no_grad()
def _scores(sample: _Sample, name: str, clustering: Clustering) -> np.ndarray:
    """Returns the class scores of each held-out sample in each division [R, n, K]: its greatest similarities."""
    clustering = _with_numbers(sample, name, clustering)
    spaces = sample.spaces(name)
    if type(make_similarity(name)).project is Similarity.project:
        shared = str(clustering.n_prototypes)
        if shared not in sample.prototypes:
            sample.prototypes[shared] = _prototypes(sample, [spaces[0]] * len(spaces), clustering)
        prototypes_of_parts = sample.prototypes[shared]
    else:
        prototypes_of_parts = _prototypes(sample, spaces, clustering)
    scores = torch.full((*sample.parts.shape, len(sample.class_names)), -torch.inf, dtype=torch.float32)
    n_parts = len(sample.held_out) // len(sample.parts)
    for turn, (is_test, (similarity, z), (vectors, owners)) in enumerate(
        zip(sample.held_out, spaces, prototypes_of_parts, strict=True)
    ):
        similarities = similarity(z[is_test], vectors).float()
        scores[turn // n_parts, is_test] = best_of_classes(similarities, owners, scores.shape[2])
    return scores.double().numpy()


def _with_numbers(sample: _Sample, name: str, clustering: Clustering) -> Clustering:
    """Settles ``"auto"`` numbers of prototypes once, on all samples, in the space of the similarity."""
    if clustering.n_prototypes != "auto":
        return clustering
    similarity, z = sample.space(name, torch.full(sample.labels.shape, True))
    space = similarity.project(z).numpy()
    numbers = dict.fromkeys(range(len(sample.class_names)), 1)
    for k in np.unique(sample.labels).tolist():
        members = space[sample.labels == k]
        numbers[k] = choose_n_clusters(members, clusterer=clustering.clusterer, seed=clustering.seed)
    return replace(clustering, n_prototypes=numbers)


def _prototypes(sample: _Sample, spaces: list[_Space], clustering: Clustering) -> _Found:
    """Clusters each class without each held-out part, and without a word about classes with too few samples."""
    numbers = numbers_per_class(clustering.n_prototypes, sample.class_names)
    classes = np.unique(sample.labels).tolist()
    of_classes = []
    for k in classes:
        members = torch.from_numpy(np.flatnonzero(sample.labels == k))
        outside, number = ~sample.held_out[:, members], numbers[k]
        if clustering.clusterer == "kmeans" and number is not None and len(members) <= _MOST_TOGETHER:
            rng = np.random.default_rng([clustering.seed, k])
            of_classes.append(_cluster_together(spaces, members, outside, number, rng))
        else:
            options = (k, sample.class_names[k])
            of_classes.append(
                [
                    learn_class(z[members[is_outside]].numpy(), *options, similarity, clustering, number)[0]
                    for (similarity, z), is_outside in zip(spaces, outside, strict=True)
                ]
            )
    by_turn = []
    for of_turn in zip(*of_classes, strict=True):
        counts = torch.tensor([len(vectors) for vectors in of_turn])
        by_turn.append((torch.cat(of_turn), torch.tensor(classes).repeat_interleave(counts)))
    return by_turn


def _cluster_together(
    spaces: list[_Space], members: Tensor, kept: Tensor, n_clusters: int, rng: np.random.Generator
) -> list[Tensor]:
    """Returns the prototypes of one class in each turn [V], from the members that the turn keeps [V, n]."""
    first = spaces[0]
    if all(space is first for space in spaces):
        points = first.similarity.project(first.z[members])
        points_of_turns = points.expand(len(spaces), -1, -1)
    else:
        points = points_of_turns = torch.stack([similarity.project(z[members]) for similarity, z in spaces])
    weights = cluster_without(points, kept, n_clusters, rng).to(points.dtype)
    return [
        similarity.unproject(of_turn[of_turn.any(1)] @ points_of_turn)
        for (similarity, _), of_turn, points_of_turn in zip(spaces, weights, points_of_turns, strict=True)
    ]


def _is_clearly_better(first: np.ndarray, second: np.ndarray) -> bool:
    """Returns whether the first is better on the same samples by a point, and by more than chance would give."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    error = difference.std() / np.sqrt(len(difference))
    return bool(difference.mean() > max(_LEAST_GAIN, _CERTAIN * error))


def advice_before_edits(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entry of a model's advice with the word that its edits came later; nothing without advice."""
    advice = provenance.get("advice")
    if not isinstance(advice, Mapping) or _BEFORE_EDITS in str(advice.get("sentence", _BEFORE_EDITS)):
        return {}
    return {"advice": {**advice, "sentence": f"{advice['sentence']} {_BEFORE_EDITS}"}}
