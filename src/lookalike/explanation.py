"""This looks like that: why a model predicts what it predicts (paper section 3.3)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, RelevanceError
from lookalike._core.names import visible
from lookalike._core.profiling import step
from lookalike._core.untouched import keeps_torch_settings
from lookalike.data import InputBatch
from lookalike.encoder import Encoder, dtype_of, place
from lookalike.encoder.calls import n_rows, take_rows
from lookalike.encoder.finite import check_finite_rows
from lookalike.model import PrototypeModel
from lookalike.model.similarity import euclidean_distances
from lookalike.plots import plot_likeness
from lookalike.plots.likeness import LikenessMaps
from lookalike.plots.tiles import shorten
from lookalike.relevance import COMPOSITES, Composite, PrpRule, lrp, prp, prp_rule, prp_stability

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_ENOUGH = 10  # training samples behind a prototype that say how far they lie
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Likeness:
    """One prototype that an input looks like.

    Attributes:
        prototype: Its number.
        label: Its class.
        class_name: The class's name.
        similarity: s(z, p), by the model's similarity.
        distance: Euclidean, in the space in which the similarity clusters.
        percentile: How far out this distance is among the prototype's own training samples, in percent; 100 is as
            far as the farthest, or farther. NaN where none stand behind it.
        farthest: The distance of the farthest of them.
        count: How many training samples stand behind the prototype.
        purity: The share of the training samples most similar to it that carry its class.
        nearest: The training samples nearest to the prototype, as indices.
        image: The nearest one, uint8 [H, W, C]; None if the model holds no images.
        heat_map: Which pixels of the input make the likeness [H, W]; None where relevance was not asked for.
        prototype_heat_map: The same on the prototype's own training image [H, W].
    """

    prototype: int
    label: int
    class_name: str
    similarity: float
    distance: float
    percentile: float
    farthest: float
    count: int
    purity: float
    nearest: list[int]
    image: np.ndarray | None = None
    heat_map: np.ndarray | None = None
    prototype_heat_map: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, without pictures."""
        return {
            "prototype": self.prototype,
            "class": self.class_name,
            "similarity": self.similarity,
            "distance": self.distance,
            "percentile": None if np.isnan(self.percentile) else self.percentile,
            "count": self.count,
            "purity": None if np.isnan(self.purity) else self.purity,
            "nearest": self.nearest,
        }


