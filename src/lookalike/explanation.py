"""This looks like that: why a model predicts what it predicts (paper section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, get_type_hints

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.display import as_html, png_of
from lookalike._core.errors import LookalikeError
from lookalike._core.names import visible
from lookalike._core.profiling import step
from lookalike._core.untouched import keeps_torch_settings
from lookalike._core.wording import why_unfamiliar
from lookalike.data import InputBatch
from lookalike.encoder.finite import check_finite_rows
from lookalike.model import PrototypeModel
from lookalike.model.class_labels import numbers_of
from lookalike.model.doubting import InputDoubt, input_doubts
from lookalike.model.labelled import labelled_batches
from lookalike.model.likeness import Likeness, Likenesses
from lookalike.model.original import OriginalAnswer, OriginalClassifier, embed_and_score, original_answer
from lookalike.model.prototypes import ENOUGH_SAMPLES, ROUNDING, FamiliarRange
from lookalike.parts import ExplainedParts, explain_parts
from lookalike.plots import plot_likeness
from lookalike.plots.likeness import LikenessMaps, frame_parts
from lookalike.plots.tiles import shorten
from lookalike.relevance import COMPOSITES, Composite, PrpRule, prp_rule, prp_stability
from lookalike.relevance.explained import maps_of_contrasts, maps_on_inputs, maps_on_prototypes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Explanation:
    """A prediction and the prototypes that it rests on.

    Attributes:
        prediction: The predicted class.
        class_name: Name of the predicted class.
        probability: Probability of the predicted class.
        probabilities: Probabilities of all classes [K].
        likenesses: The nearest prototypes, the most similar first.
        image: The input as the network sees it, uint8 [H, W, C]; None if it is not an image.
        name: Name of the input, e.g. its file.
        label: The true class, if it is known.
        true_name: Name of the true class.
        original: What the original classifier says; None if there is none, or nobody can tell which of its outputs is
            which class.
        black_box_heat_map: Relevance of the input's pixels for the black box's prediction [H, W]; None if relevance was
            not requested.
        caution: Why the heat-maps should not be relied on; None if they can be.
        contrast: The most similar prototype of the true class, if the prediction is wrong; else of the class that the
            original classifier predicts, if it disagrees; else None. It may be one of the likenesses.
        rule: Rule by which relevance started at the similarity layer; None if relevance was not requested.
        map_stability: Correlation of the heat-maps with those of the input with 1% noise. Measured only for the
            unstable rule ``share``, else None.
        doubt: Which classes it may have, and how unfamiliar it is; None if the model is not calibrated.
        parts: Which parts decide, and which look like which; None if parts were not requested.
        reason: How the prediction follows from the nearest prototype, in words that the class's name follows.
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
    original: OriginalAnswer | None = None
    contrast: Likeness | None = None
    black_box_heat_map: np.ndarray | None = None
    caution: str | None = None
    rule: PrpRule | None = None
    map_stability: float | None = None
    doubt: InputDoubt | None = None
    parts: ExplainedParts | None = None
    reason: str = "so the prediction is"

    @property
    def correct(self) -> bool | None:
        """Whether the prediction is correct; None if the true class is not known."""
        return None if self.label is None else self.label == self.prediction

    @property
    def unfamiliar(self) -> bool | None:
        """Whether the input is farther from its nearest prototype than every training sample behind that prototype.

        If there are fewer than ten, those of its class count, and if they too are fewer, all. A calibrated model tests
        the novelty score instead, at a known rate of false alarms; None if it had too few validation images for this.
        """
        first = self.likenesses[0]
        if self.doubt is not None:
            return self.doubt.unfamiliar
        return first.scope_count >= ENOUGH_SAMPLES and first.distance > first.familiar_up_to * (1 + ROUNDING)

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
            "doubt": None if self.doubt is None else self.doubt.to_dict(),
            "original": None if self.original is None else self.original.to_dict(),
            "caution": self.caution,
            "rule": self.rule,
            "map_stability": self.map_stability,
            "nearest": [likeness.to_dict() for likeness in self.likenesses],
            "contrast": None if self.contrast is None else self.contrast.to_dict(),
            "parts": None if self.parts is None else self.parts.to_dict(),
        }

    def sentence(self) -> str:
        """Returns the explanation as a sentence."""
        first = self.likenesses[0]
        subject = "A part of this" if first.sample == "patch" else "This"
        said = (
            f"{subject} looks like prototype {first.prototype} of class '{visible(first.class_name)}'{first.called()}"
            f"{first.shown_by()} "
            f"({self.nearness_of(first)}), "
            f"{self.reason} '{visible(self.class_name)}' ({self.probability:.0%})."
        )
        if self.unfamiliar:
            why = why_unfamiliar(is_calibrated=self.doubt is not None, of_patches=first.sample == "patch")
            said += f" It is unfamiliar: {why}."
        said = " ".join([said, *(part.sentence() for part in (self.doubt, self.original) if part is not None)])
        if self.contrast is not None:
            said += (
                f" The nearest prototype of class '{visible(self.contrast.class_name)}' is number "
                f"{self.contrast.prototype}{self.contrast.called()}."
            )
        return " ".join([said, *(() if self.parts is None else self.parts.sentences())])

    @property
    def shown(self) -> list[Likeness]:
        """The likenesses, and the contrast if it is not one of them."""
        numbers = {likeness.prototype for likeness in self.likenesses}
        is_new = self.contrast is not None and self.contrast.prototype not in numbers
        return [*self.likenesses, self.contrast] if self.contrast is not None and is_new else self.likenesses

    def __repr__(self) -> str:
        near = ", ".join(
            f"no. {near.prototype} of {near.class_name!r}" + ("" if near.name is None else f" ({near.name!r})")
            for near in self.likenesses
        )
        name = "" if self.name is None else f"{self.name!r}: "
        unfamiliar = ", unfamiliar" if self.unfamiliar else ""
        return f"Explanation({name}{self.class_name!r} {self.probability:.0%}{unfamiliar}, looks like {near})"

    def _repr_html_(self) -> str:
        """Shows the input beside its prototypes in a notebook, or the sentence alone."""
        picture = None if self.image is None else png_of(self.plot())
        return as_html(self.sentence(), picture=picture)

    def nearness_of(self, near: Likeness) -> str:
        """Says how far away a prototype is, in numbers of training images; the same words wherever it is shown."""
        first = self.likenesses[0]
        if near.prototype != first.prototype or self.doubt is not None or first.scope == "prototype":
            return near.nearness()
        if self.unfamiliar:
            whose = f"of its class '{visible(first.class_name)}'" if first.scope == "class" else "of all classes"
            return f"farther from it than any of {first.scope_count:,} training {first.samples} {whose} from theirs"
        if not first.is_beyond_its_own:
            return near.nearness()
        # else it would contradict its own text: it is farther than all behind its prototype, and not unfamiliar
        others = "its class" if first.scope == "class" else "all classes"
        return f"{first.nearness()}, but not than those of {others} from theirs"

    def map_sentence(self) -> str | None:
        """Returns a sentence on the stability of the heat-maps; None unless it was measured, for the rule ``share``."""
        if self.map_stability is None:
            return None
        return (
            f"heat-maps by rule {self.rule!r} change with small noise: noise of 1% leaves a correlation of "
            f"{self.map_stability:.2f}"
        )

    def _maps(self, raw: bool) -> LikenessMaps | None:
        """Returns the heat-maps to draw; None unless every likeness has one."""
        on_input = [likeness.heat_map for likeness in self.shown if likeness.heat_map is not None]
        if len(on_input) < len(self.shown):
            return None
        on_prototype = [likeness.prototype_heat_map for likeness in self.shown]
        return LikenessMaps(on_input, on_prototype, self.black_box_heat_map, raw)

    def plot(self, ax: "Axes | None" = None, *, raw: bool = False) -> "Axes":
        """Draws the input beside the training images of its nearest prototypes; a wrong prediction is framed in red.

        Args:
            ax: Axes to draw on; None makes a figure.
            raw: Draw heat-maps pixel by pixel; otherwise those of 64 pixels and more are smoothed.

        Raises:
            LookalikeError: If the input is not an image.
        """
        if self.image is None:
            raise LookalikeError("there is nothing to draw: the input is not an image, or its value range is not known")
        verdict = f"{shorten(self.class_name, 16)} · {self.probability:.0%}"
        if self.correct is False and self.true_name is not None:
            verdict += f"\nwrong: it is {shorten(self.true_name, 12)}"
        if self.unfamiliar:
            verdict += " · unfamiliar" if "\n" in verdict else "\nunfamiliar"
        if self.map_stability is not None:
            verdict += f"\nmaps: {self.rule}, stability {self.map_stability:.2f}"
        captions = [likeness.caption() for likeness in self.shown]
        prototypes = [likeness.image for likeness in self.shown]
        ax = plot_likeness(
            self.image,
            prototypes,
            caption=verdict,
            captions=captions,
            note=f"%: of the training\n{self.likenesses[0].samples} behind\nthe prototype"
            if any("%" in caption for caption in captions)
            else "",
            wrong=self.correct is False,
            heat_maps=self._maps(raw),
            ax=ax,
        )
        parts = [(likeness.part, likeness.prototype_part) for likeness in self.shown]
        frame_parts(ax, self.image, prototypes, parts)
        return ax


