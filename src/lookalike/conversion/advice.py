"""Advice: would another similarity, or another number of prototypes, do better on the same embeddings [ours]?

Each choice is cross-fitted: the training samples are halved, each half is predicted by prototypes of the other. Below
1,000 samples a half is too few, and one division says little: they are divided into five parts, three times. Test data
play no part, so what is chosen by it can still be tested.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.files import at_least_single, read_rows
from lookalike.conversion.automatic_number import choose_n_clusters
from lookalike.conversion.per_class import Clustering, learn_class, numbers_per_class
from lookalike.embedding import EmbeddingStore
from lookalike.model.similarity import Similarity, make_similarity

_MOST_SAMPLES = 2_000  # two seconds on two cores for the seven choices below, at 10 classes × 512 dimensions
_MOST_CLASSES = 200  # each class is clustered 14 times; with more it takes longer than many conversions
_ENOUGH_FOR_HALVES = 1_000  # samples
_PARTS_OF_FEW, _DIVISIONS_OF_FEW = 5, 3
_WIDEST_FOR_COVARIANCE = 1_024  # dimensions, or samples if these are fewer; decomposing more takes longer than the rest
_NUMBERS = (1, 5, 20)
_LEAST_PER_PROTOTYPE = 2  # samples of a class of median size: with fewer, nearly every sample is its own prototype
_SIMILARITIES = ("l2", "head", "mahalanobis", "cosine")
_LEAST_GAIN = 0.01  # of accuracy: less is not worth a sentence
# A choice need not be certain, as a claim must: with few samples no gain is, and the paper's similarity would stay.
_LEAST_GAIN_OF_CHOICE = 0.005
_CERTAIN = 1.96  # standard errors of a paired difference


@dataclass(frozen=True)
class Choice:
    """One way to convert, and how well it does.

    Attributes:
        similarity: Name of the similarity.
        n_prototypes: Number of prototypes per class, or what was asked for.
        accuracy: Cross-fitted accuracy on training samples.
    """

    similarity: str
    n_prototypes: Any
    accuracy: float


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
        if self.best is None:
            return (
                f"No other similarity or number of prototypes does clearly better than {self.taken.similarity} with "
                f"{self.taken.n_prototypes} per class ({self.taken.accuracy:.1%} {on})."
            )
        changes = []
        if self.best.similarity != self.taken.similarity:
            changes.append(f"--similarity {self.best.similarity}")
        if self.best.n_prototypes != self.taken.n_prototypes:
            changes.append(f"--n-prototypes {self.best.n_prototypes}")
        return (
            f"{' '.join(changes)} would do better: {self.best.accuracy:.1%} instead of {self.taken.accuracy:.1%} {on}."
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
    (taken, correct), *others = trials
    best, best_correct = max(others, key=lambda trial: trial[0].accuracy)
    is_better = _is_clearly_better(best_correct, correct)
    return Advice(taken, tuple(choice for choice, _ in others), best if is_better else None, len(correct))


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
    z = read_rows(store.embeddings, rows, at_least_single(store.embeddings.dtype))
    sample = _Sample(z, np.asarray(store.labels)[rows], parts, class_names, head_weight)
    quick = replace(clustering, n_init=1, memory_limit=None)
    trials = [_choice(sample, similarity, quick)]
    for name in _SIMILARITIES:
        is_wide = name == "mahalanobis" and min(z.shape) > _WIDEST_FOR_COVARIANCE
        if name != similarity and not is_wide and not (name == "head" and head_weight is None):
            trials.append(_choice(sample, name, quick))
    if not isinstance(clustering.n_prototypes, Mapping | str):
        largest = np.median(np.bincount(sample.labels)) / _LEAST_PER_PROTOTYPE
        different = [number for number in numbers if number != clustering.n_prototypes and number <= largest]
        trials += [_choice(sample, similarity, replace(quick, n_prototypes=number)) for number in different]
    return trials


def choose_similarity(
    store: EmbeddingStore, class_names: list[str], head_weight: Tensor | None, clustering: Clustering
) -> str:
    """Returns the similarity that does best on held-out training samples.

    The paper's ``"l2"`` stays if no other is more accurate by half a point. Whether the gain is beyond chance is not
    asked: on few samples hardly any is, and a choice costs nothing if two similarities are equally good.

    Raises:
        LookalikeError: If there are too many classes, or too few samples, to choose by.
    """
    trials = _try_choices(store, class_names, head_weight, "l2", clustering, numbers=())
    if trials is None:
        raise LookalikeError(
            f"similarity='auto' needs at most {_MOST_CLASSES} classes, and two samples of one; name a similarity"
        )
    (taken, _), *others = trials
    best, _ = max(others, key=lambda trial: trial[0].accuracy)
    return best.similarity if best.accuracy > taken.accuracy + _LEAST_GAIN_OF_CHOICE else "l2"


@dataclass(frozen=True)
class _Sample:
    """Training samples, and how they are divided to be predicted in turn.

    Attributes:
        z: Embeddings [n, D].
        labels: Their classes [n].
        parts: The part of each sample in each division [R, n], from 0; −1 for the only sample of a class.
        class_names: K names.
        head_weight: Weights of the black box's head [K, D], or None.
        prototypes: Prototypes and their classes that were found among the embeddings as they are: similarities that
            cluster in this space share them.
        similarities: Fitted similarities that are the same for all samples.
    """

    z: np.ndarray
    labels: np.ndarray
    parts: np.ndarray
    class_names: list[str]
    head_weight: Tensor | None
    prototypes: dict[tuple[int, int, str], tuple[Tensor, Tensor]] = field(default_factory=dict)
    similarities: dict[str, Similarity] = field(default_factory=dict)

    def fitted(self, name: str, rows: np.ndarray) -> Similarity:
        """Returns a similarity, fitted to some of the samples; only once if it learns nothing of them."""
        if name in self.similarities:
            return self.similarities[name]
        similarity = make_similarity(name).fit(self.z[rows], self.labels[rows], self.head_weight)
        if similarity.fits_to in ("nothing", "head"):
            self.similarities[name] = similarity
        return similarity


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
    correct = _correct(sample, similarity, clustering)
    return Choice(similarity, clustering.to_dict()["n_prototypes"], float(correct.mean())), correct


@torch.no_grad()
def _correct(sample: _Sample, name: str, clustering: Clustering) -> np.ndarray:
    """Returns the share of divisions [n] in which each held-out sample is predicted correctly."""
    clustering = _with_numbers(sample, name, clustering)
    correct = np.zeros(len(sample.labels))
    for division, parts in enumerate(sample.parts):
        for part in range(parts.max() + 1):
            is_test = parts == part
            similarity, z = sample.fitted(name, ~is_test), torch.from_numpy(sample.z)
            is_plain = type(similarity).project is Similarity.project
            if similarity.falls_with_distance:  # the same answers, without a way back from its space for each class
                similarity, z = make_similarity("l2"), similarity.project(z)
            shared = (division, part, str(clustering.n_prototypes))
            found = sample.prototypes.get(shared) if is_plain else None
            if found is None:
                train = z[torch.from_numpy(~is_test)].numpy()
                found = _prototypes(train, sample.labels[~is_test], sample.class_names, similarity, clustering)
                if is_plain:
                    sample.prototypes[shared] = found
            vectors, owners = found
            similarities = similarity(z[torch.from_numpy(is_test)], vectors)
            correct[is_test] += owners[similarities.argmax(1)].numpy() == sample.labels[is_test]
    held_out: np.ndarray = correct[sample.parts[0] >= 0] / len(sample.parts)
    return held_out


def _with_numbers(sample: _Sample, name: str, clustering: Clustering) -> Clustering:
    """Settles ``"auto"`` numbers of prototypes once, on all samples, in the space of the similarity."""
    if clustering.n_prototypes != "auto":
        return clustering
    space = sample.fitted(name, np.full(len(sample.labels), True)).project(torch.from_numpy(sample.z)).numpy()
    numbers = dict.fromkeys(range(len(sample.class_names)), 1)
    for k in np.unique(sample.labels).tolist():
        members = space[sample.labels == k]
        numbers[k] = choose_n_clusters(members, clusterer=clustering.clusterer, seed=clustering.seed)
    return replace(clustering, n_prototypes=numbers)


def _prototypes(
    z: np.ndarray, labels: np.ndarray, class_names: list[str], similarity: Similarity, clustering: Clustering
) -> tuple[Tensor, Tensor]:
    """Clusters each class without a word about classes with fewer samples than prototypes."""
    numbers = numbers_per_class(clustering.n_prototypes, class_names)
    classes = np.unique(labels).tolist()
    vectors = [learn_class(z[labels == k], k, class_names[k], similarity, clustering, numbers[k])[0] for k in classes]
    counts = torch.tensor([len(vectors_of_class) for vectors_of_class in vectors])
    return torch.cat(vectors), torch.tensor(classes).repeat_interleave(counts)


def _is_clearly_better(first: np.ndarray, second: np.ndarray) -> bool:
    """Returns whether the first is better on the same samples by a point, and by more than chance would give."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    error = difference.std() / np.sqrt(len(difference))
    return bool(difference.mean() > max(_LEAST_GAIN, _CERTAIN * error))
