import os
import unicodedata

import numpy as np
import pytest

from lookalike._core.errors import LookalikeError
from lookalike.data import Preprocessing, find_images, list_images, load_folder
from lookalike.data.layouts import read_layout
from tests.data.layout_folders import PNG, images, make_folder

SMALL = Preprocessing.square(8)
E_ACUTE, E_COMBINED = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")


def counts(layout):
    return {kind: layout.passed_over.counts[kind] for kind in layout.passed_over.counts}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train/", "Test/"),
        ("TRAIN/", "TEST/"),
        ("training/", "testing/"),
        ("training_set/", "test_set/"),
        ("training_set/training_set/", "test_set/test_set/"),
        ("seg_train/seg_train/", "seg_test/seg_test/"),
        ("TrainingSet/", "TestSet/"),
        ("train_images/", "test_images/"),
        ("Training Data/", "Testing Data/"),
        ("train2017/", "val2017/"),
        ("1. train/", "2. test/"),
        ("train/", "valid/"),
        ("train/", "validation/"),
        ("train/", "dev/"),
        ("Train/", "Eval/"),
        ("trainval/", "test/"),
        ("flowers_train/", "flowers_test/"),
        ("dataset/train/", "dataset/test/"),
        ("Trainingsdaten/", "Testdaten/"),
        ("Entraînement/", "Validación/"),
        ("archive/images/Train/", "archive/images/Test/"),
    ],
)
def test_parts_are_recognised_by_their_usual_names(tmp_path, train, test):
    layout = read_layout(make_folder(tmp_path / "root", *images(train, number=3), *images(test)))
    assert (layout.kind, layout.class_names) == ("parts", ["ant", "bee"])
    assert (len(layout.train.files), len(layout.test.files)) == (6, 4)
    assert layout.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert not layout.passed_over


@pytest.mark.parametrize("above", ["archive/", "flowers/flowers/", "images/data/x/"])
def test_further_single_folders_are_passed_through_and_told(tmp_path, above):
    layout = read_layout(make_folder(tmp_path, *images(above), "__MACOSX/ant/._0.png"))
    assert (layout.kind, layout.class_names, len(layout.train.files)) == ("classes", ["ant", "bee"], 4)
    assert "the only folder with images" in layout.notes[0]
    assert counts(layout) == {"system": 1}


def test_each_class_may_have_its_parts(tmp_path):
    paths = [f"{name}/{part}/{i}.png" for name in ("ant", "bee") for part in ("train", "test", "val") for i in (0, 1)]
    layout = read_layout(make_folder(tmp_path / "a", *paths))
    assert (layout.kind, layout.class_names) == ("classes with parts", ["ant", "bee"])
    assert {file.parent.name for file in layout.train.files} == {"train"}
    assert {file.parent.name for file in layout.test.files} == {"test"}
    assert counts(layout) == {"extra_part": 4}
    with pytest.raises(LookalikeError, match=r"'cat' has none in .*: give each class both, or none"):
        read_layout(make_folder(tmp_path / "a", *images("", ["cat"])))


