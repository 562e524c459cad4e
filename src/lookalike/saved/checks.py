"""Checks the weights of saved networks."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike._core.records import shown

_CHUNK = 2**24  # values checked at a time, so that no large mask is created


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names start with ``prefix.``, under their names without it."""
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def not_finite_buffers(network: nn.Module) -> list[str]:
    """Returns the names of a network's buffers with NaN or infinite values, except running statistics.

    Some networks leave such values in caches and placeholders that nothing reads. In weights and running statistics
    they come from a training that failed.
    """
    return [name for name, buffer in _buffers_but_statistics(network).items() if not is_finite(buffer)]


def check_not_finite(network: nn.Module, names: Collection[str]) -> None:
    """Checks that only buffers are exempt from being finite.

    Args:
        network: The network.
        names: The names of the exempt tensors.

    Raises:
        LookalikeError: If one is a weight or a running statistic, or is not in the network.
    """
    invalid = [name for name in names if name not in _buffers_but_statistics(network)]
    if invalid:
        raise LookalikeError(f"the weight {shown(invalid[0])} must be finite, and encoder.not_finite names it")


def _buffers_but_statistics(network: nn.Module) -> dict[str, Tensor]:
    """Returns a network's saved buffers of floating-point numbers, except the running statistics of batch norms."""
    saved_buffers = network.state_dict().keys() & dict(network.named_buffers()).keys()
    return {
        name: buffer
        for name, buffer in network.named_buffers()
        if name in saved_buffers
        and (buffer.is_floating_point() or buffer.is_complex())
        and not name.endswith(("running_mean", "running_var"))
    }


def check_weights(weights: Mapping[str, Tensor], not_finite: Collection[str] = ()) -> None:
    """Checks that a network's weights are finite, and its running variances not negative.

    Args:
        weights: Tensors by name.
        not_finite: The names of tensors that need not be finite.

    Raises:
        LookalikeError: If a weight is invalid; the message names it.
    """
    for name, tensor in weights.items():
        if not tensor.is_floating_point() and not tensor.is_complex():
            continue
        if name not in not_finite and not is_finite(tensor) and not _is_mask(tensor):
            raise LookalikeError(f"the weight {shown(name)} has values that are not finite")
        if name.endswith("running_var") and tensor.numel() and float(tensor.min()) < 0:
            raise LookalikeError(f"the variance {shown(name)} has negative values")


def is_finite(tensor: Tensor) -> bool:
    """Says whether all values of a tensor of any type are finite."""
    flat = tensor.reshape(-1)
    if tensor.element_size() == 1:  # torch has no isfinite for 8-bit floats
        flat = flat.float() if tensor.is_floating_point() else flat
    return all(bool(rows.isfinite().all()) for rows in flat.split(_CHUNK))


def _is_mask(tensor: Tensor) -> bool:
    """Says whether a tensor holds only zeros and −∞, like the masks that networks add to attention scores."""
    return not tensor.is_complex() and bool(((tensor == 0) | (tensor == -torch.inf)).all())
