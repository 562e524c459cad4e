import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lookalike._core.errors import LookalikeError
from lookalike._core.fresh_folder import fresh_folder
from lookalike.conversion.convert import convert
from lookalike.data import load_data
from lookalike.encoder import Encoder, load_classifier
from lookalike.model import PrototypeModel, load
from lookalike.model.classifier import LinearHead
from lookalike.model.images import value_range_of
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import make_similarity
from tests.architectures import make


@pytest.fixture
def sem(net, blobs):
    return convert(net, blobs, n_prototypes=2)


@pytest.fixture
def saved_resnet(tmp_path):
    """A converted torchvision network that its spec can rebuild."""
    model, _ = make("torchvision-resnet18")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    x = torch.rand(30, 3, 32, 32)
    sem = convert(
        load_classifier("torchvision:resnet18", tmp_path / "w.safetensors"), (x, torch.arange(30) % 3), n_prototypes=2
    )
    sem.save(tmp_path / "saved")
    return sem, tmp_path / "saved", x


def test_the_readings_agree_with_each_other_whatever_the_batches(sem, blobs):
    x, _ = blobs
    scores = sem(x)
    assert scores.shape == (90, 3)
    z = sem.embed(x)
    torch.testing.assert_close(sem.similarities(x), sem.similarities_of(z))
    torch.testing.assert_close(sem.scores_of(z), scores)
    nearest = sem.prototypes.labels[sem.similarities(x).argmax(1)]
    for batch_size in (1, 13, 500):
        assert torch.equal(sem.predict(x, batch_size), nearest)
        assert torch.equal(sem.predict_proba(x, batch_size).argmax(1), nearest)
        torch.testing.assert_close(sem.embed(x, batch_size), z, rtol=1e-4, atol=1e-5)
    assert torch.equal(sem.predict(x.numpy()), nearest)
    assert not z.requires_grad
    assert scores.requires_grad  # an nn.Module like the one it came from


def test_any_four_parts_make_a_model(net, blobs):
    x, _ = blobs
    encoder = Encoder(net, x[:1])
    prototypes = Prototypes(encoder(x[:6]).detach(), torch.arange(6) % 3, ["a", "b", "c"])
    model = PrototypeModel(encoder, prototypes, make_similarity("dot"), LinearHead.from_labels(prototypes.labels, 3))
    with torch.no_grad():
        expected = encoder(x) @ prototypes.vectors.T @ model.classifier.weight.T
        torch.testing.assert_close(model(x), expected)
    assert torch.equal(model.predict(x), expected.argmax(1))


def test_images_are_those_of_the_nearest_training_samples(sem, blobs):
    x, _ = blobs
    low, high = float(sem.value_range[0]), float(sem.value_range[1])
    for j in range(6):
        for rank in range(3):
            original = x[sem.prototypes.nearest[j, rank]]
            torch.testing.assert_close(sem.prototype_inputs(rank)[j], original.clamp(low, high), atol=0.03, rtol=0)


def test_saved_and_loaded_it_predicts_the_same_bits(saved_resnet, untouched):
    sem, folder, x = saved_resnet
    again = load(folder)
    assert torch.equal(again(x), sem(x))
    assert torch.equal(again.predict_proba(x), sem.predict_proba(x))
    assert torch.equal(again.images, sem.images)
    assert again.provenance == json.loads(json.dumps(sem.provenance))
    for name, tensor in sem.state_dict().items():
        assert torch.equal(again.state_dict()[name].nan_to_num(), tensor.nan_to_num()), name
    with untouched(sem.encoder.model):
        sem.save(folder, overwrite=True)


def test_another_process_predicts_the_same_bits(saved_resnet, tmp_path):
    sem, folder, x = saved_resnet
    np.save(tmp_path / "x.npy", x.numpy())
    code = (
        "import sys, numpy as np, torch; torch.set_num_threads(1); from lookalike import load; "
        "np.save(sys.argv[3], load(sys.argv[1])(torch.from_numpy(np.load(sys.argv[2]))).detach().numpy())"
    )
    arguments = [str(folder), str(tmp_path / "x.npy"), str(tmp_path / "scores.npy")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), sem(x).detach().numpy())


def test_an_own_network_is_given_when_loading_and_stays_untouched(sem, net, blobs, tmp_path, untouched):
    x, _ = blobs
    sem.save(tmp_path / "saved")
    with pytest.raises(LookalikeError, match=r"a Sequential, was given as an object .* load\(folder, model=network\)"):
        load(tmp_path / "saved")
    other = type(net)(*[type(m)(*_arguments(m)) for m in net])
    with untouched(other):
        again = load(tmp_path / "saved", model=other)
    assert torch.equal(again(x), sem(x))


