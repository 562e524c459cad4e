"""A small model's report, with names of classes and files that must not be taken for markup."""

import json
import re

import torch
from torch import nn

from lookalike import convert
from lookalike.model.annotations import Annotations
from lookalike.report import write_report

HOSTILE = "<img src=x onerror=alert(1)>"


class Named(torch.utils.data.Dataset):
    """Images with names of classes and files."""

    classes = (HOSTILE, "b'\"</script>", "c")

    def __init__(self, x, y):
        self.x, self.y = x, y
        self.paths = [f"folder/{HOSTILE}{i}.png" for i in range(len(y))]

    def describe(self, index):
        return self.paths[index]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])


def write_page(path):
    """Writes a report on 150 test images of which 15 have wrong labels and the last two are unfamiliar."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 3),
    )  # fmt: skip
    y = torch.arange(240) % 3
    x = 0.3 * torch.randn(240, 1, 8, 8)
    for k, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        x[y == k, :, row : row + 4, column : column + 4] += 2
    y[::10] = (y[::10] + 1) % 3  # wrong labels, for wrong predictions
    x[-2:] = 30 * torch.rand(2, 1, 8, 8)
    train, test = Named(x[:90], y[:90]), Named(x[90:], y[90:])
    sem = convert(net, train, n_prototypes=2, progress=False)
    sem.annotations = Annotations(
        (f"name {HOSTILE}", *[None] * 5), ("said <b>of it</b>", *[""] * 5), (False,) * 6, ((0, 0, 0.5, 1), *[None] * 5)
    )
    quick = {"n_images": 6, "n_steps": 3, "n_draws": 1, "progress": False}
    write_report(sem, test, path, train=train, title=f"A report on {HOSTILE}", **quick)
    return path


def data_of(path):
    """Returns the data of a page's script."""
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"))[1])
