import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision.datasets import ImageFolder

from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike.data import Batches, Preprocessing, load_data

X = torch.arange(20.0).reshape(10, 2)
Y = torch.arange(10) % 3


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y.tolist(), strict=True))


class Dicts(Dataset):
    classes = ("a", "b", "c")

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"pixel_values": X[index], "label": int(Y[index])}


def collate(items):
    return {"pixel_values": torch.stack([i["pixel_values"] for i in items]), "labels": [i["label"] for i in items]}


KINDS = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "dataset": lambda: TensorDataset(X, Y),
    "list of pairs": lambda: [(x, int(y)) for x, y in zip(X, Y, strict=True)],
    "mappings": Dicts,
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=4),
    "shuffled loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True, drop_last=True),
    "loader with its own collation": lambda: DataLoader(Dicts(), batch_size=4, collate_fn=collate),
    "stream": Stream,
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=4),
    "workers": lambda: DataLoader(TensorDataset(X, Y), batch_size=4, num_workers=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_the_same_rows_in_order(kind):
    batches = Batches(KINDS[kind](), batch_size=4)
    parts = list(batches)
    assert [len(part.labels) for part in parts] == [4, 4, 2]
    torch.testing.assert_close(torch.cat([part.inputs for part in parts]), X)
    assert np.concatenate([part.labels for part in parts]).tolist() == Y.tolist()
    assert np.concatenate([part.indices for part in parts]).tolist() == list(range(10))
    if batches.can_fetch:
        torch.testing.assert_close(batches.fetch([7, 2]), X[[7, 2]])


def test_a_loaders_subset_stays_a_subset():
    loader = DataLoader(TensorDataset(X, Y), sampler=SubsetRandomSampler([8, 1, 5]), batch_size=2)
    assert np.concatenate([part.indices for part in Batches(loader)]).tolist() == [1, 5, 8]
    weighted = WeightedRandomSampler([0.1, 5, 1, 1, 1, 1, 1, 1, 1, 1], 6)
    for loader in (
        DataLoader(TensorDataset(X, Y), sampler=weighted, batch_size=2),
        DataLoader(TensorDataset(X, Y), batch_size=None),
    ):
        assert len(Batches(loader)) == 10  # chance does not decide what a prototype stands for
    loader = DataLoader(TensorDataset(X, Y), batch_sampler=[[3, 4], [9]])
    assert np.concatenate([part.indices for part in Batches(loader)]).tolist() == [3, 4, 9]


@pytest.mark.parametrize("batch_size", [2, None])
def test_samples_without_weight_are_left_out(batch_size):
    weighted = WeightedRandomSampler([0.0, 0, 1, 0.5, 0, 0, 0, 2, 0, 0], 20)
    loader = DataLoader(TensorDataset(X, Y), sampler=weighted, batch_size=batch_size)
    assert np.concatenate([part.indices for part in Batches(loader, 4)]).tolist() == [2, 3, 7]


def test_class_names_come_from_the_data():
    assert Batches(Subset(Dicts(), [1, 2])).class_names == ["a", "b", "c"]
    for labels in (["dog", "cat"] * 5, np.array(["dog", "cat"] * 5, dtype=object)):
        assert Batches((X, labels)).class_names == ["cat", "dog"]
    assert Batches((X, Y.tolist())).class_names is None
    named = Batches((X, np.array(["dog", "cat"] * 5)))
    assert named.class_names == ["cat", "dog"]
    assert next(iter(named)).labels[:2].tolist() == [1, 0]


def test_broken_images_stop_or_are_skipped_and_listed(image_folder):
    broken = image_folder / "train" / "bee" / "03.png"
    broken.write_text("no")
    train = load_data(image_folder, Preprocessing.square(8)).train
    with pytest.raises(BrokenImageError, match=r"03\.png"):
        list(Batches(train))
    for workers in (0, 1):
        batches = Batches(train, 5, workers, on_error="skip")
        indices = np.concatenate([part.indices for part in batches])
        assert sorted(set(range(24)) - set(indices.tolist())) == list(batches.skipped) == [11]
        assert str(broken) in batches.skipped[11]
    assert batches.describe(11) == str(broken)
    assert Batches(Subset(train, [3, 11])).describe(1) == str(broken)


def test_augmented_data_are_noticed():
    class Noisy(TensorDataset):
        def __getitem__(self, index):
            return torch.rand(3), 0

    assert Batches(Noisy(X)).is_random()
    assert not Batches(TensorDataset(X, Y)).is_random()

    class Flipped(TensorDataset):
        def __getitem__(self, index):
            return (X[index].flip(0) if torch.rand(1) < 0.5 else X[index]), 0

    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert sum(Batches(Flipped(X)).is_random() for _ in range(50)) >= 49
    assert torch.rand(1) == expected


def test_broken_files_of_other_data_sets_are_named_and_skipped_too(image_folder):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2.functional import pil_to_tensor

    (image_folder / "train" / "bee" / "03.png").write_text("no")
    folder = ImageFolder(image_folder / "train", transform=pil_to_tensor)
    with pytest.raises(BrokenImageError, match=r"bee/03\.png"):
        list(Batches(folder))
    batches = Batches(folder, on_error="skip")
    assert sum(len(part.labels) for part in batches) == 23
    assert "bee/03.png" in batches.skipped[11]


def test_fingerprints_follow_the_data():
    prints = [
        Batches(data).fingerprint()
        for data in ((X, Y), (X, Y), (X + 1, Y), (X, 2 - Y), TensorDataset(X, Y), TensorDataset(X + 1, Y), Stream())
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 6
    assert Batches(Subset(TensorDataset(X, Y), [1])).fingerprint() != Batches(TensorDataset(X, Y)).fingerprint()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (42, "cannot read samples from a int"),
        ((X, Y[:3]), "x has 10 rows and y has 3"),
        ((X, Y.float() + 0.5), "labels must be whole numbers"),
        ((X, Y - 1), "must not be negative"),
        ([(X[0],), (X[1],)], "not a pair"),
        ([(Image.new("L", (2, 2)), 0)], "give the data set a transform"),
        ([(torch.zeros(2), 0), (torch.zeros(3), 0)], r"samples differ in shape \(\(2,\), \(3,\)\)"),
        ([{"img": X[0], "cls": 1}], "has the keys img, cls"),
    ],
)
def test_wrong_data_are_told(data, message):
    with pytest.raises(LookalikeError, match=message):
        list(Batches(data))
    with pytest.raises(LookalikeError, match="'stop' or 'skip'"):
        Batches((X, Y), on_error="explode")


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_workers_arrive_as_they_are(image_folder, workers):
    broken = image_folder / "train" / "bee" / "03.png"
    broken.write_bytes(broken.read_bytes()[:60])
    ours = load_data(image_folder, Preprocessing.square(8)).train
    theirs = ImageFolder(image_folder / "train", Preprocessing.square(8))  # torchvision's own reader of files
    for data in (ours, theirs, Subset(theirs, list(range(5, 20)))):
        with pytest.raises(BrokenImageError) as caught:
            list(Batches(data, 4, workers))
        assert caught.value.path == str(broken)
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is None or workers == 0 or data is ours  # which are read in threads
        batches = Batches(data, 4, workers, on_error="skip")
        assert sum(len(batch.labels) for batch in batches) == len(data) - 1
        assert [str(broken) in message for message in batches.skipped.values()] == [True]
    with pytest.raises(BrokenImageError) as caught:  # a loader of the user's own
        list(DataLoader(ours, 4, num_workers=workers))
    assert (caught.value.path, str(caught.value).count("\n")) == (str(broken), 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_other_errors_of_workers_keep_their_text(workers):
    class Shapes(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 3:
                raise LookalikeError("first line\nsecond line")
            return torch.zeros(1, 2 + index, 2), 0

    with pytest.raises(LookalikeError, match=r"^samples differ in shape"):
        list(Batches(Shapes(), 2, workers))
    with pytest.raises(LookalikeError, match=r"^first line\nsecond line$"):
        list(Batches(Subset(Shapes(), [3]), 1, workers, on_error="skip"))
    with pytest.raises(LookalikeError, match=r"^first line\nsecond line$"):
        list(DataLoader(Subset(Shapes(), [3]), 1, num_workers=workers))


@pytest.mark.parametrize("path", ["a/b.png", "it's.png", 'a "quoted" name.png', "back\\slash.png"])
def test_a_broken_image_survives_pickling_and_torch(path):
    error = BrokenImageError(path, "it is cut off")
    again = pickle.loads(pickle.dumps(error))
    text = f'Caught BrokenImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  \
File "x.py", line 1, in f\nlookalike.errors.BrokenImageError: {error}\n'
    for one in (again, BrokenImageError(text)):
        assert (one.path, one.reason, str(one)) == (path, "it is cut off", str(error))


def test_a_stream_stops_at_a_broken_image_in_one_line(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:200])

    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(1, 2, 2), 0
            Image.open(path).load()

    with pytest.raises(BrokenImageError, match="of the stream, sample 1 or later"):
        list(Batches(Stream(), 1))
