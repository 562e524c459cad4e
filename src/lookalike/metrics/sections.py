"""The sections of a scorecard: one function for each, filed by name with what it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError, RelevanceError
from lookalike._core.registry import Registry
from lookalike.embedding import name_samples
from lookalike.metrics.attributes import attribute_representation
from lookalike.metrics.calibration import N_BINS, ExpectedCalibrationError, black_box_confidences
from lookalike.metrics.context import Context, rows_of, rows_per_batch
from lookalike.metrics.controls import compare_with_control, mismatched_images
from lookalike.metrics.correlation import explanation_correlation
from lookalike.metrics.divergence import explanation_divergence, without_relevance
from lookalike.metrics.diversity import REFERENCE_EPSILON, diversity_of, reference_diversity
from lookalike.metrics.faithfulness import FaithfulnessOfPredictions
from lookalike.metrics.robustness import OrderingCurves, Scorer, increase_and_drop, relevance_ordering
from lookalike.metrics.sanity import sanity_check
from lookalike.metrics.separability import separability
from lookalike.metrics.transparency import Ghosting, ghosting
from lookalike.model import PrototypeModel

Need = Literal["train", "activations", "images", "attributes", "black box"]
SANITY_IMAGES = 20  # maps change alike on most images, and each depth needs maps of all

SectionResult = tuple[dict[str, float], dict[str, Any]]  # figures by name, and details as plain JSON values

Measure = Callable[[Context, int], SectionResult]


@dataclass(frozen=True)
class Section:
    """A part of the scorecard.

    Attributes:
        name: What ``only`` calls it.
        measure: Takes the context and the run's number; returns figures and details.
        needs: What it cannot do without.
        per_run: Whether another run gives another result.
        uses: What it also uses where it is there.
        optional: Whether it is measured only where it is asked for.
    """

    name: str
    measure: Measure
    needs: tuple[Need, ...] = ()
    per_run: bool = False
    uses: tuple[Need, ...] = ()
    optional: bool = False


SECTIONS: Registry[Section] = Registry("section")


def section(
    name: str,
    *needs: Need,
    per_run: bool = False,
    uses: tuple[Need, ...] = (),
    optional: bool = False,
) -> Callable[[Measure], Measure]:
    """Files a function as a section of the scorecard; see ``Section``."""

    def file(measure: Measure) -> Measure:
        SECTIONS.register(name)(Section(name, measure, needs, per_run, uses, optional))
        return measure

    return file


@section("faithfulness")
def _faithfulness(context: Context, _run: int) -> SectionResult:
    """Accuracy, the black box's, agreement: section 4.3.2."""
    model, store, standing = context.model, context.test_store, context.standing
    theirs = None if standing is None else standing.predictions
    metric = FaithfulnessOfPredictions(model.n_classes, black_box=theirs is not None)
    with torch.no_grad():
        for rows in store.parts(rows_per_batch(model)):
            predicted = model.scores_of(rows_of(store, rows, model.device)).argmax(1).cpu()
            metric.update(predicted, context.labels[rows], None if theirs is None else theirs[rows])
    found = metric.result()
    figures = {"accuracy": found.accuracy.value}
    if found.black_box_accuracy and found.difference and found.agreement:
        figures["black_box_accuracy"] = found.black_box_accuracy.value
        figures["accuracy_difference"] = found.difference.value
        figures["agreement"] = found.agreement.value
    return figures, found.to_dict() | {"black_box": None if standing is None else standing.to_dict()}


@section("calibration")
def _calibration(context: Context, _run: int) -> SectionResult:
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


