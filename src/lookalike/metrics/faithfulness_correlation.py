"""Faithfulness correlation: does the relevance of some pixels predict the loss without them? Co-12: correctness."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.draws import seeded, uniform
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import keeps_torch_settings
from lookalike.metrics.perturbation import as_images, checked_images
from lookalike.metrics.robustness import Scorer
from lookalike.relevance.stability import correlations_of


@dataclass(frozen=True)
class RandomSubsets:
    """Random subsets of an image's pixels.

    Attributes:
        number: R, the number of subsets per image.
        size: k, the pixels in each subset; None takes a fifth of the image.
        seed: Seed for drawing them.
    """

    number: int = 100
    size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checks.field(self, "number", checks.whole_number, 2)
        checks.field(self, "size", checks.whole_number, 1, optional=True)
        checks.field(self, "seed", checks.seed)

    def draw(self, n: int, n_pixels: int) -> Tensor:
        """Draws subsets for n images [n, R, k], seeded per image: they do not depend on the number of images.

        Raises:
            LookalikeError: If an image has fewer pixels than a subset.
        """
        size = max(1, n_pixels // 5) if self.size is None else checks.whole_number("size", self.size, 1, n_pixels)
        subsets = []
        for row in range(n):
            drawn = uniform((self.number, n_pixels), seeded(self.seed * 1_000_003 + row))
            subsets.append(drawn.argsort(1)[:, :size])
        return torch.stack(subsets)


@keeps_torch_settings
@torch.no_grad()
def faithfulness_correlation(
    score: Scorer,
    inputs: Tensor,
    relevance: Tensor,
    *,
    targets: Tensor | None = None,
    baseline: Tensor | float = 0.0,
    subsets: RandomSubsets | Tensor = RandomSubsets(),
    batch_size: int = 256,
) -> Tensor:
    """Returns each image's correlation between summed relevance and lost score [N], in [−1, 1]; higher is better.

    corr over subsets S of (Σ_{i in S} R_i, f_t(x) − f_t(x with S at the baseline)) (Bhatt et al. 2020; Quantus:
    ``FaithfulnessCorrelation``). Co-12: correctness, completeness.

    Args:
        score: Maps inputs to class scores, or activations [n, K].
        inputs: Images [N, C, H, W].
        relevance: Relevance per pixel [N, H, W]; a pixel is removed from all channels at once.
        targets: Class t per image [N]; None takes the class with the largest score.
        baseline: Replacement for removed pixels: a value, one per channel [C], or images [N, C, H, W].
        subsets: How to draw the subsets S; or the subsets themselves, as pixel indices in row-major order [N, R, k].
        batch_size: Most rows that pass through the model at once.

    Returns:
        NaN if the summed relevance, or the score, is the same for all subsets.

    Raises:
        LookalikeError: If shapes do not fit, or an option is out of range.
    """
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    relevance = checks.tensor("relevance", relevance)
    height, width = checked_images(score, inputs, relevance)
    n, n_pixels = len(inputs), height * width
    if isinstance(subsets, RandomSubsets):
        pixels = subsets.draw(n, n_pixels)
    else:
        pixels = checks.tensor("subsets", subsets, (n, "R", "k"), kind="whole").long()
        if pixels.numel() and (int(pixels.min()) < 0 or int(pixels.max()) >= n_pixels):
            raise LookalikeError(f"subsets name pixel {int(pixels.max())}; an image has pixels 0 to {n_pixels - 1}")
    replacement = as_images("baseline", baseline, inputs).flatten(2)
    clean = torch.cat([score(batch) for batch in inputs.split(batch_size)])
    target_classes = (
        clean.argmax(1) if targets is None else checks.class_indices("targets", targets, clean.shape[1], (n,))
    )
    target_classes = target_classes.to(inputs.device)
    n_subsets, losses = pixels.shape[1], []
    for row in range(n):
        removed = torch.zeros(n_subsets, n_pixels, dtype=torch.bool, device=inputs.device)
        removed.scatter_(1, pixels[row].to(inputs.device), True)
        images = torch.where(removed[:, None], replacement[row], inputs[row].flatten(1)).view(-1, *inputs.shape[1:])
        scores = torch.cat([score(batch) for batch in images.split(batch_size)])
        losses.append((clean[row, target_classes[row]] - scores[:, target_classes[row]]).double().cpu())
    flat_relevance = relevance.flatten(1).double().cpu()
    summed = torch.stack([flat_relevance[row][pixels[row].cpu()].sum(1) for row in range(n)])
    return correlations_of(summed, torch.stack(losses))
