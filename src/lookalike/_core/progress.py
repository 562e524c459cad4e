"""Progress bars on standard error if it is a terminal, and below the cells of notebooks."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Protocol

from lookalike._core.display import in_notebook

_UPDATES_PER_SECOND = 5.0  # of a notebook's bar: each one is a message to the browser


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
        enabled: True or False; None shows the bar only in a terminal or a notebook. If it is the function that
            advances a larger task's bar, that function is yielded, and no second bar is shown.
    """
    if callable(enabled):
        yield enabled
        return
    if not (sys.stderr.isatty() or in_notebook() if enabled is None else enabled):
        yield _no_advance
        return
    if in_notebook():
        with _notebook_bar(description, total) as advance:
            yield advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps=1: bar.advance(task, steps)


@contextmanager
def _notebook_bar(description: str, total: int | None) -> Iterator[Advance]:
    """Shows a bar below a notebook's cell and removes it at the end."""
    display: Any = sys.modules["IPython"].display
    done, shown = 0, 0.0

    def bar() -> Any:
        of = "" if total is None else f' max="{total}" value="{done}"'
        count = f"{done}" if total is None else f"{done} of {total}"
        return display.HTML(f"<label>{escape(description)} <progress{of}></progress> {count}</label>")

    handle = display.display(bar(), display_id=True)

    def advance(steps: int = 1) -> None:
        nonlocal done, shown
        done += steps
        if time.monotonic() - shown > 1 / _UPDATES_PER_SECOND:
            shown = time.monotonic()
            handle.update(bar())

    try:
        yield advance
    finally:
        handle.update(display.HTML(""))


def _no_advance(steps: int = 1) -> None:
    """Does nothing: there is no bar."""
