"""Sanity checks of explanations (Adebayo et al., 2018): maps must change if weights or labels are randomised."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.draws import seeded, uniform
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import copy_of, keeps_random_states
from lookalike.conversion.per_class import Clustering, learn_prototypes
from lookalike.encoder import Encoder
from lookalike.metrics.correlation import explanation_correlation
from lookalike.model import Origin, PrototypeModel
from lookalike.model.classifier import NearestPrototype
from lookalike.relevance import Composite, PrpRule, lrp, prp

AS_TRAINED, PROTOTYPES = "as trained", "prototypes"
SANITY_IMAGES = 20  # each depth needs maps of all these images, and maps of most images change in the same way
N = TypeVar("N", bound=nn.Module)

_WINDOW = 7  # pixels on a side
_C1, _C2 = 0.01**2, 0.03**2  # the usual constants of SSIM (Wang et al., 2004), for values up to 1

Maps = Mapping[str, Tensor]  # kind of map → [N, H, W]


def rank_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """Returns Spearman's rank correlation of two maps' absolute relevance, image by image: float64 [N], in [−1, 1].

    Args:
        maps: Relevance per pixel [N, H, W].
        others: Relevance per pixel of the other maps [N, H, W].

    Returns:
        NaN for an image with a constant map.
    """
    from scipy.stats import rankdata

    def ranks(values: Tensor) -> Tensor:
        values = checks.tensor("maps", values, ("N", "H", "W"), kind="number", empty=False)
        flat = values.detach().abs().double().flatten(1).cpu().numpy()
        return torch.from_numpy(rankdata(flat, axis=1)).view(values.shape)

    return explanation_correlation(ranks(maps), ranks(others))


def structural_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """Returns the structural similarity (SSIM) of two maps' absolute relevance, image by image: float64 [N], at most 1.

    The mean over all windows inside the image (Wang et al., 2004), with uniform weights. Each map is divided by its
    largest value; windows have 7 × 7 pixels, or fewer if the image is smaller.

    Args:
        maps: Relevance per pixel [N, H, W].
        others: Relevance per pixel of the other maps [N, H, W].
    """

    def scaled(values: Tensor) -> Tensor:
        values = checks.tensor("maps", values, ("N", "H", "W"), kind="number", empty=False)
        values = values.detach().abs().double().cpu()
        return (values / values.amax((1, 2), keepdim=True).clamp_min(1e-300))[:, None]

    a, b = scaled(maps), scaled(others)
    if a.shape != b.shape:
        raise LookalikeError(f"the maps have shapes {tuple(maps.shape)} and {tuple(others.shape)}")
    window = min(_WINDOW, *a.shape[2:])

    def local_mean(values: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(values, window, stride=1)

    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a) - mean_a**2 + local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return (luminance * (2 * covariance + _C2) / (variances + _C2)).flatten(1).mean(1)


@dataclass(frozen=True)
class Likenesses:
    """Similarity of explanations to those of the trained model, as means over images.

    Attributes:
        rank: Rank correlation of the absolute maps, by kind of map.
        structure: Structural similarity of the absolute maps, by kind of map.
        same_prototype: Share of images with the same most similar prototype.
    """

    rank: dict[str, float]
    structure: dict[str, float]
    same_prototype: float


@dataclass(frozen=True)
class SanityCheck:
    """Similarity of explanations to the trained model's, while weights are randomised from the head down.

    Attributes:
        depths: The last part randomised at each depth: nothing, then the prototypes, then layers from the head down.
            Randomisation accumulates.
        likenesses: Similarity of the explanations to the trained model's, one per depth.
        labels: The same for prototypes clustered from permuted labels; None without training embeddings.
        options: Numbers of images and prototypes, seed, rules.
    """

    depths: list[str]
    likenesses: list[Likenesses]
    labels: Likenesses | None
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


@keeps_random_states
def sanity_check(
    model: PrototypeModel,
    images: Tensor,
    *,
    train: tuple[np.ndarray, np.ndarray] | None = None,
    composite: str | Composite = "epsilon-plus-flat",
    rule: PrpRule | None = None,
    n_depths: int = 10,
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
) -> SanityCheck:
    """Randomises a copy of a model step by step from the head down, and compares its explanations at each step.

    The first step permutes each dimension of the prototypes among them. The next steps go through the layers and
    permute the values within each weight tensor, which keeps their magnitudes [ours; Adebayo et al. draw initial
    weights anew]. Maps are PRP of the most similar prototype, which ``explain`` shows, and LRP of the predicted class's
    probability, which D_fth compares.

    Args:
        model: A prototype model; it is not changed.
        images: Images to explain [N, C, H, W].
        train: Training embeddings [M, D] and their classes [M], to cluster with permuted labels; None skips that.
        composite: Rules of relevance propagation.
        rule: How PRP starts at the similarity layer, see ``relevance.prp``; None takes its default.
        n_depths: Maximum number of steps into which the layers are divided.
        seed: Seed of the permutations.
        advance: Called with the number of images explained.

    Raises:
        LookalikeError: If the network cannot be copied, or an option is out of range.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    n_depths = checks.whole_number("n_depths", n_depths, 1)
    generator = seeded(checks.seed("seed", seed))
    randomised_copy = deep_copy(model)

    def explained(other: PrototypeModel) -> tuple[Maps, Tensor]:
        explanations = _explained(other, images, composite, rule)
        advance(len(images))
        return explanations

    trained_explanations = explained(randomised_copy)
    layers = layers_from_the_head(randomised_copy, images[:1])
    if not layers:
        raise LookalikeError("the encoder has no weights that could be randomised")
    groups = [group.tolist() for group in np.array_split(np.arange(len(layers)), min(n_depths, len(layers)))]
    depths, likenesses = [AS_TRAINED, PROTOTYPES], [_likenesses(trained_explanations, trained_explanations)]
    _permute_prototypes(randomised_copy, generator)
    likenesses.append(_likenesses(trained_explanations, explained(randomised_copy)))
    for group in groups:
        for position in group:
            _permute_weights(layers[position][1], generator)
        depths.append(layers[group[-1]][0])
        likenesses.append(_likenesses(trained_explanations, explained(randomised_copy)))
    label_likenesses = None
    if train is not None:
        label_likenesses = _likenesses(
            trained_explanations, explained(with_prototypes_of_permuted_labels(model, *train, seed=seed))
        )
    name = composite if isinstance(composite, str) else composite.name
    options = {"n_images": len(images), "n_prototypes": len(model.prototypes), "seed": seed, "composite": name}
    return SanityCheck(depths, likenesses, label_likenesses, options)


