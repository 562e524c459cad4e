"""Older versions of torch do not resize by lanczos: that is said in one line."""

import pytest
import torch

from lookalike import LookalikeError
from lookalike.data import geometry


def test_an_older_torch_is_named(monkeypatch):
    image = torch.zeros(3, 8, 8)
    monkeypatch.setattr(geometry, "_FIRST_WITH_LANCZOS", "9.0")
    assert geometry.resize_tensor(image, (8, 8), "lanczos") is image
    with pytest.raises(LookalikeError, match=r"lanczos needs torch 2\.12 or newer; this is \d"):
        geometry.resize_tensor(image, (4, 4), "lanczos")
