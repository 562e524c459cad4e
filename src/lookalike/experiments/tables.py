"""Tables of experiments in Markdown and CSV: mean ± standard deviation over seeds, or the minimum for run times."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from lookalike._core.names import spreadsheet_cell, visible
from lookalike._core.wording import counted


@dataclass(frozen=True)
class Column:
    """A figure of a table.

    Attributes:
        name: Name of the figure.
        title: Heading of the column.
        scale: Factor of the values: 100 for percent, 1000 for milliseconds.
        digits: Number of digits after the decimal point.
        least: Show the minimum over seeds. It suits run times, which other load on the machine can only increase.
    """

    name: str
    title: str
    scale: float = 1.0
    digits: int = 3
    least: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        names: Texts of the first columns.
        values: Values of each figure, one per seed.
    """

    names: tuple[str, ...]
    values: Mapping[str, Sequence[float]]


def gather(
    records: Sequence[Mapping[str, Any]], columns: Sequence[Column], keys: Mapping[str, str] | None = None
) -> dict[str, list[float]]:
    """Collects each column's values from records; values that are no finite number and empty columns are left out.

    Args:
        records: Figures by name, one record per seed.
        columns: Columns to collect.
        keys: Key of each column in the records; other columns are left out. None takes the columns' own names.

    Example:
        >>> gather([{"a": 1.0}, {"a": None}, {"a": 3.0}], [Column("a", "A"), Column("b", "B")])
        {'a': [1.0, 3.0]}
    """
    names = (
        {c.name: c.name for c in columns} if keys is None else {c.name: keys[c.name] for c in columns if c.name in keys}
    )
    values = {name: [record[key] for record in records if _is_number(record.get(key))] for name, key in names.items()}
    return {name: listed for name, listed in values.items() if listed}


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def markdown(heads: Sequence[str], columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Returns a table in Markdown: mean ± standard deviation over seeds, one seed's value alone, or the minimum.

    Example:
        >>> print(markdown(["model"], [Column("a", "accuracy %", 100, 1)], [Row(("KMEx",), {"a": [0.9, 0.92]})]))
        | model | accuracy % |
        |---|---:|
        | KMEx | 91.0 ± 1.4 |
    """
    lines = [
        "| " + " | ".join([*heads, *(column.title for column in columns)]) + " |",
        "|" + "---|" * len(heads) + "---:|" * len(columns),
    ]
    names = [[visible(name).replace("|", r"\|") for name in row.names] for row in rows]
    lines += [
        "| " + " | ".join([*first, *figures]) + " |"
        for first, figures in zip(names, figures_as_text(columns, rows), strict=True)
    ]
    return "\n".join(lines)


def figures_as_text(columns: Sequence[Column], rows: Sequence[Row]) -> list[list[str]]:
    """Returns the figures of each row. One of fewer seeds than others of the table says of how many.

    Example:
        >>> figures_as_text([Column("a", "a", digits=1)], [Row(("x",), {"a": [1, 2]}), Row(("y",), {"a": [3]})])
        [['1.5 ± 0.7'], ['3.0 (1 seed)']]
    """
    most = max((len(values) for row in rows for values in row.values.values()), default=0)
    return [[_as_text(column, row, most) for column in columns] for row in rows]


def _as_text(column: Column, row: Row, n_seeds: int) -> str:
    """Returns a figure as text; "–" if there is none."""
    values = [value * column.scale for value in row.values.get(column.name, ())]
    if not values:
        return "–"
    text = f"{over_seeds(column, values):z.{column.digits}f}"
    if len(values) > 1 and not column.least:
        text += f" ± {stdev(values):.{column.digits}f}"
    return f"{text} ({counted(len(values), 'seed')})" if len(values) < n_seeds else text


def as_csv(heads: Sequence[str], columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Returns a table as CSV, unrounded: mean or minimum, standard deviation and number of seeds of each figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heads, *(f"{c.name}{suffix}" for c in columns for suffix in ("", "_sd", "_n"))])
    for row in rows:
        line: list[object] = [spreadsheet_cell(name) for name in row.names]
        for column in columns:
            values = list(row.values.get(column.name, ()))
            spread = stdev(values) if len(values) > 1 else ""
            line += [over_seeds(column, values), spread, len(values)] if values else ["", "", 0]
        writer.writerow(line)
    return text.getvalue()


def over_seeds(column: Column, values: Sequence[float]) -> float:
    """Returns the minimum of a run time over seeds, the mean of any other figure."""
    return min(values) if column.least else mean(values)
