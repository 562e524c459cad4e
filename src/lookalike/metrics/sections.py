"""The sections of a scorecard: one function each, registered by name with the inputs that it needs."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError, RelevanceError
from lookalike._core.registry import Registry
from lookalike.doubt.calibration import N_BINS, figures_of_samples
from lookalike.embedding import name_samples
from lookalike.metrics.attributes import attribute_representation
from lookalike.metrics.calibration import CalibrationBins, black_box_confidences, scaled_black_box
from lookalike.metrics.context import Context, rows_of, rows_per_batch
from lookalike.metrics.controls import compare_with_control, mismatched_images
from lookalike.metrics.correlation import explanation_correlation
from lookalike.metrics.divergence import explanation_divergence, without_relevance
from lookalike.metrics.diversity import REFERENCE_EPSILON, diversity_of, reference_diversity
from lookalike.metrics.faithfulness import faithfulness_of_predictions
from lookalike.metrics.familiarity import Familiarity
from lookalike.metrics.robustness import OrderingCurves, increase_and_drop
from lookalike.metrics.run_curves import curves_of_run
from lookalike.metrics.sanity import SANITY_IMAGES, sanity_check
from lookalike.metrics.separability import separability
from lookalike.metrics.transparency import activation_counts, ghosting
from lookalike.model import PrototypeModel
from lookalike.model.doubting import confidences_of
from lookalike.model.familiarity import are_unfamiliar

Need = Literal[
    "train", "activations", "images", "masks", "attributes", "black box", "no black box",
    "whole images", "clusters", "prototype images", "two classes", "three classes",
]  # fmt: skip
_SCOPES: tuple[Literal["class", "all"], ...] = ("class", "all")

SectionResult = tuple[dict[str, float], dict[str, Any]]  # figures by name, and details as plain JSON values

Measure = Callable[[Context, int], SectionResult]


@dataclass(frozen=True)
class Section:
    """A part of the scorecard.

    Attributes:
        name: Its name for ``only``.
        measure: Takes the context and the run's number; returns figures and details.
        needs: Inputs without which it cannot be measured.
        per_run: Whether runs differ in their results.
        uses: Inputs that it also uses if they are available.
        optional: Whether it is measured only on request.
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
    """Registers a function as a section of the scorecard; see ``Section``."""

    def register(measure: Measure) -> Measure:
        SECTIONS.register(name)(Section(name, measure, needs, per_run, uses, optional))
        return measure

    return register


@section("faithfulness")
def _faithfulness(context: Context, _run: int) -> SectionResult:
    """Accuracy, the black box's, agreement: section 4.3.2."""
    model, store, standing = context.model, context.test_store, context.standing
    parts: list[Tensor] = []
    unfamiliar: list[np.ndarray | None] = []
    with torch.no_grad():
        for rows in store.parts(rows_per_batch(model)):
            embeddings = rows_of(store, rows, model.device)
            parts.append(model.scores_of(embeddings).argmax(1).cpu())
            unfamiliar.append(are_unfamiliar(model, embeddings))
    predicted, of_black_box = torch.cat(parts), None if standing is None else standing.predictions
    result = faithfulness_of_predictions(predicted, context.labels, of_black_box, n_classes=model.n_classes)
    figures = {"accuracy": result.accuracy.value}
    if result.black_box_accuracy and result.difference and result.agreement:
        figures["black_box_accuracy"] = result.black_box_accuracy.value
        figures["accuracy_difference"] = result.difference.value
        figures["agreement"] = result.agreement.value
    known = [are for are in unfamiliar if are is not None]
    counts = None
    if known:
        wrong, how = (predicted != context.labels).numpy(), {"is_calibrated": model.doubt is not None}
        counts = Familiarity.of(np.concatenate(known), wrong, **how, of_patches=model.has_patches).to_dict()
    black_box = {"black_box": None if standing is None else standing.to_dict()}
    return figures, result.to_dict() | black_box | {"unfamiliar": counts}


