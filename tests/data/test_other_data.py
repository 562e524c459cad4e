"""Data that come otherwise than usual: right, or refused in one line."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision import transforms
from torchvision.datasets import ImageFolder

from lookalike import LookalikeError, convert
from lookalike.data import Batches, Preprocessing, load_data, with_corrections
from lookalike.data.copies import copies_sentence
from lookalike.data.folders import ImageFiles
from lookalike.data.statistics import saved_statistics
from lookalike.data.training import load_training_data
from lookalike.data.transparency import warn_of_transparency

X, Y = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2


class Named(Dataset):
    classes, class_to_idx = ("dog", "cat"), {"dog": 1, "cat": 0}

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return X[index], int(Y[index])


@pytest.mark.parametrize("batch_size", [4, None])
def test_names_of_classes_pass_through_a_loader(batch_size):
    loader = DataLoader(Named(), batch_size=batch_size, collate_fn=None if batch_size else lambda sample: sample)
    assert Batches(loader).class_names == ["cat", "dog"]


@pytest.mark.parametrize("batch_size", [4, None])
def test_a_loaders_own_generator_is_left_as_it_was(batch_size):
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    sampler = SubsetRandomSampler(range(9), generator=generator)
    assert len(Batches(DataLoader(TensorDataset(X, Y), batch_size=batch_size, sampler=sampler))) == 9
    assert torch.equal(generator.get_state(), before)
    weighted = WeightedRandomSampler([1.0] * 12, 12)
    assert len(Batches(DataLoader(TensorDataset(X, Y), batch_size=batch_size, sampler=weighted))) == 12


def test_a_very_long_image_has_the_values_of_any_other():
    preprocessing = Preprocessing(32, (32, 32), convention="transformers-float", mean=(0.0,) * 3, std=(1.0,) * 3)
    pictures = [Image.new("RGB", size, "white") for size in ((600_000, 10), (64, 64))]
    fitted = [preprocessing.fit_picture(picture) for picture in pictures]
    assert {image.dtype for image in fitted} == {torch.float32}
    assert [float(preprocessing(picture).max()) for picture in pictures] == [1.0, 1.0]


@pytest.mark.parametrize("size", [(448, 640), 224, (640, 448), (112, 160)])
@pytest.mark.parametrize("picture", [(400, 300), (300, 400), (900, 300)])
def test_another_size_puts_no_border_around_images(size, picture):
    preprocessing = Preprocessing(256, (224, 256), mean=(0.0,) * 3, std=(1.0,) * 3).with_size(size)
    image = preprocessing(Image.new("RGB", picture, "white"))
    assert tuple(image.shape[1:]) == (size if isinstance(size, tuple) else (size, size))
    assert image.min() == 1


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


BYTES = (X * 255).byte()


def test_samples_of_bytes_with_more_than_a_label_are_read_as_those_of_floats():
    for make in (lambda k: (BYTES[k], int(Y[k]), k), lambda k: (BYTES[k], nn.functional.one_hot(Y[k], 2))):
        (batch,) = Batches(Items([make(k) for k in range(12)]), 12)
        assert batch.labels.tolist() == Y.tolist()
        assert torch.equal(batch.inputs, BYTES)
    for bad in (None, 7, Image.new("RGB", (8, 8))):
        with pytest.raises(LookalikeError, match=r"sample 1 is a .*, not a pair|sample 0 is a"):
            list(Batches(Items([(BYTES[0], 0), bad]), 2))


def test_lists_of_tensors_big_endian_arrays_and_tables_of_pandas():
    (batch,) = Batches((list(X), Y.tolist()), 12)
    assert torch.equal(batch.inputs, X)
    with pytest.raises(LookalikeError, match="a list of arrays that differ in shape"):
        Batches(([X[0], X[0][:, :4]], [0, 1]))
    (batch,) = Batches((X.numpy().astype(">f4"), Y.numpy().astype(">i8")), 12)
    assert torch.equal(torch.as_tensor(batch.inputs), X)
    pandas = pytest.importorskip("pandas")
    with pytest.raises(LookalikeError, match="cannot read samples from a DataFrame"):
        Batches(pandas.DataFrame({"x": [1, 2], "y": [0, 1]}))


def test_the_length_of_a_stream_of_batches_is_no_number_of_samples():
    class Stream(IterableDataset):
        def __init__(self, items):
            self.items = items

        def __iter__(self):
            return iter(self.items)

        def __len__(self):
            return len(self.items)

    batches = Batches(Stream([(X[k : k + 4], Y[k : k + 4]) for k in (0, 4, 8)]))
    before = batches.fingerprint()
    assert sum(len(batch.labels) for batch in batches) == 12
    assert batches.total is None
    assert batches.fingerprint() == before
    assert Batches(Stream([(X[k], int(Y[k])) for k in range(12)])).total == 12


@pytest.fixture
def colours(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / "colours" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (16, 16 + k), colour).save(tmp_path / "colours" / name / f"{k}.png")
    return tmp_path / "colours"


def test_one_number_of_a_normalisation_stands_for_all_channels(colours):
    steps = [transforms.Resize((8, 8)), transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
    transform = transforms.Compose(steps)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 2))
    model = convert(net, ImageFolder(colours, transform), n_prototypes=1, preprocessing=transform, progress=False)
    assert model.preprocessing.channels == 3
    assert model.predict(str(colours / "a" / "0.png")).shape == (1,)


def test_stamps_of_any_size_are_square(monkeypatch):
    class Bundle:
        preprocessing = Preprocessing((224, 224), (224, 224), fit="contain", fill=(255,))

        def with_preprocessing(self, preprocessing):
            return replace(preprocessing)

    monkeypatch.setattr("lookalike.data.training.is_dataset", lambda source: True)
    monkeypatch.setattr(
        "lookalike.data.training.DATASETS", {"stamps": type("D", (), {"load": lambda self, _: Bundle()})()}
    )
    made = load_training_data("stamps", 64)
    assert made(Image.new("RGB", (300, 200))).shape == (3, 64, 64)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="there is no folder that takes no files")
def test_statistics_are_computed_where_they_cannot_be_saved():
    assert saved_statistics(Path("/proc"), "x", np.zeros((4, 8, 8, 3), np.uint8))[0] == (0.0, 0.0, 0.0)


def table(root, text, name="labels.csv"):
    (root.parent / name).write_text(text, encoding="utf-8")
    return str(root.parent / name)


PLAIN = Preprocessing.square(8, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize("start", ["", "/data/elsewhere/cases/", "cases/", "../"])
def test_files_of_one_name_in_many_folders_are_found_by_their_folder(tmp_path, start):
    root, rows = tmp_path / "cases", ["file_name,label"]
    for k in range(40):
        (root / f"patient_{k}").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / f"patient_{k}" / "image.png")
        rows.append(
            f"{start if start != '../' else ''}patient_{k}/image{'' if start == '../' else '.png'},{'ab'[k % 2]}"
        )
    bundle = load_data(root, PLAIN, labels=table(root, "\n".join(rows)))
    assert len(bundle.train) + len(bundle.test) == 40


@pytest.mark.skipif(os.sep != "/", reason="a backslash divides folders")
def test_a_file_with_a_backslash_in_its_name_can_be_read(colours):
    (colours / "a" / "0.png").rename(colours / "a" / "x\\0.png")
    rows = "\n".join(f"{file.relative_to(colours).as_posix()},{file.parent.name}" for file in colours.rglob("*.png"))
    bundle = load_data(colours, PLAIN, labels=table(colours, f"file_name,label\n{rows}"))
    assert all(image.shape == (3, 8, 8) for part in (bundle.train, bundle.test) for image, _ in part)


def test_tables_that_contradict_themselves_are_refused(colours):
    files = [f"{name}/{k}.png" for name in "ab" for k in range(3)]
    text = "file_name,label,label\n" + "\n".join(f"{file},{file[0]},{'ab'[k % 2]}" for k, file in enumerate(files))
    with pytest.raises(LookalikeError, match="has two columns 'label' that differ: rename one"):
        load_data(colours, PLAIN, labels=table(colours, text))
    entries = ", ".join(f'"{file}": "{file[0]}"' for file in files)
    with pytest.raises(LookalikeError, match=r"gives 'a/0\.png' as 'a' and as 'b'"):
        load_data(colours, PLAIN, labels=table(colours, f'{{{entries}, "a/0.png": "b"}}', "labels.json"))
    records = [{"file_name": f, "label": f[0], "note": "\u2028", "age": float("nan")} for f in files]
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    bundle = load_data(colours, PLAIN, labels=table(colours, lines, "labels.jsonl"))
    assert len(bundle.train) + len(bundle.test) == 6
    (colours / "train").mkdir()
    (colours / "train" / "metadata.csv").write_text("file_name,label\nz.png,a\n")
    Image.new("RGB", (8, 8)).save(colours / "train" / "z.png")
    (colours / "metadata.csv").write_text("file_name,label\n" + "\n".join(f"{file},{file[0]}" for file in files))
    with pytest.raises(LookalikeError, match=r"gives 'a/0.png' no part \(train, test\), and 'train/z.png' has one"):
        load_data(colours, PLAIN)


def test_corrections_that_cannot_be_read_are_told_in_one_line(colours, tmp_path):
    bundle, head = load_data(colours, PLAIN), "sample,file_name,label,corrected\n"
    with pytest.raises(LookalikeError, match=r"corrected labels '.*none\.csv' does not exist"):
        with_corrections(bundle, tmp_path / "none.csv")
    with pytest.raises(LookalikeError, match="cannot be read"):
        with_corrections(bundle, tmp_path)
    for row in (f"{'9' * 5000},,a,b", f"0,{'x' * 200_000},a,b"):
        (tmp_path / "c.csv").write_text(head + row)
        with pytest.raises(LookalikeError, match="line 2"):
            with_corrections(bundle, tmp_path / "c.csv")


def test_files_outside_of_their_folder_are_refused(colours):
    with pytest.raises(LookalikeError, match="does not lie in"):
        ImageFiles(colours / "a", [colours / "b" / "0.png"], [0], ["a"], PLAIN).fingerprint()


def test_copies_in_other_classes_are_counted_by_image(tmp_path):
    files = []
    for k in range(4):
        (tmp_path / str(k)).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / str(k) / "x.png")
        files.append(tmp_path / str(k) / "x.png")
    data = ImageFiles(tmp_path, files, [0, 1, 2, 3], list("abcd"), PLAIN)
    assert "3 training images are exact copies of others, 3 of another class" in copies_sentence(data)


def test_the_share_of_transparent_images_is_that_of_the_images_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("lookalike.data.transparency._MAX_DECODED", 20)
    files = []
    for k in range(50):
        mode, colour = ("RGBA", (255, 0, 0, 0)) if k < 40 else ("RGB", "red")
        Image.new(mode, (8, 8), colour).save(tmp_path / f"{k}.png")
        files.append(tmp_path / f"{k}.png")
    with pytest.warns(UserWarning, match=r"20 of 25 training images \(of 50\)"):
        warn_of_transparency(ImageFiles(tmp_path, files, [0] * 50, ["a"], PLAIN), "training")
