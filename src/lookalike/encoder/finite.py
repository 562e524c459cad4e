"""Refuses inputs whose embeddings are not finite: no prototype is nearest to them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError, listing

_N_LISTED = 5


def zeros_if_finite(embeddings: Tensor) -> Tensor:
    """Returns a number for each embedding [N]: 0 if it is finite, else NaN.

    On a GPU, asking for two operations takes less time than ``isfinite``, which is five.
    """
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2:
        raise no_embeddings(embeddings)
    return embeddings.mul(0).sum(1)


def no_embeddings(found: Any) -> LookalikeError:
    """Returns the error for an encoder that returns something else than embeddings."""
    what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    return LookalikeError(
        f"the encoder returns {what} and not embeddings [N, D]; wrap it so that it returns one tensor with a row per "
        "input"
    )


def check_zeros(zeros: Tensor, first: int = 0) -> None:
    """Checks that every input has a finite embedding, from what ``zeros_if_finite`` returned of them.

    This waits for a GPU: call it when all has been asked for.

    Args:
        zeros: [N].
        first: The row number of the first input.

    Raises:
        LookalikeError: If one is not finite.
    """
    zeros = zeros.cpu()
    if zeros.any():  # NaN is not 0
        check_finite_rows(zeros == 0, first=first)


def check_finite_rows(finite: Tensor, names: Sequence[str | None] | None = None, first: int = 0) -> None:
    """Checks that every input has a finite embedding.

    Args:
        finite: Whether the embedding of each input is finite [N].
        names: The names of the inputs for the message; None uses row numbers.
        first: The row number of the first input.

    Raises:
        LookalikeError: If one is not finite; the message names the first five.
    """
    rows = torch.nonzero(~finite.cpu())[:, 0].tolist()
    if not rows:
        return
    row_names = [(None if names is None else names[row]) or f"row {first + row}" for row in rows]
    raise LookalikeError(
        f"{len(rows)} inputs have embeddings with NaN or infinite values, so that no prototype is nearest to them: "
        f"{listing(row_names, _N_LISTED)}; look for NaN or infinite values in the inputs"
    )
