import numpy as np
import pytest
import torch
from PIL import Image

from lookalike import LookalikeError
from lookalike.data import Augmentation, DataBundle, Preprocessing, load_data, load_training_data

GREY = Preprocessing(None, None, (0.5,), (0.25,))


def test_an_augmented_image_is_the_image_moved_by_up_to_two_pixels_over_black():
    image = GREY.normalise(torch.rand(1, 6, 5, generator=torch.Generator().manual_seed(0)) + 0.1)
    black = float(GREY.normalise(torch.zeros(1, 1, 1)))
    canvas = torch.full((1, 10, 9), black)
    canvas[:, 2:8, 2:7] = image
    flipped = torch.full((1, 10, 9), black)
    flipped[:, 2:8, 2:7] = image.flip(-1)
    allowed = {
        (flip, top, left): (flipped if flip else canvas)[:, top : top + 6, left : left + 5]
        for flip in (False, True)
        for top in range(5)
        for left in range(5)
    }
    generator, augment, seen = torch.Generator().manual_seed(0), Augmentation(GREY), set()
    for _ in range(600):
        found = augment(image, generator)
        (key,) = [key for key, one in allowed.items() if torch.equal(one, found)]
        seen.add(key)
    assert seen == set(allowed)


def test_flips_come_half_of_the_time_and_can_be_left_out():
    image = torch.arange(2.0).reshape(1, 1, 2)
    generator = torch.Generator().manual_seed(1)
    half = Augmentation(GREY, padding=0)
    flips = sum(bool(half(image, generator)[0, 0, 0] == 1) for _ in range(1000))
    assert 440 < flips < 560
    never = Augmentation(GREY, padding=0, flip=0)
    assert all(torch.equal(never(image, generator), image) for _ in range(20))


def test_training_data_have_one_size_and_three_channels_with_their_own_statistics():
    bundle = load_training_data("digits", 32)
    x = torch.stack([bundle.train[i][0] for i in range(0, len(bundle.train), 4)])
    assert x.shape[1:] == (3, 32, 32)
    assert torch.equal(x[:, 0], x[:, 2])
    assert abs(float(x.mean())) < 0.1
    assert 0.8 < float(x.std()) < 1.1
    assert len(bundle.train) == len(load_data("digits").train)


def test_a_folders_statistics_are_those_of_its_training_images(image_folder):
    bundle = load_training_data(image_folder, 16)
    x = torch.stack([bundle.train[i][0] for i in range(len(bundle.train))])
    assert x.shape[1:] == (3, 16, 16)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-2)
    assert torch.allclose(x.std((0, 2, 3)), torch.ones(3), atol=1e-2)


def test_a_channel_that_never_changes_is_not_divided_by_nothing(tmp_path):
    for k, name in enumerate(("a", "b")):
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.zeros((8, 8, 3), np.uint8)
                pixels[..., 0] = 40 * (i + k)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    bundle = load_training_data(tmp_path, 8)
    assert bundle.preprocessing.std[1:] == (1.0, 1.0)


def test_what_is_no_data_set_is_named():
    with pytest.raises(LookalikeError, match="'nowhere' is neither a folder nor a dataset"):
        load_training_data("nowhere", 32)


def test_other_preprocessing_leaves_the_bundle_as_it_was():
    bundle = load_data("digits")
    other = bundle.with_preprocessing(Preprocessing.square(14))
    assert other.train[0][0].shape == (3, 14, 14)
    assert bundle.train[0][0].shape == (1, 28, 28)
    assert other.class_names == bundle.class_names
    plain = DataBundle("x", [(torch.zeros(1), 0)], [], ["a"], bundle.preprocessing)
    with pytest.raises(LookalikeError, match="a list has no transform: its images cannot be prepared differently"):
        plain.with_preprocessing(bundle.preprocessing)


def test_a_bundles_fingerprint_is_that_of_images_classes_and_preprocessing():
    bundle = load_data("digits")
    assert bundle.fingerprint() == load_data("digits").fingerprint()
    assert bundle.with_preprocessing(Preprocessing.square(14)).fingerprint() != bundle.fingerprint()
    plain = DataBundle("x", [(torch.zeros(1), 0)], [], ["a"], bundle.preprocessing)
    with pytest.raises(LookalikeError, match="a list has no fingerprint"):
        plain.fingerprint()
