"""What ``explain(relevance=True)`` costs, in forward passes of the network, with and without its pictures.

    python benchmarks/explaining.py --folder FOLDER [--images N] [--threads N]

FOLDER is that of ``benchmarks/waits.py``, which keeps photographs and a model there. One call explains N of its
photographs, 100 by default, with three prototypes each, the black box's map and the maps on the prototypes' images;
then each is drawn. A forward pass is the plain network's on the same photographs, six at once. Prints Markdown, by
processor time of one thread, which a shared machine hardly changes; the passes are timed before and after, and the
faster time counts.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from common import machine, table
from lookalike import explain, load
from lookalike.plots import sheet_axes
from lookalike.plots.pixels import figure_png

PASSED_AT_ONCE = 6


def processor_time(work: Callable[[], object]) -> float:
    """Returns the processor time of a call, in seconds."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Measures and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load(given.folder / "model")
    files = sorted((given.folder / "photographs").rglob("*.jpg"))[: given.images]
    batches = [batch.inputs for batch in model.read_inputs(files, 32)]
    network, drawn = model.encoder.model, []

    @torch.no_grad()
    def passes() -> None:
        for batch in batches:
            for rows in batch.split(PASSED_AT_ONCE):
                network(rows)

    def explained() -> None:
        drawn.extend(explain(model, torch.cat(batches), relevance=True))

    def draw() -> None:
        for explanation in drawn:
            (ax,) = sheet_axes(1, len(explanation.shown), with_maps=True)
            figure_png(explanation.plot(ax), dpi=150)

    passes()
    explain(model, batches[0][:1], relevance=True)
    before = processor_time(passes)
    of_maps, of_drawing = processor_time(explained), processor_time(draw)
    of_pass = min(before, processor_time(passes)) / len(files)
    rows = [
        [name, f"{1000 * seconds / len(files):.0f} ms", f"{seconds / len(files) / of_pass:.1f}"]
        for name, seconds in (("explain", of_maps), ("draw", of_drawing), ("both", of_maps + of_drawing))
    ]
    print(f"# explain(relevance=True)\n\n{machine()}\n")
    title = f"{len(files)} photographs, {type(network).__name__}; a forward pass takes {1000 * of_pass:.0f} ms"
    print(table(title, ["", "an image", "forward passes"], rows))


if __name__ == "__main__":
    main()
