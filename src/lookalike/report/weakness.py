"""Why the weakest class is weak: what the figures show of it, and nothing that they do not show [ours]."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.wording import counted
from lookalike.embedding import EmbeddingStore
from lookalike.metrics.class_findings import WEAKEST_NAMED, joined, weakest_labels
from lookalike.metrics.context import aligned_labels
from lookalike.model import PrototypeModel
from lookalike.model.similarity import euclidean_distances
from lookalike.report.material import Material

_FEW = 0.5  # of the median number of training images: a class with at most this share has few
_STARVED = 3  # a prototype of fewer training images shows single images, not what they have in common
_LESS_PURE = 0.1  # below the median purity of the classes
_NO_SPREAD = 0.01  # of the median: most images of such a class are prototypes themselves, at no distance
_NEAR = 0.75  # of the median room between classes
_MOST = 0.5  # of the errors
_CHANCE = 0.05
_TAKERS, _ERRORS = 4, 8  # prototypes, and errors of each, that are shown


@dataclass(frozen=True)
class _Cause:
    """Something that may make a class weak.

    Attributes:
        found: What stands out, with its figures; None if nothing does.
        compared: What was compared, with its figures, if nothing stands out; None if it could not be measured.
    """

    found: str | None = None
    compared: str | None = None


def weakest(material: Material) -> dict[str, Any] | None:
    """Returns the values of the section; None if no class is weaker than the others, or no image is wrong."""
    model, decisions = material.model, material.decisions
    k_classes = model.n_classes
    n = torch.bincount(decisions.labels, minlength=k_classes)
    n_wrong = torch.bincount(decisions.labels[decisions.wrong], minlength=k_classes)
    accuracies = {k: 1 - int(n_wrong[k]) / int(n[k]) for k in range(k_classes) if n[k]}
    if len(accuracies) < 2 or not n_wrong.any():
        return None
    labels = weakest_labels(accuracies)
    if len(labels) == len(accuracies):
        return None
    label, why_it = _explained_of(labels, n_wrong)
    causes = [cause(material, label) for cause in _causes_of(model)]
    found = [cause.found for cause in causes if cause.found is not None]
    return {
        "name": model.class_names[label],
        "tied": joined([model.class_names[k] for k in labels], WEAKEST_NAMED) if len(labels) > 1 else None,
        "why_it": why_it,
        "has_others": len(labels) > 1 and "faithfulness" in material.card.details,
        "accuracy": accuracies[label],
        "n": int(n[label]),
        "n_wrong": int(n_wrong[label]),
        "found": found,
        "not_shown": [cause.compared for cause in causes if cause.found is None and cause.compared is not None],
        "takers": _takers(material, label),
    }


def _explained_of(labels: list[int], n_wrong: Tensor) -> tuple[int, str]:
    """Returns which of several classes that are equally weak is explained, and why that one."""
    label = max(labels, key=lambda k: (int(n_wrong[k]), -k))
    others = [int(n_wrong[k]) for k in labels if k != label]
    if any(n == int(n_wrong[label]) for n in others):
        return label, "the first, in the order of the classes, of those with the most errors"
    return label, "as it has the most errors of them"


def _training_images(material: Material, label: int) -> _Cause:
    """Compares the number of training images; classes with as few that are mostly right are named, against it."""
    counts = torch.zeros(material.model.n_classes, dtype=torch.long)
    counts.index_add_(0, material.model.prototypes.labels.cpu(), material.model.prototypes.counts.cpu().long())
    own, median = int(counts[label]), float(counts.double().quantile(0.5))
    if own > _FEW * median:
        figures = f"it has {own:,}, and the median of the classes is {median:,.0f}"
        return _Cause(compared=f"at most half as many training images as other classes have ({figures})")
    text = f"It has few training images: {own:,}, where the median of the classes is {median:,.0f}."
    decisions, names = material.decisions, material.model.class_names
    average, others = float((~decisions.wrong).double().mean()), []
    for k in torch.nonzero(counts <= own)[:, 0].tolist():
        right = ~decisions.wrong[decisions.labels == k]
        if k != label and len(right) and float(right.double().mean()) >= average:
            share = f"{int(right.sum()):,} of {counted(len(right), 'test image')} correct"
            others.append(f"{names[k]!r} has {int(counts[k]):,} ({share})")
    if others:
        text += f" This alone does not explain it: {joined(others)}."
    return _Cause(text)


def _purity(material: Material, label: int) -> _Cause:
    p = material.model.prototypes
    labels, purity = p.labels.cpu(), p.purity.cpu()
    of_classes = [purity[(labels == k) & ~purity.isnan()] for k in range(material.model.n_classes)]
    means = [float(values.mean()) for values in of_classes if len(values)]
    own = of_classes[label]
    if not len(own):
        return _Cause()
    if float(own.mean()) > float(np.median(means)) - _LESS_PURE:
        figures = f"{float(own.mean()):.0%} on average; the median of the classes is {float(np.median(means)):.0%}"
        return _Cause(
            compared=f"less pure prototypes, by {100 * _LESS_PURE:.0f} points, than is usual (of the training images "
            f"that look most like one of them, its own are {figures})"
        )
    text = (
        f"Its prototypes attract other classes: of the training images that look most like one of them, "
        f"{float(own.mean()):.0%} are its own, on average; the median of the classes is {float(np.median(means)):.0%}."
    )
    return _Cause(text)


def _starved(material: Material, label: int) -> _Cause:
    p = material.model.prototypes
    counts, is_own = p.counts.cpu(), p.labels.cpu() == label
    numbers = torch.nonzero(is_own & (counts < _STARVED))[:, 0].tolist()
    others = float((counts[~is_own] < _STARVED).double().mean())
    if not numbers or len(numbers) / int(is_own.sum()) <= others:
        figures = f"{len(numbers)} of its {int(is_own.sum())}; of the other classes', {others:.0%}"
        return _Cause(
            compared=f"prototypes of fewer than {_STARVED} training images, more often than in other classes "
            f"({figures})"
        )
    listed = ", ".join(f"no. {j}: {int(counts[j])}" for j in numbers[:5])
    text = (
        f"{len(numbers)} of its {int(is_own.sum())} prototypes stand for fewer than {_STARVED} training images "
        f"({listed}); of the other classes' prototypes, {others:.0%} do."
    )
    return _Cause(text)


@torch.no_grad()
def _room(material: Material, label: int) -> _Cause:
    """Compares the distance to the nearest prototype of another class with the spread of the class's own images."""
    model = material.model
    if model.n_classes < 2:
        return _Cause()
    project, labels = model.similarity.project, model.prototypes.labels.cpu()
    vectors = project(model.prototypes.vectors)
    store = material.store if material.train_store is None else material.train_store
    spreads = _spreads(material, store, vectors, labels)
    between = euclidean_distances(vectors, vectors).cpu()
    between[labels[:, None] == labels] = torch.inf
    usual = float(np.median(list(spreads.values()))) if spreads else 0.0
    rooms = {
        k: float(between[labels == k].min()) / spread for k, spread in spreads.items() if spread > _NO_SPREAD * usual
    }
    if label not in rooms:
        return _Cause()
    median = float(np.median(list(rooms.values())))
    images = "test" if material.train_store is None else "training"
    if rooms[label] > _NEAR * median:
        figures = f"{rooms[label]:.1f} times the distance of its {images} images to their own prototype"
        return _Cause(
            compared=f"a prototype of another class much nearer than is usual: at most {_NEAR:.0%} of the median (it "
            f"is at {figures}; the median of the classes is {median:.1f} times)"
        )
    own_rows = torch.nonzero(labels == label)[:, 0]
    place = int(between[own_rows].argmin())
    j, rival = int(own_rows[place // len(labels)]), place % len(labels)
    text = (
        f"Its prototype no. {j} is near to no. {rival} of class {model.prototypes.class_of(rival)!r}: their distance "
        f"is {rooms[label]:.1f} times that of its {images} images to their own prototype; the median of the classes is "
        f"{median:.1f} times."
    )
    return _Cause(text)


def _spreads(material: Material, store: EmbeddingStore, vectors: Tensor, labels: Tensor) -> dict[int, float]:
    """Returns the median distance of each class's images to the nearest of its own prototypes."""
    model = material.model
    of_images = aligned_labels(store, model, "test" if store is material.store else "training")
    spreads = {}
    for k in range(model.n_classes):
        rows = torch.nonzero(of_images == k)[:, 0].numpy()
        if not len(rows) or not (labels == k).any():
            continue
        z = torch.from_numpy(np.asarray(store.take(rows), dtype=np.float32)).to(model.device)
        distances = euclidean_distances(model.similarity.project(z), vectors[labels.to(vectors.device) == k])
        spreads[k] = float(distances.amin(1).median())
    return spreads


def _unfamiliar(material: Material, label: int) -> _Cause:
    entries = material.examples.entries
    if not entries or any(entry["unfamiliar"] is None for entry in entries):  # it was not tested
        return _Cause()
    flags: dict[bool, list[bool]] = {True: [], False: []}
    for entry in entries:
        flags[entry["label"] == label].append(bool(entry["unfamiliar"]))
    own, others = flags[True], flags[False]
    share_of_others = sum(others) / len(others) if others else 0.0
    if sum(own) < 2 or not _is_more_often(sum(own), len(own), share_of_others):
        figures = f"{sum(own)} of {len(own)} that are shown, and {sum(others)} of {len(others)} of the others"
        return _Cause(compared=f"test images that are clearly more often unfamiliar than other classes' ({figures})")
    text = (
        f"{sum(own)} of its {len(own)} test images shown are unfamiliar: the model knows nothing like them; of the "
        f"other classes, {sum(others)} of {len(others)} are."
    )
    return _Cause(text)


def _is_more_often(n: int, total: int, usual: float) -> bool:
    """Says whether a share is twice the usual one, or higher than chance would make it once in 20 times."""
    if n >= 2 * usual * total:
        return True
    from scipy.stats import binomtest

    return bool(binomtest(n, total, usual, alternative="greater").pvalue <= _CHANCE)


def _original(material: Material, label: int) -> _Cause:
    decisions = material.decisions
    if decisions.original is None:
        return _Cause()
    wrong = decisions.wrong & (decisions.labels == label)
    n_wrong = int(wrong.sum())
    n_both = int((wrong & (decisions.original != decisions.labels)).sum())
    if n_both > _MOST * n_wrong:
        cause = "so it is not the prototypes that lost these"
        return _Cause(f"The original gets {n_both} of these {n_wrong} images wrong, too, {cause}.")
    if n_both < _MOST * n_wrong:
        cause = "the prototypes lost the others"
        return _Cause(f"The original gets only {n_both} of these {n_wrong} images wrong: {cause}.")
    return _Cause(f"The original gets {n_both} of these {n_wrong} images wrong, too; the prototypes lost the others.")


def _taker(material: Material, label: int) -> _Cause:
    p = material.model.prototypes
    taken = _rows_by_taker(material, label)
    n_errors = sum(map(len, taken.values()))
    j, rows = next(iter(taken.items()))
    if len(rows) < 2 or len(rows) <= _MOST * n_errors or int(p.labels[j]) == label:
        most = max((len(rows) for j, rows in taken.items() if int(p.labels[j]) != label), default=0)
        return _Cause(
            compared=f"one prototype of another class that takes more than half of its errors, and several (at most "
            f"{most} of {n_errors})"
        )
    text = f"One prototype takes most of its errors: no. {j} of class {p.class_of(j)!r}, {len(rows)} of {n_errors}."
    n_decided, n_wrong = material.decisions.decided_by(len(p))[j], material.decisions.wrongly_decided_by(len(p))[j]
    are, whole = "is" if n_wrong == 1 else "are", "" if n_decided == 1 else "all "
    text += f" Of {whole}{counted(n_decided, 'test image')} that it decides, {n_wrong:,} {are} wrong"
    purity = float(p.purity[j])
    if purity == purity:
        text += f"; {purity:.0%} of the training images that look most like it are of its class"
    return _Cause(f"{text}.{_already_lost(material, j, rows)}")


def _already_lost(material: Material, prototype: int, rows: list[int]) -> str:
    """Says of errors that one prototype takes that the original makes most of them, too; nothing if it does not."""
    decisions = material.decisions
    if decisions.original is None:
        return ""
    n_both = int((decisions.original[rows] != decisions.labels[rows]).sum())
    if n_both <= _MOST * len(rows):
        return ""
    n_same = int((decisions.original[rows] == material.model.prototypes.labels.cpu()[prototype]).sum())
    of_them = "all" if n_same == len(rows) else f"{n_same}"
    return (
        f" The original gets {n_both} of these {len(rows)} images wrong, too, and takes {of_them} of them for the "
        "prototype's class."
    )


def _rows_by_taker(material: Material, label: int) -> dict[int, list[int]]:
    """Returns the wrong test images of a class, by the prototype that they look most like; most images first."""
    decisions = material.decisions
    taken: dict[int, list[int]] = {}
    for row in torch.nonzero(decisions.wrong & (decisions.labels == label))[:, 0].tolist():
        taken.setdefault(int(decisions.nearest[row]), []).append(row)
    return dict(sorted(taken.items(), key=lambda item: (-len(item[1]), item[0])))


def _copies(material: Material, label: int) -> _Cause:
    """Says how many of a class's test images are near duplicates of training images: they flatter it."""
    twins = material.duplicates
    if twins is None or not twins.with_training:
        return _Cause()
    decisions = material.decisions
    rows = [row for row in twins.of_training if int(decisions.labels[row]) == label]
    n = int((decisions.labels == label).sum()) - len(rows)
    if not rows:
        return _Cause(compared=f"near duplicates of training images among its test images (0 of {n})")
    right = int((~decisions.wrong & (decisions.labels == label)).sum()) - sum(not decisions.wrong[row] for row in rows)
    are = "is a near duplicate" if len(rows) == 1 else "are near duplicates"
    text = f"{len(rows)} of its test images {are} of training images"
    return _Cause(f"{text}; of the other {n}, {right} {'is' if right == 1 else 'are'} right.")


_CAUSES: tuple[Callable[[Material, int], _Cause], ...] = (
    _original, _taker, _copies, _training_images, _starved, _purity, _room, _unfamiliar,
)  # fmt: skip


def _causes_of(model: PrototypeModel) -> tuple[Callable[[Material, int], _Cause], ...]:
    """Returns the causes to look for: prototypes of patches count patches, and all of an image decide together."""
    return (_original, _copies, _unfamiliar) if model.has_patches else _CAUSES


def _takers(material: Material, label: int) -> list[dict[str, Any]]:
    """Returns the prototypes that took the class's errors, most errors first, with those errors that are shown."""
    if material.model.has_patches:
        return []
    entries = {entry["row"]: entry for entry in material.examples.entries}
    names, class_of = material.model.class_names, material.model.prototypes.class_of
    takers = []
    for j, rows in list(_rows_by_taker(material, label).items())[:_TAKERS]:
        shown = [entries[row] for row in rows if row in entries][:_ERRORS]
        errors = [
            {"row": entry["row"], "name": entry["name"], "predicted": names[entry["predicted"]]} for entry in shown
        ]
        takers.append({"prototype": j, "class": class_of(j), "n": len(rows), "errors": errors})
    return takers
