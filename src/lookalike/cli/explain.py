"""``lookalike explain``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike._core.names import file_name, json_text, name_key
from lookalike._core.startup import import_torch
from lookalike._core.wording import counted
from lookalike.cli.console import guarded, out, print_json, print_line, print_notes, say
from lookalike.cli.options import (
    BatchSize,
    Composite,
    Device,
    Images,
    Json,
    LargeImages,
    Network,
    OnError,
    Overwrite,
    Profile,
    RuleOption,
    SavedModel,
    open_model,
)
from lookalike.cli.reading import ImageReader

if TYPE_CHECKING:
    from lookalike.explanation import Explanation
    from lookalike.parts import ExplainedParts


@guarded
def explain(
    model: SavedModel,
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write pictures to.")] = Path(
        "explanations"
    ),
    nearest: Annotated[int, typer.Option(min=1, help="Number of prototypes to show.")] = 3,
    labels_from_folders: Annotated[
        bool,
        typer.Option(
            "--labels-from-folders",
            metavar="",
            help="The name of an image's folder is its true class; wrong predictions are framed in red.",
        ),
    ] = False,
    no_maps: Annotated[
        bool, typer.Option("--no-maps", metavar="", help="Leave out the heat-maps of each likeness; much faster.")
    ] = False,
    parts: Annotated[
        bool,
        typer.Option(
            "--parts",
            metavar="",
            help="Also say and draw which parts decide, and which look like which part of the prototype's image.",
        ),
    ] = False,
    composite: Composite = "epsilon-plus-flat",
    rule: RuleOption = None,
    network: Network = None,
    batch_size: BatchSize = 64,
    on_error: OnError = "stop",
    large_images: LargeImages = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Show which prototypes images look like: one picture per image, and one JSON file for all."""
    import_torch()
    from lookalike._core.fresh_folder import check_replaceable, fresh_folder
    from lookalike._core.profiling import profiled
    from lookalike._core.progress import progress_bar
    from lookalike.data import InputBatch, list_images
    from lookalike.explanation import Explainer

    check_replaceable(output, marker="explanations.json", overwrite=overwrite)
    converted, preprocessing = open_model(model, network, device)
    files, passed_over = list_images(images)
    preprocessing = replace(preprocessing, large_images=large_images)
    explainer = Explainer(
        converted, n_nearest=nearest, relevance=not no_maps, parts=parts, composite=composite, rule=rule
    )
    reader = ImageReader(files, preprocessing, batch_size, on_error)
    rows: list[dict[str, Any]] = []
    sentences: list[str] = []
    with (
        fresh_folder(output, marker="explanations.json", overwrite=overwrite) as folder,
        profiled(profile, say),
        progress_bar("Explaining", len(files)) as advance,
    ):
        for names, inputs in reader.batches():
            labels = _labels(names, converted.class_names) if labels_from_folders else None
            for explanation in explainer.explain(InputBatch(inputs, [*names], labels), len(rows)):
                picture = f"{len(rows):04d}-{file_name(Path(str(explanation.name)).stem)}.png"
                _draw(explanation, folder / picture, with_maps=not no_maps)
                rows.append(explanation.to_dict() | {"picture": picture})
                sentences += _sentences(explanation)
                if explanation.parts is not None:
                    rows[-1]["parts"]["pictures"] = _draw_parts(explanation.parts, folder, picture)
                advance()
        text = json_text(rows, indent=2, allow_nan=True) + "\n"
        (folder / "explanations.json").write_text(text, encoding="utf-8", errors="backslashreplace")
    if json:
        print_json(
            {
                "explanations": rows,
                "skipped": reader.skipped,
                "remarks": reader.remarks,
                "output": str(output),
                "passed_over": passed_over.to_dict(),
            }
        )
        return
    for sentence in sentences:
        print_line(sentence)
    out.print(f"\n{counted(len(rows), 'picture')} and explanations.json in {output}", style="bold", markup=False)
    print_notes(passed_over.sentences())
    reader.report()


def _draw(explanation: "Explanation", file: Path, *, with_maps: bool) -> None:
    """Draws an explanation into a PNG file, if its input is an image."""
    from lookalike._core.profiling import step
    from lookalike.plots import sheet_axes
    from lookalike.plots.pixels import figure_png

    if explanation.image is None:
        return
    (ax,) = sheet_axes(1, len(explanation.shown), with_maps=with_maps)
    with step("draw"):
        file.write_bytes(figure_png(explanation.plot(ax), dpi=150))


def _draw_parts(parts: "ExplainedParts", folder: Path, picture: str) -> list[str]:
    """Draws the parts of an input, beside its picture; returns the names of the files."""
    from lookalike.plots.pixels import figure_png

    stem = picture.removesuffix(".png")
    drawn = {"difference": parts.difference, "pairs": parts.pairs, "concepts": parts.segments}
    names = []
    for kind, drawing in drawn.items():
        if drawing is not None and getattr(drawing, "image", getattr(drawing, "images", None)) is not None:
            names.append(f"{stem}-{kind}.png")
            (folder / names[-1]).write_bytes(figure_png(drawing.plot(), dpi=150))
    return names


def _sentences(explanation: "Explanation") -> list[str]:
    """Returns the explanation in sentences, each after the input's name."""
    sentences = (explanation.sentence(), explanation.caution, explanation.map_sentence())
    return [f"{explanation.name}: {sentence}" for sentence in sentences if sentence]


def _labels(names: list[str], class_names: list[str]) -> list[int]:
    """Returns the classes of image files by the names of their folders.

    Raises:
        LookalikeError: If a folder's name is not a class of the model.
    """
    from lookalike._core.errors import LookalikeError

    folders = [Path(name).resolve().parent.name for name in names]
    keys = [name_key(name) for name in class_names]
    unknown = [(name, folder) for name, folder in zip(names, folders, strict=True) if name_key(folder) not in keys]
    if unknown:
        raise LookalikeError(
            f"{unknown[0][0]!r} is in a folder {unknown[0][1]!r}, which is none of the model's classes"
        )
    return [keys.index(name_key(folder)) for folder in folders]
