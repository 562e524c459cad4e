"""QuickDraw, CelebA and CUB-200 from tiny files in their genuine formats, and from broken ones."""

import hashlib

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from lookalike._core.errors import LookalikeError
from lookalike.data import load_data
from lookalike.data.quickdraw import CLASSES


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))

    def offline(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    return tmp_path


@pytest.fixture
def sketches(root):
    folder = root / "quickdraw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        x = rng.integers(0, 20, (30, 784), dtype=np.uint8)
        x[:, label] = 255
        np.save(folder / f"{name}.npy", x)
    return folder


def test_quickdraw_splits_each_class_once_and_for_all(sketches):
    bundle = load_data("quickdraw")
    assert np.bincount(bundle.train.labels).tolist() == [24] * 10
    assert np.bincount(bundle.test.labels).tolist() == [6] * 10
    for part in (bundle.train, bundle.test):
        assert part.images.reshape(len(part), -1).argmax(1).tolist() == part.labels.tolist()
    assert tuple(bundle.train[0][0].shape) == (3, 32, 32)
    assert load_data("quickdraw").train.fingerprint() == bundle.train.fingerprint()
    flat = bundle.train.images / 255
    np.testing.assert_allclose(bundle.preprocessing.mean, [flat.mean()] * 3)


def test_quickdraw_takes_no_more_than_a_thousand(sketches, monkeypatch):
    monkeypatch.setattr("lookalike.data.quickdraw.PER_CLASS", 10)
    assert len(load_data("quickdraw").train) == 80


def test_broken_sketches_are_told(sketches):
    path = sketches / "cow.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    with pytest.raises(LookalikeError, match=r"cow\.npy' is damaged"):
        load_data("quickdraw")
    np.save(path, np.zeros((4, 9)))
    with pytest.raises(LookalikeError, match="not sketches uint8"):
        load_data("quickdraw")
    path.unlink()
    with pytest.raises(LookalikeError, match=r"has no 'cow' .* could not be downloaded .*ant\.npy"):
        load_data("quickdraw")


@pytest.fixture
def faces(root, monkeypatch):
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, 9)]
    for i, name in enumerate(names):
        Image.new("RGB", (178, 218), (20 * i, 90, 200)).save(folder / "img_align_celeba" / name)
    attributes = ["5_o_Clock_Shadow", "Eyeglasses", "Male", "Young"]
    rows = [[1 if (i >> a) & 1 else -1 for a in range(4)] for i in range(8)]
    lines = [str(len(names)), " ".join(attributes)]
    lines += [f"{name} " + " ".join(map(str, row)) for name, row in zip(names, rows, strict=True)]
    lists = {
        "list_attr_celeba.txt": "\n".join(lines) + "\n",
        "list_eval_partition.txt": "".join(f"{n} {0 if i < 5 else 2}\n" for i, n in enumerate(names)),
        "identity_CelebA.txt": "".join(f"{n} {i}\n" for i, n in enumerate(names)),
        "list_bbox_celeba.txt": "8\nimage_id x_1 y_1 width height\n" + "".join(f"{n} 1 2 3 4\n" for n in names),
        "list_landmarks_align_celeba.txt": "8\n" + " ".join("abcdefghij") + "\n"
        + "".join(f"{n} " + " ".join("0123456789") + "\n" for n in names),
    }  # fmt: skip
    known = [("", "", "img_align_celeba.zip")]
    for name, text in lists.items():
        (folder / name).write_text(text)
        known.append(("", hashlib.md5(text.encode()).hexdigest(), name))
    monkeypatch.setattr(torchvision.datasets.CelebA, "file_list", known)
    return folder


def test_celeba_with_its_attributes(faces):
    bundle = load_data("celeba")
    assert (len(bundle.train), len(bundle.test)) == (5, 3)
    assert bundle.class_names == ["female", "male"]
    assert bundle.train.labels.tolist() == [0, 0, 0, 0, 1]
    assert bundle.attributes.names == ["5_o_Clock_Shadow", "Eyeglasses", "Male", "Young"]
    assert bundle.attributes.train.tolist()[3] == [1, 1, 0, 0]
    assert bundle.attributes.test.shape == (3, 4)
    x, y = bundle.test[0]
    assert tuple(x.shape) == (3, 224, 224)
    assert y == 1
    assert bundle.test.describe(0).endswith("000006.jpg")


def test_altered_or_missing_faces_are_told(faces, root):
    (faces / "list_attr_celeba.txt").write_text("nonsense")
    with pytest.raises(LookalikeError, match=r"'celeba' is not in .*original files.* put img_align_celeba"):
        load_data("celeba")


@pytest.fixture
def birds(root):
    folder = root / "CUB_200_2011"
    paths = ["001.Black_footed_Albatross/a.jpg", "001.Black_footed_Albatross/b.jpg", "002.Laysan_Albatross/c.jpg"]
    for path in paths:
        (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (50, 40), (200, 30, 60))
        picture.paste((100, 230, 160), (0, 0, 25, 40))
        picture.save(folder / "images" / path, quality=100, subsampling=0)
    (folder / "images.txt").write_text("".join(f"{i + 1} {p}\n" for i, p in enumerate(paths)))
    (folder / "image_class_labels.txt").write_text("1 1\n2 1\n3 2\n")
    (folder / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n")
    (folder / "classes.txt").write_text("1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    return folder


def test_birds_by_their_official_lists(birds):
    bundle = load_data("cub200")
    assert bundle.class_names == ["Black_footed_Albatross", "Laysan_Albatross"]
    assert bundle.train.labels.tolist() == [0, 1]
    assert bundle.test.labels.tolist() == [0]
    assert bundle.test.describe(0).endswith("b.jpg")
    assert tuple(bundle.train[0][0].shape) == (3, 224, 224)
    np.testing.assert_allclose(bundle.preprocessing.mean, np.array([150, 130, 110]) / 255, atol=0.02)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("images.txt", "1\n", r"images\.txt' is damaged"),
        ("image_class_labels.txt", "1 1\n2 one\n3 2\n", r"image_class_labels\.txt' is damaged"),
        ("image_class_labels.txt", "1 1\n2 1\n3 9\n", r"a class is not in classes\.txt"),
        ("train_test_split.txt", "1 1\n3 1\n", "it has no line for image 2"),
        ("classes.txt", "", "it is empty"),
    ],
)
def test_broken_lists_of_birds_are_told(birds, file, text, message):
    (birds / file).write_text(text)
    with pytest.raises(LookalikeError, match=message):
        load_data("cub200")


def test_missing_birds_are_told(root):
    with pytest.raises(LookalikeError, match=r"must be fetched by hand: unpack CUB_200_2011\.tgz"):
        load_data("cub200")
