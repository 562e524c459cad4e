"""``lookalike calibrate``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike._core.errors import LookalikeError
from lookalike._core.wording import counted
from lookalike.cli.console import guarded, out, print_facts, print_json, print_notes, show_next
from lookalike.cli.options import (
    BatchSize,
    Device,
    DiscardEdits,
    Json,
    Labels,
    LargeImages,
    Network,
    OnError,
    Overwrite,
    SavedModel,
    Seed,
    SplitSeed,
    load_with_roles,
    open_model,
)

if TYPE_CHECKING:
    from lookalike.data import DataBundle
    from lookalike.doubt import CalibrationFigures
    from lookalike.model import PrototypeModel


@guarded
def calibrate(
    model: SavedModel,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Labelled images, one sub-folder per class, or a dataset's name; the model's training images in it "
            "are left out.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write the calibrated model to.")],
    coverage: Annotated[
        float, typer.Option(help="Probability with which an image's class is in its set of classes.")
    ] = 0.95,
    false_alarm: Annotated[float, typer.Option(help="Largest share of familiar images called unfamiliar.")] = 0.01,
    novelty: Annotated[
        str,
        typer.Option(
            help="Score of unfamiliar images: joint, direction, mahalanobis, likelihood-ratio, neighbours, percentile, "
            "distance."
        ),
    ] = "joint",
    conservative: Annotated[
        bool,
        typer.Option(
            "--conservative",
            help="Sets with at least the coverage, and with a little more where there are few images; by default it is "
            "met exactly, on average over calibrations.",
        ),
    ] = False,
    labels: Labels = None,
    network: Network = None,
    batch_size: BatchSize = 256,
    on_error: OnError = "stop",
    large_images: LargeImages = False,
    overwrite: Overwrite = False,
    discard_edits: DiscardEdits = False,
    seed: Seed = 0,
    split_seed: SplitSeed = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Calibrate a saved model on images that it was not made from, so that its doubt can be relied on."""
    from lookalike._core.fresh_folder import check_replaceable
    from lookalike.cli.reading import report_skipped
    from lookalike.data import Batches
    from lookalike.model.doubting import usual_abstention
    from lookalike.saved import check_no_edits

    check_replaceable(output, overwrite=overwrite)
    check_no_edits(output, discard=discard_edits)
    converted, preprocessing = open_model(model, network, device)
    reading = replace(preprocessing, large_images=large_images)
    bundle = load_with_roles(converted, data, reading, labels=labels, split_seed=split_seed)
    validation = Batches(bundle.test, batch_size, on_error=on_error)
    calibrated = converted.calibrate(
        validation,
        coverage=coverage,
        false_alarm=false_alarm,
        novelty=novelty,
        conservative=conservative,
        seed=seed,
        batch_size=batch_size,
    )
    calibrated.save(output, overwrite=overwrite, discard_edits=discard_edits)
    assert calibrated.doubt is not None  # calibrate sets it
    facts, promise = calibrated.doubt.facts, usual_abstention(calibrated.doubt)
    used_up = _used_up(bundle)
    if json:
        print_json(
            {"output": str(output), "calibration": facts.to_dict()}
            | {
                "abstention": None if promise is None else promise.to_dict(),
                "notes": [*bundle.notes, *used_up],
                "passed_over": bundle.passed_over.to_dict(),
                "skipped": list(validation.skipped.values()),
            }
        )
        return
    rows = {
        "images": f"{facts.n_fitted:,} to fit, {facts.n_validation:,} for the guarantees",
        "before": _figures(facts.before),
        "after": _figures(facts.after),
    }
    if facts.black_box is not None:
        rows["original network"] = f"{_figures(facts.black_box)}, with a temperature fitted likewise"
    or_more = " or more" if facts.conservative else ""
    rows["sets"] = f"coverage {facts.coverage:g}{or_more}, on average over calibrations"
    rows["unfamiliar"] = facts.not_tested or f"at most {facts.false_alarm:.4g} of familiar images, by {facts.novelty}"
    rows["abstention"] = _said_of_answers(calibrated)
    print_facts("Calibration", rows)
    print_notes([*bundle.notes, *facts.notes, *used_up])
    report_skipped(list(validation.skipped.values()))
    advice = (
        "its probabilities are no better than before, see above" if facts.is_worse else "use it in place of the first"
    )
    out.print(f"The calibrated model is in {output}; {advice}.", style="bold", markup=False)
    show_next("predict", str(output), "IMAGES", network=network)


def _said_of_answers(model: "PrototypeModel") -> str:
    """Says when the model may answer, or why there is no bound on wrong answers."""
    try:
        return model.abstention().sentence()
    except LookalikeError as error:
        return f"none: {error}"


def _used_up(bundle: "DataBundle") -> list[str]:
    """Says that the calibration took the test part, where the data have a training part beside it."""
    if not len(bundle.train):
        return []
    return [
        f"the calibration used the {counted(len(bundle.test), 'test image')} of {bundle.name} and left out its "
        f"{counted(len(bundle.train), 'training image')}: a test on these images is no longer independent; to keep "
        "them for it, give a folder of other validation images"
    ]


def _figures(figures: "CalibrationFigures") -> str:
    """Formats calibration figures."""
    return (
        f"ECE {figures.ece:.3f} ({figures.ece_low:.3f} to {figures.ece_high:.3f}), log loss {figures.log_loss:.3f}, "
        f"Brier score {figures.brier:.3f}"
    )
