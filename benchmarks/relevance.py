"""The time and memory of relevance maps, in forward passes, beside Zennit's.

    python benchmarks/relevance.py [--quick]

Prints Markdown. A forward pass is the network's own, without gradients, on the same batch. Needs the extra ``test``.
"""

import functools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from common import begin, in_process, ratio, side_by_side, table, use_threads
from lookalike import convert
from lookalike.relevance import lrp, prp
from networks import forward, network

CASES = (("resnet34", 32, 50), ("resnet34", 224, 5), ("vgg16", 224, 2), ("vit_b_16", 224, 2))
PEERED = {"resnet34"}


def zennit_map(net: nn.Module, x: Tensor) -> Tensor:
    """One map per image, of the class's logit, by Zennit."""
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer

    with Gradient(model=net, composite=EpsilonPlusFlat(canonizers=[ResNetCanonizer()])) as attributor:
        return attributor(x.clone().requires_grad_(), torch.eye(1000)[torch.zeros(len(x), dtype=torch.int64)])[1]


def five_zennit_maps(net: nn.Module, x: Tensor) -> None:
    """Five maps per image by Zennit, one after the other."""
    for _ in range(5):
        zennit_map(net, x)


def in_order(model: nn.Module, x: Tensor, channels_last: bool) -> tuple[nn.Module, Tensor]:
    """Puts a network and its inputs into a memory format."""
    form = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(memory_format=form), x.to(memory_format=form)  # type: ignore[call-overload]


def measure(name: str, size: int, batch: int, channels_last: bool, repeats: int) -> list[list[str]]:
    """Times one map and five, ours and Zennit's, in turn with the forward pass."""
    net, x = in_order(network(name), torch.randn(batch, 3, size, size), channels_last)
    model = convert(
        net, (torch.randn(10, 3, size, size), [0, 1] * 5), n_prototypes=5, n_images=0, batch_size=8, progress=False
    )
    composite = "attnlrp" if name.startswith("vit") else "epsilon-plus-flat"
    runs: dict[str, Callable[[], object]] = {
        "forward pass": functools.partial(forward, net, x),
        "one LRP map": lambda: lrp(net, x, 0, composite, batch_size=batch),
        "five PRP maps": lambda: prp(model, x, [0, 1, 2, 3, 4], composite, batch_size=batch),
    }
    if name in PEERED:
        runs["one map, Zennit"] = functools.partial(zennit_map, net, x)
        runs["five maps, Zennit"] = functools.partial(five_zennit_maps, net, x)
    times = dict(zip(runs, side_by_side(list(runs.values()), repeats), strict=True))
    where = f"{name}, {size}², batch {batch}, {'channels last' if channels_last else 'channels first'}"
    rows = []
    for what, peer in (("one LRP map", "one map, Zennit"), ("five PRP maps", "five maps, Zennit")):
        passes = ratio(times[what], times["forward pass"])
        cells = [where, what, f"{statistics.median(times[what]) * 1e3:.0f} ms", f"{passes:.1f}"]
        if peer in times:
            cells += [f"{ratio(times[peer], times['forward pass']):.1f}", f"{ratio(times[peer], times[what]):.1f}"]
        else:
            cells += ["–", "–"]
        rows.append(cells)
    return rows


def peak(what: str) -> None:
    """Makes five maps of ResNet34 at 224², batch 5, for its memory."""
    use_threads()
    net, x = network("resnet34"), torch.randn(5, 3, 224, 224)
    if what == "zennit":
        five_zennit_maps(net, x)
    elif what == "lookalike":
        lrp(net, x, [[0, 1, 2, 3, 4]] * 5, batch_size=5)
    else:
        forward(net, x)


def main() -> None:
    """Runs all and prints Markdown."""
    quick = begin("Relevance", __doc__, "small images and few repeats")
    cases = CASES[:1] if quick else CASES
    rows = []
    for name, size, batch in cases:
        for channels_last in (False, True) if name in PEERED else (False,):
            rows += measure(name, size, batch, channels_last, 3 if quick else 5)
    columns = ["", "", "time", "forward passes", "Zennit's forward passes", "times faster than Zennit"]
    print(table(f"Time (median of {3 if quick else 5} runs in turn)", columns, rows), flush=True)
    base = in_process(functools.partial(peak, "forward"))[1]
    memory = [
        [f"five maps, {who}", f"{in_process(functools.partial(peak, who))[1] - base:.2f} GiB"]
        for who in ("lookalike", "zennit")
    ]
    print(table("Memory on top of a forward pass (ResNet34, 224², batch 5)", ["", "peak"], memory))


if __name__ == "__main__":
    main()
