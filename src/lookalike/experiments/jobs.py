"""Measures the cells of an experiment in several processes; the experiment then finds them all on disk."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookalike._core.errors import LookalikeError
from lookalike._core.progress import progress_bar
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import Experiment, Plan
from lookalike.experiments.workbench import KMEX, Workbench


@dataclass(frozen=True)
class _Cell:
    """A cell that an experiment asks for; the fields are the arguments of ``Cells.get``."""

    name: str
    options: Record
    make: Callable[..., Record]
    args: tuple[Any, ...]

    @property
    def needs_a_baseline(self) -> bool:
        """Whether another cell trains the model that this one converts."""
        return str(self.options.get("subject", {}).get("model", "")).endswith(f"+{KMEX}")


@dataclass
class _Listing(Cells):
    """Lists the cells that an experiment asks for. What it does before it asks is done: some train black boxes."""

    asked: dict[str, _Cell] = field(default_factory=dict)

    def get(self, name: str, options: Record, make: Callable[..., Record], *args: Any) -> Record | None:
        self.asked.setdefault(name, _Cell(name, options, make, args))
        return None


def cells_of(experiment: Experiment, plan: Plan, bench: Workbench, folder: Path) -> list[_Cell]:
    """Returns the cells that an experiment asks for; conversions of baselines last, which wait for their trainings."""
    listing = _Listing(folder)
    experiment.run(plan, bench, listing)
    return sorted(listing.asked.values(), key=lambda cell: cell.needs_a_baseline)


def measure_in_processes(experiment: Experiment, plan: Plan, bench: Workbench, cells: Cells, n_jobs: int) -> None:
    """Measures an experiment's cells in processes that share the cores.

    Cells that the experiment names only after it has read others are left to it, and so is whatever fails: it reports
    why. Processes that need the same model wait while one of them makes it.

    Args:
        experiment: The experiment.
        plan: What to run.
        bench: Its models.
        cells: Where the cells are kept.
        n_jobs: Number of processes.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        asked = cells_of(experiment, plan, bench, cells.folder)
    except Exception:  # the experiment raises it again, and it is reported there
        return
    with progress_bar(f"measuring in {n_jobs} processes", len(asked)) as advance:
        # Batches of several would leave the last ones to one process.
        measured = Parallel(n_jobs, batch_size=1, return_as="generator_unordered")(
            delayed(_measure)(Cells(cells.folder, cells.say), cell) for cell in asked
        )
        try:
            for _ in measured:
                advance()
        except TerminatedWorkerError:
            cells.say("a process has ended, perhaps for lack of memory: what is left is measured one after the other")


def _measure(cells: Cells, cell: _Cell) -> None:
    try:
        cells.get(cell.name, cell.options, cell.make, *cell.args)
    except LookalikeError as error:  # the folder cannot be written, for one
        cells.say(f"{cell.name}: {error}")
