"""Output and errors of all commands.

Everything that a command prints passes through here, because names of files and classes are untrusted and may contain
control characters, which a terminal would obey. ``out`` and ``err`` print them in visible form; ``print_json`` writes
them as JSON escapes.
"""

import codecs
import functools
import inspect
import io
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

from lookalike._core.names import json_text, spreadsheet_cell, visible

P = ParamSpec("P")
R = TypeVar("R")

_WIDE = 200  # columns, if the output is not a terminal: enough to keep file names whole

_BYTE_IN_REPR = re.compile(r"(?<!\\)\\udc([89a-f][0-9a-f])")
_PLAIN = {"–": "-", "—": "-", "−": "-", "…": "...", "•": "*", "×": "x", "·": "-", "≥": ">=", "≤": "<=", "’": "'"}


_CUT_OFF = 141  # exit code, as of a program that SIGPIPE ends: whoever read the output has gone
_results: ContextVar[Any] = ContextVar("_results", default=None)  # where results for machines go; None: standard output

for _name in ("stdout", "stderr"):
    if getattr(sys, _name) is None:  # closed by the shell, as in `lookalike … >&-`
        setattr(sys, _name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the program runs


class _Screen(Console):
    """A console that prints control characters in visible form, so that a terminal does not obey them."""

    @override
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    @override
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text, keep="\n"), **options)


out = _Screen(highlight=False, emoji=False, width=None if sys.stdout.isatty() else _WIDE)
err = _Screen(stderr=True, highlight=False, emoji=False, width=None if sys.stderr.isatty() else _WIDE)


class _PlainSwitches:
    """Shows switches without a type in the help, also those that typer adds."""

    def get_params(self, context: Any) -> Any:
        parameters = super().get_params(context)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False) and parameter.metavar is None:
                parameter.metavar = ""
        return parameters


class SafeCommand(_PlainSwitches, TyperCommand):
    """A command."""


class SafeGroup(_PlainSwitches, TyperGroup):
    """The commands. Errors about arguments print control characters in visible form."""

    @override
    def make_context(self, *args: Any, **options: Any) -> Any:
        with _visible_errors():
            return super().make_context(*args, **options)

    @override
    def invoke(self, *args: Any, **options: Any) -> Any:
        with _visible_errors():
            return super().invoke(*args, **options)


@contextmanager
def _visible_errors() -> Iterator[None]:
    """Makes control characters in the messages of errors visible."""
    try:
        yield
    except Exception as error:
        # the attribute of click's usage errors, in any version of click; a property of that name cannot be set
        message = vars(error).get("message")
        if isinstance(message, str):
            error.message = visible(message)  # type: ignore[attr-defined]
        raise


