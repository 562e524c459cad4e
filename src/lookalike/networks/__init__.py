"""Networks that lookalike builds by name, so that a saved model can be rebuilt without running code from its folder.

Each is registered as a function of plain values that returns the network with random weights. Networks on top of
another network get that network as their first argument.
"""

from lookalike.networks.backbone import Backbone, with_head, without_head
from lookalike.networks.flint import FLINTNetwork
from lookalike.networks.protopnet import ProtoPNetNetwork
from lookalike.networks.protovae import ProtoVAENetwork
from lookalike.networks.registry import NETWORKS
from lookalike.networks.small import SmallCNN, small_cnn

__all__ = [
    "NETWORKS",
    "Backbone",
    "FLINTNetwork",
    "ProtoPNetNetwork",
    "ProtoVAENetwork",
    "SmallCNN",
    "small_cnn",
    "with_head",
    "without_head",
]
