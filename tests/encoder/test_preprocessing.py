"""What a loaded network says of its images, and channels read off weights."""

import json

import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from timm.data import create_transform, resolve_data_config

from lookalike import convert
from lookalike._core.errors import LookalikeWarning
from lookalike.data import ImageArray
from lookalike.data.foreign import probes
from lookalike.encoder import load_classifier, rebuild
from tests.versions import resizes_other_shapes


def saved(model, path):
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize(("channels", "by_order"), [(1, False), (1, True), (4, False)])
def test_input_channels_are_read_off_torchvisions_weights(channels, by_order, tmp_path, recwarn):
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=5)
    model.conv1[0] = torch.nn.Conv2d(channels, 24, 3, 2, 1, bias=False)
    args = {"num_classes": 5} if by_order else {}  # paired by order, shapes must fit
    loaded = load_classifier(
        "torchvision:shufflenet_v2_x0_5", saved(model, tmp_path / "w.pth"), by_order=by_order, model_args=args
    )
    assert loaded.spec["args"] == {"num_classes": 5, "in_chans": channels}
    again = rebuild(json.loads(json.dumps(loaded.spec)))
    again.load_state_dict(model.state_dict())
    x = torch.randn(2, channels, 64, 64)
    torch.testing.assert_close(again.eval()(x), model.eval()(x))
    torch.testing.assert_close(loaded.model(x), model(x))
    if channels == 1:
        assert any("averages of the published ones for RGB" in str(warning.message) for warning in recwarn)
        assert loaded.preprocessing.describe().startswith("grey; shorter side to 256 (bilinear), centre crop 224×224")
    else:
        assert loaded.preprocessing is None
        assert "in_chans=4 is neither grey (1) nor RGB (3)" in loaded.preprocessing_problem


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_input_channels_are_read_off_timms_weights(name, tmp_path):
    model = timm.create_model(name, in_chans=1, num_classes=5)
    loaded = load_classifier(f"timm:{name}", saved(model, tmp_path / "w.pth"))
    assert loaded.spec["args"] == {"in_chans": 1, "num_classes": 5}
    assert loaded.preprocessing.channels == 1


@resizes_other_shapes
def test_timms_own_transform_is_followed_for_another_size(tmp_path):
    model = timm.create_model("test_vit", img_size=(32, 48))
    path = saved(model, tmp_path / "w.pth")
    loaded = load_classifier("timm:test_vit", path, model_args={"img_size": [32, 48]})
    config = resolve_data_config({"input_size": (3, 32, 48)}, model=model)
    transform = create_transform(**config, is_training=False)
    for image in probes(3):
        assert torch.equal(loaded.preprocessing(image), transform(image))


def test_what_published_weights_change_in_a_network_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    published = torchvision.models.GoogLeNet_Weights.DEFAULT
    (tmp_path / "checkpoints").mkdir()
    model = torchvision.models.googlenet(init_weights=False)
    saved(model, tmp_path / "checkpoints" / published.url.rpartition("/")[2])
    loaded = load_classifier("torchvision:googlenet")
    again = rebuild(json.loads(json.dumps(loaded.spec)))
    again.load_state_dict(loaded.model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), loaded.model(x))
    with pytest.warns(LookalikeWarning, match="give --model-arg transform_input=true"):
        load_classifier("torchvision:googlenet", saved(model, tmp_path / "w.pth"))


@pytest.fixture
def mobilevit(tmp_path):
    config = transformers.MobileViTConfig(
        num_labels=2, image_size=64, hidden_sizes=[16] * 3, neck_hidden_sizes=[8, 8, 8, 16, 16, 16, 16]
    )
    transformers.MobileViTForImageClassification(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_network_for_bgr_shows_its_prototypes_in_colour(mobilevit):
    transformers.MobileViTImageProcessor(size={"shortest_edge": 64}, crop_size=64).save_pretrained(mobilevit)
    loaded = load_classifier(f"hf:{mobilevit}")
    assert loaded.preprocessing.channel_order == "bgr"
    colours = torch.tensor([[200, 30, 10], [20, 30, 220]], dtype=torch.uint8).repeat(4, 1)
    images = colours[:, None, None].expand(8, 64, 64, 3).numpy()
    model = convert(loaded, ImageArray(images, torch.arange(8).numpy() % 2, ["red", "blue"], loaded.preprocessing), 1)
    assert model.images[:, 0, 0, 0].tolist() == colours[:2].tolist()
    inputs = loaded.preprocessing(Image.fromarray(images[0]))[None]
    assert model.to_pixels(inputs)[0, 0, 0].tolist() == [200, 30, 10]
    torch.testing.assert_close(model.prototype_inputs()[:1], inputs, atol=1e-5, rtol=1e-5)


def test_an_image_processor_that_is_not_understood_is_named(mobilevit):
    loaded = load_classifier(f"hf:{mobilevit}")
    assert loaded.preprocessing is None
    assert "no image processor that can be read" in loaded.preprocessing_problem
    transformers.ImageGPTImageProcessor().save_pretrained(mobilevit)
    problem = load_classifier(f"hf:{mobilevit}").preprocessing_problem
    assert "image_processor_type='ImageGPTImageProcessor' makes colour clusters of an image" in problem
    assert problem.endswith("prepare the data yourself and convert in Python")
