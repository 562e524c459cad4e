"""``lookalike export``."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lookalike.cli.console import err, guarded, print_facts, print_json, print_line
from lookalike.cli.options import Json, Network, Overwrite, open_model, pick_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from lookalike.model import PrototypeModel

_MOST_SAMPLES = 256  # images: enough to calibrate a network, and to see what changes


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
    precision: Annotated[
        Literal["float32", "float16", "int8"], typer.Option(help="Of the network's weights; smaller needs --sample.")
    ] = "float32",
    sample: Annotated[
        Path | None,
        typer.Option(metavar="IMAGES", help="Images on which the effect of --precision is measured, at most 256."),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the model, named in the file.")] = None,
    network: Network = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Export a converted model to a file that explains itself where lookalike is not installed."""
    from lookalike._core.errors import LookalikeError
    from lookalike._core.fresh_folder import check_replaceable
    from lookalike.export import export_model, write_page
    from lookalike.export.file import MARKER

    if page is not None and kind != "onnx":
        raise LookalikeError(f"--page needs the kind onnx, not {kind}")
    if inside and no_images:
        raise LookalikeError("--inside writes pictures and --no-images writes none; give one of them")
    check_replaceable(output, marker=MARKER, overwrite=overwrite)
    converted, _ = open_model(model, network, pick_device("cpu"))
    if (precision == "float32") != (sample is None) or (sample is not None and kind != "onnx"):
        raise LookalikeError("--precision float16 or int8 and --sample IMAGES go together, for the kind onnx")
    write = export_model if sample is None else _smaller(precision, sample)
    file = write(
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
    if kind == "onnx":
        print_line(f"Next: python examples/run_exported.py {shlex.quote(str(output))} PHOTOGRAPH")
    else:
        print_line(f"Next: torch.export.load({str(file)!r}).module() in Python")


def _smaller(precision: Any, sample: Path) -> "Callable[..., Path]":
    """Returns a function like ``export_model`` that also makes the file smaller, and tells what that changes."""
    import tempfile

    from lookalike.export import export_model, quantise

    def write(model: "PrototypeModel", output: Path, *, overwrite: bool, pixels: bool, **options: Any) -> Path:
        with tempfile.TemporaryDirectory() as temporary:
            full = Path(temporary) / "full"
            export_model(model, full, pixels=pixels, **options)
            inputs = _inputs_of(model, sample, pixels)
            effect = quantise(full, output, inputs, precision=precision, overwrite=overwrite)
        err.print(effect.sentence(), markup=False, soft_wrap=True)
        return output / "model.onnx"

    return write


def _inputs_of(model: "PrototypeModel", images: Path, pixels: bool) -> Any:
    """Returns what an exported file takes for the first of some images."""
    import torch

    from lookalike._core.errors import LookalikeError

    batches, n_rows = [], 0
    for batch in model.read_inputs(images, 32):
        batches.append(batch.inputs)
        n_rows += len(batch.inputs)
        if n_rows >= _MOST_SAMPLES:
            break
    inputs = torch.cat(batches)[:_MOST_SAMPLES]
    values = model.to_pixels(inputs) if pixels else inputs
    if values is None:
        raise LookalikeError("the model's inputs are not images, so there are no bytes of them")
    return values.numpy()
