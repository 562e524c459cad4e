"""The test images of a report: which are shown, and their explanations."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError, RelevanceError
from lookalike._core.progress import Advance, progress_bar
from lookalike.data import Batches, InputBatch
from lookalike.embedding import EmbeddingStore
from lookalike.encoder import dtype_of, place
from lookalike.explanation import Explainer, Explanation
from lookalike.metrics.budget import Budget
from lookalike.metrics.context import aligned_labels
from lookalike.model import PrototypeModel
from lookalike.model.familiarity import are_unfamiliar
from lookalike.model.likeness import Likeness
from lookalike.model.original import OriginalAnswer
from lookalike.model.similarity import Similarity
from lookalike.plots.heatmap import common_limit, paint, shares, what_stands_out
from lookalike.report.key import of_the_page
from lookalike.report.pictures import picture
from lookalike.report.words import NO_CLASS, image_names

_BATCH = 16  # images explained at once
_ROWS = 8192  # embeddings compared with the prototypes at once
_FEWEST_DIGITS, _MOST_DIGITS = 3, 6  # of distances and similarities beside each other


@dataclass(frozen=True)
class Decisions:
    """Decisions on all test images, also on those that the report does not show.

    Attributes:
        labels: Labels [N], in the model's numbering.
        predicted: Predicted classes [N].
        original: The original's predictions [N]; None without an original.
        nearest: The most similar prototype [N].
        unfamiliar: Whether each image is unfamiliar [N]; None if that is not tested.
    """

    labels: Tensor
    predicted: Tensor
    original: Tensor | None
    nearest: Tensor
    unfamiliar: Tensor | None = None

    @property
    def wrong(self) -> Tensor:
        """Whether each prediction is wrong [N]."""
        return self.predicted != self.labels

    def decided_by(self, n_prototypes: int) -> list[int]:
        """Returns how many test images each prototype decides: those that look most like it."""
        counts: list[int] = self.nearest.bincount(minlength=n_prototypes).tolist()
        return counts

    def wrongly_decided_by(self, n_prototypes: int) -> list[int]:
        """Returns how many of these are classified wrongly, by prototype."""
        counts: list[int] = self.nearest[self.wrong].bincount(minlength=n_prototypes).tolist()
        return counts

    @property
    def telling(self) -> Tensor:
        """Whether each prediction is wrong, or another than the original's [N]."""
        return self.wrong if self.original is None else self.wrong | (self.predicted != self.original)


@dataclass(frozen=True)
class Examples:
    """Explained test images.

    Attributes:
        entries: What the page's script needs of each, as JSON values.
        notes: Notes about the heat-maps for the reader.
        seconds_per_image: Time that one of them took, with its heat-maps; 0 if none has any.
    """

    entries: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    seconds_per_image: float = 0.0


@torch.no_grad()
def decide(model: PrototypeModel, store: EmbeddingStore, original: Tensor | None) -> Decisions:
    """Returns the decisions on all stored test embeddings; ``original`` holds the original's predictions [N]."""
    predicted, nearest, unfamiliar = [], [], []
    for rows in store.parts(_ROWS):
        z = torch.from_numpy(np.array(store.embeddings[rows])).to(model.device)
        predicted.append(model.scores_of(z).argmax(1).cpu())
        nearest.append(model.similarities_of(z).argmax(1).cpu())
        is_unfamiliar = are_unfamiliar(model, z)
        unfamiliar += [] if is_unfamiliar is None else [torch.from_numpy(is_unfamiliar)]
    labels = aligned_labels(store, model, "test")
    familiarity = torch.cat(unfamiliar) if unfamiliar else None
    return Decisions(labels, torch.cat(predicted), original, torch.cat(nearest), familiarity)


def explain_examples(
    explainer: Explainer,
    data: Batches,
    store: EmbeddingStore,
    decisions: Decisions,
    *,
    n_browse: int,
    n_maps: int,
    progress: bool | Advance | None,
    budget: Budget | None = None,
) -> Examples:
    """Explains test images, wrong and disagreeing ones first.

    Args:
        explainer: Explains with heat-maps.
        data: Test data.
        store: Embeddings of the test data.
        decisions: Decisions on them.
        n_browse: Largest number of images to show.
        n_maps: Number of these that get heat-maps.
        progress: Show a progress bar.
        budget: Time for them; when it is over, images are shown without heat-maps. None is without a bound.

    Raises:
        LookalikeError: If the data are not images, or cannot be read again.
    """
    if not data.can_fetch:
        raise LookalikeError("a report shows test images, which cannot be read one by one from an iterable data set")
    shown = _telling_first(decisions.telling, range(len(decisions.labels)), n_browse)
    mapped = set(_telling_first(decisions.telling, shown, n_maps))
    pace = _Pace(budget)
    gathered = _Explained(explainer, data, store, decisions, pace)
    with progress_bar("Explaining", len(shown), progress) as advance:
        for group, with_maps in ((mapped, True), (set(shown) - mapped, False)):
            # without enough time for all, the telling ones get theirs
            ordered = sorted(group, key=lambda row: (budget is not None and not decisions.telling[row], row))
            while ordered and not (len(gathered.entries) >= _BATCH and pace.is_over):
                n_rows = pace.images_at_once(with_maps=with_maps)
                rows, ordered = ordered[:n_rows], ordered[n_rows:]
                gathered.add(rows, with_maps=with_maps)
                advance(len(rows))
    notes = [*gathered.notes, *_note_of_maps(pace, len(gathered.entries), len(shown), len(mapped))]
    _name(gathered.entries, data, store, explainer.model.class_names)
    by_row = sorted(gathered.entries, key=lambda entry: int(entry["row"]))
    return Examples(by_row, _different(notes), pace.seconds_per_image)