@dataclass(frozen=True)
class Explanation:
    """A prediction and the prototypes that it rests on.

    Attributes:
        prediction: The predicted class.
        class_name: Its name.
        probability: The predicted class's.
        probabilities: Of all classes [K].
        likenesses: The nearest prototypes, the most similar first.
        image: The input as the network sees it, uint8 [H, W, C]; None if it is no image.
        name: What to call the input, e.g. its file.
        label: Its true class, where it is known.
        true_name: That class's name.
        black_box_heat_map: Which pixels the black box's own prediction rests on [H, W]; None where relevance was not
            asked for.
        caution: Why the heat-maps are not to be relied on; None where they are.
        rule: How relevance started at the similarity layer; None where relevance was not asked for.
        map_stability: Correlation of the heat-maps with those of the input with noise of 1%; measured for the unstable
            rule ``share`` alone, else None.
    """

    prediction: int
    class_name: str
    probability: float
    probabilities: np.ndarray
    likenesses: list[Likeness]
    image: np.ndarray | None = None
    name: str | None = None
    label: int | None = None
    true_name: str | None = None
    black_box_heat_map: np.ndarray | None = None
    caution: str | None = None
    rule: PrpRule | None = None
    map_stability: float | None = None

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is right; None where the true class is not known."""
        return None if self.label is None else self.label == self.prediction

    @property
    def unfamiliar(self) -> bool:
        """Whether the input is farther from its nearest prototype than every training sample behind it.

        False where fewer than ten stand behind it: too few to tell.
        """
        first = self.likenesses[0]
        return first.count >= _ENOUGH and first.distance > first.farthest * (1 + _ROUNDING)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, without pictures."""
        return {
            "name": self.name,
            "prediction": self.class_name,
            "probability": self.probability,
            "probabilities": self.probabilities.tolist(),
            "true": self.true_name,
            "correct": self.correct,
            "unfamiliar": self.unfamiliar,
            "caution": self.caution,
            "rule": self.rule,
            "map_stability": self.map_stability,
            "nearest": [likeness.to_dict() for likeness in self.likenesses],
        }

    def sentence(self) -> str:
        """Says it in a sentence."""
        first = self.likenesses[0]
        if np.isnan(first.percentile):
            spread = "no training image stands behind it"
        elif self.unfamiliar:
            spread = f"farther from it than all {first.count:,} training images behind it"
        else:
            farther = round((100 - first.percentile) / 100 * first.count)
            spread = f"closer to it than about {farther:,} of the {first.count:,} training images behind it"
        return (
            f"This looks like prototype {first.prototype} of class '{visible(first.class_name)}' ({spread}), "
            f"so the prediction is '{visible(self.class_name)}' ({self.probability:.0%})."
        )

    def map_sentence(self) -> str | None:
        """Says how stable the heat-maps are, where that was measured: for the rule ``share``."""
        if self.map_stability is None:
            return None
        return (
            f"heat-maps by rule {self.rule!r} change with small noise: noise of 1% leaves a correlation of "
            f"{self.map_stability:.2f}"
        )

    def _maps(self) -> LikenessMaps | None:
        on_input = [near.heat_map for near in self.likenesses if near.heat_map is not None]
        if len(on_input) < len(self.likenesses):
            return None
        return LikenessMaps(on_input, [near.prototype_heat_map for near in self.likenesses], self.black_box_heat_map)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the input beside the training images of its nearest prototypes; a wrong prediction is framed in red.

        Raises:
            LookalikeError: If the input is not an image.
        """
        if self.image is None:
            raise LookalikeError("there is nothing to draw: the input is not an image, or its value range is not known")
        verdict = f"{shorten(self.class_name, 14)} · {self.probability:.0%}"
        if self.correct is False and self.true_name is not None:
            verdict += f"\nwrong: it is {shorten(self.true_name, 12)}"
        if self.unfamiliar:
            verdict += " · unfamiliar" if "\n" in verdict else "\nunfamiliar"
        if self.map_stability is not None:
            verdict += f"\nmaps: {self.rule}, stability {self.map_stability:.2f}"
        captions = [
            f"{shorten(near.class_name, 12)} · no. {near.prototype}\ns = {near.similarity:.3g}".replace("= -", "= −")
            for near in self.likenesses
        ]
        return plot_likeness(
            self.image,
            [near.image for near in self.likenesses],
            caption=verdict,
            captions=captions,
            wrong=self.correct is False,
            heat_maps=self._maps(),
            ax=ax,
        )


@keeps_torch_settings
def explain(
    model: PrototypeModel,
    inputs: Any,
    *,
    n_nearest: int = 3,
    labels: Sequence[int] | np.ndarray | Tensor | None = None,
    names: Sequence[str] | None = None,
    relevance: bool = False,
    composite: str | Composite = "epsilon-plus-flat",
    rule: PrpRule | None = None,
    batch_size: int = 256,
) -> list[Explanation]:
    """Explains predictions by the prototypes that the inputs look most like.

    Args:
        model: A prototype model.
        inputs: What the network takes [N, C, H, W], a single row of it, image files, a folder, PIL images, pixels, or a
            ``Dataset`` or ``DataLoader``; see ``lookalike.data.read_inputs``.
        n_nearest: How many prototypes to show per input.
        labels: True classes [N], to tell right from wrong.
        names: What to call the inputs.
        relevance: Also find which pixels make each likeness, on the input and on the prototype's own training image,
            and which the black box's prediction rests on.
        composite: The rules of relevance propagation.
        rule: How relevance starts at the similarity layer, see ``prp``; None takes the default, ``"neuralized"``. With
            ``"share"`` [ref] each explanation says how stable its heat-maps are.
        batch_size: The most rows that pass through the encoder at once.

    Returns:
        An explanation per input.

    Raises:
        LookalikeError: If labels or names are not one per input, ``n_nearest`` is below 1, an input's embedding is
            not finite, or the rule does not fit the model.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    checks.whole_number("n_nearest", n_nearest, 1)
    checks.whole_number("batch_size", batch_size, 1)
    checks.flag("relevance", relevance)
    if not isinstance(composite, Composite):
        _ = COMPOSITES[composite]
    rule = prp_rule(model, rule)
    if labels is not None:
        labels = checks.class_indices("labels", labels, model.n_classes).tolist()
    if names is not None:
        names = checks.names("names", names)
    explanations: list[Explanation] = []
    for batch in _batches_to_explain(model, inputs, labels, names, batch_size):
        first = len(explanations)
        of_batch = _explain_batch(model, batch.inputs, n_nearest, batch.labels, batch.names, first)
        explanations += _with_maps(model, batch.inputs, of_batch, composite, rule) if relevance else of_batch
    return explanations


def _batches_to_explain(
    model: PrototypeModel, inputs: Any, labels: Sequence[int] | None, names: Sequence[str] | None, batch_size: int
) -> Iterator[InputBatch]:
    """Yields batches of inputs with their labels and names, given or read.

    Labels that come with the data count only where the data name their classes as the model does.

    Raises:
        LookalikeError: If there are not as many labels or names as inputs.
    """
    batches: Iterable[InputBatch] = model.read_inputs(inputs, batch_size)
    given = {"labels": labels, "names": names}
    if any(values is not None for values in given.values()):
        batches = list(batches)
        total = sum(n_rows(batch.inputs) for batch in batches)
        for what, values in given.items():
            if values is not None and len(values) != total:
                raise LookalikeError(f"there are {total} inputs and {len(values)} {what}")
    first = 0
    for batch in batches:
        rows = n_rows(batch.inputs)
        known = batch.labels if batch.class_names == model.class_names else None
        of_batch = known if labels is None else [int(label) for label in labels[first : first + rows]]
        called = batch.names if names is None else list(names[first : first + rows])
        for start in range(0, rows, batch_size):
            part = slice(start, start + batch_size)
            yield InputBatch(
                take_rows(batch.inputs, part),
                None if called is None else called[part],
                None if of_batch is None else of_batch[part],
            )
        first += rows


