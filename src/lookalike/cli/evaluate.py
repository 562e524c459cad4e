"""``lookalike evaluate`` and ``lookalike report``."""

import re
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from lookalike._core.startup import import_torch
from lookalike.cli.console import err, free_name, guarded, out, print_json, print_notes, print_table, show_next
from lookalike.cli.options import (
    BatchSize,
    ClassOrderOption,
    Composite,
    Device,
    Json,
    Labels,
    LargeImages,
    Network,
    OnError,
    Overwrite,
    RuleOption,
    SavedModel,
    Seed,
    SplitSeed,
    Workers,
    load_with_roles,
    open_model,
)

if TYPE_CHECKING:
    from lookalike.data import DataBundle
    from lookalike.encoder import LoadedClassifier
    from lookalike.metrics import Scorecard
    from lookalike.model import PrototypeModel

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Test images, one sub-folder per class; or the folder that the model was converted with, without its "
        "training images; or a dataset's name.",
    ),
]
_IMAGES_OF_REPORT = 30
NImages = Annotated[
    int, typer.Option("--images", min=1, help="Number of test images on which explanations are measured.")
]
Measures = Annotated[
    str | None,
    typer.Option(help="Further standard measures, separated by commas, e.g. deletion,road,sensitivity; or all."),
]
Only = Annotated[
    str | None,
    typer.Option(help="Measure only these sections, separated by commas, e.g. transparency,faithfulness."),
]
Resume = Annotated[Path | None, typer.Option(help="Store finished sections in this file, and resume from it.")]
TimeBound = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Most time to spend, e.g. 60s, 5m or 1h: the most worthwhile sections come first, and what does not fit "
        "is left out and named. With --resume, a later call measures the rest.",
    ),
]
NRuns = Annotated[int, typer.Option("--runs", min=1, help="Number of runs, each with other images and noise.")]
Sanity = Annotated[
    bool,
    typer.Option(
        "--sanity", metavar="", help="Also randomise weights and labels, and check whether explanations change."
    ),
]
Precision = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="bfloat16 is faster if the processor supports it.")
]
BlackBox = Annotated[
    str | None,
    typer.Option(
        "--black-box", help="Compare with this network, e.g. file.py:function; by default with the converted one."
    ),
]
Weights = Annotated[
    Path | None, typer.Option("--black-box-weights", help="Weights of the black box: a checkpoint of any kind.")
]
WeightsKey = Annotated[
    str | None,
    typer.Option("--black-box-weights-key", metavar="NAME", help="Which weights to take, if several sets fit."),
]

WeightsByOrder = Annotated[
    bool,
    typer.Option(
        "--black-box-weights-by-order",
        metavar="",
        help="Match the weights with the network by order instead of name: same architecture, other names.",
    ),
]