def test_classes_may_be_called_as_parts_are(tmp_path):
    for position, names in enumerate((["bee", "train"], ["invalid", "valid"], ["control", "test"], ["dev", "ops"])):
        layout = read_layout(make_folder(tmp_path / str(position), *images("", names)))
        assert (layout.kind, layout.class_names) == ("classes", names)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["Train/1.png", "Test/1.png"], "'Test', 'Train' in .* are parts of a data set, with images and no folder for"),
        (["train/cat.0.png", "train/dog.0.png"], "'train' in .* is a part of a data set, .*--labels FILE"),
        ([*images("train/"), *images("", ["cat", "dog"])], "may be a part of a data set, or a class beside 'cat'"),
        (images("test/"), "has 'test' but no 'train' beside it: give .*test' itself"),
        (images("test/") + images("val/"), "has 'test', 'val' but no 'train' beside it"),
        (images("train/") + images("training/") + images("test/"), "'train', 'training' in .* are the same part"),
        (images("", ["cats_train", "cats_test", "dogs_train", "dogs_test"]), "are parts of several data sets"),
        (images("", ["trainA", "trainB", "testA", "testB"]), "are parts of several data sets"),
        (images("A/train/") + images("A/test/") + images("B/train/") + images("B/test/"), "a data set of its own"),
        (images("", ["images", "masks"]), "look like groups of images, not like classes"),
        (images("train/", ["images", "masks"]) + images("test/", ["images", "masks"]), "look like groups of images"),
        (images("fold1/") + images("fold2/"), "look like groups of images"),
        (images("2019/") + images("2020/"), "look like groups of images"),
        ([*images("images/", ["train", "val"]), "labels/train/"], "images and no folder for each class"),
        (["1.png", "2.png"], r"has images \(such as '1.png'\) and no folder for each class"),
        (["1.png", "labels.csv"], "--labels .*labels.csv, labels="),
        (images("", ["ant"]), "has one class only, 'ant', and a classifier needs two"),
        (images("train/", ["ant"]) + images("test/", ["ant"]), "has one class only, 'ant'"),
        (["ant/", "bee/"], "none of the 2 folders in .* has images"),
        (["frog/"], "class 'frog' has no images"),
        ([], "has no sub-folders"),
        (["data/train-00000-of-00001.parquet"], "holds its images in tables, .* datasets.load_dataset"),
        (["train/data-00000-of-00001.arrow"], "holds its images in tables"),
        (["archive.zip"], "holds an archive, 'archive.zip', and no images: unpack it"),
        (["ant/1.heic", "bee/2.HEIC"], "2 images in formats that are not read, .*pillow_heif.register_heif_opener"),
        (images("train/") + images("test/", ["ant", "cat"]), "classes that the training folder does not: 'cat'"),
    ],
)
def test_what_could_be_misunderstood_is_refused_with_the_way_out(tmp_path, paths, message):
    with pytest.raises(LookalikeError, match=message) as caught:
        read_layout(make_folder(tmp_path / "root", *paths))
    assert "\n" not in str(caught.value)


def test_a_single_class_is_enough_to_test_on(tmp_path):
    root = make_folder(tmp_path, *images("", ["ant"]))
    assert read_layout(root, min_classes=1).class_names == ["ant"]
    assert load_folder(root, SMALL, min_classes=1).class_names == ["ant"]


def test_a_test_part_alone_is_all_there_is_to_test_on(tmp_path):
    root = make_folder(tmp_path / "root", *images("x/Test/"), *images("x/val/", number=3))
    with pytest.raises(LookalikeError, match="no 'train' beside it"):
        read_layout(root)
    layout = read_layout(root, min_classes=1)
    assert (layout.class_names, len(layout.train.files), layout.test) == (["ant", "bee"], 4, None)
    assert "a test part without a training part" in layout.notes[-1]
    assert counts(layout) == {"extra_part": 6}


@pytest.mark.parametrize("flat", ["abc_test/abc_test/", "abc_test/images/", "abc_test/unknown/", "abc_test/a/data/"])
def test_a_test_part_with_one_folder_of_all_images_has_no_classes(tmp_path, flat):
    layout = read_layout(make_folder(tmp_path, *images("abc_train/abc_train/"), f"{flat}1.png", f"{flat}2.png"))
    assert (layout.class_names, len(layout.train.files), len(layout.test.files)) == (["ant", "bee"], 4, 0)
    assert counts(layout) == {"unlabelled": 2}


def test_parts_in_a_single_folder_with_a_loose_image_are_recognised(tmp_path):
    root = make_folder(tmp_path, *images("x/train/"), *images("x/test/"), "x/sample.png")
    for min_classes in (1, 2):
        layout = read_layout(root, min_classes=min_classes)
        assert (layout.class_names, len(layout.train.files)) == (["ant", "bee"], 4)
        assert counts(layout) == {"loose_image": 1}


