"""The sections of a scorecard: one function for each, filed by name with what it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lookalike.errors import LookalikeError, RelevanceError
from lookalike.metrics.attributes import attribute_representation
from lookalike.metrics.context import Context, rows_of
from lookalike.metrics.divergence import explanation_divergence
from lookalike.metrics.diversity import diversity
from lookalike.metrics.faithfulness import FaithfulnessOfPredictions
from lookalike.metrics.robustness import OrderingCurves, Scorer, increase_and_drop, relevance_ordering
from lookalike.metrics.separability import separability
from lookalike.metrics.transparency import Ghosting, ghosting
from lookalike.model import PrototypeModel
from lookalike.registry import Registry

Need = Literal["train", "activations", "images", "attributes", "black box"]
Found = tuple[dict[str, float], dict[str, Any]]  # figures by name, and details as plain JSON


@dataclass(frozen=True)
class Section:
    """A part of the scorecard.

    Attributes:
        name: What ``only`` calls it.
        measure: Takes the context and the run's number; returns figures and details.
        needs: What it cannot do without.
        per_run: Whether another run gives another result.
        optional: Whether it is measured only where it is asked for.
    """

    name: str
    measure: Callable[[Context, int], Found]
    needs: tuple[Need, ...] = ()
    per_run: bool = False
    optional: bool = False


SECTIONS: Registry[Section] = Registry("section")


def _section(name: str, *needs: Need, per_run: bool = False) -> Callable[[Callable[[Context, int], Found]], Any]:
    def file(measure: Callable[[Context, int], Found]) -> Callable[[Context, int], Found]:
        SECTIONS.register(name)(Section(name, measure, needs, per_run))
        return measure

    return file


@_section("faithfulness")
def _faithfulness(context: Context, _run: int) -> Found:
    """Accuracy, the black box's, agreement: section 4.3.2."""
    model, store, standing = context.model, context.test_store, context.standing
    theirs = None if standing is None else standing.predictions
    metric = FaithfulnessOfPredictions(model.n_classes, black_box=theirs is not None)
    with torch.no_grad():
        for rows in store.parts():
            predicted = model.scores_of(rows_of(store, rows, model.device)).argmax(1).cpu()
            metric.update(predicted, context.labels[rows], None if theirs is None else theirs[rows])
    found = metric.result()
    figures = {"accuracy": found.accuracy.value}
    if found.black_box_accuracy and found.difference and found.agreement:
        figures["black_box_accuracy"] = found.black_box_accuracy.value
        figures["accuracy_difference"] = found.difference.value
        figures["agreement"] = found.agreement.value
    return figures, found.to_dict() | {"black_box": None if standing is None else standing.to_dict()}


@_section("transparency", "activations")
def _transparency(context: Context, _run: int) -> Found:
    """Ghosting: section 4.3.1, equation 1."""
    model, store, labels = context.model, context.train_store, context.train_labels
    scope = context.options.scope
    if store is None or labels is None:
        stored = stored_activations(model, scope)
        assert stored is not None  # noqa: S101 - needed
        return {"ghosting": ghosting(stored)}, {"scope": scope, "activations": stored.tolist(), "source": "conversion"}
    metrics = {kind: Ghosting(model.prototypes.labels, scope=kind) for kind in ("class", "all")}
    with torch.no_grad():
        for rows in store.parts():
            similarities = model.similarities_of(rows_of(store, rows, model.device))
            for metric in metrics.values():
                metric.update(similarities, labels[rows].to(model.device))
    counts = {kind: metric.counts for kind, metric in metrics.items()}
    return {"ghosting": ghosting(counts[scope])}, {
        "scope": scope,
        "activations": counts["class"].tolist(),
        "activations_among_all": counts["all"].tolist(),
    }


def stored_activations(model: PrototypeModel, scope: str) -> Tensor | None:
    """Returns how many training samples of its class activate each prototype [P], as counted at conversion.

    Returns:
        None if that was not counted: for another scope, or by a similarity that does not fall with the distance, by
        which the conversion counts.
    """
    counts = model.prototypes.counts.cpu()
    return counts if scope == "class" and model.similarity.falls_with_distance and bool(counts.any()) else None


