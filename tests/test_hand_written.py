"""Networks as people write them: flattened by ``view``, squeezed, changed in place; each is used as any other."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lookalike
from lookalike import convert, evaluate, explain


class _Network(nn.Module):
    """Two convolutions and what most tutorials put after them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.norm = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.wide, self.narrow, self.head = nn.Linear(72, 12), nn.Linear(8, 12), nn.Linear(12, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def features(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.second(F.max_pool2d(F.relu(self.first(x)), 2)).relu(), 2)


class ByView(_Network):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).view(-1, 72)
        return F.log_softmax(self.head(F.dropout(F.relu(self.wide(x)), training=self.training)), dim=1)


class BySize(_Network):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.features(x)
        return self.head(F.relu(self.wide(hidden.view(hidden.size(0), -1))))


class Squeezed(_Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.narrow(self.pool(self.features(x)).squeeze())))


class InPlace(_Network):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.features(x)
        hidden += self.norm(hidden)
        hidden.view(len(hidden), -1)[:, ::2] *= 2
        return self.head(F.relu_(self.wide(hidden.view(len(hidden), -1))))


class FlatPixels(_Network):
    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.view(x.size(0), -1).mean(1).view(-1, 1, 1, 1)
        return self.head(F.relu(self.wide(self.features(centred).flatten(1))))


@pytest.mark.parametrize("kind", [ByView, BySize, Squeezed, InPlace, FlatPixels])
def test_a_hand_written_network_is_used_like_any_other(kind: type[_Network], tmp_path) -> None:
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(37) % 3  # one image is left in the last batch of nine
    x = (torch.rand(37, 3, 14, 14, generator=generator) + 0.3 * y[:, None, None, None]).clamp(0, 1)
    sem = convert(kind(), (x, y), 2, batch_size=9, progress=False)

    torch.testing.assert_close(torch.cat([sem(row[None]) for row in x[:4]]), sem(x[:4]))
    together, alone = explain(sem, x[:2], relevance=True), explain(sem, x[:1], relevance=True)
    assert together[0].likenesses[0].prototype == alone[0].likenesses[0].prototype
    assert together[0].likenesses[0].heat_map is not None
    torch.testing.assert_close(*(torch.as_tensor(found[0].black_box_heat_map) for found in (together, alone)))
    assert evaluate(sem, (x, y), only=["faithfulness"], progress=False)

    sem.save(tmp_path / "model")
    torch.testing.assert_close(lookalike.load(tmp_path / "model", kind())(x[:3]), sem(x[:3]))
