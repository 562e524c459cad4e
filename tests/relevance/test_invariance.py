"""The same map, whatever surrounds the call and however the weights came to be: over all architectures."""

import warnings

import pytest
import torch

from lookalike.errors import LookalikeWarning
from lookalike.relevance import lrp
from tests.architectures import EVERY, make


def relative_difference(found, expected):
    return float((found - expected).norm() / expected.norm())


# The large ones, which tools/families.py tries.
SLOW = {"torchvision-vgg16_bn", "torchvision-vit_b_16", "torchvision-swin_t", "torchvision-convnext_tiny", "hf-resnet"}


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
    weights = model.state_dict()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        alone = lrp(model, x[:1], 1).maps.clone()
    assert relative_difference(alone, expected.maps[:1]) < 1e-6
    frozen, _ = make(name)
    frozen.double().load_state_dict(weights)
    frozen.requires_grad_(False)
    last = x[1:]
    if x.ndim == 4:
        frozen, last = frozen.to(memory_format=torch.channels_last), last.to(memory_format=torch.channels_last)
    assert relative_difference(lrp(frozen, last, 1).maps, expected.maps[1:]) < 1e-6


@pytest.mark.parametrize("name", ["plain-sequential", "timm-xcit_nano_12_p8_224", "timm-convnextv2_atto"])
def test_trainable_and_frozen_networks_have_the_same_map_to_the_bit(name):
    model, x = make(name)
    trainable = lrp(model.requires_grad_(True), x, 1)
    frozen = lrp(model.requires_grad_(False), x, 1)
    assert torch.equal(trainable.maps, frozen.maps)
    assert trainable.rules == frozen.rules
