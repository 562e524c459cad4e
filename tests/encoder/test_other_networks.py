"""Networks that are written otherwise than usual: right, or refused in one line."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lookalike import Encoder, LookalikeError, convert
from lookalike.encoder import load_classifier, save_classifier
from lookalike.encoder.class_names import names_of_checkpoint
from lookalike.encoder.map_layers import find_layers
from lookalike.encoder.user_file import read_function
from lookalike.networks import Backbone, without_head
from lookalike.networks.flint import hidden_layers

X = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def dense(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), *layers).eval()


def test_a_head_that_works_in_place_leaves_the_embedding_alone():
    net = dense(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3)))
    encoder = Encoder(net, X[:1], head="2")
    expected = net[:2](X)
    assert expected.min() < 0
    assert torch.equal(encoder.features(X), expected)
    embeddings, scores = encoder.embed_and_score(X)
    assert torch.equal(embeddings, expected)
    torch.testing.assert_close(scores, net(X))
    model = convert(net, (X, [0, 1, 2, 0]), n_prototypes=1, head="2", progress=False)
    torch.testing.assert_close(model.prototypes.vectors[1], expected[1])


class Cosines(nn.Linear):
    def forward(self, x):
        return 16 * F.linear(F.normalize(x), F.normalize(self.weight))


def test_a_head_has_a_matrix_only_if_it_is_one():
    assert Encoder(dense(nn.Linear(6, 3)), X[:1]).head_weight.shape == (3, 6)
    assert Encoder(dense(Cosines(6, 3)), X[:1], head="2").head_weight is None
    with pytest.raises(LookalikeError, match="head"):
        convert(dense(Cosines(6, 3)), (X, [0, 1, 2, 0]), n_prototypes=1, head="2", similarity="head", progress=False)


def test_a_head_that_takes_more_than_the_features_is_no_raw_error():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x, scale):
            return self.linear(x) * scale

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(16, 6), Scaled()

        def forward(self, x):
            return self.head(self.first(x.flatten(1)), 2.0)

    net = Net().eval()
    encoder = Encoder(net, X[:1], head="head")
    torch.testing.assert_close(encoder.head(encoder.features(X)), net(X))


def test_logarithms_of_sigmoids_are_no_logits():
    net = dense(nn.Linear(6, 3), nn.LogSigmoid())
    outputs = Encoder(net, X[:1]).outputs
    assert outputs.kind == "log-probabilities"
    torch.testing.assert_close(outputs.probabilities(net(X)), net(X).exp())


class Negative(nn.Module):
    """Scores that are never positive, and logits for all that: a softmax follows in the loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 6))

    def forward(self, z):
        return -torch.cdist(z, self.weight).square()


@pytest.mark.parametrize("head", [Negative(), nn.Sequential(nn.Linear(6, 3), nn.Threshold(-1e9, 0))])
def test_scores_that_are_never_positive_are_logits(head):
    net = dense(head)
    outputs = Encoder(net, X[:1], head="2").outputs
    assert outputs.kind == "logits"
    torch.testing.assert_close(outputs.probabilities(net(X)).sum(1), torch.ones(4))


def test_a_second_row_of_the_data_is_taken_before_one_that_is_made_up():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            return self.head((x / 255 if x.max() > 1.5 else x).flatten(1))

    Encoder(Scaled().eval(), torch.rand(2, 1, 4, 4))


@pytest.mark.parametrize("rows", [X[:1], X[[0, 0]], torch.zeros(2, 1, 4, 4)])
def test_equal_images_do_not_hide_that_a_network_looks_at_its_batch(rows):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    net = nn.Sequential(nn.Conv2d(1, 4, 2), norm, nn.Flatten(), nn.Linear(36, 3)).eval()
    with pytest.raises(LookalikeError, match="depends on the other images of its batch"):
        Encoder(net, rows)


class Softened(nn.Module):
    def __init__(self, function=lambda scores: F.log_softmax(scores, 1)):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.fc, self.function = nn.Linear(16, 6), nn.Linear(6, 3), function

    def forward(self, x):
        return self.function(self.fc(self.first(x.flatten(1))))


def test_nothing_may_follow_a_head_that_is_taken_away():
    encoder = Encoder(without_head(Softened(lambda scores: scores), head="fc").eval(), X[:1], head="output")
    torch.testing.assert_close(encoder(X), encoder.model.first(X.flatten(1)))
    with pytest.raises(LookalikeError, match="something follows the head, such as a softmax"):
        Encoder(without_head(Softened(), head="fc").eval(), X[:1], head="output")
    assert Backbone(Softened(lambda scores: scores), "fc")(X).shape == (4, 6)
    softened = Backbone(Softened(), "fc")
    for _ in range(2):
        with pytest.raises(LookalikeError, match="something follows the head, such as a softmax"):
            softened(X)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.fc = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.first(x[:, 0])).mean(1)


def test_a_head_on_tokens_may_be_followed_by_their_mean():
    backbone = Backbone(Tokens(), "fc")
    torch.testing.assert_close(backbone(X), Tokens().first(X[:, 0]).mean(1))
    assert torch.jit.script(Backbone(nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 3)), "2"))(X).shape == (
        4,
        6,
    )
    bad = X.clone()
    bad[0] = float("nan")
    assert Backbone(Tokens(), "fc")(bad)[1:].isfinite().all()


def test_numbers_as_class_names_are_read_in_the_direction_of_their_key():
    folders = sorted(map(str, range(11)))  # 0, 1, 10, 2, …
    by_number = {number: int(name) for number, name in enumerate(folders)}
    assert names_of_checkpoint({"idx_to_class": by_number}) == folders
    assert names_of_checkpoint({"class_to_idx": {name: number for number, name in by_number.items()}}) == folders


