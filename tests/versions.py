"""What older versions of other packages cannot do; tests with the oldest ones that we admit do not ask for it."""

import importlib.metadata

import pytest
import torch
from packaging.version import Version
from torch import nn

resizes_other_shapes = pytest.mark.skipif(
    Version(importlib.metadata.version("timm")) < Version("1.0.31"),
    reason="before 1.0.31 timm resizes to shapes that are not square by bilinear interpolation, whatever is asked",
)

resizes_by_lanczos = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.12"), reason="before 2.12 torch does not resize tensors by lanczos"
)


def compiled(model: nn.Module) -> nn.Module:
    """Wraps a model for torch's compiler; skips the test where this torch cannot do so on this Python."""
    try:
        return torch.compile(model)
    except TypeError as error:  # torch 2.12 on Python 3.11.7: a generic class of the compiler has too few arguments
        pytest.skip(str(error))
