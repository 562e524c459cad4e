"""How long an edit takes, with its effect: 50,000 embeddings of 512 dimensions, 10 classes, 5 prototypes each.

    python benchmarks/editing.py [--samples 50000] [--dimensions 512] [--classes 10] [--repeats 5]

Prints the wall and CPU time of each kind of edit, the least of several repeats.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lookalike import EmbeddingStore, convert
from lookalike.editing import Add, Drop, Edit, EditSession, Merge, Move, Rename, Split


class _Pass(nn.Module):
    """A network whose embedding is its input."""

    def __init__(self, dimensions: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(dimensions, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def _session(samples: int, dimensions: int, classes: int) -> EditSession:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    centres = rng.normal(size=(classes, 4, dimensions))
    z = (centres[labels, rng.integers(0, 4, samples)] * 0.2 + rng.normal(size=(samples, dimensions))).astype(np.float32)
    store = EmbeddingStore(z, labels, np.arange(samples))
    model = convert(
        _Pass(dimensions, classes), (torch.from_numpy(z[: 20 * classes]), torch.arange(20 * classes) % classes)
    )
    return EditSession(model, store)


def main() -> None:
    """Measures, and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("samples", 50_000), ("dimensions", 512), ("classes", 10), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    session = _session(options.samples, options.dimensions, options.classes)
    vector = tuple(np.random.default_rng(1).normal(size=options.dimensions).astype(np.float32).tolist())
    edits: dict[str, Callable[[], Edit]] = {
        "first edit (drop)": lambda: Drop((0,)),
        "drop": lambda: Drop((1,)),
        "rename": lambda: Rename(0, "a name"),
        "merge": lambda: Merge((0, 1)),
        "split": lambda: Split(2, 3),
        "add": lambda: Add("0", vector),
        "move": lambda: Move(3, "1"),
    }
    results = {}
    for name, edit in edits.items():
        times = []
        for _ in range(1 if name.startswith("first") else options.repeats):
            started, cpu = time.perf_counter(), time.process_time()
            session.do(edit())
            times.append((time.perf_counter() - started, time.process_time() - cpu))
            session.undo()
        results[name] = {
            "seconds": round(min(t[0] for t in times), 3),
            "cpu_seconds": round(min(t[1] for t in times), 3),
        }
    print(json.dumps({**vars(options), "threads": torch.get_num_threads(), "edits": results}, indent=2))


if __name__ == "__main__":
    main()
