"""Which rule should PRP start by? Stability, deletion, agreement with the black box, relevance on the object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from lookalike.data import DataBundle
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, named
from lookalike.experiments.pictures import spread_images
from lookalike.experiments.side_by_side import AUROC
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.metrics import Noise, deletion, insertion, relevance_ordering
from lookalike.metrics.localisation import relevance_mass
from lookalike.metrics.map_stability import map_stability
from lookalike.metrics.maps import mean_of_finite
from lookalike.model import PrototypeModel
from lookalike.relevance import PRP_RULES, PrpRule, lrp, prp
from lookalike.relevance.similarity_layer import channel_relevance
from lookalike.relevance.stability import correlations_of

_RADII = {"stability": 0.01, "stability_5": 0.05}  # of the inputs' value range
_DRAWS = 5
_CONTRAST = 0.1  # of the value range: how much an object's pixel differs from the background
_PLAIN = 0.9  # share of an image's edge that has the background's value, where the background is plain

_STABILITY = Column("stability", "stability, noise 1%")
_DELETION = Column("deletion", "deletion")
_AGREEMENT = Column("agreement", "agreement with LRP")
_INSIDE = Column("inside", "inside the object")
_COLUMNS = (
    _STABILITY,
    Column("stability_5", "noise 5%"),
    _DELETION,
    Column("insertion", "insertion"),
    AUROC,
    _AGREEMENT,
    _INSIDE,
    Column("sibling", "like a sibling's map"),
    Column("rival", "like the rival's map"),
    Column("largest_channel", "largest channel"),
)
_HIGHER = {_STABILITY: True, _DELETION: False, _AGREEMENT: True, _INSIDE: True}  # what decides, and its direction
_LRP, _RANDOM = "black box's LRP", "random order"

_REMARKS = (
    "*stability*: correlation between the maps of an image and of the image with uniform noise of ±1% (±5%) of the "
    "value range, for the same prototype, five draws. *deletion*, *insertion*: area under the predicted class's "
    "probability while the most relevant pixels turn black, or come back; of deletion lower is better. *AUROC*: the "
    "paper's, least relevant pixels first, white noise. *agreement with LRP*: correlation with the black box's LRP map "
    "of its predicted class's score, signs included. *inside the object*: share of the absolute relevance on pixels "
    "that differ from the background by more than 10%. *like a sibling's map*: correlation with the map of the next "
    "nearest prototype of the same class; *like the rival's map*: of the nearest of another class, whose map by "
    "`neuralized` is the mirror image where each is the other's rival. *largest channel*: share of the "
    "absolute relevance that starts in one channel of the embedding.",
    "All rows but the last two are PRP of the nearest prototype. Deletion, insertion and AUROC follow KMEx's own "
    "probability in all rows, so that they compare.",
)


@dataclass(frozen=True)
class _Images:
    """Test images, and what their maps are compared with.

    Attributes:
        x: [N, C, H, W].
        prototypes: The nearest prototype [N].
        siblings: The next nearest prototype of the same class [N], where a class has several.
        rivals: The nearest prototype of another class [N].
        object_masks: Which pixels belong to the object [N, H, W].
        black_box_maps: LRP of the black box's predicted class [N, H, W].
    """

    x: Tensor
    prototypes: Tensor
    siblings: Tensor
    rivals: Tensor
    object_masks: Tensor
    black_box_maps: Tensor


def run_prp_rules(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures the maps of every rule; says which rule wins most of the comparisons that decide."""
    rows: list[Row] = []
    for dataset, network in plan.places():
        found: dict[str, list[Record]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            key = bench.key(subject, n_images=bench.n_images, radii=_RADII, draws=_DRAWS, rules=list(PRP_RULES))
            record = cells.get(f"prp-rules-{subject.name}", key, _measure, bench, subject)
            for label, figures in (record or {}).items():
                found.setdefault(label, []).append(figures)
        rows += [Row((*named(dataset, network), label), gather(figures, _COLUMNS)) for label, figures in found.items()]
    ranks = mean_ranks(rows)
    remarks = list(_REMARKS)
    if ranks:
        listed = ", ".join(f"`{rule}` {rank:.2f}" for rule, rank in ranks.items())
        remarks.append(
            f"Mean rank over stability (noise 1%), deletion, agreement and relevance inside the object, and over the "
            f"data sets, 1 is best: {listed}."
        )
    return Findings(("data", "network", "maps"), _COLUMNS, rows, {"mean_ranks": ranks}, remarks)


def mean_ranks(rows: Sequence[Row]) -> dict[str, float]:
    """Returns each rule's mean rank over data sets and deciding figures, the best first; 1 is best.

    Example:
        >>> values = [("share", 0.8, 0.3), ("gradient", 0.9, 0.2), ("neuralized", 0.99, 0.1)]
        >>> rows = [Row(("digits", "cnn", rule), {"stability": [s], "deletion": [d]}) for rule, s, d in values]
        >>> mean_ranks(rows)
        {'neuralized': 1.0, 'gradient': 2.0, 'share': 3.0}
    """
    ranks: dict[str, list[int]] = {}
    for place in dict.fromkeys(row.names[:2] for row in rows):
        rules = [row for row in rows if row.names[:2] == place and row.names[2] in PRP_RULES]
        for column, higher in _HIGHER.items():
            measured = [(fmean(row.values[column.name]), row.names[2]) for row in rules if row.values.get(column.name)]
            for rank, (_, rule) in enumerate(sorted(measured, reverse=higher), 1):
                ranks.setdefault(rule, []).append(rank)
    means = {rule: fmean(each) for rule, each in ranks.items()}
    return dict(sorted(means.items(), key=lambda item: item[1]))


def _measure(bench: Workbench, subject: Subject) -> Record:
    bench.say(f"comparing PRP rules on {subject.name}")
    model, box = bench.model(subject), bench.black_box(subject).model
    images = _images(model, box, spread_images(bench, subject, bench.n_images))
    record: Record = {}
    for rule in PRP_RULES:

        def explain(x: Tensor, rows: slice, rule: PrpRule = rule) -> Tensor:
            return prp(model, x, images.prototypes[rows, None], rule=rule).pixels[:, 0]

        maps = explain(images.x, slice(None))
        other_maps = prp(model, images.x, torch.stack([images.siblings, images.rivals], 1), rule=rule).pixels
        starts = channel_relevance(model, model.embed(images.x), images.prototypes, rule).abs()
        record[rule] = {
            **_figures(model, images, maps, explain, subject.seed),
            "agreement": _correlation(maps, images.black_box_maps),
            "sibling": _correlation(maps, other_maps[:, 0]),
            "rival": _correlation(maps, other_maps[:, 1]),
            "largest_channel": float((starts.amax(1) / starts.sum(1)).mean()),
        }
    predicted = box(images.x).argmax(1)

    def explain_box(x: Tensor, rows: slice) -> Tensor:
        return lrp(box, x, predicted[rows]).pixels

    record[_LRP] = _figures(model, images, images.black_box_maps, explain_box, subject.seed)
    record[_RANDOM] = _order_figures(model, images.x, None, subject.seed)
    return record


@torch.no_grad()
def _images(model: PrototypeModel, box: torch.nn.Module, x: Tensor) -> _Images:
    similarities, owners = model.similarities(x), model.prototypes.labels
    prototypes = similarities.argmax(1)
    own_class = owners[None] == owners[prototypes][:, None]
    rivals = similarities.masked_fill(own_class, -torch.inf).argmax(1)
    others = similarities.scatter(1, prototypes[:, None], -torch.inf)
    siblings = others.masked_fill(~own_class, -torch.inf).argmax(1)
    pixels = model.to_pixels(x)
    assert pixels is not None  # noqa: S101 - data sets of images alone are suited
    return _Images(x, prototypes, siblings, rivals, foreground(pixels), lrp(box, x).pixels)


def _figures(
    model: PrototypeModel, images: _Images, maps: Tensor, explain: Callable[[Tensor, slice], Tensor], seed: int
) -> Record:
    """Returns the figures that every kind of map has."""
    low, high = _range(model)
    stable = {
        name: map_stability(
            explain, images.x, maps, radius=share * (high - low), n_samples=_DRAWS, seed=seed
        ).correlation
        for name, share in _RADII.items()
    }
    inside = mean_of_finite(relevance_mass(maps, images.object_masks))
    return {**stable, **_order_figures(model, images.x, maps, seed), "inside": inside}


def _order_figures(model: PrototypeModel, x: Tensor, maps: Tensor | None, seed: int) -> Record:
    """Returns what depends on the order of the pixels alone; in random order without maps."""
    low, high = _range(model)

    def probabilities(inputs: Tensor) -> Tensor:
        return model.probabilities_of(model.encoder(inputs))

    return {
        "deletion": deletion(probabilities, x, maps, baseline=low, seed=seed).area,
        "insertion": insertion(probabilities, x, maps, baseline=low, seed=seed).area,
        "auroc": relevance_ordering(probabilities, x, maps, Noise(low, high, _DRAWS, seed)).auroc,
    }


def _range(model: PrototypeModel) -> tuple[Tensor, Tensor]:
    assert model.value_range is not None  # noqa: S101 - data sets of images alone are suited
    low, high = model.value_range.unbind(0)
    return low, high


def _correlation(maps: Tensor, others: Tensor) -> float:
    return mean_of_finite(correlations_of(maps.flatten(1).double(), others.flatten(1).double()))


def foreground(pixels: Tensor) -> Tensor:
    """Returns which pixels belong to an object on a plain background [N, H, W], of uint8 images [N, H, W, C].

    The background is the median of an image's edge; an object's pixel differs from it by more than 10% of the range.
    """
    grey = pixels.float().mean(3) / 255
    return (grey - _edge(grey).median(1).values[:, None, None]).abs() > _CONTRAST


def _edge(grey: Tensor) -> Tensor:
    """Returns the pixels at the edge of images [N, H, W]: [N, E]."""
    return torch.cat([grey[:, 0], grey[:, -1], grey[:, 1:-1, 0], grey[:, 1:-1, -1]], 1)


def _without_object(data: DataBundle) -> str | None:
    """Says why an object's pixels are not known, or None where images have a plain background."""
    rows = np.linspace(0, len(data.test) - 1, min(50, len(data.test))).astype(int)
    images = torch.stack([torch.as_tensor(data.test[int(row)][0]) for row in rows])
    if images.ndim != 4:
        return f"{data.name!r} has no images"
    grey = images.float().mean(1)
    low, high = grey.amin(), grey.amax()
    edge = _edge((grey - low) / (high - low).clamp_min(1e-12))
    plain = ((edge - edge.median(1, keepdim=True).values).abs() <= _CONTRAST).float().mean()
    if float(plain) >= _PLAIN:
        return None
    return f"{data.name!r} has no plain background, so which pixels belong to the object is not known"


EXPERIMENTS.register("prp-rules")(
    Experiment("Rules for prototypical relevance", "open question", run_prp_rules, lacking=_without_object)
)