@section("calibration")
def _calibration(context: Context, _run: int) -> SectionResult:
    """The expected calibration error of the model's probabilities, and of the black box's [ours]."""
    model, store, standing = context.model, context.test_store, context.standing
    parts: list[list[np.ndarray]] = []
    with torch.no_grad():
        for rows in store.parts(rows_per_batch(model)):
            embeddings = rows_of(store, rows, model.device)
            probabilities = model.probabilities_of(embeddings).double().cpu()
            # of patches, or summed over prototypes, the most probable class may be another than the predicted one
            predicted, confidences = (values.cpu() for values in confidences_of(model, embeddings))
            of_label = probabilities.gather(1, context.labels[rows][:, None])[:, 0]
            columns = (confidences, predicted == context.labels[rows], of_label, probabilities.square().sum(1))
            parts.append([column.numpy() for column in columns])
    samples = [np.concatenate(column) for column in zip(*parts, strict=True)]
    bins = CalibrationBins.of(torch.from_numpy(samples[0]), torch.from_numpy(samples[1]))
    of_model = figures_of_samples(*samples)
    figures = {"calibration_error": bins.ece, "log_loss": of_model.log_loss, "brier_score": of_model.brier}
    measured = {"model": asdict(of_model)}
    temperature = model.classifier.temperature
    details: dict[str, Any] = {"n_bins": N_BINS, "temperature": temperature, "model": bins.to_dict()}
    details["probabilities"] = measured
    if model.doubt is not None:
        facts = model.doubt.facts
        details["held_out"] = facts.to_dict()
        if facts.data is not None and facts.data == store.info.get("data"):
            context.note("the test images are those that the model was calibrated with: its ECE is too good")
    if context.black_box is None or standing is None or standing.predictions is None:
        return figures, details
    scaled = scaled_black_box(context.black_box, model, store, context.labels)
    if scaled is not None:
        measured["black_box_with_temperature"] = asdict(scaled)
        figures |= {
            "calibration_error_black_box_scaled": scaled.ece,
            "log_loss_black_box_scaled": scaled.log_loss,
            "brier_score_black_box_scaled": scaled.brier,
        }
    confidences_of_black_box = black_box_confidences(context.black_box, model, store, context.test)
    if confidences_of_black_box is None:
        context.note(
            "the black box's calibration error was not measured: its probabilities need the test data themselves"
        )
        return figures, details
    black_box_bins = CalibrationBins.of(confidences_of_black_box, standing.predictions == context.labels)
    return figures | {"calibration_error_black_box": black_box_bins.ece}, details | {
        "black_box": black_box_bins.to_dict()
    }


@section("transparency", "activations")
def _transparency(context: Context, _run: int) -> SectionResult:
    """Ghosting: section 4.3.1, equation 1."""
    model, store, labels = context.model, context.train_store, context.train_labels
    scope = context.options.scope
    if store is None or labels is None:
        stored = stored_activations(model, scope)
        assert stored is not None  # needed
        details = {"scope": scope, "activations": stored.tolist(), "of_patches": model.has_patches}
        return {"ghosting": ghosting(stored)}, {**details, "source": "conversion"}
    owners = model.prototypes.labels
    counts = {kind: torch.zeros(len(owners), dtype=torch.int64) for kind in _SCOPES}
    with torch.no_grad():
        for rows in store.parts(rows_per_batch(model)):
            similarities = model.evidence_of(rows_of(store, rows, model.device))
            labels_of_rows = labels[rows].to(model.device)
            if model.has_patches:  # a prototype is used if a patch is most similar to it
                labels_of_rows = labels_of_rows.repeat_interleave(similarities.shape[1])
                similarities = similarities.flatten(0, 1)
            for kind in _SCOPES:
                counts[kind] += activation_counts(similarities, labels_of_rows, owners, kind)
    return {"ghosting": ghosting(counts[scope])}, {
        "scope": scope,
        "activations": counts["class"].tolist(),
        "activations_among_all": counts["all"].tolist(),
        "of_patches": model.has_patches,
    }


