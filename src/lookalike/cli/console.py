"""What all commands share: how they speak, and how they fail."""

import functools
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

P = ParamSpec("P")
R = TypeVar("R")

_WIDE = 200  # columns where no terminal says how many: names of files stay whole

out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _WIDE)


def fail(message: str, code: int = 2) -> NoReturn:
    """Says in one line what is wrong and stops."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Makes a user's mistake one clear line and exit code 2, warnings lines, and Ctrl-C exit code 130."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from lookalike.errors import LookalikeError, LookalikeWarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
            if issubclass(category, LookalikeWarning):
                err.print(f"[yellow]warning:[/] {escape(str(message))}", soft_wrap=True)
            elif not sys.warnoptions:
                return
            else:
                standard(message, category, *rest, **options)

        standard = warnings.showwarning
        with warnings.catch_warnings():
            warnings.simplefilter("always", LookalikeWarning)
            warnings.showwarning = show
            try:
                return command(*args, **kwargs)
            except LookalikeError as error:
                fail(str(error))
            except KeyboardInterrupt:
                fail("interrupted; nothing was left half written", 130)
            except OSError as error:
                place = f"{error.filename!r}: " if error.filename else ""
                fail(f"{place}{error.strerror or error}")

    return run


def print_json(value: Any) -> None:
    """Prints JSON on standard output, with nothing around it."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: the first column left, the others right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)


def print_facts(title: str, facts: Mapping[str, str]) -> None:
    """Prints names and values, a line each."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(escape(name), escape(value))
    out.print(table)


def print_notes(notes: Sequence[str]) -> None:
    """Prints what is to be known about data or a result."""
    for note in notes:
        end = "" if note.endswith((".", "?", "!")) else "."
        out.print(f"Note: {note}{end}", style="dim", markup=False, soft_wrap=True)


def say(message: str) -> None:
    """Tells a step, on standard error."""
    err.print(escape(message), style="dim", soft_wrap=True)


def percent(share: float | None) -> str:
    """Formats a share, or a dash where there is none."""
    return "–" if share is None else f"{share:.1%}"
