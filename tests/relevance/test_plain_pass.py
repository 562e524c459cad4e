"""The network's own pass takes from the engine's what both compute, and nothing else."""

import pytest
import torch
import torchvision
from torch import nn

from lookalike._core.errors import RelevanceError
from lookalike.relevance import lrp
from lookalike.relevance.handlers import HANDLERS
from lookalike.relevance.operations import Convolution, Linear
from lookalike.relevance.plain_pass import ResultCache, Watch
from lookalike.relevance.propagation import RelevanceStart, propagate

OPTIONS_OF_POOL = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}
CONVOLUTION = Convolution((1, 1), (0, 0), (1, 1), False, (0, 0), 1)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("vit_b_32", 224), ("swin_t", 64)])
def test_the_plain_pass_computes_no_linear_operation_again(name, size, monkeypatch):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=4).eval()
    looked_up = ResultCache.result
    taken = []

    def result(self, *call):
        found = looked_up(self, *call)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(ResultCache, "result", result)
    lrp(model, torch.randn(2, 3, size, size), 0)
    n_layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())
    assert len(taken) >= n_layers
    assert all(taken)


def filed(x, result, operation=CONVOLUTION, weight=None):
    recorded = ResultCache(2)
    recorded.record(operation, x, weight, None, result)
    return recorded


def test_other_inputs_weights_and_options_are_computed():
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    wrong = torch.zeros(2, 4, 6, 6)  # so that it shows where it was taken from
    right = nn.functional.conv2d(x[:1], weight)
    with torch.no_grad():
        with filed(x, wrong, weight=weight):
            assert not nn.functional.conv2d(x[:1], weight).any()
        with filed(x, wrong, weight=weight):
            torch.testing.assert_close(
                nn.functional.conv2d(x[:1] + 0.1, weight), right + 0.1 * weight.sum((1, 2, 3))[:, None, None]
            )
        with filed(x, wrong, weight=weight):
            torch.testing.assert_close(nn.functional.conv2d(x[:1], weight.clone()), right)
        with filed(x, wrong, weight=weight):
            assert nn.functional.conv2d(x[:1], weight, padding=1).any()
        with filed(x, wrong, weight=weight):
            assert nn.functional.conv2d(x[:1], weight, torch.ones(4)).any()


def test_what_changes_a_result_afterwards_does_not_change_what_is_taken():
    x, weight = torch.randn(2, 3), torch.randn(4, 3)
    result = x @ weight.T
    recorded = filed(x, result, Linear(), weight)
    first = result[:1].clone()
    result.zero_()
    with torch.no_grad(), recorded:
        torch.testing.assert_close(nn.functional.linear(x[:1], weight), first)


@pytest.mark.skipif(torch.__version__ < (2, 14), reason="older versions of torch (seen with 2.11) copy such an input")
def test_the_first_image_is_found_where_positions_come_first():
    x, weight = torch.randn(5, 2, 3), torch.randn(4, 3)
    with torch.no_grad(), filed(x, torch.zeros(5, 2, 4), Linear(), weight):
        assert not nn.functional.linear(x[:, :1], weight).any()


class Drifting(nn.Module):
    """Changes its weights whenever it runs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x):
        with torch.no_grad():
            self.layer.weight.mul_(1.1)
        return self.layer(x.flatten(1))


def test_nothing_is_taken_for_weights_that_changed_meanwhile():
    torch.manual_seed(0)
    with pytest.raises(RelevanceError, match="other outputs for the same image each time"):
        lrp(Drifting(), torch.randn(2, 3, 2, 2), 0)


def test_an_operation_that_the_engine_fails_at_is_named(monkeypatch):
    def fails(*_):
        raise RuntimeError("no way through")

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    monkeypatch.setitem(HANDLERS, "relu", fails)
    with pytest.raises(RelevanceError, match=r"operation 'relu' .*no way through"):
        lrp(model, torch.randn(2, 3, 4, 4), 0)


def test_a_pooling_is_taken_for_the_same_input_and_options_alone():
    x = torch.randn(2, 3, 8, 8)
    wrong = torch.zeros(2, 3, 4, 4)  # so that it shows where it was taken from
    right = nn.functional.max_pool2d(x[:1], 2)
    for inputs, options, is_taken in ((x[:1], (2,), True), (2 * x[:1], (2,), False), (x[:1], (3,), False)):
        recorded = ResultCache(2)
        recorded.record_pool((x, 2), OPTIONS_OF_POOL, wrong)
        with torch.no_grad(), Watch([inputs], recorded):
            result = nn.functional.max_pool2d(inputs, *options)
        assert bool(result.any()) is not is_taken
        if options == (2,) and not is_taken:
            torch.testing.assert_close(result, 2 * right)


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_every_pooling_of_a_network_is_taken(name, monkeypatch):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=4).eval()
    looked_up, taken = ResultCache.result_of_pool, []

    def result(self, *call):
        found = looked_up(self, *call)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(ResultCache, "result_of_pool", result)
    lrp(model, torch.randn(2, 3, 64, 64), 0)
    assert len(taken) == sum(isinstance(module, nn.MaxPool2d) for module in model.modules())
    assert all(taken)


@pytest.mark.parametrize("wrong_row", [None, 0, 3])
def test_known_outputs_of_the_network_replace_its_pass_and_are_compared_in_every_batch(wrong_row):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)), torch.randn(4, 3, 4, 4)
    plain, rows = model(x).detach(), []
    if wrong_row is not None:
        plain[wrong_row] += 1
    model[0].register_forward_hook(lambda module, args, output: rows.append(len(output)))

    def starts(output, rows, chosen):
        yield torch.ones_like(output), output.detach().sum(1)

    maps = propagate(model, x, model, RelevanceStart(starts), "epsilon", 2, False, plain=plain)
    if wrong_row is None:
        assert len(list(maps)) == 2
        assert sum(rows) == 4
    else:
        with pytest.raises(RelevanceError, match="other outputs"):
            list(maps)
