"""The test images to browse, with their nearest prototypes and heat-maps."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError, RelevanceError
from lookalike._core.progress import Advance, progress_bar
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore
from lookalike.encoder import dtype_of, place
from lookalike.metrics.context import aligned_labels
from lookalike.model import PrototypeModel
from lookalike.plots.heatmap import common_limit, paint, shares
from lookalike.relevance import PrpRule, prp, prp_stability
from lookalike.report.pictures import picture

_BATCH = 32  # images explained at once
_MAP_SIDE = 72  # pixels of a heat-map's longer side
_ROWS = 8192  # embeddings compared with the prototypes at once


@dataclass(frozen=True)
class Samples:
    """Explained test images of a report.

    Attributes:
        entries: An entry per image to browse, as JSON values.
        decisions: Number of test images that each prototype decides.
        notes: Notes about the heat-maps for the reader.
    """

    entries: list[dict[str, Any]]
    decisions: Counter[int]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Decisions:
    """Decisions of a model on all test images.

    Attributes:
        labels: Labels [N], in the model's numbering.
        probabilities: Class probabilities [N, K].
        predicted: Predicted classes [N].
        box_predictions: The black box's predictions [N], or None.
        nearest: Nearest prototypes [N, M], nearest first.
        similarities: Similarities to the nearest prototypes [N, M].
    """

    labels: Tensor
    probabilities: Tensor
    predicted: Tensor
    box_predictions: Tensor | None
    nearest: Tensor
    similarities: Tensor


@torch.no_grad()
def explain_samples(
    model: PrototypeModel,
    data: Batches,
    store: EmbeddingStore,
    box_predictions: Tensor | None,
    n_browse: int,
    n_nearest: int,
    rules: tuple[str, PrpRule],
    progress: bool | Advance | None,
) -> Samples:
    """Selects test images, wrong and disagreeing ones first, and explains them.

    Args:
        model: Prototype model.
        data: Test data.
        store: Embeddings of the test data.
        box_predictions: The black box's predictions [N], or None.
        n_browse: Largest number of images to show.
        n_nearest: Number of prototypes to show for each image.
        rules: Composite of relevance propagation, and rule by which relevance starts at the similarity layer.
        progress: Show a progress bar.

    Raises:
        LookalikeError: If the data are not images, or cannot be read again.
    """
    if not data.can_fetch:
        raise LookalikeError("a report shows test images, which cannot be read one by one from an iterable data set")
    similarities, probabilities = _similarities_and_probabilities(model, store)
    predicted, labels = probabilities.argmax(1), aligned_labels(store, model, "test")
    nearest = similarities.topk(min(n_nearest, similarities.shape[1]), dim=1)
    decisions = _Decisions(labels, probabilities, predicted, box_predictions, nearest.indices, nearest.values)
    rows_to_show = _rows_to_show(predicted, labels, box_predictions, n_browse)
    entries: list[dict[str, Any]] = []
    notes: list[str] = []
    with progress_bar("Explaining", len(rows_to_show), progress) as advance:
        for rows in torch.tensor(rows_to_show).split(_BATCH):
            indices = store.indices[rows.numpy()]
            inputs = place(data.fetch(indices), model.device, dtype_of(model.encoder))
            pixels = model.to_pixels(inputs) if isinstance(inputs, Tensor) else None
            if pixels is None:
                raise LookalikeError("a report shows test images; these inputs are not images or have no known range")
            maps, new_notes = _likeness_maps(model, inputs, nearest.indices[rows], rules, first=not entries)
            notes += [note for note in new_notes if note not in notes]
            entries += [
                {"name": data.describe(int(indices[position]))}
                | _entry(decisions, row, pixels[position].numpy(), None if maps is None else maps[position])
                for position, row in enumerate(rows.tolist())
            ]
            advance(len(rows))
    return Samples(entries, Counter(nearest.indices[:, 0].tolist()), notes)


def _entry(decisions: _Decisions, row: int, image: np.ndarray, maps: np.ndarray | None) -> dict[str, Any]:
    """Returns what the page's script needs of a test image, as JSON values.

    Args:
        decisions: Decisions on all test images.
        row: Row of the image among them.
        image: Pixels [H, W, C].
        maps: Heat-maps of the nearest prototypes [M, H, W], or None.
    """
    nearest, similarities = decisions.nearest[row].tolist(), decisions.similarities[row].tolist()
    predicted, box_predictions = int(decisions.predicted[row]), decisions.box_predictions
    relevance_shares = [] if maps is None else [shares(relevance) for relevance in maps]
    limit = common_limit(relevance_shares) if relevance_shares else 0.0
    return {
        "true": int(decisions.labels[row]),
        "predicted": predicted,
        "black_box": None if box_predictions is None else int(box_predictions[row]),
        "probability": round(float(decisions.probabilities[row, predicted]), 4),
        "image": picture(image),
        "near": [
            {
                "prototype": prototype,
                "similarity": float(f"{similarity:.4g}"),
                "map": picture(paint(relevance_shares[rank], limit, image), _MAP_SIDE) if relevance_shares else None,
            }
            for rank, (prototype, similarity) in enumerate(zip(nearest, similarities, strict=True))
        ],
    }


def _likeness_maps(
    model: PrototypeModel, inputs: Tensor, prototypes: Tensor, rules: tuple[str, PrpRule], *, first: bool
) -> tuple[np.ndarray | None, list[str]]:
    """Returns heat-maps [n, M, H, W], or None if there can be none, and notes about them for the reader.

    Maps by the rule ``share`` change with small noise, so their stability is measured on the first batch.
    """
    composite, rule = rules
    try:
        relevance = prp(model, inputs, prototypes, composite, rule=rule)
    except RelevanceError as error:
        return None, [f"there are no heat-maps: {error}"]
    notes = [] if relevance.caution is None else [relevance.caution]
    if first and rule == "share":
        stability = prp_stability(model, inputs, prototypes, relevance.pixels, composite, rule)
        notes.append(
            f"heat-maps by rule 'share' change with small noise: noise of 1% leaves a correlation of "
            f"{float(stability.nanmean()):.2f} on the first {len(inputs)} images"
        )
    return relevance.pixels.float().cpu().numpy(), notes


def _similarities_and_probabilities(model: PrototypeModel, store: EmbeddingStore) -> tuple[Tensor, Tensor]:
    """Returns similarities [N, P] and probabilities [N, K] of stored embeddings."""
    similarities, probabilities = [], []
    for rows in store.parts(_ROWS):
        z = torch.from_numpy(np.array(store.embeddings[rows])).to(model.device)
        similarities.append(model.similarities_of(z).cpu())
        probabilities.append(model.probabilities_of(z).cpu())
    return torch.cat(similarities), torch.cat(probabilities)


def _rows_to_show(predicted: Tensor, labels: Tensor, box_predictions: Tensor | None, n_rows: int) -> list[int]:
    """Returns the rows to show, in order.

    If there are too many, wrong and disagreeing ones come first; evenly spaced others fill the remaining number.
    """
    n = len(labels)
    if n <= n_rows:
        return list(range(n))
    wrong_or_disagreeing = predicted != labels
    if box_predictions is not None:
        wrong_or_disagreeing |= predicted != box_predictions
    first_rows = torch.nonzero(wrong_or_disagreeing)[:n_rows, 0]
    other_rows = torch.nonzero(~wrong_or_disagreeing)[:, 0]
    n_others = n_rows - len(first_rows)
    spread_rows = (
        other_rows[torch.linspace(0, len(other_rows) - 1, n_others).long().unique()] if n_others > 0 else other_rows[:0]
    )
    rows: list[int] = torch.cat([first_rows, spread_rows]).sort().values.tolist()
    return rows
