"""Where networks without a head are cut, which axis holds channels, and networks that are no function of one image."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.encoder import Encoder


def headless(kind):
    layers = {
        "vgg, alexnet": [
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 6),
            nn.ReLU(),
            nn.Dropout(),
            nn.Identity(),
        ],
        "alexnet by slices": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), nn.ReLU()],
        "mobilenet": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), nn.Hardswish(), nn.Identity()],
        "efficientnet": [nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        "metric learning": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), nn.LayerNorm(6)],
    }[kind]
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *layers).eval()


@pytest.mark.parametrize("kind", ["vgg, alexnet", "alexnet by slices", "mobilenet", "efficientnet", "metric learning"])
def test_networks_without_a_head_are_cut_at_their_output(kind):
    net, x = headless(kind), torch.randn(2, 3, 8, 8)
    with pytest.warns(LookalikeWarning, match="ends in features"):
        encoder = Encoder(net, x)
    assert encoder.head_name is None
    torch.testing.assert_close(encoder(x), net(x))


def test_scores_behind_a_relu_of_a_convolution_have_a_head():
    scores = [nn.Conv2d(4, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]  # as SqueezeNet
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *scores).eval()
    assert Encoder(net, torch.randn(2, 3, 8, 8)).head_name == "2"


class Maps(nn.Module):
    """A feature map with its channels last, as Swin has it, or moved."""

    def __init__(self, permuted):
        super().__init__()
        self.patch, self.mix, self.permuted = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6), permuted

    def forward(self, x):
        z = self.mix(self.patch(x).permute(0, 2, 3, 1))
        return z.permute(0, 3, 1, 2) if self.permuted else z


@pytest.mark.parametrize("permuted", [False, True])
def test_channels_are_kept_wherever_they_are(permuted):
    net, x = Maps(permuted).eval(), torch.randn(2, 3, 16, 12)
    encoder = Encoder(net, x, head="output")
    assert encoder.embedding_dim == 6
    torch.testing.assert_close(encoder(x), net(x).mean((2, 3) if permuted else (1, 2)))


def test_networks_that_are_no_function_of_one_image_are_refused():
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(12, 2)

        def forward(self, x):
            return self.head(F.dropout(x.flatten(1), 0.5, True))

    batch_norm = nn.Sequential(
        nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)
    )
    for rows in (1, 2):
        with pytest.raises(LookalikeError, match="another embedding for the same image each time"):
            Encoder(Dropping(), torch.randn(rows, 3, 2, 2))
        with pytest.raises(LookalikeError, match="depends on the other images of its batch"):
            Encoder(batch_norm, torch.randn(rows, 3, 4, 4))
