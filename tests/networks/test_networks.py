import pytest
import torch
import torchvision
from torch import nn

from lookalike import Encoder, LookalikeError, load_classifier
from lookalike.encoder import describe_spec, read_spec, rebuild, save_classifier
from lookalike.networks import Backbone, FLINTNetwork, ProtoPNetNetwork, ProtoVAENetwork, SmallCNN, with_head
from lookalike.networks.flint import hidden_layers


@pytest.mark.parametrize(
    ("name", "head"),
    [("resnet18", "fc"), ("vgg11", "classifier.6"), ("mobilenet_v3_small", "classifier.3"), ("squeezenet1_0", None)],
)
def test_a_backbone_is_the_classifier_up_to_its_head(name, head):
    network = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    encoder = Encoder(network, x)
    with torch.no_grad():
        expected = encoder(x)
        backbone = Backbone(network, head or "classifier.1").eval()
        found = backbone(x)
    assert found.shape[1] == backbone.embedding_dim
    if name != "squeezenet1_0":  # whose head is followed by ReLU and pooling
        assert torch.equal(found, expected)


def test_a_new_head_has_no_bias_and_as_many_outputs_as_classes():
    network = with_head(torchvision.models.resnet18(), head="fc", n_classes=7).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert network.fc.bias is None


def test_only_a_linear_layer_is_a_head():
    with pytest.raises(LookalikeError, match="the head 'stage1' is a Sequential"):
        Backbone(SmallCNN(), "stage1")


def test_protopnets_embedding_lies_in_the_unit_cube():
    network = ProtoPNetNetwork(SmallCNN(), "head", dim=5)
    z = network(torch.randn(3, 3, 32, 32))
    assert z.shape == (3, 5)
    assert bool(((z > 0) & (z < 1)).all())


def test_protovae_draws_in_training_and_not_in_eval():
    network = ProtoVAENetwork(SmallCNN(), "head", (3, 32, 32), dim=6)
    x = torch.randn(4, 3, 32, 32)
    network.train()
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    assert torch.equal(network(x), network.distribution(x)[0])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 40, 56)])
def test_decoders_give_images_of_the_asked_shape(shape):
    network = ProtoVAENetwork(SmallCNN(channels=shape[0]), "head", shape, dim=6)
    assert network.decode_embeddings(torch.randn(2, 6)).shape == (2, *shape)


def test_protovaes_variance_cannot_overflow():
    network = ProtoVAENetwork(SmallCNN(), "head", (3, 32, 32), dim=6).train()
    nn.init.constant_(network.log_variance.bias, 1e6)
    assert bool(network(torch.randn(2, 3, 32, 32)).isfinite().all())


def test_flint_reads_the_last_layer_of_the_last_resolutions():
    names, channels = hidden_layers(SmallCNN(width=4), torch.zeros(1, 3, 32, 32))
    assert (names, channels) == (["stage2", "stage3"], [8, 16])
    names, channels = hidden_layers(torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64), 3)
    assert (names, channels) == (["layer2", "layer3", "layer4"], [128, 256, 512])
    with pytest.raises(LookalikeError, match="no feature maps"):
        hidden_layers(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2))


def test_flint_leaves_no_hook_and_no_mode_behind():
    predictor = SmallCNN(width=4).train()
    names, channels = hidden_layers(predictor, torch.zeros(2, 3, 32, 32))
    network = FLINTNetwork(predictor, names, channels, 10, (3, 32, 32), dim=6)
    z = network(torch.randn(2, 3, 32, 32))
    assert z.shape == (2, 6)
    assert bool((z >= 0).all())
    assert predictor.training
    assert not any(module._forward_hooks for module in network.modules())


def test_networks_are_built_again_from_their_specs():
    inner = read_spec("lookalike:small-cnn", {"width": 4})
    spec = {"source": "lookalike", "name": "protopnet", "network": inner, "args": {"head": "head", "dim": 5}}
    network = rebuild(spec)
    assert isinstance(network, ProtoPNetNetwork)
    assert describe_spec(spec) == "protopnet of lookalike:small-cnn"
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_unknown_networks_are_named():
    with pytest.raises(LookalikeError, match="no network is called 'tiny'"):
        rebuild(read_spec("lookalike:tiny"))
    with pytest.raises(LookalikeError, match="names no network that can be built again"):
        read_spec("net.py:make")
    with pytest.raises(LookalikeError, match="lookalike:small-cnn"):
        rebuild(read_spec("lookalike:small-cnn", {"depth": 3}))


def test_a_classifier_is_saved_and_loaded(tmp_path):
    loaded = load_classifier("lookalike:small-cnn", model_args={"width": 4, "n_classes": 3})
    save_classifier(loaded, tmp_path / "net")
    again = load_classifier(str(tmp_path / "net"))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.model(x), loaded.model(x))
    with pytest.raises(LookalikeError, match="comes with its weights"):
        load_classifier(str(tmp_path / "net"), weights="other.pth")
    (tmp_path / "net" / "model.safetensors").write_bytes(b"0")
    with pytest.raises(LookalikeError, match="was altered"):
        load_classifier(str(tmp_path / "net"))


class Tokens(nn.Module):
    def __init__(self, after=lambda scores: scores):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.head, self.after = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 3), after

    def forward(self, x):
        return self.after(self.head(self.patches(x).flatten(2).transpose(1, 2)))


def test_a_backbone_averages_tokens_over_their_positions():
    network, x = Tokens(), torch.rand(2, 3, 16, 16)
    backbone = Backbone(network, "head")
    expected = network.patches(x).mean((2, 3))
    torch.testing.assert_close(backbone(x), expected)
    with pytest.raises(LookalikeError, match="returns a tensor, and this one a dict"):
        Backbone(Tokens(lambda scores: {"logits": scores.mean(1)}), "head")(x)


def test_a_new_head_has_the_type_of_the_old_one():
    network = with_head(Tokens().to(torch.bfloat16), head="head", n_classes=5)
    assert network(torch.rand(2, 3, 16, 16).bfloat16()).shape == (2, 4, 5)
