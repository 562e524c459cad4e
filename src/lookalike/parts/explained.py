"""All that parts say of a prediction: why this class rather than the next, and which regions look like which."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lookalike._core import checks
from lookalike.model import PrototypeModel
from lookalike.parts.comparison import Difference, difference
from lookalike.parts.pairing import PairedRegions, pairs_with_images
from lookalike.parts.per_image import PerImage
from lookalike.parts.segmentation import Segments, batches_of, segment


@dataclass(frozen=True)
class ExplainedParts:
    """The parts of one input.

    Attributes:
        difference: Why its class rather than the second most likely one; None in a model of one class.
        pairs: Which of its regions correspond to which of the nearest prototype's image; None without such an image.
        segments: The concepts of its positions, as a result for one image; None in a model of whole images.
    """

    difference: Difference | None
    pairs: PairedRegions | None
    segments: Segments | None

    def sentences(self) -> list[str]:
        """Returns them as sentences."""
        return [part.sentence() for part in (self.difference, self.pairs) if part is not None]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, without pictures."""
        return {
            "difference": None if self.difference is None else self.difference.to_dict(),
            "pairs": None if self.pairs is None else self.pairs.to_dict(),
            "concepts": None if self.segments is None else self.segments.concepts[0].tolist(),
        }


def explain_parts(
    model: PrototypeModel,
    inputs: Any,
    batch_size: int = 64,
    *,
    target: Sequence[int] | Tensor | None = None,
    nearest: Sequence[int] | Tensor | None = None,
) -> list[ExplainedParts]:
    """Explains predictions by parts, beside ``explain``, which explains them by whole images.

    Args:
        model: A prototype model of patches, or of whole images whose embedding is the average of a feature map.
        inputs: Images, as for ``PrototypeModel.predict``.
        batch_size: Most images that pass through the network at once.
        target: Class of each image to explain; None takes the predicted ones.
        nearest: The most similar prototype of each image, to compare it with in a model of whole images; None looks for
            it. Whoever shows another explanation beside this one gives what that one says, so that both agree. A model
            of patches compares with the prototype that most evidence comes from, and says so.

    Returns:
        One result per input.

    Raises:
        LookalikeError: As ``difference`` and ``pair_regions`` do, except that prototypes without images have no pairs.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    targets = PerImage.of("target", target, model.n_classes)
    compared = PerImage.of("prototype", None if model.has_patches else nearest, len(model.prototypes), "prototype")
    results: list[ExplainedParts] = []
    for x in batches_of(model, inputs, batch_size):
        to_explain, compared_with = (asked.of_rows(len(results), len(x)) for asked in (targets, compared))
        differences: list[Difference] | list[None] = [None] * len(x)
        if model.n_classes > 1:
            differences = difference(model, x, to_explain, batch_size=batch_size)
        pairs: list[PairedRegions | None] = [None] * len(x)
        if model.prototype_inputs() is not None:
            pairs_or_prototypes = pairs_with_images(model, x, compared_with, batch_size=batch_size)
            pairs = [None if isinstance(pair, int) else pair for pair in pairs_or_prototypes]
        concepts = segment(model, x, batch_size) if model.has_patches else None
        segments = [None if concepts is None else concepts.of_image(row) for row in range(len(x))]
        results += [
            ExplainedParts(*parts_of_image) for parts_of_image in zip(differences, pairs, segments, strict=True)
        ]
    for asked in (targets, compared):
        asked.check_count(len(results))
    return results


def right_and_wrong(correct: Tensor, n_each: int, seed: int) -> list[int]:
    """Draws images by chance, not by taste: as many correct as wrong predictions, if there are as many.

    Args:
        correct: Whether each prediction is correct [N].
        n_each: Largest number of either.
        seed: Seed of the draw.

    Returns:
        Rows, the correct ones first.

    Example:
        >>> import torch
        >>> right_and_wrong(torch.tensor([True, False, True]), 2, seed=0)
        [0, 2, 1]
    """
    rng = np.random.default_rng(checks.seed("seed", seed))
    drawn = [rng.permutation(np.flatnonzero(rows.cpu().numpy()))[:n_each] for rows in (correct, ~correct)]
    return [int(row) for rows in drawn for row in np.sort(rows)]
