import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights

from lookalike.data import Preprocessing
from lookalike.errors import LookalikeError


def photo(width=300, height=200):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_equals_torchvisions_own_preset():
    preset = ResNet18_Weights.DEFAULT.transforms()
    ours = Preprocessing(256, (224, 224))
    torch.testing.assert_close(ours(photo()), preset(photo()), atol=0.02, rtol=0)


def test_is_undone_for_display_and_survives_json():
    for one in (Preprocessing.square(32), Preprocessing((16, 24), None, (0.1,), (0.3,), "bicubic")):
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
        ({"interpolation": "magic"}, "no interpolation is called 'magic'"),
    ],
)
def test_nonsense_is_told(options, message):
    with pytest.raises(LookalikeError, match=message):
        Preprocessing(None, None, **options)
