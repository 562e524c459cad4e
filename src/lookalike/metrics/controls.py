"""Controls of D_fth: what it is where the decision that is explained is not the model's [ours].

Absolute maps follow the encoder, and the decision hardly: D_fth means something only beside what chance heads on the
same encoder get.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.metrics.correlation import explanation_correlation
from lookalike.metrics.divergence import explanation_divergence
from lookalike.metrics.intervals import Range, range_of_another
from lookalike.model import PrototypeModel, Prototypes
from lookalike.model.classifier import NearestPrototype
from lookalike.model.similarity import make_similarity
from lookalike.relevance import Head

N_DRAWS = 10  # of each control; each is measured on a tenth of the images
_TRIES = 100

# control → what it is called in sentences
CONTROLS: Mapping[str, str] = {
    "random_head": "the same encoder with a random head",
    "permuted_labels": "the same prototypes with permuted labels",
    "mismatched": "maps of different images",
}


@dataclass(frozen=True)
class ControlledFigures:
    """D_fth and the signed correlation of a control, and by how much the model is better, image by image.

    Attributes:
        divergence: D_fth of the control, the mean over its images.
        correlation: Its signed correlation; NaN where no map has one.
        divergence_gaps: By how much the model's D_fth is lower on an image, by draw of the control [10][n].
        correlation_gaps: By how much the model's correlation is higher; images without one are left out.
    """

    divergence: float
    correlation: float
    divergence_gaps: list[list[float]]
    correlation_gaps: list[list[float]]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"divergence_gaps": self.divergence_gaps, "correlation_gaps": self.correlation_gaps}


def permuted_prototypes(labels: Tensor, generator: torch.Generator) -> Tensor | None:
    """Draws a permutation of prototypes [P] after which some class has prototypes of several.

    Args:
        labels: The prototypes' classes [P].
        generator: Source of randomness.

    Returns:
        None if there is none: with one prototype per class a permutation only renames the classes.
    """
    labels = labels.cpu()
    n_classes = len(labels.unique())
    if n_classes < 2 or len(labels) == n_classes:
        return None
    for _ in range(_TRIES):
        order = torch.randperm(len(labels), generator=generator)
        if len(torch.stack([labels, labels[order]]).unique(dim=1).T) > n_classes:
            return order
    return None


def random_weights(n_classes: int, embeddings: Tensor, generator: torch.Generator) -> Tensor:
    """Draws a linear head [K, D] from a normal distribution, so that its scores of embeddings [N, D] spread by 1."""
    length = embeddings.detach().double().square().sum(1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    weights = torch.randn(n_classes, embeddings.shape[1], generator=generator, dtype=torch.float64)
    return (weights / length.cpu()).to(embeddings)


def with_permuted_labels(model: PrototypeModel, seed: int = 0) -> PrototypeModel:
    """Returns a model whose prototypes have changed their classes at random, to compare figures with.

    Raises:
        LookalikeError: If each class has one prototype, so that only names could change.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    p = model.prototypes
    order = permuted_prototypes(p.labels, torch.Generator().manual_seed(checks.seed("seed", seed)))
    if order is None:
        raise LookalikeError("with one prototype per class, permuted labels only rename the classes")
    permuted = Prototypes(p.vectors.detach().clone(), p.labels[order.to(p.labels.device)], p.class_names)
    return _like(model, permuted, model.similarity, model.classifier)


