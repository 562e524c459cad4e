"""What plain classifiers reach on the same embedding: the comparison for an encoder without a head [ours]."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from lookalike._core.errors import LookalikeError
from lookalike._core.intervals import Share, paired_difference
from lookalike.metrics.context import Context, rows_of, rows_per_batch
from lookalike.metrics.sections import SectionResult, section

_ROWS = 8192  # samples that are compared with the means at once
MOST = 20_000  # training samples for logistic regression and the nearest neighbour


@dataclass(frozen=True)
class PlainClassifier:
    """A classifier on the embedding, and the prototype model beside it.

    Attributes:
        accuracy: Its accuracy on the test samples.
        difference: The prototype model's accuracy minus this one's, with its interval.
    """

    accuracy: float
    difference: Share

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def plain_predictions(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """Predicts the classes of test embeddings by three plain classifiers fitted to training embeddings.

    Logistic regression is that of scikit-learn (C = 1) on standardised embeddings; 1-NN and the nearest mean use
    Euclidean distances. Of more than 20,000 training samples, 20,000 are drawn for the first two.

    Args:
        train: Training embeddings [N, D].
        train_labels: Their classes [N].
        test: Test embeddings [M, D].
        seed: Seed for drawing samples.

    Returns:
        Predicted classes [M] by name: ``logistic_regression``, ``nearest_neighbour``, ``nearest_mean``.

    Raises:
        LookalikeError: If there is only one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train_labels)) < 2:
        raise LookalikeError("plain classifiers on the embedding need at least two classes")
    test = np.asarray(test, dtype=np.float32)
    rows = np.arange(len(train))
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), MOST, replace=False))
    drawn, labels = np.asarray(train[rows], dtype=np.float32), train_labels[rows]
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classes, means = _class_means(train, train_labels)
    return {
        "logistic_regression": regression.fit(drawn, labels).predict(test),
        "nearest_neighbour": KNeighborsClassifier(1).fit(drawn, labels).predict(test),
        "nearest_mean": classes[
            np.concatenate([_nearest(part, means) for part in np.array_split(test, len(test) // _ROWS + 1)])
        ],
    }


def _class_means(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the classes that occur [K] and their mean embeddings [K, D], read part by part."""
    classes, of_class = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(classes), embeddings.shape[1]))
    for start in range(0, len(embeddings), _ROWS):
        part = np.asarray(embeddings[start : start + _ROWS], dtype=np.float64)
        members = np.zeros((len(classes), len(part)))
        members[of_class[start : start + _ROWS], np.arange(len(part))] = 1
        sums += members @ part
    return classes, sums / np.bincount(of_class)[:, None]


def _nearest(points: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Returns the number of the nearest mean of each point."""
    nearest: np.ndarray = (np.square(means).sum(1) - 2 * points.astype(np.float64) @ means.T).argmin(1)
    return nearest


def compare_on_embedding(
    predicted: np.ndarray, labels: np.ndarray, others: dict[str, np.ndarray]
) -> dict[str, PlainClassifier]:
    """Compares a model's predictions with those of other classifiers on the same samples.

    Args:
        predicted: The model's predictions [M].
        labels: True classes [M].
        others: Predictions of the others [M], by name.
    """
    correct, results = predicted == labels, {}
    for name, other in others.items():
        other_correct = other == labels
        only_model, only_other = int((correct & ~other_correct).sum()), int((~correct & other_correct).sum())
        difference = paired_difference(only_model, only_other, len(labels))
        results[name] = PlainClassifier(float(other_correct.mean()), difference)
    return results


@section("same_embedding", "train", "no black box")
def _same_embedding(context: Context, _run: int) -> SectionResult:
    """Compares a model that has no black box with plain classifiers on its embedding."""
    model, test, train, train_labels = context.model, context.test_store, context.train_store, context.train_labels
    assert train is not None  # needed
    assert train_labels is not None
    if len(torch.unique(train_labels)) < 2:
        return {}, {}
    with torch.no_grad():
        predicted = torch.cat([
            model.scores_of(rows_of(test, rows, model.device)).argmax(1).cpu()
            for rows in test.parts(rows_per_batch(model))
        ])  # fmt: skip
    if len(train) > MOST:
        context.note(
            f"logistic regression and 1-NN on the embedding are of {MOST:,} of the {len(train):,} training images"
        )
    plain_classifiers = plain_predictions(
        np.asarray(train.embeddings), train_labels.numpy(), np.asarray(test.embeddings), seed=context.options.seed
    )
    compared = compare_on_embedding(predicted.numpy(), context.labels.numpy(), plain_classifiers)
    figures = {f"accuracy_{name}": result.accuracy for name, result in compared.items()}
    return figures, {name: result.to_dict() for name, result in compared.items()}
