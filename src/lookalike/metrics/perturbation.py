"""Deletion and insertion: how a prediction changes when pixels are removed or added, the most relevant first.

Co-12: correctness.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.draws import seeded, uniform
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import keeps_torch_settings
from lookalike.metrics.robustness import ProbabilityCurves, Scorer


@dataclass(frozen=True)
class PixelCurves(ProbabilityCurves):
    """Probability of a class against the share of pixels that are deleted or inserted.

    Attributes:
        fractions: Share of the pixels that are deleted or inserted [S + 1], from 0 to 1.
        probabilities: Probability of the class predicted for the full image, image by image [N, S + 1].
        options: Number of steps, baseline, and whether the order was random.
    """

    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def area(self) -> float:
        """The mean area over images: lower is better for deletion, higher for insertion."""
        return float(self.areas.mean())


def deletion(
    score: Scorer,
    inputs: Tensor,
    relevance: Tensor | None,
    *,
    baseline: Tensor | float = 0.0,
    n_steps: int = 20,
    seed: int = 0,
    batch_size: int = 256,
) -> PixelCurves:
    """Deletes pixels, the most relevant first, and tracks the predicted class's probability; a small area is good.

    The area under p(c | x with the k most relevant pixels set to the baseline), k from none to all (Petsiuk et al.
    2018; Quantus: ``PixelFlipping``), in [0, 1]. Co-12: correctness. Compare it with a random order: deleting pixels
    makes images unlike any that the network was trained on.

    Args:
        score: Maps inputs to class probabilities [n, K]; the tracked class is the one predicted for the full image.
        inputs: Images [N, C, H, W].
        relevance: Relevance per pixel [N, H, W]; None takes a random order.
        baseline: Replacement for deleted pixels: a value, one per channel [C], or images [N, C, H, W].
        n_steps: Number of equal steps S.
        seed: Seed of the random order.
        batch_size: Most rows that pass through the model at once.

    Raises:
        LookalikeError: If the shapes do not fit, or ``n_steps`` is less than 1.
    """
    return _curves(score, inputs, relevance, baseline, n_steps, seed, batch_size, insert=False)


def insertion(
    score: Scorer,
    inputs: Tensor,
    relevance: Tensor | None,
    *,
    baseline: Tensor | float = 0.0,
    n_steps: int = 20,
    seed: int = 0,
    batch_size: int = 256,
) -> PixelCurves:
    """Inserts pixels into the baseline, the most relevant first, and tracks the predicted class; a large area is good.

    The area under p(c | baseline with the k most relevant pixels of x), k from none to all (Petsiuk et al. 2018), in
    [0, 1]. Co-12: correctness. Arguments and errors are the same as for ``deletion``.
    """
    return _curves(score, inputs, relevance, baseline, n_steps, seed, batch_size, insert=True)


@keeps_torch_settings
@torch.no_grad()
def _curves(
    score: Scorer,
    inputs: Tensor,
    relevance: Tensor | None,
    baseline: Tensor | float,
    n_steps: int,
    seed: int,
    batch_size: int,
    *,
    insert: bool,
) -> PixelCurves:
    n_steps = checks.whole_number("n_steps", n_steps, 1)
    seed = checks.seed("seed", seed)
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    shape = checked_images(score, inputs, relevance)
    n, n_pixels = len(inputs), shape[0] * shape[1]
    replacement = as_images("baseline", baseline, inputs)
    order = random_relevance(n, shape, seed) if relevance is None else relevance
    ranks = ranks_of(order).view(n, 1, 1, *shape).to(inputs.device)
    counts = torch.tensor([round(step * n_pixels / n_steps) for step in range(n_steps + 1)])
    per_batch = max(1, batch_size // (n_steps + 1))
    probabilities = []
    for start in range(0, n, per_batch):
        rows = slice(start, start + per_batch)
        x, base = inputs[rows, None], replacement[rows, None]
        changed = ranks[rows] < counts.view(1, -1, 1, 1, 1).to(inputs.device)  # [n, S + 1, 1, H, W]
        images = torch.where(changed, x, base) if insert else torch.where(changed, base, x)
        scores = torch.cat([score(batch) for batch in images.flatten(0, 1).split(batch_size)])
        scores = scores.view(len(x), n_steps + 1, -1)
        target_classes = scores[:, -1 if insert else 0].argmax(1)  # the full image is the last (insertion) or the first
        probabilities.append(
            scores.gather(2, target_classes.view(-1, 1, 1).expand(-1, n_steps + 1, 1))[..., 0].double().cpu()
        )
    described_baseline = (
        baseline if isinstance(baseline, int | float) else f"a tensor {tuple(torch.as_tensor(baseline).shape)}"
    )
    options = {"n_steps": n_steps, "baseline": described_baseline, "random_order": relevance is None, "seed": seed}
    return PixelCurves(counts.double() / n_pixels, torch.cat(probabilities), options)


def ranks_of(relevance: Tensor) -> Tensor:
    """Returns each pixel's rank [N, F], 0 for the most relevant; ties are ranked in row-major order."""
    return relevance.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def random_relevance(n: int, shape: tuple[int, int], seed: int) -> Tensor:
    """Draws random relevance [n, H, W], seeded per image: it does not depend on the number of images."""
    # the factor keeps the images' seeds of one run apart from those of another, for up to a million images
    maps = [uniform(shape, seeded(seed * 1_000_003 + row)) for row in range(n)]
    return torch.stack(maps)


def checked_images(score: Any, inputs: Any, relevance: Any) -> tuple[int, int]:
    """Checks the arguments shared by the measures that change pixels; returns height and width.

    Raises:
        LookalikeError: If the inputs are not images [N, C, H, W], or relevance is not [N, H, W] and finite.
    """
    if not callable(score):
        raise checks.unfit("score", score, "a function")
    checks.instance("inputs", inputs, Tensor, "a tensor [N, C, H, W]")
    if inputs.ndim != 4 or not len(inputs):
        raise LookalikeError(f"images have the shape [N, C, H, W], not {tuple(inputs.shape)}")
    height, width = int(inputs.shape[2]), int(inputs.shape[3])
    if relevance is not None:
        checks.instance("relevance", relevance, Tensor, "a tensor [N, H, W]")
        if relevance.shape != (len(inputs), height, width):
            raise LookalikeError(
                f"{len(inputs)} images of {height}×{width} need relevance of shape {(len(inputs), height, width)}, "
                f"not {tuple(relevance.shape)}"
            )
        if not bool(relevance.isfinite().all()):
            raise LookalikeError("relevance has values that are not finite, so pixels cannot be ordered by it")
    return height, width


def as_images(name: str, values: Tensor | float, inputs: Tensor) -> Tensor:
    """Expands a value, one value per channel [C], or images to the inputs' shape [N, C, H, W]."""
    tensor = checks.tensor(name, values, kind="number").to(inputs)
    if tensor.ndim == 1:
        tensor = tensor.view(1, -1, 1, 1)
    try:
        return tensor.expand_as(inputs)
    except RuntimeError as error:
        raise checks.unfit(name, tensor, f"a value, one per channel, or {tuple(inputs.shape)}") from error
