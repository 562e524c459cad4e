"""Checkpoints of training programs: which weights are taken, under which names, and what is asked."""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lookalike import LookalikeError, LookalikeWarning, load_classifier
from lookalike.encoder import load_weights, read_checkpoint, read_weights
from tests.architectures import make, plain_cnn

FILE = """
import torch
from torch import nn


def make(num_classes=5, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(width, num_classes))


def wrapped():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = make()

        def forward(self, x):
            return self.backbone(x)

    return Net()
"""


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "net.py").write_text(FILE)
    return f"{tmp_path / 'net.py'}:make"


def small(seed=0, classes=5):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def holds(loaded, state):
    found = loaded.model.state_dict()
    return all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.module.", "_orig_mod.", "net.encoder.q.", "any thing.", "a.b.c.d.e."],
)
def test_any_prefix_comes_off(spec, tmp_path, prefix):
    state = small().state_dict()
    assert holds(load_classifier(spec, saved(tmp_path, {"model": under(prefix, state)})), state)


def test_wrappers_within_names_come_off_and_outer_names_go_on(spec, tmp_path):
    state = small().state_dict()
    inner = {f"{name.partition('.')[0]}._orig_mod.module.{name.partition('.')[2]}": t for name, t in state.items()}
    assert holds(load_classifier(spec, saved(tmp_path, inner)), state)
    wrapped = load_classifier(spec.replace(":make", ":wrapped"), saved(tmp_path, state))
    assert holds(wrapped, under("backbone.", state))
    model = plain_cnn()
    parts = {("backbone." if name[0] != "7" else "head.") + name: t for name, t in model.state_dict().items()}
    load_weights(model, parts)


def test_a_training_state_of_timm(spec, tmp_path):
    raw, ema = small(0).state_dict(), small(1).state_dict()
    optimizer = torch.optim.AdamW(small().parameters())
    small()(torch.zeros(1, 3, 8, 8)).sum().backward()
    content = {
        "epoch": 3,
        "arch": "resnet18",
        "args": argparse.Namespace(model="resnet18", output=Path("out"), mean=None),
        "state_dict": under("module.", raw),
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "metric": np.float64(71.5),
        "state_dict_ema": under("module.", ema),
    }
    path = saved(tmp_path, content)
    assert read_checkpoint(path).metadata["args"] == {"model": "resnet18", "output": "out", "mean": None}
    message = r"holds 2 sets of weights: 'state_dict' \(154 numbers in 9 tensors\), 'state_dict_ema' .* --weights-key"
    with pytest.raises(LookalikeError, match=message):
        load_classifier(spec, path)
    with pytest.raises(LookalikeError, match="holds 2 sets of weights: 'state_dict'"):
        read_weights(path)
    assert holds(load_classifier(spec, path, weights_key="state_dict"), raw)
    assert holds(load_classifier(spec, path, weights_key="state_dict_ema"), ema)
    assert torch.equal(read_weights(path, "state_dict_ema")["module.0.weight"], ema["0.weight"])
    with pytest.raises(LookalikeError, match="holds no weights 'ema'; it holds 2 sets of weights: 'state_dict'"):
        load_classifier(spec, path, weights_key="ema")


def test_a_lightning_checkpoint(spec, tmp_path):
    state = small().state_dict()
    content = {
        "state_dict": {**under("net.", state), "loss.weight": torch.ones(5), "metric.total": torch.tensor(3.0)},
        "hyper_parameters": {"lr": 1e-3, "args": argparse.Namespace(x=1), "classes": ["a", "b"], "w": torch.ones(5)},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "dirpath": Path("/x")}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2, 2)}}, "param_groups": [{"lr": 1}]}],
        "pytorch-lightning_version": "2.4.0",
    }
    path = saved(tmp_path, content)
    with pytest.warns(LookalikeWarning, match=r"'state_dict.net' fit the network and are used; 'loss.weight', 'met"):
        assert holds(load_classifier(spec, path), state)
    assert read_checkpoint(path).metadata["hyper_parameters"]["classes"] == ["a", "b"]


@pytest.mark.parametrize("nested", [True, False])
def test_two_networks_in_one_file_are_asked_about(spec, tmp_path, nested):
    student, teacher = small(0).state_dict(), small(1).state_dict()
    content = {"student": student, "teacher": teacher}
    flat = {**under("student.", student), **under("teacher.", teacher)}
    path = saved(tmp_path, content if nested else {"state_dict": flat})
    with pytest.raises(LookalikeError, match=r"2 sets of weights: '[a-z_.]*student' .* '[a-z_.]*teacher' .*fit the"):
        load_classifier(spec, path)
    assert holds(load_classifier(spec, path, weights_key="teacher"), teacher)
    assert holds(load_classifier(spec, path, weights_key="student"), student)
    with pytest.raises(LookalikeError, match=r"holds no weights 'critic'; it holds .*student"):
        load_classifier(spec, path, weights_key="critic")