def _arguments(module):
    kinds = {"Conv2d": (1, 6, 3, 1, 1), "BatchNorm2d": (6,), "AdaptiveAvgPool2d": (2,), "Linear": (24, 3)}
    return kinds.get(type(module).__name__, ())


def test_a_network_that_computes_something_else_is_noticed(sem, net, tmp_path):
    import copy

    sem.save(tmp_path / "saved")
    other = copy.deepcopy(net)
    other[2] = torch.nn.Tanh()  # the weights fit all the same
    with pytest.raises(LookalikeError, match="does not compute what the one saved"):
        load(tmp_path / "saved", model=other)
    other = copy.deepcopy(net)
    other[6] = torch.nn.Linear(24, 4)
    with pytest.raises(LookalikeError, match="do not fit the Sequential"):
        load(tmp_path / "saved", model=other)


@pytest.mark.parametrize("name", ["model.safetensors", "images/00000-0.png", "README.md", "gallery.png"])
def test_missing_and_altered_files_are_named(saved_resnet, name):
    _, folder, _ = saved_resnet
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(LookalikeError, match=f"'{name}' of the saved model in .* was altered"):
        load(folder)
    path.unlink()
    with pytest.raises(LookalikeError, match=f"incomplete: '{name}' is missing"):
        load(folder)


def test_an_altered_or_foreign_configuration_is_refused(saved_resnet, tmp_path):
    _, folder, _ = saved_resnet
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"class_names": ["x", "y", "z"]}, "was altered"),
        (
            {"format": 99},
            "written by a later version of lookalike or altered .it has format 99; this version reads up to 2",
        ),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(LookalikeError, match=message):
            load(folder)
    path.write_text("{}")
    with pytest.raises(LookalikeError, match="is not that of a saved lookalike model"):
        load(folder)
    path.unlink()
    with pytest.raises(LookalikeError, match=r"'config\.json' is missing"):
        load(folder)
    with pytest.raises(LookalikeError, match="is not a folder with a saved model"):
        load(tmp_path / "nowhere")


def rewritten(folder, **changes):
    """Changes a configuration as someone hostile would: fingerprint and all."""
    from lookalike._core.provenance import fingerprint_json

    config = json.loads((folder / "config.json").read_text()) | changes
    config["fingerprint"] = fingerprint_json({k: v for k, v in config.items() if k != "fingerprint"})
    (folder / "config.json").write_text(json.dumps(config))
    return config


def test_a_configuration_cannot_point_outside_its_folder(saved_resnet, tmp_path):
    _, folder, _ = saved_resnet
    config = json.loads((folder / "config.json").read_text())
    rewritten(folder, files=config["files"] | {"../../secret": {"sha256": "0"}})
    with pytest.raises(LookalikeError, match="names a file outside of it"):
        load(folder)
    rewritten(folder, files=config["files"], images=[[str(tmp_path / "secret.png")] * 3] * 6)
    with pytest.raises(LookalikeError, match=r"has no fingerprint of '.*secret\.png'"):
        load(folder)
    rewritten(folder, files={}, images=None)
    with pytest.raises(LookalikeError, match=r"has no fingerprint of 'model\.safetensors'"):
        load(folder)
    (tmp_path / "elsewhere").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    rewritten(folder, files=config["files"], images=config["images"])
    with pytest.raises(LookalikeError, match="is a link, not a file"):
        load(folder)


def test_a_configuration_that_lacks_something_is_one_clear_line(saved_resnet):
    _, folder, _ = saved_resnet
    config = json.loads((folder / "config.json").read_text())
    for key in ("encoder", "similarity", "class_names", "classifier"):
        rewritten(folder, **{key: None})
        with pytest.raises(LookalikeError):
            load(folder)
        rewritten(folder, **{key: config[key]})
    load(folder)


def test_options_of_numpy_types_and_number_keys_are_saved(net, blobs, tmp_path):
    options = {"similarity_options": {"sigma": np.float32(2)}, "seed": np.int64(3)}
    convert(net, blobs, dict.fromkeys(range(3), 1), "rbf", **options).save(tmp_path / "a")
    assert load(tmp_path / "a", model=net).provenance["n_prototypes"] == {"0": 1, "1": 1, "2": 1}
    many = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 11))
    model = convert(many, (torch.randn(44, 2), torch.arange(44) % 11), dict.fromkeys(range(11), 1))
    model.save(tmp_path / "b")
    load(tmp_path / "b", model=model.encoder.model)


