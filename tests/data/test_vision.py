"""The paper's data sets, read from tiny files in their genuine formats, and from broken ones."""

import hashlib
import json
import pickle

import numpy as np
import pytest
import torchvision.datasets
from scipy.io import savemat

from lookalike._core.errors import LookalikeError
from lookalike.data import DATASETS, Preprocessing, load_data
from lookalike.data.statistics import channel_statistics

N = {"train": 20, "test": 10}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An own folder for data, and no network."""
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()

    def offline(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    return tmp_path / "data"


def images(part, shape):
    return np.random.default_rng(len(part)).integers(0, 256, (N[part], *shape), dtype=np.uint8)


def labels(part):
    return np.arange(N[part]) % 10


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def write_idx(root, folder):
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images(part, (28, 28))))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels(part).astype(np.uint8)))
    return raw / "train-images-idx3-ubyte", images("train", (28, 28))


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_svhn(root, monkeypatch):
    folder = root / "svhn"
    folder.mkdir()
    split_list = {}
    for part in ("train", "test"):
        y = labels(part).copy()
        y[y == 0] = 10  # as the original files name the zero
        file = folder / f"{part}_32x32.mat"
        savemat(file, {"X": images(part, (32, 32, 3)).transpose(1, 2, 3, 0), "y": y[:, None]})
        split_list[part] = ["nowhere", file.name, md5(file)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", split_list)
    return folder / "train_32x32.mat", images("train", (32, 32, 3))


def write_cifar10(root, monkeypatch):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    x = images("train", (32, 32, 3))

    def write(name, values):
        (folder / name).write_bytes(pickle.dumps(values))
        return [name, md5(folder / name)]

    flat = x.transpose(0, 3, 1, 2).reshape(20, -1)
    train = [
        write(
            f"data_batch_{i + 1}",
            {"data": flat[4 * i : 4 * i + 4], "labels": labels("train")[4 * i : 4 * i + 4].tolist()},
        )
        for i in range(5)
    ]
    other = images("test", (32, 32, 3)).transpose(0, 3, 1, 2).reshape(10, -1)
    test = [write("test_batch", {"data": other, "labels": labels("test").tolist()})]
    name, digest = write("batches.meta", {"label_names": [f"class {k}" for k in range(10)]})
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    return folder / "data_batch_3", x


def write_stl10(root, monkeypatch):
    folder = root / "stl10_binary"
    folder.mkdir()
    lists = {}
    for part in ("train", "test"):
        x = images(part, (96, 96, 3))
        (folder / f"{part}_X.bin").write_bytes(x.transpose(0, 3, 2, 1).tobytes())  # columns first
        (folder / f"{part}_y.bin").write_bytes((labels(part) + 1).astype(np.uint8).tobytes())
        lists[part] = [[name, md5(folder / name)] for name in (f"{part}_X.bin", f"{part}_y.bin")]
    (folder / "class_names.txt").write_text("\n".join(f"class {k}" for k in range(10)) + "\n")
    monkeypatch.setattr(torchvision.datasets.STL10, "train_list", lists["train"])
    monkeypatch.setattr(torchvision.datasets.STL10, "test_list", lists["test"])
    return folder / "train_X.bin", images("train", (96, 96, 3))


WRITERS = {
    "mnist": lambda root, _: write_idx(root, "MNIST"),
    "fashion-mnist": lambda root, _: write_idx(root, "FashionMNIST"),
    "svhn": write_svhn,
    "cifar10": write_cifar10,
    "stl10": write_stl10,
}


@pytest.mark.parametrize("name", WRITERS)
def test_reads_the_genuine_format(name, root, monkeypatch):
    _, x = WRITERS[name](root, monkeypatch)
    bundle = load_data(name)
    np.testing.assert_array_equal(bundle.train.images, x)
    assert bundle.train.labels.tolist() == labels("train").tolist()
    assert bundle.test.labels.tolist() == labels("test").tolist()
    assert len(bundle.class_names) == 10
    size = 96 if name == "stl10" else 32
    tensor, label = bundle.train[3]
    assert tuple(tensor.shape) == (3, size, size)
    assert label == 3
    other, _ = load_data(name, Preprocessing.square(16)).train[0]
    assert tuple(other.shape) == (3, 16, 16)


@pytest.mark.parametrize("name", WRITERS)
def test_normalises_by_the_training_sets_own_statistics_and_keeps_them(name, root, monkeypatch):
    _, x = WRITERS[name](root, monkeypatch)
    p = load_data(name).preprocessing
    flat = x.reshape(-1, x.shape[3] if x.ndim == 4 else 1) / 255
    np.testing.assert_allclose(p.mean, np.broadcast_to(flat.mean(0), 3))
    np.testing.assert_allclose(p.std, np.broadcast_to(flat.std(0), 3))
    kept = json.loads((root / "statistics.json").read_text())
    kept[name]["mean"] = [0.25] * 3
    (root / "statistics.json").write_text(json.dumps(kept))
    assert load_data(name).preprocessing.mean == (0.25,) * 3
    kept[name]["key"] = "of other images"
    (root / "statistics.json").write_text(json.dumps(kept))
    np.testing.assert_allclose(load_data(name).preprocessing.mean, p.mean)


@pytest.mark.parametrize("name", WRITERS)
def test_a_broken_file_is_told(name, root, monkeypatch):
    path, _ = WRITERS[name](root, monkeypatch)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LookalikeError, match=f"{name}.*(damaged|original files)"):
        load_data(name)


@pytest.mark.parametrize("name", WRITERS)
def test_without_files_and_network_it_says_what_to_put_where(name, root):
    with pytest.raises(LookalikeError, match=f"{name!r} is not in .* could not be downloaded .* put .* there") as told:
        load_data(name)
    assert "\n" not in str(told.value)
    assert str(root) in str(told.value)


def test_statistics_of_many_images_equal_numpy():
    x = np.random.default_rng(0).integers(0, 256, (2500, 4, 5, 3), dtype=np.uint8)
    mean, std = channel_statistics(x)
    np.testing.assert_allclose(mean, (x / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(std, (x / 255).std((0, 1, 2)))


def test_they_are_listed():
    assert set(WRITERS) < set(DATASETS)
