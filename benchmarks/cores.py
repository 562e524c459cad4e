"""Passes on a CPU whose threads compute different images, beside passes that divide each operation among all cores.

    python benchmarks/cores.py [--quick]

Networks with random weights embed 48 images of 224² from memory, as ``embed`` does, and relevance is propagated from
their embeddings to the pixels of 42 of these. Both ways run in turn; medians, in Markdown. Times mean something on idle
cores only.
"""

import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from common import begin, ratio, side_by_side, table
from lookalike._core.acceleration import Accelerated
from lookalike.encoder import Encoder, rows_at_once
from lookalike.encoder.side_by_side import SideBySide
from lookalike.relevance.propagation import RelevanceStart, Run, propagate
from lookalike.relevance.result import Relevance

N_IMAGES, N_MAPPED, SIDE = 48, 42, 224
NETWORKS = {
    "EfficientNet-Lite0": "efficientnet_lite0",
    "ResNet34": "resnet34",
    "MobileNetV3-Small": "mobilenetv3_small_100",
    "DenseNet121": "densenet121",
    "ViT-Ti/16": "vit_tiny_patch16_224",
    "ConvNeXt-Atto": "convnext_atto",
}


def encoder_of(name: str, images: Tensor) -> Encoder:
    """Returns a network of timm as an encoder."""
    import timm

    return Encoder(timm.create_model(name).eval(), images[:2])


def ways_to_embed(encoder: Encoder, images: Tensor) -> list[Callable[[], object]]:
    """Returns the two ways to embed images."""
    parts = images.split(rows_at_once(images, len(images), images.device))
    threads, accelerated = SideBySide(encoder), Accelerated()

    def one_after_the_other() -> list[Tensor]:
        with torch.no_grad(), accelerated:
            return [encoder(rows) for rows in parts]

    def in_threads() -> list[Tensor]:
        with torch.no_grad(), accelerated:
            return threads.run(lambda network, rows: network(rows), parts)

    return [one_after_the_other, in_threads]


def ways_to_map(encoder: Encoder, images: Tensor) -> list[Callable[[], object]]:
    """Returns the two ways to compute heat-maps of embeddings."""

    def starts(outputs: Tensor, _rows: slice, _chosen: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        values = outputs.detach()
        yield torch.ones_like(values), values.sum(1)

    def maps(run: Run) -> list[Relevance]:
        return list(propagate(encoder, images, run, RelevanceStart(starts), "epsilon-plus-flat", 32, False))

    one_after_the_other = Run(lambda _, rows: encoder(rows))  # of a network that it does not name, there are no copies
    in_threads = Run(lambda network, rows: network(rows), encoder)
    return [lambda: maps(one_after_the_other), lambda: maps(in_threads)]


def main() -> None:
    """Runs all and prints Markdown."""
    is_quick = begin("Cores", __doc__, "two networks and fewer repeats")
    torch.manual_seed(0)
    images = torch.randn(N_IMAGES, 3, SIDE, SIDE)
    columns = ["per image", "all cores for each operation", "threads side by side", "ratio"]
    for title, ways_of, used, repeats in (
        (f"Embedding images of {SIDE}²", ways_to_embed, images, 7),
        (f"Heat-maps of images of {SIDE}²", ways_to_map, images[:N_MAPPED], 3),
    ):
        rows = []
        for network, name in list(NETWORKS.items())[: 2 if is_quick else None]:
            seconds = side_by_side(ways_of(encoder_of(name, images), used), 2 if is_quick else repeats)
            each = [f"{statistics.median(taken) / len(used) * 1e3:.1f} ms" for taken in seconds]
            rows.append([network, *each, f"{ratio(seconds[1], seconds[0]):.2f}"])
        print(table(title, columns, rows))


if __name__ == "__main__":
    main()
