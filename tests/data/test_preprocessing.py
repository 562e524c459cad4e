import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights

from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike.data import Preprocessing


def photo(width=300, height=200):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_equals_torchvisions_own_preset():
    preset = ResNet18_Weights.DEFAULT.transforms()
    ours = Preprocessing(256, (224, 224))
    torch.testing.assert_close(ours(photo()), preset(photo()), atol=0, rtol=0)


def test_is_undone_for_display_and_survives_json():
    for one in (
        Preprocessing.square(32),
        Preprocessing((16, 24), None, (0.1,), (0.3,), "bicubic"),
        Preprocessing((16, 24), (12, 12), fit="contain", convention="transformers", channel_order="bgr"),
        Preprocessing((16, 24), (12, 12), fill=(9, 8, 7), window=(0.9, 0.8), pad=(30, 40), transparency="white"),
    ):
        again = Preprocessing.from_dict(json.loads(json.dumps(one.to_dict())))
        assert again == one
        x = one(photo(40, 30))
        torch.testing.assert_close(one.normalise(one.pixels(x)), x, atol=1e-5, rtol=1e-5)


def test_sizes_and_arrays():
    assert Preprocessing((16, 24), None)(photo()).shape == (3, 16, 24)
    assert Preprocessing.square(20)(photo()).shape == (3, 20, 20)
    assert Preprocessing.square(20).with_size(12)(photo()).shape == (3, 12, 12)
    assert Preprocessing(None, (8, 8), (0.5,), (0.5,))(np.zeros((8, 8), np.uint8)).unique().tolist() == [-1.0]
    assert Preprocessing(None, None)(np.zeros((8, 8, 1), np.uint8)).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,)}, "1 or 3 numbers"),
        ({"std": (0.1, 0.0, 0.1)}, "std must be positive"),
        ({"interpolation": "magic"}, "unknown interpolation 'magic'"),
        ({"mean": (127.0,) * 3}, r"pixels in \[0, 1\]; the mean 127 looks like 0…255: give 0.498"),
        ({"std": (58.0,) * 3}, r"the std 58 looks like 0…255: give 0.227"),
        ({"std": (float("nan"),) * 3}, "std must be a number, not nan"),
        ({"std": (-1.0,) * 3}, "std must be positive"),
        ({"fit": "squash"}, "fit must be one of stretch, cover, contain, not 'squash'"),
        ({"convention": "keras"}, "convention must be one of"),
        ({"pad": (0, 5)}, "pad must be of whole numbers of pixels"),
        ({"convention": "transformers", "interpolation": "box"}, "torch has no interpolation 'box'"),
        ({"fill": (0, 256, 0)}, "fill must be 1 or 3 whole numbers of 0 to 255"),
        ({"fill": 255, "convention": "transformers"}, "the border of the convention 'transformers' is black"),
        ({"fill": "white"}, "fill must be 1 or 3 whole numbers of 0 to 255, not 'white'"),
        ({"window": (0.5, 0)}, "window must be a number above 0, not 0"),
        ({"window": 0.5}, r"window must be \(height, width\), as shares"),
        ({"pad": 8}, r"pad must be \(height, width\), of whole numbers of pixels"),
    ],
)
def test_nonsense_is_told(options, message):
    with pytest.raises(LookalikeError, match=message):
        Preprocessing(None, None, **options)


def test_lists_and_arrays_are_the_tuples_that_they_stand_for():
    """A list would be equal to no tuple, and has no hash."""
    mean = [0.5, 0.4, 0.3]
    given = Preprocessing([36], np.array([32, 32]), mean, torch.tensor(mean), fill=[9], window=[0.5, 1], pad=[40, 40])
    std = tuple(torch.tensor(mean).tolist())
    expected = Preprocessing(36, (32, 32), tuple(mean), std, fill=(9,), window=(0.5, 1.0), pad=(40, 40))
    assert given == expected
    assert hash(given) == hash(expected)
    assert Preprocessing.from_dict(given.to_dict()) == expected
    assert Preprocessing([30, 20], None).output_size == (30, 20)


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (0, float("nan")), (0, float("inf")), (0,), "ab", 5])
def test_a_range_is_two_numbers_in_order(value_range):
    with pytest.raises(LookalikeError, match="value_range must be two numbers"):
        Preprocessing(8, None, value_range=value_range)


def test_how_greys_and_orientation_are_read_is_kept():
    ours = Preprocessing.square(8, value_range=(-1000, 3000), as_stored=True)
    assert Preprocessing.from_dict(json.loads(json.dumps(ours.to_dict()))) == ours
    assert ours.describe().startswith("RGB, values -1000…3000, as stored; shorter side to 8 (bilinear)")
    old = {"resize": 8, "crop": [8, 8], "mean": [0.5], "std": [0.5], "interpolation": "bilinear"}
    assert Preprocessing.from_dict(old).value_range is None
    assert not Preprocessing.from_dict(old).as_stored


