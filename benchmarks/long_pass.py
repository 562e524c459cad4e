"""A long embedding pass from files beside a user's plain loop, both on the clock, on a processor with bfloat16 or not.

    python benchmarks/long_pass.py [--files 2000] [--network ResNet34]

Prints Markdown: seconds on the clock, which mean something on an idle machine only, once each after a short run. The
precision is what ``"auto"`` chooses. Images: pieces of scikit-learn's two photographs of 256², as JPEG files.
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from common import machine, table, timed, use_threads
from embedding import BATCH, MEAN, STD, networks, plain_loop, write_photographs
from lookalike.data import Preprocessing, load_folder
from lookalike.embedding import EmbeddingStore, embed
from lookalike.embedding.precision import has_bfloat16
from lookalike.encoder import Encoder

SIDE = 224
_WARM_UP = 64  # files


def measure(net: nn.Module, place: Path, n_files: int) -> list[str]:
    """Times both passes over a folder, after a short one of each."""
    encoder = Encoder(net, torch.rand(2, 3, SIDE, SIDE))

    def ours(folder: Path) -> EmbeddingStore:
        data = load_folder(folder.parent, Preprocessing.square(SIDE, mean=MEAN, std=STD)).train
        return embed(encoder, data, batch_size=BATCH, progress=False)

    for name, number in (("warm-up", _WARM_UP), ("all", n_files)):
        folder = place / name / "train"
        write_photographs(folder, number)
        plain, _ = timed(functools.partial(plain_loop, net, folder, SIDE))
        taken, store = timed(functools.partial(ours, folder))
    assert isinstance(store, EmbeddingStore)
    precision = str(store.info["precision"])
    return [f"{n_files:,}", f"{plain:.1f} s", f"{taken:.1f} s", precision, f"{plain / taken:.2f}"]


def main() -> None:
    """Runs it and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--network", choices=list(networks()), action="append")
    given = parser.parse_args()
    use_threads()
    print(f"# A long pass\n\n{machine()}; bfloat16 in hardware: {'yes' if has_bfloat16() else 'no'}\n")
    rows = []
    for name in given.network or networks():
        with tempfile.TemporaryDirectory() as place:
            rows.append([name, *measure(networks()[name](), Path(place), given.files)])
    print(table(f"{SIDE}²", ["", "files", "plain loop", "lookalike", "precision", "loop / lookalike"], rows))


if __name__ == "__main__":
    main()
