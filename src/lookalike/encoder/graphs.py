"""What encoders need to know of graphs that torch traces, without its compiler, which takes a second to import.

A compiled graph names its encoder by a number, because its constants are plain values.
"""

import weakref

import torch
from torch import nn

_ENCODERS: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()


def is_exporting() -> bool:
    """Returns whether ``torch.export`` is tracing; False before torch 2.7, which cannot tell."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()


def make_known(encoder: nn.Module) -> None:
    """Lets compiled graphs find an encoder; each encoder does so when it is created, copied or unpickled."""
    _ENCODERS[number_of(encoder)] = encoder


def number_of(encoder: nn.Module) -> int:
    """Returns an encoder's number."""
    return id(encoder)


def encoder_of(number: int) -> nn.Module:
    """Returns the encoder of a number."""
    return _ENCODERS[number]
