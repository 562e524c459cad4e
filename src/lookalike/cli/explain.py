"""``lookalike explain``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lookalike._core.names import file_name, json_text, name_key
from lookalike.cli.console import guarded, out, print_json, print_line, print_notes, say
from lookalike.cli.options import (
    BatchSize,
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
from lookalike.cli.predict import read_batches, report_remarks, report_skipped


@guarded
def explain(
    model: SavedModel,
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write pictures to.")] = Path(
        "explanations"
    ),
    nearest: Annotated[int, typer.Option(min=1, help="How many prototypes to show.")] = 3,
    labels_from_folders: Annotated[
        bool,
        typer.Option("--labels-from-folders", help="Each image's true class is its folder's name; wrong is red."),
    ] = False,
    no_maps: Annotated[
        bool, typer.Option("--no-maps", help="Leave out which pixels make each likeness; much quicker.")
    ] = False,
    composite: Annotated[str, typer.Option(help="Rules of relevance propagation, e.g. attnlrp for transformers.")] = (
        "epsilon-plus-flat"
    ),
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
    """Show which prototypes images look like: a picture each, and one JSON file of all."""
    from lookalike._core.errors import LookalikeError
    from lookalike._core.fresh_folder import fresh_folder
    from lookalike._core.profiling import profiled, step
    from lookalike._core.progress import progress_bar
    from lookalike.data import list_images
    from lookalike.explanation import explain as explain_inputs
    from lookalike.plots import sheet_axes

    converted, preprocessing = open_model(model, network, device)
    files, passed_over = list_images(images)
    preprocessing = replace(preprocessing, large_images=large_images)
    skipped: list[str] = []
    remarks: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    sentences: list[str] = []
    with (
        fresh_folder(output, marker="explanations.json", overwrite=overwrite) as folder,
        profiled(profile, say),
        progress_bar("Explaining", len(files)) as advance,
    ):
        for names, inputs in read_batches(files, preprocessing, batch_size, on_error, skipped, remarks):
            labels = _labels(names, converted.class_names) if labels_from_folders else None
            for found in explain_inputs(
                converted,
                inputs,
                n_nearest=nearest,
                names=names,
                labels=labels,
                relevance=not no_maps,
                composite=composite,
                rule=rule,
            ):
                picture = f"{len(rows):04d}-{file_name(Path(str(found.name)).stem)}.png"
                if found.image is not None:
                    (ax,) = sheet_axes(1, len(found.likenesses), with_maps=not no_maps)
                    with step("draw"):
                        figure = found.plot(ax).get_figure(root=True)
                        figure.savefig(folder / picture, dpi=150)  # type: ignore[union-attr]
                rows.append(found.to_dict() | {"picture": picture})
                sentences.append(f"{found.name}: {found.sentence()}")
                sentences += [f"{found.name}: {told}" for told in (found.caution, found.map_sentence()) if told]
                advance()
        if not rows:
            raise LookalikeError(f"none of {len(files)} images could be read; the first: {skipped[0]}")
        text = json_text(rows, indent=2, allow_nan=True) + "\n"
        (folder / "explanations.json").write_text(text, encoding="utf-8", errors="backslashreplace")
    if json:
        print_json(
            {
                "explanations": rows,
                "skipped": skipped,
                "remarks": remarks,
                "output": str(output),
                "passed_over": passed_over.to_dict(),
            }
        )
        return
    for sentence in sentences:
        print_line(sentence)
    out.print(f"\n{len(rows)} pictures and explanations.json in {output}", style="bold", markup=False)
    print_notes(passed_over.sentences())
    report_skipped(skipped)
    report_remarks(remarks)


def _labels(names: list[str], class_names: list[str]) -> list[int]:
    from lookalike._core.errors import LookalikeError

    folders = [Path(name).resolve().parent.name for name in names]
    keys = [name_key(name) for name in class_names]
    unknown = [(name, folder) for name, folder in zip(names, folders, strict=True) if name_key(folder) not in keys]
    if unknown:
        raise LookalikeError(
            f"{unknown[0][0]!r} lies in a folder {unknown[0][1]!r}, which is none of the model's classes"
        )
    return [keys.index(name_key(folder)) for folder in folders]