def test_threads_share_a_loaded_model(saved_resnet):
    sem, folder, x = saved_resnet
    again = load(folder)
    assert not any(module.training for module in again.encoder.model.modules())
    network = again.encoder.model.train()  # even so: every call runs in eval mode
    expected, failures = sem.embed(x[:4]), []

    def work():
        for _ in range(10):
            with torch.no_grad():
                failures.append(not torch.allclose(again.encoder(x[:4]), expected, atol=1e-4))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(failures)
    assert all(module.training for module in network.modules())
    assert int(network.bn1.num_batches_tracked) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_inputs_are_taken_in_the_networks_own_type(net, blobs, dtype):
    x, y = blobs
    sem = convert(net.to(dtype), (x.double().numpy(), y), n_prototypes=1)
    assert sem.predict(x.half()).shape == (90,)
    assert convert(net, (x.to(dtype), y), n_prototypes=1).predict(x).shape == (90,)
    with pytest.raises(LookalikeError, match="are bytes"):
        sem.predict((x * 10).to(torch.uint8))


def test_without_images_no_training_pixel_is_written(saved_resnet, tmp_path):
    sem, _, x = saved_resnet
    sem.save(tmp_path / "bare", images=False)
    names = sorted(path.name for path in (tmp_path / "bare").rglob("*"))
    assert names == ["README.md", "config.json", "model.safetensors"]
    assert not any("image" in name for name in load_file(tmp_path / "bare" / "model.safetensors"))
    again = load(tmp_path / "bare")
    assert torch.equal(again(x), sem(x))
    with pytest.raises(LookalikeError, match="holds no prototype images"):
        again.plot_gallery()


def test_nothing_half_written_is_left(saved_resnet, monkeypatch):
    sem, folder, _ = saved_resnet
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(LookalikeError, match="exists already"):
        sem.save(folder)
    monkeypatch.setattr(
        "lookalike.saved.folder.fingerprint_file", lambda path: (_ for _ in ()).throw(KeyboardInterrupt())
    )
    with pytest.raises(KeyboardInterrupt):
        sem.save(folder, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        sem.save(folder.parent / "new")
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["saved", "w.safetensors"]


def test_a_folder_takes_the_place_of_another_only_when_it_is_whole(tmp_path):
    target = tmp_path / "a"
    with fresh_folder(target, marker="one") as folder:
        (folder / "one").touch()
        assert not target.exists()
    with pytest.raises(RuntimeError), fresh_folder(target, marker="one", overwrite=True) as folder:
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["one"]
    with fresh_folder(target, marker="one", overwrite=True) as folder:
        (folder / "two").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "two"]
    (tmp_path / "file").touch()
    for place, message in (
        (tmp_path / "file", "is a file"),
        (target, "not a folder of this kind"),
        (Path(), "you are in"),
    ):
        with pytest.raises(LookalikeError, match=message), fresh_folder(place, marker="one", overwrite=True):
            pass
    (tmp_path / "void").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "void")
    with fresh_folder(tmp_path / "link", marker="one", overwrite=True) as folder:
        (folder / "one").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "void" / "one").exists()


def test_the_card_shows_names_as_text(image_folder, network_file, tmp_path):
    (image_folder / "train" / "ant").rename(image_folder / "train" / "<b>|ant`")
    (image_folder / "test" / "ant").rename(image_folder / "test" / "<b>|ant`")
    loaded = load_classifier(f"{network_file}:make")
    sem = convert(loaded, load_data(image_folder, loaded.preprocessing), n_prototypes=1)
    sem.save(tmp_path / "saved")
    assert r"\<b\>\|ant\`" in (tmp_path / "saved" / "README.md").read_text()


def test_wrong_batch_sizes_are_told(sem, blobs):
    with pytest.raises(LookalikeError, match="at least 1"):
        sem.predict(blobs[0], 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"level": "patch", "n_prototypes": 2}, "by KMEx of patches from"),
        ({"level": "head"}, "Its prototypes are the weights of the network's own last layer"),
        ({}, "It predicts the class of the most similar prototype"),
    ],
    ids=["patch", "head", "image"],
)
def test_the_card_says_how_the_model_was_made(options, told, blobs, tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    convert(network.eval(), blobs, progress=False, **options).save(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert told in card
    assert "Trained with" not in card


def test_the_range_of_values_has_one_type_whatever_torchs_default():
    inputs = torch.tensor([[[[-1.0, 2.5]]]])
    torch.set_default_dtype(torch.float64)
    try:
        found = value_range_of(inputs, None)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype is torch.float32
    assert found.tolist() == [[-1.0], [2.5]]
