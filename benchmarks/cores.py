"""Passes on a CPU whose threads compute different images, beside passes that divide each operation among all cores.

    python benchmarks/cores.py [--quick]

Networks with random weights embed 48 images of 224² from memory, as ``embed`` does. Both ways run in turn; medians, in
Markdown. Times mean something on idle cores only.
"""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from common import begin, ratio, side_by_side, table
from lookalike._core.acceleration import Accelerated
from lookalike.encoder import Encoder, rows_at_once
from lookalike.encoder.side_by_side import SideBySide

N_IMAGES, SIDE = 48, 224
NETWORKS = {
    "EfficientNet-Lite0": "efficientnet_lite0",
    "ResNet34": "resnet34",
    "MobileNetV3-Small": "mobilenetv3_small_100",
    "DenseNet121": "densenet121",
    "ViT-Ti/16": "vit_tiny_patch16_224",
    "ConvNeXt-Atto": "convnext_atto",
}


def ways_of(name: str, images: Tensor) -> list[Callable[[], object]]:
    """Returns the two ways to embed images with a network of timm."""
    import timm

    encoder = Encoder(timm.create_model(name).eval(), images[:2])
    parts = images.split(rows_at_once(images, len(images), images.device))
    threads, accelerated = SideBySide(encoder), Accelerated()

    def one_after_the_other() -> list[Tensor]:
        with torch.no_grad(), accelerated:
            return [encoder(rows) for rows in parts]

    def in_threads() -> list[Tensor]:
        with torch.no_grad(), accelerated:
            return threads.run(lambda network, rows: network(rows), parts)

    return [one_after_the_other, in_threads]


def main() -> None:
    """Runs all and prints Markdown."""
    is_quick = begin("Cores", __doc__, "two networks and fewer repeats")
    torch.manual_seed(0)
    images, rows = torch.randn(N_IMAGES, 3, SIDE, SIDE), []
    for title, name in list(NETWORKS.items())[: 2 if is_quick else None]:
        seconds = side_by_side(ways_of(name, images), 3 if is_quick else 7)
        each = [f"{statistics.median(taken) / N_IMAGES * 1e3:.1f} ms" for taken in seconds]
        rows.append([title, *each, f"{ratio(seconds[1], seconds[0]):.2f}"])
    columns = ["per image", "all cores for each operation", "threads side by side", "ratio"]
    print(table(f"Embedding images of {SIDE}²", columns, rows))


if __name__ == "__main__":
    main()
