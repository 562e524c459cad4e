"""Attribution without gradients: what each position of the feature map adds to a score, from one forward pass.

For a model of patches, a class's score is a sum over positions by definition. For a model of whole images whose
embedding is the average over the positions, the lead of one prototype over another is such a sum too: for squared
distances ‖z − q‖² − ‖z − p‖² = 2 (p − q) · (z − (p + q) / 2), which is linear in z, and so the mean of the same
expression over the positions. What is left unexplained, the residual, is shown with each map.

Source: gradient-free maps follow the abstract of "Post-hoc Self-explanation of CNNs" (2026); the formulas are [ours].
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.extent import WHOLE, Extent, cells_of_pixels
from lookalike._core.names import visible
from lookalike._core.untouched import keeps_torch_settings
from lookalike.encoder import Encoder
from lookalike.encoder.finite import check_zeros, zeros_if_finite
from lookalike.encoder.map_layers import NoMapError
from lookalike.encoder.patches import PatchEncoder, patch_reader
from lookalike.model import PrototypeModel
from lookalike.model.classifier import LinearHead, NearestPrototype
from lookalike.model.decision import PatchDecision, strongest_rivals
from lookalike.model.similarity import Cosine, Dot, Similarity
from lookalike.parts.per_image import PerImage, one_size
from lookalike.parts.segmentation import batches_of


@dataclass(frozen=True)
class Contributions:
    """What each position adds to a score.

    Attributes:
        maps: [N, h, w]. They sum to ``values`` minus ``residuals``.
        values: The explained score of each image [N].
        residuals: What the positions do not add up to [N]: rounding, what the network does after the average, and the
            biases of a head's own model.
        targets: The explained class, or prototype, of each image [N].
        rivals: What it leads over [N], as ``targets``; None if the score is a class's own.
        of_prototypes: Whether targets and rivals are prototypes, and not classes.
        meaning: What the score is, in words.
        image_size: Height and width of the images.
        extent: The part of the images that the cells of the maps cover, see ``PatchEncoder.extent``.
    """

    maps: Tensor
    values: Tensor
    residuals: Tensor
    targets: Tensor
    rivals: Tensor | None
    of_prototypes: bool
    meaning: str
    image_size: tuple[int, int]
    extent: Extent = WHOLE

    def upsampled(self) -> Tensor:
        """Returns the maps at the size of the images [N, H, W], each cell's value shared out evenly over its pixels.

        Pixels outside of ``extent`` have 0.
        """
        height, width = self.maps.shape[1:]
        down = _shares_of_pixels(height, self.image_size[0], *self.extent.down).to(self.maps)
        across = _shares_of_pixels(width, self.image_size[1], *self.extent.across).to(self.maps)
        return down @ self.maps @ across.T


def _shares_of_pixels(n: int, length: int, start: float, end: float) -> Tensor:
    """Returns which share of each of n cells each pixel along an axis gets [length, n].

    A cell that is smaller than a pixel, and has the middle of none, goes to the pixel that it lies in.
    """
    cells = torch.from_numpy(cells_of_pixels(n, length, start, end))
    shares = nn.functional.one_hot(cells.clamp_min(0), n).double() * (cells >= 0)[:, None]
    centres = (start + (torch.arange(n, dtype=torch.float64) + 0.5) * (end - start) / n) * length
    is_lost = (shares.sum(0) == 0) & (centres >= 0) & (centres < length)
    shares[centres[is_lost].long(), is_lost.nonzero()[:, 0]] = 1
    return shares / shares.sum(0).clamp_min(1)


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
        inputs: Images of one size, as for ``PrototypeModel.predict``.
        target: Class to explain, of all images or of each [N]; None takes the predicted ones.
        rival: Class that it leads over. None explains the class's own score in a model of patches, and the lead over
            the strongest rival in a model of whole images.
        batch_size: Most images that pass through the network at once.

    Raises:
        LookalikeError: If a class is unknown, or the similarity or the network is not a sum over positions.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    results = [batch.contributions for batch in explained_batches(model, inputs, target, rival, batch_size)]
    one_size({explained.image_size for explained in results})
    return _join(results)


class Leads(NamedTuple):
    """Leads of the prototypes of two classes over one prototype of the second class, which they are compared by.

    Attributes:
        maps: What each position adds [n, M, h, w].
        values: The leads [n, M].
    """

    maps: Tensor
    values: Tensor


class ExplainedBatch(NamedTuple):
    """One batch of images with what their positions add.

    Attributes:
        inputs: The images [n, C, h, w].
        contributions: What their positions add to the score, or the lead.
        of_class: Leads of all prototypes of the explained class, over the same rival; None if classes have no
            prototypes to choose from, as in a model of patches.
        of_other: Leads of all prototypes of the rival's class.
    """

    inputs: Tensor
    contributions: Contributions
    of_class: Leads | None = None
    of_other: Leads | None = None


def explained_batches(
    model: PrototypeModel, inputs: Any, target: Any, rival: Any, batch_size: int, *, compares: bool = False
) -> Iterator[ExplainedBatch]:
    """Yields batches of images with what their positions add; each passes through the network once.

    Args:
        model: As for ``contributions``.
        inputs: As for ``contributions``.
        target: As for ``contributions``.
        rival: As for ``contributions``.
        batch_size: Most images that pass through the network at once.
        compares: Whether two classes are compared. A model of patches then explains the lead over the class with the
            next highest score if there is no rival, and one of whole images says what all prototypes of both classes
            gain.

    Raises:
        LookalikeError: As ``contributions`` does, or if there are no images.
    """
    if model.n_classes < 2:
        raise LookalikeError("the model has one class, and no score that tells classes apart")
    targets, rivals = PerImage.of("target", target, model.n_classes), PerImage.of("rival", rival, model.n_classes)
    first = 0
    for x in batches_of(model, inputs, batch_size):
        reader = reader_of(model, x)
        maps, embeddings = reader.maps_and_embeddings(x)
        zeros = zeros_if_finite(embeddings if reader.is_pooled else maps.flatten(1))
        size = (x.shape[2], x.shape[3])  # a model of patches takes images of any size that gives its positions
        of_rows = [given.of_rows(first, len(x)) for given in (targets, rivals)]
        if isinstance(model.classifier, PatchDecision):
            explained, leads = _of_patches(model, maps, size, *of_rows, rather_than_next=compares), []
            check_zeros(zeros, first)
        else:
            explained, owned = _of_whole_images(model, maps, embeddings, size, *of_rows)
            check_zeros(zeros, first)
            for has_one, given in zip(owned.cpu(), of_rows, strict=True):
                _check_have_prototypes(model, has_one, given)
            leads = _leads_of_classes(model, maps, embeddings, explained) if compares else []
        yield ExplainedBatch(x, replace(explained, extent=reader.extent), *leads)
        first += len(x)
    targets.check_count(first)
    rivals.check_count(first)


def reader_of(model: PrototypeModel, x: Tensor) -> PatchEncoder:
    """Returns an encoder of the patches whose average is a model's embedding, or of which a model of patches is made.

    Raises:
        LookalikeError: If there is none.
    """
    if isinstance(model.encoder, PatchEncoder):
        return model.encoder
    if not isinstance(model.encoder, Encoder):
        raise LookalikeError("the network was not cut by an Encoder, so its feature map is not known")
    try:
        reader = patch_reader(model.encoder, x)
    except NoMapError:
        raise LookalikeError(
            "no feature map larger than 1×1 was found that is averaged before the network's head, so no positions add "
            "up to a score; take heat-maps (explain(..., relevance=True)), or convert with level='patch' and name a "
            "layer that returns a map (layers=)"
        ) from None
    if not reader.is_pooled:
        raise LookalikeError(
            "the embedding is not the average over the positions of a feature map (a class token, for example, is "
            "not), so the positions add up to no score; take heat-maps (explain(..., relevance=True)), or convert with "
            "level='patch'"
        )
    return reader


def _of_whole_images(
    model: PrototypeModel,
    maps: Tensor,
    embeddings: Tensor,
    image_size: tuple[int, int],
    target: Tensor | None,
    rival: Tensor | None,
) -> tuple[Contributions, Tensor]:
    """Explains the leads of one batch of images, from feature maps [n, D, h, w] and their averages [n, D].

    Returns:
        The leads, and whether each image's class, and its rival, has a prototype [2, n].
    """
    labels, bias = model.prototypes.labels, _bias_of(model)
    scores = model.similarities_of(embeddings)  # of prototypes; a class's score is that of its best one
    if bias is not None:
        scores = scores + bias[labels]
    is_target = None if target is None else labels == target.to(labels.device)[:, None]
    p = _best_prototype(scores, is_target)
    is_target = labels == labels[p][:, None] if is_target is None else is_target
    is_rival = ~is_target if rival is None else labels == rival.to(labels.device)[:, None]
    q = _best_prototype(scores, is_rival)
    by_position, values, meaning = lead_by_position(model, maps, embeddings, p, q)
    if bias is not None:  # no position adds it: it is the residual
        values = values + bias[labels[p]] - bias[labels[q]]
    owned = torch.stack([is_target, is_rival]).any(2)
    return _result(image_size, by_position, values, p, q, of_prototypes=True, meaning=meaning), owned


def _leads_of_classes(model: PrototypeModel, maps: Tensor, embeddings: Tensor, explained: Contributions) -> list[Leads]:
    """Returns the leads of all prototypes of the explained classes, and of those of their rivals, over the rivals.

    A class with fewer prototypes than another repeats its first one.
    """
    assert explained.rivals is not None  # models of whole images always have one
    labels, device = model.prototypes.labels.cpu(), maps.device
    rivals, bias = explained.rivals.to(device), _bias_of(model)
    leads = []
    for explained_prototypes in (explained.targets, explained.rivals):
        is_own = labels == labels[explained_prototypes][:, None]
        numbers = is_own.int().argsort(dim=1, descending=True, stable=True)[:, : int(is_own.sum(1).max())]
        numbers = numbers.where(is_own.gather(1, numbers), numbers[:, :1]).to(device)
        by_prototype = [lead_by_position(model, maps, embeddings, column, rivals)[:2] for column in numbers.unbind(1)]
        values = torch.stack([value for _, value in by_prototype], 1)
        if bias is not None:
            values = values + bias[model.prototypes.labels[numbers]] - bias[model.prototypes.labels[rivals]][:, None]
        leads.append(Leads(torch.stack([by_position for by_position, _ in by_prototype], 1).cpu(), values.cpu()))
    return leads


def _best_prototype(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Returns the prototype [n] with each image's highest score among those allowed [n, P]; None allows all."""
    return (scores if allowed is None else scores.where(allowed, -torch.inf)).argmax(1)