def compare_explanations(
    model: PrototypeModel,
    other: PrototypeModel,
    images: Tensor,
    composite: str | Composite = "epsilon-plus-flat",
    rule: PrpRule | None = None,
) -> Likenesses:
    """Compares the explanations of two models, for example one trained on correct and one on permuted labels.

    Args:
        model: A prototype model.
        other: Another prototype model; ``same_prototype`` means something only if both number their prototypes alike.
        images: Images to explain [N, C, H, W].
        composite: Rules of relevance propagation.
        rule: How PRP starts at the similarity layer, see ``relevance.prp``; None takes its default.
    """
    return _likenesses(*(_explained(one, images, composite, rule) for one in (model, other)))


def layers_from_the_head(model: PrototypeModel, images: Tensor) -> list[tuple[str, nn.Module]]:
    """Returns the encoder's modules with weights of their own that run before the embedding, the last one first.

    Args:
        model: A prototype model.
        images: A few images [n, C, H, W] to run the model on.
    """
    encoder = model.encoder
    network, head = (encoder.model, encoder.head_name) if isinstance(encoder, Encoder) else (encoder, None)
    names = {module: name for name, module in network.named_modules() if any(True for _ in module.parameters(False))}
    names = {module: name for module, name in names.items() if head is None or name != head}
    order: dict[nn.Module, None] = {}
    handles = [module.register_forward_pre_hook(lambda hooked, _: order.setdefault(hooked)) for module in names]
    try:
        model.embed(images)
    finally:
        for handle in handles:
            handle.remove()
    return [(names[module] or type(module).__name__, module) for module in reversed(order)]


