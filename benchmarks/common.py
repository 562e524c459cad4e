"""What the benchmarks share: the data, the timing, the table."""

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from lookalike._core.provenance import processor

THREADS = int(os.environ.get("LOOKALIKE_THREADS", "2"))


def use_threads() -> None:
    """Gives every library the same number of threads."""
    torch.set_num_threads(THREADS)


def begin(title: str, description: str | None, quick_help: str, note: str = "") -> bool:
    """Reads the command line, sets the threads and prints the heading; returns whether ``--quick`` was asked for.

    Args:
        title: The heading.
        description: What the script does, for its help.
        quick_help: What ``--quick`` leaves out.
        note: Printed behind the machine.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=quick_help)
    is_quick: bool = parser.parse_args().quick
    use_threads()
    print(f"# {title}\n\n{machine()}{note}\n")
    return is_quick


def embeddings(n_per_class: int, n_classes: int = 10, dim: int = 512, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Makes embeddings as a rectified layer gives them: non-negative, of low rank, several modes per class."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(32, dim)) / 6
    parts = []
    for _ in range(n_classes):
        modes = rng.normal(size=(int(rng.integers(3, 20)), 32))
        latent = modes[rng.integers(len(modes), size=n_per_class)] + rng.normal(size=(n_per_class, 32))
        parts.append(np.maximum(latent @ mixing + 0.3 * rng.normal(size=(n_per_class, dim)), 0).astype(np.float32))
    return np.concatenate(parts), np.repeat(np.arange(n_classes), n_per_class)


def timed(run: Callable[[], object]) -> tuple[float, object]:
    """Returns seconds and result of one run."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def side_by_side(runs: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Times several things in turn, so that a change of the machine's speed meets all; seconds per thing."""
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, kept in zip(runs, seconds, strict=True):
            kept.append(timed(run)[0])
    return seconds


def cpu_side_by_side(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Returns the median CPU seconds (user and system, all threads) of each run; the runs alternate."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, kept in zip(runs, seconds, strict=True):
            started = time.process_time()
            run()
            kept.append(time.process_time() - started)
    return [statistics.median(kept) for kept in seconds]


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Returns the median of the ratios of runs that were timed next to each other."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def _measured(connection: object, run: Callable[[], object]) -> None:
    seconds, result = timed(run)
    # not getrusage: its maximum counts the parent's memory at the moment of the fork
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    connection.send((seconds, int(peak.split()[1]) / 2**20, result))  # type: ignore[attr-defined]


def in_process(run: Callable[[], object]) -> tuple[float, float, object]:
    """Runs something in a process of its own; returns seconds, its peak memory in GiB, and the result (Linux)."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(sender, run))
    process.start()
    found = receiver.recv()
    process.join()
    return found  # type: ignore[no-any-return]


def machine() -> str:
    """Describes the machine in a line."""
    return f"{processor()}, {THREADS} threads, Python {platform.python_version()}, torch {torch.__version__}"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with a heading."""
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])