class ExplainOptions(TypedDict, total=False):
    """The keyword options of ``explain`` and of ``Explainer``."""

    n_nearest: int
    relevance: bool
    parts: bool
    composite: str | Composite
    rule: PrpRule | None


@keeps_torch_settings
def explain(
    model: PrototypeModel,
    inputs: Any,
    *,
    labels: Sequence[int] | Sequence[str] | np.ndarray | Tensor | None = None,
    names: Sequence[str] | None = None,
    batch_size: int = 256,
    **options: Unpack[ExplainOptions],
) -> list[Explanation]:
    """Explains predictions by the prototypes that the inputs look most like.

    Args:
        model: A prototype model.
        inputs: Inputs of the network [N, C, H, W], a single row of them, image files, a folder, PIL images, pixels, or
            a ``Dataset`` or ``DataLoader``; see ``lookalike.data.read_inputs``.
        labels: True classes [N], by number or by name, to tell correct predictions from wrong ones.
        names: Names of the inputs.
        batch_size: Largest number of rows that pass through the encoder at once.
        **options: By name: ``n_nearest``, the number of prototypes to show per input, 3 by default.
            ``relevance=True`` also computes heat-maps: which pixels of the input, and of the prototype's nearest
            training image, make each likeness, and which pixels the black box's prediction depends on; ``composite``
            gives the rules of relevance propagation, ``"epsilon-plus-flat"`` by default, and ``rule`` the one by which
            relevance starts at the similarity layer, see ``prp``. With ``"share"`` [ref] each explanation reports the
            stability of its heat-maps. ``parts=True`` also finds which parts make it this class rather than the next,
            and which look like which part of the prototype's image; see ``lookalike.parts.explain_parts``.

    Returns:
        One explanation per input.

    Raises:
        LookalikeError: If labels or names are not one per input, ``n_nearest`` is below 1, an input's embedding is
            not finite, the rule does not fit the model, or parts do not add up to its decision.
    """
    checks.option_names("explain", options, get_type_hints(ExplainOptions))
    explainer = Explainer(model, **options)
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    if labels is not None:
        labels = numbers_of(labels, model.class_names)
    if names is not None:
        names = checks.names("names", names)
    explanations: list[Explanation] = []
    for batch in labelled_batches(model, inputs, labels, names, batch_size):
        explanations += explainer.explain(batch, len(explanations))
    return explanations