@guarded
def evaluate(
    model: SavedModel,
    data: Data,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the scorecard to this JSON file.")
    ] = None,
    only: Only = None,
    sanity: Sanity = False,
    min_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Exit with code 1 if the model agrees with the black box less often."),
    ] = None,
    max_ghosting: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with code 1 if a larger share of prototypes is never used.")
    ] = None,
    measures: Measures = None,
    images: NImages = 100,
    runs: NRuns = 1,
    budget: TimeBound = None,
    composite: Composite = "epsilon-plus-flat",
    rule: RuleOption = None,
    precision: Precision = "float32",
    black_box: BlackBox = None,
    black_box_weights: Weights = None,
    black_box_weights_key: WeightsKey = None,
    black_box_weights_by_order: WeightsByOrder = False,
    class_order: ClassOrderOption = None,
    resume: Resume = None,
    network: Network = None,
    labels: Labels = None,
    batch_size: BatchSize = 256,
    workers: Workers = None,
    on_error: OnError = "stop",
    large_images: LargeImages = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    split_seed: SplitSeed = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure how faithful, transparent, robust and diverse a saved model is."""
    from lookalike._core.files import check_writable

    started, seconds = time.monotonic(), _seconds(budget)
    if output is not None:
        check_writable(output, overwrite, begins="{")
    import_torch()
    from lookalike.metrics import evaluate as measure
    from lookalike.metrics.budget import Budget

    original = _Original(black_box, black_box_weights, black_box_weights_key, black_box_weights_by_order)
    converted, bundle, box = _open(
        model, data, original, labels=labels, network=network, device=device, split_seed=split_seed,
        large_images=large_images,
    )  # fmt: skip
    card = measure(
        converted,
        bundle,
        black_box=box,
        class_order=class_order,
        only=None if only is None else _split(only),
        measures=_names(measures),
        sanity=sanity,
        n_images=images,
        n_runs=runs,
        budget=None if seconds is None else Budget(seconds, started),
        seed=seed,
        composite=composite,
        rule=rule,
        precision=precision,
        batch_size=batch_size,
        num_workers=workers,
        on_error=on_error,
        resume=resume,
    )
    if output is not None:
        card.save(output, overwrite=overwrite)
    if json:
        print_json(card.to_dict() | {"passed_over": bundle.passed_over.to_dict()})
    else:
        print_table("Scorecard", ["measure", "value", "better"], card.rows())
        _print_verdict(card)
        print_notes(card.notes, as_error=True)
        if model.is_dir():
            told_again: dict[str, object] = {
                "--labels": labels,
                "--split-seed": split_seed,
                "--class-order": class_order,
            }
            told_again |= original.as_given() | {
                "--scorecard": output,
                "--on-error": "skip" if on_error == "skip" else None,
            }
            needed = [word for name, value in told_again.items() if value is not None for word in (name, str(value))]
            needed += [*original.flags(), *(["--large-images"] if large_images else [])]
            show_next("report", str(model), data, *needed, "-o", free_name("report.html"), network=network)
    missed = _missed_thresholds(card, min_agreement, max_ghosting)
    for message in missed:
        err.print(f"failed: {message}", style="bold red", markup=False, soft_wrap=True)
    if missed:
        raise typer.Exit(1)


@guarded
def report(
    model: SavedModel,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
    title: Annotated[
        str | None, typer.Option(help="Title of the page; by default the name of the model's folder.")
    ] = None,
    intended_use: Annotated[
        str | None, typer.Option("--intended-use", help="What the model is meant for; the page says it.")
    ] = None,
    browse: Annotated[int, typer.Option(min=1, help="Largest number of test images to show.")] = 1000,
    maps: Annotated[
        int, typer.Option(min=0, help="Number of these with heat-maps, wrong and disagreeing ones first.")
    ] = 100,
    nearest: Annotated[int, typer.Option(min=1, max=10, help="Number of prototypes to show for each image.")] = 3,
    scorecard: Annotated[
        Path | None, typer.Option(help="A file that 'evaluate -o' wrote: show these figures, and measure nothing.")
    ] = None,
    only: Only = None,
    resume: Resume = None,
    sanity: Sanity = False,
    measures: Measures = None,
    images: NImages = _IMAGES_OF_REPORT,
    runs: NRuns = 1,
    budget: TimeBound = None,
    composite: Composite = "epsilon-plus-flat",
    rule: RuleOption = None,
    precision: Precision = "float32",
    black_box: BlackBox = None,
    black_box_weights: Weights = None,
    black_box_weights_key: WeightsKey = None,
    black_box_weights_by_order: WeightsByOrder = False,
    class_order: ClassOrderOption = None,
    network: Network = None,
    labels: Labels = None,
    batch_size: BatchSize = 256,
    workers: Workers = None,
    on_error: OnError = "stop",
    large_images: LargeImages = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    split_seed: SplitSeed = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write one HTML file about a saved model: verdict, prototypes, test images, figures. It works offline."""
    from lookalike._core.files import PAGE_BEGINS, check_writable

    started, seconds = time.monotonic(), _seconds(budget)
    check_writable(output, overwrite, begins=PAGE_BEGINS)
    if scorecard is not None:
        _refuse_to_measure(
            {"--only": only, "--resume": resume, "--measures": measures, "--sanity": sanity}
            | {"--images": images != _IMAGES_OF_REPORT, "--runs": runs != 1}
        )
    import_torch()
    from lookalike.metrics import Scorecard
    from lookalike.metrics.budget import Budget
    from lookalike.report import write_report
    from lookalike.report.commands import Commands

    card = None if scorecard is None else Scorecard.read(scorecard)
    of_data: Any = {"network": network, "labels": labels, "split_seed": split_seed, "large_images": large_images}
    original = _Original(black_box, black_box_weights, black_box_weights_key, black_box_weights_by_order)
    converted, bundle, box = _open(model, data, original, device=device, **of_data)
    card = write_report(
        converted,
        bundle,
        output,
        black_box=box,
        card=card,
        class_order=class_order,
        title=title or model.resolve().name,
        intended_use=intended_use,
        command=shlex.join(["lookalike", *sys.argv[1:]]),
        commands=Commands(str(model), data, **of_data, skips_errors=on_error == "skip"),
        n_browse=browse,
        n_maps=maps,
        n_nearest=nearest,
        only=None if only is None else _split(only),
        resume=resume,
        sanity=sanity,
        measures=_names(measures),
        n_images=images,
        n_runs=runs,
        budget=None if seconds is None else Budget(seconds, started),
        seed=seed,
        composite=composite,
        rule=rule,
        precision=precision,
        batch_size=batch_size,
        num_workers=workers,
        on_error=on_error,
        overwrite=overwrite,
    )
    n_bytes = output.stat().st_size
    if json:
        written = {"output": str(output), "bytes": n_bytes, "scorecard": card.to_dict()}
        print_json(written | {"passed_over": bundle.passed_over.to_dict()})
        return
    _print_verdict(card)
    print_notes(card.notes, as_error=True)
    out.print(
        f"\nThe report is in {output} ({n_bytes / 1e6:.1f} MB); open it in a browser.", style="bold", markup=False
    )


