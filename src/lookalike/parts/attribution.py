"""Attribution without gradients: what each position of the feature map adds to a score, from one forward pass.

For a model of patches, a class's score is a sum over positions by definition. For a model of whole images whose
embedding is the average over the positions, the lead of one prototype over another is such a sum too: for squared
distances ‖z − q‖² − ‖z − p‖² = 2 (p − q) · (z − (p + q) / 2), which is linear in z, and so the mean of the same
expression over the positions. What is left unexplained, the residual, is shown with each map.

Source: gradient-free maps follow the abstract of "Post-hoc Self-explanation of CNNs" (2026); the formulas are [ours].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.names import visible
from lookalike._core.untouched import keeps_torch_settings
from lookalike.encoder import Encoder
from lookalike.encoder.finite import check_finite_rows
from lookalike.encoder.patches import PatchEncoder
from lookalike.model import PrototypeModel
from lookalike.model.classifier import LinearHead, NearestPrototype
from lookalike.model.decision import PatchDecision
from lookalike.model.similarity import Cosine, Dot
from lookalike.parts.per_image import PerImage
from lookalike.parts.segmentation import batches_of

# similarities that fall with the distance, strictly or but for rounding: their order is that of the distances
_BY_DISTANCE = ("rbf", "log", "log-l2")


@dataclass(frozen=True)
class Contributions:
    """What each position adds to a score.

    Attributes:
        maps: [N, h, w]. They sum to ``values`` minus ``residuals``.
        values: The explained score of each image [N].
        residuals: What the positions do not add up to [N].
        targets: The explained class, or prototype, of each image [N].
        rivals: What it leads over [N], as ``targets``; None if the score is a class's own.
        of_prototypes: Whether targets and rivals are prototypes, and not classes.
        meaning: What the score is, in words.
        image_size: Height and width of the images.
    """

    maps: Tensor
    values: Tensor
    residuals: Tensor
    targets: Tensor
    rivals: Tensor | None
    of_prototypes: bool
    meaning: str
    image_size: tuple[int, int]

    def upsampled(self) -> Tensor:
        """Returns the maps at the size of the images [N, H, W], each cell's value shared out evenly over its pixels."""
        pixels = nn.functional.interpolate(self.maps[:, None], self.image_size, mode="nearest-exact")
        cells = nn.functional.interpolate(
            torch.arange(self.maps[0].numel(), dtype=self.maps.dtype).view(1, 1, *self.maps.shape[1:]),
            self.image_size,
            mode="nearest-exact",
        )
        counts = cells.long().flatten().bincount(minlength=self.maps[0].numel())
        return pixels[:, 0] / counts[cells.long()[0, 0]]