def test_the_only_weights_that_fit_are_taken_and_told(spec, tmp_path):
    classifier, generator = small().state_dict(), nn.Sequential(nn.Linear(7, 9), nn.Linear(9, 2)).state_dict()
    path = saved(tmp_path, {"generator": generator, "discriminator": classifier})
    with pytest.warns(LookalikeWarning, match="'discriminator' fit the network and are used; 'generator' are not"):
        assert holds(load_classifier(spec, path), classifier)
    same = saved(tmp_path, {"model": classifier, "ema": {name: t.clone() for name, t in classifier.items()}})
    assert holds(load_classifier(spec, same), classifier)  # either is the same


@pytest.mark.parametrize("zipped", [True, False])
def test_networks_that_were_saved_whole(spec, tmp_path, zipped):
    model = small()
    model[1].register_buffer("scratch", torch.ones(2), persistent=False)
    content = {"model": nn.DataParallel(model), "ema": None, "train_args": {"lr": 0.1}}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert holds(load_classifier(spec, tmp_path / "a.pt"), small().state_dict())


def test_weights_by_order_for_any_number_of_classes(spec, tmp_path):
    for classes in (5, 3, 11):
        state = small(classes=classes).state_dict()
        renamed = {f"layer.{i}": tensor for i, tensor in enumerate(t for t in state.values() if t.ndim)}
        loaded = load_classifier(spec, saved(tmp_path, renamed), by_order=True)
        assert loaded.spec["args"].get("num_classes", 5) == classes
        assert holds(loaded, {name: t for name, t in state.items() if t.ndim})
        with_counters = {f"layer.{i}": tensor for i, tensor in enumerate(state.values())}
        assert holds(load_classifier(spec, saved(tmp_path, with_counters), by_order=True), state)
    model, _ = make("torchvision-resnet18")
    renamed = {f"w{i}": t for i, t in enumerate(t for n, t in model.state_dict().items() if t.ndim)}
    loaded = load_classifier("torchvision:resnet18", saved(tmp_path, renamed), by_order=True)
    assert loaded.spec["args"] == {"num_classes": 7}
    with pytest.raises(LookalikeError, match="use --weights-by-order"):
        load_classifier("torchvision:resnet18", saved(tmp_path, renamed))
    save_file(renamed, tmp_path / "a.safetensors")
    with pytest.raises(LookalikeError, match="does not keep the network's order, as safetensors sorts names"):
        load_classifier("torchvision:resnet18", tmp_path / "a.safetensors", by_order=True)


def test_the_preparation_for_weights_by_order_is_called_a_guess(spec, tmp_path):
    import timm

    state = timm.create_model("test_efficientnet", num_classes=4).state_dict()
    renamed = {f"w{i}": tensor for i, tensor in enumerate(t for t in state.values() if t.ndim)}
    guess = r"is a guess: as for the published weights of timm:test_efficientnet \(RGB; .*--mean, --std"
    with pytest.warns(LookalikeWarning, match=guess):
        load_classifier("timm:test_efficientnet", saved(tmp_path, renamed), by_order=True)
    with warnings.catch_warnings():  # nothing is guessed for matching names, nor without a preparation
        warnings.simplefilter("error")
        load_classifier("timm:test_efficientnet", saved(tmp_path, state))
        load_classifier(spec, saved(tmp_path, small().state_dict()), by_order=True)


def test_channels_are_read_off_the_weights_too(tmp_path):
    import timm

    model = timm.create_model("test_efficientnet", num_classes=4, in_chans=1)
    loaded = load_classifier("timm:test_efficientnet", saved(tmp_path, model.state_dict()))
    assert loaded.spec["args"] == {"num_classes": 4, "in_chans": 1}


def test_quantised_weights_and_profilers_counts(spec, tmp_path):
    state = small().state_dict()
    noise = {"0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}
    assert holds(load_classifier(spec, saved(tmp_path, {**state, **noise})), state)
    whole = {**state, "0.weight": state["0.weight"].to(torch.int8)}
    with pytest.raises(LookalikeError, match=r"not floating-point numbers, as after quantisation: 0.weight \(int8\)"):
        load_classifier(spec, saved(tmp_path, whole))


def test_weights_that_fit_nothing_are_told(spec, tmp_path):
    path = saved(tmp_path, {"a": {"x.weight": torch.ones(2, 2)}, "b": {"y.weight": torch.ones(2, 2)}})
    with pytest.raises(LookalikeError, match=r"do not fit the Sequential: missing: .*'a' comes closest of 'a', 'b'"):
        load_classifier(spec, path)
    with pytest.raises(LookalikeError, match="need --weights"):
        load_classifier(spec, weights_key="a")


def parts_of(model):
    return model[:5].state_dict(), model[5].state_dict()


def test_parts_in_separate_entries_are_joined(tmp_path):
    source = FILE.replace("nn.Sequential(", "nn.Sequential(nn.Sequential(").replace("nn.Flatten(),", "nn.Flatten()),")
    (tmp_path / "parts.py").write_text(source)
    spec = f"{tmp_path / 'parts.py'}:make"
    encoder, head = parts_of(small())
    for content in (
        {"encoder": encoder, "classifier": head},
        {"net": {"backbone": under("module.", encoder), "fc": head}, "epoch": 3},
        {"1": head, "0": encoder},
        [small()[:5], small()[5]],
        {"model": {"trunk": encoder}, "head": head, "best_head": {name: t.clone() for name, t in head.items()}},
    ):
        loaded = load_classifier(spec, saved(tmp_path, content))
        assert holds(loaded, under("0.", encoder) | under("1.", head))
        assert loaded.head is None
    seven = parts_of(small(1, classes=7))[1]
    assert load_classifier(spec, saved(tmp_path, {"encoder": encoder, "head": seven})).spec["args"] == {
        "num_classes": 7
    }
    other = parts_of(small(2))
    with pytest.raises(LookalikeError, match=r"in parts .* two sets for one of them: 'head' and 'head_ema'"):
        load_classifier(spec, saved(tmp_path, {"encoder": encoder, "head": head, "head_ema": other[1]}))
    twice = {
        "student": {"encoder": encoder, "head": head},
        "teacher": dict(zip(("encoder", "head"), other, strict=True)),
    }
    with pytest.raises(LookalikeError, match="more than once, in 'student', 'teacher'; choose one with --weights-key"):
        load_classifier(spec, saved(tmp_path, twice))
    loaded = load_classifier(spec, saved(tmp_path, twice), weights_key="teacher")
    assert holds(loaded, under("0.", other[0]) | under("1.", other[1]))
    with pytest.warns(LookalikeWarning, match="have no trained head"):
        assert load_classifier(spec, saved(tmp_path, twice), weights_key="student.encoder").head == "output"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["sparse", "rows, sparse", "meta", "quantised", "parameter, sparse", "all on meta"])