class Explainer:
    """Explains inputs batch by batch, and keeps what batches share: the heat-maps on the prototypes' images.

    Args:
        model: A prototype model.
        n_nearest: Number of prototypes to show per input.
        relevance: Also compute heat-maps.
        parts: Also explain by parts.
        composite: The rules of relevance propagation.
        rule: Rule by which relevance starts at the similarity layer; None takes the default.
    """

    def __init__(
        self,
        model: PrototypeModel,
        *,
        n_nearest: int = 3,
        relevance: bool = False,
        parts: bool = False,
        composite: str | Composite = "epsilon-plus-flat",
        rule: PrpRule | None = None,
    ) -> None:
        self.model = checks.instance("model", model, PrototypeModel, "a PrototypeModel")
        self.n_nearest = checks.whole_number("n_nearest", n_nearest, 1)
        self.relevance = checks.flag("relevance", relevance)
        self.parts = checks.flag("parts", parts)
        if not isinstance(composite, Composite):
            _ = COMPOSITES[composite]
        self.composite = composite
        self.rule = prp_rule(model, rule)
        self._original = OriginalClassifier.of(model)
        self._familiar = model.prototypes.familiar_range()
        self._maps_by_prototype: dict[int, np.ndarray] = {}

    @keeps_torch_settings
    def explain(self, batch: InputBatch, first_row: int = 0, *, embeddings: Tensor | None = None) -> list[Explanation]:
        """Explains the inputs of one batch.

        Args:
            batch: The inputs.
            first_row: Number of its first input, for messages.
            embeddings: Their embeddings [n, D], if decisions on them are shown elsewhere: in a batch of another size a
                network computes slightly other ones, by which a close decision can be another.
        """
        if self.relevance and not (isinstance(batch.inputs, Tensor) and batch.inputs.is_floating_point()):
            raise LookalikeError(
                "heat-maps are of one tensor of numbers, and the inputs are several, or are no floating-point numbers: "
                "explain them without relevance"
            )
        if isinstance(batch.inputs, Tensor):  # copied to the device once, for predictions, maps and pixels
            batch = replace(batch, inputs=batch.inputs.to(self.model.device))
        explanations, outputs = _explain_batch(
            self.model, self._original, self._familiar, batch, self.n_nearest, first_row, embeddings
        )
        if self.parts:
            target = [explanation.prediction for explanation in explanations]
            nearest = [explanation.likenesses[0].prototype for explanation in explanations]
            with step("parts"):
                explained_parts = explain_parts(self.model, batch.inputs, target=target, nearest=nearest)
            pairs = zip(explanations, explained_parts, strict=True)
            explanations = [replace(explanation, parts=parts) for explanation, parts in pairs]
        if not self.relevance:
            return explanations
        settings = (self.composite, self.rule, self._maps_by_prototype)
        return _with_maps(self.model, batch.inputs, outputs, explanations, *settings)

    @keeps_torch_settings
    def maps_on_prototypes(self) -> dict[int, np.ndarray]:
        """Returns the heat-map [H, W] on each prototype's nearest training image; empty if the model has no images."""
        maps = self._maps_by_prototype
        unseen = torch.tensor([j for j in range(len(self.model.prototypes)) if j not in maps], dtype=torch.int64)
        maps.update(maps_on_prototypes(self.model, unseen, self.composite, self.rule))
        return dict(sorted(maps.items()))