def _note_of_maps(pace: "_Pace", n_entries: int, n_shown: int, n_mapped: int) -> list[str]:
    """Says how many of the images got heat-maps, if not all did."""
    if pace.is_bounding:
        return [
            f"heat-maps were made for {pace.n_mapped:,} of the {n_entries:,} test images shown, of {n_shown:,}, wrong "
            "and disagreeing ones first: the time was over"
        ]
    if (pace.n_mapped or not n_mapped) and n_mapped < n_shown:
        return [
            f"heat-maps were made for {pace.n_mapped:,} of the {n_shown:,} test images shown, wrong and disagreeing "
            "ones first (option --maps)"
        ]
    return []


def _name(entries: list[dict[str, Any]], data: Batches, store: EmbeddingStore, class_names: Sequence[str]) -> None:
    """Gives images their names, which depend on one another."""
    numbers = [int(store.indices[entry["row"]]) for entry in entries]
    files = [data.name_of(number) for number in numbers]
    classes = [class_names[entry["label"]] for entry in entries]
    for entry, name in zip(entries, image_names(files, numbers, classes), strict=True):
        entry["name"] = name


class _Explained:
    """Test images with their explanations, gathered batch by batch.

    Args:
        explainer: Explains with heat-maps.
        data: Test data.
        store: Their embeddings.
        decisions: Decisions on them.
        pace: Whether there is time for heat-maps.

    Attributes:
        entries: What the page's script needs of each image.
        notes: What is to be said of them.
    """

    def __init__(
        self, explainer: Explainer, data: Batches, store: EmbeddingStore, decisions: Decisions, pace: "_Pace"
    ) -> None:
        self._with_maps, self._plain = explainer, Explainer(explainer.model, n_nearest=explainer.n_nearest)
        self._data, self._store, self._decisions, self._pace = data, store, decisions, pace
        self.entries: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def add(self, rows: list[int], *, with_maps: bool) -> None:
        """Explains the images in these rows of the embeddings, with heat-maps if there is time.

        Raises:
            LookalikeError: If they are not images.
        """
        batch = self._read(rows)
        # explained as decided: the same image has one answer and one nearest prototype everywhere on the page
        embeddings = torch.from_numpy(np.asarray(self._store.take(np.asarray(rows)), dtype=np.float32))
        first = len(self.entries)
        try:
            mapping = self._with_maps if with_maps and self._pace.allows(len(rows)) else self._plain
            with self._pace.timing(mapping is self._with_maps, len(rows)):
                explanations = mapping.explain(batch, first, embeddings=embeddings)
        except RelevanceError as error:
            explanations = self._plain.explain(batch, first, embeddings=embeddings)
            self.notes.append(f"there are no heat-maps: {error}")
        for row, explanation in zip(rows, explanations, strict=True):
            self.notes += [text for text in (explanation.caution, explanation.map_sentence()) if text]
            self.entries.append(_entry(explanation, row, self._decisions, self._plain.model))

    def _read(self, rows: list[int]) -> InputBatch:
        model, indices = self._plain.model, self._store.indices[rows]
        inputs = place(self._data.fetch(indices), model.device, dtype_of(model.encoder))
        if not isinstance(inputs, Tensor) or model.to_pixels(inputs) is None:
            raise LookalikeError(
                "a report shows test images, and these inputs are no images, or the model does not know which values "
                "are black and white: give a model of your own its training images (with_training_images), or their "
                "range, origin=Origin(value_range=...)"
            )
        names: list[str | None] = [self._data.describe(int(index)) for index in indices]
        return InputBatch(inputs, names, self._decisions.labels[rows].tolist())


