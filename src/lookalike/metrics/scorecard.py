"""The scorecard: all figures of one model, with a record of how they were measured."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from lookalike._core.display import as_html
from lookalike._core.errors import LookalikeError
from lookalike._core.files import write_whole
from lookalike._core.names import json_text
from lookalike._core.records import from_json, read_json
from lookalike.metrics.findings import Finding, overall
from lookalike.metrics.measures import figure_titles
from lookalike.metrics.thresholds import Thresholds
from lookalike.metrics.verdict import verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT = 1  # of the saved file

# figure → title, whether higher is better (None for a reference), whether it is shown in percent
FIGURES: Mapping[str, tuple[str, bool | None, bool]] = {
    "accuracy": ("accuracy", True, True),
    "black_box_accuracy": ("accuracy of the black box", None, True),
    "accuracy_difference": ("difference in accuracy", True, True),
    "agreement": ("agreement with the black box", True, True),
    "accuracy_logistic_regression": ("accuracy of logistic regression on the embedding", None, True),
    "accuracy_nearest_neighbour": ("accuracy of 1-NN on the embedding", None, True),
    "accuracy_nearest_mean": ("accuracy of the nearest class mean in the embedding", None, True),
    "calibration_error": ("expected calibration error ECE", False, False),
    "log_loss": ("log loss of the probabilities", False, False),
    "brier_score": ("Brier score of the probabilities", False, False),
    "calibration_error_black_box": ("ECE of the black box", None, False),
    "calibration_error_black_box_scaled": ("ECE of the black box, with a temperature fitted likewise", None, False),
    "log_loss_black_box_scaled": ("log loss of the black box, with that temperature", None, False),
    "brier_score_black_box_scaled": ("Brier score of the black box, with that temperature", None, False),
    "ghosting": ("ghosting D_tsp", False, True),
    "explanation_divergence": ("divergence of explanations D_fth (LRP of the class probability)", False, False),
    "explanation_divergence_random_head": ("D_fth of the same encoder with a random head", None, False),
    "explanation_divergence_permuted_labels": ("D_fth with permuted prototype labels", None, False),
    "explanation_divergence_mismatched": ("D_fth between maps of different images", None, False),
    "explanation_correlation": ("signed correlation of these maps", True, False),
    "explanation_correlation_random_head": ("signed correlation with a random head", None, False),
    "explanation_correlation_permuted_labels": ("signed correlation with permuted prototype labels", None, False),
    "explanation_correlation_mismatched": ("signed correlation between maps of different images", None, False),
    "auroc": ("AUROC of heat-maps", True, False),
    "auroc_random": ("AUROC of heat-maps in random order", None, False),
    "auroc_black_box": ("AUROC of the black box's heat-maps", None, False),
    "auroc_black_box_random": ("AUROC of the black box's heat-maps in random order", None, False),
    "average_increase": ("average increase AI", True, False),
    "average_drop": ("average drop AD", False, False),
    "object_share": ("share of the image that the object covers: chance for the next six", None, True),
    "pointing_game": ("pointing game: most relevant pixel on the object", True, True),
    "pointing_game_black_box": ("pointing game of the black box", None, True),
    "relevance_mass": ("relevance on the object", True, True),
    "relevance_mass_black_box": ("relevance of the black box on the object", None, True),
    "relevance_rank": ("most relevant pixels on the object", True, True),
    "relevance_rank_black_box": ("most relevant pixels of the black box on the object", None, True),
    "diversity": ("diversity D_dvs", False, False),
    "diversity_within_class": ("diversity D_dvs within classes", False, False),
    "diversity_reference": (
        "D_dvs as the authors' code takes it (log-l2, ε = 1e-4, by the embedding's scale)",
        False,
        False,
    ),
    "diversity_reference_floor": ("the least that it can be with this ε", None, False),
    "overlap": ("overlap: share of training images, or patches, nearer to another class's prototype", False, True),
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
    """The result of ``evaluate``.

    Attributes:
        runs: Values of each figure, run by run; figures without randomness have one value.
        details: Further results of each section, one entry per run, as plain JSON values.
        class_names: Names of the K classes.
        notes: Notes on the figures: what was not measured, and why; what to keep in mind.
        info: Options, seeds, sample indices, versions and fingerprints.
    """

    runs: dict[str, list[float]]
    details: dict[str, list[dict[str, Any]]]
    class_names: list[str]
    notes: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, figure: str) -> float:
        """Returns the mean of a figure over runs."""
        if figure not in self.runs:
            raise LookalikeError(f"{figure!r} was not measured; there are: {', '.join(self.runs)}")
        return mean(self.runs[figure])

    def get(self, figure: str) -> float | None:
        """Returns the mean of a figure over runs, or None if it was not measured."""
        return self[figure] if figure in self.runs else None

    def deviation(self, figure: str) -> float | None:
        """Returns a figure's standard deviation over runs; None for a single run."""
        values = self.runs.get(figure, [])
        return stdev(values) if len(values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values: the figures by name, then everything they are based on."""
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
        """Restores a scorecard from the result of ``to_dict``.

        Raises:
            LookalikeError: If the values are not those of a scorecard.
        """
        if values.get("format") != FORMAT:
            raise LookalikeError(f"these values are not a scorecard of format {FORMAT}")
        known_fields = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        card: Scorecard = from_json(cls, known_fields, "scorecard")
        if not all(card.runs.values()):
            raise LookalikeError("the scorecard has a figure without a value")
        return card

    def save(self, path: str | Path, *, overwrite: bool = True) -> None:
        """Writes the scorecard as JSON.

        Args:
            path: The file.
            overwrite: Whether to replace an existing file.

        Raises:
            LookalikeError: If the file exists and must not be replaced, or it cannot be written.
        """
        write_whole(Path(path), json_text(self.to_dict(), indent=2, allow_nan=True) + "\n", replace=overwrite)

    @classmethod
    def read(cls, path: str | Path) -> "Scorecard":
        """Reads a scorecard written by ``save``.

        Raises:
            LookalikeError: If the file cannot be read, or is not a scorecard.
        """
        try:
            values = read_json(path, finite=False)
        except LookalikeError as error:
            raise LookalikeError(f"cannot read the scorecard {str(path)!r}: {error}") from error
        if not isinstance(values, dict):
            raise LookalikeError(f"{str(path)!r} is not a scorecard")
        return cls.from_dict(values)

    def rows(self) -> list[tuple[str, str, str]]:
        """Returns title, value and better direction of each measured figure."""
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
        """Returns the figures as a Markdown table, followed by the verdict and the notes."""
        lines = ["| measure | value | better |", "|---|---:|---|"]
        lines += [f"| {title} | {value} | {better} |" for title, value, better in self.rows()]
        lines += ["", *(f"- {sentence}" for sentence in (*self.verdict(), *self.notes))]
        return "\n".join(lines) + "\n"

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={self[name]:.4g}" for name in self.runs if name in FIGURES)
        return f"Scorecard({figures})"

    def _repr_html_(self) -> str:
        """Shows the verdict and the figures in a notebook."""
        return as_html(" ".join(self.verdict()), columns=("measure", "value", "better"), rows=self.rows())

    def verdict(self, thresholds: Thresholds | None = None) -> list[str]:
        """Returns plain sentences: what the conversion lost, and whether the model's explanations can be trusted."""
        return [finding.text for finding in self.findings(thresholds)]

    def findings(self, thresholds: Thresholds | None = None) -> list[Finding]:
        """Returns the sentences of the verdict with their levels, the gravest first."""
        advice = self.info.get("model_provenance", {}).get("advice")
        return verdict(self.get, self.details, self.class_names, thresholds or Thresholds(), advice)

    def overall(self, thresholds: Thresholds | None = None) -> Finding | None:
        """Returns the verdict in one finding: can the model stand for its original, and its heat-maps be relied on?"""
        correct = self.details.get("faithfulness", [{}])[0].get("accuracy")
        n_test = None if correct is None else correct["n"]
        return overall(self.findings(thresholds), self.get("accuracy"), n_test)

    def axes(self) -> dict[str, float]:
        """Returns the axes of the radar (paper, Figure 4), 0 at the centre and 1 at the rim; outward is better.

        The accuracy axis is 1 at the black box's accuracy, 0 at five points less, and may exceed 1; the explanations
        axis is exp(−D_fth) [ours].
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
        """Plots how similar explanations stay while the model is randomised from the head down.

        Raises:
            LookalikeError: If the sanity checks were not measured.
        """
        from lookalike.plots.sanity import plot_sanity

        if "sanity" not in self.details:
            raise LookalikeError("sanity checks were not measured; use evaluate(..., sanity=True)")
        check = self.details["sanity"][0]
        curves = {
            "PRP of the nearest prototype, ranks": [
                likenesses["rank"]["likeness"] for likenesses in check["likenesses"]
            ],
            "PRP, structure": [likenesses["structure"]["likeness"] for likenesses in check["likenesses"]],
            "LRP of the probability, ranks": [likenesses["rank"]["probability"] for likenesses in check["likenesses"]],
            "LRP, structure": [likenesses["structure"]["probability"] for likenesses in check["likenesses"]],
            "same nearest prototype": [likenesses["same_prototype"] for likenesses in check["likenesses"]],
        }
        return plot_sanity(check["depths"], curves, chance=1 / check["options"]["n_prototypes"], ax=ax)

    def plot_radar(
        self, ax: "Axes | None" = None, *, name: str = "model", others: "Mapping[str, Scorecard] | None" = None
    ) -> "Axes":
        """Plots the radar (paper, Figure 4).

        Args:
            ax: Polar Axes; None creates a figure.
            name: Name of this model in the legend.
            others: Scorecards of other models to plot in the same radar, by name.

        Raises:
            LookalikeError: If another model has the name of this one.
        """
        from lookalike.plots.radar import plot_radar

        if others and name in others:
            raise LookalikeError(f"two models are called {name!r}: give this one another name (name=)")
        cards: dict[str, Scorecard] = {name: self, **(others or {})}
        return plot_radar({label: card.axes() for label, card in cards.items()}, ax=ax)
