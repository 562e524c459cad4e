"""Progress: a bar on a terminal or below a notebook's cell; elsewhere, commands print a line now and then."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from time import monotonic
from typing import Any, Protocol

from lookalike._core.display import in_notebook

_UPDATES_PER_SECOND = 5.0  # of a notebook's bar: each one is a message to the browser

_FIRST_LINE = 5.0  # seconds; shorter steps say nothing
_NEXT_LINE = 30.0  # seconds between lines


class Advance(Protocol):
    """Function that advances a progress bar."""

    def __call__(self, steps: int = 1) -> None:
        """Advances the bar by a number of steps."""


class _Lines:
    """Whether lines are printed where there is no terminal: commands print them, calls from Python do not."""

    without_terminal = False


@contextmanager
def lines_without_terminal() -> Iterator[None]:
    """Prints lines about the progress of long steps while its block runs, if standard error is no terminal."""
    before, _Lines.without_terminal = _Lines.without_terminal, True
    try:
        yield
    finally:
        _Lines.without_terminal = before


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
        yield _LineByLine(description, total) if enabled is None and _Lines.without_terminal else _no_advance
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


def print_line(text: str | None, enabled: "bool | Advance | None" = None) -> None:
    """Prints a line about a task where ``progress_bar`` would show its progress, but not in a notebook."""
    shows = _Lines.without_terminal or sys.stderr.isatty() if enabled is None else enabled is True
    if text is not None and shows and not in_notebook():
        _write_line(text)


def _write_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


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
        if monotonic() - shown > 1 / _UPDATES_PER_SECOND:
            shown = monotonic()
            handle.update(bar())

    try:
        yield advance
    finally:
        handle.update(display.HTML(""))


def _no_advance(steps: int = 1) -> None:
    """Does nothing: there is no bar."""


class _LineByLine:
    """Prints how far a task is, and how long it will take: after five seconds, then every half minute.

    The first step is not like the others: it waits for imports, and for what is computed once. So it gives a bound,
    and the later steps an estimate.
    """

    def __init__(self, description: str, total: int | None) -> None:
        self.description, self.total, self.done = description, total, 0
        self.started = monotonic()
        self.next_line = self.started + _FIRST_LINE
        self.first: tuple[int, float] | None = None  # steps that were done when the first ones were, and the time

    def __call__(self, steps: int = 1) -> None:
        self.done += steps
        now = monotonic()
        if self.first is None and self.done:
            self.first = self.done, now
        if now < self.next_line or not self.done:
            return
        self.next_line = now + _NEXT_LINE
        text = f"{self.description}: {self.done:,}"
        if self.total is not None:
            text += f" of {self.total:,}, {self._left(now, max(self.total - self.done, 0))} to go"
        _write_line(text)

    def _left(self, now: float, steps: int) -> str:
        """Says how long a number of steps will take."""
        assert self.first is not None  # some steps are done
        n_first, then = self.first
        if self.done == n_first:
            return f"at most {duration((now - self.started) / self.done * steps)}"
        return f"about {duration((now - then) / (self.done - n_first) * steps)}"


def duration(seconds: float) -> str:
    """Formats a duration in seconds, minutes or hours.

    Example:
        >>> duration(90), duration(150), duration(1200), duration(7300)
        ('90 s', '2.5 min', '20 min', '2.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.1f} min".replace(".0 ", " ") if minutes < 10 else f"{minutes:.0f} min"
    return f"{seconds / 3600:.1f} h"