@keeps_torch_settings
@torch.no_grad()
def contributions(
    model: PrototypeModel,
    inputs: Any,
    target: int | Sequence[int] | Tensor | None = None,
    rival: int | Sequence[int] | Tensor | None = None,
    *,
    batch_size: int = 64,
) -> Contributions:
    """Finds what each position adds to a class's score, or to its lead over another.

    Args:
        model: A prototype model of patches, or one of whole images that averages a feature map before its head.
        inputs: Images, as for ``PrototypeModel.predict``.
        target: Class to explain, of all images or of each [N]; None takes the predicted ones.
        rival: Class that it leads over. None explains the class's own score in a model of patches, and the lead over
            the strongest rival in a model of whole images.
        batch_size: Most images that pass through the network at once.

    Raises:
        LookalikeError: If a class is unknown, or the similarity or the network is not a sum over positions.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    if model.n_classes < 2:
        raise LookalikeError("the model has one class, and no score that tells classes apart")
    targets, rivals = PerImage.of("target", target, model.n_classes), PerImage.of("rival", rival, model.n_classes)
    results: list[Contributions] = []
    first, reader = 0, None
    for x in batches_of(model, inputs, batch_size):
        if reader is None:
            reader = _reader_of(model, x)
        read = _Read(*reader.maps_and_embeddings(x))
        check_finite_rows(read.is_finite(), first=first)
        results.append(_of_batch(model, reader, read, targets.of_rows(first, len(x)), rivals.of_rows(first, len(x))))
        first += len(x)
    if not results:
        raise LookalikeError("there are no images to explain")
    targets.check_count(first)
    rivals.check_count(first)
    return _join(results)


@dataclass(frozen=True)
class _Read:
    """What one pass over images returns.

    Attributes:
        maps: The feature maps [n, D, h, w].
        embeddings: The embeddings of the whole images [n, D'].
    """

    maps: Tensor
    embeddings: Tensor

    @property
    def patches(self) -> Tensor:
        """The positions row by row [n, S, D]."""
        return self.maps.flatten(2).transpose(1, 2)

    def is_finite(self) -> Tensor:
        """Says which images have finite values alone [n]."""
        return self.maps.isfinite().flatten(1).all(1) & self.embeddings.isfinite().all(1)


def _reader_of(model: PrototypeModel, x: Tensor) -> PatchEncoder:
    """Returns an encoder of the patches that a model's decision is a sum over.

    Raises:
        LookalikeError: If it is none.
    """
    if isinstance(model.encoder, PatchEncoder):
        return model.encoder
    if not isinstance(model.encoder, Encoder):
        raise LookalikeError("the network was not cut by an Encoder, so its feature map is not known")
    reader = PatchEncoder(model.encoder, x[:2])
    if not reader.is_pooled:
        raise LookalikeError(
            "the embedding is not the average over the positions of a feature map (a class token, for example, is "
            "not), so the positions add up to no score; take heat-maps (explain(..., relevance=True)), or convert with "
            "level='patch'"
        )
    return reader


def _of_batch(
    model: PrototypeModel, reader: PatchEncoder, read: _Read, target: Tensor | None, rival: Tensor | None
) -> Contributions:
    """Explains one batch of images."""
    labels = model.prototypes.labels
    if isinstance(model.classifier, PatchDecision):
        return _of_patches(model, reader, read.patches.flatten(1), target, rival)
    embeddings = read.embeddings
    similarities = model.similarities_of(embeddings)
    classes = model.scores_of(embeddings).argmax(1) if target is None else target.to(labels.device)
    is_target = labels[None] == classes[:, None]
    is_rival = ~is_target if rival is None else labels[None] == rival.to(labels.device)[:, None]
    _check_have_prototypes(model, is_target, classes)
    _check_have_prototypes(model, is_rival, rival)
    p = similarities.masked_fill(~is_target, -torch.inf).argmax(1)
    q = similarities.masked_fill(~is_rival, -torch.inf).argmax(1)
    maps, values, meaning = lead_by_patch(model, read.patches, embeddings, p, q)
    bias = _bias_of(model)
    if bias is not None:  # no position adds it: it is the residual
        values = values + bias[p] - bias[q]
    return _result(reader, maps, values, p, q, of_prototypes=True, meaning=meaning)


def _check_have_prototypes(model: PrototypeModel, owned: Tensor, classes: Tensor | None) -> None:
    """Checks that each image's class has a prototype, from which prototypes are of it [n, P].

    Raises:
        LookalikeError: If one has none; another class's prototype would be shown for it.
    """
    without = torch.nonzero(~owned.any(1))[:, 0].tolist()
    if without and classes is None:
        raise LookalikeError("no other class has a prototype, so there is no rival to lead over")
    if without and classes is not None:
        name = visible(model.class_names[int(classes[without[0]])])
        raise LookalikeError(f"class {name!r} has no prototype that could explain it; give a class that has one")


def _of_patches(
    model: PrototypeModel, reader: PatchEncoder, embeddings: Tensor, target: Tensor | None, rival: Tensor | None
) -> Contributions:
    """Explains images by a model of patches, from the patches in one row [n, S · D]."""
    device, labels = embeddings.device, model.prototypes.labels
    assert isinstance(model.classifier, PatchDecision)  # noqa: S101 - checked by the caller
    evidence = model.evidence_of(embeddings)
    scores = model.scores_of(embeddings)
    targets = scores.argmax(1) if target is None else target.to(device)
    by_patch = model.classifier.patch_scores(evidence, labels, model.n_classes)
    maps, values = _column(by_patch, targets), scores.gather(1, targets[:, None])[:, 0]
    if rival is not None:
        maps = maps - _column(by_patch, rival.to(device))
        values = values - scores.gather(1, rival.to(device)[:, None])[:, 0]
    meaning = "score of the class" if rival is None else "lead in score over the other class"
    return _result(reader, maps, values, targets, rival, of_prototypes=False, meaning=meaning)


def _bias_of(model: PrototypeModel) -> Tensor | None:
    """Returns the bias of each prototype's class in a model of a head's weights; None if there is none.

    Raises:
        LookalikeError: If the model decides by something else than its most similar prototype.
    """
    classifier = model.classifier
    if isinstance(classifier, NearestPrototype):
        return None
    weight = classifier.weight.detach() if type(classifier) is LinearHead else torch.zeros(1, 2)
    if weight.shape[0] != weight.shape[1] or not torch.equal(weight, torch.eye(len(weight)).to(weight)):
        raise LookalikeError(
            f"the classifier {classifier.name!r} weighs all prototypes, so the lead of one over another is not its "
            "decision; take heat-maps (explain(..., relevance=True))"
        )
    bias = classifier.bias
    return bias.detach() if isinstance(bias, Tensor) else None


def lead_by_patch(
    model: PrototypeModel, patches: Tensor, pooled: Tensor, p: Tensor, q: Tensor
) -> tuple[Tensor, Tensor, str]:
    """Returns what each patch adds to the lead of prototype p over q [n, S], the leads [n], and what a lead is.

    Args:
        model: A model of whole images whose embeddings are the means of the patches.
        patches: [n, S, D].
        pooled: The embeddings [n, D] as the model computes them, so that the leads are its own.
        p: Prototypes [n].
        q: Their rivals [n].

    Raises:
        LookalikeError: If the similarity is not a sum over positions.
    """
    similarity, vectors = model.similarity, model.prototypes.vectors.to(patches.dtype)
    n_patches = patches.shape[1]
    if similarity.falls_with_distance or similarity.name in _BY_DISTANCE:
        points = similarity.project(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        centres, centre_of_image = similarity.project(vectors), similarity.project(pooled)
        middle = (centres[p] + centres[q]) / 2
        maps = 2 * ((points - middle[:, None]) * (centres[p] - centres[q])[:, None]).sum(2) / n_patches
        values = (centre_of_image - centres[q]).square().sum(1) - (centre_of_image - centres[p]).square().sum(1)
        return maps, values, "lead in squared distance over the other prototype"
    if isinstance(similarity, Dot | Cosine):
        if isinstance(similarity, Cosine):
            vectors = nn.functional.normalize(vectors, dim=1)
            norms = pooled.norm(dim=1).clamp_min(1e-12)[:, None]
            patches, pooled = patches / norms[..., None], pooled / norms
        direction = vectors[p] - vectors[q]
        maps = (patches * direction[:, None]).sum(2) / n_patches
        return maps, (pooled * direction).sum(1), "lead in similarity over the other prototype"
    raise LookalikeError(
        f"the similarity {similarity.name!r} of an average is not the average of similarities, so positions add up to "
        "no score; take heat-maps (explain(..., relevance=True)), or convert with level='patch'"
    )


def _column(by_patch: Tensor, classes: Tensor) -> Tensor:
    """Takes each image's class out of [n, S, K]."""
    return by_patch.gather(2, classes[:, None, None].expand(-1, by_patch.shape[1], 1))[..., 0]


def _result(
    reader: PatchEncoder,
    maps: Tensor,
    values: Tensor,
    targets: Tensor,
    rivals: Tensor | None,
    *,
    of_prototypes: bool,
    meaning: str,
) -> Contributions:
    return Contributions(
        maps.unflatten(1, reader.grid).float().cpu(),
        values.float().cpu(),
        (values - maps.sum(1)).float().cpu(),
        targets.cpu(),
        None if rivals is None else rivals.cpu(),
        of_prototypes,
        meaning,
        reader.image_size,
    )


def _join(results: list[Contributions]) -> Contributions:
    """Joins the results of several batches."""
    first = results[0]
    joined = {name: torch.cat([getattr(part, name) for part in results]) for name in ("maps", "values", "residuals")}
    rivals = None if first.rivals is None else torch.cat([part.rivals for part in results if part.rivals is not None])
    targets = torch.cat([part.targets for part in results])
    return Contributions(
        **joined, targets=targets, rivals=rivals, of_prototypes=first.of_prototypes, meaning=first.meaning,
        image_size=first.image_size,
    )  # fmt: skip