def _with_maps(
    model: PrototypeModel, inputs: Tensor, explanations: list[Explanation], composite: str | Composite, rule: PrpRule
) -> list[Explanation]:
    """Adds relevance maps to explanations."""
    chosen = torch.tensor([[near.prototype for near in one.likenesses] for one in explanations])
    with step("maps on the inputs"):
        likeness_maps = prp(model, inputs, chosen, composite, rule=rule)
        on_input = likeness_maps.pixels.float().cpu().numpy()
    cautions = [likeness_maps.cautions[row] for row in range(len(explanations))]
    stabilities: list[float | None] = [None] * len(explanations)
    if rule == "share":
        with step("stability of the maps"):
            stabilities = prp_stability(model, inputs, chosen, likeness_maps.pixels, composite, rule).tolist()
    used = chosen.unique()
    pictures = model.prototype_inputs()
    on_prototype: dict[int, np.ndarray] = {}
    if pictures is not None:
        with step("maps on the prototypes' images"):
            shown = pictures[used.to(pictures.device)]
            maps = prp(model, shown, used[:, None], composite, rule=rule).pixels[:, 0].float().cpu().numpy()
        on_prototype = dict(zip(used.tolist(), maps, strict=True))
    black_box: list[np.ndarray | None] = [None] * len(explanations)
    if isinstance(model.encoder, Encoder) and model.encoder.outputs is not None:
        with step("maps of the black box"):
            try:
                found = lrp(model.encoder.model, inputs, composite=composite, output=model.encoder.outputs)
                black_box = list(found.pixels.float().cpu().numpy())
                cautions = [one or other for one, other in zip(cautions, found.cautions, strict=True)]
            except RelevanceError as error:
                cautions = [one or f"there is no map of the black box: {error}" for one in cautions]
    return [
        replace(
            one,
            black_box_heat_map=black_box[row],
            caution=cautions[row],
            rule=rule,
            map_stability=stabilities[row],
            likenesses=[
                replace(near, heat_map=on_input[row, rank], prototype_heat_map=on_prototype.get(near.prototype))
                for rank, near in enumerate(one.likenesses)
            ],
        )
        for row, one in enumerate(explanations)
    ]


@torch.no_grad()
def _explain_batch(
    model: PrototypeModel, inputs: Any, n_nearest: int, labels: list[int] | None, names: list[str] | None, first: int
) -> list[Explanation]:
    embeddings = model.encoder(place(inputs, model.device, dtype_of(model.encoder)))
    check_finite_rows(embeddings.isfinite().all(1), names, first)
    similarities = model.similarities_of(embeddings)
    p, owners = model.prototypes, model.prototypes.labels
    scores = model.classifier(similarities, owners, model.n_classes)
    probabilities = model.classifier.probabilities(similarities, owners, model.n_classes).cpu().numpy()
    space = model.similarity.project
    distances = euclidean_distances(space(embeddings), space(p.vectors))
    percentiles = p.percentile_of(distances).cpu()
    farthest = p.quantiles[:, -1].cpu()
    predictions = scores.argmax(1).tolist()
    order = similarities.argsort(dim=1, descending=True, stable=True)[:, :n_nearest].tolist()
    similarities, distances = similarities.cpu(), distances.cpu()
    pixels = model.to_pixels(inputs) if isinstance(inputs, Tensor) else None

    def likeness(row: int, j: int) -> Likeness:
        return Likeness(
            prototype=j,
            label=int(owners[j]),
            class_name=p.class_of(j),
            similarity=float(similarities[row, j]),
            distance=float(distances[row, j]),
            percentile=float(percentiles[row, j]),
            farthest=float(farthest[j]),
            count=int(p.counts[j]),
            purity=float(p.purity[j]),
            nearest=[index for index in p.nearest[j].tolist() if index >= 0],
            image=None if model.images is None else model.images[j, 0].numpy(),
        )

    return [
        Explanation(
            prediction=predictions[row],
            class_name=model.class_names[predictions[row]],
            probability=float(probabilities[row, predictions[row]]),
            probabilities=probabilities[row],
            likenesses=[likeness(row, j) for j in order[row]],
            image=None if pixels is None else pixels[row].numpy(),
            name=None if names is None else names[row],
            label=None if labels is None else labels[row],
            true_name=None if labels is None else model.class_names[labels[row]],
        )
        for row in range(len(predictions))
    ]
