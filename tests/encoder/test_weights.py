import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from lookalike._core.errors import LookalikeError
from lookalike.encoder import load_classifier, load_weights, pair_by_order, read_weights
from tests.architectures import plain_cnn


class Custom:
    """Something that a checkpoint should not hold."""


@pytest.fixture
def state():
    return plain_cnn().state_dict()


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_both_kinds_of_files_are_read(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    assert same(read_weights(tmp_path / "a.safetensors"), state)
    assert same(read_weights(tmp_path / "a.pth"), state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_wrappers_and_prefixes_are_understood(tmp_path, state, wrapper, prefix):
    content = {wrapper: {prefix + name: tensor for name, tensor in state.items()}, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "a.ckpt")
    model = plain_cnn()
    load_weights(model, read_weights(tmp_path / "a.ckpt"))
    assert same(model.state_dict(), state)


def test_a_wrapper_that_holds_more_than_the_model(state):
    more = {f"model.{name}": tensor for name, tensor in state.items()} | {"criterion.weight": torch.ones(3)}
    model = plain_cnn()
    load_weights(model, more)
    assert same(model.state_dict(), state)


def test_tensors_beside_the_state_dict_do_not_hide_it(tmp_path, state):
    torch.save({"epoch": 3, "state_dict": state, "best_acc1": torch.tensor(76.1)}, tmp_path / "a.pth")
    assert same(read_weights(tmp_path / "a.pth"), state)


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    torch.save({"state_dict": {}, "model": Custom()}, tmp_path / "a.pth")
    with pytest.raises(LookalikeError, match="holds no state dict, but a dict"):
        read_weights(tmp_path / "a.pth")


def test_missing_and_damaged_files_are_told(tmp_path, state):
    with pytest.raises(LookalikeError, match=r"'.*none\.pth' does not exist"):
        read_weights(tmp_path / "none.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("hello, this is no checkpoint at all")
        with pytest.raises(LookalikeError, match="cannot read the weights file"):
            read_weights(tmp_path / name)
    torch.save(state, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:700])
    with pytest.raises(LookalikeError, match="cannot read the weights file"):
        read_weights(tmp_path / "cut.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(LookalikeError, match="holds no state dict, but a list"):
        read_weights(tmp_path / "list.pth")


def test_misfits_are_listed_and_nothing_is_loaded(state):
    model = plain_cnn()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrong = dict(state)
    wrong["extra.weight"] = wrong.pop("0.bias")
    wrong["7.weight"] = torch.ones(3, 12)
    message = (
        r"do not fit the Sequential: missing: 0\.bias; unexpected: extra\.weight; of another shape: 7\.weight \(3, 12\)"
    )
    with pytest.raises(LookalikeError, match=message):
        load_weights(model, wrong)
    assert same(model.state_dict(), before)


def test_pairing_by_order(state):
    renamed = {f"layer{i}": tensor for i, tensor in enumerate(state.values())}
    counted = pair_by_order({k: v for k, v in renamed.items() if v.ndim}, plain_cnn())
    model = plain_cnn()
    load_weights(model, counted)
    assert same(model.state_dict(), state)
    with pytest.raises(LookalikeError, match="2 entries and the model"):
        pair_by_order({"a": torch.ones(1), "b": torch.ones(1)}, model)
    with pytest.raises(LookalikeError, match="would become"):
        pair_by_order({"a": torch.ones(2), "b": torch.ones(3)}, nn.Linear(3, 2))


def test_layers_that_ask_for_the_version_of_their_weights_are_told():
    """A plain dictionary has none, and a saved model's file neither."""
    one, other = (torchvision.models.mnasnet0_5(num_classes=3).eval() for _ in range(2))
    load_weights(other, dict(one.state_dict()), "the weights")
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(one(x), other(x))


def test_weights_of_another_image_size_are_refused_with_the_size_to_give(tmp_path):
    """Position embeddings tell the size; the head is adapted, so its shape is not said to be a problem."""
    size = {"embed_dim": 12, "depth": 1, "num_heads": 2, "patch_size": 16}
    small = timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=6, **size)
    torch.save(small.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(LookalikeError) as caught:
        load_classifier("timm:vit_tiny_patch16_224", tmp_path / "vit.pth", model_args=size)
    message = str(caught.value)
    assert "pos_embed (1, 37, 12) instead of (1, 197, 12)" in message
    assert "head.weight" not in message
    assert "try --model-arg img_size=96 (model_args={'img_size': 96})" in message
    loaded = load_classifier("timm:vit_tiny_patch16_224", tmp_path / "vit.pth", model_args=size | {"img_size": 96})
    assert loaded.model.num_classes == 6
