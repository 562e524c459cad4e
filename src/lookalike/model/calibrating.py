"""``calibrate``: fits a model's temperature and novelty score on one part of held-out images, and keeps the other."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, listing
from lookalike._core.names import visible
from lookalike._core.untouched import keeps_random_states, keeps_torch_settings
from lookalike.data import Batches, load_for_model, warn_of_transparency
from lookalike.doubt import Doubt, DoubtFacts, calibration_figures, fit_factor
from lookalike.doubt.calibration import CalibrationFigures, softmax
from lookalike.doubt.novelty import DEFAULT_NOVELTY, NOVELTIES, fit_novelty
from lookalike.doubt.record import draws_of
from lookalike.doubt.sets import check_coverage, set_scores, set_thresholds
from lookalike.embedding import EmbeddingStore
from lookalike.embedding.checking import check_store
from lookalike.encoder import Encoder
from lookalike.encoder.finite import check_finite_rows
from lookalike.model.class_labels import labels_in_model
from lookalike.model.doubting import ScoredSpace, confidences_of, margins_of, novelty_of, rescaled_log_probabilities
from lookalike.model.original import OriginalClassifier, embed_and_score

if TYPE_CHECKING:
    from lookalike.model.prototype_model import PrototypeModel

LEAST_IMAGES = 30  # a temperature of ten images and guarantees of twenty
_FIT_SHARE = 1 / 3
_FOLDS = 5


class Promises(NamedTuple):
    """What is asked of a calibration; see ``PrototypeModel.calibrate``.

    Attributes:
        coverage: Coverage of the sets, unless another is asked for.
        false_alarm: Largest share of familiar images that are called unfamiliar.
        novelty: Score of unfamiliar inputs.
        conservative: Whether the sets keep the coverage with something to spare.
    """

    coverage: float = 0.95
    false_alarm: float = 0.01
    novelty: str = DEFAULT_NOVELTY
    conservative: bool = False


class Validation(NamedTuple):
    """Embedded validation images.

    Attributes:
        embeddings: [N, D].
        labels: Classes [N], in the model's numbering.
        logits: The original classifier's log-probabilities in the order of the model's classes [N, K], up to a constant
            per row; None if it is not known which output is which class.
        data: Fingerprint of the data, if known.
        known_new: Whether each image was compared with the model's training images.
    """

    embeddings: Tensor
    labels: np.ndarray
    logits: np.ndarray | None
    data: str | None
    known_new: bool = False


@keeps_random_states
@keeps_torch_settings
def calibrate_model(
    model: "PrototypeModel", validation: Any, promises: Promises, *, seed: int, batch_size: int
) -> "PrototypeModel":
    """Returns a calibrated copy of a model; see ``PrototypeModel.calibrate``."""
    if model.has_patches:
        raise LookalikeError("a model of patches is not calibrated: convert with level='image' for promises on doubt")
    checks.number("coverage", promises.coverage, above=0, below=1)
    checks.number("false_alarm", promises.false_alarm, above=0, below=1)
    checks.one_of("novelty", promises.novelty, NOVELTIES)
    checks.flag("conservative", promises.conservative)
    seed = checks.seed("seed", seed)
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    read = read_validation(model, validation, batch_size)
    if len(read.labels) < LEAST_IMAGES:
        raise LookalikeError(
            f"a calibration needs at least {LEAST_IMAGES} validation images; there are {len(read.labels)}"
        )
    return calibrated(model, read, promises, seed=seed)


def calibrated(model: "PrototypeModel", read: Validation, promises: Promises, *, seed: int) -> "PrototypeModel":
    """Returns a calibrated copy of a model, from embedded validation images."""
    order = np.random.default_rng(seed).permutation(len(read.labels))
    fitted, held_out = np.split(order, [round(_FIT_SHARE * len(order))])
    check_coverage(promises.coverage, len(held_out))
    similarities = model.similarities_of(read.embeddings)
    log_probabilities = rescaled_log_probabilities(model, similarities[fitted])
    factor = fit_factor(log_probabilities, read.labels[fitted])
    unit = _unit(log_probabilities(1.0)) * model.classifier.temperature
    # what moves with one model must not move the other
    copies = {name: copy.deepcopy(getattr(model, name)) for name in ("prototypes", "similarity")}
    result = model.with_parts(**copies, classifier=model.classifier.rescaled(factor), doubt=None)
    familiar = ScoredSpace.of(model, read.embeddings[fitted])
    score = fit_novelty(promises.novelty, familiar.points, familiar.centres)
    labels = read.labels[held_out]
    predictions, confidences = confidences_of(result, read.embeddings[held_out])
    predicted = predictions.cpu().numpy()
    black_box, black_box_temperature = _black_box_figures(read, fitted, held_out, seed)
    facts = DoubtFacts(
        coverage=promises.coverage,
        novelty=promises.novelty,
        false_alarm=promises.false_alarm,
        scale=unit,
        temperature=factor * model.classifier.temperature / unit,
        n_fitted=len(fitted),
        n_validation=len(held_out),
        before=_figures(model, read.embeddings[held_out], labels, predicted, seed),
        after=_figures(result, read.embeddings[held_out], labels, predicted, seed),
        black_box=black_box,
        black_box_temperature=black_box_temperature,
        seed=seed,
        data=read.data,
        notes=_notes(labels, read.labels, model.class_names, known_new=read.known_new),
        conservative=promises.conservative,
    )
    facts.notes.extend(_notes_of_figures(facts))
    doubt = Doubt(facts, score)
    novelties = novelty_of(result, doubt, read.embeddings)
    margins = margins_of(result, read.embeddings)
    fitted_novelty = np.sort(_held_out_novelty(promises.novelty, *familiar))
    scores = torch.from_numpy(
        set_scores(margins[held_out], novelties[held_out], fitted_novelty)[np.arange(len(labels)), labels]
    )
    _, fitted_confidences = confidences_of(result, read.embeddings[fitted])
    result.doubt = Doubt(
        facts,
        score,
        fitted_novelty=torch.from_numpy(fitted_novelty),
        fitted_confidences=fitted_confidences.cpu(),
        scores=scores,
        labels=torch.from_numpy(labels),
        novelty=torch.from_numpy(novelties[held_out]),
        confidences=confidences.cpu(),
        correct=torch.from_numpy(predicted == labels),
        nearest=similarities[held_out].argmax(1).cpu(),
        draws=draws_of(seed, scores, model.n_classes),
    ).to(model.device)
    facts.notes.extend(_notes_of_sets(result.doubt, model.class_names))
    return result


@torch.no_grad()
def _held_out_novelty(name: str, points: Tensor, centres: Tensor, spreads: Tensor) -> np.ndarray:
    """Returns the novelty [m] of the images of the fit, each by a score that was fitted to the others (five folds).

    A score knows the images that it was fitted to: with few of them, any new image is far more unfamiliar.
    """
    folds = torch.arange(len(points), device=points.device) % _FOLDS
    novelties = torch.zeros(len(points), dtype=torch.float64)
    for fold in range(_FOLDS):
        score = fit_novelty(name, points[folds != fold], centres)
        novelties[(folds == fold).cpu()] = score(points[folds == fold], centres, spreads).double().cpu()
    return novelties.numpy()


def _unit(log_probabilities: np.ndarray) -> float:
    """Returns the mean lead of the best class over the average one; 1 if there is none."""
    finite = np.where(np.isfinite(log_probabilities), log_probabilities, np.nan)
    lead = float(np.mean(np.nanmax(finite, 1) - np.nanmean(finite, 1)))
    return lead if np.isfinite(lead) and lead > 0 else 1.0


def _figures(
    model: "PrototypeModel", embeddings: Tensor, labels: np.ndarray, predicted: np.ndarray, seed: int
) -> CalibrationFigures:
    with torch.no_grad():
        probabilities = model.probabilities_of(embeddings).double().cpu().numpy()
    return calibration_figures(probabilities, labels, predictions=predicted, seed=seed)


def _black_box_figures(
    read: Validation, fitted: np.ndarray, held_out: np.ndarray, seed: int
) -> tuple[CalibrationFigures | None, float | None]:
    """Fits a temperature to the original classifier in the same way, and measures it on the same images."""
    if read.logits is None:
        return None, None
    logits = read.logits

    def log_probabilities(factor: float) -> np.ndarray:
        values: np.ndarray = np.log(np.maximum(softmax(logits[fitted] / factor), 1e-300))
        return values

    factor = fit_factor(log_probabilities, read.labels[fitted])
    return calibration_figures(softmax(logits[held_out] / factor), read.labels[held_out], seed=seed), factor


def _notes_of_figures(facts: DoubtFacts) -> list[str]:
    """Returns what the calibration did not reach."""
    notes = []
    if facts.not_tested is not None:
        notes.append(f"no input is called unfamiliar: this is {facts.not_tested}")
    if facts.is_worse:
        before, after = facts.before, facts.after
        notes.append(
            f"the probabilities are no better than before: log loss {after.log_loss:.3f} and not "
            f"{before.log_loss:.3f}, ECE {after.ece:.3f} and not {before.ece:.3f}; the temperature was fitted to "
            f"{facts.n_fitted:,} images, and more validation images fit it better"
        )
    return notes


def _notes_of_sets(doubt: Doubt, class_names: list[str]) -> list[str]:
    """Returns what limits the sets at the calibration's coverage."""
    values = doubt.arrays()
    thresholds = set_thresholds(
        values["scores"],
        values["labels"],
        class_names,
        doubt.facts.coverage,
        per_class=False,
        draws=doubt.draws_for(),
    )
    return thresholds.notes