def _check_have_prototypes(model: PrototypeModel, has_one: Tensor, classes: Tensor | None) -> None:
    """Checks that each image's class has a prototype, from which images have one [n].

    Raises:
        LookalikeError: If one has none; another class's prototype would be shown for it.
    """
    rows = torch.nonzero(~has_one)[:, 0].tolist()
    if rows and classes is None:
        raise LookalikeError("no other class has a prototype, so there is no rival to lead over")
    if rows and classes is not None:
        name = visible(model.class_names[int(classes[rows[0]])])
        raise LookalikeError(f"class {name!r} has no prototype that could explain it; give a class that has one")


def _of_patches(
    model: PrototypeModel,
    maps: Tensor,
    image_size: tuple[int, int],
    target: Tensor | None,
    rival: Tensor | None,
    *,
    rather_than_next: bool,
) -> Contributions:
    """Explains images by a model of patches, from the joined maps [n, D, h, w]."""
    device, labels = maps.device, model.prototypes.labels
    assert isinstance(model.classifier, PatchDecision)  # checked by the caller
    evidence = model.evidence_of(maps.flatten(2).transpose(1, 2).flatten(1))
    scores = model.classifier(evidence, labels, model.n_classes)
    targets = scores.argmax(1) if target is None else target.to(device)
    if rival is None and rather_than_next:
        probabilities = model.classifier.probabilities(evidence, labels, model.n_classes)
        rival = strongest_rivals(scores, probabilities, targets[:, None])[:, 0]
    by_patch = model.classifier.patch_scores(evidence, labels, model.n_classes)
    by_position, values = _column(by_patch, targets), scores.gather(1, targets[:, None])[:, 0]
    if rival is not None:
        by_position = by_position - _column(by_patch, rival.to(device))
        values = values - scores.gather(1, rival.to(device)[:, None])[:, 0]
    meaning = "score of the class" if rival is None else "lead in score over the other class"
    return _result(image_size, by_position.view(len(maps), *maps.shape[2:]), values, targets, rival, False, meaning)


