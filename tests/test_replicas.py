"""One pass on several devices of one machine; here all of them are the CPU."""

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import convert, embed
from lookalike._core.errors import LookalikeError


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(),
        nn.Linear(8, 3),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(61, 1, 6, 6, generator=generator), torch.arange(61) % 3


def test_every_row_is_embedded_once_and_in_order(net, data):
    whole = embed(net, data, batch_size=16)
    for n_devices in (1, 2, 3):
        divided = embed(net, data, batch_size=16, devices=["cpu"] * n_devices)
        np.testing.assert_allclose(divided.embeddings, whole.embeddings, rtol=1e-5, atol=1e-6)
        assert (divided.indices == whole.indices).all()
        assert (divided.predictions == whole.predictions).all()


def test_the_prototypes_are_the_same(net, data):
    one = convert(net, data, n_prototypes=2, n_images=0)
    several = convert(net, data, n_prototypes=2, n_images=0, devices=["cpu", "cpu"])
    torch.testing.assert_close(several.prototypes.vectors, one.prototypes.vectors, rtol=1e-5, atol=1e-6)
    assert torch.equal(several.prototypes.nearest, one.prototypes.nearest)


def test_fewer_rows_than_devices(net, data):
    few = data[0][:2], data[1][:2]
    assert len(embed(net, few, devices=["cpu"] * 4)) == 2


def test_half_precision_is_that_of_every_device(net, data):
    divided = embed(net, data, precision="bfloat16", devices=["cpu", "cpu"])
    assert divided.info["precision_effect"]["deviation"] > 0
    np.testing.assert_allclose(divided.embeddings, embed(net, data, precision="bfloat16").embeddings, atol=0.02)


def test_an_error_in_one_thread_is_the_errors_own(data):
    class Refuses(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(36, 4), nn.Linear(4, 3)

        def forward(self, x):
            if bool((x > 90).any()):
                raise RuntimeError("too bright")
            return self.head(self.first(x.flatten(1)))

    x = data[0].clone()
    x[60] = 100.0
    with pytest.raises(LookalikeError, match="too bright"):
        embed(Refuses().eval(), (x, data[1]), batch_size=20, devices=["cpu", "cpu"])


def test_devices_that_are_none_and_hooks_are_refused_by_name(net, data):
    with pytest.raises(LookalikeError, match="the device 'abacus' cannot be used"):
        embed(net, data, devices=["cpu", "abacus"])
    with pytest.raises(LookalikeError, match="devices"):
        embed(net, data, devices="cpu")
    handle = net[0].register_forward_hook(lambda *_: None)
    with pytest.raises(LookalikeError, match="hooks"):
        embed(net, data, devices=["cpu", "cpu"])
    handle.remove()