def prepare_streams() -> None:
    """Makes standard output and standard error accept any text, in any locale."""
    codecs.register_error("lookalike-show", _show_unwritable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # some pipes cannot be reconfigured and stay as they are
                stream.reconfigure(errors="lookalike-show")


def _show_unwritable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replaces characters that a locale lacks by similar ASCII characters, or else by their escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    replacements = (
        _PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode() for character in characters
    )
    return "".join(replacements), error.end


def fail(message: str, code: int = 2) -> NoReturn:
    """Prints one line that says what is wrong, and exits."""
    err.print(f"[bold red]error:[/] {escape(_one_line(message))}", soft_wrap=True)
    raise typer.Exit(code)


def _one_line(message: str) -> str:
    r"""Makes a message printable; a byte that is not text is shown as ``\xe9``, where repr has ``\udce9``."""
    return _BYTE_IN_REPR.sub(r"\\x\1", visible(message))


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turns a user's mistake into one line and exit code 2, warnings into lines, and Ctrl-C into exit code 130."""
    can_skip = "on_error" in inspect.signature(command).parameters

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from lookalike._core.errors import BrokenImageError, LookalikeError, LookalikeWarning
        from lookalike._core.progress import lines_without_terminal

        def show(message: Warning | str, category: type[Warning], *details: Any, **options: Any) -> None:
            if issubclass(category, LookalikeWarning):
                err.print(f"[yellow]warning:[/] {escape(_one_line(str(message)))}", soft_wrap=not err.is_terminal)
            elif not sys.warnoptions:
                return
            else:
                show_by_default(message, category, *details, **options)

        show_by_default = warnings.showwarning
        with warnings.catch_warnings(), lines_without_terminal():
            warnings.simplefilter("always", LookalikeWarning)
            warnings.showwarning = show
            try:
                with _results_alone(bool(kwargs.get("json") or kwargs.get("csv"))):
                    return command(*args, **kwargs)
            except BrokenPipeError:
                with suppress(OSError):  # what is left in the buffer goes nowhere when Python ends
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(_CUT_OFF) from None
            except BrokenImageError as error:
                fail(f"{error}; --on-error skip leaves such images out" if can_skip else str(error))
            except LookalikeError as error:
                fail(str(error))
            except KeyboardInterrupt:
                fail("interrupted; nothing was left half written", 130)
            except OSError as error:
                file = f"{error.filename!r}: " if error.filename else ""
                fail(f"{file}{error.strerror or error}")

    return run


@contextmanager
def _results_alone(for_machines: bool) -> Iterator[None]:
    """Has whatever else is printed go to standard error, such as torch's word on a download or a network's own."""
    if not for_machines:
        yield
        return
    token = _results.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results.reset(token)


def print_result(text: str, *, nl: bool = True) -> None:
    """Prints a result for machines on standard output."""
    typer.echo(text, file=_results.get(), nl=nl)


def print_json(value: Any) -> None:
    """Prints JSON on standard output, and nothing else."""
    text = json_text(value, indent=2)
    try:
        text.encode((_results.get() or sys.stdout).encoding or "utf-8")
    except UnicodeEncodeError:
        text = json_text(value, indent=2, ensure_ascii=True)
    print_result(text)


def print_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints CSV on standard output, and nothing else.

    Text that a spreadsheet would take for a formula gets an apostrophe before it, because names are untrusted.
    """
    import csv

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in (columns, *rows):
        writer.writerow([_csv_cell(value) for value in row])
    print_result(buffer.getvalue(), nl=False)


def _csv_cell(value: Any) -> Any:
    """Returns a value for a cell: empty for None, text without control characters and formulas."""
    return spreadsheet_cell(visible(value) if isinstance(value, str) else value)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table with the first column aligned left and the others right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(visible(cell)) for cell in row))
    out.print(table)


def print_facts(title: str, facts: Mapping[str, str]) -> None:
    """Prints names and values, one per line."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(escape(visible(name)), escape(visible(value)))
    out.print(table)


def print_notes(notes: Sequence[str], *, as_error: bool = False) -> None:
    """Prints notes about the data or the result; on standard error where standard output is for machines."""
    console = err if as_error else out
    for note in notes:
        end = "" if note.endswith((".", "?", "!")) else "."
        console.print(f"Note: {visible(note)}{end}", style="dim", markup=False, soft_wrap=not console.is_terminal)


def print_line(text: str, indent: str = "") -> None:
    """Prints one line, with control characters in visible form."""
    out.print(indent + visible(text), markup=False, soft_wrap=True)


def show_next(*words: str, network: str | None = None) -> None:
    """Prints the command to type next, ready to be copied; words in capitals stand for what the user puts there."""
    needed = [] if network is None else ["--network", network]
    print_line(f"Next: {shlex.join(['lookalike', *words, *needed])}")


def free_name(name: str) -> str:
    """Returns a file's name; with a number before its ending if there is such a file already.

    A command that is printed to be typed next must not stop at the file of an earlier one.
    """
    path, number = Path(name), 2
    while path.exists():
        path, number = Path(name).with_stem(f"{Path(name).stem}-{number}"), number + 1
    return str(path)


def say(message: str) -> None:
    """Reports a step on standard error."""
    err.print(escape(visible(message)), style="dim", soft_wrap=True)


def percent(share: float | None) -> str:
    """Formats a share as a percentage; None as a dash."""
    return "–" if share is None else f"{share:.1%}"
