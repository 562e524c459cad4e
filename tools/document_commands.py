"""A hook of mkdocs: fills the page about the command line with the options of all commands."""

from typing import Any

import typer
from markupsafe import escape

from lookalike.cli import app

PLACE = "<!-- every command -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the mark in a page by the options of all commands."""
    return markdown.replace(PLACE, commands()) if PLACE in markdown else markdown


def commands() -> str:
    """Returns a section for each command: its usage, and a table of its options."""
    group: Any = typer.main.get_command(app)
    return "\n\n".join(_section(name, command) for name, command in group.commands.items())


def _section(name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = " ".join(["lookalike", name, *(parameter.metavar or parameter.name.upper() for parameter in arguments)])
    lines = [f"### `{usage}`", "", (command.help or "").split("\n\n")[0], ""]
    if arguments:
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| `{item.metavar or item.name.upper()}` | {_cell(item.help)} |" for item in arguments] + [""]
    lines += ["| option | meaning | default |", "|---|---|---|"]
    lines += [f"| {_names(item)} | {_cell(item.help)} | {_default(item)} |" for item in options]
    return "\n".join(lines)


def _names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(option.opts, key=len, reverse=True))


def _default(option: Any) -> str:
    value = option.default
    return "" if value is None or value is False or callable(value) else f"`{_cell(str(value))}`"


def _cell(text: str | None) -> str:
    return str(escape(" ".join((text or "").split()))).replace("|", "\\|")
