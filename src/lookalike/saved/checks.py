"""What the weights of a saved network must be."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike._core.records import shown

_CELLS = 2**24  # values looked at in one go


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names start with ``prefix.``, without it."""
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def not_finite_buffers(network: nn.Module) -> list[str]:
    """Names a network's buffers with NaN or infinite values, its running statistics aside.

    Code leaves such values where nothing reads them, in a cache or a placeholder. Weights and statistics that are not
    finite come from a training that failed.
    """
    return [name for name, buffer in _cache_like(network).items() if not is_finite(buffer)]


def check_not_finite(network: nn.Module, names: Collection[str]) -> None:
    """Checks that what need not be finite are buffers.

    Raises:
        LookalikeError: If one is a weight or a running statistic, or the network has none of that name.
    """
    wrong = [name for name in names if name not in _cache_like(network)]
    if wrong:
        raise LookalikeError(f"the weight {shown(wrong[0])} must be finite, and encoder.not_finite names it")


def _cache_like(network: nn.Module) -> dict[str, Tensor]:
    buffers = network.state_dict().keys() & dict(network.named_buffers()).keys()
    return {
        name: buffer
        for name, buffer in network.named_buffers()
        if name in buffers
        and (buffer.is_floating_point() or buffer.is_complex())
        and not name.endswith(("running_mean", "running_var"))
    }


def check_weights(weights: Mapping[str, Tensor], not_finite: Collection[str] = ()) -> None:
    """Checks that a network's weights are numbers, and its variances not negative.

    Args:
        weights: Tensors by their names.
        not_finite: The names of those that need not be finite.

    Raises:
        LookalikeError: If not; it names the weight.
    """
    for name, tensor in weights.items():
        if not tensor.is_floating_point() and not tensor.is_complex():
            continue
        if name not in not_finite and not is_finite(tensor) and not _is_mask(tensor):
            raise LookalikeError(f"the weight {shown(name)} has values that are not finite")
        if name.endswith("running_var") and tensor.numel() and float(tensor.min()) < 0:
            raise LookalikeError(f"the variance {shown(name)} has negative values")


def is_finite(tensor: Tensor) -> bool:
    """Says whether all values are finite, whatever their type."""
    flat = tensor.reshape(-1)
    if tensor.element_size() == 1:  # torch has no isfinite for 8-bit floats
        flat = flat.float() if tensor.is_floating_point() else flat
    return all(bool(rows.isfinite().all()) for rows in flat.split(_CELLS))


def _is_mask(tensor: Tensor) -> bool:
    """Says whether a tensor is zeros and −∞, as networks add to the scores of what attention must not see."""
    return not tensor.is_complex() and bool(((tensor == 0) | (tensor == -torch.inf)).all())
