"""The field's standard measures: what each is called, which property it measures, its range and its source.

Properties are the twelve of Co-12 (Nauta et al. 2023, "From Anecdotal Evidence to Quantitative Evaluation Methods").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Co12 = Literal[
    "correctness",
    "completeness",
    "consistency",
    "continuity",
    "contrastivity",
    "covariate complexity",
    "compactness",
    "composition",
    "confidence",
    "context",
    "coherence",
    "controllability",
]


@dataclass(frozen=True)
class MeasureInfo:
    """What is known about a figure.

    Attributes:
        title: What tables call it.
        better: Whether higher is better; None for a reference.
        range: Its values.
        co12: Which property of an explanation it measures.
        formula: In a line.
        source: The paper that defines it, and the mark: [ours] for our reading or choice.
    """

    title: str
    better: bool | None
    range: str
    co12: Co12
    formula: str
    source: str


_PETSIUK = "Petsiuk et al. 2018; baseline black, 20 steps [ours]"
_RONG = "Rong et al. 2022; 10% to 90%, noise of 1% of the value range [ours]"
_YEH = "Yeh et al. 2019; radius 1% of the value range, five draws [ours]"
_REFERENCE = "the same in random order"
_MOVED = "distance between prototypes matched within their class, over a sample's distance to its prototype"
_SAME = "mean over classes of the adjusted Rand index of the two clusterings"

MEASURES: Mapping[str, MeasureInfo] = {
    "deletion": MeasureInfo(
        "deletion",
        False,
        "[0, 1]",
        "correctness",
        "area under p(c) while the most relevant pixels turn to the baseline",
        _PETSIUK,
    ),
    "deletion_random": MeasureInfo("deletion in random order", None, "[0, 1]", "correctness", _REFERENCE, _PETSIUK),
    "insertion": MeasureInfo(
        "insertion",
        True,
        "[0, 1]",
        "correctness",
        "area under p(c) while the most relevant pixels are inserted into the baseline",
        _PETSIUK,
    ),
    "insertion_random": MeasureInfo("insertion in random order", None, "[0, 1]", "correctness", _REFERENCE, _PETSIUK),
    "road": MeasureInfo(
        "ROAD",
        False,
        "[0, 1]",
        "correctness",
        "share of images that keep their class when the p% most relevant pixels are imputed, mean over p",
        _RONG,
    ),
    "road_random": MeasureInfo("ROAD in random order", None, "[0, 1]", "correctness", _REFERENCE, _RONG),
    "faithfulness_correlation": MeasureInfo(
        "faithfulness correlation",
        True,
        "[−1, 1]",
        "correctness",
        "corr over subsets S of (Σ_S R, p(c | x) − p(c | x without S))",
        "Bhatt et al. 2020; 100 subsets of a fifth of the pixels [ours]",
    ),
    "max_sensitivity": MeasureInfo(
        "max-sensitivity of maps", False, "[0, ∞)", "continuity", "max over δ of ‖R(x + δ) − R(x)‖ / ‖R(x)‖", _YEH
    ),
    "avg_sensitivity": MeasureInfo(
        "average sensitivity of maps", False, "[0, ∞)", "continuity", "mean over δ of ‖R(x + δ) − R(x)‖ / ‖R(x)‖", _YEH
    ),
    "map_stability": MeasureInfo(
        "stability of maps",
        True,
        "[−1, 1]",
        "continuity",
        "mean over δ of corr(R(x + δ), R(x))",
        "[ours]",
    ),
    "sparseness": MeasureInfo(
        "sparseness of maps",
        True,
        "[0, 1)",
        "compactness",
        "Gini index of |R|: Σ_i (2i − F − 1) |R|_(i) / (F Σ|R|)",
        "Chalasani et al. 2020",
    ),
    "complexity": MeasureInfo(
        "complexity of maps", False, "[0, ln F]", "compactness", "−Σ r ln r, r = |R| / Σ|R|", "Bhatt et al. 2020"
    ),
    "reseeding_moved": MeasureInfo(
        "prototypes moved by another seed", False, "[0, ∞)", "consistency", _MOVED, "[ours], three seeds"
    ),
    "reseeding_same_cluster": MeasureInfo(
        "same cluster with another seed", True, "[−½, 1]", "consistency", _SAME, "[ours]; Hubert and Arabie 1985"
    ),
    "bootstrap_moved": MeasureInfo(
        "prototypes moved by a bootstrap sample", False, "[0, ∞)", "continuity", _MOVED, "[ours], three samples"
    ),
    "bootstrap_same_cluster": MeasureInfo(
        "same cluster with a bootstrap sample", True, "[−½, 1]", "continuity", _SAME, "[ours]; Hubert and Arabie 1985"
    ),
    "shift_same_prototype": MeasureInfo(
        "same prototype after a shift by a pixel",
        True,
        "[0, 1]",
        "continuity",
        "share of the four shifts after which the nearest prototype is the same",
        "[ours]",
    ),
    "identical_class": MeasureInfo(
        "identical class, nearest prototype",
        True,
        "[0, 1]",
        "coherence",
        "share of test images whose nearest prototype has the predicted class",
        "Hanawa et al. 2021, as quanda",
    ),
    "identical_class_images": MeasureInfo(
        "identical class, nearest training image",
        True,
        "[0, 1]",
        "coherence",
        "share of test images whose most similar training image has the predicted class",
        "Hanawa et al. 2021, as quanda",
    ),
    "identical_subclass": MeasureInfo(
        "identical subclass",
        True,
        "[0, 1]",
        "coherence",
        "share of test images whose nearest prototype has their class, prototypes clustered on pairs of classes",
        "Hanawa et al. 2021, as quanda; pairs at random, the network is not trained again [ours]",
    ),
    "model_randomisation": MeasureInfo(
        "model randomisation",
        False,
        "[−1, 1]",
        "correctness",
        "Spearman's corr of the similarities to the prototypes' images before and after the weights are drawn anew",
        "Adebayo et al. 2018, Hanawa et al. 2021, as quanda; normal weights of the same mean and deviation [ours]",
    ),
    "mislabelled_detection": MeasureInfo(
        "mislabelled data detection",
        True,
        "[0, 1], chance ½",
        "correctness",
        "area under the share of mislabelled samples among the n most suspicious",
        "Koh and Liang 2017, Kwon et al. 2024, as quanda; 5% mislabelled, clustered again [ours]",
    ),
}


def figure_titles() -> dict[str, tuple[str, bool | None, bool]]:
    """Returns each figure's title, whether higher is better, and whether it is shown in percent."""
    return {name: (measure.title, measure.better, False) for name, measure in MEASURES.items()}


def measures_table() -> str:
    """Returns the measures as a Markdown table: figure, formula, direction, range, property and source."""
    arrows = {True: "higher", False: "lower", None: "reference"}
    lines = ["| figure | formula | better | range | Co-12 | source |", "|---|---|---|---|---|---|"]
    for name, measure in MEASURES.items():
        cells = (f"`{name}`", measure.formula, arrows[measure.better], measure.range, measure.co12, measure.source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
