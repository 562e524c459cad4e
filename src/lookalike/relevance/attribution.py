"""LRP of class scores, and PRP of similarities to prototypes.

Sources: paper section 3.3 and Gautam et al. 2023 (PRP); Kauffmann et al. 2022 (neuralised distances).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.encoder import Outputs, device_of, dtype_of, place
from lookalike.model import PrototypeModel
from lookalike.relevance.composites import COMPOSITES, Composite
from lookalike.relevance.operations import stabilised
from lookalike.relevance.propagation import RelevanceStart, propagate
from lookalike.relevance.reading import ScoreReader
from lookalike.relevance.result import Relevance, RuleUse, join
from lookalike.relevance.similarity_layer import PrpRule, channel_relevance, prp_rule

Targets = int | Sequence[int] | Sequence[Sequence[int]] | Tensor | None
Head = Callable[[Tensor, slice], Tensor]  # embeddings [n, D] and their rows among all images → log-probabilities [n, K]


def lrp(
    model: nn.Module,
    x: Tensor,
    target: Targets = None,
    composite: str | Composite = "epsilon-plus-flat",
    *,
    of: Literal["score", "probability"] = "score",
    output: str | int | Outputs | None = None,
    batch_size: int = 32,
    strict: bool = False,
) -> Relevance:
    """Propagates class scores to the pixels by layer-wise relevance propagation (LRP).

    Args:
        model: A classifier or a prototype model; it is not changed.
        x: Images [N, C, H, W].
        target: A class for all images, one per image [N], or several per image [N, M]; None takes the predicted class.
        composite: The rules, by name or your own.
        of: Whether to explain the ``"score"``, starting with its value, or the ``"probability"`` [paper]. A softmax at
            the output has no rule and keeps its gradient, inside the network or not. So do the similarities of a
            prototype model: the rules start at its embedding. A single score is the logit, or the probability, of class
            1 of two; class 0's score is its negative.
        output: Which of several outputs has the class scores, or the ``outputs`` of an ``Encoder``. None selects it as
            ``Encoder`` does.
        batch_size: Most images per forward pass.
        strict: Whether an operation without a rule is an error, not a warning.

    Returns:
        Maps [N, C, H, W], or [N, M, C, H, W] for several targets.

    Raises:
        LookalikeError: If a target is not a class, or an operation has no rule and ``strict`` is set.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Flatten(), nn.Linear(8, 3, bias=False))
        >>> relevance = lrp(net, torch.rand(2, 1, 4, 4))
        >>> relevance.maps.shape, bool(relevance.residual.max() < 1e-4)
        (torch.Size([2, 1, 4, 4]), True)
    """
    return join(
        list(stream_lrp(model, x, target, composite, of=of, output=output, batch_size=batch_size, strict=strict))
    )


def prp(
    model: PrototypeModel,
    x: Tensor,
    prototypes: Literal["nearest", "predicted", "all"] | Sequence[int] | Tensor = "nearest",
    composite: str | Composite = "epsilon-plus-flat",
    *,
    rule: PrpRule | None = None,
    batch_size: int = 32,
    strict: bool = False,
) -> Relevance:
    """Propagates similarities to prototypes to the pixels (PRP): which pixels make an image look like a prototype?

    Args:
        model: A prototype model; it is not changed.
        x: Images [N, C, H, W].
        prototypes: The ``"nearest"`` prototype of each image; all of its ``"predicted"`` class (all classes must have
            the same number); ``"all"``; or indices, the same for all images [M] or per image [N, M].
        composite: The rules, by name or your own.
        rule: How relevance starts at the similarity layer. ``"neuralized"``, the default: each channel's contribution
            to the lead over the strongest rival of another class, ‖z − q‖² − ‖z − p‖². ``"share"`` [ref]:
            1 / ((z − p)² + 1e-12), normalised; unstable. ``"gradient"``: z times the similarity's gradient. With
            ``"share"``, relevance sums to 1; with the others, its absolute values do, and channels that speak against
            the prototype are negative. A model of one class has no rivals; its default is ``"gradient"``.
        batch_size: Most images per forward pass.
        strict: Whether an operation without a rule is an error, not a warning.

    Returns:
        Maps [N, M, C, H, W].

    Raises:
        LookalikeError: If a prototype or the rule is unknown, or the rule needs a rival and there is none.
    """
    return join(list(stream_prp(model, x, prototypes, composite, rule=rule, batch_size=batch_size, strict=strict)))


def stream_lrp(
    model: nn.Module,
    x: Tensor,
    target: Targets = None,
    composite: str | Composite = "epsilon-plus-flat",
    *,
    of: Literal["score", "probability"] = "score",
    output: str | int | Outputs | None = None,
    batch_size: int = 32,
    strict: bool = False,
) -> Iterator[Relevance]:
    """Yields the results of ``lrp`` batch by batch."""
    checks.model("model", model)
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    x = to_model(_checked_images(x, composite, strict), model)
    checks.one_of("of", of, ("score", "probability"))
    _check_target(target, len(x))
    checks.output_key("output", None if isinstance(output, Outputs) else output)
    if output is not None and isinstance(model, PrototypeModel):
        raise LookalikeError("a prototype model has one output, its class scores: leave output out")
    reader: ScoreReader | None = None
    head: Callable[[Tensor, slice], Tensor] | None = None
    if isinstance(model, PrototypeModel):
        run: Callable[[Tensor], Tensor] = model.encoder
        head = _without_rows(model.scores_of if of == "score" else model.log_probabilities_of)
    else:
        reader = ScoreReader(model, x, output)
        run, head = reader.logits, reader.tail
    given = None if target is None else _as_targets(target, len(x))
    largest_target = -1 if given is None else int(given.max())  # read before the maps: on a GPU, reading waits
    chosen = None if given is None else given.to(x.device)

    def starts(out: Tensor, rows: slice, given: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        values = out.detach()
        scores = values if head is None else head(values, rows).detach()
        outputs = Outputs(None, scores.shape[1]) if reader is None else reader.outputs
        classes = outputs.predicted(scores)[:, None] if given is None else given
        if largest_target >= outputs.n_classes:
            raise LookalikeError(f"target {largest_target} is no class; the model has {outputs.n_classes}")
        for column in classes.unbind(1):
            gradient = outputs.gradient(scores, column, of)
            if head is not None:
                gradient = _gradient_at_embeddings(lambda z: head(z, rows), values, gradient)
            yield gradient, (values * gradient).flatten(1).sum(1)

    has_one_target = chosen is None or chosen.shape[1] == 1
    # a tail runs the network on the rows' own images
    name = None if reader is not None and reader.tail is not None else ("lrp", of, reader and reader.outputs)
    start = RelevanceStart(starts, chosen, name)
    for with_targets in propagate(model, x, run, start, composite, batch_size, strict):
        relevance = with_targets.of_first_target() if has_one_target else with_targets
        if isinstance(model, PrototypeModel):
            relevance.rules.append(RuleUse("similarity, classifier", "prototypes", "gradient", 1))
        yield relevance


def _without_rows(classify: Callable[[Tensor], Tensor]) -> Callable[[Tensor, slice], Tensor]:
    """Returns a classifier of embeddings that is also given their rows and does not need them."""
    return lambda z, _rows: classify(z)


def _checked_images(x: Any, composite: Any, strict: Any) -> Tensor:
    """Checks the arguments that ``lrp`` and ``prp`` share; returns the images [N, …]."""
    images = checks.tensor("x", x, kind="number")
    if not images.ndim or not len(images):
        raise LookalikeError("there are no images to explain")
    if images.ndim < 2:
        raise checks.unfit("x", images, "images [N, C, H, W]")
    if not images.is_floating_point() and images.dtype != torch.uint8:  # bytes have an error of their own
        raise checks.unfit("x", images, "of floating-point numbers, as the network takes them")
    if not isinstance(composite, Composite):
        _ = COMPOSITES[composite]
    checks.flag("strict", strict)
    return images


def _check_target(target: Any, n: int) -> None:
    """Checks the form of targets; whether such classes exist is checked once the outputs are known."""
    if target is None:
        return
    targets = checks.tensor("target", target, kind="whole")
    if targets.ndim > 2:
        raise checks.unfit("target", targets, "a class, classes [N], or classes [N, M]")
    if targets.ndim and len(targets) != n:
        raise LookalikeError(f"there are {n} images and targets for {len(targets)}")
    if not targets.numel():
        raise LookalikeError("target must name at least one class per image")
    if int(targets.min()) < 0:
        raise LookalikeError(f"target {int(targets.min())} is no class; classes are numbered from 0")


def _check_prototypes(prototypes: Any, n: int) -> None:
    """Checks that prototypes are a known word, or indices for all images or for each."""
    if isinstance(prototypes, str):
        if prototypes not in ("nearest", "predicted", "all"):
            raise checks.unfit("prototypes", prototypes, "'nearest', 'predicted', 'all' or numbers")
        return
    numbers = checks.tensor("prototypes", prototypes, kind="whole", empty=False)
    if numbers.ndim not in (1, 2):
        raise checks.unfit("prototypes", numbers, "'nearest', 'predicted', 'all', numbers [M] or numbers [N, M]")
    if numbers.ndim == 2 and len(numbers) != n:
        raise LookalikeError(f"there are {n} images and prototypes for {len(numbers)}")


def to_model(x: Tensor, model: nn.Module) -> Tensor:
    """Moves images to the model's device and precision."""
    dtype = dtype_of(model)
    if dtype is torch.float16:
        raise LookalikeError("relevance overflows in a float16 network; give it in float32 or bfloat16 (model.float())")
    moved: Tensor = place(x, device_of(model), dtype)
    return moved