def _with_maps(
    model: PrototypeModel,
    inputs: Tensor,
    outputs: Tensor | None,
    explanations: list[Explanation],
    composite: str | Composite,
    rule: PrpRule,
    maps_by_prototype: dict[int, np.ndarray],
) -> list[Explanation]:
    """Adds relevance maps to explanations, and those on prototypes' images to the maps of earlier batches."""
    prototypes = torch.tensor([[near.prototype for near in explanation.likenesses] for explanation in explanations])
    n_likenesses = prototypes.shape[1]
    contrasts = {row: e.shown[-1].prototype for row, e in enumerate(explanations) if len(e.shown) > n_likenesses}
    # One more map of all inputs takes a third of the time of a pass of its own for the rows with a contrast.
    adds_contrasts = 3 * len(contrasts) >= len(explanations)
    if adds_contrasts:
        others = torch.tensor([[contrasts.get(row, int(first))] for row, first in enumerate(prototypes[:, 0])])
        prototypes = torch.cat([prototypes, others], 1)
    maps = maps_on_inputs(model, inputs, prototypes, composite, rule, outputs)
    stabilities: list[float | None] = [None] * len(explanations)
    if rule == "share":
        with step("stability of the maps"):
            nearest, likenesses = prototypes[:, :n_likenesses], maps.likenesses[:, :n_likenesses]
            stabilities = prp_stability(model, inputs, nearest, likenesses, composite, rule).tolist()
    on_input = maps.likenesses.float().cpu().numpy()
    maps_by_row = [dict(zip(prototypes[row].tolist(), on_input[row], strict=True)) for row in range(len(explanations))]
    if contrasts and not adds_contrasts:
        for row, heat_map in maps_of_contrasts(model, inputs, contrasts, composite, rule).items():
            maps_by_row[row][contrasts[row]] = heat_map
    numbers = {near.prototype for explanation in explanations for near in explanation.shown}
    unseen = torch.tensor(sorted(numbers - set(maps_by_prototype)), dtype=torch.int64)
    maps_by_prototype.update(maps_on_prototypes(model, unseen, composite, rule))

    def mapped(row: int, near: Likeness) -> Likeness:
        heat_map, on_prototype = maps_by_row[row][near.prototype], maps_by_prototype.get(near.prototype)
        return replace(near, heat_map=heat_map, prototype_heat_map=on_prototype)

    return [
        replace(
            explanation,
            black_box_heat_map=maps.black_box[row],
            caution=maps.cautions[row],
            rule=rule,
            map_stability=stabilities[row],
            likenesses=[mapped(row, near) for near in explanation.likenesses],
            contrast=None if explanation.contrast is None else mapped(row, explanation.contrast),
        )
        for row, explanation in enumerate(explanations)
    ]


