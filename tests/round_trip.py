"""Convert, explain with relevance, save, load, explain again: what must give the same for every network."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from lookalike import Explanation, convert, explain, load
from lookalike.encoder.specs import LoadedClassifier

N_IMAGES = 4


def explained_twice(
    model: nn.Module | LoadedClassifier, images: Tensor, folder: Path, *, output: str | int | None = None
) -> tuple[list[Explanation], list[Explanation]]:
    """Returns explanations of two images by a converted network, and by what its saved folder is loaded as.

    Args:
        model: The network; as ``load_classifier`` returns it, it is built again by its name alone.
        images: At least two, of two classes in turn.
        folder: Where to save; must not exist.
        output: Which output holds the class scores.
    """
    labels = torch.arange(len(images)) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random networks are bad classifiers
        sem = convert(model, (images, labels), n_prototypes=1, n_images=1, output=output, progress=False)
        first = explain(sem, images[:2], relevance=True)
        sem.save(folder)
        loaded = load(folder, model=model if isinstance(model, nn.Module) else None)
        return first, explain(loaded, images[:2], relevance=True)


def differ_by(first: list[Explanation], second: list[Explanation]) -> float:
    """Returns the largest relative difference of the heat-maps of two sets of explanations.

    Infinite where predictions or nearest prototypes differ, or one has maps that the other lacks.
    """
    largest = 0.0
    for one, other in zip(first, second, strict=True):
        pairs = [(one.black_box_heat_map, other.black_box_heat_map)]
        if one.prediction != other.prediction or len(one.likenesses) != len(other.likenesses):
            return float("inf")
        for likeness, its in zip(one.likenesses, other.likenesses, strict=True):
            if likeness.prototype != its.prototype or likeness.heat_map is None:
                return float("inf")
            pairs.append((likeness.heat_map, its.heat_map))
        for heat_map, its_heat_map in pairs:
            if (heat_map is None) != (its_heat_map is None):
                return float("inf")
            if heat_map is not None and its_heat_map is not None:
                a, b = torch.as_tensor(heat_map).double(), torch.as_tensor(its_heat_map).double()
                largest = max(largest, float((a - b).norm() / a.norm().clamp_min(1e-300)))
    return largest