class _Pace:
    """Whether there is time for another batch of images, with heat-maps or without, by the time that the last took."""

    def __init__(self, budget: Budget | None) -> None:
        self.budget = budget
        self.clock = time.monotonic if budget is None else budget.clock
        self.seconds_per_image = 0.0
        self.n_mapped = 0  # images that got heat-maps
        self.is_bounding = False  # whether a batch got none, or was left out, as the time was over

    @property
    def is_over(self) -> bool:
        """Whether the time is over, so that no more images are shown."""
        over = self.budget is not None and self.budget.left < 0
        self.is_bounding |= over
        return over

    def images_at_once(self, *, with_maps: bool) -> int:
        """Returns the size of the next batch: a single image first, to learn how long one takes."""
        if self.budget is None or self.budget.left < 0 or not with_maps:
            return _BATCH
        return self.budget.at_once(self.seconds_per_image, _BATCH) if self.seconds_per_image else 1

    def allows(self, n_images: int) -> bool:
        """Says whether there is time for the heat-maps of a batch."""
        is_over = self.budget is not None and self.budget.left < self.seconds_per_image * n_images
        self.is_bounding |= is_over
        return not is_over

    @contextmanager
    def timing(self, with_maps: bool, n_images: int) -> Iterator[None]:
        """Learns from its block how long an image with heat-maps takes."""
        started = self.clock()
        yield
        if with_maps:
            self.n_mapped += n_images
            self.seconds_per_image = (self.clock() - started) / n_images


def _with_original_of(
    explanation: Explanation, row: int, decisions: Decisions, class_names: Sequence[str]
) -> Explanation:
    """Returns an explanation that says of the original what the decisions say.

    The page can compare with another classifier than the one that was converted, which an explanation asks.
    """
    if decisions.original is None:
        return replace(explanation, original=None)
    k, answer = int(decisions.original[row]), explanation.original
    agrees = k == explanation.prediction
    name = class_names[k] if 0 <= k < len(class_names) else None
    if answer is not None and answer.agrees == agrees and name in (None, answer.class_name):
        return explanation
    contrast = explanation.contrast if not explanation.correct or agrees else None
    return replace(explanation, original=OriginalAnswer(name or NO_CLASS, None, agrees), contrast=contrast)


def _entry(explanation: Explanation, row: int, decisions: Decisions, model: PrototypeModel) -> dict[str, Any]:
    """Returns what the page's script needs of a test image, as JSON values."""
    explanation, similarity = _with_original_of(explanation, row, decisions, model.class_names), model.similarity
    image = explanation.image
    assert image is not None  # as seen before it was explained
    likenesses = explanation.shown
    maps = [near.heat_map for near in likenesses]
    prepared = [None if values is None else shares(values) for values in (*maps, explanation.black_box_heat_map)]
    limit = common_limit([values for values in prepared if values is not None])
    *likeness_maps, original_map = (
        None if values is None else picture(paint(values, limit, image)) for values in prepared
    )
    *likeness_shows, original_shows = (
        None if values is None else what_stands_out(values, limit) for values in prepared
    )
    answer = explanation.original
    return {
        "row": row,
        "name": "",  # named when all are known, see image_names
        "label": int(decisions.labels[row]),
        "predicted": explanation.prediction,
        "probability": round(explanation.probability, 6),
        "original": None if decisions.original is None else int(decisions.original[row]),
        "original_probability": None if answer is None or answer.probability is None else round(answer.probability, 6),
        "unfamiliar": explanation.unfamiliar,
        "doubt": None if explanation.doubt is None else explanation.doubt.sentence(),
        "sentence": explanation.sentence(),
        "caution": None if explanation.caution is None else of_the_page(explanation.caution),
        "image": picture(image),
        "original_map": original_map,
        "original_shows": original_shows,
        "near": [
            {
                **_likeness_entry(near, heat_map, shows, explanation),
                "measured": measured,
                "rank": position + 1 if position < len(explanation.likenesses) else None,
            }
            for position, (near, heat_map, shows, measured) in enumerate(
                zip(likenesses, likeness_maps, likeness_shows, _measured(likenesses, similarity), strict=True)
            )
        ],
    }


def _measured(likenesses: Sequence[Likeness], similarity: Similarity) -> list[str]:
    """Returns how alike the input and each prototype are, with as many digits as tell the prototypes apart."""
    for digits in range(_FEWEST_DIGITS, _MOST_DIGITS + 1):
        texts = [
            near.measured(similarity.name, falls_with_distance=similarity.falls_with_distance, digits=digits)
            for near in likenesses
        ]
        if len(set(texts)) == len(texts):
            break
    return texts


def _likeness_entry(
    near: Likeness, heat_map: str | None, shows: str | None, explanation: Explanation
) -> dict[str, Any]:
    """Returns what the page's script needs of a likeness."""
    contrast = explanation.contrast
    return {
        "prototype": near.prototype,
        "nearness": explanation.nearness_of(near),
        "is_contrast": contrast is not None and near.prototype == contrast.prototype,
        "map": heat_map,
        "shows": shows,
    }


def _telling_first(telling: Tensor, rows: Sequence[int], n_rows: int) -> list[int]:
    """Returns at most ``n_rows`` of the rows, in order: telling ones, then evenly spaced others."""
    if len(rows) <= n_rows:
        return list(rows)
    first = [row for row in rows if telling[row]][:n_rows]
    remaining_rows = [row for row in rows if not telling[row]]
    n_others = min(n_rows - len(first), len(remaining_rows))
    spread = (
        [remaining_rows[int(position)] for position in np.linspace(0, len(remaining_rows) - 1, n_others)]
        if n_others
        else []
    )
    return sorted({*first, *spread})


def _different(notes: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(notes))
