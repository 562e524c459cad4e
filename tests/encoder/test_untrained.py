"""Checkpoints without a trained head make encoders, never a black box of random scores; no repository's code runs."""

import io
import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from lookalike import LookalikeError, LookalikeWarning, convert, evaluate, load, load_classifier
from lookalike.cli import app
from lookalike.encoder import Encoder, rebuild
from lookalike.metrics import compare
from tests.architectures import make
from tests.versions import compiled

FILE = """
from torch import nn
from lookalike.data import Preprocessing


def make():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    return net, Preprocessing.square(8)
"""


@pytest.fixture
def vit_without_head(tmp_path):
    from transformers import ViTImageProcessor, ViTModel

    model, x = make("hf-vit")
    folder = tmp_path / "vit"
    base = ViTModel(model.config, add_pooling_layer=False)
    base.load_state_dict(model.vit.state_dict(), strict=False)
    base.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder, model.eval(), x


def test_a_hugging_face_encoder_has_no_black_box(vit_without_head, tmp_path):
    folder, model, x = vit_without_head
    with pytest.warns(LookalikeWarning, match=r"hf:.* has no trained pooling layer, so the embedding is"):
        loaded = load_classifier(f"hf:{folder}")
    assert (loaded.head, loaded.class_names) == ("output", None)
    encoder = Encoder(loaded.model, x, head=loaded.head)
    features = Encoder(model, x, head="classifier")(x)
    torch.testing.assert_close(encoder(x), features)  # what a trained head would be given
    y = torch.arange(len(x)) % 2
    sem = convert(loaded, (x, y), n_prototypes=1)
    sem.save(tmp_path / "sem", images=False)
    again = load(tmp_path / "sem")
    torch.testing.assert_close(again.embed(x), sem.embed(x))
    assert compare(again, (x, y)).black_box_accuracy is None
    assert convert(loaded, (x, y), head="output").encoder.embedding_dim == features.shape[1]
    with pytest.raises(LookalikeError, match="have no trained head 'classifier'"):
        convert(loaded, (x, y), head="classifier")
    with pytest.raises(LookalikeError, match="have no trained head"):
        evaluate(sem, (x, y), black_box=loaded)


def test_other_missing_weights_are_refused_by_name(vit_without_head):
    from safetensors.torch import load_file, save_file

    folder, _, _ = vit_without_head
    state = load_file(folder / "model.safetensors")
    gone = next(name for name in state if "query.weight" in name)
    del state[gone]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LookalikeError, match=r"missing: classifier.bias, classifier.weight, .*query|missing: .*q"):
        load_classifier(f"hf:{folder}")


def test_mismatched_heads_are_never_made_up_in_silence(tmp_path):
    model, _ = make("hf-vit")
    model.save_pretrained(tmp_path / "vit")
    from transformers import ViTImageProcessor

    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    more = {"num_labels": 3, "ignore_mismatched_sizes": True}
    with pytest.warns(LookalikeWarning, match="no trained head"):
        assert load_classifier(f"hf:{tmp_path / 'vit'}", model_args=more).head == "output"


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:resnet18", "file"])
def test_weights_without_a_head(spec, tmp_path):
    (tmp_path / "net.py").write_text(FILE)
    spec = f"{tmp_path / 'net.py'}:make" if spec == "file" else spec
    model = load_without_weights(spec)
    head = "4" if "net.py" in spec else "fc"
    state = {name: t for name, t in model.state_dict().items() if not name.startswith(head + ".")}
    torch.save(state, tmp_path / "a.pth")
    with pytest.warns(LookalikeWarning, match=rf"no trained head \({head}\)"):
        loaded = load_classifier(spec, tmp_path / "a.pth")
    assert loaded.head == "output"
    assert isinstance(loaded.model.get_submodule(head), nn.Identity)
    if "net.py" not in spec:
        again = rebuild(json.loads(json.dumps(loaded.spec)))
        assert again.state_dict().keys() == loaded.model.state_dict().keys()
    name = next(iter(state))
    torch.save({key: t for key, t in state.items() if key != name}, tmp_path / "b.pth")
    with pytest.raises(LookalikeError, match=f"missing: .*{name}"):
        load_classifier(spec, tmp_path / "b.pth")


def load_without_weights(spec):
    import timm
    import torchvision

    source, _, name = spec.partition(":")
    if source == "torchvision":
        return torchvision.models.get_model(name, weights=None)
    if source == "timm":
        return timm.create_model(name)
    return load_classifier(spec).model


def test_a_saved_encoder_of_a_users_file_is_loaded_with_its_network(tmp_path):
    (tmp_path / "net.py").write_text(FILE)
    spec = f"{tmp_path / 'net.py'}:make"
    model = load_without_weights(spec)
    torch.save({n: t for n, t in model.state_dict().items() if not n.startswith("4.")}, tmp_path / "a.pth")
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 2
    sem = convert(load_classifier(spec, tmp_path / "a.pth"), (x, y), n_prototypes=1)
    sem.save(tmp_path / "sem", images=False)
    again = load(tmp_path / "sem", model=nn.DataParallel(model))
    torch.testing.assert_close(again(x), sem(x))
    assert isinstance(model[4], nn.Linear)


def test_load_takes_wrappers_off(net, blobs, tmp_path):
    x, y = blobs
    sem = convert(net, (x, y), n_prototypes=1)
    sem.save(tmp_path / "sem", images=False)
    for wrapped in (nn.DataParallel(net), compiled(net), compiled(nn.DataParallel(net))):
        torch.testing.assert_close(load(tmp_path / "sem", model=wrapped)(x), sem(x))


CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import PretrainedConfig, PreTrainedModel
class EvilConfig(PretrainedConfig):
    model_type = "evil"
class Evil(PreTrainedModel):
    config_class = EvilConfig
"""


def test_a_repositorys_code_is_never_run(tmp_path, monkeypatch):
    folder, marker = tmp_path / "evil", tmp_path / "marker"
    folder.mkdir()
    (folder / "modeling.py").write_text(CODE.format(marker=str(marker)))
    auto_map = {"AutoConfig": "modeling.EvilConfig", "AutoModelForImageClassification": "modeling.Evil"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto_map}))
    (folder / "preprocessor_config.json").write_text("{}")

    def answer(*_):
        raise AssertionError("it asked")

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    for weights in (None, tmp_path / "w.pth"):
        if weights:
            torch.save({"a.weight": torch.ones(1)}, weights)
        with pytest.raises(LookalikeError, match="needs the code of its own repository, which is never run"):
            load_classifier(f"hf:{folder}", weights)
    with pytest.raises(LookalikeError, match="leave out trust_remote_code"):
        load_classifier(f"hf:{folder}", model_args={"trust_remote_code": True})
    assert not marker.exists()


def test_a_timm_folder_is_rebuilt_with_its_own_classes_and_channels(tmp_path):
    import timm

    network = timm.create_model("resnet10t", num_classes=3, in_chans=1)
    network.pretrained_cfg["input_size"] = (1, 32, 32)
    timm.models.save_for_hf(network, tmp_path / "timm", model_config={"label_names": ["a", "b", "c"]})
    loaded = load_classifier(f"timm:local-dir:{tmp_path / 'timm'}")
    assert loaded.class_names == ["a", "b", "c"]
    x = torch.rand(6, 1, 32, 32)
    sem = convert(loaded, (x, torch.arange(6) % 3), 1, progress=False)
    sem.save(tmp_path / "m")
    assert torch.equal(load(tmp_path / "m").predict(x), sem.predict(x))
    for inputs, message in ((x.to_sparse(), "are sparse"), (x.to("meta"), "meta device"), (x[0, 0, 0, 0], "a single")):
        with pytest.raises(LookalikeError, match=message):
            sem.predict(inputs)


def test_damaged_weights_in_a_local_repository_are_named(tmp_path):
    from transformers import ViTImageProcessor

    model, _ = make("hf-vit")
    model.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    path = tmp_path / "vit" / "model.safetensors"
    whole = path.read_bytes()
    for content, message in (
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "is a Git LFS pointer"),
        (whole[:3000], "it is damaged"),
        (whole[:-100], "it is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(LookalikeError, match=message):
            load_classifier(f"hf:{tmp_path / 'vit'}")
    path.write_bytes(whole)
    config = tmp_path / "vit" / "config.json"
    names = {str(k): f"class {k}" for k in range(9)}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"id2label": names}))
    with pytest.raises(LookalikeError, match=r"have other shapes than its config\.json says"):
        load_classifier(f"hf:{tmp_path / 'vit'}")
    next(model.parameters()).data.fill_(torch.nan)
    model.save_pretrained(tmp_path / "vit")
    with pytest.raises(LookalikeError, match="hold NaN or infinite values"):
        load_classifier(f"hf:{tmp_path / 'vit'}")


@pytest.mark.parametrize("kind", ["evil", "resnet"])
def test_convert_never_asks_whether_to_run_a_repositorys_code(tmp_path, image_folder, kind):
    folder, marker = tmp_path / "repository", tmp_path / "marker"
    folder.mkdir()
    for name in ("modeling.py", "processing.py"):
        (folder / name).write_text(CODE.format(marker=str(marker)))
    auto_map = {"AutoConfig": "modeling.EvilConfig", "AutoModelForImageClassification": "modeling.Evil"}
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": auto_map}))
    processors = {"AutoImageProcessor": "processing.Processor", "AutoProcessor": "processing.Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps({"auto_map": processors}))
    command = ["convert", f"hf:{folder}", str(image_folder), "-o", str(tmp_path / "m")]
    result = CliRunner().invoke(app, command, input="y\ny\ny\n")
    assert result.exit_code == 2
    assert "[y/N]" not in result.output
    assert not marker.exists()
    assert not (tmp_path / "m").exists()


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


def test_pickled_weights_in_a_local_repository_are_read_without_running_them(tmp_path):
    from transformers import ViTImageProcessor

    model, x = make("hf-vit")
    folder = tmp_path / "vit"
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    state = {**model.state_dict(), "note": Hostile(tmp_path / "marker")}
    torch.save(state, folder / "pytorch_model.bin")
    loaded = load_classifier(f"hf:{folder}")
    torch.testing.assert_close(loaded.model(x).logits, model.eval()(x).logits)
    assert not (tmp_path / "marker").exists()


def test_a_made_up_head_of_published_weights_is_refused(tmp_path, monkeypatch):
    import timm

    published = timm.create_model("resnet18")
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: published)
    assert published.pretrained_cfg["num_classes"] == 1000
    with pytest.raises(LookalikeError, match="num_classes=7 would make up a head of random numbers"):
        load_classifier("timm:resnet18", model_args={"num_classes": 7})
    with pytest.raises(LookalikeError, match="give a checkpoint with --weights"):
        load_classifier("timm:resnet18", model_args={"checkpoint_path": "x.pth"})
