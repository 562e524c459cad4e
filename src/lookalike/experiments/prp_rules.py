"""Which rule should PRP start with? Stability, deletion, agreement with the black box, relevance on the object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from lookalike.data import DataBundle
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.pictures import evenly_spaced_images
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

_NOISE_RADII = {"stability": 0.01, "stability_5": 0.05}  # of the inputs' value range
_DRAWS = 5  # noisy copies of an image
_CONTRAST = 0.1  # share of the value range by which an object's pixel differs from the background
_PLAIN_EDGE = 0.9  # a background is plain if this share of the images' edges has its value

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
_HIGHER_IS_BETTER = {_STABILITY: True, _DELETION: False, _AGREEMENT: True, _INSIDE: True}  # figures that rank the rules
_LRP, _RANDOM = "black box's LRP", "random order"

_REMARKS = (
    "*stability*: correlation between the maps of an image and of the image with uniform noise of ±1% (±5%) of the "
    "value range, for the same prototype, five draws. *deletion*, *insertion*: area under the predicted class's "
    "probability while the most relevant pixels turn black, or come back; lower deletion is better. *AUROC*: the "
    "paper's, least relevant pixels first, white noise. *agreement with LRP*: correlation with the black box's LRP map "
    "of its predicted class's score, signs included. *inside the object*: share of the absolute relevance on pixels "
    "that differ from the background by more than 10%. *like a sibling's map*: correlation with the map of the second "
    "nearest prototype of the same class; *like the rival's map*: with the map of the nearest prototype of another "
    "class, which by `neuralized` is the mirror image if each is the other's rival. *largest channel*: share of the "
    "absolute relevance that starts in one channel of the embedding.",
    "All rows but the last two are PRP of the nearest prototype. Deletion, insertion and AUROC follow KMEx's own "
    "probability in all rows, so that they can be compared.",
)


@dataclass(frozen=True)
class _Images:
    """Test images, their prototypes, and the maps and masks that relevance maps are compared with.

    Attributes:
        x: Images [N, C, H, W].
        prototypes: Index of the nearest prototype [N].
        siblings: Index of the second nearest prototype of the same class [N]; the nearest where the class has one.
        rivals: Index of the nearest prototype of another class [N].
        object_masks: True for pixels that belong to the object [N, H, W].
        black_box_maps: LRP maps of the black box's predicted class [N, H, W].
    """

    x: Tensor
    prototypes: Tensor
    siblings: Tensor
    rivals: Tensor
    object_masks: Tensor
    black_box_maps: Tensor


def run_prp_rules(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures the maps of every rule, and ranks the rules by their deciding figures."""
    rows: list[Row] = []
    for dataset, network in plan.places():
        records_by_map: dict[str, list[Record]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            key = bench.key(subject, n_images=bench.n_images, radii=_NOISE_RADII, draws=_DRAWS, rules=list(PRP_RULES))
            record = cells.get(f"prp-rules-{subject.name}", key, _measure, bench, subject)
            for label, figures in (record or {}).items():
                records_by_map.setdefault(label, []).append(figures)
        rows += [
            Row((*table_names(dataset, network), label), gather(figures, _COLUMNS))
            for label, figures in records_by_map.items()
        ]
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
    """Returns each rule's mean rank over data sets and deciding figures, best rule first; rank 1 is best.

    Example:
        >>> values = [("share", 0.8, 0.3), ("gradient", 0.9, 0.2), ("neuralized", 0.99, 0.1)]
        >>> rows = [Row(("digits", "cnn", rule), {"stability": [s], "deletion": [d]}) for rule, s, d in values]
        >>> mean_ranks(rows)
        {'neuralized': 1.0, 'gradient': 2.0, 'share': 3.0}
    """
    ranks: dict[str, list[int]] = {}
    for setting in dict.fromkeys(row.names[:2] for row in rows):
        rules = [row for row in rows if row.names[:2] == setting and row.names[2] in PRP_RULES]
        for column, higher in _HIGHER_IS_BETTER.items():
            measured = [(fmean(row.values[column.name]), row.names[2]) for row in rules if row.values.get(column.name)]
            for rank, (_, rule) in enumerate(sorted(measured, reverse=higher), 1):
                ranks.setdefault(rule, []).append(rank)
    means = {rule: fmean(ranks_of_rule) for rule, ranks_of_rule in ranks.items()}
    return dict(sorted(means.items(), key=lambda item: item[1]))


def _measure(bench: Workbench, subject: Subject) -> Record:
    """Measures the maps of each PRP rule, of the black box's LRP, and a random order of pixels."""
    bench.say(f"comparing PRP rules on {subject.name}")
    model, box = bench.model(subject), bench.black_box(subject).model
    images = _images(model, box, evenly_spaced_images(bench, subject, bench.n_images))
    record: Record = {}
    has_sibling = images.siblings != images.prototypes
    for rule in PRP_RULES:

        def explain(x: Tensor, rows: slice, rule: PrpRule = rule) -> Tensor:
            return prp(model, x, images.prototypes[rows, None], rule=rule).pixels[:, 0]

        maps = explain(images.x, slice(None))
        other_maps = prp(model, images.x, torch.stack([images.siblings, images.rivals], 1), rule=rule).pixels
        starts = channel_relevance(model, model.embed(images.x), images.prototypes, rule).abs()
        record[rule] = {
            **_figures(model, images, maps, explain, subject.seed),
            "agreement": _correlation(maps, images.black_box_maps),
            "sibling": _correlation(maps[has_sibling], other_maps[has_sibling, 0]),
            "rival": _correlation(maps, other_maps[:, 1]),
            "largest_channel": float((starts.amax(1) / starts.sum(1)).mean()),
        }
    predicted = box(images.x).argmax(1)

    def explain_box(x: Tensor, rows: slice) -> Tensor:
        return lrp(box, x, predicted[rows]).pixels

    record[_LRP] = _figures(model, images, images.black_box_maps, explain_box, subject.seed)
    record[_RANDOM] = order_figures(model, images.x, None, subject.seed)
    return record


@torch.no_grad()
def _images(model: PrototypeModel, box: torch.nn.Module, x: Tensor) -> _Images:
    similarities, labels = model.similarities(x), model.prototypes.labels
    # For each image [N]: the nearest prototype, the nearest of another class (its rival), and the second nearest of the
    # same class (its sibling).
    prototypes = similarities.argmax(1)
    of_same_class = labels[None] == labels[prototypes][:, None]
    rivals = similarities.masked_fill(of_same_class, -torch.inf).argmax(1)
    without_nearest = similarities.scatter(1, prototypes[:, None], -torch.inf)
    siblings = without_nearest.masked_fill(~of_same_class, -torch.inf).argmax(1)
    siblings = torch.where(of_same_class.sum(1) > 1, siblings, prototypes)
    pixels = model.to_pixels(x)
    assert pixels is not None  # data sets of images alone are suited
    return _Images(x, prototypes, siblings, rivals, foreground(pixels), lrp(box, x).pixels)


def _figures(
    model: PrototypeModel, images: _Images, maps: Tensor, explain: Callable[[Tensor, slice], Tensor], seed: int
) -> Record:
    """Returns the figures that can be measured for every kind of map."""
    low, high = value_range_of_model(model)
    stable = {
        name: map_stability(
            explain, images.x, maps, radius=share * (high - low), n_samples=_DRAWS, seed=seed
        ).correlation
        for name, share in _NOISE_RADII.items()
    }
    inside = mean_of_finite(relevance_mass(maps, images.object_masks))
    return {**stable, **order_figures(model, images.x, maps, seed), "inside": inside}


def order_figures(model: PrototypeModel, x: Tensor, maps: Tensor | None, seed: int) -> Record:
    """Returns the figures that depend on the order of the pixels alone. Without maps, the order is random."""
    low, high = value_range_of_model(model)

    def probabilities(inputs: Tensor) -> Tensor:
        return model.probabilities_of(model.encoder(inputs))

    return {
        "deletion": deletion(probabilities, x, maps, baseline=low, seed=seed).area,
        "insertion": insertion(probabilities, x, maps, baseline=low, seed=seed).area,
        "auroc": relevance_ordering(probabilities, x, maps, Noise(low, high, _DRAWS, seed, "mersenne")).auroc,
    }


def value_range_of_model(model: PrototypeModel) -> tuple[Tensor, Tensor]:
    """Returns the inputs' values of black and of white, each [C]."""
    assert model.value_range is not None  # data sets of images alone are suited
    low, high = model.value_range.unbind(0)
    return low, high


def _correlation(maps: Tensor, other_maps: Tensor) -> float:
    return mean_of_finite(correlations_of(maps.flatten(1), other_maps.flatten(1)))


def foreground(pixels: Tensor) -> Tensor:
    """Returns a mask [N, H, W] of the pixels of an object on a plain background, from uint8 images [N, H, W, C].

    The background is the median of an image's edge; an object's pixel differs from it by more than 10% of the range.
    """
    grey = pixels.float().mean(3) / 255
    return (grey - _edge(grey).median(1).values[:, None, None]).abs() > _CONTRAST


def _edge(grey: Tensor) -> Tensor:
    """Returns the edge pixels [N, E] of images [N, H, W]."""
    return torch.cat([grey[:, 0], grey[:, -1], grey[:, 1:-1, 0], grey[:, 1:-1, -1]], 1)


def no_plain_background(data: DataBundle) -> str | None:
    """Returns why an object's pixels cannot be distinguished from the background; None if the background is plain."""
    rows = np.linspace(0, len(data.test) - 1, min(50, len(data.test))).astype(int)
    images = torch.stack([torch.as_tensor(data.test[int(row)][0]) for row in rows])
    if images.ndim != 4:
        return f"{data.name!r} has no images"
    grey = images.float().mean(1)
    low, high = grey.amin(), grey.amax()
    edge = _edge((grey - low) / (high - low).clamp_min(1e-12))
    plain = ((edge - edge.median(1, keepdim=True).values).abs() <= _CONTRAST).float().mean()
    if float(plain) >= _PLAIN_EDGE:
        return None
    return f"{data.name!r} has no plain background, so which pixels belong to the object is not known"


EXPERIMENTS.register("prp-rules")(
    Experiment("Rules for prototypical relevance", "open question", run_prp_rules, lacking=no_plain_background)
)
