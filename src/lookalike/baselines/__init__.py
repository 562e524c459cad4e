"""The models that KMEx is compared with, all trained in the same way: black box, ProtoPNet, FLINT, ProtoVAE."""

from lookalike.baselines.baseline import METHODS, Baseline, PrototypeBaseline, Start, Step, Task
from lookalike.baselines.black_box import BlackBox
from lookalike.baselines.flint import FLINT
from lookalike.baselines.hyperparameters import Hyperparameters, hyperparameters
from lookalike.baselines.phases import Phase
from lookalike.baselines.protopnet import ProtoPNet, push
from lookalike.baselines.protovae import ProtoVAE
from lookalike.baselines.training import Trained, train

__all__ = [
    "FLINT",
    "METHODS",
    "Baseline",
    "BlackBox",
    "Hyperparameters",
    "Phase",
    "ProtoPNet",
    "ProtoVAE",
    "PrototypeBaseline",
    "Start",
    "Step",
    "Task",
    "Trained",
    "hyperparameters",
    "push",
    "train",
]