def _bias_of(model: PrototypeModel) -> Tensor | None:
    """Returns the bias of each prototype's class in a model of a head's weights; None if there is none.

    Raises:
        LookalikeError: If the model decides by something else than its most similar prototype.
    """
    classifier = model.classifier
    if isinstance(classifier, NearestPrototype):
        return None
    if type(classifier) is not LinearHead or not classifier.weighs_own_prototype:
        raise LookalikeError(
            f"the classifier {classifier.name!r} weighs all prototypes, so the lead of one over another is not its "
            "decision; take heat-maps (explain(..., relevance=True))"
        )
    bias = classifier.bias
    return bias.detach() if isinstance(bias, Tensor) else None


def lead_by_position(
    model: PrototypeModel, maps: Tensor, pooled: Tensor, p: Tensor, q: Tensor
) -> tuple[Tensor, Tensor, str]:
    """Returns what each position adds to the lead of prototype p over q [n, h, w], the leads [n], and what a lead is.

    Args:
        model: A model of whole images whose embeddings are the means of the positions.
        maps: [n, D, h, w].
        pooled: The embeddings [n, D] as the model computes them, so that the leads are its own.
        p: Prototypes [n].
        q: Their rivals [n].

    Raises:
        LookalikeError: If the similarity is not a sum over positions.
    """
    similarity, vectors = model.similarity, model.prototypes.vectors.to(maps.dtype)
    if similarity.orders_by_distance:
        meaning = "lead in squared distance over the other prototype"
        # each operation counts: a GPU waits for Python, which asks for them
        of_both = similarity.project(vectors)[torch.stack([q, p])]
        from_q, from_p = (similarity.project(pooled) - of_both).square().sum(2)
        values, difference = from_q - from_p, of_both[1] - of_both[0]
        direction, origin = _pulled_back(similarity, 2 * difference, pooled)
        middle = of_both.sum(0) if origin is None else of_both.sum(0) - 2 * origin
        constant = middle.mul_(difference).sum(1)
    elif isinstance(similarity, Dot | Cosine):
        meaning = "lead in similarity over the other prototype"
        is_cosine = isinstance(similarity, Cosine)
        directions = nn.functional.normalize(vectors, dim=1) if is_cosine else vectors
        direction = directions[p] - directions[q]
        if is_cosine:
            direction = direction / pooled.norm(dim=1).clamp_min(1e-12)[:, None]
        constant, values = torch.zeros_like(direction[:, 0]), (pooled * direction).sum(1)
    else:
        raise LookalikeError(
            f"the similarity {similarity.name!r} of an average is not the average of similarities, so positions add up "
            "to no score; take heat-maps (explain(..., relevance=True)), or convert with level='patch'"
        )
    # one matrix product per image: nothing of the maps' size is written
    sums = torch.bmm(direction[:, None], maps.flatten(2))[:, 0] - constant[:, None]
    return sums.unflatten(1, maps.shape[2:]) / sums.shape[1], values, meaning


