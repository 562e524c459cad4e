"""The networks' register."""

from collections.abc import Callable

from torch import nn

from lookalike.registry import Registry

NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network")
