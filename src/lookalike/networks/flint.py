"""FLINT's predictor and interpreter (Parekh et al. 2021), from the paper's description alone."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import in_eval_mode, with_forward_hooks
from lookalike.networks.decoder import Decoder
from lookalike.networks.registry import NETWORKS

_READ = 128  # channels that each hidden layer is read into


@NETWORKS.register("flint")
class FLINTNetwork(nn.Module):
    """A predictor f, the part of the interpreter g that reads its hidden layers, and a decoder.

    The interpreter's embedding z is made of the hidden layers: each goes through a 1×1 convolution, ReLU and average
    pooling, and all together through a linear layer and ReLU. An attribute is max(0, z · p) with a prototype p.

    Args:
        network: The predictor: a classifier with feature maps.
        layers: The names of the hidden layers that are read.
        channels: How many channels each of them has.
        n_attributes: P; the decoder reconstructs images from the attributes [N, P].
        image: Shape of the images (C, H, W).
        dim: D, of the embedding.
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
        self.readers = nn.ModuleList(nn.Conv2d(width, _READ, 1) for width in channels)
        self.trunk = nn.Sequential(nn.Linear(_READ * len(self.layers), dim), nn.ReLU())
        self.decoder = Decoder(n_attributes, image)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the interpreter's embeddings [N, D], not negative."""
        return self.interpret(self.predict(images)[1])

    def predict(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the predictor's class scores [N, K] and its hidden layers [N, C, H, W]."""
        hidden: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
                hidden[name] = output

            return hook

        hooks = {self.predictor.get_submodule(name): keep(name) for name in self.layers}
        scores: Tensor = with_forward_hooks(hooks, lambda: self.predictor(images))
        return scores, [hidden[name] for name in self.layers]

    def interpret(self, hidden: Sequence[Tensor]) -> Tensor:
        """Returns embeddings [N, D] of hidden layers."""
        read = [torch.relu(reader(one)).flatten(2).mean(2) for reader, one in zip(self.readers, hidden, strict=True)]
        return self.trunk(torch.cat(read, 1))  # type: ignore[no-any-return]

    def reconstruct(self, attributes: Tensor) -> Tensor:
        """Returns images [N, C, H, W] of attributes [N, P]."""
        return self.decoder(attributes)  # type: ignore[no-any-return]


@torch.no_grad()
def hidden_layers(network: nn.Module, sample: Tensor, number: int = 2) -> tuple[list[str], list[int]]:
    """Finds the hidden layers that an interpreter reads: the last one of each of the last few resolutions.

    Args:
        network: A classifier.
        sample: One or a few of its inputs.
        number: How many.

    Returns:
        Their names, in the order in which they run, and their numbers of channels.

    Raises:
        LookalikeError: If the network has no feature maps.
    """
    found: dict[tuple[int, ...], tuple[str, int]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
            if isinstance(output, Tensor) and output.ndim == 4:
                found.pop(tuple(output.shape[2:]), None)
                found[tuple(output.shape[2:])] = (name, output.shape[1])

        return hook

    hooks = {
        module: watch(name)
        for name, module in network.named_modules()
        if name and next(module.parameters(), None) is not None
    }
    in_eval_mode(network, lambda: with_forward_hooks(hooks, lambda: network(sample)))
    if not found:
        raise LookalikeError(f"a {type(network).__name__} has no feature maps for FLINT to read")
    chosen = list(found.values())[-number:]
    return [name for name, _ in chosen], [width for _, width in chosen]
