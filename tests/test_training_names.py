"""File names of training images: kept in the model, shown with its prototypes, left out on request."""

import json

import pytest
import torch
from torch import nn

from lookalike import convert, explain, load
from lookalike._core.errors import LookalikeError
from lookalike._core.names import without_common_folder
from lookalike.data import Preprocessing


@pytest.fixture
def sem(image_folder):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    preprocessing = Preprocessing(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    return convert(net, str(image_folder), n_prototypes=2, preprocessing=preprocessing, progress=False)


def test_names_are_those_of_the_nearest_files(sem, image_folder):
    files = sorted((image_folder / "train").rglob("*.png"))
    for prototype in range(len(sem.prototypes)):
        for index in sem.prototypes.nearest[prototype].tolist():
            if index >= 0:
                assert sem.training_names[index] == str(files[index].relative_to(image_folder / "train"))


def test_they_are_shown_in_explanation_json_and_gallery(sem, image_folder):
    explanation = explain(sem, str(image_folder / "test" / "ant" / "00.png"))[0]
    first = explanation.likenesses[0]
    expected = [sem.training_names[index] for index in first.nearest]
    assert json.loads(json.dumps(explanation.to_dict()))["nearest"][0]["nearest_names"] == expected
    assert f"shown by '{expected[0]}'" in explanation.sentence()
    captions = [text.get_text() for text in sem.plot_gallery().texts]
    assert any(expected[0].rsplit("/")[-1] in caption for caption in captions)


def test_they_are_saved_unless_they_must_not_be(sem, tmp_path):
    encoder = sem.encoder.model
    sem.save(tmp_path / "with")
    sem.save(tmp_path / "without", names=False)
    assert load(tmp_path / "with", model=encoder).training_names == sem.training_names
    assert load(tmp_path / "without", model=encoder).training_names == {}
    assert not [path for path in (tmp_path / "without").rglob("*") if path.is_file() and b"ant/0" in path.read_bytes()]


def test_an_update_keeps_and_adds_names(sem, image_folder):
    updated = sem.update(str(image_folder / "test"))
    shown = {index for index in updated.prototypes.nearest.flatten().tolist() if index >= 0}
    assert set(updated.training_names) == shown
    assert all(updated.training_names[index] == sem.training_names[index] for index in shown & set(sem.training_names))


def test_a_folder_with_invalid_numbers_is_refused(sem, tmp_path):
    from dataclasses import replace

    from lookalike.model.folder import read_saved
    from lookalike.model.record import SavedModel

    sem.save(tmp_path / "m")
    record, _ = read_saved(tmp_path / "m", SavedModel)
    with pytest.raises(LookalikeError, match="training_names has '-1', which is no number"):
        replace(record, training_names={"-1": "x.png"})


def test_data_without_names_give_none(net, blobs):
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    assert sem.training_names == {}
    assert explain(sem, blobs[0][:1])[0].likenesses[0].nearest_names[0] is None


def test_the_common_folder_is_left_out():
    assert without_common_folder(["a/b/x.png", "a/c/y.png"]) == ["b/x.png", "c/y.png"]
    assert without_common_folder(["a/b/x.png", "a/b/y.png"]) == ["b/x.png", "b/y.png"]
    assert without_common_folder(["/a/x.png", "b/y.png"]) == ["/a/x.png", "b/y.png"]
    assert without_common_folder(["sample 1", "sample 2"]) == ["sample 1", "sample 2"]
    assert without_common_folder([]) == []
