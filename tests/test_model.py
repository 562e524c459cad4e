import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lookalike.artifact import fresh_folder
from lookalike.classifier import LinearHead
from lookalike.data import load_data
from lookalike.encoder import Encoder, load_classifier
from lookalike.errors import LookalikeError
from lookalike.kmex import KMEx
from lookalike.model import PrototypeModel, load
from lookalike.prototypes import Prototypes
from lookalike.similarity import make_similarity
from tests.architectures import make


@pytest.fixture
def sem(net, blobs):
    return KMEx(net, n_prototypes=2).fit(blobs)


@pytest.fixture
def saved_resnet(tmp_path):
    """A converted torchvision network that its spec can rebuild."""
    model, _ = make("torchvision-resnet18")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    x = torch.rand(30, 3, 32, 32)
    sem = KMEx(load_classifier("torchvision:resnet18", tmp_path / "w.safetensors"), n_prototypes=2).fit(
        (x, torch.arange(30) % 3)
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
        ({"format": 99}, "has format 99; this version reads 1"),
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


def test_a_configuration_cannot_point_outside_its_folder(saved_resnet):
    from lookalike.provenance import fingerprint_json

    _, folder, _ = saved_resnet
    config = json.loads((folder / "config.json").read_text())
    config["files"]["../../secret"] = "0"
    config["fingerprint"] = fingerprint_json({k: v for k, v in config.items() if k != "fingerprint"})
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LookalikeError, match="names a file outside of it"):
        load(folder)


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
    monkeypatch.setattr("lookalike.artifact.fingerprint_file", lambda path: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        sem.save(folder, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        sem.save(folder.parent / "new")
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["saved", "w.safetensors"]


def test_a_folder_takes_the_place_of_another_only_when_it_is_whole(tmp_path):
    target = tmp_path / "a"
    with fresh_folder(target) as folder:
        (folder / "one").touch()
        assert not target.exists()
    with pytest.raises(RuntimeError), fresh_folder(target, overwrite=True) as folder:
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["one"]
    with fresh_folder(target, overwrite=True) as folder:
        (folder / "two").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "two"]
    (tmp_path / "file").touch()
    with pytest.raises(LookalikeError, match="is a file"), fresh_folder(tmp_path / "file", overwrite=True):
        pass


def test_the_card_shows_names_as_text(image_folder, network_file, tmp_path):
    (image_folder / "train" / "ant").rename(image_folder / "train" / "<b>|ant`")
    (image_folder / "test" / "ant").rename(image_folder / "test" / "<b>|ant`")
    loaded = load_classifier(f"{network_file}:make")
    sem = KMEx(loaded, n_prototypes=1).fit(load_data(image_folder, loaded.preprocessing))
    sem.save(tmp_path / "saved")
    assert r"\<b\>\|ant\`" in (tmp_path / "saved" / "README.md").read_text()


def test_wrong_batch_sizes_are_told(sem, blobs):
    with pytest.raises(LookalikeError, match="at least 1"):
        sem.predict(blobs[0], 0)
