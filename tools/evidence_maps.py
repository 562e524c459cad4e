"""Compares the evidence maps of exported models with other maps: by deletion curves on digits, by masks on photographs.

    python tools/evidence_maps.py digits    # area under the deletion curve
    LOOKALIKE_STAMPS=FOLDER python tools/evidence_maps.py stamps    # how much is on the object

Each prints a table for docs/how-to/export.md. On digits, a small network is trained for two epochs with each seed; the
area under the deletion curve says how fast the probability of the predicted class falls when the pixels go that a map
finds most relevant: smaller is better. On the stamps, two pretrained networks are converted for each seed, with the
divisions of ``lookalike reproduce photographs-objects``.
"""

import functools
import sys

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lookalike import convert
from lookalike.data import MaskedFiles, load_data
from lookalike.encoder import Encoder
from lookalike.experiments.part_maps import grad_cam
from lookalike.experiments.photographs import ENCODERS, prepared
from lookalike.export import PlainModel
from lookalike.metrics import deletion, pointing_game, relevance_mass, relevance_rank
from lookalike.metrics.maps import mean_of_finite
from lookalike.model import PrototypeModel
from lookalike.networks import small_cnn
from lookalike.relevance import prp

SEEDS, N_TEST, N_EPOCHS = 5, 100, 2
BATCH = 8
MEASURES = {
    "pointing game": pointing_game,
    "relevance": relevance_mass,
    "relevance in favour": functools.partial(relevance_mass, positive=True),
    "most relevant pixels": relevance_rank,
}


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


def maps_of(model: PrototypeModel, x: Tensor) -> dict[str, Tensor]:
    """Returns maps [N, H, W]: the evidence map and PRP of the nearest prototype, Grad-CAM of the class."""
    plain, encoder, size = PlainModel(model, 1), model.encoder, x.shape[2:]
    assert isinstance(encoder, Encoder)
    found: dict[str, list[Tensor]] = {"evidence map": [], "PRP": [], "Grad-CAM": []}
    for part in x.split(BATCH):
        with torch.no_grad():
            evidence = nn.functional.interpolate(plain(part).evidence, size=size, mode="bilinear")[:, 0]
        found["evidence map"].append(evidence)
        found["PRP"].append(prp(model, part, prototypes="nearest").pixels.reshape(len(part), *size))
        found["Grad-CAM"].append(grad_cam(encoder, part, lambda z: model.log_probabilities_of(z).log_softmax(1)))
    return {kind: torch.cat(maps) for kind, maps in found.items()}


def digits() -> None:
    """Prints areas under deletion curves, and their difference by seed."""
    rows: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        data = load_data("digits")
        network = trained(data.train, len(data.train[0][0]), seed)
        model = convert(network, data.train, 3, seed=seed, progress=False)
        step = len(data.test) // N_TEST
        x = torch.stack([data.test[i][0] for i in range(0, step * N_TEST, step)])
        for kind, relevance in {**maps_of(model, x), "random order": None}.items():
            curve = deletion(model.predict_proba, x, relevance, baseline=x.amin((0, 2, 3)), seed=seed)
            rows.setdefault(kind, []).append(float(curve.areas.mean()))
    print("| map | area under the deletion curve |\n|---|---:|")
    for kind, areas in rows.items():
        print(f"| {kind} | {told(areas)} |")
    difference = np.array(rows["evidence map"]) - np.array(rows["PRP"])
    mean, half = difference.mean(), stats.t.ppf(0.975, SEEDS - 1) * stats.sem(difference)
    print(f"evidence map minus PRP: {mean:.3f}, 95% interval from {mean - half:.3f} to {mean + half:.3f}")


def stamps() -> None:
    """Prints how much of the maps is on the objects, beside the objects' share of the images."""
    print(f"| network | map | {' | '.join(MEASURES)} |\n|---|---|" + "---:|" * len(MEASURES))
    for name in ENCODERS:
        rows: dict[str, list[list[float]]] = {}
        for seed in range(SEEDS):
            for kind, figures in on_objects(name, seed).items():
                rows.setdefault(kind, []).append(figures)
        for kind, by_seed in rows.items():
            print(f"| {name} | {kind} | " + " | ".join(map(told, np.transpose(by_seed))) + " |", flush=True)


def on_objects(name: str, seed: int) -> dict[str, list[float]]:
    """Returns the measures of each kind of map, in order; averaged over the test images of a division."""
    loaded, bundle = prepared(name, seed)
    assert isinstance(bundle.test, MaskedFiles)
    model = convert(loaded, bundle.train, n_prototypes=3, seed=seed, progress=False)
    x = torch.stack([bundle.test[i][0] for i in range(len(bundle.test))])
    masks = torch.stack([bundle.test.mask(i) for i in range(len(bundle.test))])
    figures = {
        kind: [float(mean_of_finite(measure(relevance, masks))) for measure in MEASURES.values()]
        for kind, relevance in maps_of(model, x).items()
    }
    return figures | {"by chance: the object's share": [float(masks.double().mean())] * len(MEASURES)}


def told(values: list[float] | np.ndarray) -> str:
    """Returns the mean and the standard deviation over seeds."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"digits": digits, "stamps": stamps}[sys.argv[1]]()
