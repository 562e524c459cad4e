"""Attribute representation (paper section 4.4): which attributes of the data the prototypes show."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError


@dataclass(frozen=True)
class AttributeRepresentation:
    """How well the prototypes represent the attributes of the training images.

    Attributes:
        captured: Number of attributes that the nearest training image of at least one prototype has.
        n_attributes: Number of attributes A.
        missed: Indices of the attributes that no such image has.
        correlation_error: Mean absolute difference between the attributes' correlation matrix over all training images
            and the one over the prototypes' nearest images; lower is better.
    """

    captured: int
    n_attributes: int
    missed: list[int]
    correlation_error: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def attribute_representation(train_attributes: Tensor, nearest: Tensor) -> AttributeRepresentation:
    """Compares the attributes of the prototypes' nearest training images with those of all training images.

    Args:
        train_attributes: Binary attributes of the training images [N, A].
        nearest: Row of the training image nearest to each prototype [P].

    Raises:
        LookalikeError: If ``nearest`` has a value that is not a row of the attributes.

    Example:
        >>> attributes = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
        >>> result = attribute_representation(attributes, torch.tensor([0, 2]))
        >>> result.captured, result.missed
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
    prototype_attributes = train_attributes[nearest]
    captured = (prototype_attributes > 0).any(0)
    return AttributeRepresentation(
        captured=int(captured.sum()),
        n_attributes=len(captured),
        missed=torch.nonzero(~captured)[:, 0].tolist(),
        correlation_error=float((correlations(train_attributes) - correlations(prototype_attributes)).abs().mean()),
    )


def correlations(attributes: Tensor) -> Tensor:
    """Returns the Pearson correlations of attributes [N, A] as float64 [A, A]; 0 for a constant attribute [ours]."""
    attributes = checks.finite("attributes", checks.tensor("attributes", attributes, ("N", "A")))
    centred = attributes.double() - attributes.double().mean(0)
    norms = centred.square().sum(0).sqrt()
    products = centred.T @ centred
    scale = norms[:, None] * norms[None, :]
    # a smaller scale is that of a constant attribute, with rounding
    return torch.where(scale > 1e-12, products / scale.clamp_min(1e-12), 0.0).clamp(-1, 1)
