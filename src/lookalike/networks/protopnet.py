"""ProtoPNet's encoder at image level (paper section 4.1; Chen et al. 2019)."""

from torch import Tensor, nn

from lookalike.networks.backbone import Backbone
from lookalike.networks.registry import NETWORKS


@NETWORKS.register("protopnet")
class ProtoPNetNetwork(nn.Module):
    """A backbone, average-pooled, and an add-on of two layers, the last a sigmoid, as prototypes live in [0, 1]^D.

    On a pooled embedding a 1×1 convolution is a linear layer.

    Args:
        network: A classifier; it is changed.
        head: The name of its head, which is left out.
        dim: D.
    """

    def __init__(self, network: nn.Module, head: str, dim: int = 128) -> None:
        super().__init__()
        self.backbone = Backbone(network, head)
        self.add_on = nn.Sequential(
            nn.Linear(self.backbone.embedding_dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.Sigmoid()
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns embeddings [N, D], each value in (0, 1)."""
        return self.add_on(self.backbone(images))  # type: ignore[no-any-return]
