"""What encoders need to know of graphs that torch traces, without its compiler, which takes a second to import.

A compiled graph names its encoder by a number, because its constants are plain values.
"""

import weakref

from torch import nn

_ENCODERS: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()


def make_known(encoder: nn.Module) -> None:
    """Lets compiled graphs find an encoder; each encoder does so when it is created, copied or unpickled."""
    _ENCODERS[number_of(encoder)] = encoder


def number_of(encoder: nn.Module) -> int:
    """Returns an encoder's number."""
    return id(encoder)


def encoder_of(number: int) -> nn.Module:
    """Returns the encoder of a number."""
    return _ENCODERS[number]
