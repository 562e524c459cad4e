"""Which k-means suits large data? A question that the paper leaves open."""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.draws import combined_seed, seeded
from lookalike._core.errors import LookalikeError
from lookalike.conversion.clustering import assign, cluster
from lookalike.data import Augmentation, Batches, DataBundle
from lookalike.embedding import as_encoder, embed
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.tables import Column, Row, gather, over_seeds
from lookalike.experiments.variants import line_style
from lookalike.experiments.workbench import KMEX, Subject, Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COPIES, _QUICK_COPIES = (1, 8, 32), (1,)  # multiples of the training images
_PER_CLASS = 20
_PANEL = (2.7, 2.2)  # inches
_METHODS: Mapping[str, tuple[str, float]] = {
    "full": ("kmeans", 1.0),
    "mini-batch": ("minibatch", 1.0),
    "faiss": ("faiss", 1.0),
    "20 % of each class": ("kmeans", 0.2),
    "5 %": ("kmeans", 0.05),
    "1 %": ("kmeans", 0.01),
}
_COLUMNS = (
    Column("accuracy", "accuracy %", 100, 1),
    Column("inertia", "inertia", 1, 3),
    Column("seconds", "clustering s, least", 1, 2, least=True),
    Column("memory", "memory MiB", 2**-20, 0),
)