@torch.no_grad()
def _explain_batch(
    model: PrototypeModel,
    original: OriginalClassifier | None,
    familiar: FamiliarRange,
    batch: InputBatch,
    n_nearest: int,
    first_row: int,
    known: Tensor | None,
) -> tuple[list[Explanation], Tensor | None]:
    """Explains one batch of inputs, without heat-maps; returns the network's outputs too, for ``maps_on_inputs``."""
    inputs, names, labels = batch.inputs, batch.names, batch.labels
    computed, scores = embed_and_score(model, inputs)
    embeddings = computed if known is None else known.to(computed)
    answers = None if original is None or scores is None else original.answers(scores)
    check_finite_rows(embeddings.isfinite().all(1), names, first_row)
    near = Likenesses.of(model, familiar, embeddings)
    probabilities = model.probabilities_of(embeddings).cpu().numpy()
    predictions = model.scores_of(embeddings).argmax(1).tolist()
    order = near.order[:, :n_nearest].tolist()
    doubts = input_doubts(model, embeddings)
    pixels = model.to_pixels(inputs) if isinstance(inputs, Tensor) else None

    def contrast(row: int, answer: OriginalAnswer | None) -> Likeness | None:
        other = None if labels is None or labels[row] == predictions[row] else labels[row]
        if other is None and answer is not None and not answer.agrees and answer.class_name in model.class_names:
            other = model.class_names.index(answer.class_name)
        prototype = None if other is None else near.nearest_of_class(row, other)
        return None if prototype is None else near.likeness(row, prototype)

    originals = [
        None if answers is None else original_answer(model, answers, row, predictions[row])
        for row in range(len(predictions))
    ]
    explanations = [
        Explanation(
            prediction=predictions[row],
            class_name=model.class_names[predictions[row]],
            probability=float(probabilities[row, predictions[row]]),
            probabilities=probabilities[row],
            likenesses=[near.likeness(row, prototype) for prototype in order[row]],
            image=None if pixels is None else pixels[row].numpy(),
            name=None if names is None else names[row],
            label=None if labels is None else labels[row],
            true_name=None if labels is None else model.class_names[labels[row]],
            original=originals[row],
            contrast=contrast(row, originals[row]),
            doubt=None if doubts is None else doubts[row],
            reason=model.classifier.reason(is_nearest=near.facts.labels[order[row][0]] == predictions[row]),
        )
        for row in range(len(predictions))
    ]
    return explanations, None if scores is None else torch.cat([computed, scores], 1)
