"""A gallery of a model's prototypes, with a row per class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.plots.tiles import CAPTION, GAP, INK, LINE, MUTED, TILE_INCHES, draw_tile, new_axes, shorten, tile_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEGEND = "below: number of the prototype: its training images · purity"
_SHORT_LEGEND = "below: its training images · purity"
_DECODED = "left: decoded, right: nearest training image · "
_LEGEND_WIDTH = 3.4  # tiles; a narrower gallery would cut off the legend
_NAME_LENGTH = 18  # characters of a class name
_FILE_LENGTH = 17  # characters of a file name, below a tile


@dataclass(frozen=True)
class Captions:
    """What is written below each prototype of a gallery: a line of figures, and lines for its names, if there are any.

    Attributes:
        counts: Number of training samples in each prototype's cluster [P].
        purity: Share of the training samples most similar to a prototype that are of its class [P]; NaN without any.
        numbered: Begin captions with the prototypes' numbers; without them, captions are short.
        names: File name of each prototype's nearest training image [P], drawn below the figures; None for no name.
        titles: Name that a person gave each prototype [P], drawn below that; None for no name.
    """

    counts: np.ndarray
    purity: np.ndarray
    numbered: bool = True
    names: Sequence[str | None] | None = None
    titles: Sequence[str | None] | None = None

    def checked(self, n_prototypes: int) -> "Captions":
        """Returns a copy whose values are checked; titles that are all empty are left out.

        Raises:
            LookalikeError: If there are not as many of each as there are prototypes.
        """
        checks.flag("numbered", self.numbered)
        for kind in ("names", "titles"):
            texts = getattr(self, kind)
            if texts is not None and len(texts) != n_prototypes:
                raise LookalikeError(f"there are {n_prototypes} prototypes and {len(texts)} {kind}")
        return replace(
            self,
            counts=checks.array("counts", self.counts, (n_prototypes,)),
            purity=checks.array("purity", self.purity, (n_prototypes,)),
            titles=self.titles if self.titles is not None and any(self.titles) else None,
        )

    @property
    def n_name_lines(self) -> int:
        """Number of lines below the line of figures."""
        return (self.names is not None) + (self.titles is not None)

    def of(self, prototype: int) -> str:
        """Returns the caption of one prototype."""
        count, purity = self.counts[prototype], float(self.purity[prototype])
        unused = "unused" if self.numbered else "–"
        caption = f"{count:,} · " + (unused if np.isnan(purity) else f"{purity:.0%}")
        lines = [f"{prototype}: {caption}" if self.numbered else caption]
        if self.names is not None:
            lines.append(shorten(PurePath(self.names[prototype] or "").name, _FILE_LENGTH))
        if self.titles is not None:
            lines.append(shorten(self.titles[prototype] or "", _FILE_LENGTH))
        return "\n".join(lines)


def plot_gallery(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    captions: Captions,
    *,
    classes: Sequence[int] | None = None,
    decoded: np.ndarray | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws each prototype as its nearest training images, with its number of training images and its purity below.

    Args:
        images: Nearest training images uint8 [P, M, H, W, C], nearest first.
        labels: Labels of the prototypes [P].
        class_names: Names of the K classes.
        captions: What is written below each prototype.
        classes: Classes to draw; None draws all that have prototypes.
        decoded: Images of the prototypes by the model's own decoder, uint8 [P, H, W, C], drawn first.
        ax: Axes to draw on; None makes a figure that fits.

    Returns:
        The Axes.
    """
    class_names = checks.names("class_names", class_names)
    images = checks.array("images", images, ("P", "M", "H", "W", "C"))
    labels = checks.labels_of("labels", labels, class_names, len(images))
    captions = checks.instance("captions", captions, Captions, "Captions").checked(len(images))
    if classes is not None:
        classes = checks.labels_of("classes", classes, class_names).tolist()
    if decoded is not None:
        decoded = checks.array("decoded", decoded, (len(images), *images.shape[2:]))
    classes_drawn = sorted({int(k) for k in labels}) if classes is None else list(classes)
    prototypes_by_class = [np.flatnonzero(labels == k) for k in classes_drawn]
    if decoded is not None:
        images = np.concatenate([decoded[:, None], images], 1)
    per_prototype = images.shape[1]
    row_names = [shorten(class_names[k], _NAME_LENGTH) for k in classes_drawn]
    margin, row_height = _name_width(row_names), 1 + CAPTION + LINE * captions.n_name_lines
    columns, rows = _extent(row_names, max((len(m) for m in prototypes_by_class), default=1), per_prototype, row_height)
    ax = tile_axes(ax, columns, rows)
    for row, prototypes in enumerate(prototypes_by_class):
        y = row * row_height
        ax.text(margin - 0.15, y + 0.5, row_names[row], ha="right", va="center", fontsize=10, color=INK)
        for column, j in enumerate(prototypes):
            x = margin + column * (per_prototype + GAP)
            caption = captions.of(int(j))
            for rank in range(per_prototype):
                draw_tile(ax, images[j, rank], x + rank, y, caption=caption if rank == 0 else "", size=0.96)
    legend = ("" if decoded is None else _DECODED) + (_LEGEND if captions.numbered else _SHORT_LEGEND)
    ax.text(0.1, rows - LINE, legend, ha="left", va="center", fontsize=7.5, color=MUTED, style="italic")
    return ax


def gallery_axes(
    class_names: Sequence[str], per_class: int, per_prototype: int = 1, *, named: bool = False, titled: bool = False
) -> "Axes":
    """Makes a figure that fits a gallery, without a window. Save it with ``ax.figure.savefig``."""
    return new_axes(gallery_size(class_names, per_class, per_prototype, named=named, titled=titled))


def gallery_size(
    class_names: Sequence[str], per_class: int, per_prototype: int = 1, *, named: bool = False, titled: bool = False
) -> tuple[float, float]:
    """Returns the width and height in inches that fit a gallery.

    Args:
        class_names: Names of the classes.
        per_class: Largest number of prototypes of a class.
        per_prototype: Number of images of each prototype.
        named: Make room for file names.
        titled: Make room for names that people gave the prototypes.
    """
    class_names = checks.names("class_names", class_names)
    per_class = checks.whole_number("per_class", per_class, 0)
    per_prototype = checks.whole_number("per_prototype", per_prototype, 1)
    row_height = 1 + CAPTION + LINE * (named + titled)
    row_names = [shorten(name, _NAME_LENGTH) for name in class_names]
    columns, rows = _extent(row_names, per_class, per_prototype, row_height)
    return columns * TILE_INCHES, rows * TILE_INCHES


def _name_width(names: Sequence[str]) -> float:
    return 0.3 + 0.07 * max((len(name) for name in names), default=1)


def _extent(names: Sequence[str], per_class: int, per_prototype: int, row_height: float) -> tuple[float, float]:
    """Returns the gallery's width and height in tiles, with a line for the legend."""
    width = _name_width(names) + per_class * (per_prototype + GAP)
    return max(width, _LEGEND_WIDTH), max(len(names), 1) * row_height + 2 * LINE
