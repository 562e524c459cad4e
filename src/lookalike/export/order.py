"""Sorting in which equal values keep their order, in the way that a file's format can express."""

from torch import Tensor


class StableOrder:
    """Finds the largest values of rows; of equal values the lower column comes first, as in ``explain``.

    Attributes:
        by_topk: Use ``topk``, which keeps the order of equal values in ONNX, where a stable sort has no form. In torch
            it does not, so there a stable sort is used.
    """

    def __init__(self) -> None:
        self.by_topk = False

    def largest(self, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Returns the k largest values of rows [N, P] in descending order [N, k], and their columns [N, k]."""
        if self.by_topk:
            found, columns = values.topk(k, dim=1)
            return found, columns
        ordered, columns = values.sort(dim=1, descending=True, stable=True)
        return ordered[:, :k], columns[:, :k]
