"""Progress bars on standard error, by default only if it is a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Function that advances a progress bar."""

    def __call__(self, steps: int = 1) -> None:
        """Advances the bar by a number of steps."""


@contextmanager
def progress_bar(description: str, total: int | None, enabled: "bool | Advance | None" = None) -> Iterator[Advance]:
    """Shows a progress bar while its block runs, and yields the function that advances it.

    Args:
        description: Description of the task, in a few words.
        total: Number of steps; None if it is not known.
        enabled: True or False; None shows the bar only if standard error is a terminal. If it is the function that
            advances a larger task's bar, that function is yielded, and no second bar is shown.
    """
    if callable(enabled):
        yield enabled
        return
    if not (sys.stderr.isatty() if enabled is None else enabled):
        yield _no_advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps=1: bar.advance(task, steps)


def _no_advance(steps: int = 1) -> None:
    """Does nothing: there is no bar."""
