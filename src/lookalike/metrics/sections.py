"""The sections of a scorecard: one function for each, filed by name with what it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lookalike.embedding import name_samples
from lookalike.errors import LookalikeError, RelevanceError
from lookalike.metrics.attributes import attribute_representation
from lookalike.metrics.calibration import N_BINS, ExpectedCalibrationError, black_box_confidences
from lookalike.metrics.context import Context, few_rows, rows_of
from lookalike.metrics.divergence import explanation_divergence, without_relevance
from lookalike.metrics.diversity import REFERENCE_EPSILON, diversity_of, reference_diversity
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
    """

    name: str
    measure: Callable[[Context, int], Found]
    needs: tuple[Need, ...] = ()
    per_run: bool = False


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
        for rows in store.parts(few_rows(model)):
            predicted = model.scores_of(rows_of(store, rows, model.device)).argmax(1).cpu()
            metric.update(predicted, context.labels[rows], None if theirs is None else theirs[rows])
    found = metric.result()
    figures = {"accuracy": found.accuracy.value}
    if found.black_box_accuracy and found.difference and found.agreement:
        figures["black_box_accuracy"] = found.black_box_accuracy.value
        figures["accuracy_difference"] = found.difference.value
        figures["agreement"] = found.agreement.value
    return figures, found.to_dict() | {"black_box": None if standing is None else standing.to_dict()}


@_section("calibration")
def _calibration(context: Context, _run: int) -> Found:
    """The expected calibration error of the model's probabilities, and of the black box's [ours]."""
    model, store, standing = context.model, context.test_store, context.standing
    metric = ExpectedCalibrationError()
    with torch.no_grad():
        for rows in store.parts():
            confidences, predicted = model.probabilities_of(rows_of(store, rows, model.device)).cpu().max(1)
            metric.update(confidences, predicted == context.labels[rows])
    figures = {"calibration_error": float(metric.compute())}
    temperature = model.classifier.temperature
    details: dict[str, Any] = {"n_bins": N_BINS, "temperature": temperature, "model": metric.to_dict()}
    if context.black_box is None or standing is None or standing.predictions is None:
        return figures, details
    theirs = black_box_confidences(context.black_box, model, store, context.test)
    if theirs is None:
        context.note(
            "the black box's calibration error was not measured: its probabilities need the test data themselves"
        )
        return figures, details
    other = ExpectedCalibrationError()
    other.update(theirs, standing.predictions == context.labels)
    return figures | {"calibration_error_black_box": float(other.compute())}, details | {"black_box": other.to_dict()}


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
        for rows in store.parts(few_rows(model)):
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
    ours_empty, theirs_empty = without_relevance(ours), without_relevance(theirs)
    whole = ~(ours_empty | theirs_empty)
    samples = torch.tensor(context.sample(run))
    if not bool(whole.all()):
        context.note(_saturated(context, samples, ours_empty, theirs_empty))
    if not bool(whole.any()):
        raise RelevanceError("no image is left whose explanations can be compared: all probabilities are exactly 1")
    found = explanation_divergence(ours[whole], theirs[whole])
    figures = {"explanation_divergence": float(found.mean())}
    if len(found) > 1:  # else there is no other image
        mismatched = explanation_divergence(ours[whole], theirs[whole].roll(1, 0))
        figures["explanation_divergence_mismatched"] = float(mismatched.mean())
    return figures, {"per_image": found.tolist(), "left_out": samples[~whole].tolist()}


def _saturated(context: Context, samples: Tensor, ours_empty: Tensor, theirs_empty: Tensor) -> str:
    """Says which images have no map of the predicted class's probability: it does not change with any pixel."""
    assert context.test is not None  # noqa: S101 - needed
    empty = (ours_empty | theirs_empty).cpu()
    whose = [name for name, which in (("model", ours_empty), ("black box", theirs_empty)) if bool(which.any())]
    named = name_samples(samples[empty].numpy(), context.test.describe)
    return (
        f"{int(empty.sum())} of {len(samples)} images are left out of D_fth, as a probability of the "
        f"{' and of the '.join(whose)} is exactly 1 in single precision and no relevance starts from it: {named}"
    )


@_section("robustness", "images", per_run=True)
def _robustness(context: Context, run: int) -> Found:
    """RO curves, AUROC, AI and AD: section 4.3.3."""
    curves = {}
    if context.model.n_classes > 1:
        curves = {
            "model": _curves(context, run, context.probabilities, context.likeness_maps(run)),
            "random": _curves(context, run, context.probabilities, None),
        }
    else:
        context.note("AUROC was not measured: the only class has probability 1, whatever the pixels are")
    if context.black_box is not None and curves:
        ask = context.black_box_probabilities
        try:
            curves["black_box"] = context.black_box_curves(
                run, "relevance", lambda: _curves(context, run, ask, context.black_box_maps(run))
            )
        except RelevanceError as error:
            context.note(f"the black box's relevance ordering was not measured: {error}")
        curves["black_box_random"] = context.black_box_curves(run, "random", lambda: _curves(context, run, ask, None))
    change = increase_and_drop(
        context.activations,
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
        "fractions": next((found.fractions.tolist() for found in curves.values()), []),
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
    vectors, labels = model.prototypes.vectors, model.prototypes.labels
    temperature = model.classifier.temperature
    details: dict[str, Any] = {
        "similarity": model.similarity.name,
        "options": model.similarity.options(),
        "temperature": temperature,
        "reference": {"similarity": "log-l2", "epsilon": REFERENCE_EPSILON},
    }
    if len(vectors) < 2:
        context.note("diversity was not measured: there is only one prototype, and none to compare it with")
        return {}, details

    def scaled(z: Tensor) -> Tensor:
        return model.similarities_of(z) / temperature

    with torch.no_grad():
        figures = {"diversity": diversity_of(scaled, vectors)}
        figures["diversity_reference"], figures["diversity_reference_floor"] = reference_diversity(vectors)
        try:
            figures["diversity_within_class"] = diversity_of(scaled, vectors, labels)
        except LookalikeError as error:
            details["within_class"] = str(error)
    return figures, details


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