def run_large_k_means(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Clusters growing numbers of embeddings in six ways, each in its own process."""
    rows = []
    for dataset, network in plan.places():
        records_by_names: dict[tuple[str, ...], list[Record]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            for copies in _QUICK_COPIES if plan.quick else _COPIES:
                key = bench.key(subject, copies=copies, methods=dict(_METHODS), per_class=_PER_CLASS)
                record = cells.get(
                    f"large-k-means-{copies}-{subject.name}", key, _compare_methods, bench, subject, copies
                )
                for method, figures in (record or {"methods": {}})["methods"].items():
                    names = (*table_names(dataset, network), f"{record['n']:,} × {record['dim']:,}", method)  # type: ignore[index]
                    records_by_names.setdefault(names, []).append(figures)
        rows += [Row(names, gather(records, _COLUMNS)) for names, records in records_by_names.items()]
    remark = (
        f"{_PER_CLASS} prototypes per class. The embeddings are those of the training images and of copies of them, "
        "shifted by up to two pixels; the test images are unchanged. Inertia: the mean squared distance of all "
        "training embeddings to the nearest prototype of their class, as a multiple of full k-means'. Memory: the peak "
        "of the clustering's own process, without the embeddings."
    )
    return Findings(("data", "network", "embeddings", "k-means"), _COLUMNS, rows, {}, [remark])


def _compare_methods(bench: Workbench, subject: Subject, copies: int) -> Record:
    """Clusters the training images and their shifted copies by each method, and measures the results."""
    bench.say(f"clustering {copies} times the images of {subject.name}")
    data, box = bench.data(subject), bench.black_box(subject)
    encoder = as_encoder(box.model, Batches(data.train))
    train = embed(encoder, Batches(_ShiftedCopies(data, copies, subject.seed)), progress=bench.progress)
    test = embed(encoder, data.test, progress=bench.progress)
    context = _process_context()
    methods: dict[str, Record] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{name}.npy") for name in ("z", "y")]
        np.save(paths[0], train.embeddings)
        np.save(paths[1], train.labels)
        for name, (method, share) in _METHODS.items():
            # A process of its own for each method, so that its peak of memory is not another's.
            with ProcessPoolExecutor(1, context) as pool:
                task = pool.submit(
                    cluster_measured, paths[0], paths[1], method, share, subject.seed, torch.get_num_threads()
                )
                try:
                    centres, seconds, memory = task.result()
                except BrokenProcessPool as error:
                    raise LookalikeError(
                        f"the process that clustered {len(train):,} embeddings ({name}) was killed; "
                        "the memory may have run out"
                    ) from error
            labels_of_centres = np.repeat(np.arange(len(centres)), list(map(len, centres)))
            nearest = assign(np.asarray(test.embeddings), np.concatenate(centres))[0]
            squares = sum(
                float(assign(train.embeddings[train.labels == k], centres_of_class)[1].sum(dtype=np.float64))
                for k, centres_of_class in enumerate(centres)
            )
            methods[name] = {
                "accuracy": float((labels_of_centres[nearest] == test.labels).mean()),
                "inertia": squares / (methods["full"]["squares"] if methods else squares),
                "squares": squares,
                "seconds": seconds,
                "memory": memory,
            }
    return {"n": len(train), "dim": int(train.embeddings.shape[1]), "methods": methods}


def _process_context() -> Any:
    """Returns a multiprocessing context whose processes do not inherit this one's memory, so that a peak is their own.

    On Linux they are forked from a server that has imported only this module; elsewhere they start from nothing.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def cluster_measured(
    z_path: str, y_path: str, method: str, share: float, seed: int, n_threads: int
) -> tuple[list[np.ndarray], float, int]:
    """Clusters each class of stored embeddings, in a process that does nothing else.

    Args:
        z_path: File of the embeddings [N, D].
        y_path: File of their labels [N].
        method: Name of a registered clusterer.
        share: Share of each class's samples to cluster, drawn at random; at least as many as there are prototypes.
        seed: Seed for the draw and the clustering.
        n_threads: Number of torch's threads.

    Returns:
        Each class's centres; the seconds taken; and the bytes that the process grew by at its peak, without embeddings.
    """
    torch.set_num_threads(n_threads)
    z, y = np.load(z_path), np.load(y_path)
    rng, centres = np.random.default_rng(seed), []
    cluster(z[: 4 * _PER_CLASS], 2, method, n_init=1, seed=seed)  # libraries that load on first use are not measured
    memory_before = _reset_peak_memory()
    started = time.perf_counter()
    for k in range(int(y.max()) + 1):
        rows = np.flatnonzero(y == k)
        if share < 1:
            rows = np.sort(rng.choice(rows, min(len(rows), max(_PER_CLASS, round(share * len(rows)))), replace=False))
        centres.append(cluster(z[rows], _PER_CLASS, method, seed=seed).centres)
    return centres, time.perf_counter() - started, max(0, _peak_memory() - memory_before)


def _reset_peak_memory() -> int:
    """Resets the peak of this process's memory to its present size, where the system can. Returns the peak in bytes."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak_memory()


def _peak_memory() -> int:
    """Returns the peak of this process's memory, in bytes."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere
    import resource  # Windows has none

    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class _ShiftedCopies(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Training images followed by copies, each shifted by up to two pixels; the same shifts for the same seed."""

    def __init__(self, data: DataBundle, copies: int, seed: int) -> None:
        self.samples: Any = data.train
        self.copies, self.seed = copies, seed
        self.classes = data.class_names
        self.shift = Augmentation(data.preprocessing, flip=0.0)

    def __len__(self) -> int:
        return len(self.samples) * self.copies

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        copy, index = divmod(row, len(self.samples))
        image, label = self.samples[index]
        if copy:
            image = self.shift(image, seeded(combined_seed(self.seed, row)))
        return image, label


def draw_large_k_means(findings: Findings) -> "Figure":
    """Draws accuracy, inertia, time and memory against the number of embeddings, a line per method."""
    from matplotlib.figure import Figure

    from lookalike.plots.tiles import INK, plain_axes

    settings = list(dict.fromkeys(row.names[:2] for row in findings.rows))
    width, height = _PANEL[0] * max(2, len(settings)), _PANEL[1] * len(_COLUMNS)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(len(_COLUMNS), len(settings), squeeze=False)
    for panels, column in zip(grid, _COLUMNS, strict=True):
        panels[0].set_ylabel(column.title, color=INK, fontsize=9)
        for ax, setting in zip(panels, settings, strict=True):
            plain_axes(ax, _PANEL)
            if column.name in ("seconds", "memory"):
                ax.sharey(panels[0])
                ax.set_yscale("log")
            for position, method in enumerate(_METHODS):
                rows = [row for row in findings.rows if row.names[:2] == setting and row.names[3] == method]
                x = [int(row.names[2].split(" × ")[0].replace(",", "")) for row in rows]
                y = [over_seeds(column, row.values[column.name]) * column.scale for row in rows]
                ax.plot(x, y, label=method, **line_style(position))
            ax.set_xscale("log")
            ax.set_xticks(x, [f"{n / 1000:.0f}k" for n in x])
            ax.minorticks_off()
    for ax, setting in zip(grid[0], settings, strict=True):
        dim = next(row.names[2] for row in findings.rows if row.names[:2] == setting).split(" × ")[1]
        ax.set_title(f"{setting[0]}, {dim} dimensions", fontsize=9, color=INK)
    for ax in grid[-1]:
        ax.set_xlabel("embeddings", color=INK, fontsize=9)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


EXPERIMENTS.register("large-k-means")(
    Experiment("K-means on large data", "open question", run_large_k_means, draw_large_k_means)
)