def test_folders_in_a_single_class_are_told(tmp_path):
    layout = read_layout(make_folder(tmp_path, *images("x/"), "x/sample.png"), min_classes=1)
    assert layout.class_names == ["x"]
    assert "the class 'x' has the folders 'ant', 'bee': if those are the classes, give '" in layout.notes[0]


def test_only_one_part_is_tested_on(tmp_path):
    layout = read_layout(make_folder(tmp_path / "a", *images("train/"), *images("test/"), *images("val/", number=5)))
    assert len(layout.test.files) == 4
    assert counts(layout) == {"extra_part": 10}
    assert "passed over 10 images of a further part, such as 'val': only one part is tested on" in (
        layout.passed_over.sentences()
    )
    flat = read_layout(make_folder(tmp_path / "b", *images("train/"), "test/1.png", "test/2.png", *images("val/")))
    assert {file.parts[-3] for file in flat.test.files} == {"val"}
    assert "is tested on in its place" in flat.notes[0]
    assert counts(flat) == {"unlabelled": 2}
    alone = read_layout(make_folder(tmp_path / "c", *images("train/"), "test/1.png"))
    assert len(alone.test.files) == 0
    assert "nothing to test on" in alone.notes[0]
    assert counts(alone) == {"unlabelled": 1}


def test_whatever_is_passed_over_is_counted_by_kind(tmp_path):
    root = make_folder(
        tmp_path / "root", *images("train/"), *images("test/"), *images("seg_pred/"), "train/cat/", "train/loose.png",
        "train/ant/@eaDir/0.png/thumb.png", "train/ant/Thumbs.db", "train/ant/.DS_Store", "train/ant/._0.png",
        "train/.ipynb_checkpoints/0.png", "train/bee/desktop.ini", "#recycle/1.png", "$RECYCLE.BIN/1.png",
        "lost+found/",
        ".thumbnails/1.png", ".hidden.png", "train/bee/notes.txt", "train/bee/photo.heic", "train/bee/photo.png~",
    )  # fmt: skip
    (root / "train" / "ant" / "broken.png").symlink_to(root / "nowhere.png")
    (root / "train" / "ant" / "round").symlink_to(root / "train")
    os.mkfifo(root / "train" / "bee" / "pipe.png")
    bundle = load_folder(root, SMALL)
    assert (len(bundle.train), len(bundle.test)) == (4, 4)
    expected = {
        "hidden": 1, "system": 7, "thumbnail": 3, "other_file": 2, "unread_format": 1, "special_file": 1,
        "broken_link": 1, "link_loop": 1, "empty_folder": 1, "loose_image": 1, "other_folder": 1,
    }  # fmt: skip
    told = bundle.passed_over.to_dict()
    assert {kind: entry["count"] for kind, entry in told.items()} == expected
    assert told["thumbnail"]["examples"] == [".thumbnails", "train/ant/@eaDir", "train/ant/Thumbs.db"]
    assert len([note for note in bundle.notes if note.startswith("passed over")]) == len(expected)


def test_links_are_followed_once(tmp_path):
    make_folder(tmp_path / "store", "0.png", "more/1.png")
    root = make_folder(tmp_path / "root", *images("", ["ant"]))
    (root / "bee").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "again").symlink_to(tmp_path / "store" / "more")
    layout = read_layout(root)
    assert np.bincount(layout.train.labels).tolist() == [2, 2]
    assert counts(layout) == {"repeated_folder": 1}


