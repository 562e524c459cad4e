"""Interrupts calls at every kind of moment, and checks that the model and the process are left as they were.

    python tools/interrupt_anywhere.py --times 500

For each call, all lines (or instructions, with --instructions) that Python runs in the package, in torch's own Python
code and in the standard library's contexts are counted first. Then the call is run again and again, each time with an
exception at another one of them, evenly spread.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tests.interruptions import interrupt
from tests.small import bright_images, small_network
from torch import nn

from lookalike import convert, embed, evaluate, explain, load
from lookalike.metrics import compare
from lookalike.relevance import lrp, prp
from lookalike.report import write_report


def calls(net: nn.Module, folder: Path) -> dict[str, Callable[[], object]]:
    """Returns the calls that are interrupted, by name."""
    x, y = bright_images(30)
    sem = convert(net, (x, y), n_prototypes=2)
    sem.save(folder / "saved")
    explained = explain(sem, x[:1])[0]

    def forward_and_backward() -> None:
        inputs = x[:4].clone().requires_grad_()
        torch.autograd.grad(sem(inputs).sum(), inputs)

    return {
        "embed": lambda: embed(net, (x, y), batch_size=10),
        "fit": lambda: convert(net, (x, y), n_prototypes=2),
        "predict": lambda: sem.predict(x[:4]),
        "predict_proba": lambda: sem.predict_proba(x[:4]),
        "forward and backward": forward_and_backward,
        "compare": lambda: compare(sem, (x, y)),
        "lrp": lambda: lrp(net, x[:2]),
        "prp": lambda: prp(sem, x[:2]),
        "explain with maps": lambda: explain(sem, x[:2], relevance=True),
        "plot": lambda: explained.plot(),
        "evaluate": lambda: evaluate(sem, (x, y), train=(x, y), n_images=2, n_steps=2, n_draws=1, progress=False),
        "report": lambda: write_report(
            sem,
            (x, y),
            folder / "report.html",
            train=(x, y),
            overwrite=True,
            n_images=2,
            n_steps=2,
            n_draws=1,
            n_browse=3,
            progress=False,
        ),
        "save": lambda: sem.save(folder / "saved", overwrite=True),
        "load": lambda: load(folder / "saved", model=net),
    }


def main() -> int:
    """Prints a table, and returns 1 if anything was changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=500, help="interruptions in all")
    parser.add_argument("--instructions", action="store_true", help="between instructions, not only between lines")
    parser.add_argument("--only", help="the name of one call")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    net, failures = small_network(), 0
    with tempfile.TemporaryDirectory() as folder:
        todo = calls(net, Path(folder))
        if options.only:
            todo = {options.only: todo[options.only]}
        each = -(-options.times // len(todo))
        print(f"{'call':<22}{'moments':>10}{'interrupted':>13}{'changed':>9}{'seconds':>9}")
        for name, run in todo.items():
            started = time.perf_counter()
            moments, interrupted, changed = interrupt(run, net, each, instructions=options.instructions)
            failures += len(changed)
            print(f"{name:<22}{moments:>10,}{interrupted:>13}{len(changed):>9}{time.perf_counter() - started:>9.1f}")
            for line in changed:
                print(f"  {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