@_section("explanations", "images", "black box", per_run=True)
def _explanations(context: Context, run: int) -> Found:
    """D_fth, and what it is between maps of different images: section 4.3.2, equations 2 and 3."""
    ours, theirs = context.probability_maps(run), context.black_box_maps(run)
    found = explanation_divergence(ours, theirs)
    mismatched = explanation_divergence(ours, theirs.roll(1, 0))
    figures = {
        "explanation_divergence": float(found.mean()),
        "explanation_divergence_mismatched": float(mismatched.mean()),
    }
    return figures, {"per_image": found.tolist()}


@_section("robustness", "images", per_run=True)
def _robustness(context: Context, run: int) -> Found:
    """RO curves, AUROC, AI and AD: section 4.3.3."""
    curves = {
        "model": _curves(context, run, context.probabilities, context.likeness_maps(run)),
        "random": _curves(context, run, context.probabilities, None),
    }
    if context.black_box is not None:
        ask = context.black_box_probabilities
        try:
            curves["black_box"] = context.black_box_curves(
                run, "relevance", lambda: _curves(context, run, ask, context.black_box_maps(run))
            )
        except RelevanceError as error:
            context.note(f"the black box's relevance ordering was not measured: {error}")
        curves["black_box_random"] = context.black_box_curves(run, "random", lambda: _curves(context, run, ask, None))
    change = increase_and_drop(
        context.similarities,
        context.images(run),
        context.likeness_maps(run),
        context.noise(run),
        context.nearest(run),
        samples=context.sample(run),
        batch_size=context.options.batch_size,
    )
    figures = {"auroc" if name == "model" else f"auroc_{name}": found.auroc for name, found in curves.items()}
    figures |= {"average_increase": change.increase, "average_drop": change.drop}
    details = {
        "fractions": curves["model"].fractions.tolist(),
        "curves": {name: found.mean.tolist() for name, found in curves.items()},
        "areas": {name: found.areas.tolist() for name, found in curves.items()},
    }
    return figures, details


def _curves(context: Context, run: int, score: Scorer, maps: Any) -> OrderingCurves:
    return relevance_ordering(
        score,
        context.images(run),
        maps,
        context.noise(run),
        samples=context.sample(run),
        n_steps=context.options.n_steps,
        batch_size=context.options.batch_size,
        advance=context.advance,
    )


@_section("diversity")
def _diversity(context: Context, _run: int) -> Found:
    """D_dvs among all prototypes and within classes: section 4.3.4, equation 4."""
    model = context.model
    with torch.no_grad():
        among = model.similarities_of(model.prototypes.vectors)
    figures = {"diversity": diversity(among)}
    try:
        figures["diversity_within_class"] = diversity(among, model.prototypes.labels, within="class")
    except LookalikeError as error:
        return figures, {"similarity": model.similarity.name, "within_class": str(error)}
    return figures, {"similarity": model.similarity.name, "options": model.similarity.options()}


@_section("embedding", "train")
def _embedding(context: Context, _run: int) -> Found:
    """Silhouette and nearest-rival margin per class."""
    model, store, labels = context.model, context.train_store, context.train_labels
    assert store is not None  # noqa: S101 - needed
    assert labels is not None  # noqa: S101
    space = model.similarity.project
    with torch.no_grad():
        rows = _spread_rows(len(store), 20_000)
        z = space(torch.from_numpy(store.embeddings[rows]).to(model.device)).cpu()
        found = separability(
            z,
            labels[rows],
            space(model.prototypes.vectors).cpu(),
            model.prototypes.labels.cpu(),
            seed=context.options.random_state,
        )
    n = sum(one.n for one in found)
    figures = {"overlap": sum(one.overlap * one.n for one in found) / n}
    silhouettes = [one.silhouette for one in found if one.silhouette == one.silhouette]
    if silhouettes:
        figures["silhouette"] = sum(silhouettes) / len(silhouettes)
    return figures, {"classes": [one.to_dict() for one in found]}


def _spread_rows(n: int, most: int) -> Any:
    import numpy as np

    return np.arange(n) if n <= most else np.unique(np.linspace(0, n - 1, most).astype(np.int64))


@_section("attributes", "attributes")
def _attributes(context: Context, _run: int) -> Found:
    """Which attributes the prototypes' nearest training images show: section 4.4."""
    assert context.attributes is not None  # noqa: S101 - needed
    nearest = context.model.prototypes.nearest
    if not nearest.shape[1]:
        raise LookalikeError("the model does not know the nearest training images of its prototypes")
    found = attribute_representation(context.attributes, nearest[:, 0].cpu())
    figures = {
        "attributes_captured": float(found.captured),
        "attribute_correlation_error": found.correlation_error,
    }
    return figures, found.to_dict()
