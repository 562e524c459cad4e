"""A ReLU joined with the linear operation before it: the same maps and the same table as with a pass of its own."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lookalike.relevance import Composite, lrp
from lookalike.relevance.rules import Epsilon, Flat, ZPlus


class OwnEpsilon(Epsilon):
    ignores_outputs_without_relevance = False


class OwnZPlus(ZPlus):
    ignores_outputs_without_relevance = False


class OwnFlat(Flat):
    ignores_outputs_without_relevance = False


JOINED = Composite("joined", {"convolution": ZPlus(), "linear": Epsilon()}, first=Flat())
APART = Composite("apart", {"convolution": OwnZPlus(), "linear": OwnEpsilon()}, first=OwnFlat())


class Net(nn.Module):
    """Its first convolution is read by a ReLU, and by what else the test asks for."""

    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.hidden, self.head = nn.Conv2d(4, 5, 3), nn.Linear(5, 6), nn.Linear(6, 3)
        self.norm.running_mean.normal_()
        self.between = between
        self.eval()

    def forward(self, x):
        z = self.second(self.between(self.norm(self.first(x)))).relu_().mean((2, 3))
        return self.head(F.relu(self.hidden(z)))


BETWEEN = {
    "a ReLU alone": F.relu,
    "a ReLU in place": F.relu_,
    "a ReLU and the same values without it": lambda y: F.relu(y) + 0.5 * y,
    "a ReLU on either side": lambda y: F.relu(y) - F.relu(-y),
    "two ReLUs, one behind the other": lambda y: F.relu(F.relu(y)),
    "a ReLU of a part": lambda y: torch.cat([F.relu(y[:, :2]), y[:, 2:]], 1),
    "a ReLU that comes after a change in place": lambda y: F.relu(y.mul_(2)),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_maps_and_tables_are_those_of_a_relu_with_its_own_gradient(name):
    net, x = Net(BETWEEN[name]), torch.randn(3, 3, 6, 6)
    targets = [[0, 2]] * 3
    joined, apart = (lrp(net, x, targets, composite) for composite in (JOINED, APART))
    torch.testing.assert_close(joined.maps, apart.maps, rtol=1e-5, atol=1e-7)
    assert joined.maps.abs().max() > 0
    assert joined.rules == apart.rules


def operations(composite):
    """Returns the operations that one map runs, and how often."""
    net, x = Net(F.relu), torch.randn(1, 3, 6, 6)
    with torch.autograd.profiler.profile() as profiled:
        lrp(net, x, 0, composite)
    return Counter(event.name for event in profiled.function_events)


def test_a_joined_relu_has_no_backward_pass_of_its_own_and_is_known_not_to_be_negative():
    """The rule z⁺ takes one product in place of two where no input is negative."""
    joined, apart = operations(JOINED), operations(APART)
    assert apart["aten::threshold_backward"] == 3
    assert joined["aten::threshold_backward"] == 0
    assert joined["aten::convolution"] == apart["aten::convolution"]
    assert joined["aten::convolution_backward"] == apart["aten::convolution_backward"]
