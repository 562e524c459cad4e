"""``lookalike audit``."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli.console import guarded, print_json, print_line, print_notes, print_table
from lookalike.cli.options import (
    Corrections,
    Device,
    Json,
    Labels,
    Network,
    OnError,
    Overwrite,
    Seed,
    load_corrected,
    open_model,
    split_seed_of,
)

_SHOWN = 10  # suspects of each kind


@guarded
def audit(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder with a sub-folder per class, or a data set.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="A converted model, whose network says what is alike.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write all suspects: a table (.csv), or a page with pictures (.html)."),
    ] = None,
    train_only: Annotated[
        bool, typer.Option("--train-only", metavar="", help="Leave out DATA's test part; without it, no leak is found.")
    ] = False,
    sources: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Where an image comes from: the first group of this expression in its file name, e.g. '(cam\\d+)_'.",
        ),
    ] = None,
    shortcuts: Annotated[
        bool,
        typer.Option(
            "--shortcuts",
            metavar="",
            help="Also look for parts of images, such as a mark or a background, that go with a class.",
        ),
    ] = False,
    labels: Labels = None,
    corrections: Corrections = None,
    ranking: Annotated[str, typer.Option(help="Order of label suspects: prototypes, or cleanlab.")] = "prototypes",
    network: Network = None,
    on_error: OnError = "stop",
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Find probably wrong labels, duplicates, outliers and faulty prototypes, each with its reason."""
    from lookalike.audit import audit as look
    from lookalike.audit.suspects import check_output
    from lookalike.cli.reading import report_skipped
    from lookalike.data import Batches

    if output is not None:
        check_output(output, overwrite)
    source_reader = _source_reader(sources)
    converted, preprocessing = open_model(model, network, device)
    bundle = load_corrected(data, preprocessing, corrections, seed=split_seed_of(converted, None), labels=labels)
    train, test = (Batches(samples, on_error=on_error) for samples in (bundle.train, bundle.test))
    audit = look(
        converted,
        train,
        None if train_only or not len(bundle.test) else test,
        sources=source_reader,
        ranking=ranking,  # type: ignore[arg-type]
        seed=seed,
    )
    if shortcuts:
        audit = audit.with_shortcuts(converted, seed=seed)
    if output is not None:
        audit.save(output)
    skipped = [*train.skipped.values(), *test.skipped.values()]
    if json:
        of_data = {"skipped": skipped, "passed_over": bundle.passed_over.to_dict()}
        print_json(audit.to_dict() | of_data | {"notes": [*bundle.notes, *audit.notes]})
        return
    for kind, n in audit.counts().items():
        rows = [[f"{s.name or s.part + ' ' + str(s.sample)}", s.reason] for s in audit.of_kind(kind)[:_SHOWN]]
        print_table(f"{kind}: {n:,}", ["image or prototype", "why"], rows)
    if not audit.suspects:
        print_line("Nothing stands out.")
    print_notes([*bundle.notes, *audit.notes])
    report_skipped(skipped)
    if output is not None:
        print_line(f"All suspects: {output}")


def _source_reader(pattern: str | None) -> Callable[[str], str] | None:
    """Returns a function from a file name to its source."""
    from lookalike._core.errors import LookalikeError

    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise LookalikeError(f"--sources {pattern!r} is no regular expression: {error}") from error
    if expression.groups < 1:
        raise LookalikeError(f"--sources {pattern!r} has no group: put parentheses around the part that is the source")

    def source(name: str) -> str:
        match = expression.search(name)
        return "" if match is None or match[1] is None else match[1]

    return source
