"""Deletion and insertion: what becomes of a prediction when pixels go or come, the most relevant first.

Co-12: correctness.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import keeps_torch_settings
from lookalike.metrics.robustness import ProbabilityCurves, Scorer

Order = Literal["most relevant first", "random"]


@dataclass(frozen=True)
class PixelCurves(ProbabilityCurves):
    """How the followed class's probability changes with the pixels that are deleted or inserted.

    Attributes:
        fractions: The share of the pixels that is deleted or inserted [S + 1], from 0 to 1.
        probabilities: Of the class predicted for the whole image, image by image [N, S + 1].
        options: Steps, what took the place of pixels, and whether their order was random.
    """

    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def area(self) -> float:
        """The mean of the areas: of deletion lower is better, of insertion higher."""
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
    advance: Callable[[int], object] | None = None,
) -> PixelCurves:
    """Deletes pixels, the most relevant first, and follows the predicted class; a small area is good.

    The area under p(c | x with the k most relevant pixels set to the baseline), k from none to all (Petsiuk et al.
    2018; Quantus: ``PixelFlipping``), in [0, 1]. Co-12: correctness. A random order is the reference: deleted pixels
    make images that no network was trained on.

    Args:
        score: Maps inputs to class probabilities [n, K]; the class followed is that of the whole image.
        inputs: Images [N, C, H, W].
        relevance: Per pixel [N, H, W]; None takes a random order.
        baseline: What takes the pixels' place: a value, one per channel [C], or images [N, C, H, W].
        n_steps: S equal steps.
        seed: For the random order.
        batch_size: The most rows that pass through the model at once.
        advance: Is called with the number of rows done.

    Raises:
        LookalikeError: If shapes do not fit, or there is no step.
    """
    return _curves(score, inputs, relevance, baseline, n_steps, seed, batch_size, advance, insert=False)


def insertion(
    score: Scorer,
    inputs: Tensor,
    relevance: Tensor | None,
    *,
    baseline: Tensor | float = 0.0,
    n_steps: int = 20,
    seed: int = 0,
    batch_size: int = 256,
    advance: Callable[[int], object] | None = None,
) -> PixelCurves:
    """Inserts pixels into the baseline, the most relevant first, and follows the predicted class; a large area is good.

    The area under p(c | baseline with the k most relevant pixels of x), k from none to all (Petsiuk et al. 2018), in
    [0, 1]. Co-12: correctness. Arguments and errors are those of ``deletion``.
    """
    return _curves(score, inputs, relevance, baseline, n_steps, seed, batch_size, advance, insert=True)


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
    advance: Callable[[int], object] | None,
    *,
    insert: bool,
) -> PixelCurves:
    checks.whole_number("n_steps", n_steps, 1)
    checks.seed("seed", seed)
    shape = checked_images(score, inputs, relevance, batch_size)
    n, n_pixels = len(inputs), shape[0] * shape[1]
    fill = as_images("baseline", baseline, inputs)
    order = random_relevance(n, shape, seed) if relevance is None else relevance
    ranks = ranks_of(order).view(n, 1, 1, *shape).to(inputs.device)
    counts = torch.tensor([round(step * n_pixels / n_steps) for step in range(n_steps + 1)])
    per_batch = max(1, batch_size // (n_steps + 1))
    found = []
    for start in range(0, n, per_batch):
        rows = slice(start, start + per_batch)
        x, base = inputs[rows, None], fill[rows, None]
        touched = ranks[rows] < counts.view(1, -1, 1, 1, 1).to(inputs.device)  # [n, S + 1, 1, H, W]
        images = torch.where(touched, x, base) if insert else torch.where(touched, base, x)
        scores = torch.cat([score(part) for part in images.flatten(0, 1).split(batch_size)])
        scores = scores.view(len(x), n_steps + 1, -1)
        followed = scores[:, -1 if insert else 0].argmax(1)  # the whole image is the last, or the first
        found.append(scores.gather(2, followed.view(-1, 1, 1).expand(-1, n_steps + 1, 1))[..., 0].double().cpu())
        if advance is not None:
            advance(len(scores) * (n_steps + 1))
    shown = baseline if isinstance(baseline, int | float) else f"a tensor {tuple(torch.as_tensor(baseline).shape)}"
    options = {"n_steps": n_steps, "baseline": shown, "random_order": relevance is None, "seed": seed}
    return PixelCurves(counts.double() / n_pixels, torch.cat(found), options)


def ranks_of(relevance: Tensor) -> Tensor:
    """Returns each pixel's rank [N, F], 0 for the most relevant; the first of equals comes first."""
    return relevance.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def random_relevance(n: int, shape: tuple[int, int], seed: int) -> Tensor:
    """Returns relevance at random [n, H, W]; an image's does not depend on how many images there are."""
    drawn = [torch.rand(shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + row)) for row in range(n)]
    return torch.stack(drawn)


def checked_images(score: Any, inputs: Any, relevance: Any, batch_size: Any) -> tuple[int, int]:
    """Checks what measures that change pixels have in common; returns height and width.

    Raises:
        LookalikeError: If there are no images [N, C, H, W], or relevance is not [N, H, W].
    """
    if not callable(score):
        raise checks.unfit("what scores the inputs", score, "a function")
    checks.whole_number("batch_size", batch_size, 1)
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
    """Returns a value, one per channel [C], or images, as images of the inputs' shape [N, C, H, W]."""
    given = checks.tensor(name, values, kind="number").to(inputs)
    if given.ndim == 1:
        given = given.view(1, -1, 1, 1)
    try:
        return given.expand_as(inputs)
    except RuntimeError as error:
        raise checks.unfit(name, given, f"a value, one per channel, or {tuple(inputs.shape)}") from error