def stored_activations(model: PrototypeModel, scope: str) -> Tensor | None:
    """Returns the number of training samples of its class that activate each prototype [P], counted at conversion.

    Returns:
        None if the scope is ``"all"`` or there are no counts. Also None if the similarity does not decrease with
        distance: earlier versions counted the nearest prototype by distance.
    """
    counts = model.prototypes.counts.cpu()
    return counts if scope == "class" and model.similarity.falls_with_distance and bool(counts.any()) else None


@section("explanations", "images", "black box", per_run=True)
def _explanations(context: Context, run: int) -> SectionResult:
    """D_fth, the signed correlation, and the same figures of controls: section 4.3.2, equations 2 and 3."""
    model_maps, black_box_maps = context.probability_maps(run), context.black_box_maps(run)
    model_empty, black_box_empty = without_relevance(model_maps), without_relevance(black_box_maps)
    compared_images = ~(model_empty | black_box_empty)
    samples = torch.tensor(context.sample(run))
    if not bool(compared_images.all()):
        context.note(_saturation_note(context, samples, model_empty, black_box_empty))
    if not bool(compared_images.any()):
        raise RelevanceError(
            "no image is left whose explanations can be compared: no relevance starts from any of the probabilities "
            "(each is exactly 1 in single precision, or no feature before the head is active)"
        )
    model_figures = (
        explanation_divergence(model_maps, black_box_maps),
        explanation_correlation(model_maps, black_box_maps),
    )
    all_rows = torch.arange(len(model_maps))
    control_results = {
        name: compare_with_control(model_figures, maps, black_box_maps, all_rows)
        for name, maps in context.control_maps(run).items()
    }
    partners = mismatched_images(context.predicted(run), [context.options.seed, run])
    rows = torch.nonzero(partners >= 0)[:, 0]
    if len(rows):
        control_results["mismatched"] = compare_with_control(
            model_figures, model_maps[rows], black_box_maps[partners[rows]], rows
        )
    controls = {name: control for name, control in control_results.items() if control is not None}
    figures = {
        "explanation_divergence": float(model_figures[0].nanmean()),
        "explanation_correlation": float(model_figures[1].nanmean()),
    }
    for name, control in controls.items():
        figures[f"explanation_divergence_{name}"] = control.divergence
        figures[f"explanation_correlation_{name}"] = control.correlation
    details = {
        "maps": "LRP of the predicted class's probability",
        "per_image": model_figures[0][compared_images].tolist(),
        "correlation_per_image": [
            None if value != value else value for value in model_figures[1][compared_images].tolist()
        ],
        "left_out": samples[~compared_images.cpu()].tolist(),
        "controls": {name: control.to_dict() for name, control in controls.items()},
    }
    return {name: value for name, value in figures.items() if value == value}, details


def _saturation_note(context: Context, samples: Tensor, model_empty: Tensor, black_box_empty: Tensor) -> str:
    """Names the images without relevance.

    Their class probability is 1 in single precision, and has no gradient; or all features before the head are 0.
    """
    assert context.test is not None  # needed
    empty = (model_empty | black_box_empty).cpu()
    owners = [
        name for name, empty_maps in (("model", model_empty), ("black box", black_box_empty)) if bool(empty_maps.any())
    ]
    listed = name_samples(samples[empty].numpy(), context.test.describe)
    return (
        f"{int(empty.sum())} of {len(samples)} images are left out of D_fth, as no relevance starts from the "
        f"probability of the {' or of the '.join(owners)}: it is exactly 1 in single precision, or no feature before "
        f"the head is active: {listed}"
    )


