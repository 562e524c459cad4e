"""Relevance-ordering curves beside their bare forward passes and beside Quantus' pixel flipping.

    python benchmarks/evaluate.py [--quick]

Prints Markdown: 100 images × 20 steps × 5 draws, the same number of rows through the network for all. Needs the extra
``test``.
"""

import functools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from common import begin, in_process, ratio, side_by_side, table, use_threads
from lookalike.data import Preprocessing, load_digits
from lookalike.metrics import Noise, relevance_ordering
from lookalike.metrics.black_box import at_precision

STEPS, DRAWS = 20, 5
SIDE = 40  # Quantus takes only steps that divide the number of pixels
BATCH = 250


def digits_network(size: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Makes ResNet34 for grey images, untrained but for batch-norm statistics, and reads some digits."""
    torch.manual_seed(0)
    net = torchvision.models.resnet34(num_classes=10)
    net.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)  # of more channels Quantus makes more steps
    digits = load_digits(Preprocessing.square(size, mean=(0.13,), std=(0.31,)))
    x = torch.stack([digits.test[row][0] for row in range(0, 1000, 10)])
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(x[:50])
    return net.eval(), x, torch.rand(len(x), size, size, generator=torch.Generator().manual_seed(0))


def noise() -> Noise:
    """White noise over the digits' range of values."""
    return Noise(torch.tensor([-0.42]), torch.tensor([2.8]), DRAWS)


def probabilities(net: nn.Module, images: Tensor) -> Tensor:
    """Class probabilities in float32."""
    return net(images).softmax(1)


def half(net: nn.Module, images: Tensor) -> Tensor:
    """Class probabilities with the network in bfloat16."""
    with at_precision("bfloat16", images.device):
        return net(images.contiguous(memory_format=torch.channels_last)).float().softmax(1)


@torch.no_grad()
def bare(net: nn.Module, x: Tensor) -> None:
    """As many rows through the network, and nothing else."""
    rows = x.repeat(BATCH // len(x) + 1, 1, 1, 1)[:BATCH]
    for _ in range(len(x) * STEPS * DRAWS // BATCH):
        net(rows)


def ours(net: nn.Module, x: Tensor, relevance: Tensor, score: object = probabilities) -> float:
    """Relevance-ordering curves of all images."""
    asked = functools.partial(score, net)  # type: ignore[operator]
    return relevance_ordering(asked, x, relevance, noise(), n_steps=STEPS, batch_size=BATCH).auroc


def quantus(net: nn.Module, x: Tensor, relevance: Tensor) -> None:
    """Quantus' pixel flipping as often as there are draws: as many rows through the network."""
    from quantus import PixelFlipping

    n_pixels = x.shape[-1] * x.shape[-2]
    metric = PixelFlipping(
        features_in_step=n_pixels // STEPS,
        perturb_baseline="uniform",
        normalise=False,
        abs=False,
        return_auc_per_sample=False,
        disable_warnings=True,
        display_progressbar=False,
    )
    targets = np.zeros(len(x), dtype=int)
    for _ in range(DRAWS):
        metric(
            model=net,
            x_batch=x.numpy(),
            y_batch=targets,
            a_batch=relevance[:, None].numpy(),
            device="cpu",
            softmax=True,
            channel_first=True,
            batch_size=len(x),
        )


def rows_of(net: nn.Module, run: Callable[[], object]) -> int:
    """Counts the rows that a run sends through the network."""
    seen: list[int] = []
    handle = net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    run()
    handle.remove()
    return sum(seen)


def peak(what: str) -> None:
    """Runs one of them for its memory."""
    use_threads()
    net, x, relevance = digits_network(SIDE)
    {"bare": lambda: bare(net, x), "ours": lambda: ours(net, x, relevance)}[what]()


def main() -> None:
    """Runs all and prints Markdown."""
    quick = begin("Evaluation", __doc__, "20 images, one repeat")
    net, x, relevance = digits_network(SIDE)
    if quick:
        x, relevance = x[:20], relevance[:20]
    repeats = 1 if quick else 3
    runs = {
        "bare forward passes": lambda: bare(net, x),
        "relevance_ordering": lambda: ours(net, x, relevance),
        "relevance_ordering, bfloat16": lambda: ours(net, x, relevance, half),
        "Quantus, pixel flipping": lambda: quantus(net, x, relevance),
    }
    times = dict(zip(runs, side_by_side(list(runs.values()), repeats), strict=True))
    counts = [
        rows_of(net, run)
        for run in (lambda: ours(net, x[:5], relevance[:5]), lambda: quantus(net, x[:5], relevance[:5]))
    ]
    print(f"Rows through the network per image: {counts[0] / 5:.0f} ours, {counts[1] / 5:.0f} Quantus'.\n")
    rows = [
        [name, f"{statistics.median(taken):.1f} s", f"{ratio(taken, times['bare forward passes']):.2f}"]
        for name, taken in times.items()
    ]
    title = f"ResNet34 at {SIDE}²: {len(x)} images × {STEPS} steps × {DRAWS} draws (median of {repeats} runs in turn)"
    print(table(title, ["", "time", "× bare forward passes"], rows), flush=True)
    difference = abs(ours(net, x, relevance) - ours(net, x, relevance, half))
    print(f"AUROC in bfloat16 differs by {difference:.4f}.\n")
    base, found = in_process(functools.partial(peak, "bare"))[1], in_process(functools.partial(peak, "ours"))[1]
    print(table("Peak memory", ["", "peak"], [["bare", f"{base:.2f} GiB"], ["relevance_ordering", f"{found:.2f} GiB"]]))


if __name__ == "__main__":
    main()
