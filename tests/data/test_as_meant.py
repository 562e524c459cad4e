"""Data in forms that could be taken for something else are read as they are meant, or refused."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from lookalike import LookalikeError, LookalikeWarning, convert, embed, evaluate, explain
from lookalike.data import Preprocessing, load_folder
from tests.small import bright_images, small_network


def test_a_loaders_own_order_and_repeats_are_kept_where_answers_are_given():
    net, (x, y) = small_network(), bright_images(20)
    sem = convert(net, (x, y), 1, progress=False)
    order = [*range(19, -1, -1), 3]
    loader = DataLoader(TensorDataset(x, y), sampler=order, batch_size=6)
    assert torch.equal(sem.predict(loader), sem.predict(x[order]))
    assert [found.correct for found in explain(sem, loader, labels=y[order])] == (sem.predict(x) == y)[order].tolist()
    at_random = DataLoader(TensorDataset(x, y), sampler=SubsetRandomSampler(range(20)))
    assert torch.equal(sem.predict(at_random), sem.predict(x))  # in the data set's order


def test_masks_and_attributes_go_to_the_images_that_a_loader_draws():
    net, (x, y) = small_network(), bright_images(60)
    kept = list(range(1, 60))
    part, drawn = Subset(TensorDataset(x, y), kept), DataLoader(TensorDataset(x, y), sampler=SubsetRandomSampler(kept))
    attributes = torch.eye(3)[y]
    masks = x[:, 0] > x.flatten(1).mean(1)[:, None, None]
    cards = []
    for data in (part, drawn):
        sem = convert(net, data, 1, progress=False)
        for all_rows in (False, True) if data is drawn else (False,):
            given = {
                "attributes": attributes if all_rows else attributes[kept],
                "masks": masks if all_rows else masks[kept],
            }
            options = {"only": ("attributes", "localisation"), "n_images": 59, "progress": False}
            card = evaluate(sem, data, train=data, **given, **options).to_dict()
            cards.append((card["attribute_correlation_error"], card["pointing_game"], card["relevance_mass"]))
    assert cards[1] == cards[2] == pytest.approx(cards[0])


def test_a_stream_that_can_be_read_once_is_refused():
    class Once(IterableDataset):
        def __init__(self):
            self.samples = iter([(torch.zeros(1, 8, 8), 0)] * 9)

        def __iter__(self):
            return self.samples

    with pytest.raises(LookalikeError, match="has one iterator for all passes"):
        convert(small_network(), Once())


def test_more_than_an_input_and_a_label_is_told():
    net, (x, y) = small_network(), bright_images(30)
    with pytest.warns(
        LookalikeWarning, match="samples have 3 parts; the first is taken as the input and the second as"
    ):
        convert(net, TensorDataset(x, y, torch.arange(30)), 1, progress=False)
    items = [{"pixel_values": image, "extra": image, "labels": int(label)} for image, label in zip(x, y, strict=True)]
    with pytest.warns(LookalikeWarning, match="the network gets 'pixel_values' alone, not 'extra'"):
        convert(net, items, 1, progress=False)


def test_names_and_numbers_are_not_mixed():
    net, (x, y) = small_network(), bright_images(60)

    class Named(TensorDataset):
        def __init__(self, x, y, classes):
            super().__init__(x, y)
            self.classes = classes

    sem, names = convert(net, (x, y), 1, progress=False), ["cat", "dog", "owl"]
    assert sem.update(Named(x, y, names), progress=False).class_names == ["0", "1", "2"]
    with pytest.raises(LookalikeError, match="the model's classes have no names"):
        sem.update(Named(x, y, [*names, "yak"]), progress=False)
    with pytest.raises(LookalikeError, match="a class 'dog', which is none of the model's"):
        evaluate(sem, Named(x[y > 0], y[y > 0] - 1, ["dog", "owl"]), only=("faithfulness",), progress=False)
    with pytest.raises(LookalikeError, match="own names in another order"):
        convert(net, Named(x, y, names), class_names=["owl", "cat", "dog"], progress=False)
    named = convert(net, Named(x, y, names), 1, progress=False)
    for call in (
        lambda data: evaluate(named, data, only=("faithfulness",), progress=False),
        lambda data: named.update(data, progress=False),
    ):
        with pytest.raises(LookalikeError, match=r"a label 2 in the .* data, and there are only 2 class names"):
            call(Named(x, y, names[:2]))


def test_the_first_image_may_be_one_that_cannot_be_read(image_folder):
    (image_folder / "train" / "ant" / "00.png").write_bytes(b"no image")
    prepared = Preprocessing((8, 8), None, (0.5,) * 3, (0.5,) * 3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    options = {"preprocessing": prepared, "progress": False}
    sem = convert(net, str(image_folder), 1, on_error="skip", **options)
    assert sem.provenance["skipped"] == 1
    with pytest.raises(LookalikeError, match=r"00\.png"):
        convert(net, str(image_folder), 1, **options)


def test_the_same_samples_in_another_container_are_not_new(tmp_path):
    net, (x, y) = small_network(), bright_images(90)
    sem = convert(net, (x[:60], y[:60]), 1, progress=False)
    updated = sem.update((x[60:], y[60:]), progress=False)

    def leaked(model, data):
        return evaluate(model, data, only=("faithfulness",), progress=False).info["data_check"]["n_leaked"]

    assert leaked(sem, TensorDataset(x[:60], y[:60])) == 60
    assert leaked(updated, (x[60:], y[60:])) == 30
    assert leaked(sem, TensorDataset(x[30:], y[30:])) == 0
    with pytest.raises(LookalikeError, match="own training images"):
        updated.calibrate((x[60:], y[60:]))


def test_a_table_with_a_column_per_class_may_call_one_like_a_label(tmp_path):
    for i in range(9):
        Image.fromarray(np.full((8, 8, 3), 9 * i, np.uint8)).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{int(i % 3 == 0)},{int(i % 3 == 1)},{int(i % 3 == 2)}" for i in range(9)]
    (tmp_path / "table.csv").write_text("\n".join(["image,cat,y,category", *rows]))
    loaded = load_folder(str(tmp_path), Preprocessing((8, 8), None), labels=str(tmp_path / "table.csv"))
    assert loaded.class_names == ["cat", "category", "y"]


def test_arrays_in_other_forms_are_read_or_refused(tmp_path):
    net, (x, y) = small_network(), bright_images(12)
    sem = convert(net, (x, y), 1, progress=False)
    assert torch.equal(sem.predict(x.numpy().astype(">f4")), sem.predict(x))
    prepared = Preprocessing((8, 8), None, (0.5,), (0.5,))
    pictures = [Image.fromarray(np.full((8, 8), 20 * i, np.uint8)) for i in range(12)]
    by_pictures = convert(net, (x, y), 1, preprocessing=prepared, progress=False)
    assert torch.equal(by_pictures.predict(tuple(pictures)), by_pictures.predict(pictures))
    pictures[3].save(tmp_path / "a.png")
    assert by_pictures.predict(np.array([str(tmp_path / "a.png")])) == by_pictures.predict(pictures[3])
    with pytest.raises(LookalikeError, match="two channels, grey and its transparency"):
        by_pictures.predict(np.zeros((20, 20, 2), np.uint8))


def test_a_stream_that_sets_itself_back_is_refused():
    """A pass that was begun while another was read set that back: a sample was read twice."""

    class Again(IterableDataset):
        def __iter__(self):
            self.position = 0
            return self

        def __next__(self):
            if self.position == 60:
                raise StopIteration
            self.position += 1
            return X60[self.position - 1], int(Y60[self.position - 1])

    with pytest.raises(LookalikeError, match="has one iterator for all passes"):
        convert(small_network(), Again(), 1, progress=False)


X60, Y60 = bright_images(60)


def test_embeddings_of_the_same_samples_in_another_container_are_taken():
    net = small_network()
    sem = convert(net, (X60, Y60), 1, progress=False)
    whole = TensorDataset(X60, Y60)
    store = embed(sem, whole, progress=False)
    options = {"only": ("faithfulness",), "progress": False}
    expected = evaluate(sem, (X60, Y60), **options)["accuracy"]
    assert evaluate(sem, (X60, Y60), test_embeddings=store, **options)["accuracy"] == expected
    part = DataLoader(whole, sampler=SubsetRandomSampler(range(30, 60)))
    assert evaluate(sem, part, test_embeddings=embed(sem, part, progress=False), **options)["accuracy"] >= 0
    with pytest.raises(LookalikeError, match="embeddings are of 60 samples and the data have 30"):
        evaluate(sem, part, test_embeddings=store, **options)
    with pytest.raises(LookalikeError, match="of other data: their labels differ"):
        evaluate(sem, (X60, (Y60 + 1) % 3), test_embeddings=store, **options)


def test_what_a_loaders_own_collate_decides_is_not_told():
    def collate(items):
        return torch.stack([image for _, image, _ in items]), torch.tensor([label for label, _, _ in items])

    items = [(int(label), image, index) for index, (image, label) in enumerate(zip(X60, Y60, strict=True))]
    with warnings.catch_warnings():
        warnings.simplefilter("error", LookalikeWarning)
        convert(small_network(), DataLoader(items, batch_size=20, collate_fn=collate), 1, progress=False)
