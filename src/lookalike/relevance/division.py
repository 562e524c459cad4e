"""Divides images among the passes that compute their maps, and the passes among threads.

Of 40 images of 224² on two cores, a check of six comes first, then passes of equal size, two side by side::

    both cores   images 0–5
    core 1                    images 6–10    images 17–21   images 28–33
    core 2                    images 11–16   images 22–27   images 34–39

Maps need much of Python, which threads share, so that this gains less than it does for bare passes: a tenth to a fifth.
"""

import itertools
from collections.abc import Sequence

from torch import Tensor

from lookalike._core.errors import warn_of
from lookalike.encoder.calls import n_threads, rows_at_once


class Division:
    """Says which images are next.

    Args:
        x: Images [N, C, H, W].
        most: Most images per pass.
        can_divide: Whether passes can be computed side by side.
    """

    def __init__(self, x: Tensor, most: int, *, can_divide: bool) -> None:
        self._n_images, self._n_done = len(x), 0
        self._size = rows_at_once(x, most, x.device)  # 6 images of 224² take a sixth less time each than 16
        # Images so small that their number does not depend on their size take longer in Python, which threads share,
        # than in arithmetic.
        are_large = rows_at_once(x, most + 1, x.device) <= most
        self._n_threads = n_threads(x.device) if can_divide and are_large else 1

    @property
    def n_left(self) -> int:
        """Number of images that have no maps yet."""
        return self._n_images - self._n_done

    def next_parts(self) -> list[slice]:
        """Returns the rows of the passes to compute next, side by side; the first is alone, and so is a single last."""
        n_left = self.n_left
        if self._n_threads == 1 or not self._n_done or n_left <= self._size:
            return [slice(self._n_done, self._n_done + min(self._size, n_left))]
        n_rounds = -(-n_left // (self._size * self._n_threads))
        n_parts = min(n_left, n_rounds * self._n_threads)
        bounds = [self._n_done + n_left * k // n_parts for k in range(min(n_parts, self._n_threads) + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]

    def finish(self, parts: Sequence[slice], *, can_divide: bool) -> None:
        """Goes on behind these parts, side by side if that is still possible."""
        self._n_done = parts[-1].stop
        if not can_divide:
            self._n_threads = 1

    def shrink(self, parts: Sequence[slice]) -> bool:
        """Computes fewer images at once, since there was not enough memory for these parts, and warns of it.

        Returns:
            Whether that is possible.
        """
        n_rows = parts[-1].stop - parts[0].start
        if n_rows == 1:
            return False
        self._n_threads, self._size = 1, n_rows // 2
        warn_of(f"not enough memory for the maps of {n_rows} images at once; going on with {self._size}")
        return True
