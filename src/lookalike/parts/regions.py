"""Regions of a grid: connected parts, and where they are, in words."""

import numpy as np

_NEARLY_ALL = 0.75  # share of the positions
_HALF = 0.6  # of a side: a mask within it is in one place; 4 of 7 positions are
_LEAST_PIECE = 0.1  # of a mask: a smaller piece is drawn, and not named
_FEW_PLACES = 2  # more are not listed
_PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


def connected(mask: np.ndarray) -> list[np.ndarray]:
    """Returns the connected parts of a mask [h, w], each a mask; positions are neighbours by sides and corners.

    Example:
        >>> [part.tolist() for part in connected(np.array([[True, False, True]]))]
        [[[True, False, False]], [[False, False, True]]]
    """
    from scipy.ndimage import label

    numbered, n_parts = label(mask, structure=np.ones((3, 3), int))
    return [numbered == number for number in range(1, n_parts + 1)]


def part_of(mask: np.ndarray) -> str:
    """Returns a mask [h, w] of an image in words.

    Example:
        >>> part_of(np.array([[True, False, False]] * 3)), part_of(np.ones((3, 3), bool))
        ('the part on the left', 'nearly all of it')
    """
    return "nearly all of it" if mask.mean() >= _NEARLY_ALL else f"the part {place_of(mask)}"


def place_of(mask: np.ndarray) -> str:
    """Returns where a mask [h, w] lies, in words that follow "the part".

    A connected mask is where its middle is. One of several pieces is where these are: a mean of two corners would be
    the middle, where nothing of it is.

    Example:
        >>> place_of(np.array([[True, False, False]] * 3)), place_of(np.ones((3, 3), bool))
        ('on the left', 'that is nearly all of it')
        >>> place_of(np.array([[True, True, True], [True, False, True], [True, False, False]]))
        'around the middle'
        >>> place_of(np.eye(7, dtype=bool) & (abs(np.arange(7) - 3) == 3))
        'at the top left and at the bottom right'
    """
    if mask.mean() >= _NEARLY_ALL:
        return "that is nearly all of it"
    pieces = sorted(connected(mask), key=lambda piece: -int(piece.sum()))
    is_middle = mask[mask.shape[0] // 2, mask.shape[1] // 2]
    through = "across the middle" if is_middle else "around the middle"
    if len(pieces) == 1:
        place = _place_of_piece(mask)
        return through if place == _PLACES[1][1] and _is_large(mask) else place
    large = [piece for piece in pieces if piece.sum() >= _LEAST_PIECE * mask.sum()] or pieces[:1]
    places = list(dict.fromkeys(map(place_of, large)))
    if len(places) <= _FEW_PLACES:
        return " and ".join(places)
    if _reaches_all_sides(mask):
        return through
    return f"mostly {places[0]}" if 2 * large[0].sum() >= mask.sum() else "in several places"


def _place_of_piece(mask: np.ndarray) -> str:
    """Returns the ninth of the image that the middle of a mask is in."""
    rows, columns = ((cells + 0.5) / side for cells, side in zip(np.nonzero(mask), mask.shape, strict=True))
    return _PLACES[_third(rows.mean())][_third(columns.mean())]


def _is_large(mask: np.ndarray) -> bool:
    """Whether a mask reaches over more than half of the image in some direction."""
    return any((np.ptp(cells) + 1) / side > _HALF for cells, side in zip(np.nonzero(mask), mask.shape, strict=True))


def _reaches_all_sides(mask: np.ndarray) -> bool:
    """Whether a mask reaches the outer thirds of the image in both directions."""
    rows, columns = ((cells + 0.5) / side for cells, side in zip(np.nonzero(mask), mask.shape, strict=True))
    return all(_third(where.min()) == 0 and _third(where.max()) == 2 for where in (rows, columns))


def _third(share: float) -> int:
    """Returns which third of the image a position is in, 0 to 2."""
    return min(int(share * 3), 2)