def _print_verdict(card: "Scorecard") -> None:
    """Prints the verdict: the sentence over all first, then the findings, the gravest first."""
    colours = {"bad": "red", "caution": "yellow", "hint": "cyan", "good": "green", "info": ""}
    overall = card.overall()
    if overall is not None:
        out.print(overall.text, style="bold", markup=False, soft_wrap=True)
    for finding in card.findings():
        out.print(f"• {finding.text}", style=colours[finding.level], markup=False, soft_wrap=True)


def _refuse_to_measure(asked: Mapping[str, object]) -> None:
    """Refuses options that ask for figures where a scorecard has them already.

    Raises:
        LookalikeError: If one of them is given.
    """
    from lookalike._core.errors import LookalikeError

    unused = [name for name, is_asked in asked.items() if is_asked]
    if unused:
        raise LookalikeError(f"with --scorecard nothing is measured: leave out {' and '.join(unused)}")


class _Original(NamedTuple):
    """The options that name the black box to compare with.

    Attributes:
        spec: Spec of its network; None takes the classifier that was converted.
        weights: File of its weights.
        key: Entry of the file that holds them.
        by_order: Match them with the network by order instead of name.
    """

    spec: str | None
    weights: Path | None
    key: str | None
    by_order: bool

    def as_given(self) -> dict[str, object]:
        """Returns the options with a value."""
        return {
            "--black-box": self.spec, "--black-box-weights": self.weights, "--black-box-weights-key": self.key
        }  # fmt: skip

    def flags(self) -> list[str]:
        """Returns the options without a value that are given."""
        return ["--black-box-weights-by-order"] if self.by_order else []

    def load(self, device: Any) -> "LoadedClassifier | None":
        """Loads it; None if no network is named.

        Raises:
            LookalikeError: If it cannot be loaded, or there are weights without a network.
        """
        from lookalike._core.errors import LookalikeError
        from lookalike.encoder import load_classifier

        if self.spec is None:
            of_weights = [name for name, value in self.as_given().items() if value is not None] + self.flags()
            if of_weights:
                raise LookalikeError(f"{of_weights[0]} needs --black-box, which names their network")
            return None
        try:
            box = load_classifier(self.spec, self.weights, weights_key=self.key, by_order=self.by_order)
        except LookalikeError as error:
            raise LookalikeError(str(error).replace("--weights", "--black-box-weights")) from error
        box.model.to(device)
        return box


def _open(
    model: Path,
    data: str,
    original: _Original,
    *,
    labels: str | None,
    network: str | None,
    device: str,
    split_seed: int | None,
    large_images: bool,
) -> "tuple[PrototypeModel, DataBundle, LoadedClassifier | None]":
    """Opens a saved model, the data to test it on, and a black box to compare it with."""
    from lookalike.data import warn_of_values

    converted, preprocessing = open_model(model, network, device)
    box = original.load(converted.device)
    reading = replace(preprocessing, large_images=large_images)
    bundle = load_with_roles(converted, data, reading, labels=labels, split_seed=split_seed)
    warn_of_values(bundle.test, "test")
    return converted, bundle, box


def _seconds(bound: str | None) -> float | None:
    """Returns a time such as 90, 90s, 5m or 1h in seconds; None for None.

    Raises:
        LookalikeError: If it is no such time, or not more than 0.
    """
    from lookalike._core.errors import LookalikeError

    if bound is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|)", bound.strip().lower())
    seconds = float(match[1]) * {"h": 3600, "m": 60}.get(match[2], 1) if match else 0
    if not seconds:
        raise LookalikeError(f"--budget takes a time above 0 such as 60s, 5m or 1h, not {bound!r}")
    return seconds


def _split(names: str) -> list[str]:
    """Splits names at commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def _names(measures: str | None) -> "list[str] | Literal['all'] | None":
    """Returns the requested standard measures, or ``"all"``."""
    return None if measures is None else "all" if measures.strip() == "all" else _split(measures)


def _missed_thresholds(card: "Scorecard", min_agreement: float | None, max_ghosting: float | None) -> list[str]:
    """Returns the figures that miss their thresholds.

    Raises:
        LookalikeError: If a figure with a threshold was not measured.
    """
    from lookalike._core.errors import LookalikeError

    missed = []
    for figure, option, bound, sign in (
        ("agreement", "--min-agreement", min_agreement, 1),
        ("ghosting", "--max-ghosting", max_ghosting, -1),
    ):
        if bound is None:
            continue
        value = card.get(figure)
        if value is None:
            raise LookalikeError(f"{option} needs {figure}, which was not measured")
        if sign * value < sign * bound:
            missed.append(f"{figure} is {value:.4f}; {option} is {bound:g}")
    return missed