def with_random_head(model: PrototypeModel, embeddings: Tensor, seed: int = 0) -> PrototypeModel:
    """Returns the model's encoder with a random linear head, as a prototype model: a random vector per class, ``dot``.

    Args:
        model: The prototype model.
        embeddings: Embeddings of some images [N, D], which set the scale of the scores.
        seed: Seed of the head.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    dim = model.prototypes.vectors.shape[1]
    embeddings = checks.tensor("embeddings", embeddings, ("N", dim), kind="number", empty=False)
    generator = torch.Generator().manual_seed(checks.seed("seed", seed))
    weights = random_weights(model.n_classes, embeddings.to(model.prototypes.vectors), generator)
    prototypes = Prototypes(weights, torch.arange(model.n_classes), model.class_names)
    return _like(model, prototypes, make_similarity("dot"), NearestPrototype())


def _like(model: PrototypeModel, prototypes: Prototypes, similarity: Any, classifier: Any) -> PrototypeModel:
    return PrototypeModel(
        model.encoder,
        prototypes,
        similarity,
        classifier,
        preprocessing=model.preprocessing,
        value_range=model.value_range,
    )


def control_heads(model: PrototypeModel, embeddings: Tensor, seed: Sequence[int]) -> dict[str, Head]:
    """Returns heads on a model's encoder that decide by chance, by the control's name; image i takes draw i mod 10.

    Args:
        model: The prototype model.
        embeddings: Embeddings of some images [N, D], which set the scale of random heads.
        seed: Numbers that fix the draws.
    """
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([*seed, 0]).generate_state(1)[0]))
    weights = torch.stack([random_weights(model.n_classes, embeddings, generator) for _ in range(N_DRAWS)])
    heads: dict[str, Head] = {"random_head": _by_draw(lambda z, draw: z @ weights[draw].to(z).T)}
    labels, device = model.prototypes.labels, model.device
    orders = [permuted_prototypes(labels, generator) for _ in range(N_DRAWS)]
    permutations = [order.to(device) for order in orders if order is not None]
    if len(permutations) == N_DRAWS:

        def permuted(z: Tensor, draw: int) -> Tensor:
            similarities = model.similarities_of(z)[:, permutations[draw]]
            return model.classifier.log_probabilities(similarities, labels, model.n_classes)

        heads["permuted_labels"] = _by_draw(permuted)
    return heads


def _by_draw(head: Callable[[Tensor, int], Tensor]) -> Head:
    """Makes one head of several: each row goes to that of its draw."""

    def whole(embeddings: Tensor, rows: slice) -> Tensor:
        draws = draws_of(len(embeddings), start=rows.start)
        places = [torch.nonzero(draws == draw)[:, 0].to(embeddings.device) for draw in range(N_DRAWS)]
        parts = [head(embeddings[place], draw) for draw, place in enumerate(places) if len(place)]
        return torch.cat(parts)[torch.cat(places).argsort()]

    return whole


def draws_of(n: int, start: int = 0) -> Tensor:
    """Returns which draw of a control each of n images has [n]."""
    return torch.arange(start, start + n) % N_DRAWS


def other_images(classes: Tensor, seed: Sequence[int]) -> Tensor:
    """Draws for each image another one that is predicted to be of another class [n]; −1 where there is none.

    Args:
        classes: Predicted classes [n].
        seed: Numbers that fix the draw.

    Example:
        >>> other_images(torch.tensor([3, 7, 3]), [0]).tolist()[::2], other_images(torch.tensor([3]), [0]).tolist()
        ([1, 1], [-1])
    """
    rng = np.random.default_rng([*seed, 1])
    labels = classes.cpu().numpy()
    partners = np.full(len(labels), -1)
    for row, label in enumerate(labels):
        others = np.flatnonzero(labels != label)
        if len(others):
            partners[row] = rng.choice(others)
    return torch.from_numpy(partners)


def compare_with_control(
    own: tuple[Tensor, Tensor], maps: Tensor, black_box_maps: Tensor, rows: Tensor
) -> ControlledFigures | None:
    """Measures a control's maps as the model's are, on the same images.

    Args:
        own: The model's D_fth and signed correlation, image by image, each [N].
        maps: The control's maps of some of these images [n, H, W].
        black_box_maps: The black box's [n, H, W].
        rows: Which images these are [n].

    Returns:
        ``ControlledFigures``; None if there are no images.
    """
    there = maps.flatten(1).abs().amax(1).cpu() > 0  # a head that is certain of its class has a map of zeros
    if not bool(there.any()):
        return None
    maps, black_box_maps, rows = maps[there], black_box_maps[there], rows[there]
    divergence = explanation_divergence(maps, black_box_maps).cpu()
    correlation = explanation_correlation(maps, black_box_maps).cpu()
    draws = rows % N_DRAWS
    return ControlledFigures(
        float(divergence.nanmean()),
        float(correlation.nanmean()),
        _by_number(divergence - own[0].cpu()[rows], draws),
        _by_number(own[1].cpu()[rows] - correlation, draws),
    )


def _by_number(values: Tensor, draws: Tensor) -> list[list[float]]:
    there = values.isfinite()
    return [values[there & (draws == draw)].tolist() for draw in range(N_DRAWS)]


def margin_over(runs: Sequence[Mapping[str, Any]], figure: Literal["divergence", "correlation"]) -> Range | None:
    """Returns by how much a model is better than a control, with the range in which one more draw of it is expected.

    Args:
        runs: What ``ControlledFigures.to_dict`` returned, run by run; each run has other draws.
        figure: Of which figure.

    Returns:
        None with fewer than two draws.
    """
    return range_of_another([draw for run in runs for draw in run[f"{figure}_gaps"]])
