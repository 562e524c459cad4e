"""ProtoVAE's encoder and decoder (Gautam et al. 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lookalike.networks.backbone import Backbone
from lookalike.networks.decoder import Decoder
from lookalike.networks.registry import NETWORKS

_SPREAD = 10.0  # the logarithm of a variance stays within ±10: its exponential overflows otherwise


@NETWORKS.register("protovae")
class ProtoVAENetwork(nn.Module):
    """A backbone, the mean and variance of a Gaussian in the latent space, and a decoder.

    In training an embedding is drawn from the Gaussian; in eval mode it is the mean.

    Args:
        network: A classifier; it is changed.
        head: The name of its head, which is left out.
        image: Shape of the images (C, H, W).
        dim: D, of the latent space.
    """

    def __init__(self, network: nn.Module, head: str, image: Sequence[int], dim: int = 128) -> None:
        super().__init__()
        self.backbone = Backbone(network, head)
        self.mean = nn.Linear(self.backbone.embedding_dim, dim)
        self.log_variance = nn.Linear(self.backbone.embedding_dim, dim)
        self.decoder = Decoder(dim, image)

    def forward(self, images: Tensor) -> Tensor:
        """Returns embeddings [N, D]: drawn in training, the mean in eval mode."""
        if not self.training:
            return self.mean(self.backbone(images))  # type: ignore[no-any-return]
        return self.draw(*self.distribution(images))

    def distribution(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and logarithm of the variance [N, D]."""
        features = self.backbone(images)
        return self.mean(features), self.log_variance(features).clamp(-_SPREAD, _SPREAD)

    def draw(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Draws embeddings [N, D] from Gaussians; gives their means in eval mode."""
        if not self.training:
            return mean
        return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)

    def decode_embeddings(self, embeddings: Tensor) -> Tensor:
        """Returns images [N, C, H, W] of embeddings [N, D], as the network takes them."""
        return self.decoder(embeddings)  # type: ignore[no-any-return]