@section("transparency", "activations")
def _transparency(context: Context, _run: int) -> SectionResult:
    """Ghosting: section 4.3.1, equation 1."""
    model, store, labels = context.model, context.train_store, context.train_labels
    scope = context.options.scope
    if store is None or labels is None:
        stored = stored_activations(model, scope)
        assert stored is not None  # noqa: S101 - needed
        return {"ghosting": ghosting(stored)}, {"scope": scope, "activations": stored.tolist(), "source": "conversion"}
    metrics = {kind: Ghosting(model.prototypes.labels, scope=kind) for kind in ("class", "all")}
    with torch.no_grad():
        for rows in store.parts(rows_per_batch(model)):
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
        None if that was not counted: for another scope. Models of earlier versions counted by distance, so that of a
        similarity that does not fall with it the counts are not relied on.
    """
    counts = model.prototypes.counts.cpu()
    return counts if scope == "class" and model.similarity.falls_with_distance and bool(counts.any()) else None


@section("explanations", "images", "black box", per_run=True)
def _explanations(context: Context, run: int) -> SectionResult:
    """D_fth, the signed correlation, and the same of controls: section 4.3.2, equations 2 and 3."""
    ours, theirs = context.probability_maps(run), context.black_box_maps(run)
    ours_empty, theirs_empty = without_relevance(ours), without_relevance(theirs)
    compared_images = ~(ours_empty | theirs_empty)
    samples = torch.tensor(context.sample(run))
    if not bool(compared_images.all()):
        context.note(_saturated(context, samples, ours_empty, theirs_empty))
    if not bool(compared_images.any()):
        raise RelevanceError("no image is left whose explanations can be compared: all probabilities are exactly 1")
    own = explanation_divergence(ours, theirs), explanation_correlation(ours, theirs)
    every = torch.arange(len(ours))
    compared = {
        name: compare_with_control(own, maps, theirs, every) for name, maps in context.control_maps(run).items()
    }
    partners = mismatched_images(context.predicted(run), [context.options.random_state, run])
    rows = torch.nonzero(partners >= 0)[:, 0]
    if len(rows):
        compared["mismatched"] = compare_with_control(own, ours[rows], theirs[partners[rows]], rows)
    controls = {name: found for name, found in compared.items() if found is not None}
    figures = {"explanation_divergence": float(own[0].nanmean()), "explanation_correlation": float(own[1].nanmean())}
    for name, found in controls.items():
        figures[f"explanation_divergence_{name}"] = found.divergence
        figures[f"explanation_correlation_{name}"] = found.correlation
    details = {
        "maps": "LRP of the predicted class's probability",
        "per_image": own[0][compared_images].tolist(),
        "correlation_per_image": [None if value != value else value for value in own[1][compared_images].tolist()],
        "left_out": samples[~compared_images.cpu()].tolist(),
        "controls": {name: found.to_dict() for name, found in controls.items()},
    }
    return {name: value for name, value in figures.items() if value == value}, details


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


@section("robustness", "images", per_run=True)
def _robustness(context: Context, run: int) -> SectionResult:
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


@section("diversity")
def _diversity(context: Context, _run: int) -> SectionResult:
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


@section("embedding", "train")
def _embedding(context: Context, _run: int) -> SectionResult:
    """Silhouette and nearest-rival margin per class."""
    model, store, labels = context.model, context.train_store, context.train_labels
    assert store is not None  # noqa: S101 - needed
    assert labels is not None  # noqa: S101
    found = separability(
        store.embeddings,
        labels,
        model.prototypes.vectors,
        model.prototypes.labels,
        seed=context.options.random_state,
        project=model.similarity.project,
    )
    n = sum(one.n for one in found)
    figures = {"overlap": sum(one.overlap * one.n for one in found) / n}
    silhouettes = [one.silhouette for one in found if one.silhouette == one.silhouette]
    if silhouettes:
        figures["silhouette"] = sum(silhouettes) / len(silhouettes)
    return figures, {"classes": [one.to_dict() for one in found]}


@section("sanity", "images", optional=True, uses=("train",))
def _sanity(context: Context, run: int) -> SectionResult:
    """Explanations while weights and labels are randomised [ours, after Adebayo et al. 2018]."""
    store, labels = context.train_store, context.train_labels
    train = None if store is None or labels is None else (store.embeddings, labels.numpy())
    found = sanity_check(
        context.model,
        context.images(run)[:SANITY_IMAGES],
        train=train,
        composite=context.options.composite,
        seed=context.options.random_state,
        advance=context.advance,
    )
    last = found.likenesses[-1]
    figures = {
        "sanity_rank": last.rank["likeness"],
        "sanity_structure": last.structure["likeness"],
        "sanity_same_prototype": last.same_prototype,
    }
    return figures, found.to_dict()


@section("attributes", "attributes")
def _attributes(context: Context, _run: int) -> SectionResult:
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
