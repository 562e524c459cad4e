"""Wording that several commands, pages and messages share."""

import difflib
from collections.abc import Iterable


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Returns a number with its noun in the singular or the plural.

    Args:
        number: The number.
        singular: The noun for one, such as ``"image"``.
        plural: The noun for any other number; by default with an s.

    Example:
        >>> counted(1, "image"), counted(2_000, "image"), counted(0, "class", "classes")
        ('1 image', '2,000 images', '0 classes')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def counted_of(number: int, total: int, singular: str) -> str:
    """Returns how many of a total there are, with the noun in the number of the total.

    Example:
        >>> counted_of(1, 3, "image"), counted_of(0, 1, "image")
        ('1 of 3 images', '0 of 1 image')
    """
    return f"{number:,} of {counted(total, singular)}"


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """Returns the end of a message on an unknown name: the known names with the most similar spelling, if any.

    Example:
        >>> did_you_mean("cosin", ["l2", "cosine"]), did_you_mean("x", ["l2", "cosine"])
        ("; did you mean 'cosine'?", '')
    """
    similar = difflib.get_close_matches(name, list(known), n=most)
    return f"; did you mean {', '.join(map(repr, similar))}?" if similar else ""


# What "unfamiliar" means, of a model that was not calibrated and of one that was; docs/glossary.md defines it in full.
UNFAMILIAR_BY_DISTANCE = (
    "it is farther from its nearest prototype than every training image behind that prototype (where those are fewer "
    "than ten, all images of the class count, or all of the data)"
)
UNFAMILIAR_BY_NOVELTY = "its novelty score is higher than that of nearly all validation images"


UNFAMILIAR_BY_PATCHES = (
    "its nearest patch is farther from the prototype than every training patch behind that prototype (where those are "
    "fewer than ten, all patches of the class count, or all of the data)"
)


def samples(of_patches: object) -> str:
    """Returns what training samples are: images, or in a model of patches, patches of images."""
    return "patches" if of_patches else "images"


def why_unfamiliar(*, is_calibrated: bool, of_patches: bool) -> str:
    """Returns why an input, "it", is called unfamiliar: the same words in every text of the program."""
    if of_patches:
        return UNFAMILIAR_BY_PATCHES
    return UNFAMILIAR_BY_NOVELTY if is_calibrated else UNFAMILIAR_BY_DISTANCE
