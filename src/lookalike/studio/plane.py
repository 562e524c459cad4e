"""The embedding in a plane, for the map: by its main axes, t-SNE, or UMAP where ``umap-learn`` is installed."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np

from lookalike._core.errors import LookalikeError

Method = Literal["pca", "tsne", "umap"]

_MOST_FOR_PCA = 4_000  # points
_MOST_FOR_NEIGHBOURS = 1_500  # t-SNE takes about ten seconds for so many


def methods() -> list[Method]:
    """Returns the methods that can be used here."""
    return ["pca", "tsne", *(["umap"] if find_spec("umap") else [])]  # type: ignore[list-item]


def most_points(method: Method) -> int:
    """Returns how many training images a map shows at most."""
    return _MOST_FOR_PCA if method == "pca" else _MOST_FOR_NEIGHBOURS


@dataclass(frozen=True)
class MainAxes:
    """The plane of the two main axes of embeddings.

    Attributes:
        centre: Their mean [D].
        axes: The axes [2, D].
    """

    centre: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, embeddings: np.ndarray) -> "MainAxes":
        """Finds the axes of embeddings [N, D]."""
        centre = embeddings.mean(0)
        return cls(centre, np.linalg.svd(embeddings - centre, full_matrices=False)[2][:2])

    def lay(self, points: np.ndarray) -> np.ndarray:
        """Returns the positions of points [n, D] in the plane [n, 2]."""
        return (points - self.centre) @ self.axes.T  # type: ignore[no-any-return]


def in_plane(embeddings: np.ndarray, prototypes: np.ndarray, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """Lays embeddings in a plane, and prototypes with them.

    By the main axes of the embeddings, the prototypes do not move a point. t-SNE and UMAP lay both together, since they
    know no place for what they have not seen; distances far apart mean nothing there.

    Args:
        embeddings: [N, D].
        prototypes: [P, D].
        method: How.

    Returns:
        Positions of the embeddings [N, 2] and of the prototypes [P, 2].

    Raises:
        LookalikeError: If the method cannot be used here.
    """
    if method not in methods():
        extra = ": pip install umap-learn" if method == "umap" else f"; there are: {', '.join(methods())}"
        raise LookalikeError(f"no map by {method!r} here{extra}")
    if method == "pca":
        axes = MainAxes.of(embeddings)
        return axes.lay(embeddings), axes.lay(prototypes)
    both = np.concatenate([embeddings, prototypes])
    if len(both) < 5:
        raise LookalikeError(f"{len(both)} points are too few for a map by {method!r}; choose 'pca'")
    if method == "tsne":
        from sklearn.manifold import TSNE

        laid = TSNE(perplexity=min(30, (len(both) - 1) / 3), init="pca", random_state=0).fit_transform(both)
    else:
        from umap import UMAP

        laid = UMAP(n_neighbors=min(15, len(both) - 1), random_state=0, n_jobs=1).fit_transform(both)
    return laid[: len(embeddings)], laid[len(embeddings) :]
