"""An evaluation says so when its data are not what they are taken for."""

import pytest
import torch
from torch.utils.data import TensorDataset

from lookalike import evaluate
from lookalike.conversion.convert import convert

ONLY = {"only": ("faithfulness", "transparency"), "progress": False}


@pytest.fixture
def parts(blobs):
    x, y = blobs
    return (x[:60], y[:60]), (x[60:], y[60:])


@pytest.fixture
def sem(net, parts):
    return convert(net, parts[0], n_prototypes=2, progress=False)


def test_other_training_data_are_told(sem, parts):
    (x, y), test = parts
    card = evaluate(sem, test, train=(x + 0.5, y), **ONLY)
    assert card.info["data_check"]["training_data"] == "other"
    assert card.verdict()[0].startswith("The training data given are not those that the model was made from")


def test_the_same_data_in_another_container_are_the_same(sem, parts):
    train, test = parts
    card = evaluate(sem, test, train=TensorDataset(*train), **ONLY)
    assert card.info["data_check"] == {
        "training_data": "same",
        "n_leaked": 0,
        "n_test": 30,
        "is_calibration": False,
    }
    assert not any("made from" in sentence for sentence in card.verdict())


def test_testing_on_the_training_data_is_told_first(sem, parts):
    card = evaluate(sem, parts[0], train=parts[0], **ONLY)
    assert card.verdict()[0].startswith("60 of 60 test images are training images of the model")
    assert card.info["data_check"]["n_leaked"] == 60


def test_without_training_data_ghosting_is_that_of_the_conversion(sem, parts):
    train, test = parts
    stored, counted = evaluate(sem, test, **ONLY), evaluate(sem, test, train=train, **ONLY)
    assert stored["ghosting"] == counted["ghosting"]
    stored_counts, counts = (card.details["transparency"][0]["activations"] for card in (stored, counted))
    assert stored_counts == counts
    assert torch.equal(torch.tensor(stored_counts), sem.prototypes.counts)


def test_a_saved_model_remembers_its_files(image_folder, tmp_path):
    from lookalike.data import Preprocessing, load_data
    from lookalike.encoder import load_classifier
    from lookalike.model import load

    loaded = load_classifier("lookalike:small-cnn", model_args={"n_classes": 3, "channels": 3})
    bundle = load_data(image_folder, Preprocessing.square(16))
    sem = convert(loaded, bundle, n_prototypes=2, progress=False)
    sem.save(tmp_path / "m")
    again = load(tmp_path / "m").training_record
    assert again.keys.tolist() == sorted(bundle.train.content_keys())
    assert again.split.by == "parts"
    assert again.fingerprint == sem.provenance["fingerprints"]["data"]


def test_other_pictures_under_the_same_names_and_sizes_are_others(image_folder):
    from PIL import Image

    from lookalike.data import Preprocessing, load_data
    from lookalike.networks import NETWORKS

    for file in sorted(image_folder.rglob("*.png")):
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    sem = convert(
        NETWORKS["small-cnn"](n_classes=3),
        load_data(image_folder, Preprocessing.square(16)),
        n_prototypes=2,
        progress=False,
    )
    for file in (image_folder / "train").rglob("*.bmp"):
        Image.open(file).point(lambda value: 255 - value).save(file)
    other = load_data(image_folder, Preprocessing.square(16))
    assert evaluate(sem, other, **ONLY).info["data_check"]["training_data"] == "other"
    assert evaluate(sem, other.train, **ONLY).info["data_check"]["n_leaked"] == 0


def test_the_same_pictures_under_other_names_are_the_same(image_folder):
    """Names change the order and the fingerprint of files; the contents decide."""
    from lookalike.data import Preprocessing, load_data
    from lookalike.networks import NETWORKS

    data = load_data(image_folder, Preprocessing.square(16))
    sem = convert(NETWORKS["small-cnn"](n_classes=3), data, n_prototypes=2, progress=False)
    for folder in (image_folder / "train").iterdir():
        for number, file in enumerate(sorted(folder.iterdir(), reverse=True)):
            file.rename(folder / f"again-{number}.png")
    again = load_data(image_folder, Preprocessing.square(16))
    assert evaluate(sem, again, **ONLY).info["data_check"]["training_data"] == "same"
