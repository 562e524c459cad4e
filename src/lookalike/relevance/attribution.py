"""LRP of a network's class scores, and PRP of its likeness to prototypes.

Sources: paper section 3.3 and Gautam et al. 2023 (PRP); Kauffmann et al. 2022 (neuralised distances).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lookalike.encoder import device_of, dtype_of, place
from lookalike.encoder.calls import call
from lookalike.encoder.head import named_outputs
from lookalike.errors import LookalikeError
from lookalike.model import PrototypeModel
from lookalike.relevance.composites import Composite
from lookalike.relevance.operations import stabilised
from lookalike.relevance.propagation import propagate
from lookalike.relevance.result import Relevance, RuleUse, join

Targets = int | Sequence[int] | Sequence[Sequence[int]] | Tensor | None


def lrp(
    model: nn.Module,
    x: Tensor,
    target: Targets = None,
    composite: str | Composite = "epsilon-plus-flat",
    *,
    of: Literal["score", "probability"] = "score",
    output: str | int | None = None,
    batch_size: int = 32,
    strict: bool = False,
) -> Relevance:
    """Layer-wise relevance propagation of class scores to the pixels.

    Args:
        model: A classifier, or a prototype model, whose class scores are then explained. It is left as it was.
        x: Images [N, C, H, W].
        target: A class for all images, one per image [N], or several per image [N, M]; None takes the predicted ones.
        composite: Which rules; by name, or one of your own.
        of: Explain the score, starting with its value, or the ``"probability"`` [paper]: the softmax has no rule and
            keeps its gradient. So do the similarities of a prototype model; the rules begin at its embedding. A single
            score is the logit of class 1 of two.
        output: Which of several outputs holds the class scores.
        batch_size: The most images in flight.
        strict: Make an operation without a rule an error, in place of a warning.

    Returns:
        Maps [N, C, H, W], or [N, M, C, H, W] for several targets.

    Raises:
        LookalikeError: If a target is no class, or an operation has no rule and ``strict`` is set.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Flatten(), nn.Linear(8, 3, bias=False))
        >>> found = lrp(net, torch.rand(2, 1, 4, 4))
        >>> found.maps.shape, bool(found.residual.max() < 1e-4)
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
    similarity: Literal["share", "gradient", "neuralized"] = "share",
    batch_size: int = 32,
    strict: bool = False,
) -> Relevance:
    """Prototypical relevance propagation: which pixels make an image look like a prototype.

    Args:
        model: A prototype model. It is left as it was.
        x: Images [N, C, H, W].
        prototypes: The ``"nearest"`` one of each image; all of its ``"predicted"`` class (classes must have equally
            many); ``"all"``; or numbers, the same for all images [M] or per image [N, M].
        composite: Which rules.
        similarity: What happens at the similarity layer, where relevance 1 starts. ``"share"``: it is shared over the
            embedding's channels as 1 / ((z − p)² + 1e-12), normalised. ``"gradient"``: in proportion to z times the
            similarity's gradient. ``"neuralized"``: in proportion to the contributions to the difference of squared
            distances to the strongest rival of another class.
        batch_size: The most images in flight.
        strict: Make an operation without a rule an error.

    Returns:
        Maps [N, M, C, H, W].

    Raises:
        LookalikeError: If a prototype's number or the kind of similarity layer is unknown.
    """
    return join(
        list(stream_prp(model, x, prototypes, composite, similarity=similarity, batch_size=batch_size, strict=strict))
    )


