"""A map of the embedding with its prototypes (paper, Figure 1)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.plots.tiles import INK, as_label, plain_axes, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEW_DOTS = 300
_MOST_IN_LEGEND = 20  # classes; a legend of more does not fit beside the map
_IN_SQUARE = 2  # letters of a class name that fit into a square


def project_2d(
    embeddings: np.ndarray, prototypes: np.ndarray, *, method: Literal["pca", "umap"] = "pca", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Projects embeddings and prototypes to two dimensions.

    Args:
        embeddings: Embeddings [N, D].
        prototypes: Prototypes [P, D].
        method: ``"pca"``, or ``"umap"`` (extra: ``umap``).
        seed: Seed of the projection.

    Returns:
        Points of the embeddings [N, 2] and of the prototypes [P, 2].

    Raises:
        LookalikeError: If the method is unknown, or its package is not installed.
    """
    checks.one_of("method", method, ("pca", "umap"))
    seed = checks.seed("seed", seed)
    embeddings = checks.points("embeddings", embeddings)
    prototypes = checks.points("prototypes", prototypes)
    if prototypes.shape[1] != embeddings.shape[1] or min(embeddings.shape) < 2:
        raise LookalikeError(
            "a map needs two embeddings or more, of two dimensions or more, and prototypes of as many dimensions, not "
            f"{embeddings.shape} and {prototypes.shape}"
        )
    if method == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(2, random_state=seed).fit(embeddings)
        return pca.transform(embeddings), pca.transform(prototypes)
    try:
        from umap import UMAP
    except ImportError as error:
        raise LookalikeError("this map needs UMAP: pip install umap-learn") from error
    n = len(embeddings)
    projected = UMAP(n_components=2, random_state=seed, n_jobs=1).fit_transform(
        np.concatenate([embeddings, prototypes])
    )
    return projected[:n], projected[n:]


def plot_map(
    points: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    prototypes: np.ndarray,
    prototype_labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws embeddings as dots and prototypes as squares, in their classes' colours. Short names are in the squares.

    Args:
        points: Projected embeddings [N, 2].
        labels: Labels of the embeddings [N].
        prototypes: Projected prototypes [P, 2].
        prototype_labels: Labels of the prototypes [P].
        class_names: Names of the K classes.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.
    """
    class_names = checks.names("class_names", class_names)
    points, prototypes = checks.array("points", points, ("N", 2)), checks.array("prototypes", prototypes, ("P", 2))
    labels = checks.labels_of("labels", labels, class_names, len(points))
    prototype_classes = checks.labels_of("prototype_labels", prototype_labels, class_names, len(prototypes))
    ax = plain_axes(ax, (5.4, 3.8))
    classes = np.unique(prototype_classes)
    # Names in the squares distinguish the classes for colour-blind readers, too.
    names_fit = all(len(class_names[int(k)]) <= _IN_SQUARE for k in classes)
    # few dots stand alone and must be seen; many lie upon each other, and each adds to their cloud
    size, opacity = (22, 0.85) if len(points) <= _FEW_DOTS else (10, 0.6)
    for position, (k, colour) in enumerate(zip(classes, _class_colours(len(classes)), strict=True)):
        ax.scatter(
            points[labels == k, 0],
            points[labels == k, 1],
            s=size,
            color=colour,
            alpha=opacity,
            linewidths=0,
            rasterized=True,
        )
        ax.scatter(
            prototypes[prototype_classes == k, 0],
            prototypes[prototype_classes == k, 1],
            s=80 if names_fit else 42,
            marker="s",
            color=colour,
            edgecolors="black",
            linewidths=0.9,
            label=as_label(shorten(class_names[int(k)], 14)),
            zorder=3 + 0.01 * position,
        )
        name, text_order = shorten(class_names[int(k)], _IN_SQUARE), 3.005 + 0.01 * position
        for x, y in prototypes[prototype_classes == k] if names_fit else ():
            style: dict[str, Any] = {"fontsize": 7, "weight": "bold", "color": "white"}
            ax.text(x, y, name, ha="center", va="center_baseline", zorder=text_order, **style)
    ax.set_xticks([])
    ax.set_yticks([])
    if len(classes) <= _MOST_IN_LEGEND:
        ax.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, labelcolor=INK, title="class",
            title_fontsize=8,
        )  # fmt: skip
    return ax


def _class_colours(n_classes: int) -> list[tuple[float, ...]]:
    """Returns a colour for each class: distinct ones for up to 20 classes, else from a continuous scale."""
    from matplotlib import colormaps

    if n_classes <= 20:
        palette = colormaps["tab10" if n_classes <= 10 else "tab20"]
        return [palette(position) for position in range(n_classes)]
    return [colormaps["turbo"](position / (n_classes - 1)) for position in range(n_classes)]