def _notes(labels: np.ndarray, all_labels: np.ndarray, class_names: list[str], *, known_new: bool) -> list[str]:
    """Returns what limits the calibration, given the labels of the held-out images, and of those of the fit too."""
    notes = []
    if not known_new:
        notes.append(
            "whether some validation images are training images of the model is not known, as these data cannot be "
            "compared image by image: if some are, the promises do not hold"
        )
    is_held_out, is_there = (np.bincount(part, minlength=len(class_names)) > 0 for part in (labels, all_labels))
    for missing, besides in ((~is_there, ""), (is_there & ~is_held_out, " besides those of the fit")):
        names = [visible(class_names[k]) for k in np.flatnonzero(missing)]
        if names:
            notes.append(f"there are no validation images of {listing(names, 5)}{besides}")
    return notes


def read_validation(model: "PrototypeModel", validation: Any, batch_size: int) -> Validation:
    """Embeds validation images, with their classes in the model's numbering, after checking that they are new."""
    if isinstance(validation, EmbeddingStore):
        if isinstance(model.encoder, Encoder):
            check_store(validation, model.encoder, None)
        _check_new(model, None, validation.info.get("data"))
        embeddings = torch.from_numpy(np.array(validation.embeddings)).to(model.prototypes.vectors)
        check_finite_rows(embeddings.isfinite().all(1))
        labels = labels_in_model(validation.labels, validation.class_names, model.class_names, "validation")
        return Validation(embeddings, labels, None, validation.info.get("data"), known_new=False)
    if isinstance(validation, str | Path):
        validation = load_for_model(validation, model.preprocessing, model.training_record).test
    batches = validation if isinstance(validation, Batches) else Batches(validation, batch_size)
    warn_of_transparency(batches.dataset, "validation")
    fingerprint = batches.fingerprint()
    known_new = _check_new(model, batches, fingerprint)
    original = OriginalClassifier.of(model)
    rows: list[Tensor] = []
    labels_read: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    with torch.no_grad():
        for batch in batches:
            embeddings, scores = embed_and_score(model, batch.inputs)
            check_finite_rows(embeddings.isfinite().all(1), first=sum(map(len, rows)))
            rows.append(embeddings)
            labels_read.append(np.asarray(batch.labels))
            if original is not None and scores is not None:
                logits.append(original.log_probabilities(scores, model.n_classes))
    if not rows:
        raise LookalikeError("there are no validation images")
    labels = labels_in_model(np.concatenate(labels_read), batches.class_names, model.class_names, "validation")
    complete = sum(map(len, logits)) == len(labels) and bool(np.isfinite(np.concatenate(logits)).any(0).all())
    own_logits = np.concatenate(logits) if complete else None
    return Validation(torch.cat(rows), labels, own_logits, fingerprint, known_new)


def _check_new(model: "PrototypeModel", batches: Batches | None, fingerprint: str | None) -> bool:
    """Checks that no validation image is one of the model's training images, as far as the model remembers them.

    Returns:
        Whether each image was compared; otherwise only the fingerprints of the whole data were.
    """
    record = model.training_record
    if record.includes(batches, fingerprint):
        raise LookalikeError(
            "the validation images are the model's own training images; calibrate with images that it was not made from"
        )
    keys = None if batches is None or record.keys is None else batches.content_keys()
    if keys is None or record.keys is None:
        return False
    n_known = int(np.isin(keys, record.keys).sum())
    if n_known:
        raise LookalikeError(
            f"{n_known} of {len(keys)} validation images are training images of the model; leave them out, or use the "
            "part of the data that was not converted"
        )
    return True
