"""The scorecard: every measure of one model, with how it was made."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from lookalike._core.errors import LookalikeError
from lookalike._core.files import write_whole
from lookalike._core.names import json_text
from lookalike._core.records import from_json, read_json
from lookalike.metrics.measures import figure_titles
from lookalike.metrics.verdict import Thresholds, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT = 1

# figure → what it is called, whether higher is better (None: neither), whether it is a share of something
FIGURES: Mapping[str, tuple[str, bool | None, bool]] = {
    "accuracy": ("accuracy", True, True),
    "black_box_accuracy": ("accuracy of the black box", None, True),
    "accuracy_difference": ("difference in accuracy", True, True),
    "agreement": ("agreement with the black box", True, True),
    "calibration_error": ("expected calibration error ECE", False, False),
    "calibration_error_black_box": ("ECE of the black box", None, False),
    "ghosting": ("ghosting D_tsp", False, True),
    "explanation_divergence": ("divergence of explanations D_fth (LRP of the class probability)", False, False),
    "explanation_divergence_random_head": ("D_fth of the same encoder with a random head", None, False),
    "explanation_divergence_permuted_labels": ("D_fth with permuted prototype labels", None, False),
    "explanation_divergence_mismatched": ("D_fth between maps of different images", None, False),
    "explanation_correlation": ("signed correlation of these maps", True, False),
    "explanation_correlation_random_head": ("signed correlation with a random head", None, False),
    "explanation_correlation_permuted_labels": ("signed correlation with permuted prototype labels", None, False),
    "explanation_correlation_mismatched": ("signed correlation between maps of different images", None, False),
    "auroc": ("AUROC", True, False),
    "auroc_random": ("AUROC in random order", None, False),
    "auroc_black_box": ("AUROC of the black box", None, False),
    "auroc_black_box_random": ("AUROC of the black box in random order", None, False),
    "average_increase": ("average increase AI", True, False),
    "average_drop": ("average drop AD", False, False),
    "diversity": ("diversity D_dvs", False, False),
    "diversity_within_class": ("diversity D_dvs within classes", False, False),
    "diversity_reference": (
        "D_dvs as the authors' code takes it (log-l2, ε = 1e-4, by the embedding's scale)",
        False,
        False,
    ),
    "diversity_reference_floor": ("the least that it can be with this ε", None, False),
    "overlap": ("overlap: share of training images nearer to another class's prototype", False, True),
    "silhouette": ("silhouette of classes in the embedding", True, False),
    "sanity_rank": ("rank correlation of heat-maps after all layers are randomised", False, False),
    "sanity_structure": ("structural similarity of heat-maps after all layers are randomised", False, False),
    "sanity_same_prototype": ("same prototype after all layers are randomised", False, True),
    "attributes_captured": ("captured attributes", True, False),
    "attribute_correlation_error": ("error of attribute correlations", False, False),
    **figure_titles(),
}


@dataclass(frozen=True)
class Scorecard:
    """What ``evaluate`` found.

    Attributes:
        runs: Each figure, run by run; figures that no seed changes have one.
        details: What each section found besides, per run, as plain JSON values.
        class_names: K names.
        notes: What was not measured, and why.
        info: Options, seeds, sample indices, versions and fingerprints.
    """

    runs: dict[str, list[float]]
    details: dict[str, list[dict[str, Any]]]
    class_names: list[str]
    notes: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, figure: str) -> float:
        """Returns a figure: its mean over runs."""
        if figure not in self.runs:
            raise LookalikeError(f"{figure!r} was not measured; there are: {', '.join(self.runs)}")
        return mean(self.runs[figure])

    def get(self, figure: str) -> float | None:
        """Returns a figure, or None where it was not measured."""
        return self[figure] if figure in self.runs else None

    def deviation(self, figure: str) -> float | None:
        """Returns a figure's standard deviation over runs; None for a single run."""
        values = self.runs.get(figure, [])
        return stdev(values) if len(values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values: the figures by name, then all that is behind them."""
        figures = {name: self.get(name) for name in FIGURES}
        return {
            **figures,
            "verdict": self.verdict(),
            "deviations": {name: self.deviation(name) for name in self.runs if self.deviation(name) is not None},
            "runs": self.runs,
            "details": self.details,
            "class_names": self.class_names,
            "notes": self.notes,
            "info": self.info,
            "format": FORMAT,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Scorecard":
        """Makes a scorecard again from ``to_dict``.

        Raises:
            LookalikeError: If these are not a scorecard's values.
        """
        if values.get("format") != FORMAT:
            raise LookalikeError(f"these values are no scorecard of format {FORMAT}")
        kept = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        card: Scorecard = from_json(cls, kept, "scorecard")
        if not all(card.runs.values()):
            raise LookalikeError("the scorecard has a figure without a value")
        return card

    def save(self, path: str | Path, *, overwrite: bool = True) -> None:
        """Writes it as JSON.

        Args:
            path: The file.
            overwrite: Replace it if there is one.

        Raises:
            LookalikeError: If there is one that is not to be replaced, or it cannot be written.
        """
        write_whole(Path(path), json_text(self.to_dict(), indent=2, allow_nan=True) + "\n", replace=overwrite)

    @classmethod
    def read(cls, path: str | Path) -> "Scorecard":
        """Reads what ``save`` wrote.

        Raises:
            LookalikeError: If the file cannot be read, or is no scorecard.
        """
        try:
            values = read_json(path, finite=False)
        except LookalikeError as error:
            raise LookalikeError(f"cannot read the scorecard {str(path)!r}: {error}") from error
        if not isinstance(values, dict):
            raise LookalikeError(f"{str(path)!r} is no scorecard")
        return cls.from_dict(values)

    def rows(self) -> list[tuple[str, str, str]]:
        """Returns what was measured: name, value, and which direction is better."""
        arrows = {True: "higher", False: "lower", None: ""}
        return [
            (title, self.format(name), arrows[better])
            for name, (title, better, _) in FIGURES.items()
            if name in self.runs
        ]

    def format(self, figure: str) -> str:
        """Returns a figure as text: mean ± standard deviation over runs; shares in percent."""
        value, spread = self.get(figure), self.deviation(figure)
        if value is None:
            return "–"
        if FIGURES[figure][2]:
            sign = "+" if figure == "accuracy_difference" else "-"
            unit = " points" if figure == "accuracy_difference" else "%"
            text = format(100 * value, f"{sign}.1f") + (f" ± {100 * spread:.1f}" if spread is not None else "") + unit
        elif figure == "attributes_captured":
            text = f"{value:.0f}"
        else:
            text = f"{value:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")
        return text.replace("-", "−")

    def to_markdown(self) -> str:
        """Returns the figures as a Markdown table, with notes beneath."""
        lines = ["| measure | value | better |", "|---|---:|---|"]
        lines += [f"| {title} | {value} | {better} |" for title, value, better in self.rows()]
        lines += ["", *(f"- {sentence}" for sentence in (*self.verdict(), *self.notes))]
        return "\n".join(lines) + "\n"

    def verdict(self, thresholds: Thresholds | None = None) -> list[str]:
        """Says in plain sentences what was lost, and whether what the model shows can be trusted."""
        return verdict(self.get, self.details, self.class_names, thresholds or Thresholds())

    def axes(self) -> dict[str, float]:
        """Returns the axes of the radar (paper, Figure 4), 0 at the centre and 1 at the rim; outward is better.

        Faithfulness of accuracy is 1 where the black box's is reached, 0 at five points less, and may go beyond;
        faithfulness of explanations is exp(−D_fth) [ours].
        """
        readings: dict[str, tuple[str, Callable[[float], float]]] = {
            "transparency": ("ghosting", lambda v: 1 - v),
            "accuracy": ("accuracy_difference", lambda v: 1 + v / 0.05),
            "explanations": ("explanation_divergence", lambda v: math.exp(-v)),
            "robustness": ("auroc", lambda v: v),
            "diversity": ("diversity", lambda v: 1 - v),
        }
        return {axis: read(self[figure]) for axis, (figure, read) in readings.items() if figure in self.runs}

    def plot_sanity(self, ax: "Axes | None" = None) -> "Axes":
        """Draws how alike explanations stay while the model is randomised from the head down.

        Raises:
            LookalikeError: If that was not measured.
        """
        from lookalike.plots.sanity import plot_sanity

        if "sanity" not in self.details:
            raise LookalikeError("sanity checks were not measured; evaluate(..., sanity=True) does it")
        found = self.details["sanity"][0]
        curves = {
            "PRP of the nearest prototype, ranks": [one["rank"]["likeness"] for one in found["likenesses"]],
            "PRP, structure": [one["structure"]["likeness"] for one in found["likenesses"]],
            "LRP of the probability, ranks": [one["rank"]["probability"] for one in found["likenesses"]],
            "LRP, structure": [one["structure"]["probability"] for one in found["likenesses"]],
            "same nearest prototype": [one["same_prototype"] for one in found["likenesses"]],
        }
        return plot_sanity(found["depths"], curves, chance=1 / found["options"]["n_prototypes"], ax=ax)

    def plot_radar(self, ax: "Axes | None" = None, *, name: str = "model", others: "Any" = None) -> "Axes":
        """Draws the radar (paper, Figure 4).

        Args:
            ax: Polar Axes; None makes a figure.
            name: What to call this model in the legend.
            others: Scorecards of other models by name, drawn in the same radar.
        """
        from lookalike.plots.radar import plot_radar

        cards: dict[str, Scorecard] = {name: self, **(others or {})}
        return plot_radar({label: card.axes() for label, card in cards.items()}, ax=ax)
