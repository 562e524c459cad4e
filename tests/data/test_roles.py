"""What each image is to a model that is evaluated: training image or test image."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lookalike import convert, embed
from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.audit import audit
from lookalike.data import Batches, Preprocessing, TrainingRecord, load_data, with_roles
from lookalike.encoder import Encoder
from tests.small import bright_images, small_network

SMALL = Preprocessing.square(8)


@pytest.fixture
def plain(image_folder):
    """A folder without parts: eleven images of each of three classes."""
    root = image_folder.parent / "plain"
    for part in ("train", "test"):
        for file in (image_folder / part).rglob("*.png"):
            target = root / file.parent.name / f"{part}-{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return root


def record_of(bundle):
    batches = Batches(bundle)
    return TrainingRecord(batches.fingerprint(), batches.split, batches.content_keys())


def names(files):
    return sorted(file.name for file in files.files)


def test_the_folder_of_the_conversion_keeps_its_split(plain):
    converted = load_data(plain, SMALL, seed=3)
    again = with_roles(load_data(plain, SMALL, seed=3), record_of(converted))
    assert again.train.files == converted.train.files
    assert again.test.files == converted.test.files
    assert "those that it was made from; split by seed 3" in again.notes[-1]


def test_a_note_that_only_has_the_words_of_a_split_stays(plain, tmp_path):
    folder = tmp_path / "split by seed"
    shutil.copytree(plain, folder)
    (folder / "notes.txt").write_text("no image")
    bundle = load_data(folder, SMALL, seed=3)
    others = [note for note in bundle.notes if "split by seed 3" not in note]
    bundle = replace(bundle, notes=(*bundle.notes, "in 'split by seed' a file is no image"))
    again = with_roles(bundle, record_of(bundle))
    assert again.notes[:-1] == (*others, "in 'split by seed' a file is no image")


def test_a_folder_that_came_in_parts_is_said_to_be_divided_so(image_folder):
    converted = load_data(image_folder, SMALL)
    again = with_roles(load_data(image_folder, SMALL), record_of(converted))
    assert "(those that it was made from; divided as the data came)" in again.notes[-1]


def test_a_moved_and_renamed_folder_is_known_by_its_bytes(plain, tmp_path):
    converted = load_data(plain, SMALL, seed=3)
    for number, file in enumerate(sorted(plain.rglob("*.png"))):
        target = tmp_path / "moved" / file.parent.name / "deeper" / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    with pytest.warns(LookalikeWarning, match=f"{len(converted.train)} images of 'moved' are training images"):
        found = with_roles(load_data(tmp_path / "moved", SMALL, seed=9), record_of(converted))
    assert (len(found.train), len(found.test)) == (len(converted.train), len(converted.test))
    assert set(found.train.content_keys()) == set(converted.train.content_keys())
    assert found.split.by == "known"


def test_a_folder_of_new_images_is_all_test(plain, image_folder):
    converted = load_data(image_folder, SMALL)
    shutil.rmtree(plain)
    shutil.copytree(image_folder / "test", plain)
    found = with_roles(load_data(plain, SMALL), record_of(converted))
    assert (len(found.train), len(found.test), found.split.by) == (0, 9, "whole")
    assert "9 images to test on, none as training images" in found.notes[-1]


def test_some_training_images_are_neither_tested_on_nor_taken_for_all(plain):
    converted = load_data(plain, SMALL, seed=3)
    converted.train.files[0].unlink()
    with pytest.warns(LookalikeWarning, match="are training images of the model; they are not tested on"):
        found = with_roles(load_data(plain, SMALL, seed=3), record_of_files(converted))
    assert names(found.test) == names(converted.test)
    assert len(found.train) == 0


def record_of_files(bundle):
    """A record made before a file was removed."""
    left = [file for file in bundle.train.files if file.exists()]
    removed = np.array([42], dtype=np.int64)
    keys = np.concatenate([bundle.train.select(np.array([bundle.train.files.index(f) for f in left])).content_keys()])
    return TrainingRecord("other", bundle.split, np.sort(np.concatenate([keys, removed])))


def test_training_images_in_a_test_part_are_left_out(image_folder):
    converted = load_data(image_folder, SMALL)
    record = record_of(converted)
    shutil.copy(image_folder / "train" / "ant" / "00.png", image_folder / "test" / "bee" / "copy.png")
    (image_folder / "train" / "cat" / "new.png").write_bytes((image_folder / "test" / "cat" / "00.png").read_bytes())
    with pytest.warns(LookalikeWarning) as told:
        found = with_roles(load_data(image_folder, SMALL), record)
    assert "1 of 10 images in the test part of 'images' are training images" in str(told[0].message)
    assert "1 of 25 images in the training part of 'images' are not what the model was made from" in str(
        told[1].message
    )
    assert (len(found.train), len(found.test)) == (24, 9)


def test_nothing_but_training_images_is_refused(plain, image_folder):
    converted = load_data(image_folder, SMALL)
    shutil.rmtree(plain)
    shutil.copytree(image_folder / "train", plain)
    with pytest.raises(LookalikeError, match="all 24 images of 'plain' are training images of the model"):
        with_roles(load_data(plain, SMALL), record_of(converted))


def test_a_split_that_would_test_on_training_images_is_refused(plain):
    converted = load_data(plain, SMALL, seed=3)
    other = load_data(plain, SMALL, seed=4)
    with pytest.raises(LookalikeError, match=r"split by seed 4, \d+ of 6 test images are training images of the model"):
        with_roles(other, record_of(converted), asked_seed=4)


def test_content_keys_tell_files_apart_by_bytes_alone(tmp_path):
    from lookalike.data.identity import content_keys

    large = np.random.default_rng(0).integers(0, 256, 3 << 20, dtype=np.uint8)
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one")
    (tmp_path / "c").write_bytes(b"two")
    (tmp_path / "d").write_bytes(large.tobytes())
    (tmp_path / "e").write_bytes(large.tobytes() + b"!")
    a, b, c, d, e, missing = content_keys([tmp_path / name for name in "abcdef"])
    assert a == b
    assert len({a, c, d, e, missing}) == 5


def test_other_pictures_of_the_same_names_and_sizes_are_not_the_training_data(tmp_path):
    rng = np.random.default_rng(0)

    def fill():
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
            for i in range(10):  # uncompressed: every file has the same size
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.bmp")

    fill()
    bundle = load_data(str(tmp_path), preprocessing=Preprocessing.square(8))
    record = record_of(bundle)
    assert len(with_roles(bundle, record).train) == len(bundle.train)
    fill()
    told = with_roles(load_data(str(tmp_path), preprocessing=Preprocessing.square(8)), record)
    assert (len(told.train), len(told.test)) == (0, 20)


@pytest.fixture(scope="module")
def updated():
    """A model, updated with more data; the first data, the second, and both."""
    x, y = both = bright_images(120)
    first, second = (x[:90], y[:90]), (x[90:], y[90:])
    model = convert(small_network(), first, n_prototypes=2, progress=False)
    return model.update(second, progress=False), first, second, both


def test_the_record_of_an_updated_model_includes_what_joined(updated):
    model, first, second, both = updated
    record = model.training_record
    assert [record.includes(Batches(data)) for data in (first, second, both)] == [True, True, False]
    assert record.includes(None, Batches(second).fingerprint())
    assert not TrainingRecord().includes(Batches(first))
    assert not TrainingRecord("other", joined=(None,)).includes(None)


def test_of_an_updated_model_of_arrays_only_the_number_tells_whether_data_are_all(updated):
    model, first, second, both = updated
    record = model.training_record
    assert [record.is_all_of(Batches(data), len(data[1])) for data in (first, second, both)] == [False, False, None]
    record = TrainingRecord(Batches(first).fingerprint())
    assert [record.is_all_of(Batches(data), len(data[1])) for data in (first, second)] == [True, False]
    assert TrainingRecord().is_all_of(Batches(first), 90) is None


@pytest.mark.parametrize(
    ("n_read", "n_skipped", "expected"), [(60, 0, None), (59, 1, None), (58, 2, None), (59, 0, False), (58, 1, False)]
)
def test_a_record_may_count_what_could_not_be_read(n_read, n_skipped, expected):
    record = TrainingRecord("first", joined=("second",), n_samples=60)
    assert record.is_all_of(None, n_read, n_skipped) is expected
    assert record.is_all_of(None, 60, 1) is None  # and may not


def test_of_an_updated_model_of_files_missing_contents_tell(plain):
    files = load_data(plain, SMALL)
    record = replace(record_of(files), joined=("later",), n_samples=len(files.train))
    train, test = Batches(files.train), Batches(files.test)
    assert record.is_all_of(train, len(files.train)) is None
    assert record.is_all_of(test, len(files.train)) is False  # as many, and others
    assert record.is_all_of(test, len(files.train), len(record.keys)) is None  # all of them may be those skipped
    part = replace(record, keys=record.keys[:5])  # arrays joined, which have no keys
    assert part.is_all_of(train, len(files.train)) is None
    assert replace(part, n_samples=40).is_all_of(train, len(files.train)) is False


def test_an_audit_checks_the_prototypes_of_an_updated_model_against_all_its_data_alone(updated):
    model, first, _, both = updated
    assert any("its prototypes were not checked" in note for note in audit(model, first, progress=False).notes)
    notes = audit(model, both, progress=False).notes
    assert not any("were not checked" in note for note in notes)
    assert any("that these are all its data, in the order in which it got them, cannot" in note for note in notes)


def test_an_audit_of_an_updated_model_counts_what_was_skipped(tmp_path):
    x, y = bright_images(60)
    grey = (x * 40 + 100).clamp(0, 255).byte()[:, 0]
    for part, rows in (("first", range(40)), ("second", range(40, 60)), ("all", range(60))):
        for row in rows:
            (tmp_path / part / f"c{int(y[row])}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey[row].numpy()).save(tmp_path / part / f"c{int(y[row])}/{row:02}.png")
    for part in ("first", "all"):
        (tmp_path / part / "c0/00.png").write_bytes(b"broken")

    def read(part):
        bundle = load_data(tmp_path / part, Preprocessing.square(8, mean=(0.5,), std=(0.5,)))
        return embed(network, bundle.train.joined(bundle.test), on_error="skip", progress=False)

    network = Encoder(small_network(), x[:2])
    model = convert(network, read("first"), n_prototypes=2, progress=False).update(read("second"), progress=False)
    notes = audit(model, read("all"), progress=False).notes
    assert not any("were not checked" in note for note in notes)
