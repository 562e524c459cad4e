"""What the positions of a feature map see of the image, found by running the network.

Which pixels a position depends on is found with bands of NaN pixels: NaN spreads to all that depends on a pixel. Where
a position sees the whole image, as with attention or a deep network, that gives no stride; larger images do: the map
has one more row for each stride.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lookalike._core.extent import Extent

_HALF_PIXEL = 0.5
_MOST_CELLS, _SMALL = 3, 48  # images are enlarged by so many cells, and small ones by up to so many pixels


@dataclass(frozen=True)
class LayerView:
    """What the positions of one layer see of the image, found by running the network.

    Attributes:
        name: The layer's name; ``"last"`` for the map that is pooled, if no module returns it.
        grid: Height and width of the layer's own map.
        stride: Pixels from one position to the next, down and across.
        receptive_field: Pixels that a position in the middle depends on, down and across, cut off at the border.
        extent: The part of the image that the cells of the grid cover: top, left, bottom, right, as shares of height
            and width. It is less than the image in a network that cuts off a part, or convolves without padding, and
            more, below 0 or above 1, in one that adds a border. Where half a cell or less is missing at a border, as
            with padding, the cells are spread up to it.
    """

    name: str
    grid: tuple[int, int]
    stride: tuple[float, float]
    receptive_field: tuple[int, int]
    extent: Extent


class Viewer:
    """Runs a network to find what the positions of one of its layers see.

    Args:
        name: The layer's name.
        grid: Height and width of the layer's map.
        blank: An image of zeros [1, C, H, W].
        map_of: Returns the layer's map [n, D, h, w] of images of that size.
        grid_of: Returns height and width of the layer's map of images of any size; None if it has none.
    """

    def __init__(
        self,
        name: str,
        grid: tuple[int, int],
        blank: Tensor,
        map_of: Callable[[Tensor], Tensor],
        grid_of: Callable[[Tensor], tuple[int, int] | None],
    ) -> None:
        self.name, self.grid = name, grid
        self._blank, self._map_of, self._grid_of = blank, map_of, grid_of

    def view(self) -> LayerView:
        """Returns all that is found.

        Raises:
            UnfitInputsError: If the network cannot run images with NaN pixels.
        """
        down, across = self._axes()
        return LayerView(
            self.name, self.grid, (down.stride, across.stride), (down.field(), across.field()), _extent(down, across)
        )

    def extent(self) -> Extent:
        """Returns the part of the image that the cells of the grid cover.

        Raises:
            UnfitInputsError: If the network cannot run images with NaN pixels.
        """
        return _extent(*self._axes())

    def _axes(self) -> tuple["_Axis", "_Axis"]:
        strides = self._strides_by_growth()
        down, across = (
            _Axis(partial(self._reached, axis), self._blank.shape[axis + 2], n, stride)
            for axis, (n, stride) in enumerate(zip(self.grid, strides, strict=True))
        )
        return down, across

    def _reached(self, axis: int, bands: Sequence[slice]) -> Tensor:
        """Says which rows (axis 0) or columns (axis 1) of the map bands of NaN pixels reach [n, h or w]."""
        x = self._blank.repeat(len(bands), 1, 1, 1)
        for image, band in zip(x, bands, strict=True):
            image.movedim(axis + 1, 0)[band] = torch.nan
        return self._map_of(x).isnan().any(1).any(2 - axis)

    def _strides_by_growth(self) -> list[float | None]:
        """Returns by how many pixels an image must grow for one more row, and column; None where the map stays.

        These are the least growths for one and for two more, found by bisection for both axes in the same passes.
        """
        size = _size_of(self._blank)
        most = [max(_MOST_CELLS * length // n, min(length, _SMALL)) for length, n in zip(size, self.grid, strict=True)]
        if self._grown(most) is None:
            return [None, None]
        growths = []
        for n_further in (1, 2):
            low, high = [0, 0], list(most)  # the map has as many more positions with the second, if ever
            while any(b - a > 1 for a, b in zip(low, high, strict=True)):
                middle = [(a + b) // 2 for a, b in zip(low, high, strict=True)]
                grown = self._grown(middle)
                if grown is None:
                    return [None, None]
                for axis in (0, 1):
                    if grown[axis] >= self.grid[axis] + n_further:
                        high[axis] = middle[axis]
                    else:
                        low[axis] = middle[axis]
            growths.append(high)
        return [
            float(second - first) if 0 < first < second < limit else None
            for first, second, limit in zip(*growths, most, strict=True)
        ]

    def _grown(self, by: Sequence[int]) -> tuple[int, int] | None:
        """Returns the map's height and width for an image that is so many pixels larger; None if it has no map."""
        height, width = _size_of(self._blank)
        try:
            return self._grid_of(self._blank.new_zeros(*self._blank.shape[:2], height + by[0], width + by[1]))
        except Exception:  # whatever error of its own a network raises on images of another size
            return None


