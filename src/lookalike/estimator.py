"""The method on plain arrays: per-class clustering, then the nearest prototype."""

import copy
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from lookalike._core import checks
from lookalike.conversion.per_class import DEFAULT_N_PROTOTYPES, Clustering, NPrototypes, learn_prototypes
from lookalike.conversion.survey import survey
from lookalike.conversion.temperature import TemperatureOption, check_temperature, choose_temperature
from lookalike.model.classifier import NearestPrototype
from lookalike.model.similarity import make_similarity


class PrototypeClassifier(ClassifierMixin, BaseEstimator):
    """Classifies by the most similar of a few prototypes per class: KMEx on embeddings of any modality.

    Args:
        n_prototypes: Number per class: one for all classes, ``"auto"``, or a mapping from class to number, in which the
            key None stands for all other classes.
        similarity: The name of a registered similarity.
        similarity_options: Options of the similarity, e.g. ``{"sigma": 2.0}``.
        clusterer: The name of a registered clusterer.
        probabilities: ``"max"`` or ``"sum"``; see ``lookalike.model.classifier.NearestPrototype``. With ``"sum"`` the
            most probable class can differ from the predicted one, which scikit-learn's contract does not foresee.
        temperature: Similarities are divided by it before they become probabilities. ``"auto"`` fits it to samples held
            out from the prototypes.
        n_init: Number of random starts of the clustering, of which the best counts.
        random_state: Seed, or None for a new one at each fit.

    Attributes:
        classes_: The classes, of shape (n_classes,).
        prototypes_: The prototypes, of shape (n_prototypes, n_features).
        prototype_classes_: The class of each prototype, of shape (n_prototypes,).
        survey_: The prototypes with counts, purity and nearest samples (``lookalike.Prototypes``).
        similarity_: The fitted similarity.
        temperature_: The temperature and how it was fitted (``lookalike.conversion.temperature.Temperature``).
        n_features_in_: Number of features seen during fit.

    References:
        Gautam et al., "Prototypical Self-Explainable Models Without Re-training", TMLR 2024, section 3.2.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> Z, y = load_iris(return_X_y=True)
        >>> model = PrototypeClassifier(n_prototypes=2).fit(Z, y)
        >>> model.prototypes_.shape
        (6, 4)
        >>> round(model.score(Z, y), 2)
        0.95
    """

    def __init__(
        self,
        n_prototypes: NPrototypes = DEFAULT_N_PROTOTYPES,
        *,
        similarity: str = "l2",
        similarity_options: Mapping[str, Any] | None = None,
        clusterer: str = "kmeans",
        probabilities: Literal["max", "sum"] = "max",
        temperature: TemperatureOption = "auto",
        n_init: int = 10,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_prototypes = n_prototypes
        self.similarity = similarity
        self.similarity_options = similarity_options
        self.clusterer = clusterer
        self.probabilities = probabilities
        self.temperature = temperature
        self.n_init = n_init
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Finds the prototypes.

        Args:
            X: Embeddings of shape (n_samples, n_features).
            y: Classes of shape (n_samples,).

        Returns:
            The fitted estimator.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        checks.whole_number("n_init", self.n_init, 1)
        checks.optional(checks.mapping, "similarity_options", self.similarity_options)
        self.similarity_ = copy.deepcopy(make_similarity(self.similarity, self.similarity_options)).fit(X, labels)
        NearestPrototype(self.probabilities)
        temperature = check_temperature(self.temperature)
        seed = _seed(self.random_state)
        number: NPrototypes = self.n_prototypes
        if isinstance(number, Mapping):  # from class to number; 1 and 1.0 are one class, and None is all others
            names = {value: str(value) for value in self.classes_.tolist()}
            number = {key if key is None else names.get(key, str(key)): count for key, count in number.items()}
        learned = learn_prototypes(
            X,
            labels,
            [str(value) for value in self.classes_.tolist()],
            self.similarity_,
            Clustering(number, self.clusterer, self.n_init, seed),
        )
        self.survey_ = survey(learned, self.similarity_, X, labels)
        self.temperature_ = choose_temperature(
            temperature, X, labels, learned, self.similarity_, reading=self.probabilities, seed=seed
        )
        self.classifier_ = NearestPrototype(self.probabilities, self.temperature_.value)
        self.prototypes_ = learned.vectors.numpy()
        self.prototype_classes_ = self.classes_[learned.labels.numpy()]
        return self

    def similarities(self, X: Any) -> np.ndarray:
        """Returns similarities to all prototypes, of shape (n_samples, n_prototypes)."""
        return self._similarities(X).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Returns the predicted classes, of shape (n_samples,)."""
        similarities = self._similarities(X)
        with torch.no_grad():
            scores = self.classifier_(similarities, self.survey_.labels, len(self.classes_))
        return np.asarray(self.classes_[scores.argmax(1).numpy()])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns class probabilities, of shape (n_samples, n_classes)."""
        similarities = self._similarities(X)
        with torch.no_grad():
            return self.classifier_.probabilities(similarities, self.survey_.labels, len(self.classes_)).numpy()

    def _similarities(self, X: Any) -> torch.Tensor:
        """Returns similarities to all prototypes as a tensor."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        with torch.no_grad():
            # in double precision, so that a row's result does not depend on the other rows
            z = torch.from_numpy(np.ascontiguousarray(X, dtype=np.float64))
            return self.similarity_(z, self.survey_.vectors.double())  # type: ignore[no-any-return]


def _seed(random_state: int | np.random.RandomState | None) -> int:
    """Returns a seed for a ``random_state`` as scikit-learn defines it."""
    if isinstance(random_state, int | np.integer):
        return checks.seed("random_state", random_state)
    from sklearn.utils import check_random_state

    return int(check_random_state(random_state).randint(2**31 - 1))