def test_gates_of_one_position_are_no_maps():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1)
            self.last, self.head = nn.Conv2d(4, 5, 3, stride=2), nn.Linear(5, 3)

        def forward(self, x):
            x = self.conv(x)
            x = self.last(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())
            return self.head(x.mean((2, 3)))

    assert hidden_layers(Gated(), torch.rand(1, 1, 16, 16)) == (["conv", "last"], [4, 5])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend, self.to_qkv, self.norm = nn.Softmax(-1), nn.Linear(8, 24), nn.LayerNorm(8)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.to_qkv(self.norm(x)).chunk(3, -1))
        return x + (self.attend(q @ k.transpose(-1, -2)) @ v).transpose(1, 2).flatten(2)


class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(1, 8, 4, 4)
        self.layers, self.head = nn.ModuleList([Block() for _ in range(4)]), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def test_attention_weights_are_no_maps():
    x = torch.rand(2, 1, 16, 16)
    layouts = find_layers(Encoder(Vit().eval(), x), x, "b234")
    assert layouts
    assert not any("attend" in name for name in layouts)
    assert {layout.grid for layout in layouts.values()} == {(4, 4)}


def test_files_with_neighbours_of_one_name_are_apart(tmp_path):
    for name, layer in (("a", "ReLU"), ("b", "GELU")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "blocks.py").write_text(f"from torch import nn\nact = nn.{layer}\n")
        (tmp_path / name / "net.py").write_text(
            "from __future__ import annotations\nfrom dataclasses import dataclass\nimport blocks\n"
            "@dataclass\nclass Options:\n    size: int = 3\ndef make():\n    return blocks.act()\n"
        )
    makes = [read_function(f"{tmp_path / name / 'net.py'}:make") for name in ("a", "b", "a")]
    assert [type(make()).__name__ for make in makes] == ["ReLU", "GELU", "ReLU"]
    (tmp_path / "a" / "deep").mkdir()
    (tmp_path / "a" / "deep" / "torch").mkdir()  # a folder of data, and no module
    (tmp_path / "a" / "deep" / "net.py").write_text("def make():\n    import torch\n    return torch.nn.Tanh()\n")
    assert type(read_function(f"{tmp_path / 'a' / 'deep' / 'net.py'}:make")()).__name__ == "Tanh"
    assert sys.modules["torch"] is torch
    assert not [name for name in sys.modules if name.startswith("_lookalike_user_")]
    (tmp_path / "script.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--what'])\n")
    with pytest.raises(LookalikeError, match="ends the program when it is imported"):
        read_function(f"{tmp_path / 'script.py'}:make")


def test_a_published_timm_network_is_rebuilt_as_its_configuration_says(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=3, global_pool="max")
    timm.models.save_for_hf(net, tmp_path / "hub", model_args={"global_pool": "max"})
    loaded = load_classifier(f"timm:local-dir:{tmp_path / 'hub'}")
    assert loaded.spec["args"]["global_pool"] == "max"
    save_classifier(loaded, tmp_path / "saved")
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        again = load_classifier(str(tmp_path / "saved")).model.eval()
        torch.testing.assert_close(again(x), loaded.model.eval()(x))


def test_a_misspelt_argument_is_told_in_one_line():
    with pytest.raises(LookalikeError, match=r"cannot build torchvision:resnet18: .*num_clases"):
        load_classifier("torchvision:resnet18", model_args={"num_clases": 3})


def test_a_misspelt_entry_of_a_configuration_is_told(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(image_size=32, patch_size=16, **sizes)
    for kind in (transformers.ViTModel, transformers.ViTForImageClassification):
        kind(config).save_pretrained(tmp_path / kind.__name__)
        with pytest.raises(LookalikeError, match="has no entry 'hiden_act'; did you mean 'hidden_act'"):
            load_classifier(f"hf:{tmp_path / kind.__name__}", model_args={"hiden_act": "relu"})
    loading = {"attn_implementation": "eager", "local_files_only": True}
    load_classifier(f"hf:{tmp_path / 'ViTForImageClassification'}", model_args=loading)


class Averaging(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, maps):
        return self.linear(maps.mean((1, 2)))


@pytest.mark.parametrize(
    "arranged",
    [
        lambda u: u.permute(0, 2, 3, 1), lambda u: u.moveaxis(1, -1), lambda u: torch.einsum("nchw->nhwc", u),
        lambda u: u.flatten(2).mT.unflatten(1, u.shape[2:]), lambda u: torch.permute(input=u, dims=(0, 2, 3, 1)),
    ],
)  # fmt: skip
def test_channels_are_followed_however_axes_are_moved(arranged):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 4, 4), Averaging()

        def forward(self, x):
            return self.head(arranged(self.conv(x)))

    net, x = Net().eval(), torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(Encoder(net, x, head="head")(x), net.conv(x).mean((2, 3)))


def test_a_scale_of_another_type_does_not_decide_the_inputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.conv(x).relu().mean((2, 3))) * self.scale.float()

    assert Encoder(Net().eval(), torch.rand(2, 3, 8, 8)).embedding_dim == 8


@pytest.mark.parametrize(
    "beside", [lambda scores, x: scores + x.mean((2, 3)), lambda scores, x: scores / x.std((1, 2, 3))[:, None]]
)
def test_a_head_beside_which_the_image_matters_is_not_run_alone(beside):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

        def forward(self, x):
            return beside(self.fc(self.conv(x).relu().mean((2, 3))), x)

    x = torch.rand(4, 3, 16, 16)
    encoder = Encoder(Net().eval(), x[:2])
    with pytest.raises(LookalikeError, match="depend on more than the input of the head 'fc'"):
        encoder.head(encoder.features(x))
