"""Processor time of one relevance map per image beside other packages: Zennit, autoLRP and lxt.

    python benchmarks/peers.py [--repeats 5] [--threads 1] [CASE ...]

Needs ``pip install zennit autolrp``, and ``pip install --no-deps lxt`` with transformers for the Vision Transformer; a
package that is not installed has no row. All run in turn in one process; seconds are processor time, user and system.
Prints Markdown.
"""

import argparse
import functools
import importlib
import importlib.util
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from common import processor, table
from lookalike.relevance import lrp
from networks import forward, network

CNNS = {"resnet34-1": (224, 1), "resnet34-5": (224, 5), "resnet34-32": (32, 50)}
VIT = "vit"


def is_installed(package: str) -> bool:
    """Returns whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def autolrp_map(net: nn.Module, x: Tensor, *, transformer: bool) -> Tensor:
    """Maps of class 0 by autoLRP: ε for linear layers, and z⁺ for convolutions or AttnLRP's rules."""
    import autolrp

    rules = autolrp.ATTNLRP if transformer else {"ConvolutionBackward": "zplus"}
    pixels = autolrp.tensor(x)
    scores = net(pixels)
    scores = getattr(scores, "logits", scores)
    scores[:, 0].sum().lrp(config=autolrp.LRPConfig(rule={**autolrp.BASE, **rules}))
    return pixels.relevance


def lxt_map(net: nn.Module, x: Tensor) -> Tensor:
    """Maps of class 0 by lxt: gradient × input of a patched network."""
    pixels = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(pixels).logits[:, 0].sum(), pixels)
    return pixels.detach() * gradient


def patch_by_lxt() -> None:
    """Patches the Vision Transformer of transformers as lxt does; its own entry point needs an older transformers."""
    from transformers.models.vit import modeling_vit

    origin = importlib.util.find_spec("lxt").origin
    bare = types.ModuleType("lxt.efficient")
    bare.__path__ = [str(Path(origin).parent / "efficient")]
    sys.modules["lxt.efficient"] = bare
    patches = importlib.import_module("lxt.efficient.patches")
    activation = importlib.import_module("transformers").activations.GELUActivation
    activation.original_forward, activation.forward = activation.forward, patches.non_linear_forward
    nn.LayerNorm.forward = patches.layer_norm_forward
    modeling_vit.eager_attention_forward = patches.wrap_attention_forward(modeling_vit.eager_attention_forward)


def of_cnn(size: int, batch: int) -> tuple[dict[str, Callable[[], object]], Callable[[], object]]:
    """Returns the ways to a map of ResNet34, and its forward pass."""
    net, x = network("resnet34"), torch.randn(batch, 3, size, size)
    runs: dict[str, Callable[[], object]] = {"lookalike": lambda: lrp(net, x, 0, batch_size=batch)}
    if is_installed("zennit"):
        from relevance import zennit_map

        runs["Zennit"] = functools.partial(zennit_map, net, x)
    if is_installed("autolrp"):
        runs["autoLRP"] = functools.partial(autolrp_map, net, x, transformer=False)
    return runs, functools.partial(forward, net, x)


def of_vit() -> tuple[dict[str, Callable[[], object]], Callable[[], object]]:
    """Returns the ways to a map by AttnLRP of a ViT-B/16 of transformers, and its forward pass."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(num_labels=1000, attn_implementation="eager")
    net, x = transformers.ViTForImageClassification(config).eval(), torch.randn(2, 3, 224, 224)
    runs: dict[str, Callable[[], object]] = {"lookalike": lambda: lrp(net, x, 0, "attnlrp", batch_size=2)}
    if is_installed("autolrp"):
        runs["autoLRP"] = functools.partial(autolrp_map, net, x, transformer=True)
    if is_installed("lxt"):
        runs["lxt"] = functools.partial(lxt_map, net, x)
    return runs, functools.partial(forward, net, x)


def processor_seconds(run: Callable[[], object]) -> float:
    """Returns the processor time of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(name: str, repeats: int) -> list[list[str]]:
    """Times all ways to a map in turn with the forward pass; returns a row for each. lxt comes last, as it patches."""
    runs, bare = of_vit() if name == VIT else of_cnn(*CNNS[name])
    title = "ViT-B/16, 224², batch 2, AttnLRP" if name == VIT else "ResNet34, {}², batch {}".format(*CNNS[name])
    rows, fastest = [], 0.0
    bare()
    forward_seconds = statistics.median(processor_seconds(bare) for _ in range(repeats))
    for package, run in runs.items():
        if package == "lxt":
            patch_by_lxt()
        run()
        seconds = statistics.median(processor_seconds(run) for _ in range(repeats))
        fastest = fastest or seconds
        rows.append([title, package, f"{seconds / forward_seconds:.1f}", f"{seconds / fastest:.1f}"])
    return rows


def main() -> None:
    """Runs all and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join([*CNNS, VIT])}; all if none is named")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if not set(given.cases) <= {*CNNS, VIT}:
        parser.error(f"the cases are {', '.join([*CNNS, VIT])}")
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    rows = [row for name in given.cases or [*CNNS, VIT] for row in measure(name, given.repeats)]
    print(f"# Relevance beside other packages\n\n{processor()}, {given.threads} threads, torch {torch.__version__}\n")
    columns = ["", "", "forward passes", "times lookalike's time"]
    print(table(f"Processor time of one map per image (medians of {given.repeats})", columns, rows))


if __name__ == "__main__":
    main()
