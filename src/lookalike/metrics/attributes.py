"""Attribute representation (paper section 4.4): which attributes of the data the prototypes show."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError


@dataclass(frozen=True)
class AttributeRepresentation:
    """How well prototypes represent attributes.

    Attributes:
        captured: How many attributes at least one prototype's nearest training image has.
        n_attributes: Of how many.
        missed: The numbers of those that none has.
        correlation_error: Mean absolute difference between the attributes' correlations among all training images and
            among the prototypes' nearest ones; lower is better.
    """

    captured: int
    n_attributes: int
    missed: list[int]
    correlation_error: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def attribute_representation(train_attributes: Tensor, nearest: Tensor) -> AttributeRepresentation:
    """Compares the attributes of the prototypes' nearest training images with those of all.

    Args:
        train_attributes: Binary attributes of the training images [N, A].
        nearest: Which of them is nearest to each prototype [P], as row numbers.

    Raises:
        LookalikeError: If a number is not a row.

    Example:
        >>> attributes = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
        >>> found = attribute_representation(attributes, torch.tensor([0, 2]))
        >>> found.captured, found.missed
        (2, [2])
    """
    train_attributes = checks.tensor("train_attributes", train_attributes)
    nearest = checks.tensor("nearest", nearest, ("P",), kind="whole")
    if train_attributes.is_complex():
        raise checks.unfit("train_attributes", train_attributes, "a tensor of zeros and ones")
    if train_attributes.ndim != 2:
        raise LookalikeError(f"attributes need a row per image and a column each, not {tuple(train_attributes.shape)}")
    if not len(nearest) or int(nearest.min()) < 0 or int(nearest.max()) >= len(train_attributes):
        raise LookalikeError(f"the nearest images must be rows 0 to {len(train_attributes) - 1} of the attributes")
    shown = train_attributes[nearest]
    captured = (shown > 0).any(0)
    return AttributeRepresentation(
        captured=int(captured.sum()),
        n_attributes=len(captured),
        missed=torch.nonzero(~captured)[:, 0].tolist(),
        correlation_error=float((correlations(train_attributes) - correlations(shown)).abs().mean()),
    )


def correlations(attributes: Tensor) -> Tensor:
    """Returns the Pearson correlations of attributes [N, A] as float64 [A, A]; a constant one's are 0 [ours]."""
    attributes = checks.tensor("attributes", attributes, ("N", "A"))
    centred = attributes.double() - attributes.double().mean(0)
    norms = centred.square().sum(0).sqrt()
    products = centred.T @ centred
    scale = norms[:, None] * norms[None, :]
    return torch.where(scale > 1e-12, products / scale.clamp_min(1e-12), 0.0).clamp(-1, 1)
