"""Removes or replaces the head of a classifier."""

from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.networks.registry import NETWORKS


class Backbone(nn.Module):
    """A classifier up to the input of its head: images to embeddings [N, D].

    Its head is replaced by ``nn.Identity``; a feature map is averaged over its positions.

    Args:
        network: A classifier; it is modified in place.
        head: The name of its linear or 1×1 convolution head.

    Raises:
        LookalikeError: If there is no such layer.
    """

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        self.embedding_dim = _input_dim(network, head)
        _replace(network, head, nn.Identity())
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Returns embeddings [N, D]."""
        features: Tensor = self.network(images)
        return features if features.ndim == 2 else features.flatten(2).mean(2)


@NETWORKS.register("with-head")
def with_head(network: nn.Module, *, head: str, n_classes: int, bias: bool = False) -> nn.Module:
    """Returns the network with a new linear head for ``n_classes``, by default without bias (paper, appendix A.2).

    Raises:
        LookalikeError: If there is no such layer.
    """
    checks.whole_number("n_classes", n_classes, 1)
    checks.flag("bias", bias)
    dim = _input_dim(network, head)
    new_head: nn.Module
    if isinstance(network.get_submodule(head), nn.Conv2d):
        new_head = nn.Conv2d(dim, n_classes, 1, bias=bias)
    else:
        new_head = nn.Linear(dim, n_classes, bias=bias)
    _replace(network, head, new_head)
    return network


@NETWORKS.register("without-head")
def without_head(network: nn.Module, *, head: str) -> nn.Module:
    """Returns the network with ``nn.Identity`` as its head, for weights without a head.

    Raises:
        LookalikeError: If there is no such layer.
    """
    _input_dim(network, head)  # raises an error if there is no such layer
    _replace(network, head, nn.Identity())
    return network


def _input_dim(network: nn.Module, head: str) -> int:
    """Returns the number of inputs of a linear or 1×1 convolution head."""
    checks.model("network", network)
    try:
        layer = network.get_submodule(checks.text("head", head))
    except AttributeError:
        raise LookalikeError(f"the network has no module {head!r}") from None
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
        return layer.in_channels
    raise LookalikeError(f"the head {head!r} is a {type(layer).__name__}, not a linear or 1×1 convolution layer")


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)