def stream_lrp(
    model: nn.Module,
    x: Tensor,
    target: Targets = None,
    composite: str | Composite = "epsilon-plus-flat",
    *,
    of: Literal["score", "probability"] = "score",
    output: str | int | None = None,
    batch_size: int = 32,
    strict: bool = False,
) -> Iterator[Relevance]:
    """Does what ``lrp`` does and yields the result of each batch as soon as it is there."""
    x = _placed(x, model)
    if of not in ("score", "probability"):
        raise LookalikeError(f"of must be 'score' or 'probability', not {of!r}")
    head: Callable[[Tensor], Tensor] | None = None
    if isinstance(model, PrototypeModel):
        run: Callable[[Tensor], Tensor] = model.encoder
        head = model.scores_of if of == "score" else model.log_probabilities_of
    else:
        run = functools.partial(_scores, model, output)
    chosen = None if target is None else _as_targets(target, len(x))

    def starts(out: Tensor, rows: slice) -> Iterator[tuple[Tensor, Tensor]]:
        values = out.detach()
        scores = values if head is None else head(values).detach()
        two = scores if scores.ndim == 2 and (of == "score" or scores.shape[1] > 1) else _two_logits(scores)
        wanted = two.argmax(1, keepdim=True) if chosen is None else chosen[rows].to(scores.device)
        if int(wanted.min()) < 0 or int(wanted.max()) >= two.shape[1]:
            raise LookalikeError(f"target {int(wanted.max())} is no class; the model has {two.shape[1]}")
        for column in wanted.unbind(1):
            gradient = _score_gradient(two, column) if of == "score" else _probability_gradient(two, column)
            if two is not scores:  # class 1 is for the logit, class 0 against it
                gradient = gradient[:, 1:].reshape(scores.shape)
            if head is not None:
                gradient = _pull_back(head, values, gradient)
            yield gradient, (values * gradient).flatten(1).sum(1)

    several = chosen is not None and chosen.shape[1] > 1
    for found in propagate(model, x, run, starts, composite, batch_size, strict, several=several):
        if head is not None:
            found.rules.append(RuleUse("similarity, classifier", "prototypes", "gradient", 1))
        yield found


def _placed(x: Tensor, model: nn.Module) -> Tensor:
    """Returns images where the model is, in its precision."""
    dtype = dtype_of(model)
    if dtype is torch.float16:
        raise LookalikeError("relevance overflows in a float16 network; give it in float32 or bfloat16 (model.float())")
    placed: Tensor = place(x, device_of(model), dtype)
    return placed


def _scores(model: nn.Module, output: str | int | None, images: Tensor) -> Tensor:
    outputs = dict(named_outputs(call(model, images)))
    return outputs[output if output is not None else "logits" if "logits" in outputs else next(iter(outputs))]


def _two_logits(scores: Tensor) -> Tensor:
    """Returns one logit per image [n] or [n, 1] as those of two classes [n, 2]."""
    logit = scores.reshape(len(scores), 1)
    return torch.cat([torch.zeros_like(logit), logit], 1)


def _score_gradient(scores: Tensor, target: Tensor) -> Tensor:
    return nn.functional.one_hot(target, scores.shape[1]).to(scores.dtype)


def _probability_gradient(scores: Tensor, target: Tensor) -> Tensor:
    """Returns the gradient [n, K] of a class's probability after the scores, also where it is all but one."""
    p = scores.double().softmax(1)
    own = p.gather(1, target[:, None])
    others = p.scatter(1, target[:, None], 0.0)  # their sum is 1 − p, without its rounding
    return (-own * others).scatter(1, target[:, None], own * others.sum(1, keepdim=True)).to(scores.dtype)


@torch.enable_grad()
def _pull_back(head: Callable[[Tensor], Tensor], embeddings: Tensor, gradient: Tensor) -> Tensor:
    """Returns the gradient at embeddings [n, D] from that at what a head makes of them."""
    leaf = embeddings.clone().requires_grad_()
    (found,) = torch.autograd.grad(head(leaf), leaf, gradient.to(leaf.dtype))
    return found


def stream_prp(
    model: PrototypeModel,
    x: Tensor,
    prototypes: Literal["nearest", "predicted", "all"] | Sequence[int] | Tensor = "nearest",
    composite: str | Composite = "epsilon-plus-flat",
    *,
    similarity: Literal["share", "gradient", "neuralized"] = "share",
    batch_size: int = 32,
    strict: bool = False,
) -> Iterator[Relevance]:
    """Does what ``prp`` does and yields the result of each batch as soon as it is there."""
    x = _placed(x, model)
    if similarity not in _SIMILARITY_LAYERS:
        raise LookalikeError(f"similarity must be one of {', '.join(_SIMILARITY_LAYERS)}, not {similarity!r}")
    share = _SIMILARITY_LAYERS[similarity]

    def starts(embeddings: Tensor, rows: slice) -> Iterator[tuple[Tensor, Tensor]]:
        z = embeddings.detach()
        for column in _chosen_prototypes(model, z, prototypes, rows).unbind(1):
            relevance = share(model, z, column)
            yield relevance / stabilised(z), relevance.sum(1)

    return propagate(model, x, model.encoder, starts, composite, batch_size, strict, several=True)