@section("robustness", "images", per_run=True)
def _robustness(context: Context, run: int) -> SectionResult:
    """RO curves, AUROC, AI and AD: section 4.3.3."""
    curves: dict[str, OrderingCurves] = {}
    if context.model.n_classes > 1:
        curves = curves_of_run(context, run)
    else:
        context.note("AUROC was not measured: the only class has probability 1, whatever the pixels are")
    change = increase_and_drop(
        context.activations,
        context.images(run),
        context.likeness_maps(run),
        context.noise(run),
        context.nearest(run),
        samples=context.sample(run),
        batch_size=context.options.batch_size,
    )
    figures = {"auroc" if name == "model" else f"auroc_{name}": curve.auroc for name, curve in curves.items()}
    figures |= {"average_increase": change.increase, "average_drop": change.drop}
    details = {
        "fractions": next((curve.fractions.tolist() for curve in curves.values()), []),
        "curves": {name: curve.mean.tolist() for name, curve in curves.items()},
        "areas": {name: curve.areas.tolist() for name, curve in curves.items()},
    }
    return figures, details


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
    """Overlap, silhouette and margin to the nearest rival, per class."""
    model, store, labels = context.model, context.train_store, context.train_labels
    assert store is not None  # needed
    assert labels is not None
    dim = model.prototypes.vectors.shape[1]  # of a patch, or of the embedding
    n_rows = store.embeddings.shape[1] // dim
    class_figures = separability(
        store.embeddings.reshape(-1, dim),
        labels.repeat_interleave(n_rows),
        model.prototypes.vectors,
        model.prototypes.labels,
        seed=context.options.seed,
        project=model.similarity.project,
    )
    n = sum(entry.n for entry in class_figures)
    figures = {"overlap": sum(entry.overlap * entry.n for entry in class_figures) / n}
    silhouettes = [entry.silhouette for entry in class_figures if not math.isnan(entry.silhouette)]
    if silhouettes:
        figures["silhouette"] = sum(silhouettes) / len(silhouettes)
    return figures, {"classes": [entry.to_dict() for entry in class_figures], "of_patches": model.has_patches}


@section("sanity", "images", optional=True, uses=("train",))
def _sanity(context: Context, run: int) -> SectionResult:
    """Similarity of explanations while weights and labels are randomised [ours, after Adebayo et al. 2018]."""
    store, labels = context.train_store, context.train_labels
    train = None if store is None or labels is None or context.model.has_patches else (store.embeddings, labels.numpy())
    check = sanity_check(
        context.model,
        context.images(run)[:SANITY_IMAGES],
        train=train,
        composite=context.options.composite,
        rule=context.options.rule,
        seed=context.options.seed,
        advance=context.advance,
    )
    last = check.likenesses[-1]
    figures = {
        "sanity_rank": last.rank["likeness"],
        "sanity_structure": last.structure["likeness"],
        "sanity_same_prototype": last.same_prototype,
    }
    return figures, check.to_dict()


@section("attributes", "attributes")
def _attributes(context: Context, _run: int) -> SectionResult:
    """Which attributes the prototypes' nearest training images show: section 4.4."""
    assert context.attributes is not None  # needed
    nearest = context.model.prototypes.nearest
    if not nearest.shape[1]:
        raise LookalikeError("the model does not know the nearest training images of its prototypes")
    provenance = context.model.provenance
    n_images = provenance["n_samples"] + provenance.get("skipped", 0) if "n_samples" in provenance else 0
    drawn = context.train_rows
    is_of_all = drawn is not None and len(drawn) == n_images and drawn.max() < len(context.attributes)
    if n_images and not context.model.has_patches and len(context.attributes) != n_images and not is_of_all:
        raise LookalikeError(
            f"there are {n_images:,} training images and attributes of {len(context.attributes):,}: give a row for each"
        )
    attributes, rows = context.attributes, nearest[:, 0].cpu()
    if drawn is not None:  # those of the images that the loader draws, whose numbers are those of its data set
        attributes = attributes[drawn] if is_of_all else attributes
        rows = torch.from_numpy(np.searchsorted(drawn, rows.numpy()))
    representation = attribute_representation(attributes, rows)
    figures = {
        "attributes_captured": float(representation.captured),
        "attribute_correlation_error": representation.correlation_error,
    }
    return figures, representation.to_dict()
