"""A tiny encoder in place of the pretrained ones, and tiny stamps for it."""

import torch
from torch import nn

from lookalike.data import Preprocessing
from lookalike.encoder import LoadedClassifier
from lookalike.experiments import photographs
from tests.data.test_stamps import write_stamps


def use_tiny_encoder(folder, monkeypatch, n_channels, kernel_size, stride):
    """Writes stamps into a folder, and has experiments on photographs use them with one convolution as encoder."""
    write_stamps(folder / "usr/share/tuxpaint/stamps")
    monkeypatch.setenv("LOOKALIKE_STAMPS", str(folder))

    def tiny():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, n_channels, kernel_size, stride), nn.ReLU())
        return LoadedClassifier(network, {"source": "file", "name": "tiny"}, Preprocessing.square(224), None, "output")

    monkeypatch.setattr(photographs, "ENCODERS", {"tiny": tiny})
