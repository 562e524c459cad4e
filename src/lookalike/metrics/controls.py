"""Controls of D_fth: the divergence of decisions that have nothing to do with the model's [ours].

Absolute relevance maps depend mostly on the encoder and little on the decision. So a low D_fth means something only
next to the D_fth of heads on the same encoder that decide by chance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.draws import combined_seed, seeded
from lookalike._core.errors import LookalikeError
from lookalike._core.intervals import Range, range_of_another
from lookalike.metrics.correlation import explanation_correlation
from lookalike.metrics.divergence import explanation_divergence
from lookalike.model import Origin, PrototypeModel, Prototypes
from lookalike.model.classifier import NearestPrototype
from lookalike.model.similarity import make_similarity
from lookalike.relevance import Head

N_DRAWS = 10  # random heads per control; each is measured on a tenth of the images
_TRIES = 100  # permutations to try until one does more than rename the classes

# control → its name in sentences
CONTROLS: Mapping[str, str] = {
    "random_head": "the same encoder with a random head",
    "permuted_labels": "the same prototypes with permuted labels",
    "mismatched": "maps of different images",
}


@dataclass(frozen=True)
class ControlledFigures:
    """D_fth and the signed correlation of a control, and the model's advantage over it per image.

    Attributes:
        divergence: D_fth of the control, the mean over its images.
        correlation: Its signed correlation; NaN if no map has one.
        divergence_gaps: D_fth of the control minus the model's, image by image, per draw of the control [10][n].
        correlation_gaps: Correlation of the model minus the control's; images without a correlation are left out.
    """

    divergence: float
    correlation: float
    divergence_gaps: list[list[float]]
    correlation_gaps: list[list[float]]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"divergence_gaps": self.divergence_gaps, "correlation_gaps": self.correlation_gaps}


def permuted_prototypes(labels: Tensor, generator: torch.Generator) -> Tensor | None:
    """Draws a permutation of prototypes [P] that mixes classes: some class gets prototypes of several.

    Args:
        labels: The prototypes' classes [P].
        generator: Source of randomness.

    Returns:
        None if there is none: with one prototype per class, a permutation only renames the classes.
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
    """Draws a normal linear head [K, D]; its scores of the embeddings [N, D] have a spread of about 1."""
    length = embeddings.detach().double().square().sum(1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    weights = torch.randn(n_classes, embeddings.shape[1], generator=generator, dtype=torch.float64)
    return (weights / length.cpu()).to(embeddings)


def with_permuted_labels(model: PrototypeModel, seed: int = 0) -> PrototypeModel:
    """Returns the model with randomly permuted prototype labels, as a control for its figures.

    Raises:
        LookalikeError: If each class has one prototype: a permutation would only rename the classes.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    p = model.prototypes
    order = permuted_prototypes(p.labels, seeded(checks.seed("seed", seed)))
    if order is None:
        raise LookalikeError("with one prototype per class, permuted labels only rename the classes")
    permuted = Prototypes(p.vectors.detach().clone(), p.labels[order.to(p.labels.device)], p.class_names)
    return _with_prototypes(model, permuted, model.similarity, model.classifier)


def with_random_head(model: PrototypeModel, embeddings: Tensor, seed: int = 0) -> PrototypeModel:
    """Returns the model's encoder with a random linear head, as a prototype model: a random vector per class, ``dot``.

    Args:
        model: The prototype model.
        embeddings: Embeddings of some images [N, D]; they set the scale of the scores.
        seed: Seed of the head.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    dim = model.prototypes.vectors.shape[1]
    embeddings = checks.tensor("embeddings", embeddings, ("N", dim), kind="number", empty=False)
    generator = seeded(checks.seed("seed", seed))
    weights = random_weights(model.n_classes, embeddings.to(model.prototypes.vectors), generator)
    prototypes = Prototypes(weights, torch.arange(model.n_classes), model.class_names)
    return _with_prototypes(model, prototypes, make_similarity("dot"), NearestPrototype())


def _with_prototypes(model: PrototypeModel, prototypes: Prototypes, similarity: Any, classifier: Any) -> PrototypeModel:
    """Returns a new model on the same encoder."""
    return PrototypeModel(
        model.encoder,
        prototypes,
        similarity,
        classifier,
        preprocessing=model.preprocessing,
        origin=Origin(value_range=model.value_range),
    )


def control_heads(model: PrototypeModel, embeddings: Tensor, seed: Sequence[int]) -> dict[str, Head]:
    """Returns the control heads on a model's encoder, by the control's name; image i uses draw i mod 10.

    Args:
        model: The prototype model.
        embeddings: Embeddings of some images [N, D]; they set the scale of random heads.
        seed: Seed of the draws, as a sequence of numbers.
    """
    generator = seeded(combined_seed(*seed, 0))
    weights = torch.stack([random_weights(model.n_classes, embeddings, generator) for _ in range(N_DRAWS)])
    heads: dict[str, Head] = {"random_head": _head_of_draws(lambda z, draw: z @ weights[draw].to(z).T)}
    labels, device = model.prototypes.labels, model.device
    orders = [permuted_prototypes(labels, generator) for _ in range(N_DRAWS)]
    permutations = [order.to(device) for order in orders if order is not None]
    if len(permutations) == N_DRAWS:

        def permuted(z: Tensor, draw: int) -> Tensor:
            evidence = model.evidence_of(z)[..., permutations[draw]]
            return model.classifier.log_probabilities(evidence, labels, model.n_classes)

        heads["permuted_labels"] = _head_of_draws(permuted)
    return heads


def _head_of_draws(head: Callable[[Tensor, int], Tensor]) -> Head:
    """Joins the heads of all draws into one that sends each row to the head of its draw."""

    def joined(embeddings: Tensor, rows: slice) -> Tensor:
        draws = draws_of(len(embeddings), start=rows.start)
        rows_of_draws = [torch.nonzero(draws == draw)[:, 0].to(embeddings.device) for draw in range(N_DRAWS)]
        scores = [head(embeddings[draw_rows], draw) for draw, draw_rows in enumerate(rows_of_draws) if len(draw_rows)]
        return torch.cat(scores)[torch.cat(rows_of_draws).argsort()]

    return joined


def draws_of(n: int, start: int = 0) -> Tensor:
    """Assigns a draw of a control to each of n images [n]."""
    return torch.arange(start, start + n) % N_DRAWS


def mismatched_images(classes: Tensor, seed: Sequence[int]) -> Tensor:
    """Draws for each image another image with another predicted class [n]; −1 if there is none.

    Args:
        classes: Predicted classes [n].
        seed: Seed of the draw, as a sequence of numbers.

    Example:
        >>> mismatched_images(torch.tensor([3, 7, 3]), [0]).tolist()[::2]
        [1, 1]
        >>> mismatched_images(torch.tensor([3]), [0]).tolist()
        [-1]
    """
    rng = np.random.default_rng([*seed, 1])
    labels = classes.cpu().numpy()
    partners = np.full(len(labels), -1)
    for row, label in enumerate(labels):
        candidates = np.flatnonzero(labels != label)
        if len(candidates):
            partners[row] = rng.choice(candidates)
    return torch.from_numpy(partners)


def compare_with_control(
    model_figures: tuple[Tensor, Tensor], maps: Tensor, black_box_maps: Tensor, rows: Tensor
) -> ControlledFigures | None:
    """Computes D_fth and correlation of a control's maps, and compares them with the model's on the same images.

    Args:
        model_figures: The model's D_fth and signed correlation, image by image, each [N].
        maps: The control's maps of some of these images [n, H, W].
        black_box_maps: The black box's maps of the same images [n, H, W].
        rows: Numbers of these images among the N [n].

    Returns:
        ``ControlledFigures``; None if no image is left.
    """
    has_relevance = maps.flatten(1).abs().amax(1).cpu() > 0  # a head that is certain of its class has a map of zeros
    if not bool(has_relevance.any()):
        return None
    maps, black_box_maps, rows = maps[has_relevance], black_box_maps[has_relevance], rows[has_relevance]
    divergence = explanation_divergence(maps, black_box_maps).cpu()
    correlation = explanation_correlation(maps, black_box_maps).cpu()
    draws = rows % N_DRAWS
    return ControlledFigures(
        float(divergence.nanmean()),
        float(correlation.nanmean()),
        _by_draw(divergence - model_figures[0].cpu()[rows], draws),
        _by_draw(model_figures[1].cpu()[rows] - correlation, draws),
    )


def _by_draw(values: Tensor, draws: Tensor) -> list[list[float]]:
    finite = values.isfinite()
    return [values[finite & (draws == draw)].tolist() for draw in range(N_DRAWS)]


def margin_over(runs: Sequence[Mapping[str, Any]], figure: Literal["divergence", "correlation"]) -> Range | None:
    """Returns the model's mean advantage over a control, with the range expected for one more draw of the control.

    Args:
        runs: Results of ``ControlledFigures.to_dict``, one per run; each run has its own draws.
        figure: The figure to compare.

    Returns:
        None with fewer than two draws.
    """
    return range_of_another([draw for run in runs for draw in run[f"{figure}_gaps"]])