def _share(model: PrototypeModel, z: Tensor, chosen: Tensor) -> Tensor:
    closeness = 1 / ((z - model.prototypes.vectors[chosen].to(z.dtype)).square() + 1e-12)
    return closeness / closeness.sum(1, keepdim=True)


def _gradient(model: PrototypeModel, z: Tensor, chosen: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = z.clone().requires_grad_()
        similarity = model.similarities_of(leaf).gather(1, chosen[:, None]).sum()
        (gradient,) = torch.autograd.grad(similarity, leaf)
    return _normalised(z * gradient)


def _neuralized(model: PrototypeModel, z: Tensor, chosen: Tensor) -> Tensor:
    vectors, owners = model.prototypes.vectors.to(z.dtype), model.prototypes.labels
    similarities = model.similarities_of(z).to(z.dtype)
    rivals = similarities.masked_fill(owners[None, :] == owners[chosen][:, None], -torch.inf)
    rival = rivals.argmax(1)
    # ‖z − q‖² − ‖z − p‖² = Σ_c 2 (p_c − q_c) (z_c − (p_c + q_c) / 2)
    p, q = vectors[chosen], vectors[rival]
    return _normalised(2 * (p - q) * (z - (p + q) / 2))


def _normalised(relevance: Tensor) -> Tensor:
    """Scales relevance to sum to one; where it cancels out, its absolute values do."""
    total = relevance.sum(1, keepdim=True)
    absolute = relevance.abs().sum(1, keepdim=True).clamp_min(1e-30)
    return torch.where(total.abs() > 1e-6 * absolute, relevance / stabilised(total, 1e-30), relevance / absolute)


_SIMILARITY_LAYERS: dict[str, Callable[[PrototypeModel, Tensor, Tensor], Tensor]] = {
    "share": _share,
    "gradient": _gradient,
    "neuralized": _neuralized,
}


def _chosen_prototypes(model: PrototypeModel, z: Tensor, prototypes: Any, rows: slice) -> Tensor:
    """Returns the numbers of the prototypes to explain [n, M]."""
    n_prototypes, owners = len(model.prototypes), model.prototypes.labels
    if isinstance(prototypes, str):
        similarities = model.similarities_of(z)
        if prototypes == "nearest":
            return similarities.argmax(1, keepdim=True)
        if prototypes == "all":
            return torch.arange(n_prototypes, device=z.device).expand(len(z), -1)
        if prototypes != "predicted":
            raise LookalikeError(f"prototypes must be 'nearest', 'predicted', 'all' or numbers, not {prototypes!r}")
        predicted = model.scores_of(z).argmax(1)
        groups = [torch.nonzero(owners == k)[:, 0] for k in predicted.tolist()]
        if len({len(group) for group in groups}) > 1:
            raise LookalikeError("the predicted classes have different numbers of prototypes; give numbers instead")
        return torch.stack(groups)
    chosen = torch.as_tensor(prototypes, device=z.device)
    if chosen.numel() == 0 or int(chosen.min()) < 0 or int(chosen.max()) >= n_prototypes:
        raise LookalikeError(f"there are prototypes 0 to {n_prototypes - 1}")
    return chosen.expand(len(z), -1) if chosen.ndim == 1 else chosen[rows]


def _as_targets(target: Any, n: int) -> Tensor:
    targets = torch.as_tensor(target)
    if targets.ndim == 0:
        targets = targets.expand(n)
    if targets.ndim == 1:
        targets = targets[:, None]
    if len(targets) != n:
        raise LookalikeError(f"there are {n} images and targets for {len(targets)}")
    return targets
