"""Inputs whose embeddings are not finite: refused, as no class is nearest to them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError, listing

_NAMED = 5


def check_finite_rows(finite: Tensor, names: Sequence[str] | None = None, first: int = 0) -> None:
    """Checks that every input has a finite embedding.

    Args:
        finite: Whether the embedding of each input is [N].
        names: What the inputs are called; None names them by their rows.
        first: The row of the first of them.

    Raises:
        LookalikeError: If one has not; it names the first five.
    """
    rows = torch.nonzero(~finite.cpu())[:, 0].tolist()
    if not rows:
        return
    called = [f"row {first + row}" if names is None else str(names[row]) for row in rows]
    raise LookalikeError(
        f"{len(rows)} inputs have embeddings with NaN or infinite values, so that no prototype is nearest to them: "
        f"{listing(called, _NAMED)}; look for NaN or infinite values in the inputs"
    )
