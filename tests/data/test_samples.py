"""Parts of data sets, and parts of parts."""

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from lookalike.data.samples import whole_data_set

DATA = TensorDataset(10 * torch.arange(6))


@pytest.mark.parametrize(
    ("part", "rows", "expected"),
    [
        (DATA, None, None),
        (DATA, [2, 0], [2, 0]),
        (Subset(DATA, [5, 1, 3]), None, [5, 1, 3]),
        (Subset(DATA, [5, 1, 3]), [2, 0], [3, 5]),
        (Subset(Subset(DATA, [5, 1, 3, 0]), [3, 0, 1]), None, [0, 5, 1]),
        (Subset(Subset(DATA, [5, 1, 3, 0]), [3, 0, 1]), [2], [1]),
        (Subset(DATA, []), None, []),
    ],
)
def test_rows_of_a_part_of_a_part_are_those_of_the_whole(part, rows, expected):
    whole, found = whole_data_set(part, None if rows is None else np.array(rows))
    assert whole is DATA
    assert (None if found is None else found.tolist()) == expected
    if rows is None and found is not None:
        assert [int(whole[row][0]) for row in found] == [int(part[i][0]) for i in range(len(part))]
