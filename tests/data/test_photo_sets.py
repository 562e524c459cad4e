"""torchvision's photo sets, read from tiny files in their genuine formats, and from broken ones."""

import hashlib
import json

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image
from scipy.io import savemat

from lookalike._core.errors import LookalikeError
from lookalike.data import HasMasks, Preprocessing, load_data

SMALL = Preprocessing.square(16)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))

    def offline(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    return tmp_path


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (value, 90, 200)).save(path)


def write_flowers(root, monkeypatch):
    folder = root / "flowers-102"
    for i in range(1, 9):
        picture(folder / "jpg" / f"image_{i:05d}.jpg", 20 * i)
    savemat(folder / "imagelabels.mat", {"labels": np.array([1, 1, 5, 102, 5, 1, 2, 2])})
    savemat(folder / "setid.mat", {"trnid": [1, 3, 7], "valid": [2], "tstid": [4, 5, 6, 8]})
    files = {key: (name, hashlib.md5((folder / name).read_bytes()).hexdigest())
             for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))}  # fmt: skip
    known = torchvision.datasets.Flowers102._file_dict
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_file_dict", known | files)
    return [0, 4, 1], [101, 4, 0, 1], 102, folder / "setid.mat"


def write_pets(root, _monkeypatch):
    folder = root / "oxford-iiit-pet"
    lists = {"trainval": [("Abyssinian_1", 1), ("beagle_1", 2)], "test": [("Abyssinian_2", 1)]}
    for part, pets in lists.items():
        for name, _ in pets:
            picture(folder / "images" / f"{name}.jpg")
            trimap = np.full((16, 20), 2, dtype=np.uint8)
            trimap[:8, 2:18], trimap[8, 2:18] = 1, 3
            (folder / "annotations" / "trimaps").mkdir(parents=True, exist_ok=True)
            Image.fromarray(trimap).save(folder / "annotations" / "trimaps" / f"{name}.png")
        (folder / "annotations" / f"{part}.txt").write_text("".join(f"{n} {y} 1 1\n" for n, y in pets))
    return [0, 1], [0], 2, folder / "annotations" / "trainval.txt"


def write_food(root, _monkeypatch):
    folder = root / "food-101"
    lists = {"train": {"pizza": ["pizza/1", "pizza/2"], "apple_pie": ["apple_pie/3"]}, "test": {"pizza": ["pizza/4"],
             "apple_pie": ["apple_pie/5"]}}  # fmt: skip
    for part, files in lists.items():
        for name in (name for names in files.values() for name in names):
            picture(folder / "images" / f"{name}.jpg")
        (folder / "meta").mkdir(exist_ok=True)
        (folder / "meta" / f"{part}.json").write_text(json.dumps(files))
    return [1, 1, 0], [1, 0], 2, folder / "meta" / "train.json"


def write_imagenette(root, _monkeypatch):
    for part, wnids in (("train", ["n01440764", "n02102040", "n02102040"]), ("val", ["n01440764", "n02102040"])):
        for i, wnid in enumerate(wnids):
            picture(root / "imagenette2-320" / part / wnid / f"{wnid}_{i}.JPEG")
    return [0, 1, 1], [0, 1], 2, None


def write_eurosat(root, _monkeypatch):
    for name in ("Forest", "River"):
        for i in range(10):
            picture(root / "eurosat" / "2750" / name / f"{name}_{i}.jpg", i)
    return [0] * 8 + [1] * 8, [0, 0, 1, 1], 2, None


WRITERS = {"flowers102": write_flowers, "oxford-pets": write_pets, "food101": write_food,
           "imagenette": write_imagenette, "eurosat": write_eurosat}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_official_splits(name, root, monkeypatch):
    train, test, n_classes, list_file = WRITERS[name](root, monkeypatch)
    bundle = load_data(name, SMALL)
    assert bundle.train.labels.tolist() == train
    assert bundle.test.labels.tolist() == test
    assert len(set(bundle.class_names)) == n_classes
    assert tuple(bundle.test[0][0].shape) == (3, 16, 16)
    assert bundle.fingerprint() == load_data(name, SMALL).fingerprint()
    assert isinstance(bundle.train, HasMasks) == (name == "oxford-pets")
    if list_file is not None:
        list_file.write_bytes(b"nonsense")
        with pytest.raises(LookalikeError, match=f"'{name}' in .* are damaged|'{name}' is not in .*original files"):
            load_data(name, SMALL)


@pytest.mark.parametrize("name", [*WRITERS, "pcam"])
def test_missing_files_and_no_network_are_told(name, root):
    if name == "pcam":
        pytest.importorskip("h5py")
    with pytest.raises(LookalikeError, match=f"'{name}' is not in .*could not be downloaded .*; put "):
        load_data(name)


def test_a_pets_mask_is_the_pet_with_its_outline(root, monkeypatch):
    write_pets(root, monkeypatch)
    mask = load_data("oxford-pets", SMALL).train.mask(1)
    assert mask[:9].all()  # the crop has columns 2 to 18
    assert not mask[9:].any()


def test_tissue_from_its_hdf5_files(root):
    h5py = pytest.importorskip("h5py")
    folder = root / "pcam"
    folder.mkdir()
    for part, labels in (("train", [0, 1, 1]), ("test", [1, 0])):
        files = torchvision.datasets.PCAM._FILES[part]
        with h5py.File(folder / files["images"][0], "w") as images:
            images["x"] = np.full((len(labels), 96, 96, 3), 120, dtype=np.uint8)
        with h5py.File(folder / files["targets"][0], "w") as targets:
            targets["y"] = np.array(labels, dtype=np.uint8).reshape(-1, 1, 1, 1)
    bundle = load_data("pcam")
    assert (bundle.train.labels.tolist(), bundle.test.labels.tolist()) == ([0, 1, 1], [1, 0])
    assert tuple(bundle.train[2][0].shape) == (3, 96, 96)
    assert bundle.train[2][1] == 1
    assert bundle.fingerprint() == load_data("pcam").fingerprint()
