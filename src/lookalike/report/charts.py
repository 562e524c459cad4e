"""The charts of a report, as inline SVG."""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lookalike.embedding import EmbeddingStore
from lookalike.metrics import Scorecard
from lookalike.metrics.context import aligned_labels
from lookalike.model import PrototypeModel
from lookalike.plots import plot_activations, plot_map, plot_ordering, plot_radar, plot_similarity_matrix, project_2d
from lookalike.report.material import Material
from lookalike.report.pictures import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 1500  # test images in the map, at most
_TOPICS_OF_AXES = {  # the findings that judge what an axis of the radar measures
    "transparency": "unused",
    "accuracy": "accuracy",
    "explanations": "attention",
    "robustness": "pixels",
    "diversity": "variety",
}
_PROTOTYPES = 300  # at most in a chart: bars and cells of more would be too small to see


def charts(material: Material) -> dict[str, Any]:
    """Returns the values of the section of charts."""
    card = material.card
    return {
        "rows": card.rows(),
        "charts": draw_charts(material.model, card, material.store),
        "warned": _warned_axes(card),
        "n_images": _numbers_of_images(card),
        "of_patches": material.model.has_patches,
    }


def _numbers_of_images(card: Scorecard) -> dict[str, int]:
    """Returns on how many images in a run each chart of heat-maps rests, where that is known."""
    ordered = [len(run.get("areas", {}).get("model", ())) for run in card.details.get("robustness", ())]
    checked = [run.get("options", {}).get("n_images") or 0 for run in card.details.get("sanity", ())]
    numbers = {"ordering": min(ordered, default=0), "sanity": min(checked, default=0)}
    return {name: number for name, number in numbers.items() if number}


def _warned_axes(card: Scorecard) -> dict[str, str]:
    """Returns the axes of the radar that a finding warns of, with what it says: a score alone does not show that."""
    claims: dict[str, str] = {}
    for finding in reversed(card.findings()):  # the weightiest of a topic is the one that stays
        if finding.level in ("bad", "caution"):
            claims[finding.topic] = finding.claim
    return {axis: claims[topic] for axis, topic in _TOPICS_OF_AXES.items() if axis in card.axes() and topic in claims}


def _draw_radar(card: Scorecard) -> "Axes":
    warned = _warned_axes(card)
    return plot_radar({"model": {f"* {name}" if name in warned else name: x for name, x in card.axes().items()}})


@torch.no_grad()
def draw_charts(model: PrototypeModel, card: Scorecard, store: EmbeddingStore) -> dict[str, str]:
    """Draws the charts that the scorecard has figures for. Returns SVGs by name."""
    charts: dict[str, str] = {}
    if card.axes():  # sections such as the calibration have no axis
        charts["radar"] = figure(lambda _: _draw_radar(card), _radar_text(card))
    if "auroc" in card.runs:
        charts["ordering"] = figure(functools.partial(_draw_ordering, card), _ordering_text(card))
    if "sanity" in card.details:
        charts["sanity"] = figure(lambda ax: card.plot_sanity(ax), _sanity_text(card))
    p, labels = model.prototypes, model.prototypes.labels.cpu().numpy()
    if "transparency" in card.details and len(p) <= _PROTOTYPES:
        counts = card.details["transparency"][0]["activations"]
        alt = f"Number of training images that activate each of {len(p)} prototypes; {counts.count(0)} have none."
        charts["activations"] = figure(lambda ax: plot_activations(counts, labels, p.class_names, ax=ax), alt)
    if 1 < len(p) <= _PROTOTYPES:
        similarities = model.similarities_of(p.vectors).cpu().numpy()
        alt = "Similarity between all pairs of prototypes, by class."
        charts["matrix"] = figure(lambda ax: plot_similarity_matrix(similarities, labels, p.class_names, ax=ax), alt)
    if len(store) > 2 and store.embeddings.shape[1] > 1:
        rows = np.unique(np.linspace(0, len(store) - 1, min(_POINTS, len(store))).astype(int))
        project = model.similarity.project
        patches = model.patches_of(torch.from_numpy(np.array(store.embeddings[rows])).to(model.device))
        one_of_each = torch.arange(len(rows)) % patches.shape[1]  # of a model of patches; else the embedding itself
        z = project(patches[torch.arange(len(rows)), one_of_each]).cpu().numpy()
        test_labels = aligned_labels(store, model, "test").numpy()
        points, prototype_points = project_2d(z, project(p.vectors).cpu().numpy())
        alt = "Test embeddings as dots and prototypes as squares, on their first two principal components."
        charts["map"] = figure(
            lambda ax: plot_map(points, test_labels[rows], prototype_points, labels, p.class_names, ax=ax), alt
        )
    return charts


def _draw_ordering(card: Scorecard, ax: "Axes | None") -> "Axes":
    """Draws the relevance-ordering curves, averaged over runs, of the model and its original."""
    runs = card.details["robustness"]
    curves = {name: np.mean([run["curves"][name] for run in runs], 0) for name in runs[0]["curves"]}
    titles = {"model": "this model", "black_box": "the original"}
    return plot_ordering(
        runs[0]["fractions"],
        {titles[name]: curves[name] for name in titles if name in curves},
        {
            titles[name]: curves["random" if name == "model" else "black_box_random"]
            for name in titles
            if name in curves
        },
        ax=ax,
    )


def _radar_text(card: Scorecard) -> str:
    return "Radar: " + ", ".join(f"{name} {value:.2f}" for name, value in card.axes().items()) + "."


def _sanity_text(card: Scorecard) -> str:
    sanity = card.details["sanity"][0]
    ranks = ", ".join(
        f"{name} {likeness['rank']['likeness']:.2f}"
        for name, likeness in zip(sanity["depths"], sanity["likenesses"], strict=True)
    )
    return (
        f"Rank correlation with the trained model's heat-maps while layers are randomised from the head down: {ranks}."
    )


def _ordering_text(card: Scorecard) -> str:
    text = (
        "Probability of the predicted class while the least relevant pixels turn to noise. "
        f"Area under the curve {card['auroc']:.3f}, in random order {card['auroc_random']:.3f}"
    )
    box = card.get("auroc_black_box")
    return text + ("." if box is None else f"; the original {box:.3f}.")
