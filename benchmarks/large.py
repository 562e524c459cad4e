"""The conversion of embeddings that do not fit into memory: its peak memory, its time against their number.

    python benchmarks/large.py [--quick] [--folder FOLDER]

Prints Markdown. Writes N × D float16 embeddings of unequal classes to a folder (5 GiB for all), and converts a quarter,
a half and all of them, each in a process of its own.
"""

import argparse
import functools
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from common import in_process, machine, table, use_threads

N, DIM, CLASSES = 1_280_000, 2_048, 1_000
QUICK = 40_000, 256, 100
PER_CLASS = 5
N_INIT = 3  # random starts: the default of 10 takes about three times as long to cluster
ROWS = 16_384


def write_store(folder: Path, n: int, dim: int, classes: int) -> None:
    """Writes embeddings as a rectified layer gives them, shuffled, in classes of 0.2 to 1.8 times the mean size."""
    from lookalike.embedding.store import write_meta

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.2, 1.8, classes)
    labels = np.concatenate([np.arange(classes), rng.choice(classes, n - classes, p=weights / weights.sum())])
    rng.shuffle(labels)
    mixing = (rng.normal(size=(32, dim)) / 6).astype(np.float32)
    modes = rng.normal(size=(classes, 8, 32)).astype(np.float32)
    target = np.lib.format.open_memmap(folder / "embeddings.npy", "w+", np.float16, (n, dim))
    for start in range(0, n, ROWS):
        y = labels[start : start + ROWS]
        latent = modes[y, rng.integers(8, size=len(y))] + rng.standard_normal((len(y), 32), dtype=np.float32)
        target[start : start + ROWS] = np.maximum(latent @ mixing + 0.1, 0)
    target.flush()
    np.save(folder / "labels.npy", labels)
    np.save(folder / "indices.npy", np.arange(n))
    write_meta(folder, ["embeddings", "labels", "indices"], n, None, [], {})


def convert(folder: Path) -> dict[str, float]:
    """Converts a stored embedding."""
    use_threads()
    import torch
    from torch import nn

    from lookalike import convert
    from lookalike.embedding import EmbeddingStore
    from lookalike.encoder import Encoder

    store = EmbeddingStore.open(folder)
    encoder = Encoder(nn.Flatten(), torch.zeros(1, store.embeddings.shape[1]), head="output")
    started = time.perf_counter()
    model = convert(encoder, store, PER_CLASS, n_init=N_INIT, n_images=0, progress=False)
    return {"seconds": time.perf_counter() - started, "prototypes": len(model.prototypes)}


def bandwidth(path: Path, most: int = 4 * 2**30) -> float:
    """Returns how fast a file is read from the disk, bytes per second, once its pages are out of memory."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started, read = time.perf_counter(), 0
        while read < most and (part := file.read(64 * 2**20)):
            read += len(part)
        return read / (time.perf_counter() - started)


def main() -> None:
    """Runs all and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]:,} × {QUICK[1]} only")
    parser.add_argument("--folder", type=Path, help="where the embeddings are written; a temporary folder otherwise")
    parser.add_argument("--all-only", action="store_true", help="all embeddings, without the quarter and the half")
    arguments = parser.parse_args()
    n, dim, classes = QUICK if arguments.quick else (N, DIM, CLASSES)
    use_threads()
    print(f"# Large data\n\n{machine()}\n", flush=True)
    rows, first = [], 0.0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        for part in (1,) if arguments.all_only else (4, 2, 1):
            folder = Path(place) / str(part)
            write_store(folder, n // part, dim, classes)
            _, memory, found = in_process(functools.partial(convert, folder))
            seconds = found["seconds"]  # type: ignore[index]
            first = first or seconds / (n // part)
            size = (folder / "embeddings.npy").stat().st_size
            share = size / seconds / bandwidth(folder / "embeddings.npy")
            rows.append(
                [
                    f"{n // part:,}",
                    f"{size / 2**30:.2f} GiB",
                    f"{seconds:.0f} s",
                    f"{seconds / (n // part) / first:.2f}",
                    f"{memory:.2f} GiB",
                    f"{share:.1%}",
                ]
            )
            print(rows[-1], file=sys.stderr, flush=True)
            (folder / "embeddings.npy").unlink()
    heads = ["embeddings", "on disk", "conversion", "time per embedding, first = 1", "peak memory", "of read bandwidth"]
    title = f"{dim} dimensions, float16, {classes:,} unequal classes, {PER_CLASS} prototypes each, n_init={N_INIT}"
    print(table(title, heads, rows))
    print("Peak memory is the operating system's (VmHWM), everything included. Share of the read bandwidth: bytes on")
    print("disk over the conversion's time, over the speed of reading the file from end to end.")


if __name__ == "__main__":
    main()
