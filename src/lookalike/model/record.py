"""The typed content of a saved prototype model's ``config.json``.

To add a field, add a line here, with a default so that older folders still load.
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lookalike._core.errors import LookalikeError
from lookalike._core.records import shown
from lookalike.data import Preprocessing
from lookalike.doubt import DoubtFacts
from lookalike.model.annotations import Annotations
from lookalike.model.decision import CLASSIFIERS
from lookalike.model.similarity import SIMILARITIES
from lookalike.saved import NamedOptions, SavedEncoder, check_class_names, check_preprocessing


@dataclass(frozen=True)
class SavedModel:
    """A prototype model.

    Attributes:
        encoder: The encoder.
        similarity: Name and options of the similarity.
        classifier: Name and options of the classifier.
        class_names: K different names.
        preprocessing: Preprocessing of the images, if it is known.
        value_range: The inputs' values of black and white [2, C], if the inputs are images.
        images: File names of the pictures nearest to each prototype [P, M].
        gallery: Whether there is a picture of all prototypes.
        provenance: Options, seeds, fingerprints and versions of the conversion.
        doubt: How the model was calibrated on held-out images; None if it was not.
        annotations: What people have said about the prototypes, or None.
        training_names: File names of the training samples nearest to the prototypes, by number.
    """

    kind: ClassVar[str] = "prototype-model"

    encoder: SavedEncoder
    similarity: NamedOptions
    classifier: NamedOptions
    class_names: list[str]
    preprocessing: Preprocessing | None
    value_range: tuple[list[float], list[float]] | None
    images: list[list[str]] | None
    gallery: bool
    provenance: dict[str, Any]
    doubt: DoubtFacts | None = None
    annotations: Annotations | None = None
    training_names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.similarity.check("similarity", {name: SIMILARITIES[name] for name in SIMILARITIES})
        self.classifier.check("classifier", CLASSIFIERS)
        check_class_names(self.class_names, unique=True)
        check_preprocessing(self.preprocessing)
        if self.value_range is not None:
            low, high = self.value_range
            if not 0 < len(low) == len(high):
                raise LookalikeError(f"value_range has {len(low)} and {len(high)} values; it needs one per channel")
            if not all(math.isfinite(a) and math.isfinite(b) and a < b for a, b in zip(low, high, strict=True)):
                raise LookalikeError(f"value_range must be finite, black below white, not {shown(self.value_range)}")
        numbers = [number for number in self.training_names if not (number.isascii() and number.isdigit())]
        if numbers:
            raise LookalikeError(f"training_names has {shown(numbers[0])}, which is no number of a training sample")
        if self.images is not None:
            lengths = {len(row) for row in self.images}
            if len(lengths) != 1 or 0 in lengths:
                raise LookalikeError("images must list equally many pictures for each prototype, and at least one")
