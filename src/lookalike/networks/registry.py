"""The registry of networks that lookalike builds by name."""

from collections.abc import Callable

from torch import nn

from lookalike._core.registry import Registry

NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network")