def test_depth_is_bounded_and_a_pipe_is_never_waited_for(tmp_path):
    root = make_folder(tmp_path / "root", *images(""))
    (root / "ant" / ("d/" * 150)).mkdir(parents=True)
    assert counts(read_layout(root)) == {"too_deep": 1}
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(LookalikeError, match=r"pipe\.png' is a pipe or a device"):
        find_images([tmp_path / "pipe.png"])


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "root", *images(""), "ant/deep/1.png")
    scandir, closed = os.scandir, {str(root / "ant" / "deep")}

    def guarded(path):
        if str(path) in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    layout = read_layout(root)
    assert layout.passed_over.to_dict() == {"unreadable_folder": {"count": 1, "examples": ["ant/deep"]}}
    closed.add(str(root / "bee"))
    with pytest.raises(LookalikeError, match="bee' cannot be read: Permission denied; check its permissions"):
        read_layout(root)
    closed.add(str(root))
    with pytest.raises(LookalikeError, match="root' cannot be read: Permission denied"):
        read_layout(root)


def test_images_are_recognised_by_their_first_bytes_where_the_suffix_does_not_tell(tmp_path):
    root = make_folder(
        tmp_path, "ant/1", "ant/IMG.001", "ant/a.b.2.5", "bee/1.jfif", "bee/2.JPE", "bee/3.JP2", "bee/4.avif"
    )
    (root / "bee" / "BMW").write_text("BMW is no bitmap")
    (root / "bee" / "P3 x").write_text("P3: a note")
    (root / "bee" / "raw").write_bytes(bytes(128) + b"DICM")
    (root / "bee" / "phone").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic")
    (root / "bee" / "web").write_bytes(b"RIFF\x00\x00\x00\x00WEBPVP8 ")
    layout = read_layout(root)
    assert np.bincount(layout.train.labels).tolist() == [3, 5]
    assert counts(layout) == {"other_file": 2, "unread_format": 2}


def test_names_are_compared_after_unicode_normalisation(tmp_path):
    names = [f"caf{E_ACUTE}", "bar"], [f"caf{E_COMBINED}", "bar"]
    root = make_folder(tmp_path / "a", *images("train/", names[0]), *images("test/", names[1]))
    layout = read_layout(root)
    assert layout.class_names == ["bar", f"caf{E_ACUTE}"]
    assert layout.test.labels.tolist() == [0, 0, 1, 1]
    make_folder(root, *images("train/", names[1]))
    with pytest.raises(LookalikeError, match=r"read alike, 'cafe\\u0301' and 'caf\\xe9': they are the same text"):
        read_layout(root)


def test_classes_keep_ascii_order_and_names_that_are_no_text_are_written_out(tmp_path):
    root = make_folder(tmp_path, *images("", ["b", "B", "10", "2"]))
    not_text = root / os.fsdecode(b"caf\xe9")
    not_text.mkdir()
    (not_text / os.fsdecode(b"\xff.png")).write_bytes(PNG)
    bundle = load_folder(root, SMALL)
    assert bundle.class_names == ["10", "2", "B", "b", r"caf\xe9"]
    assert bundle.fingerprint().endswith(":xxh3p")
    last = len(bundle.train) - 1
    assert bundle.train[last][0].shape == (3, 8, 8)
    assert bundle.train.describe(last).endswith(r"caf\xe9/\xff.png")


def test_folders_of_images_to_explain_are_listed_likewise(tmp_path):
    root = make_folder(tmp_path, "1.png", "deep/2", "deep/.3.png", "Thumbs.db")
    files, passed_over = list_images([root, root / "1.png"])
    assert [file.name for file in files] == ["1.png", "2", "1.png"]
    assert find_images([root, root / "1.png"]) == files
    assert passed_over.counts == {"thumbnail": 1, "hidden": 1}
    with pytest.raises(LookalikeError, match=r"no images in .*x' \(passed over 1 file or folder of thumbnails"):
        list_images([make_folder(tmp_path / "x", "Thumbs.db")])


def test_same_folders_in_each_class_are_told(tmp_path):
    layout = read_layout(make_folder(tmp_path, *images("day/"), *images("night/")))
    assert layout.class_names == ["day", "night"]
    assert "each has the folders 'ant', 'bee': if those are the classes" in layout.notes[0]
