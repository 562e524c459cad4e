"""Removes or replaces the head of a classifier."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import in_eval_mode, with_forward_hooks
from lookalike.networks.registry import NETWORKS


class RemovedHead(nn.Identity):
    """Stands where the head of a network was that is used without one."""


def check_nothing_follows(removed: nn.Module, embeddings: Tensor, run: Callable[[], Any]) -> None:
    """Checks that a network without its head returns what the head would get, but for pooling.

    Args:
        removed: What stands in the place of the head.
        embeddings: What is taken for the network's embeddings [N, D].
        run: Runs the network.

    Raises:
        LookalikeError: If more follows the head, such as a softmax.
    """
    inputs: list[Tensor] = []

    def keep_input(_module: nn.Module, args: tuple[Any, ...], _output: Any) -> None:
        inputs.append(args[0].detach().clone())

    with_forward_hooks({removed: keep_input}, run)
    if inputs and not any(_are_equal(features, embeddings) for features in _pooled(inputs[0])):
        raise LookalikeError(
            "the network without its head does not return the head's input: something follows the head, such as a "
            "softmax; let the network return the head's output, and apply that outside of it"
        )


def _pooled(features: Tensor) -> list[Tensor]:
    """Returns features as embeddings [N, D]; of a map, the mean over its positions, with channels first or last."""
    if features.ndim == 2:
        return [features]
    return [features.flatten(2).mean(2), features.flatten(1, -2).mean(1)]


def _are_equal(features: Tensor, embeddings: Tensor) -> bool:
    same_shape = features.shape == embeddings.shape
    return same_shape and torch.allclose(features, embeddings, rtol=1e-2, atol=1e-4, equal_nan=True)


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
        self._head, self._is_checked = head, False

    def forward(self, images: Tensor) -> Tensor:
        """Returns embeddings [N, D].

        Raises:
            LookalikeError: At the first call, if something follows the head.
        """
        if not torch.jit.is_scripting() and not self._is_checked:  # type: ignore[attr-defined]
            self._check(images)
        return self._embed(images)

    @torch.jit.unused
    def _check(self, images: Tensor) -> None:
        """Checks, with one image, that nothing follows the head; not while a graph is made."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined, no-untyped-call]
            return
        removed, probe = self.network.get_submodule(self._head), images[:1]

        def run() -> Tensor:
            return self._embed(probe)

        with torch.no_grad():
            features = in_eval_mode(self, lambda: self.network(probe))
            if not isinstance(features, Tensor):
                raise LookalikeError(
                    f"a backbone's network returns a tensor, and this one a {type(features).__name__}: wrap it in a "
                    "module that returns the class scores alone"
                )
            in_eval_mode(self, lambda: check_nothing_follows(removed, run(), run))
        self._is_checked = True

    def _embed(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)
        if features.ndim == 2:
            return features
        if features.shape[1] != self.embedding_dim:  # tokens, or maps with the channels last
            return features.flatten(1, -2).mean(1)
        return features.flatten(2).mean(2)


@NETWORKS.register("with-head")
def with_head(network: nn.Module, *, head: str, n_classes: int, bias: bool = False) -> nn.Module:
    """Returns the network with a new linear head for ``n_classes``, by default without bias (paper, appendix A.2).

    Raises:
        LookalikeError: If there is no such layer.
    """
    n_classes = checks.whole_number("n_classes", n_classes, 1)
    checks.flag("bias", bias)
    dim = _input_dim(network, head)
    new_head: nn.Module
    if isinstance(network.get_submodule(head), nn.Conv2d):
        new_head = nn.Conv2d(dim, n_classes, 1, bias=bias)
    else:
        new_head = nn.Linear(dim, n_classes, bias=bias)
    old = next(network.get_submodule(head).parameters(), None)
    _replace(network, head, new_head if old is None else new_head.to(old.device, old.dtype))
    return network


@NETWORKS.register("without-head")
def without_head(network: nn.Module, *, head: str) -> nn.Module:
    """Returns the network with an identity as its head, for weights without a head.

    Raises:
        LookalikeError: If there is no such layer.
    """
    _input_dim(network, head)  # raises an error if there is no such layer
    _replace(network, head, RemovedHead())
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