def with_prototypes_of_permuted_labels(
    model: PrototypeModel, embeddings: np.ndarray, labels: np.ndarray, *, seed: int = 0
) -> PrototypeModel:
    """Returns a model with the same encoder and prototypes clustered with permuted labels, as many per class.

    Args:
        model: A prototype model.
        embeddings: Training embeddings [N, D].
        labels: Their classes [N].
        seed: Seed of the permutation and the clustering.
    """
    permuted = np.random.default_rng(seed).permutation(np.asarray(labels))
    counts = torch.bincount(model.prototypes.labels, minlength=model.n_classes).tolist()
    present = set(np.unique(permuted).tolist())
    if not all(k in present for k in range(model.n_classes)):
        raise LookalikeError("a class has no training samples, so the labels cannot be permuted")
    n_prototypes = {name: max(1, n) for name, n in zip(model.class_names, counts, strict=True)}
    similarity = copy.deepcopy(model.similarity).cpu()
    z = np.asarray(embeddings, dtype=np.float32)
    prototypes = learn_prototypes(z, permuted, model.class_names, similarity, Clustering(n_prototypes, seed=seed))
    origin = Origin(value_range=model.value_range)
    # the temperature is in the unit of the similarity: without it, the scale of the embedding would change the figure
    own = model.classifier
    classifier = (
        NearestPrototype(own.reading, own.temperature) if isinstance(own, NearestPrototype) else NearestPrototype()
    )
    return PrototypeModel(model.encoder, prototypes, copy.deepcopy(model.similarity), classifier, origin=origin)


def deep_copy(network: N) -> N:
    """Returns a copy whose weights can be randomised.

    Raises:
        LookalikeError: If the network cannot be copied.
    """
    try:
        return copy_of(network)
    except (RuntimeError, TypeError, ValueError) as error:
        raise LookalikeError(f"the network cannot be copied, so its weights cannot be randomised: {error}") from error


def _explained(
    model: PrototypeModel, images: Tensor, composite: str | Composite, rule: PrpRule | None
) -> tuple[Maps, Tensor]:
    """Returns maps [N, H, W] by kind, and the most similar prototypes [N]."""
    nearest = model.similarities(images).argmax(1)
    maps = {
        "likeness": prp(model, images, nearest[:, None], composite, rule=rule).pixels[:, 0],
        "probability": lrp(model, images, None, composite, of="probability").pixels,
    }
    return maps, nearest


def _likenesses(trained: tuple[Maps, Tensor], other: tuple[Maps, Tensor]) -> Likenesses:
    """Compares two results of ``_explained``.

    Images whose trained map is the same for all pixels say nothing, as where a saturated probability leaves it empty.
    An image of which only the other map is so has nothing in common with its trained one.
    """
    rank, structure = dict[str, float](), dict[str, float]()
    for kind, maps in trained[0].items():
        others = other[0][kind].nan_to_num(0, 0, 0)
        shown, compared = _varies(maps), _varies(others)
        if not bool(shown.any()):
            raise LookalikeError(
                f"the maps of the model's {kind} show no pixel above another in any of {len(maps)} images, so nothing "
                "could change; take other images, or other rules (composite)"
            )
        for found, measure in ((rank, rank_similarity), (structure, structural_similarity)):
            similarities = measure(maps, others).where(compared, torch.zeros((), dtype=torch.float64))
            found[kind] = float(similarities[shown].mean())
    return Likenesses(rank, structure, float((trained[1] == other[1]).double().mean()))


def _varies(maps: Tensor) -> Tensor:
    """Says which maps [N, H, W] show any difference between pixels [N]."""
    flat = maps.detach().abs().flatten(1).cpu()
    return flat.amax(1) > flat.amin(1)


@torch.no_grad()
def _permute_prototypes(model: PrototypeModel, generator: torch.Generator) -> None:
    """Permutes each dimension of the prototypes independently, in place."""
    vectors = model.prototypes.vectors
    order = uniform(vectors.shape, generator).argsort(0).to(vectors.device)
    vectors.copy_(vectors.gather(0, order))


@torch.no_grad()
def _permute_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Permutes the values within each of a module's own parameters, in place."""
    for weight in module.parameters(recurse=False):
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view_as(weight))


def first_change(check: Mapping[str, Any], below: float) -> tuple[str, float] | None:
    """Returns the first depth at which the maps have changed, and their rank correlation there.

    Args:
        check: Result of ``SanityCheck.to_dict``.
        below: Maps of likeness with a lower rank correlation than this count as changed.

    Returns:
        None if the maps never change.
    """
    correlations: Sequence[float] = [likeness["rank"]["likeness"] for likeness in check["likenesses"]]
    return next(
        ((name, value) for name, value in zip(check["depths"], correlations, strict=True) if value < below), None
    )
