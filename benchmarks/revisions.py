"""Processor time of relevance maps in this checkout, over that in another revision of the library.

    python benchmarks/revisions.py REVISION [--repeats 9] [--threads 1] [CASE ...]

REVISION is a commit of this repository, or a folder with another checkout. Each case runs in two processes, one per
revision, which take turns: only one of them works at a time. Seconds are processor time, user and system, so that a
shared machine disturbs little. Prints Markdown.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Case(NamedTuple):
    """A network, its input, and the number of PRP maps, or 0 for an LRP map."""

    network: str
    size: int
    batch: int
    n_prp_maps: int = 0

    @property
    def title(self) -> str:
        """What is timed, in words."""
        maps = f"{self.n_prp_maps} PRP maps" if self.n_prp_maps else "LRP map"
        return f"{maps}, {self.network}, {self.size}², batch {self.batch}"


CASES = {
    "resnet34-5": Case("resnet34", 224, 5),
    "resnet34-1": Case("resnet34", 224, 1),
    "resnet34-32": Case("resnet34", 32, 50),
    "vgg16": Case("vgg16", 224, 2),
    "vit": Case("vit_b_16", 224, 2),
    "prp": Case("resnet34", 224, 5, 5),
}


def work(name: str, threads: int) -> None:
    """Answers each line on standard input with the processor seconds of a forward pass and of the case's maps."""
    import torch

    import lookalike
    from lookalike.relevance import lrp, prp
    from networks import forward, network

    torch.set_num_threads(threads)
    case = CASES[name]
    net = network(case.network)
    x = torch.randn(case.batch, 3, case.size, case.size)
    if case.n_prp_maps:
        train = torch.randn(10, 3, case.size, case.size), torch.tensor([0, 1] * 5)
        if hasattr(lookalike, "convert"):
            model = lookalike.convert(net, train, n_prototypes=5, n_images=0, batch_size=5, progress=False)
        else:  # revisions in which this class was the front door
            model = lookalike.KMEx(net, n_prototypes=5, n_images=0, batch_size=5, progress=False).fit(train)
        maps: Callable[[], object] = lambda: prp(model, x, list(range(case.n_prp_maps)), batch_size=case.batch)  # noqa: E731
    else:
        maps = lambda: lrp(net, x, 0, batch_size=case.batch)  # noqa: E731
    for _ in range(2):
        forward(net, x), maps()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        forward(net, x)
        between = time.process_time()
        maps()
        print(json.dumps([between - start, time.process_time() - between]), flush=True)


@contextmanager
def worker(source: Path, name: str, threads: int) -> Iterator[Callable[[], list[float]]]:
    """Starts a process with the library of a source folder; yields a function that asks it for one measurement."""
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--work", name, "--threads", str(threads)]
    process = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    sender, receiver = process.stdin, process.stdout
    if receiver.readline().strip() != "ready":
        raise SystemExit(f"{name} does not run with the library in {source}")

    def ask() -> list[float]:
        sender.write("\n")
        sender.flush()
        seconds: list[float] = json.loads(receiver.readline())
        return seconds

    try:
        yield ask
    finally:
        sender.close()
        process.wait()


@contextmanager
def source_of(revision: str) -> Iterator[Path]:
    """Yields the folder with a revision's source code."""
    if Path(revision).is_dir():
        yield Path(revision).resolve() / "src"
        return
    archive = subprocess.run(["git", "-C", ROOT, "archive", revision, "src"], check=True, stdout=subprocess.PIPE).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(folder, filter="data")
        yield Path(folder) / "src"


def measure(other: Path, name: str, threads: int, repeats: int) -> list[str]:
    """Times a case with both revisions in turn; returns a row of the table."""
    with worker(other, name, threads) as ask_other, worker(ROOT / "src", name, threads) as ask_this:
        pairs = [(ask_other(), ask_this()) for _ in range(repeats)]
    forward = statistics.median(seconds[0] for pair in pairs for seconds in pair)
    before, now = (statistics.median(pair[which][1] for pair in pairs) for which in (0, 1))
    ratios = sorted(now[1] / before[1] for before, now in pairs)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return [
        CASES[name].title,
        f"{forward * 1e3:.0f} ms",
        f"{before / forward:.2f}",
        f"{now / forward:.2f}",
        f"{quartiles[1]:.3f} ({quartiles[0]:.3f} to {quartiles[2]:.3f})",
    ]


def main() -> None:
    """Runs all and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="?")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all if none is named")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.threads)
        return
    if given.revision is None or not set(given.cases) <= set(CASES):
        parser.error(f"give a revision, and cases of {', '.join(CASES)}")
    os.environ["LOOKALIKE_THREADS"] = str(given.threads)
    from common import machine, table

    columns = ["", "forward pass", f"passes, {given.revision}", "passes, this", "this / other (quartiles)"]
    with source_of(given.revision) as other:
        rows = [measure(other, name, given.threads, given.repeats) for name in given.cases or CASES]
    print(f"# Relevance, two revisions\n\n{machine()}\n")
    print(table(f"Processor time (medians of {given.repeats} in turn)", columns, rows))


if __name__ == "__main__":
    main()
