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

_BATCH = 32
_MAP_SIDE = 72
_ROWS = 8192


@dataclass(frozen=True)
class Samples:
    """What the report shows of the test data.

    Attributes:
        shown: An entry per image to browse, as plain JSON values.
        decides: How many test images each prototype decides.
        notes: What the reader is to be told about the heat-maps.
    """

    shown: list[dict[str, Any]]
    decides: Counter[int]
    notes: list[str] = field(default_factory=list)


@torch.no_grad()
def samples_of(
    model: PrototypeModel,
    data: Batches,
    store: EmbeddingStore,
    theirs: Tensor | None,
    n_browse: int,
    n_nearest: int,
    rules: tuple[str, PrpRule],
    progress: bool | Advance | None,
) -> Samples:
    """Chooses test images, wrong and disagreeing ones first, and explains them.

    Args:
        model: The prototype model.
        data: The test data.
        store: Their embeddings.
        theirs: The black box's predictions [N], or None.
        n_browse: The most images to show.
        n_nearest: How many prototypes to show for each.
        rules: Of relevance propagation: the composite, and how it starts at the similarity layer.
        progress: Show a progress bar.

    Raises:
        LookalikeError: If the data are no images, or cannot be read again.
    """
    if not data.can_fetch:
        raise LookalikeError("a report shows test images, and an iterable data set cannot be asked for single ones")
    similarities, probabilities = _decide(model, store)
    predicted = probabilities.argmax(1)
    nearest = similarities.topk(min(n_nearest, similarities.shape[1]), dim=1)
    labels = aligned_labels(store, model, "test")
    rows = _chosen(predicted, labels, theirs, n_browse)
    shown: list[dict[str, Any]] = []
    notes: list[str] = []
    with progress_bar("Explaining", len(rows), progress) as advance:
        for part in torch.tensor(rows).split(_BATCH):
            indices = store.indices[part.numpy()]
            inputs = place(data.fetch(indices), model.device, dtype_of(model.encoder))
            pixels = model.to_pixels(inputs) if isinstance(inputs, Tensor) else None
            if pixels is None:
                raise LookalikeError("a report shows test images; these inputs are none, or their range is not known")
            maps, told = _likeness_maps(model, inputs, nearest.indices[part], rules, first=not shown)
            notes += [note for note in told if note not in notes]
            for position, row in enumerate(part.tolist()):
                image = pixels[position].numpy()
                drawn = [] if maps is None else [shares(one) for one in maps[position]]
                limit = common_limit(drawn) if drawn else 0.0
                shown.append(
                    {
                        "name": data.describe(int(indices[position])),
                        "true": int(labels[row]),
                        "predicted": int(predicted[row]),
                        "black_box": None if theirs is None else int(theirs[row]),
                        "probability": round(float(probabilities[row, predicted[row]]), 4),
                        "image": picture(image),
                        "near": [
                            {
                                "prototype": int(nearest.indices[row, rank]),
                                "similarity": float(f"{float(nearest.values[row, rank]):.4g}"),
                                "map": picture(paint(drawn[rank], limit, image), _MAP_SIDE) if drawn else None,
                            }
                            for rank in range(nearest.indices.shape[1])
                        ],
                    }
                )
            advance(len(part))
    return Samples(shown, Counter(nearest.indices[:, 0].tolist()), notes)


def _likeness_maps(
    model: PrototypeModel, inputs: Tensor, chosen: Tensor, rules: tuple[str, PrpRule], *, first: bool
) -> tuple[np.ndarray | None, list[str]]:
    """Returns heat-maps [n, M, H, W], or None where there can be none, and what the reader is to be told of them.

    The stability of the unstable rule ``share`` is measured on the first batch.
    """
    composite, rule = rules
    try:
        relevance = prp(model, inputs, chosen, composite, rule=rule)
    except RelevanceError as error:
        return None, [f"there are no heat-maps: {error}"]
    notes = [] if relevance.caution is None else [relevance.caution]
    if first and rule == "share":
        stability = prp_stability(model, inputs, chosen, relevance.pixels, composite, rule)
        notes.append(
            f"heat-maps by rule 'share' change with small noise: noise of 1% leaves a correlation of "
            f"{float(stability.nanmean()):.2f} on the first {len(inputs)} images"
        )
    return relevance.pixels.float().cpu().numpy(), notes


def _decide(model: PrototypeModel, store: EmbeddingStore) -> tuple[Tensor, Tensor]:
    """Returns similarities [N, P] and probabilities [N, K] of stored embeddings."""
    similarities, probabilities = [], []
    for rows in store.parts(_ROWS):
        z = torch.from_numpy(np.array(store.embeddings[rows])).to(model.device)
        similarities.append(model.similarities_of(z).cpu())
        probabilities.append(model.probabilities_of(z).cpu())
    return torch.cat(similarities), torch.cat(probabilities)


def _chosen(predicted: Tensor, labels: Tensor, theirs: Tensor | None, most: int) -> list[int]:
    """Returns which rows to show, in order: all if they fit, else wrong and disagreeing ones, then others spread."""
    n = len(labels)
    if n <= most:
        return list(range(n))
    telling = predicted != labels
    if theirs is not None:
        telling |= predicted != theirs
    first = torch.nonzero(telling)[:most, 0]
    others = torch.nonzero(~telling)[:, 0]
    wanted = most - len(first)
    spread = others[torch.linspace(0, len(others) - 1, wanted).long().unique()] if wanted > 0 else others[:0]
    found: list[int] = torch.cat([first, spread]).sort().values.tolist()
    return found
