"""Differences between the rows of a table, paired by seed: the models of a seed share data, black box and test images.

Two means ± deviations hide what is common to both: a black box that is worse by chance makes its conversion worse, too.
The difference within each seed does not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lookalike._core.errors import LookalikeError
from lookalike.experiments.tables import Column, Row

_Z95 = 1.959963984540054
_ACCURACY, _AGREEMENT = "accuracy", "agreement"


@dataclass(frozen=True)
class Pairing:
    """What an experiment's rows are compared with.

    Attributes:
        reference: Last name of the row that the other rows of the same data and network are compared with.
        columns: Names of the figures that are compared.
    """

    reference: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class PairedDifference:
    """A difference between two models, over seeds.

    Attributes:
        mean: Mean difference.
        low: Lower end of the 95% interval.
        high: Upper end of the 95% interval.
        n_above: Number of seeds with a difference above 0.
        n_below: Number of seeds with a difference below 0.
        n_seeds: Number of seeds.
    """

    mean: float
    low: float
    high: float
    n_above: int
    n_below: int
    n_seeds: int

    def to_text(self, column: Column) -> str:
        """Returns the difference, its interval, and the number of seeds on its side, in the column's unit."""
        mean, low, high = (f"{value * column.scale:+z.{column.digits}f}" for value in (self.mean, self.low, self.high))
        if not self.n_above + self.n_below:
            return f"{mean} ({low} to {high}), equal in all"
        side, count = ("below", self.n_below) if self.mean < 0 else ("above", self.n_above)
        return f"{mean} ({low} to {high}), {count} of {self.n_seeds} {side}"


def paired_over_seeds(
    first: Sequence[float], second: Sequence[float], *, discordant: Sequence[float] = (), test_images: int = 0
) -> PairedDifference:
    """Returns the mean of ``first − second`` over seeds with a 95% interval [ours].

    The interval is Student's over the seeds' differences. If both are accuracies on the same test images in all seeds,
    it also holds the chance of these images: their variance is at most (p − d²) / n, with p the share of images on
    which exactly one of the two is right (McNemar's discordant pairs) and d the difference, both averaged over seeds.
    The two half-widths are added as squares.

    Args:
        first: Figures of one model, one per seed.
        second: Figures of the other model, for the same seeds in the same order.
        discordant: Share p of discordant test images for each seed, or an upper bound of it; empty if the figures are
            no shares of the same test images.
        test_images: Number n of test images.

    Raises:
        LookalikeError: If there are fewer than two seeds, or the numbers of values differ.

    Example:
        >>> paired_over_seeds([0.98, 0.97], [0.96, 0.96]).n_above
        2
    """
    n = len(first)
    if n != len(second) or n < 2:
        raise LookalikeError(f"a paired comparison needs the same two or more seeds, not {n} and {len(second)} values")
    if discordant and (len(discordant) != n or test_images < 1):
        raise LookalikeError(f"{len(discordant)} shares of {test_images} test images do not fit {n} seeds")
    from scipy.stats import t

    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean = fmean(differences)
    by_seed = float(t.ppf(0.975, n - 1)) * stdev(differences) / math.sqrt(n)
    by_image = 0.0
    if discordant:
        variances = [max(0.0, p - d**2) for p, d in zip(discordant, differences, strict=True)]
        by_image = _Z95 * math.sqrt(fmean(variances) / test_images)
    half = math.hypot(by_seed, by_image)
    most = 1.0 if discordant else math.inf  # shares differ by no more
    above, below = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return PairedDifference(mean, max(mean - half, -most), min(mean + half, most), above, below, n)


def discordant_at_most(first: Row, second: Row) -> list[float]:
    """Returns, seed by seed, the largest possible share of test images on which exactly one of two models is right.

    Where one of them is right and the other wrong, they disagree, and one of them errs. So the share is at most the sum
    of the errors, and at most the sum of the models' disagreements with their black box; the black box's own is 0.

    Args:
        first: Accuracies, and agreements with the black box unless it is the black box.
        second: The same of the other model.
    """
    n = len(first.values[_ACCURACY])
    errors = [[1 - accuracy for accuracy in row.values[_ACCURACY]] for row in (first, second)]
    bounds = [sum(pair) for pair in zip(*errors, strict=True)]
    agreements = [_agreements(row, n) for row in (first, second)]
    if all(len(values) == n for values in agreements):
        disagreements = [sum(1 - agreement for agreement in pair) for pair in zip(*agreements, strict=True)]
        bounds = [min(pair) for pair in zip(bounds, disagreements, strict=True)]
    return bounds


def _agreements(row: Row, n: int) -> Sequence[float]:
    return [1.0] * n if row.names[-1] == "black box" else row.values.get(_AGREEMENT, ())


def compare_rows(
    rows: Sequence[Row], pairing: Pairing, seeds: int, test_images: Mapping[str, int]
) -> list[tuple[Row, dict[str, PairedDifference]]]:
    """Compares each row with the reference row of the same data and network.

    Args:
        rows: A table's rows; the first name is the data set's.
        pairing: Reference and figures.
        seeds: Number of seeds; a figure without a value for each of them cannot be paired, and is left out.
        test_images: Number of test images by data set. An accuracy on other data is left out.

    Returns:
        Each compared row, with its differences by the figure's name.
    """
    references = {row.names[:-1]: row for row in rows if row.names[-1] == pairing.reference}
    compared = []
    for row in rows:
        reference = references.get(row.names[:-1])
        if reference is None or row is reference or seeds < 2:
            continue
        differences = {}
        for name in pairing.columns:
            values, reference_values = row.values.get(name, ()), reference.values.get(name, ())
            if len(values) != seeds or len(reference_values) != seeds:
                continue
            if name != _ACCURACY:
                differences[name] = paired_over_seeds(values, reference_values)
            elif row.names[0] in test_images:
                share = discordant_at_most(row, reference)
                n = test_images[row.names[0]]
                differences[name] = paired_over_seeds(values, reference_values, discordant=share, test_images=n)
        if differences:
            compared.append((row, differences))
    return compared


def paired_markdown(
    heads: Sequence[str],
    columns: Sequence[Column],
    rows: Sequence[Row],
    pairing: Pairing,
    seeds: int,
    test_images: Mapping[str, int],
) -> str:
    """Returns the paired comparison of a table's rows in Markdown, or "" if nothing can be compared."""
    compared = compare_rows(rows, pairing, seeds, test_images)
    shown_columns = [column for column in columns if any(column.name in differences for _, differences in compared)]
    if not shown_columns:
        return ""
    lines = [
        f"Difference from the row *{pairing.reference}*, paired by seed, with 95% interval:",
        "",
        "| " + " | ".join([*heads, *(column.title for column in shown_columns)]) + " |",
        "|" + "---|" * len(heads) + "---:|" * len(shown_columns),
    ]
    for row, differences in compared:
        cells = [differences[c.name].to_text(c) if c.name in differences else "–" for c in shown_columns]
        lines.append("| " + " | ".join([*(name.replace("|", r"\|") for name in row.names), *cells]) + " |")
    return "\n".join(lines)
