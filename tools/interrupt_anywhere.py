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
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tests.watch import differing, model_state, process_state
from torch import Tensor, nn

from lookalike import KMEx, embed, evaluate, explain, load
from lookalike.metrics import compare
from lookalike.relevance import lrp, prp

WATCHED = ("lookalike", "torch", "contextlib", "weakref", "threading")
_UNWATCHED = ("torch._dynamo", "torch._inductor")


class Interruption(BaseException):
    """Stands for Ctrl-C, an alarm, or an error in a hook."""


class Tracer:
    """Counts events of a call, and raises at one of them.

    Args:
        at: At which event; None only counts.
        instructions: Whether each instruction is an event, and not each line.
    """

    def __init__(self, at: int | None, *, instructions: bool) -> None:
        self.at = at
        self.instructions = instructions
        self.events = 0
        self.where = ""

    def __enter__(self) -> "Tracer":
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in WATCHED or module.startswith(_UNWATCHED):
            return None
        if self.instructions:
            frame.f_trace_opcodes = True
        if event == "opcode" or (event in ("call", "line", "return") and not self.instructions):
            self._count(frame)
        return self._trace

    def _count(self, frame: FrameType) -> None:
        self.events += 1
        if self.events == self.at:
            self.where = f"{frame.f_globals.get('__name__')}:{frame.f_lineno}"
            raise Interruption


def make_network() -> nn.Module:
    """Returns a small network, in train mode in part, frozen in part."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16, 3),
    )
    net.train()
    net[1].eval()
    net[0].requires_grad_(False)
    return net


def make_images(n: int = 30) -> tuple[Tensor, Tensor]:
    """Returns images of 3 classes that differ in where they are bright."""
    y = torch.arange(n) % 3
    x = 0.3 * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for k, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        x[y == k, :, row : row + 4, column : column + 4] += 2
    return x, y


def calls(net: nn.Module, folder: Path) -> dict[str, Callable[[], object]]:
    """Returns the calls that are interrupted, by name."""
    x, y = make_images()
    sem = KMEx(net, n_prototypes=2).fit((x, y))
    sem.save(folder / "saved")

    def forward_and_backward() -> None:
        inputs = x[:4].clone().requires_grad_()
        torch.autograd.grad(sem(inputs).sum(), inputs)

    return {
        "embed": lambda: embed(net, (x, y), batch_size=10),
        "fit": lambda: KMEx(net, n_prototypes=2).fit((x, y)),
        "predict": lambda: sem.predict(x[:4]),
        "predict_proba": lambda: sem.predict_proba(x[:4]),
        "forward and backward": forward_and_backward,
        "compare": lambda: compare(sem, (x, y)),
        "lrp": lambda: lrp(net, x[:2]),
        "prp": lambda: prp(sem, x[:2]),
        "explain with maps": lambda: explain(sem, x[:2], relevance=True),
        "evaluate": lambda: evaluate(sem, (x, y), train=(x, y), n_images=2, n_steps=2, n_draws=1, progress=False),
        "save": lambda: sem.save(folder / "saved", overwrite=True),
        "load": lambda: load(folder / "saved", model=net),
    }


def interrupt(
    run: Callable[[], object], net: nn.Module, times: int, *, instructions: bool
) -> tuple[int, int, list[str]]:
    """Interrupts a call at moments that are evenly spread.

    Args:
        run: The call.
        net: The model that it must leave alone.
        times: How often.
        instructions: See ``Tracer``.

    Returns:
        How many moments there are, at how many the call was interrupted, and what was changed where.
    """
    run()  # loads what is loaded on first use
    with Tracer(None, instructions=instructions) as counter:
        run()
    changed, interrupted = [], 0
    for number in range(times):
        at = 1 + number * counter.events // times
        before = model_state(net), process_state()
        tracer = Tracer(at, instructions=instructions)
        held: BaseException | None = None
        try:
            with tracer:
                run()
        except BaseException as error:
            held = error  # its frames are alive, as in a debugger: nothing may wait for them to go
            if not tracer.where:
                raise
        interrupted += bool(tracer.where)
        after = model_state(net), process_state()
        wrong = differing(before[0], after[0]) + differing(before[1], after[1])
        if held is not None and not isinstance(held, Interruption):
            wrong.append(f"the interruption became a {type(held).__name__}")
        if wrong:
            changed.append(f"{', '.join(wrong)} (interrupted at {tracer.where})")
        del held
    return counter.events, interrupted, changed


def main() -> int:
    """Prints a table, and returns 1 if anything was changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=500, help="interruptions in all")
    parser.add_argument("--instructions", action="store_true", help="between instructions, not only between lines")
    parser.add_argument("--only", help="the name of one call")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    net, failures = make_network(), 0
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
