"""Values that leave torch as numbers: named where the output goes by them, and only there."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeWarning, RelevanceError
from lookalike.relevance import Relevance, lrp


class Between(nn.Module):
    """A small network with a function of the user's between its layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        features = self.convolution(x).relu()
        return self.head(self.function(features).mean((2, 3)))


def by_list(features: Tensor) -> Tensor:
    means: list[float] = features.mean((1, 2, 3)).tolist()
    return torch.cat([row * mean for row, mean in zip(features.split(1), means, strict=True)])


IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
BY_NUMBERS = {
    "float": lambda h: 0.01 * h + float(h.max()),
    "item": lambda h: 0.01 * h + torch.full_like(h, h.max().item()),
    "numpy": lambda h: 0.01 * h + float(h.numpy().max()),
    "tolist": by_list,
}


def maps_of(function: Callable[[Tensor], Tensor], images: Tensor = IMAGE, **options: bool) -> Relevance:
    return lrp(Between(function).eval(), images, 0, **options)


@pytest.mark.parametrize("name", BY_NUMBERS)
def test_names_numbers_that_the_output_goes_by(name: str) -> None:
    with pytest.warns(LookalikeWarning, match=f"'{name}' takes values out of torch.*keep them as tensors.*do not rely"):
        maps = maps_of(BY_NUMBERS[name])
    assert maps.without_rule == [name]
    assert maps.caution is not None
    assert name in maps.caution


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h if float(h.mean()) > 0 else -h,
        lambda h: h[: int(h.amax((1, 2, 3)).isfinite().sum().item())],
        lambda h: h * (1 if h.max().item() == h.max().item() else 2),
    ],
    ids=["branch", "length", "check"],
)
def test_a_number_that_changes_no_output_is_not_named(function: Callable[[Tensor], Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = maps_of(function)
    assert maps.without_rule == []


def test_the_share_is_that_of_the_outputs_change() -> None:
    # both halves of the output change alike, as the first layer is followed once as a tensor and once as a number
    def halves(h: Tensor) -> Tensor:
        mean = h.mean()
        return (mean + float(mean)).expand(1, 4, 1, 1)

    with pytest.warns(LookalikeWarning):
        maps = maps_of(halves)
    assert float(maps.unruled) == pytest.approx(0.5, abs=1e-3)


def test_memory_that_is_handed_out_is_that_of_the_same_pass() -> None:
    places = []

    def looks_at_memory(h: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            own = h.data_ptr()
        places.append((h.data_ptr(), own))
        return h if float(h.mean()) > 0 else -h

    maps_of(looks_at_memory)
    asked, own = places[-1]  # of the pass that gets the numbers of an earlier one
    assert asked == own


def test_strict_maps_are_refused() -> None:
    with pytest.raises(RelevanceError, match=r"leave torch by 'float' \(after convolution.weight\).*as tensors"):
        maps_of(BY_NUMBERS["float"], strict=True)
