"""What half precision changes, measured on rows of the pass itself, as it goes."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.embedding.precision import computing
from lookalike.embedding.rows import Finish
from lookalike.encoder import Encoder
from lookalike.encoder.calls import take_rows
from lookalike.encoder.shadow import shadow_of

_MOST_ROWS = 64
# One compared row in 512 takes about 2% of the pass: alone and in float32, a row takes up to ten times as long.
_ROWS_PER_COMPARED = 512
_ROWS_TOGETHER = 8  # of the compared rows on a GPU, where a row alone takes as long as these
_NOTE = "compared_from_"  # followed by a batch's first row; the sums of its compared rows
EFFECT = "precision_effect"


class PrecisionEffect:
    """Computes some rows of each batch in float32 too, in a copy of the network without its hooks.

    The compared rows are spread over the whole pass, one in 512, at least one and at most 64; on a GPU, eight follow
    each other. Which ones depends on the length of the pass alone, so that a resumed pass compares the same rows.

    Args:
        encoder: The encoder of the pass.
        total: Number of rows of the whole pass; None if unknown.
        device: Device of the encoder.
    """

    def __init__(self, encoder: Encoder, total: int | None, device: torch.device) -> None:
        self._encoder = encoder
        self._device = device
        wanted = _MOST_ROWS if total is None else max(1, min(_MOST_ROWS, total // _ROWS_PER_COMPARED))
        self._spacing = _ROWS_PER_COMPARED if total is None else max(1, total // wanted)
        self._last = wanted * self._spacing
        self._together = 1 if device.type == "cpu" else min(_ROWS_TOGETHER, wanted)
        self._trial: Encoder | None = None

    def compare(
        self, start: int, inputs: Any, finish: Finish | None, z: Tensor, scores: Tensor | None
    ) -> Tensor | None:
        """Compares some rows of a batch.

        Args:
            start: Number of the batch's first row in the pass.
            inputs: The batch's inputs.
            finish: Turns inputs into the network's input, or None.
            z: The batch's embeddings [n, D] in half precision.
            scores: Its class scores [n, K], if any.

        Returns:
            [4], on the device: number of rows, sums of ‖z′ − z‖ and of ‖z‖, and rows with the same predicted class
            (NaN without class scores). None if no row is compared or the copy fails.
        """
        groups = self._groups(start, len(z))
        if not groups:
            return None
        try:
            self._trial = self._trial or shadow_of(self._encoder)
            parts = []
            for group in groups:
                part = take_rows(inputs, group)
                with (
                    torch.random.fork_rng(devices=[]),
                    torch.autocast(self._device.type, enabled=False),
                    computing("float32", self._device) if self._together == 1 else contextlib.nullcontext(),
                ):
                    parts.append(self._trial.embed_and_score(part if finish is None else finish(part)))
        except Exception:  # the user's code may raise any error; the pass itself has succeeded
            return None
        rows = [row for group in groups for row in range(group.start, group.stop)]
        exact = torch.cat([part for part, _ in parts]).float()
        difference = (z[rows].float() - exact).norm(dim=1).sum()
        same = torch.full((), torch.nan, device=z.device)
        if scores is not None and scores.ndim == 2 and scores.shape[1] > 1 and parts[0][1] is not None:
            exact_scores = torch.cat([part for _, part in parts if part is not None])
            same = (exact_scores.argmax(1) == scores[rows].argmax(1)).float().sum()
        return torch.stack([torch.full_like(same, len(rows)), difference, exact.norm(dim=1).sum(), same.to(difference)])

    def _groups(self, start: int, n: int) -> list[slice]:
        """Returns the rows to compare of a batch of n rows, of which the first has the number ``start`` in the pass."""
        spacing, end = self._spacing * self._together, min(start + n, self._last)
        first_group = start - start % spacing
        groups = [(max(group, start), min(group + self._together, end)) for group in range(first_group, end, spacing)]
        return [slice(first - start, last - start) for first, last in groups if first < last]


def note_of(start: int, sums: np.ndarray) -> dict[str, Any]:
    """Returns a batch's sums as a note, which a resumed pass keeps."""
    return {f"{_NOTE}{start}": [float(value) for value in sums]}


def summarised(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns notes with the sums of all batches put together.

    ``precision_effect`` has ``rows``, the number of compared rows; ``deviation``, the mean of ‖z′ − z‖ divided by the
    mean of ‖z‖; and, if there are class scores, ``same_predictions``, the share of rows with an unchanged class. It is
    None if no row could be compared.
    """
    others = {name: value for name, value in notes.items() if not name.startswith(_NOTE)}
    if notes.get("precision") == "float32" or EFFECT in notes:
        return others
    sums = [value for name, value in notes.items() if name.startswith(_NOTE)]
    if not sums:
        return {**others, EFFECT: None}
    rows, difference, norm, same = np.sum(sorted(sums), axis=0).tolist()
    effect = {"rows": rows, "deviation": difference / max(norm, 1e-12)}
    return {**others, EFFECT: effect if np.isnan(same) else {**effect, "same_predictions": same / rows}}
