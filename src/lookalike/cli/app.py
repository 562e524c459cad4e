"""The entry point of the command line. Nothing here imports torch, so that help appears quickly."""

import signal
from typing import Annotated

import typer

from lookalike._core.allocator import keep_freed_memory
from lookalike.cli import (
    audit,
    calibrate,
    convert,
    datasets,
    demo,
    edit,
    evaluate,
    explain,
    export,
    predict,
    push,
    reproduce,
    studio,
    train,
    watch,
)
from lookalike.cli.console import SafeCommand, SafeGroup, prepare_streams

app = typer.Typer(
    name="lookalike",
    cls=SafeGroup,
    help="Turns a trained classifier into one that explains itself by example, without re-training it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (
    demo.demo,
    convert.convert,
    calibrate.calibrate,
    predict.predict,
    explain.explain,
    evaluate.evaluate,
    evaluate.report,
    watch.watch,
    export.export,
    edit.edit,
    audit.audit,
    studio.studio,
    push.push,
    train.train,
    reproduce.reproduce,
):
    app.command(cls=SafeCommand)(command)
app.add_typer(datasets.app, name="datasets")


def _show_version(value: bool) -> None:
    if value:
        from lookalike import __version__

        typer.echo(f"lookalike {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_show_version, is_eager=True, help="Show the version and stop."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command. SIGTERM is handled like Ctrl-C, so that no file is left half written."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepare_streams()
    keep_freed_memory()
    app()
