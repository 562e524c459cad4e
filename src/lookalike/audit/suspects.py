"""``audit``: what in the data deserves a second look, ranked, each with its reason."""

import copy
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.files import PAGE_BEGINS, check_writable, write_whole
from lookalike._core.names import spreadsheet_cell
from lookalike._core.progress import progress_bar
from lookalike._core.untouched import keeps_random_states
from lookalike._core.wording import counted, counted_of
from lookalike.audit.labels import LabelCheck, check_labels, check_other_labels
from lookalike.audit.prototypes import prototype_faults
from lookalike.audit.shortcuts import MOST_PROTOTYPES, find_shortcuts, n_steps_of_search
from lookalike.editing.sources import Source, source_of
from lookalike.embedding.neighbours import look_around
from lookalike.model import PrototypeModel
from lookalike.model.similarity import Similarity

Kind = Literal["label", "exact duplicate", "near duplicate", "outlier", "impure", "starved", "one source", "shortcut"]
Ranking = Literal["prototypes", "cleanlab"]

_COLUMNS = ("kind", "rank", "score", "part", "sample", "name", "label", "suggested", "other", "other_name", "reason")

_PAGES = (".html", ".htm")
_MANY_DIFFERING = 0.2  # share of images; more wrong labels than that are rare


@dataclass(frozen=True)
class Suspect:
    """Something that deserves a second look.

    Attributes:
        kind: What it may be.
        rank: Its place among the suspects of its kind, from 1.
        score: Larger is more suspicious; ranks follow it. Scores of different kinds cannot be compared.
        part: Part of the data, ``"train"`` or ``"test"``; "" for a prototype.
        sample: Number of the sample in its part, or of the prototype.
        name: File of the sample, if it has one.
        label: Its class.
        suggested: The class that it may belong to; None if its label is not in doubt.
        other: A sample to compare it with, such as the duplicate, as (part, number); None for none.
        other_name: File of that sample.
        reason: Why, in one sentence.
    """

    kind: Kind
    rank: int
    score: float
    part: str
    sample: int
    name: str
    label: str
    suggested: str | None
    other: tuple[str, int] | None
    other_name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of an audit.

    Attributes:
        suspects: All suspects, by kind and rank.
        n_samples: Number of samples by part.
        labels: The check of the training labels.
        source: The embedded training data.
        test: The embedded test data, or None.
        notes: What was not looked at, and why.
    """

    suspects: list[Suspect]
    n_samples: dict[str, int]
    labels: LabelCheck
    source: Source
    test: Source | None
    notes: list[str] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Suspect]:
        """Returns the suspects of one kind, the most suspicious first."""
        return [suspect for suspect in self.suspects if suspect.kind == kind]

    def counts(self) -> dict[str, int]:
        """Returns the number of suspects of each kind that has any."""
        kinds = dict.fromkeys(suspect.kind for suspect in self.suspects)
        return {kind: len(self.of_kind(kind)) for kind in kinds}

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        rows = [asdict(suspect) for suspect in self.suspects]
        return {"samples": self.n_samples, "counts": self.counts(), "suspects": rows, "notes": self.notes}

    def to_csv(self) -> str:
        """Returns a table with a row for each suspect.

        Text that a spreadsheet would take for a formula begins with an apostrophe.
        """
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for suspect in self.suspects:
            values = asdict(suspect) | {
                "other": "" if suspect.other is None else f"{suspect.other[0]} {suspect.other[1]}"
            }
            writer.writerow([spreadsheet_cell(values[name]) for name in _COLUMNS])
        return buffer.getvalue()

    def with_shortcuts(self, model: PrototypeModel, *, seed: int = 0, progress: bool | None = None) -> "Audit":
        """Also looks for parts of images that carry a class along, such as a mark or a background.

        Each prototype takes eighty passes of an image through the network, and each class up to 240 more.

        Args:
            model: The audited model.
            seed: Seed of the draw of images.
            progress: Show a progress bar.

        Returns:
            This audit with the shortcuts; the same audit if the data are not those of the conversion.

        Raises:
            LookalikeError: If the images cannot be read again, or are not of one size.
        """
        if _is_of_conversion(model, self.source) is False:
            return self  # its notes say that prototypes were not checked
        n_prototypes = len(model.prototypes)
        n_tried = min(n_prototypes, MOST_PROTOTYPES)
        note = f"shortcuts were looked for in {counted_of(n_tried, n_prototypes, 'prototype')}, those with most images"
        with progress_bar("Shortcuts", n_steps_of_search(model, self.source, seed=seed), progress) as advance:
            shortcuts = find_shortcuts(model, self.source, seed=seed, advance=advance)
        added = []
        for rank, shortcut in enumerate(shortcuts, 1):
            j, name = shortcut.prototype, model.prototypes.class_of(shortcut.prototype)
            reason = f"prototype {j} ({name}): {shortcut.sentence(name)}"
            added.append(Suspect("shortcut", rank, shortcut.score, "", j, "", name, None, None, "", reason))
        notes = [*self.notes, note] if n_tried < n_prototypes else self.notes
        return replace(self, suspects=[*self.suspects, *added], notes=notes)

    def save(self, path: str | Path) -> None:
        """Writes the suspects to a file: as CSV (``.csv``), or as one HTML page with pictures (``.html``, ``.htm``).

        Raises:
            LookalikeError: If its name ends in another way.
        """
        path = checks.path("path", path)
        _check_ending(path)
        if path.suffix.lower() in _PAGES:
            from lookalike.audit.page import audit_page

            write_whole(path, audit_page(self))
        else:
            write_whole(path, self.to_csv())


def check_output(path: Path, overwrite: bool) -> None:
    """Checks that a file is one that an audit is written to, and that it may be written.

    Args:
        path: The file.
        overwrite: Whether it may replace an audit of the same kind.

    Raises:
        LookalikeError: If its name ends in another way, or it may not be written.
    """
    _check_ending(path)
    check_writable(path, overwrite, begins=PAGE_BEGINS if path.suffix.lower() in _PAGES else _COLUMNS[0])


def _check_ending(path: Path) -> None:
    if path.suffix.lower() not in (".csv", *_PAGES):
        raise LookalikeError(f"an audit is written as a table (.csv) or a page (.html, .htm), not to {str(path)!r}")


@keeps_random_states
def audit(
    model: PrototypeModel,
    train: Any,
    test: Any = None,
    *,
    sources: Callable[[str], str] | Sequence[str] | None = None,
    ranking: Ranking = "prototypes",
    n_prototypes: int = 10,
    seed: int = 0,
    progress: bool | None = None,
) -> Audit:
    """Looks for wrong labels, duplicates, outliers and faulty prototypes.

    Args:
        model: Its encoder and similarity decide which images are alike. Its prototypes are checked if it was converted
            with ``train``.
        train: The data to look at, as for ``convert``, or their ``EmbeddingStore``.
        test: Test data: their labels are compared with the training images', and duplicates between both parts are
            found, too.
        sources: Where each training sample comes from, or a function from a sample's file name to that.
        ranking: Order of the label suspects: by the ``"prototypes"``' log-probabilities, or by ``"cleanlab"``'s scores
            of the same probabilities (``pip install cleanlab``).
        n_prototypes: Prototypes per class that labels are checked with.
        seed: Seed of folds and clustering.
        progress: Show a progress bar while data are embedded.

    Raises:
        LookalikeError: If the data do not fit the model, or are too few, or ``sources`` does not fit them.
    """
    checks.one_of("ranking", ranking, ("prototypes", "cleanlab"))
    if model.has_patches:
        raise LookalikeError(
            "an audit compares whole images, and this model's prototypes are parts of images: audit the data with a "
            "model that was converted with level='image'"
        )
    data = source_of(model, train, part="audited", progress=progress)
    tested = None if test is None else source_of(model, test, part="test", progress=progress)
    return audit_sources(model, data, tested, sources=sources, ranking=ranking, n_prototypes=n_prototypes, seed=seed)


def audit_sources(
    model: PrototypeModel,
    data: Source,
    tested: Source | None = None,
    *,
    sources: Callable[[str], str] | Sequence[str] | None = None,
    ranking: Ranking = "prototypes",
    n_prototypes: int = 10,
    seed: int = 0,
) -> Audit:
    """As ``audit``, for data that are embedded already."""
    similarity = copy.deepcopy(model.similarity).cpu()
    names = model.class_names
    notes: list[str] = []
    given_sources = _sources_of(data, sources, notes)
    checked = check_labels(
        data.store.embeddings, data.labels, len(names), similarity, n_prototypes=n_prototypes, seed=seed
    )
    suspects = _label_suspects(data, "train", checked, names, ranking)
    if tested is not None:
        others = tested.store.embeddings, tested.labels
        of_test = check_other_labels(
            checked, data.store.embeddings, data.labels, others, similarity, n_prototypes=n_prototypes, seed=seed
        )
        suspects += _label_suspects(tested, "test", of_test, names, ranking)
    notes += _note_of_weak_model(checked, data.labels)
    suspects += _pair_and_far_suspects(data, tested, names, similarity)
    is_of_conversion = _is_of_conversion(model, data)
    if is_of_conversion is not False:
        suspects += _prototype_suspects(model, data, similarity, given_sources)
        if is_of_conversion is None and model.training_record.joined:
            order = "in the order in which it got them"
            notes.append(f"the model was updated: that these are all its data, {order}, cannot be checked")
    else:
        also = "" if sources is None else ", and the sources were not used"
        notes.append(f"these are not the data that the model was converted with: its prototypes were not checked{also}")
    n_samples = {"train": len(data.labels)} | ({} if tested is None else {"test": len(tested.labels)})
    return Audit(_ranked(suspects), n_samples, checked, data, tested, notes)


def _note_of_weak_model(checked: LabelCheck, labels: np.ndarray) -> list[str]:
    """Says that few suspects can be wrong labels where the prototypes are often wrong themselves."""
    differing = float((checked.predicted != labels).mean())
    if differing < _MANY_DIFFERING or not checked.suspect.any():
        return []
    return [
        f"held out in turn, {differing:.0%} of all images look most like another class: the model tells these classes "
        "apart poorly, so most suspects are hard images and not wrong labels"
    ]


def _label_suspects(data: Source, part: str, checked: LabelCheck, names: list[str], ranking: Ranking) -> list[Suspect]:
    """Returns the samples whose label is probably wrong."""
    scores = checked.margins if ranking == "prototypes" else _cleanlab_scores(checked, data.labels)
    suspects = []
    for row in np.flatnonzero(checked.suspect).tolist():
        label, predicted_label = int(data.labels[row]), int(checked.predicted[row])
        nearest = [names[k] for k in checked.nearest[row].tolist() if k >= 0]
        many = f"{len(nearest)} most similar prototypes are" if len(nearest) > 1 else "most similar prototype is"
        reason = (
            f"labelled {names[label]!r} (probability {checked.probabilities[row, label]:.1%}, by prototypes learned "
            f"without it); its {many} of {', '.join(map(repr, dict.fromkeys(nearest)))}"
        )
        suspects.append(
            _suspect("label", float(scores[row]), part, data, row, names, reason, suggested=names[predicted_label])
        )
    return suspects


def _cleanlab_scores(checked: LabelCheck, labels: np.ndarray) -> np.ndarray:
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise LookalikeError("ranking='cleanlab' needs the package: pip install cleanlab") from error
    return np.asarray(1 - get_label_quality_scores(labels, checked.probabilities))


def _pair_and_far_suspects(
    data: Source, tested: Source | None, names: list[str], similarity: Similarity
) -> list[Suspect]:
    """Returns duplicates within and across the parts, and samples that are far from everything."""
    named_sources = [("train", data)] if tested is None else [("train", data), ("test", tested)]
    embeddings = np.concatenate([np.asarray(source.store.embeddings, dtype=np.float32) for _, source in named_sources])
    with torch.no_grad():
        space = similarity.project(torch.from_numpy(embeddings)).numpy()
    surroundings = look_around(space)
    origins = [(name, source, row) for name, source in named_sources for row in range(len(source.labels))]
    suspects = []
    for pair in surroundings.pairs:
        (part_name, source, row), (other_part, other_source, other_row) = origins[pair.first], origins[pair.second]
        labels = names[int(source.labels[row])], names[int(other_source.labels[other_row])]
        across = ", in training and test data" if part_name != other_part else ""
        differing = f", but labelled {labels[0]!r} and {labels[1]!r}" if labels[0] != labels[1] else ""
        alike = "equal to the network" if pair.exact else f"{pair.share:.0%} of the usual distance apart"
        weight = 1 - pair.share + 2 * bool(differing) + bool(across)  # these harm most, so they come first
        suspect = _suspect(
            "exact duplicate" if pair.exact else "near duplicate",
            weight,
            part_name,
            source,
            row,
            names,
            f"{alike}{across}{differing}",
        )
        sample = int(other_source.store.indices[other_row])
        suspects.append(replace(suspect, other=(other_part, sample), other_name=_name(other_source, other_row)))
    for index in surroundings.far.tolist():
        part_name, source, row = origins[index]
        near_part, near, near_row = origins[int(surroundings.nearest[index])]
        reason = (
            f"far from everything: {surroundings.remoteness[index]:.1f} spreads beyond the usual distance to neighbours"
        )
        suspect = _suspect("outlier", float(surroundings.remoteness[index]), part_name, source, row, names, reason)
        suspects.append(
            replace(suspect, other=(near_part, int(near.store.indices[near_row])), other_name=_name(near, near_row))
        )
    return suspects


def _is_of_conversion(model: PrototypeModel, data: Source) -> bool | None:
    """Returns whether these are all data that the model was made from; None if that is not known."""
    store = data.store
    return model.training_record.is_all_of(data.batches, len(store), len(store.skipped), known=store.info.get("data"))


def _sources_of(
    data: Source, sources: Callable[[str], str] | Sequence[str] | None, notes: list[str]
) -> Sequence[str] | None:
    """Returns the source of each sample, and notes how many have none.

    Raises:
        LookalikeError: If there are more or fewer than samples, or no file name has one.
    """
    if sources is None:
        return None
    if not callable(sources):
        if len(sources) != len(data.labels):
            raise LookalikeError(
                f"there are {counted(len(data.labels), 'sample')} and {counted(len(sources), 'source')}"
            )
        as_texts = ["" if source is None else str(source) for source in sources]
        notes += _note_of_none(as_texts, "sample")
        return as_texts
    names = [_name(data, row) for row in range(len(data.labels))]
    if not any(names):
        raise LookalikeError(
            "the data have no file names to read sources from; give the sources as a list, sources=[…]"
        )
    source_names = [sources(name) for name in names]
    n_without = source_names.count("")
    if n_without == len(source_names):
        raise LookalikeError(
            f"no file name has a source by sources (--sources), for example {next(filter(None, names))!r}"
        )
    notes += _note_of_none(source_names, "file name")
    return source_names


def _note_of_none(source_names: list[str], what: str) -> list[str]:
    """Says how many samples have no source, if any."""
    n_without = source_names.count("")
    if not n_without:
        return []
    lack = "has no source, and counts as one" if n_without == 1 else "have no source, and count as one source together"
    return [f"{counted_of(n_without, len(source_names), what)} {lack}"]


def _prototype_suspects(
    model: PrototypeModel,
    data: Source,
    similarity: Similarity,
    sources: Sequence[str] | None,
) -> list[Suspect]:
    """Returns the faulty prototypes of a model that was made from these data."""
    prototypes = copy.deepcopy(model.prototypes).cpu()
    behind = np.full(len(data.labels), -1)
    for k in range(len(model.class_names)):
        rows = np.flatnonzero(data.labels == k)
        of_class = torch.nonzero(prototypes.labels == k)[:, 0]
        if len(rows) and len(of_class):
            with torch.no_grad():
                z = torch.from_numpy(np.asarray(data.store.take(rows), dtype=np.float32))
                behind[rows] = of_class[similarity(z, prototypes.vectors[of_class]).argmax(1)].numpy()
    return [
        Suspect(
            fault.kind,
            0,
            fault.score,
            "",
            fault.prototype,
            "",
            prototypes.class_of(fault.prototype),
            None,
            None,
            "",
            fault.reason,
        )
        for fault in prototype_faults(prototypes, behind, sources)
    ]


def _suspect(
    kind: Kind,
    score: float,
    part: str,
    data: Source,
    row: int,
    names: list[str],
    reason: str,
    *,
    suggested: str | None = None,
) -> Suspect:
    sample = int(data.store.indices[row])
    return Suspect(
        kind, 0, score, part, sample, _name(data, row), names[int(data.labels[row])], suggested, None, "", reason
    )


def _name(data: Source, row: int) -> str:
    """Returns the file name of a sample; "" without files."""
    if data.batches is None:
        return ""
    return data.batches.name_of(int(data.store.indices[row])) or ""


def _ranked(suspects: list[Suspect]) -> list[Suspect]:
    """Sorts the suspects of each kind by their score, and numbers them."""
    ranked = []
    for kind in dict.fromkeys(suspect.kind for suspect in suspects):
        of_kind = sorted((s for s in suspects if s.kind == kind), key=lambda s: -s.score)
        ranked += [replace(suspect, rank=rank) for rank, suspect in enumerate(of_kind, 1)]
    return ranked
