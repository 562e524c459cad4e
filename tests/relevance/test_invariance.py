"""The same map, whatever surrounds the call and however the weights came to be: over all architectures."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn

from lookalike._core.errors import LookalikeWarning
from lookalike.relevance import lrp
from tests.architectures import EVERY, channels_last, make, plain_cnn


def relative_difference(found, expected):
    return float((found - expected).norm() / expected.norm())


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


# The large ones, which tools/families.py tries; tests/test_hugging_face.py has those of transformers.
SLOW = {
    "hf-resnet",
    "torchvision-resnet34",
    "torchvision-swin_v2_t",
}


@pytest.mark.parametrize("name", sorted(set(EVERY) - SLOW))
def test_a_map_depends_on_the_network_and_the_image_alone(name, untouched):
    model, x = make(name)
    model, x = model.double(), x.double()
    with untouched(model), warnings.catch_warnings():
        warnings.simplefilter("error", LookalikeWarning)
        expected = lrp(model, x, 1, strict=True)
    assert expected.maps.isfinite().all()
    assert float(expected.maps.abs().max()) > 0
    assert expected.caution is None
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        alone = lrp(model, x[:1], 1).maps.clone()
    assert relative_difference(alone, expected.maps[:1]) < 1e-6
    frozen = channels_last(saved_and_loaded(model).requires_grad_(False))
    with torch.no_grad():
        compiled = lrp(torch.compile(frozen, backend="aot_eager"), channels_last(x[1:]), 1)
    assert relative_difference(compiled.maps, expected.maps[1:]) < 1e-6


@pytest.mark.parametrize("name", ["plain-sequential", "timm-xcit_nano_12_p8_224", "timm-convnextv2_atto"])
def test_trainable_and_frozen_networks_have_the_same_map_to_the_bit(name):
    model, x = make(name)
    trainable = lrp(model.requires_grad_(True), x, 1)
    frozen = lrp(model.requires_grad_(False), x, 1)
    assert torch.equal(trainable.maps, frozen.maps)
    assert trainable.rules == frozen.rules


class CompiledInside(nn.Module):
    """A network that compiles a function of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.run = torch.compile(lambda x: self.inner(x), backend="aot_eager")

    def forward(self, x):
        return self.run(x)


def compiled_in_place(model):
    model.compile(backend="aot_eager")
    return model


@pytest.mark.parametrize(
    "compiled", [lambda model: torch.compile(model, backend="aot_eager"), compiled_in_place, CompiledInside]
)
def test_a_network_that_has_run_compiled_has_the_map_of_the_network_itself(compiled):
    torch.manual_seed(0)
    model, x = plain_cnn().eval(), torch.randn(2, 3, 16, 16)
    expected = lrp(model, x, 1)
    again = compiled(copy.deepcopy(model))
    with torch.no_grad():
        again(x)  # compiles it
    compiled_before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found = lrp(again, x[:1], 1, strict=True)
    if isinstance(again, torch._dynamo.OptimizedModule):  # the network inside is run, as it is
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled_before
    assert relative_difference(found.maps, expected.maps[:1]) < 1e-5
    found = lrp(again, x, 1, strict=True)
    assert torch.equal(found.maps, expected.maps)
    assert [(use.operation, use.rule, use.count) for use in found.rules] == [
        (use.operation, use.rule, use.count) for use in expected.rules
    ]
