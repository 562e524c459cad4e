"""``lookalike datasets``."""

from lookalike.cli.console import guarded, print_json, print_table
from lookalike.cli.options import Json


@guarded
def datasets(json: Json = False) -> None:
    """List the datasets known by name."""
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
