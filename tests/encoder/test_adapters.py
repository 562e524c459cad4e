"""Networks of other packages: adapters of ``peft``, and ``efficientnet_pytorch``."""

import pytest
import torch
from torch import nn

from lookalike.encoder import Encoder
from lookalike.relevance import lrp
from tests.architectures import plain_cnn, randomised
from tests.round_trip import differ_by, explained_twice

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def adapted(target_modules, *, kept=None, kind="LoraConfig", **options):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = getattr(peft, kind)(target_modules=target_modules, modules_to_save=kept, **options)
    model = peft.get_peft_model(randomised(plain_cnn()), config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # adapters begin at zero
        for name, parameter in model.named_parameters():
            if "lora_" in name or "hada_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    ("head", "make"),
    [
        ("base_model.model.7", lambda: adapted(["0", "3"])),
        ("base_model.model.7.modules_to_save.default", lambda: adapted(["3"], kept=["7"])),
        ("base_model.model.7", lambda: adapted(["3", "7"])),
        ("base_model.model.7", lambda: adapted(["7"], use_dora=True)),
        ("base_model.model.7", lambda: adapted(["7"], kind="LoHaConfig")),
    ],
    ids=["body", "head trained", "head adapted", "dora", "loha"],
)
def test_a_network_with_adapters_is_converted_explained_and_saved(head, make, tmp_path):
    model = make()
    encoder = Encoder(model, X)
    assert (encoder.head_name, encoder.embedding_dim) == (head, 12)
    with torch.no_grad():
        torch.testing.assert_close(encoder.head(encoder(X)), model(X))
    assert lrp(model, X, 1, strict=True).without_rule == []
    first, second = explained_twice(model, X, tmp_path / "model")
    assert first[0].black_box_heat_map is not None
    assert differ_by(first, second) < 1e-4


def test_the_map_of_a_merged_adapter_is_that_of_the_plain_network():
    """The adapters' share of a layer takes the ε-rule on its own, as does the layer: together they are the sum."""
    model = adapted(["7"]).double()
    x = X.double()
    expected = lrp(model.merge_and_unload(), x, 1, "epsilon").maps
    assert float((lrp(adapted(["7"]).double(), x, 1, "epsilon").maps - expected).norm() / expected.norm()) < 1e-4


def test_efficientnet_pytorch(tmp_path):
    package = pytest.importorskip("efficientnet_pytorch")
    torch.manual_seed(0)
    model: nn.Module = randomised(package.EfficientNet.from_name("efficientnet-b0", num_classes=7))
    assert lrp(model, X, 1, strict=True).without_rule == []
    first, second = explained_twice(model, X, tmp_path / "model")
    assert first[0].black_box_heat_map is not None
    assert differ_by(first, second) < 1e-4
