"""One look at a network that is being trained: what prototypes it would have now."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from lookalike._core.display import png_of
from lookalike.conversion.convert import convert
from lookalike.metrics import evaluate
from lookalike.model import PrototypeModel


@dataclass(frozen=True)
class Snapshot:
    """The prototypes of a network at one moment of its training.

    Attributes:
        model: The converted model. It shares the network, so it changes as the training goes on.
        accuracy: Its accuracy on the test data.
        black_box_accuracy: The network's own.
        agreement: Share of test samples with equal predictions of both.
        ghosting: Share of prototypes that no training sample uses.
        gallery: Picture of all prototypes, uint8 [H, W, 3]; None if the data are not images.
    """

    model: PrototypeModel
    accuracy: float
    black_box_accuracy: float
    agreement: float
    ghosting: float
    gallery: np.ndarray | None

    @property
    def figures(self) -> dict[str, float]:
        """The four figures by name."""
        names = ("accuracy", "black_box_accuracy", "agreement", "ghosting")
        return {name: getattr(self, name) for name in names}


def take_snapshot(network: nn.Module, train: Any, test: Any, **options: Any) -> Snapshot:
    """Converts a network as it is now, and measures what came out. The network, its mode and gradients stay untouched.

    Args:
        network: A classifier; it may be in the middle of its training.
        train: Training data, as for ``convert``, without augmentation.
        test: Test data of the same classes.
        **options: Further options of ``convert``, such as ``n_prototypes`` or ``similarity``.

    Returns:
        The snapshot.

    Raises:
        LookalikeError: As ``convert`` and ``evaluate`` do.

    Example:
        >>> import torch
        >>> x, y = torch.randn(40, 8), torch.arange(40) % 2
        >>> network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> snapshot = take_snapshot(network, (x, y), (x, y), n_prototypes=2)
        >>> sorted(snapshot.figures)
        ['accuracy', 'agreement', 'black_box_accuracy', 'ghosting']
    """
    model = convert(network, train, **{"progress": False, **options})
    card = evaluate(model, test, black_box=network, only=["faithfulness"], progress=False)
    return Snapshot(
        model=model,
        accuracy=card["accuracy"],
        black_box_accuracy=card["black_box_accuracy"],
        agreement=card["agreement"],
        ghosting=float((model.prototypes.counts == 0).float().mean()),
        gallery=None if model.images is None else _gallery_of(model),
    )


def _gallery_of(model: PrototypeModel) -> np.ndarray:
    with Image.open(io.BytesIO(png_of(model.plot_gallery())), formats=["PNG"]) as picture:
        return np.asarray(picture.convert("RGB"))
