"""``lookalike datasets``: the datasets known by name, and fetching one."""

from typing import Annotated

import typer

from lookalike._core.wording import counted
from lookalike.cli.completion import DATASETS as DATASET_NAMES
from lookalike.cli.completion import completing
from lookalike.cli.console import SafeCommand, SafeGroup, guarded, print_json, print_table, say
from lookalike.cli.options import Json

app = typer.Typer(cls=SafeGroup, invoke_without_command=True, help="List the datasets known by name, or fetch one.")


@app.callback()
@guarded
def datasets(context: typer.Context, json: Json = False) -> None:
    """List the datasets known by name; ``fetch NAME`` downloads one."""
    if context.invoked_subcommand is not None:
        return
    from lookalike.data import DATASETS

    entries = [{"name": name, "description": DATASETS[name].description} for name in DATASETS]
    if json:
        print_json(entries)
        return
    print_table("Datasets", ["name", "what"], [[entry["name"], entry["description"]] for entry in entries])
    print_table("", ["or a folder", "layout"], [
        ["with a split", "FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png"],
        ["without", "FOLDER/CLASS/*.png, split 80 / 20 by --seed"],
        ["with a table", "FOLDER/*.png and --labels FILE.csv, with the columns file_name and label, perhaps split"],
    ])  # fmt: skip


@app.command("fetch", cls=SafeCommand)
@guarded
def fetch(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A dataset's name.", autocompletion=completing(DATASET_NAMES))
    ],
    json: Json = False,
) -> None:
    """Download a dataset and unpack it, so that it can be read by its name."""
    from lookalike.data import DATASETS

    entry, where = DATASETS[name], ""
    if entry.fetch is not None:
        say(entry.fetching)
        where = str(entry.fetch())
    bundle = entry.load(None)
    facts = {"name": name, "train": len(bundle.train), "test": len(bundle.test), "classes": bundle.class_names}
    if json:
        print_json(facts | ({"folder": where} if where else {}))
        return
    counts = f"{len(bundle.train):,} training and {counted(len(bundle.test), 'test image')}"
    say(f"{name}: {counts} of {counted(len(bundle.class_names), 'class', 'classes')}")
    if where:
        say(f"in {where}")
