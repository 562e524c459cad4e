"""Compares the evidence map of exported models with PRP by deletion curves, on digits.

    python tools/evidence_maps.py    # prints a table for docs/how-to/export.md

A small network is trained for two epochs with each seed. The area under the deletion curve says how fast the
probability of the predicted class falls when the pixels go that a map finds most relevant: smaller is better.
"""

import statistics
import sys

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lookalike import convert
from lookalike.data import load_data
from lookalike.export import PlainModel
from lookalike.metrics import deletion
from lookalike.networks import small_cnn
from lookalike.relevance import prp

SEEDS, N_TEST, N_EPOCHS = 3, 100, 2


def trained(data: torch.utils.data.Dataset, channels: int, seed: int) -> nn.Module:
    """Returns a small network, trained."""
    torch.manual_seed(seed)
    network = small_cnn(10, channels, 8)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(N_EPOCHS):
        for x, y in DataLoader(data, 128, shuffle=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimiser.step()
    return network.eval()


def areas(seed: int) -> dict[str, float]:
    """Returns the mean area under the deletion curve of each kind of map."""
    digits = load_data("digits")
    network = trained(digits.train, len(digits.train[0][0]), seed)
    model = convert(network, digits.train, 3, seed=seed, progress=False)
    step = len(digits.test) // N_TEST
    x = torch.stack([digits.test[i][0] for i in range(0, step * N_TEST, step)])
    plain = PlainModel(model, 1)
    with torch.no_grad():
        evidence = plain(x).evidence
    size = x.shape[2:]
    maps: dict[str, Tensor | None] = {
        "evidence map": nn.functional.interpolate(evidence, size=size, mode="bilinear")[:, 0],
        "PRP": prp(model, x, prototypes="nearest").pixels.reshape(len(x), *size),
        "random order": None,
    }
    background = x.amin((0, 2, 3))
    return {
        name: float(deletion(model.predict_proba, x, relevance, baseline=background, seed=seed).areas.mean())
        for name, relevance in maps.items()
    }


def main() -> None:
    """Prints the table."""
    rows = [areas(seed) for seed in range(SEEDS)]
    print("| map | area under the deletion curve |\n|---|---:|")
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"| {name} | {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f} |")
    print(f"{SEEDS} seeds, {N_TEST} test images each", file=sys.stderr)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