def test_arrays_of_other_numbers_need_a_scale():
    grey = Preprocessing(None, None, (0.0,), (1.0,))
    ramp = np.linspace(0, 1, 16).reshape(4, 4)
    for array in (ramp.astype(np.float32), ramp * 300, (ramp * 9).astype(np.int16) - 1, (ramp * 999).astype(np.int64)):
        with pytest.raises(LookalikeError, match="no scale of its own"):
            grey(array)
        low, high = float(array.min()), float(array.max())
        x = Preprocessing(None, None, (0.0,), (1.0,), value_range=(low, high))(array)
        np.testing.assert_allclose(x[0], (array - low) / (high - low), atol=0.01)
    np.testing.assert_allclose(grey((ramp * 65_535).astype(np.uint16))[0], ramp, atol=0.01)
    np.testing.assert_allclose(grey((ramp * 255).astype(np.int64))[0], ramp, atol=0.01)
    np.testing.assert_allclose(grey(ramp > 0.5)[0], ramp > 0.5)
    for wrong in (ramp.astype(complex), np.zeros((0, 4), np.uint8), np.zeros((4, 4, 5), np.uint8), np.array(["a"])):
        with pytest.raises(LookalikeError, match="an image must be an array"):
            grey(wrong)
    with pytest.raises(BrokenImageError, match="NaN"):
        Preprocessing(None, None, (0.0,), (1.0,), value_range=(0, 1))(np.full((4, 4), np.nan))
    for wrong in ([[1, 2]], torch.zeros(3, 4, 4), None):
        with pytest.raises(LookalikeError, match="must be a PIL image or an array"):
            grey(wrong)


def test_settings_saved_before_there_were_more_of_them_load():
    old = {"resize": 256, "crop": [224, 224], "mean": [0.5], "std": [0.5], "interpolation": "bilinear"}
    assert Preprocessing.from_dict(old) == Preprocessing(256, (224, 224), (0.5,), (0.5,))
    assert Preprocessing.from_dict(old).to_dict() == old
    with pytest.raises(LookalikeError, match="unknown settings: sharpen; it was saved by a later version"):
        Preprocessing.from_dict(old | {"sharpen": 1})


@pytest.mark.parametrize(
    ("before", "size", "after"),
    [
        (Preprocessing(256, (224, 224)), 224, Preprocessing(256, (224, 224))),
        (Preprocessing(256, (224, 224)), 112, Preprocessing(128, (112, 112))),
        (Preprocessing(256, (224, 224)), (112, 56), Preprocessing((128, 64), (112, 56), fit="cover")),
        (Preprocessing((64, 64), None), 32, Preprocessing((32, 32), None)),
        (Preprocessing((64, 80), (32, 40)), (16, 20), Preprocessing((32, 40), (16, 20))),
        (Preprocessing(None, (28, 28)), 32, Preprocessing(32, (32, 32))),
        (Preprocessing(256, None), 32, Preprocessing(32, (32, 32))),
    ],
    ids=str,
)
def test_another_size_keeps_the_crops_share(before, size, after):
    assert before.with_size(size) == after
    assert after(photo()).shape[1:] == ((size, size) if isinstance(size, int) else size)


def test_is_described_in_one_line():
    assert Preprocessing(256, (224, 224)).describe() == (
        "RGB; shorter side to 256 (bilinear), centre crop 224×224; mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    )
    border = Preprocessing((32, 32), (32, 32), (0.0,) * 3, (1 / 255,) * 3, "bicubic", fit="contain", fill=(1, 2, 3))
    assert border.describe() == (
        "RGB; resized to fit into 32×32 (bicubic), centre crop 32×32, border 1 2 3 of 255; pixels in 0…255"
    )
    assert Preprocessing(None, None, (0.0,), (1.0,)).describe() == "grey; size as it is; pixels in 0…1"
    perceiver = Preprocessing((8, 8), None, window=(0.875, 0.5), pad=(9, 9), convention="transformers")
    assert "centre crop of 0.875 × 0.5 shorter sides, stretched to 8×8 (bilinear), padded to 9×9, as Trans" in (
        perceiver.describe()
    )


def test_an_image_larger_than_what_it_is_padded_to_is_refused_and_not_cut():
    padded = Preprocessing(None, None, (0.5,), (0.5,), pad=(40, 40))
    assert padded(Image.new("L", (40, 30))).shape == (1, 40, 40)
    with pytest.raises(BrokenImageError, match="50×30 pixels, more than the 40×40"):
        padded(Image.new("L", (50, 30)))


def test_colours_multiplied_by_their_opacity_are_laid_on_white_too():
    white = Preprocessing(None, None, (0.0,) * 3, (1.0,) * 3, transparency="white")
    for mode in ("La", "RGBa"):
        clear = Image.new(f"{mode[:-1]}A", (4, 4), (0,) * len(mode)).convert(mode)
        assert white(clear).unique().tolist() == [1.0]


@pytest.mark.parametrize(
    "sizes", [{"resize": (99_999, 99_999)}, {"resize": 99_999}, {"resize": 8, "crop": (10**6, 10**6)}]
)
def test_sizes_that_no_memory_holds_are_refused(sizes):
    with pytest.raises(LookalikeError, match="pixels in all, not"):
        Preprocessing(**{"resize": (8, 8), "crop": None} | sizes)
