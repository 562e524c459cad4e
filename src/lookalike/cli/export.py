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
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write; or a file .onnx or .pt2, with all inside.")
    ],
    kind: Annotated[
        Literal["onnx", "pt2"] | None,
        typer.Option(help="The format: onnx, or pt2 for torch.export.load; else as -o is named, or onnx."),
    ] = None,
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
    from lookalike.export import export_model, write_page
    from lookalike.export.file import check_target, is_single_file, kind_of

    written_kind, is_file = kind_of(output, kind), is_single_file(output)
    if is_file and (page is not None or precision != "float32"):
        raise LookalikeError(f"--page and --precision write a folder, and {str(output)!r} is the name of a file")
    if page is not None and written_kind != "onnx":
        raise LookalikeError(f"--page needs the kind onnx, not {written_kind}")
    if inside and no_images:
        raise LookalikeError("--inside writes pictures and --no-images writes none; give one of them")
    check_target(output, overwrite=overwrite)
    converted, _ = open_model(model, network, pick_device("cpu"))
    if (precision == "float32") != (sample is None) or (sample is not None and written_kind != "onnx"):
        raise LookalikeError("--precision float16 or int8 and --sample IMAGES go together, for the kind onnx")
    write = export_model if sample is None else _smaller(precision, sample)
    file = write(
        converted,
        output,
        kind=written_kind,
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
    n_prototypes, has_pictures = len(converted.prototypes), not no_images and converted.images is not None
    description = "inside" if is_file else str(output / "prototypes.json")
    pictures = "inside" if is_file else str(file if inside else output / "prototypes")
    facts = {
        "model": f"{file} ({size / 1e6:.1f} MB)",
        "prototypes": f"{description}: what each of the {n_prototypes} numbers means",
        "pictures": pictures if has_pictures else "none",
    }
    if html is not None:
        facts["page"] = f"{html} ({html.stat().st_size / 1e6:.1f} MB): open it in a browser"
    print_facts("", facts)
    if written_kind == "onnx":
        example = Path("examples/run_exported.py")
        if example.exists():
            print_line(f"Next: python {example} {shlex.quote(str(output))} PHOTOGRAPH")
        else:
            print_line(
                f"Next: onnxruntime.InferenceSession({str(file)!r}) in Python; page 'Export a model' has an example"
            )
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
