"""ProtoPNet's encoder at image level (paper section 4.1; Chen et al. 2019)."""

from torch import Tensor, nn

from lookalike.networks.backbone import Backbone
from lookalike.networks.registry import NETWORKS


@NETWORKS.register("protopnet")
class ProtoPNetNetwork(nn.Module):
    """A backbone with average pooling, and an add-on of two layers with a sigmoid: prototypes are in [0, 1]^D.

    The add-on's layers are linear: on a pooled embedding they equal the original 1×1 convolutions.

    Args:
        network: A classifier; it is modified in place.
        head: The name of its head, which is removed.
        dim: D, the dimension of the embedding.
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
