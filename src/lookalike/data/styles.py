"""Styles: the letters A to J in two classes, upright and italic, with the letter and the font's style as attributes.

Each class has many kinds of images, the letters, which no label names. So it can be measured what prototypes show of a
class and what they leave out, as with the paper's CelebA.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lookalike.data.bundle import DATASETS, Attributes, DataBundle, DatasetEntry, ImageArray
from lookalike.data.glyphs import LETTERS, load_glyphs
from lookalike.data.preprocessing import Preprocessing

STYLES = ["upright", "italic"]
_CLASS_ATTRIBUTE = "italic"


def load_styles(
    preprocessing: Preprocessing | None = None, *, fonts: str | Path | None = None, copies: int | None = None
) -> DataBundle:
    """Loads the images of ``load_glyphs``, labelled as upright or italic by their fonts' own tables.

    The attributes are the ten letters, as binary attributes, and all of the glyphs' but the one that is the class.

    Args:
        preprocessing: As for ``load_glyphs``.
        fonts: As for ``load_glyphs``.
        copies: As for ``load_glyphs``.

    Raises:
        LookalikeError: If the folder of fonts does not exist, or has fewer than two families with these letters.
    """
    glyphs = load_glyphs(preprocessing, fonts=fonts, copies=copies)
    assert glyphs.attributes is not None  # glyphs have attributes
    column = glyphs.attributes.names.index(_CLASS_ATTRIBUTE)

    def relabelled(part: ImageArray, attributes: np.ndarray) -> tuple[ImageArray, np.ndarray]:
        letters = np.eye(len(LETTERS), dtype=np.uint8)[part.labels]
        labels = attributes[:, column].astype(np.int64)
        others = np.delete(attributes, column, axis=1)
        return ImageArray(part.images, labels, STYLES, part.transform), np.concatenate([letters, others], 1)

    assert isinstance(glyphs.train, ImageArray)
    assert isinstance(glyphs.test, ImageArray)
    train, train_attributes = relabelled(glyphs.train, glyphs.attributes.train)
    test, test_attributes = relabelled(glyphs.test, glyphs.attributes.test)
    names = [*LETTERS, *(name for name in glyphs.attributes.names if name != _CLASS_ATTRIBUTE)]
    attributes = Attributes(names, train_attributes, test_attributes)
    notes = [*glyphs.notes]
    for part_name, part in (("training", train), ("test", test)):
        notes += [
            f"no font of the {part_name} part is {style}: $LOOKALIKE_FONTS can name a folder with more fonts"
            for label, style in enumerate(STYLES)
            if label not in part.labels
        ]
    return replace(
        glyphs,
        name="styles",
        train=train,
        test=test,
        class_names=list(STYLES),
        notes=tuple(notes),
        attributes=attributes,
    )


DATASETS.register("styles")(
    DatasetEntry("the glyphs as upright or italic, with letter and style as 23 attributes (embedded)", load_styles)
)
