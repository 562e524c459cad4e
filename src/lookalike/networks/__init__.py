"""Networks that lookalike itself can build by name: a saved model names them, and nothing of its own is run.

Each is registered with a function that makes it, with random weights, from plain values; those that stand on another
network get it as their first argument.
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
