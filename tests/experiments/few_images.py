"""A few images of a data set, for experiments that train on them."""

from dataclasses import replace

import numpy as np

from lookalike.data import DataBundle


def few_of(whole: DataBundle, n_train: int, n_test: int) -> DataBundle:
    """Returns training images drawn by a seed and the first test images, with their attributes if there are any."""
    rows, first = np.random.default_rng(0).permutation(len(whole.train))[:n_train], np.arange(n_test)
    attributes = whole.attributes
    if attributes is not None:
        attributes = replace(attributes, train=attributes.train[rows], test=attributes.test[first])
    return replace(whole, train=whole.train.select(rows), test=whole.test.select(first), attributes=attributes)