def test_tensors_that_are_no_plain_numbers_are_named(spec, tmp_path, kind):
    state = small().state_dict()
    weight = state["5.weight"]
    special = {
        "sparse": lambda: weight.to_sparse(),
        "rows, sparse": lambda: weight.to_sparse_csr(),
        "meta": lambda: weight.to("meta"),
        "quantised": lambda: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        "parameter, sparse": lambda: nn.Parameter(weight.to_sparse()),
        "all on meta": lambda: weight.to("meta"),
    }[kind]()
    content = {name: t.to("meta") for name, t in state.items()} if kind == "all on meta" else state
    path = saved(tmp_path, {**content, "5.weight": special})
    with pytest.raises(LookalikeError, match=rf"not plain numbers: .*weight \(.*{kind.split()[-1][:4]}"):
        load_classifier(spec, path)
    beside = {"special": {"5.weight": special}, "model": state}  # those that are not taken do no harm
    assert holds(load_classifier(spec, saved(tmp_path, beside), weights_key="model"), state)


def test_weights_of_any_type_and_with_nan_are_compared(spec, tmp_path):
    state = {name: t.to(torch.float8_e5m2) if t.is_floating_point() else t for name, t in small().state_dict().items()}
    loaded = load_classifier(spec, saved(tmp_path, state))
    assert holds(loaded, {name: t.to(small().state_dict()[name].dtype) for name, t in state.items()})
    state = small().state_dict()
    state["5.bias"][1] = torch.nan
    content = {"last": state, "best": {name: t.clone() for name, t in state.items()}}
    with pytest.raises(LookalikeError, match=r"a\.ckpt' hold NaN or infinite values, .*: 5\.bias; take an earlier"):
        load_classifier(spec, saved(tmp_path, content))


class Detector(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.model, self.names = inner, dict(enumerate("abcde"))


def test_files_of_other_libraries(spec, tmp_path):
    model = small()
    state, optimizer = model.state_dict(), torch.optim.SGD(model.parameters(), 0.1, momentum=0.9).state_dict()
    names = list("abcde")
    files = {
        "MMCV": ({"meta": {"CLASSES": tuple(names), "epoch": 3}, "state_dict": state, "optimizer": optimizer}, names),
        "MMEngine": ({"meta": {"dataset_meta": {"classes": names}}, "state_dict": state, "message_hub": {}}, names),
        "fastai": ({"model": state, "opt": {"state": [{"grad_avg": torch.ones(4)}], "hypers": [{"lr": 0.1}]}}, None),
        "Ultralytics": ({"model": Detector(model), "ema": None, "updates": None, "train_args": {"imgsz": 64}}, names),
        "its average": ({"model": None, "ema": Detector(small()).half(), "train_args": {}}, names),
    }
    for library, (content, expected) in files.items():
        loaded = load_classifier(spec, saved(tmp_path, content))
        assert loaded.class_names == expected, library
        kept = {name: t.half().float() if library == "its average" else t for name, t in state.items()}
        assert holds(loaded, {name: t.to(state[name].dtype) for name, t in kept.items()}), library


def test_weights_of_another_number_of_classes_are_not_sent_to_the_order(tmp_path):
    """The names fit: taken by order, the same shape would be refused again."""
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), "
        "nn.Flatten(), nn.Linear(4, 5))\n"
    )
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    torch.save(other.state_dict(), tmp_path / "three.pth")
    with pytest.raises(LookalikeError, match="the weights are those of a network of 3 classes: make such a") as raised:
        load_classifier(f"{file}:make", weights=tmp_path / "three.pth")
    assert "by-order" not in str(raised.value)
