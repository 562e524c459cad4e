"""LRP of several heads on one encoder: one forward pass, one backward pass per head."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.encoder import Outputs, device_of, dtype_of, place
from lookalike.relevance.composites import Composite
from lookalike.relevance.propagation import propagate
from lookalike.relevance.result import Relevance, join

Head = Callable[[Tensor, slice], Tensor]  # embeddings [n, D] and their rows among all images → log-probabilities [n, K]


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
    checks.tensor("x", x, kind="number", empty=False)
    checks.whole_number("batch_size", batch_size, 1)
    if not heads:
        raise LookalikeError("there is no head to explain")

    def starts(embeddings: Tensor, rows: slice) -> Iterator[tuple[Tensor, Tensor]]:
        values = embeddings.detach()
        for head in heads:
            gradient = _probability_gradient(head, values, rows)
            yield gradient, (values * gradient).sum(1)

    images: Tensor = place(x, device_of(encoder), dtype_of(encoder))
    return join(list(propagate(encoder, images, encoder, starts, composite, batch_size, False)))


@torch.enable_grad()
def _probability_gradient(head: Head, embeddings: Tensor, rows: slice) -> Tensor:
    """Returns the gradient of the predicted class's probability with respect to embeddings [n, D]."""
    leaf = embeddings.clone().requires_grad_()
    scores = head(leaf, rows)
    outputs = Outputs(None, scores.shape[1])
    at_scores = outputs.gradient(scores.detach(), outputs.predicted(scores.detach()), "probability")
    (at_embeddings,) = torch.autograd.grad(scores, leaf, at_scores.to(scores.dtype))
    return at_embeddings
