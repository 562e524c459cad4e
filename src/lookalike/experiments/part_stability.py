"""Do concepts stay when images change a little, and does a part stay when the image changes far from it?"""

import numpy as np
import torch
from torch import Tensor

from lookalike._core.draws import seeded
from lookalike.encoder.patches import PatchEncoder
from lookalike.experiments.cells import Record
from lookalike.experiments.prp_rules import value_range_of_model
from lookalike.model import PrototypeModel

_SHIFT = 1 / 32  # of the image's width
_NOISE = 0.05  # of the value range
_STRONG = 20 / 255  # of the value range, far from a part
_FAR = 0.25  # of the image's side: pixels at least so far from a part are changed, in its receptive field or not
_ROWS = 16  # images whose gradients are computed at once


def concept_figures(model: PrototypeModel, x: Tensor, objects: Tensor, seed: int) -> Record:
    """Measures where concepts lie, and whether they stay when images change a little.

    Args:
        model: A model of patches.
        x: Images [N, C, H, W].
        objects: Which pixels belong to an object [N, H, W].
        seed: Seed of the noise.
    """
    low, high = value_range_of_model(model)
    concepts = model.segment(x).concepts
    generator = seeded(seed)
    noise = _NOISE * (high - low)[:, None, None] * (2 * torch.rand(x.shape, generator=generator) - 1)
    pixels = max(1, round(_SHIFT * x.shape[3]))
    return {
        **places_of_concepts(concepts, objects, len(model.prototypes)),
        "shifted": float((model.segment(x.roll(pixels, 3)).concepts == concepts).float().mean()),
        "noisy": float((model.segment(x + noise).concepts == concepts).float().mean()),
        **far_figures(model, x, generator),
    }


def places_of_concepts(concepts: Tensor, objects: Tensor, n_prototypes: int) -> Record:
    """Says how well concepts tell objects from background, in shares of the positions.

    Args:
        concepts: Concept of each position [N, h, w].
        objects: Which pixels belong to an object [N, H, W].
        n_prototypes: P.

    Returns:
        ``on_object``: of the positions on an object, the share whose concept is mostly on objects. ``separated``: the
        share of positions on the side, object or background, that most positions of their concept are on;
        ``by_chance``: the share of the larger side, which concepts without any relation to objects reach.
    """
    grid = int(concepts.shape[1]), int(concepts.shape[2])
    on_object = torch.nn.functional.adaptive_avg_pool2d(objects.float(), grid) > 0.5
    n_positions = torch.bincount(concepts.flatten(), minlength=n_prototypes)
    n_on_object = torch.bincount(concepts[on_object], minlength=n_prototypes)
    is_of_objects = n_on_object > n_positions / 2
    share = float(on_object.float().mean())
    return {
        "on_object": float(is_of_objects[concepts][on_object].float().mean()),
        "separated": float(torch.maximum(n_on_object, n_positions - n_on_object).sum() / concepts.numel()),
        "by_chance": max(share, 1 - share),
        "n_of_objects": float((is_of_objects & (n_positions > 0)).sum() / (n_positions > 0).sum()),
    }


def far_figures(model: PrototypeModel, x: Tensor, generator: torch.Generator) -> Record:
    """Changes pixels far from the part that is most similar to the image's nearest prototype.

    Once by noise of random signs, once by an adversarial step: the sign of the gradient, so that the similarity at the
    part falls. Both change a pixel by 20/255 of the value range, and stay within it.

    Returns:
        For each change, the share of images in which the part's place stays (``…_place``), and by how much its
        similarity to the prototype changes, as a share of its standard deviation over the positions (``…_activation``).
    """
    low, high = (value[:, None, None] for value in value_range_of_model(model))
    stays: dict[str, list[Tensor]] = {"noise": [], "step": []}
    changes: dict[str, list[Tensor]] = {"noise": [], "step": []}
    for part in x.split(_ROWS):
        with torch.no_grad():
            evidence = model.evidence_of(model.encoder(part))  # [n, S, P]
        rows, prototypes = torch.arange(len(part)), evidence.amax(1).argmax(1)
        by_position = evidence[rows, :, prototypes]
        places = by_position.argmax(1)
        far = _far_from(model, places, part)
        signs = torch.randint(0, 2, part.shape, generator=generator).mul(2).sub(1).to(part)
        for name, direction in (("noise", signs), ("step", -_gradient(model, part, places, prototypes).sign())):
            changed = part + _STRONG * (high - low) * direction
            changed = torch.where(far, changed.maximum(low.minimum(high)).minimum(low.maximum(high)), part)
            with torch.no_grad():
                after = model.evidence_of(model.encoder(changed))[rows, :, prototypes]
            stays[name].append(after.argmax(1) == places)
            difference = (after[rows, places] - by_position[rows, places]).abs()
            changes[name].append(difference / by_position.std(1).clamp_min(1e-12))
    return {f"{name}_place": float(torch.cat(values).float().mean()) for name, values in stays.items()} | {
        f"{name}_activation": float(torch.cat(values).median()) for name, values in changes.items()
    }


def _far_from(model: PrototypeModel, places: Tensor, x: Tensor) -> Tensor:
    """Returns which pixels are at least a quarter of the side away from a position of each image [n, 1, H, W]."""
    assert isinstance(model.encoder, PatchEncoder)  # a model of patches has one
    boxes = model.encoder.boxes(places)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    down = (torch.arange(x.shape[2]) + 0.5) / x.shape[2]
    across = (torch.arange(x.shape[3]) + 0.5) / x.shape[3]
    distance = torch.maximum(
        (down[None, :, None] - centre[:, :1, None]).abs(), (across[None, None] - centre[:, 1:, None]).abs()
    )
    return (distance > _FAR)[:, None]


def _gradient(model: PrototypeModel, x: Tensor, places: Tensor, prototypes: Tensor) -> Tensor:
    """Returns the gradient of each image's similarity of one position to one prototype [n, C, H, W]."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        evidence = model.evidence_of(model.encoder(x))
        (gradient,) = torch.autograd.grad(evidence[torch.arange(len(x)), places, prototypes].sum(), x)
    return gradient


def matched_overlap(concepts: Tensor, others: Tensor) -> float:
    """Returns the mean intersection over union of two segmentations' concepts, matched one to one to maximise it.

    Example:
        >>> matched_overlap(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[5, 5, 3, 3]]]))
        1.0
    """
    from scipy.optimize import linear_sum_assignment

    first, second = (np.unique(values.numpy(), return_inverse=True)[1].ravel() for values in (concepts, others))
    together = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(together, (first, second), 1)
    union = together.sum(1, keepdims=True) + together.sum(0) - together
    overlap = together / union
    return float(overlap[linear_sum_assignment(-overlap)].sum() / max(together.shape))
