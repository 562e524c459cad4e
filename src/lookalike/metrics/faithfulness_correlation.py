"""Whether relevance adds up to what a prediction loses without the pixels. Co-12: correctness."""

from collections.abc import Callable

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import keeps_torch_settings
from lookalike.metrics.perturbation import as_images, checked_images
from lookalike.metrics.robustness import Scorer
from lookalike.relevance.stability import correlations_of


@keeps_torch_settings
@torch.no_grad()
def faithfulness_correlation(
    score: Scorer,
    inputs: Tensor,
    relevance: Tensor,
    *,
    targets: Tensor | None = None,
    baseline: Tensor | float = 0.0,
    n_subsets: int = 100,
    subset_size: int | None = None,
    subsets: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 256,
    advance: Callable[[int], object] | None = None,
) -> Tensor:
    """Returns each image's correlation between summed relevance and lost score [N], in [−1, 1]; higher is better.

    corr over subsets S of (Σ_{i in S} R_i, f_t(x) − f_t(x with S at the baseline)) (Bhatt et al. 2020; Quantus:
    ``FaithfulnessCorrelation``). Co-12: correctness, completeness.

    Args:
        score: Maps inputs to class scores, or activations [n, K].
        inputs: Images [N, C, H, W].
        relevance: Per pixel [N, H, W]; the pixels of all channels go together.
        targets: t per image [N]; None takes the largest score.
        baseline: What takes the pixels' place: a value, one per channel [C], or images [N, C, H, W].
        n_subsets: Random subsets per image.
        subset_size: Pixels in each; None takes a fifth of the image.
        subsets: The pixels' numbers [N, R, k], row by row, in place of random ones.
        seed: For the subsets.
        batch_size: The most rows that pass through the model at once.
        advance: Is called with the number of rows done.

    Returns:
        NaN where relevance, or the score, is the same for all subsets.

    Raises:
        LookalikeError: If shapes do not fit, or an option is out of range.
    """
    height, width = checked_images(score, inputs, checks.tensor("relevance", relevance), batch_size)
    n, n_pixels = len(inputs), height * width
    if subsets is None:
        checks.whole_number("n_subsets", n_subsets, 2)
        size = max(1, n_pixels // 5) if subset_size is None else subset_size
        chosen = _random_subsets(n, n_pixels, n_subsets, checks.whole_number("subset_size", size, 1, n_pixels), seed)
    else:
        chosen = checks.tensor("subsets", subsets, (n, "R", "k"), kind="whole").long()
        if chosen.numel() and (int(chosen.min()) < 0 or int(chosen.max()) >= n_pixels):
            raise LookalikeError(f"subsets name pixel {int(chosen.max())}; an image has pixels 0 to {n_pixels - 1}")
    fill = as_images("baseline", baseline, inputs).flatten(2)
    clean = torch.cat([score(part) for part in inputs.split(batch_size)])
    followed = clean.argmax(1) if targets is None else checks.tensor("targets", targets, (n,), kind="whole").long()
    followed = followed.to(inputs.device)
    n_subsets, lost = chosen.shape[1], []
    for row in range(n):
        gone = torch.zeros(n_subsets, n_pixels, dtype=torch.bool, device=inputs.device)
        gone.scatter_(1, chosen[row].to(inputs.device), True)
        images = torch.where(gone[:, None], fill[row], inputs[row].flatten(1)).view(-1, *inputs.shape[1:])
        scores = torch.cat([score(part) for part in images.split(batch_size)])
        lost.append((clean[row, followed[row]] - scores[:, followed[row]]).double().cpu())
        if advance is not None:
            advance(n_subsets)
    flat = relevance.flatten(1).double().cpu()
    summed = torch.stack([flat[row][chosen[row].cpu()].sum(1) for row in range(n)])
    return correlations_of(summed, torch.stack(lost))


def _random_subsets(n: int, n_pixels: int, n_subsets: int, size: int, seed: int) -> Tensor:
    """Returns pixels without repetition [n, R, k]; an image's do not depend on how many images there are."""
    checks.seed("seed", seed)
    found = []
    for row in range(n):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
        found.append(torch.rand(n_subsets, n_pixels, generator=generator).argsort(1)[:, :size])
    return torch.stack(found)