@torch.enable_grad()
def _gradient_at_embeddings(head: Callable[[Tensor], Tensor], embeddings: Tensor, gradient: Tensor) -> Tensor:
    """Propagates a gradient from a head's output back to its input, the embeddings [n, D]."""
    leaf = embeddings.clone().requires_grad_()
    (at_embeddings,) = torch.autograd.grad(head(leaf), leaf, gradient.to(leaf.dtype))
    return at_embeddings


def lrp_of_heads(
    encoder: nn.Module,
    x: Tensor,
    heads: Sequence[Head],
    composite: str | Composite = "epsilon-plus-flat",
    *,
    batch_size: int = 32,
) -> Relevance:
    """Explains, for each of several heads on one encoder, the probability of the class that it predicts [ours].

    Args:
        encoder: Maps images to embeddings [n, D]; it is not changed.
        x: Images [N, C, H, W].
        heads: M differentiable functions of embeddings [n, D] and their rows among all images, which return
            log-probabilities [n, K], up to a constant per row. They have no rule and keep their gradient.
        composite: Rules for the encoder, by name or your own.
        batch_size: Most images per forward pass.

    Returns:
        Maps [N, M, C, H, W]. For ``[lambda z, rows: model.log_probabilities_of(z)]`` they are equal to those of
        ``lrp(model, x, of="probability")``.

    Raises:
        LookalikeError: If there are no images or no heads.
    """
    checks.model("encoder", encoder)
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    images = to_model(_checked_images(x, composite, strict=False), encoder)
    if not heads:
        raise LookalikeError("there is no head to explain")

    def starts(embeddings: Tensor, rows: slice, _: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        values = embeddings.detach()
        for head in heads:
            gradient = _probability_gradient(head, values, rows)
            yield gradient, (values * gradient).sum(1)

    return join(list(propagate(encoder, images, encoder, RelevanceStart(starts), composite, batch_size, False)))


@torch.enable_grad()
def _probability_gradient(head: Head, embeddings: Tensor, rows: slice) -> Tensor:
    """Returns the gradient of the predicted class's probability with respect to embeddings [n, D]."""
    leaf = embeddings.clone().requires_grad_()
    scores = head(leaf, rows)
    outputs = Outputs(None, scores.shape[1])
    at_scores = outputs.gradient(scores.detach(), outputs.predicted(scores.detach()), "probability")
    (at_embeddings,) = torch.autograd.grad(scores, leaf, at_scores.to(scores.dtype))
    return at_embeddings


def stream_prp(
    model: PrototypeModel,
    x: Tensor,
    prototypes: Literal["nearest", "predicted", "all"] | Sequence[int] | Tensor = "nearest",
    composite: str | Composite = "epsilon-plus-flat",
    *,
    rule: PrpRule | None = None,
    batch_size: int = 32,
    strict: bool = False,
) -> Iterator[Relevance]:
    """Yields the results of ``prp`` batch by batch."""
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    x = to_model(_checked_images(x, composite, strict), model)
    _check_prototypes(prototypes, len(x))
    rule = prp_rule(model, rule)
    chosen = None if isinstance(prototypes, str) else _given_prototypes(model, prototypes, len(x)).to(x.device)
    choose = _choice_by_embedding(model, prototypes) if isinstance(prototypes, str) else None

    def starts(embeddings: Tensor, _: slice, given: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        z = embeddings.detach()
        indices = given if choose is None else choose(z)
        assert indices is not None  # given, or chosen by the embeddings
        for column in indices.unbind(1):
            at_embedding = channel_relevance(model, z, column, rule)
            yield at_embedding / stabilised(z), at_embedding.sum(1)

    which = prototypes if isinstance(prototypes, str) else None
    name = None if which == "predicted" else ("prp", rule, which)  # whose prototypes are read before the maps
    start = RelevanceStart(starts, chosen, name)
    for relevance in propagate(model, x, model.encoder, start, composite, batch_size, strict):
        relevance.rules.append(RuleUse("similarity", "prototypes", rule, 1))
        yield relevance


def _choice_by_embedding(model: PrototypeModel, which: str) -> Callable[[Tensor], Tensor]:
    """Returns a function of embeddings [n, D] that gives the prototypes to explain [n, M].

    What must be read from a device is read here, before the maps: on a GPU, reading waits for all work before it.
    """
    n_prototypes, labels = len(model.prototypes), model.prototypes.labels
    if which == "nearest":
        return lambda z: model.similarities_of(z).argmax(1, keepdim=True)
    if which == "all":
        return lambda z: torch.arange(n_prototypes, device=z.device).expand(len(z), -1)
    if len(set(labels.unique(return_counts=True)[1].tolist())) > 1:
        raise LookalikeError(
            "the classes have different numbers of prototypes, so maps for all of a class do not fit together; give "
            "the numbers of prototypes instead"
        )
    # the prototypes of each class, in the order of the classes that have any; such a class alone is ever predicted
    present, by_class = labels.unique(), torch.sort(labels, stable=True).indices
    rows = torch.zeros(model.n_classes, dtype=torch.int64, device=labels.device)
    rows[present] = torch.arange(len(present), device=labels.device)
    groups = by_class.reshape(len(present), -1)
    return lambda z: groups[rows[model.scores_of(z).argmax(1)]]


def _given_prototypes(model: PrototypeModel, prototypes: Any, n: int) -> Tensor:
    """Returns the prototypes with these indices, [M] for all images or [N, M], for each image [N, M]."""
    indices, n_prototypes = torch.as_tensor(prototypes).long(), len(model.prototypes)
    unknown = indices[(indices < 0) | (indices >= n_prototypes)]
    if len(unknown):
        raise LookalikeError(f"there is no prototype {int(unknown[0])}; there are prototypes 0 to {n_prototypes - 1}")
    return indices.expand(n, -1) if indices.ndim == 1 else indices


def _as_targets(target: Any, n: int) -> Tensor:
    """Returns targets as a tensor [N, M]."""
    targets = torch.as_tensor(target).long()
    if targets.ndim == 0:
        targets = targets.expand(n)
    if targets.ndim == 1:
        targets = targets[:, None]
    if len(targets) != n:
        raise LookalikeError(f"there are {n} images and targets for {len(targets)}")
    return targets
