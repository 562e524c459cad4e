"""Which rows of its data set a ``DataLoader`` draws: a part of them, but never in a random order."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from lookalike._core.untouched import random_states, undoing


def rows_drawn_by(loader: DataLoader[Any]) -> np.ndarray | None:
    """Returns the indices of the samples that a loader draws, ascending; None for all samples."""
    if isinstance(loader.dataset, IterableDataset):
        return None
    batch_sampler: Any = loader.batch_sampler
    sampler: Any = batch_sampler.sampler if type(batch_sampler) is BatchSampler else None
    if batch_sampler is None:
        return None
    if draws_by_rule(sampler):
        return rows_with_weight(sampler, len(loader.dataset))  # type: ignore[arg-type]
    restore = save_random_states(sampler, batch_sampler)
    drawn = undoing(restore, lambda: list(sampler) if sampler is not None else _flatten(batch_sampler))
    return np.unique(np.asarray(drawn, dtype=np.int64))


def rows_in_order(loader: DataLoader[Any]) -> list[int] | None:
    """Returns the samples that a loader draws, in its order and as often as it draws them.

    Returns:
        None if it draws all in order, at random, or from a stream.
    """
    batch_sampler: Any = loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset) or batch_sampler is None:
        return None
    sampler: Any = batch_sampler.sampler if type(batch_sampler) is BatchSampler else None
    if draws_by_rule(sampler):
        return None

    def draw() -> list[int]:
        return [int(row) for row in (list(sampler) if sampler is not None else _flatten(batch_sampler))]

    first, second = undoing(save_random_states(sampler, batch_sampler), lambda: (draw(), draw()))
    return first if first == second else None


def draws_by_rule(sampler: Any) -> bool:
    """Whether a sampler draws from all samples, in order or by chance.

    Prototypes must not depend on a random order or on random draws: every sample that can be drawn is read once.
    """
    return isinstance(sampler, SequentialSampler | RandomSampler | WeightedRandomSampler)


def rows_with_weight(sampler: Any, n_samples: int) -> np.ndarray | None:
    """Returns the samples that such a sampler can draw, ascending; None for all ``n_samples``."""
    if not isinstance(sampler, WeightedRandomSampler):
        return None
    rows = np.flatnonzero(np.asarray(sampler.weights) > 0)
    return None if len(rows) == n_samples else rows


def save_random_states(*samplers: Any) -> Callable[[], None]:
    """Saves the global random states and those of the samplers; returns a function that restores them."""
    restore_global = random_states()
    owners = [*samplers, *(getattr(sampler, "sampler", None) for sampler in samplers)]
    generators = [g for g in (getattr(owner, "generator", None) for owner in owners) if isinstance(g, torch.Generator)]
    states = [generator.get_state() for generator in generators]

    def restore() -> None:
        restore_global()
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    return restore


def _flatten(sampler: BatchSampler | Any) -> list[int]:
    return [index for batch in sampler for index in batch]
