"""The section on localisation: is relevance on the object, and which prototypes look at the background?"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, RelevanceError
from lookalike._core.intervals import holm, mean_with_interval
from lookalike.data import Batches, HasMasks
from lookalike.metrics.context import Context
from lookalike.metrics.localisation import as_masks, pointing_game, relevance_mass, relevance_rank
from lookalike.metrics.maps import mean_of_finite
from lookalike.metrics.sections import SectionResult, section

ReadMasks = Callable[[list[int]], Tensor]

_LEAST_IMAGES = 4  # explained images from which a prototype is judged
_LEVEL = 0.05


def mask_reader(masks: Any, data: Batches | None) -> ReadMasks | None:
    """Returns a function from samples' indices to their masks bool [n, H, W]; None if there are no masks.

    Args:
        masks: Masks of all test images [N, H, W], those that a loader draws or all of its data set's; or None for those
            that the data set knows.
        data: The test data.

    Raises:
        LookalikeError: If the masks are no array of that shape, not one per test image, or hold several values.
    """
    if masks is not None:
        given_masks = as_masks(checks.tensor("masks", masks, ("N", "H", "W")))
        drawn = None if data is None else data.rows
        if drawn is not None and len(given_masks) == len(drawn):  # a mask for each image that the loader draws
            position = {int(row): k for k, row in enumerate(drawn)}
            return lambda rows: given_masks[torch.tensor([position[int(row)] for row in rows])]
        is_of_all = drawn is not None and data is not None and len(given_masks) == len(data.dataset)
        if data is not None and data.total is not None and len(given_masks) != data.total and not is_of_all:
            raise LookalikeError(f"there are {data.total} test images and {len(given_masks)} masks")
        return lambda rows: given_masks[torch.tensor(rows)]
    dataset = None if data is None else data.dataset
    if not isinstance(dataset, HasMasks):
        return None
    return lambda rows: torch.stack([dataset.mask(row) for row in rows])


@section("localisation", "images", "masks", per_run=True)
def _localisation(context: Context, run: int) -> SectionResult:
    """Pointing game, relevance mass and rank inside the object, for PRP and for the black box's LRP."""
    assert context.masks is not None  # needed
    masks = context.masks(context.sample(run))
    maps = context.likeness_maps(run).cpu()
    if masks.shape != maps.shape:
        raise LookalikeError(
            f"the masks are of {tuple(masks.shape[1:])} pixels and the network's images of {tuple(maps.shape[1:])}: "
            "give masks as the network sees the images"
        )
    has_object = masks.flatten(1).any(1)
    if not bool(has_object.any()):
        raise LookalikeError("no mask of the images that are explained has a pixel of an object")
    area = masks.flatten(1).double().mean(1)
    figures = {"object_share": float(area[has_object].mean()), **_figures(maps, masks)}
    if context.black_box is not None:
        try:
            figures |= _figures(context.black_box_maps(run).cpu(), masks, "_black_box")
        except RelevanceError as error:
            context.note(f"where the black box looks was not measured: {error}")
    advantage = relevance_mass(maps, masks, positive=True) - area
    above_chance = mean_with_interval((relevance_mass(maps, masks) - area).tolist())
    prototypes, nearest = context.model.prototypes, context.nearest(run).cpu()
    background = background_driven(advantage, nearest)
    return figures, {
        "n_images": int(has_object.sum()),
        "above_chance": None if above_chance is None else above_chance._asdict(),
        "background": [
            {"prototype": j, "class": prototypes.class_of(j), "n_images": n, "on_object": mass, "by_chance": chance}
            for j, n, mass, chance in _rows(background, maps, masks, area, nearest)
        ],
    }


def background_driven(advantage: Tensor, prototypes: Tensor) -> list[int]:
    """Returns the prototypes whose relevance avoids the object: less is on it than its size alone would get [ours].

    For each prototype with at least four images, a one-sided t-test asks whether the share of positive relevance on the
    object is below the object's share of the image; Holm's correction over prototypes, at 5%.

    Args:
        advantage: For each image, the share of positive relevance on the object minus the object's share of the image
            [n]; NaN without either.
        prototypes: The prototype that each image is explained by [n].
    """
    from scipy.stats import ttest_1samp

    judged, p_values = [], []
    for j in prototypes.unique().tolist():
        values = advantage[(prototypes == j) & advantage.isfinite()].numpy()
        if len(values) < _LEAST_IMAGES:
            continue
        judged.append(int(j))
        constant = float(np.ptp(values)) == 0.0  # the t statistic is undefined
        p_values.append(float(values[0] >= 0) if constant else float(ttest_1samp(values, 0, alternative="less").pvalue))
    return [j for j, significant in zip(judged, holm(p_values, _LEVEL), strict=True) if significant] if judged else []


def _rows(
    background: list[int], maps: Tensor, masks: Tensor, area: Tensor, prototypes: Tensor
) -> list[tuple[int, int, float, float]]:
    """Returns number, images, share of relevance on the object and the object's share of the image, by prototype."""
    mass = relevance_mass(maps, masks, positive=True)
    rows = []
    for j in background:
        of_prototype = (prototypes == j) & mass.isfinite()
        rows.append((j, int(of_prototype.sum()), float(mass[of_prototype].mean()), float(area[of_prototype].mean())))
    return rows


def _figures(maps: Tensor, masks: Tensor, suffix: str = "") -> dict[str, float]:
    measures = {"pointing_game": pointing_game, "relevance_mass": relevance_mass, "relevance_rank": relevance_rank}
    values = {f"{name}{suffix}": mean_of_finite(measure(maps, masks)) for name, measure in measures.items()}
    return {name: value for name, value in values.items() if value == value}
