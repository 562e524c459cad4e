"""``lookalike export``."""

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli.console import guarded, out, print_facts, print_json
from lookalike.cli.options import Json, Network, Overwrite, open_model, pick_device


@guarded
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder of 'convert'.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    kind: Annotated[str, typer.Option(help="onnx, or pt2 for torch.export.load.")] = "onnx",
    nearest: Annotated[
        int | None, typer.Option(min=1, help="Number of most similar prototypes in an answer; else 3.")
    ] = None,
    pixels: Annotated[
        bool,
        typer.Option(
            "--pixels", metavar="", help="Take bytes [N, H, W, C] of the network's size, and normalise inside."
        ),
    ] = False,
    no_images: Annotated[
        bool, typer.Option("--no-images", metavar="", help="Write no pixel of any training image.")
    ] = False,
    inside: Annotated[
        bool, typer.Option("--inside", metavar="", help="Write the prototypes' pictures into the model's own file.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Also write page.html, which answers in a browser, with the npm package onnxruntime-web in FOLDER. "
            "The file then takes bytes.",
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the model, named in the file.")] = None,
    network: Network = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Export a converted model to a file that explains itself where lookalike is not installed."""
    from lookalike._core.errors import LookalikeError
    from lookalike.export import export_model, write_page

    if page is not None and kind != "onnx":
        raise LookalikeError(f"--page needs the kind onnx, not {kind}")
    if inside and no_images:
        raise LookalikeError("--inside writes pictures and --no-images writes none; give one of them")
    converted, _ = open_model(model, network, pick_device("cpu"))
    file = export_model(
        converted,
        output,
        kind=kind,
        n_nearest=nearest,
        pixels=pixels or page is not None,
        images="inside" if inside else not no_images,
        licence=licence,
        overwrite=overwrite,
    )
    html = None if page is None else write_page(output, page)
    size = file.stat().st_size
    if json:
        shown = None if html is None else str(html)
        print_json({"file": str(file), "bytes": size, "prototypes": len(converted.prototypes), "page": shown})
        return
    facts = {
        "model": f"{file} ({size / 1e6:.1f} MB)",
        "prototypes": f"{output / 'prototypes.json'}: what each of the {len(converted.prototypes)} numbers means",
        "pictures": "none" if no_images or converted.images is None else f"{file if inside else output / 'prototypes'}",
    }
    if html is not None:
        facts["page"] = f"{html} ({html.stat().st_size / 1e6:.1f} MB): open it in a browser"
    print_facts("", facts)
    out.print("Run it with onnxruntime or torch.export.load; examples/run_exported.py shows how.", style="dim")
