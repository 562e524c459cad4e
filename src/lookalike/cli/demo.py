"""``lookalike demo``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli.console import fail, guarded, out, percent, print_json, print_notes, print_table, say, show_next
from lookalike.cli.options import Json, Overwrite, Seed

if TYPE_CHECKING:
    from lookalike.demo.result import DemoResult

_FILES = {
    "report.html": "everything on one page: open it in a browser",
    "scorecard.json": "all measures, with their settings",
    "gallery.png": "the prototypes, each by its nearest training image",
    "photographs.png": "photographs, what they look like, and by which pixels",
    "likeness-right.png": "this looks like that: right predictions",
    "likeness-wrong.png": "this looks like that: wrong predictions",
    "relevance-right.png": "which pixels make each likeness: right predictions",
    "relevance-wrong.png": "which pixels make each likeness: wrong predictions",
    "model/": "the converted model",
    "classifier.pth": "the black box's weights; network.py makes the network",
    "summary.json": "these figures",
}


@guarded
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path("demo-output"),
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained", metavar="", help="Convert ImageNet's EfficientNet-Lite0 instead; nothing is trained."
        ),
    ] = False,
    photos: Annotated[
        bool,
        typer.Option(
            "--photos",
            metavar="",
            help="Convert it on ten kinds of photographs: 'lookalike datasets fetch stamps' first.",
        ),
    ] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Convert a small classifier of real handwritten digits, and show the results."""
    from lookalike.demo import run_demo, run_photo_demo, run_pretrained_demo

    if pretrained and photos:
        fail("--pretrained is on digits and --photos on photographs: give one of them")
    run = run_photo_demo if photos else run_pretrained_demo if pretrained else run_demo
    result = run(output, seed=seed, overwrite=overwrite, say=say)
    if json:
        print_json(result.summary)
        return
    print_result(result, output, "photographs" if photos else "digits")


def print_result(result: "DemoResult", output: Path, images: str) -> None:
    """Prints a demonstration's table and verdict, the files that it wrote, and the command to type next.

    Args:
        result: What the demonstration found.
        output: The folder that it wrote.
        images: What the test images show.
    """
    columns = ["model", "accuracy", "agreement", "ghosted", "to convert", "to predict"]
    black_box = result.summary.get("black_box_accuracy")
    rows = [["black box", percent(black_box), "", "", "", "1"]] if black_box is not None else []
    print_table(f"{result.summary['n_test']:,} test {images}", columns, rows + [_cells(row) for row in result.rows])
    for sentence in result.verdict:
        out.print(f"• {sentence}", markup=False, soft_wrap=True)
    print_notes(result.notes)
    out.print(f"\nIn {output}:", style="bold", markup=False, soft_wrap=True)
    for name, description in _FILES.items():
        if (output / name).exists():
            out.print(f"  {name:<20} {description}", markup=False)
    network = f"{output}/network.py:digit_network" if (output / "network.py").exists() else None
    out.print()
    show_next("explain", f"{output}/model", "IMAGES", "-o", "pictures", network=network)


def _cells(row: dict[str, Any]) -> list[str]:
    """Formats a model's figures as a row of the table."""
    ratio = row["predict_time_ratio"]
    return [
        row["model"],
        percent(row["accuracy"]),
        percent(row["agreement"]),
        percent(row["ghosting"]),
        f"{row['convert_seconds']:.1f} s",
        "" if ratio is None else f"× {ratio:.2f}",
    ]
