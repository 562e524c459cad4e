"""ProtoVAE's encoder and decoder (Gautam et al. 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lookalike.networks.backbone import Backbone
from lookalike.networks.decoder import Decoder
from lookalike.networks.registry import NETWORKS

_MAX_LOG_VARIANCE = 10.0  # log-variances are clamped to ±10, so that their exponential does not overflow


@NETWORKS.register("protovae")
class ProtoVAENetwork(nn.Module):
    """A backbone, the mean and variance of a Gaussian in the latent space, and a decoder.

    In training, an embedding is drawn from the Gaussian; in eval mode it is the mean.

    Args:
        network: A classifier; it is modified in place.
        head: The name of its head, which is removed.
        image: Shape of the images (C, H, W).
        dim: D, the dimension of the latent space.
    """

    def __init__(self, network: nn.Module, head: str, image: Sequence[int], dim: int = 128) -> None:
        super().__init__()
        self.backbone = Backbone(network, head)
        self.mean = nn.Linear(self.backbone.embedding_dim, dim)
        self.log_variance = nn.Linear(self.backbone.embedding_dim, dim)
        self.decoder = Decoder(dim, image)

    def forward(self, images: Tensor) -> Tensor:
        """Returns embeddings [N, D]: random draws in training, means in eval mode."""
        if not self.training:
            return self.mean(self.backbone(images))  # type: ignore[no-any-return]
        return self.draw(*self.distribution(images))

    def distribution(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean and the logarithm of the variance, both [N, D]."""
        features = self.backbone(images)
        return self.mean(features), self.log_variance(features).clamp(-_MAX_LOG_VARIANCE, _MAX_LOG_VARIANCE)

    def draw(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Draws embeddings [N, D] from Gaussians; in eval mode, returns their means."""
        if not self.training:
            return mean
        return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)

    def decode_embeddings(self, embeddings: Tensor) -> Tensor:
        """Decodes embeddings [N, D] into preprocessed images [N, C, H, W]."""
        return self.decoder(embeddings)  # type: ignore[no-any-return]
