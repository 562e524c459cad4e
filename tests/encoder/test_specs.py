import json

import pytest
import torch
from safetensors.torch import save_file

from lookalike._core.errors import LookalikeError
from lookalike.data import Preprocessing
from lookalike.encoder import load_classifier, rebuild
from tests.architectures import make


@pytest.fixture
def resnet_weights(tmp_path):
    model, _ = make("torchvision-resnet18")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    return model, tmp_path / "weights.safetensors"


def rebuilt(spec):
    """Builds from a spec that has been through JSON, as a saved model's has."""
    return rebuild(json.loads(json.dumps(spec)))


def assert_same_network(loaded, model, x):
    model.eval()
    again = rebuilt(loaded.spec)
    again.load_state_dict(loaded.model.state_dict())
    with torch.no_grad():
        expected = model(x)
        expected = getattr(expected, "logits", expected)
        for other in (loaded.model, again.eval()):
            found = other(x)
            torch.testing.assert_close(getattr(found, "logits", found), expected)


def test_torchvision_reads_the_number_of_classes_off_the_weights(resnet_weights):
    model, path = resnet_weights
    loaded = load_classifier("torchvision:resnet18", path)
    assert loaded.spec == {"source": "torchvision", "name": "resnet18", "args": {"num_classes": 7}}
    assert loaded.preprocessing == Preprocessing(256, (224, 224))
    assert not any(m.training for m in loaded.model.modules())
    assert_same_network(loaded, model, torch.randn(2, 3, 64, 64))


def test_timm_brings_its_own_preprocessing(tmp_path):
    model, x = make("timm-efficientnet_lite0")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    loaded = load_classifier("timm:efficientnet_lite0", tmp_path / "w.safetensors")
    assert loaded.preprocessing.interpolation == "bicubic"
    assert loaded.preprocessing.crop == (224, 224)
    assert loaded.preprocessing.resize == 256
    assert_same_network(loaded, model, x)


def test_timm_takes_arguments(tmp_path):
    model, x = make("timm-vit_tiny")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    loaded = load_classifier("timm:vit_tiny_patch16_224", tmp_path / "w.pth", model_args={"img_size": 32})
    assert loaded.preprocessing.crop == (32, 32)
    assert_same_network(loaded, model, x)


def test_hugging_face_from_a_local_folder(tmp_path):
    from transformers import ViTImageProcessor

    model, x = make("hf-vit")
    model.config.id2label = {i: f"kind {i}" for i in range(7)}
    model.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    loaded = load_classifier(f"hf:{tmp_path / 'vit'}")
    assert loaded.class_names == [f"kind {i}" for i in range(7)]
    assert loaded.preprocessing == Preprocessing((32, 32), None, (0.5,) * 3, (0.5,) * 3, convention="transformers")
    assert_same_network(loaded, model, x)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert_same_network(load_classifier(f"hf:{tmp_path / 'vit'}", tmp_path / "w.safetensors"), model, x)


def test_a_users_file(network_file):
    loaded = load_classifier(f"{network_file}:make")
    assert loaded.preprocessing.crop == (8, 8)
    assert load_classifier(f"{network_file}:bare").preprocessing is None
    with pytest.raises(LookalikeError, match=r"not run from a saved model; .* load\(folder, model=network\)"):
        rebuilt(loaded.spec)


def test_wrong_files_are_told(network_file, tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    for spec, message in (
        (f"{tmp_path}/none.py:make", "does not exist"),
        (f"{network_file}:nothing", "has no function 'nothing'"),
        (f"{network_file}:wrong", "returned int; it must return a torch.nn.Module"),
        (f"{network_file}:fails", "failed: RuntimeError: no luck"),
        (f"{tmp_path}/broken.py:make", "cannot be imported: ModuleNotFoundError"),
    ):
        with pytest.raises(LookalikeError, match=message):
            load_classifier(spec)


def test_wrong_names_are_told(resnet_weights):
    _, path = resnet_weights
    for spec, message in (
        ("resnet18", "names no model; give torchvision:NAME"),
        ("torchvision:resnet19", "did you mean .*resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no model"),
        ("timm:resnet17", "timm has no model 'resnet17'; did you mean"),
        ("timm:vit_tiny_patch16_224", "do not fit the VisionTransformer: missing:"),
        ("torchvision:resnet50", "do not fit the ResNet"),
    ):
        with pytest.raises(LookalikeError, match=message):
            load_classifier(spec, path)
    with pytest.raises(LookalikeError, match="cannot build torchvision:resnet18 with"):
        load_classifier("torchvision:resnet18", path, model_args={"colour": "blue"})


def test_without_a_network_published_weights_are_asked_for_as_a_file(monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setattr("torch.hub.get_dir", lambda: "/nonexistent")
    with pytest.raises(LookalikeError, match=r"weights of torchvision:resnet18 cannot be loaded .* give a file"):
        load_classifier("torchvision:resnet18")


def test_a_saved_models_arguments_cannot_make_the_builder_read_files():
    with pytest.raises(LookalikeError, match="checkpoint_path when its network is built, which is refused"):
        rebuild({"source": "timm", "name": "resnet18", "args": {"checkpoint_path": "/tmp/x"}})
    with pytest.raises(LookalikeError, match="timm has no model"):
        rebuild({"source": "timm", "name": "hf-hub:someone/something", "args": {}})
    for config in (
        {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"checkpoint_path": "/x"}},
        {"model_type": "vit", "auto_map": {"AutoModelForImageClassification": "evil.Model"}},
        {"model_type": "vit", "backbone": "someone/something"},
    ):
        with pytest.raises(LookalikeError, match="which is refused"):
            rebuild({"source": "hf", "config": config})
    with pytest.raises(LookalikeError, match="cannot build the saved Hugging Face model"):
        rebuild({"source": "hf", "config": {"model_type": "no_such_type"}})


def test_a_file_may_return_the_preprocessing_of_another_library(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "from torchvision.transforms import CenterCrop, Compose, Normalize, RandomCrop, Resize, ToTensor\n\n"
        "def net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)).eval()\n\n"
        "def steps(last):\n    return Compose([Resize(9), last, ToTensor(), Normalize([0.5] * 3, [0.2] * 3)])\n\n"
        "def make():\n    return net(), steps(CenterCrop(8))\n\n"
        "def random():\n    return net(), steps(RandomCrop(8))\n\n"
        "def other():\n    return net(), net()\n"
    )
    read = load_classifier(f"{tmp_path}/net.py:make").preprocessing
    assert (read.resize, read.crop, read.std) == (9, (8, 8), (0.2, 0.2, 0.2))
    for name in ("random", "other"):
        with pytest.raises(LookalikeError, match="may come with its preprocessing, but this one cannot be read: "):
            load_classifier(f"{tmp_path}/net.py:{name}")
