"""The charts of a report, as inline SVG."""

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from lookalike.embedding import EmbeddingStore
from lookalike.metrics import Scorecard
from lookalike.metrics.context import aligned_labels
from lookalike.model import PrototypeModel
from lookalike.plots import plot_activations, plot_map, plot_ordering, plot_similarity_matrix, project_2d
from lookalike.report.pictures import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 1500
_PROTOTYPES = 300


@torch.no_grad()
def charts_of(model: PrototypeModel, card: Scorecard, store: EmbeddingStore) -> dict[str, str]:
    """Returns the charts that the scorecard has figures for, by name."""
    charts = {"radar": figure(lambda _: card.plot_radar(), _say_radar(card))}
    if "auroc" in card.runs:
        charts["ordering"] = figure(functools.partial(_ordering, card), _say_ordering(card))
    if "sanity" in card.details:
        charts["sanity"] = figure(lambda ax: card.plot_sanity(ax), _say_sanity(card))
    p, labels = model.prototypes, model.prototypes.labels.cpu().numpy()
    if "transparency" in card.details and len(p) <= _PROTOTYPES:
        counts = card.details["transparency"][0]["activations"]
        alt = f"How many training images activate each of {len(p)} prototypes; {counts.count(0)} are never activated."
        charts["activations"] = figure(lambda ax: plot_activations(counts, labels, p.class_names, ax=ax), alt)
    if 1 < len(p) <= _PROTOTYPES:
        among = model.similarities_of(p.vectors).cpu().numpy()
        alt = "The model's own similarity among its prototypes, class by class."
        charts["matrix"] = figure(lambda ax: plot_similarity_matrix(among, labels, p.class_names, ax=ax), alt)
    if len(store) > 2 and store.embeddings.shape[1] > 1:
        rows = np.unique(np.linspace(0, len(store) - 1, min(_POINTS, len(store))).astype(int))
        space = model.similarity.project
        z = space(torch.from_numpy(np.array(store.embeddings[rows])).to(model.device)).cpu().numpy()
        test_labels = aligned_labels(store, model, "test").numpy()
        points, squares = project_2d(z, space(p.vectors).cpu().numpy())
        alt = "Test embeddings as dots and prototypes as squares, on their first two principal components."
        charts["map"] = figure(
            lambda ax: plot_map(points, test_labels[rows], squares, labels, p.class_names, ax=ax), alt
        )
    return charts


def _ordering(card: Scorecard, ax: "Axes | None") -> "Axes":
    found = card.details["robustness"]
    curves = {name: np.mean([run["curves"][name] for run in found], 0) for name in found[0]["curves"]}
    titles = {"model": "this model", "black_box": "black box"}
    return plot_ordering(
        found[0]["fractions"],
        {titles[name]: curves[name] for name in titles if name in curves},
        {
            titles[name]: curves["random" if name == "model" else "black_box_random"]
            for name in titles
            if name in curves
        },
        ax=ax,
    )


def _say_radar(card: Scorecard) -> str:
    return "Radar: " + ", ".join(f"{name} {value:.2f}" for name, value in card.axes().items()) + "."


def _say_sanity(card: Scorecard) -> str:
    found = card.details["sanity"][0]
    ranks = ", ".join(
        f"{name} {one['rank']['likeness']:.2f}" for name, one in zip(found["depths"], found["likenesses"], strict=True)
    )
    return f"Rank correlation of heat-maps with the trained model's while it is randomised from the head down: {ranks}."


def _say_ordering(card: Scorecard) -> str:
    text = (
        "Probability of the predicted class while the least relevant pixels turn to noise. "
        f"Area under the curve {card['auroc']:.3f}, in random order {card['auroc_random']:.3f}"
    )
    box = card.get("auroc_black_box")
    return text + ("." if box is None else f"; black box {box:.3f}.")
