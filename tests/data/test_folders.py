import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike.data import DATASETS, Preprocessing, find_images, list_datasets, load_data
from lookalike.data.identity import names_within

SMALL = Preprocessing.square(8)


def test_a_split_is_taken_as_it_is(image_folder):
    bundle = load_data(image_folder, SMALL)
    assert bundle.class_names == ["ant", "bee", "cat"]
    assert (len(bundle.train), len(bundle.test)) == (24, 9)
    x, y = bundle.test[8]
    assert x.shape == (3, 8, 8)
    assert y == 2
    assert bundle.notes == ()


def test_without_a_split_each_class_is_split_by_seed(image_folder):
    flat = image_folder / "train"
    bundle, again, other = (load_data(flat, SMALL, seed=s) for s in (0, 0, 1))
    assert np.bincount(bundle.train.labels).tolist() == [6, 6, 6]
    assert np.bincount(bundle.test.labels).tolist() == [2, 2, 2]
    assert not set(bundle.train.files) & set(bundle.test.files)
    assert bundle.train.files == again.train.files != other.train.files
    assert "split by seed 0" in bundle.notes[0]


def test_a_class_of_one_image_is_for_training(tmp_path):
    for name, number in (("a", 1), ("b", 10)):
        (tmp_path / name).mkdir()
        for i in range(number):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name / f"{i}.png")
    bundle = load_data(tmp_path, SMALL)
    assert np.bincount(bundle.train.labels).tolist() == [1, 8]


def test_deeper_folders_count_and_other_files_do_not(image_folder):
    deep = image_folder / "train" / "ant" / "more"
    deep.mkdir()
    shutil.copy(image_folder / "train" / "ant" / "00.png", deep / "x.PNG")
    (deep / "notes.txt").write_text("hello")
    (deep / ".hidden.png").write_text("hello")
    (deep / ".cache").mkdir()
    shutil.copy(image_folder / "train" / "ant" / "00.png", deep / ".cache" / "y.png")
    assert len(load_data(image_folder, SMALL).train) == 25


def test_a_class_may_be_called_train(image_folder):
    flat = image_folder / "train"
    (flat / "ant").rename(flat / "train")
    assert load_data(flat, SMALL).class_names == ["bee", "cat", "train"]


@pytest.mark.parametrize("root", [".", "/", "a", "/a/b", "a//b/"])
def test_names_within_a_folder_are_those_of_pathlib(root):
    files = [Path(root) / name for name in ("c.jpg", "d/e f.jpg", "d/../é.jpg")]
    assert names_within(Path(root), files) == [file.relative_to(root).as_posix() for file in files]
    with pytest.raises(ValueError, match="does not lie in"):
        names_within(Path("a/b"), [Path("a/bc.jpg")])


def test_fingerprints_change_with_the_files(image_folder):
    before = load_data(image_folder, SMALL).train.fingerprint()
    assert load_data(image_folder, SMALL).train.fingerprint() == before
    (image_folder / "train" / "ant" / "00.png").unlink()
    assert load_data(image_folder, SMALL).train.fingerprint() != before


def test_validation_may_lack_a_class_but_not_have_another(image_folder):
    (image_folder / "test").rename(image_folder / "val")
    shutil.rmtree(image_folder / "val" / "bee")
    assert np.bincount(load_data(image_folder, SMALL).test.labels).tolist() == [3, 0, 3]
    shutil.copytree(image_folder / "val" / "ant", image_folder / "val" / "dog")
    with pytest.raises(LookalikeError, match="classes that the training folder does not: 'dog'"):
        load_data(image_folder, SMALL)


def test_wrong_folders_are_told(image_folder, tmp_path):
    shutil.rmtree(image_folder / "test")
    assert len(load_data(image_folder, SMALL).test) == 0
    empty = tmp_path / "empty"
    (empty / "frog").mkdir(parents=True)
    with pytest.raises(LookalikeError, match="class 'frog' has no images"):
        load_data(empty, SMALL)
    (empty / "frog").rmdir()
    with pytest.raises(LookalikeError, match="has no sub-folders"):
        load_data(empty, SMALL)
    file = tmp_path / "file.png"
    file.touch()
    with pytest.raises(LookalikeError, match="is a file"):
        load_data(file, SMALL)
    with pytest.raises(LookalikeError, match=r"neither a folder nor a dataset; the datasets are .*digits"):
        load_data("digit", SMALL)
    with pytest.raises(LookalikeError, match="what size and normalisation"):
        load_data(image_folder)


def test_a_broken_file_is_named_when_it_is_read(image_folder):
    (image_folder / "train" / "bee" / "03.png").write_text("no")
    dataset = load_data(image_folder, SMALL).train
    with pytest.raises(BrokenImageError, match=r"03\.png"):
        dataset[dataset.files.index(image_folder / "train" / "bee" / "03.png")]


def test_images_are_found_in_files_and_folders(image_folder, tmp_path):
    found = find_images([image_folder / "test" / "ant", image_folder / "test" / "bee" / "00.png"])
    assert [path.name for path in found] == ["00.png", "01.png", "02.png", "00.png"]
    with pytest.raises(LookalikeError, match="does not exist"):
        find_images([tmp_path / "nowhere"])
    (tmp_path / "void").mkdir()
    with pytest.raises(LookalikeError, match="no images in"):
        find_images([tmp_path / "void"])


def test_datasets_are_listed_by_pattern():
    assert "digits" in DATASETS
    assert sorted(list_datasets("dig*")) == ["digit-pairs", "digits"]
