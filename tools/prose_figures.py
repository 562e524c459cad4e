"""Numbers in a page's prose that are computed from docs/results/data.

Each number is followed by a comment that says what it is: ``0.17<!-- mean ghosting/digits/ProtoPNet/ghosting -->``. The
comment holds an operation and a figure: file, names of the row but the network's, column. ``*`` stands for all rows.

=================  ==========================================================================
``mean``           mean over seeds, as in the table; of run times the least
``least, most``    the smallest and the largest such value of the rows
``gap``            the difference from the table's reference row, paired by seed, without its sign
``from, to``       ends of that difference's interval, with their signs
``below, above``   number of seeds on that side
``seeds, images``  number of seeds; number of test images
=================  ==========================================================================
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lookalike.experiments import EXPERIMENTS, Findings, read_findings
from lookalike.experiments.paired import compare_rows
from lookalike.experiments.tables import Column, Row, over_seeds

DATA = Path(__file__).resolve().parents[1] / "docs/results/data"
FIGURE = re.compile(r"(?P<number>[-−+]?[\d,]*\.?\d+)(?P<unit>%?)<!-- (?P<operation>\w+) (?P<figure>[^>]+?) -->")
_PAIRED = ("gap", "from", "to", "below", "above")


def computed(text: str) -> str:
    """Returns the text with each number that a comment explains computed anew, with as many decimals as it has."""
    return FIGURE.sub(lambda found: value_of(found) + found[0][found.end("number") - found.start() :], text)


def value_of(found: re.Match[str]) -> str:
    """Returns a number's text, computed from the data."""
    decimals = len(found["number"].partition(".")[2])
    file, *names, column_name = found["figure"].split("/")
    findings, values = _read(file)
    if found["operation"] == "images":
        return f"{values['test_images'][column_name]:,}"
    column = next(column for column in findings.columns if column.name == column_name)
    rows = list(_rows(findings, names))
    if not rows:
        raise ValueError(f"{file} has no row {names}")
    measure = _paired if found["operation"] in _PAIRED else _plain
    number = measure(file, found["operation"], rows, column)
    return f"{number:z.{decimals}f}".replace("-", "−")


def _plain(_file: str, operation: str, rows: list[Row], column: Column) -> float:
    if operation == "seeds":
        return len(rows[0].values[column.name])
    summary: dict[str, Any] = {"mean": lambda numbers: numbers[0], "least": min, "most": max}
    return float(
        summary[operation](
            [
                over_seeds(column, list(row.values[column.name])) * column.scale
                for row in rows
                if column.name in row.values
            ]
        )
    )


def _paired(file: str, operation: str, rows: list[Row], column: Column) -> float:
    findings, values = _read(file)
    pairing = EXPERIMENTS[values["experiment"]].pairing
    compared = compare_rows(findings.rows, pairing, len(values["plan"]["seeds"]), values["test_images"])
    difference = next(differences[column.name] for row, differences in compared if row.names == rows[0].names)
    numbers = {
        "gap": abs(difference.mean) * column.scale,
        "from": difference.low * column.scale,
        "to": difference.high * column.scale,
        "below": difference.n_below,
        "above": difference.n_above,
    }
    return numbers[operation]


def _rows(findings: Findings, names: list[str]) -> Iterator[Row]:
    """Yields rows by their names without the network's."""
    for row in findings.rows:
        short = [name for head, name in zip(findings.heads, row.names, strict=True) if head != "network"]
        if len(short) == len(names) and all(name in ("*", own) for name, own in zip(names, short, strict=True)):
            yield row


@cache
def _read(file: str) -> tuple[Findings, dict[str, Any]]:
    path = DATA / f"{file}.json"
    return read_findings(path), json.loads(path.read_text(encoding="utf-8"))
