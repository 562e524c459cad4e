"""FLINT's predictor and interpreter (Parekh et al. 2021), from the paper's description alone."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import in_eval_mode, with_forward_hooks
from lookalike.networks.decoder import Decoder
from lookalike.networks.registry import NETWORKS

_READER_CHANNELS = 128  # of the 1×1 convolution on each hidden layer


@NETWORKS.register("flint")
class FLINTNetwork(nn.Module):
    """A predictor f, the encoder of its interpreter g, and a decoder.

    The interpreter embeds the predictor's hidden layers: a 1×1 convolution, ReLU and average pooling on each, then a
    linear layer and ReLU on all of them. With the embedding z, an attribute is max(0, z · p) for a prototype p.

    Args:
        network: The predictor: a classifier with feature maps.
        layers: The names of the hidden layers that the interpreter reads.
        channels: The number of channels of each of these layers.
        n_attributes: P; the decoder reconstructs images from the attributes [N, P].
        image: Shape of the images (C, H, W).
        dim: D, the dimension of the embedding.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        channels: Sequence[int],
        n_attributes: int,
        image: Sequence[int],
        dim: int = 128,
    ) -> None:
        super().__init__()
        self.predictor = network
        self.layers = tuple(layers)
        self.readers = nn.ModuleList(nn.Conv2d(width, _READER_CHANNELS, 1) for width in channels)
        self.trunk = nn.Sequential(nn.Linear(_READER_CHANNELS * len(self.layers), dim), nn.ReLU())
        self.decoder = Decoder(n_attributes, image)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the interpreter's embeddings [N, D], which are not negative."""
        return self.interpret(self.predict(images)[1])

    def predict(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the predictor's class scores [N, K] and its hidden layers [N, C, H, W]."""
        hidden: dict[str, Tensor] = {}

        def store(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
                hidden[name] = output

            return hook

        hooks = {self.predictor.get_submodule(name): store(name) for name in self.layers}
        scores: Tensor = with_forward_hooks(hooks, lambda: self.predictor(images))
        return scores, [hidden[name] for name in self.layers]

    def interpret(self, hidden: Sequence[Tensor]) -> Tensor:
        """Returns the embeddings [N, D] of hidden layers [N, C, H, W]."""
        pooled = [
            torch.relu(reader(layer)).flatten(2).mean(2) for reader, layer in zip(self.readers, hidden, strict=True)
        ]
        return self.trunk(torch.cat(pooled, 1))  # type: ignore[no-any-return]

    def reconstruct(self, attributes: Tensor) -> Tensor:
        """Reconstructs images [N, C, H, W] from attributes [N, P]."""
        return self.decoder(attributes)  # type: ignore[no-any-return]


@torch.no_grad()
def hidden_layers(network: nn.Module, sample: Tensor, number: int = 2) -> tuple[list[str], list[int]]:
    """Finds the hidden layers that an interpreter reads: the last layer of each of the last few resolutions.

    Args:
        network: A classifier.
        sample: One or a few of its inputs.
        number: Number of layers.

    Returns:
        The names of the layers, in the order in which they run, and their numbers of channels.

    Raises:
        LookalikeError: If the network has no feature maps.
    """
    layer_of_resolution: dict[tuple[int, ...], tuple[str, int]] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                resolution = tuple(output.shape[2:])
                layer_of_resolution.pop(resolution, None)  # keeps resolutions in the order of their last layers
                layer_of_resolution[resolution] = (name, output.shape[1])

        return hook

    hooks = {
        module: record(name)
        for name, module in network.named_modules()
        if name and next(module.parameters(), None) is not None
    }
    in_eval_mode(network, lambda: with_forward_hooks(hooks, lambda: network(sample)))
    if not layer_of_resolution:
        raise LookalikeError(f"a {type(network).__name__} has no feature maps for FLINT to read")
    # a gate of one position per channel (squeeze and excitation) is no map, but where there is nothing else
    maps = [layer for resolution, layer in layer_of_resolution.items() if math.prod(resolution) > 1]
    last_layers = (maps or list(layer_of_resolution.values()))[-number:]
    return [name for name, _ in last_layers], [n_channels for _, n_channels in last_layers]