class _Axis:
    """The positions of a map along one axis of the image, in pixels.

    Args:
        reached: Says which positions bands of NaN pixels reach [n bands, n positions].
        length: Of the image.
        n: Number of positions.
        stride: From one to the next, if it is known.
    """

    def __init__(self, reached: Callable[[Sequence[slice]], Tensor], length: int, n: int, stride: float | None) -> None:
        self._reached, self.length, self._n = reached, length, n
        at_borders = reached([slice(0, 1), slice(length - 1, length)])
        is_whole = bool(at_borders.any(1).all())
        self._start, self._end = (0, length) if is_whole else self._edges((True, None), (False, None))
        self._reaches_start, self._reaches_end = at_borders[:, n // 2].tolist()
        self._are_ends_cut_off = bool(at_borders[1, 0]) and bool(at_borders[0, n - 1])
        self.stride = stride or self._stride_between_edges() or (self._end - self._start) / n

    def field(self) -> int:
        """Returns how many pixels the middle position depends on."""
        if self._reaches_start and self._reaches_end:
            return self.length
        begin, end = self._edges((True, self._n // 2), (False, self._n // 2))
        return max(end - begin, 1)

    def covered(self) -> tuple[float, float]:
        """Returns where the cells of the positions begin and end."""
        half = self._n * self.stride / 2
        # the last pixels that make no whole stride are seen by none
        start = self._start if self._start > self.stride / 2 else 0
        end = self._end if self.length - self._end > self.stride / 2 else self.length
        if self._n == 1 or abs(2 * half - (end - start)) < _HALF_PIXEL:
            return start, end
        middle = (self._start + self._end) / 2  # of the image, where the ends that follow are cut off
        if not self._are_ends_cut_off:
            # the end of what the first sees, and the beginning of what the last sees, are as far from the middle
            middle = sum(self._edges((False, 0), (True, self._n - 1))) / 2
        near = self.stride / 2 + _HALF_PIXEL
        if abs(middle - half - start) <= near and abs(middle + half - end) <= near:
            return start, end
        return middle - half, middle + half

    def _stride_between_edges(self) -> float | None:
        """Returns the stride from where the fields of the middle and of the last position begin; None if cut off."""
        middle, last = self._n // 2, self._n - 1
        if self._reaches_start or middle == last:
            return None
        begin_of_middle, begin_of_last = self._edges((True, middle), (True, last))
        is_cut_off = begin_of_middle <= self._start or begin_of_last >= self._end
        return None if is_cut_off else (begin_of_last - begin_of_middle) / (last - middle) or None

    def _edges(self, *sought: tuple[bool, int | None]) -> list[int]:
        """Returns where what positions see begins (True) or ends (False); None stands for all positions together.

        An edge is where the widest band of NaN from the border ends that does not reach the position. All are found by
        bisection in the same passes.
        """
        low, high = [0] * len(sought), [self.length + 1] * len(sought)
        while any(b - a > 1 for a, b in zip(low, high, strict=True)):
            widths = [(a + b) // 2 for a, b in zip(low, high, strict=True)]
            reached = self._reached(
                [
                    slice(0, width) if is_begin else slice(self.length - width, self.length)
                    for (is_begin, _), width in zip(sought, widths, strict=True)
                ]
            )
            for number, ((_, position), row) in enumerate(zip(sought, reached, strict=True)):
                is_reached = bool(row.any() if position is None else row[position])
                (high if is_reached else low)[number] = widths[number]
        return [width if is_begin else self.length - width for (is_begin, _), width in zip(sought, low, strict=True)]


def _extent(down: _Axis, across: _Axis) -> Extent:
    (first_row, last_row), (first_column, last_column) = down.covered(), across.covered()
    height, width = down.length, across.length
    return Extent(first_row / height, first_column / width, last_row / height, last_column / width)


def _size_of(images: Tensor) -> tuple[int, int]:
    return int(images.shape[2]), int(images.shape[3])
