"""Regions of a grid: connected parts, and where they are, in words."""

import numpy as np

_NEARLY_ALL = 0.75  # share of the positions


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
    """Returns where a mask [h, w] lies, in words that follow "the part".

    Example:
        >>> place_of(np.array([[True, False, False]] * 3)), place_of(np.ones((3, 3), bool))
        ('on the left', 'that is nearly all of it')
        >>> place_of(np.array([[True, True, True], [True, False, False], [False, False, True]]))
        'around the middle'
    """
    if mask.mean() >= _NEARLY_ALL:
        return "that is nearly all of it"
    rows, columns = ((where + 0.5) / side for where, side in zip(np.nonzero(mask), mask.shape, strict=True))
    if all(_thirds(where) == {0, 1, 2} for where in (rows, columns)):
        return "around the middle" if not mask[mask.shape[0] // 2, mask.shape[1] // 2] else "across the middle"
    vertical = ("at the top", "", "at the bottom")[_third(rows.mean())]
    horizontal = ("on the left", "", "on the right")[_third(columns.mean())]
    if vertical and horizontal:
        return f"{vertical} {horizontal.removeprefix('on the ')}"
    return vertical or horizontal or "in the middle"


def _third(share: float) -> int:
    """Returns which third of the image a position is in, 0 to 2."""
    return min(int(share * 3), 2)


def _thirds(shares: np.ndarray) -> set[int]:
    return {_third(share) for share in shares}
