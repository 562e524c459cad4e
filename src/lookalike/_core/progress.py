"""One progress bar, on standard error, and only where a person looks at it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Moves a progress bar on."""

    def __call__(self, steps: int = 1) -> None:
        """Moves on by ``steps``."""


@contextmanager
def progress_bar(description: str, total: int | None, enabled: "bool | Advance | None" = None) -> Iterator[Advance]:
    """Shows a bar while its block runs and yields the function that moves it.

    Args:
        description: What is being done, in a few words.
        total: How many steps there are; None when that is not known.
        enabled: True or False; None shows the bar only if standard error is a terminal. The function that moves a
            larger task's bar is yielded as it is, and no other bar is shown.
    """
    if callable(enabled):
        yield enabled
        return
    if not (sys.stderr.isatty() if enabled is None else enabled):
        yield _stand_still
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps=1: bar.advance(task, steps)


def _stand_still(steps: int = 1) -> None:
    """Moves no bar."""
