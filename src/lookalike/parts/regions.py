"""Regions of a grid: connected parts, and where they are, in words."""

import numpy as np


def connected(mask: np.ndarray) -> list[np.ndarray]:
    """Returns the connected parts of a mask [h, w], each a mask; positions are neighbours by sides and corners.

    Example:
        >>> [part.tolist() for part in connected(np.array([[True, False, True]]))]
        [[[True, False, False]], [[False, False, True]]]
    """
    from scipy.ndimage import label

    numbered, n_parts = label(mask, structure=np.ones((3, 3), int))
    return [numbered == number for number in range(1, n_parts + 1)]


def place_of(mask: np.ndarray) -> str:
    """Returns where a mask [h, w] lies, in words.

    Example:
        >>> place_of(np.array([[True, False, False]] * 3)), place_of(np.ones((3, 3), bool))
        ('on the left', 'in the middle')
    """
    rows, columns = np.nonzero(mask)
    vertical = _third((rows.mean() + 0.5) / mask.shape[0], ("at the top", "", "at the bottom"))
    horizontal = _third((columns.mean() + 0.5) / mask.shape[1], ("on the left", "", "on the right"))
    if vertical and horizontal:
        return f"{vertical} {horizontal.removeprefix('on the ')}"
    return vertical or horizontal or "in the middle"


def _third(share: float, words: tuple[str, str, str]) -> str:
    return words[min(int(share * 3), 2)]