def _pulled_back(similarity: Similarity, direction: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns Tᵀd for directions d [n, D] and a metric's linear map T, and the image of 0 under it [n, D], if any.

    Then d · T a = Tᵀd · a for each position a, and no position has to be mapped.
    """
    if type(similarity).project is Similarity.project:
        return direction, None
    with torch.enable_grad():
        zero = torch.zeros_like(embeddings).requires_grad_()
        origin = similarity.project(zero)
        (pulled_back,) = torch.autograd.grad(origin, zero, direction)
    return pulled_back, origin.detach()


def _column(by_patch: Tensor, classes: Tensor) -> Tensor:
    """Takes each image's class out of [n, S, K]."""
    return by_patch.gather(2, classes[:, None, None].expand(-1, by_patch.shape[1], 1))[..., 0]


def _result(
    image_size: tuple[int, int],
    maps: Tensor,
    values: Tensor,
    targets: Tensor,
    rivals: Tensor | None,
    of_prototypes: bool,
    meaning: str,
) -> Contributions:
    # one copy from a GPU of all numbers, and one of the classes
    numbers = torch.cat([values[:, None], maps.flatten(1)], 1).cpu().double()
    residuals = numbers[:, 0] - numbers[:, 1:].sum(1)
    classes = targets[None].cpu() if rivals is None else torch.stack([targets, rivals.to(targets.device)]).cpu()
    return Contributions(
        numbers[:, 1:].float().view(maps.shape),
        numbers[:, 0].float(),
        residuals.float(),
        classes[0],
        None if rivals is None else classes[1],
        of_prototypes,
        meaning,
        image_size,
    )


def _join(results: list[Contributions]) -> Contributions:
    """Joins the results of several batches."""
    first = results[0]
    joined = {name: torch.cat([getattr(part, name) for part in results]) for name in ("maps", "values", "residuals")}
    rivals = None if first.rivals is None else torch.cat([part.rivals for part in results if part.rivals is not None])
    targets = torch.cat([part.targets for part in results])
    return Contributions(
        **joined, targets=targets, rivals=rivals, of_prototypes=first.of_prototypes, meaning=first.meaning,
        image_size=first.image_size, extent=first.extent,
    )  # fmt: skip
