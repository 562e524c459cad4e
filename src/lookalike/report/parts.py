"""The section on parts: which of them decide, for five right and five wrong predictions drawn by chance."""

from typing import Any

from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike.encoder import dtype_of, place
from lookalike.parts import (
    Difference,
    ExplainedParts,
    PairedRegions,
    Segments,
    concepts,
    explain_parts,
    right_and_wrong,
)
from lookalike.report.material import Material
from lookalike.report.pictures import drawing
from lookalike.report.words import image_names

_EACH = 5
_SEED = 0  # so that the images are drawn by chance, and are the same in every report
_CONCEPTS = 60  # listed at most


def parts(material: Material) -> dict[str, Any] | None:
    """Returns the values of the section; None without time, or if the decision is no sum over parts."""
    if not material.extras.parts:
        return None
    model, decisions = material.model, material.decisions
    rows = right_and_wrong(~decisions.wrong, _EACH, _SEED)
    if not rows or model.n_classes < 2:
        return None
    inputs = place(material.test.fetch(material.store.indices[rows]), model.device, dtype_of(model.encoder))
    if not isinstance(inputs, Tensor):
        return None
    try:
        explained = explain_parts(  # as decided, see explain_examples
            model, inputs, target=decisions.predicted[rows], nearest=decisions.nearest[rows]
        )
    except LookalikeError:  # a class token, or a similarity that is no sum: heat-maps explain it
        return None
    names = {entry["row"]: entry["name"] for entry in material.examples.entries}
    return {
        "images": [
            {
                "row": row if row in names else None,
                "name": names.get(row) or _name_of(material, row),
                "label": model.class_names[int(decisions.labels[row])],
                "predicted": model.class_names[int(decisions.predicted[row])],
                "wrong": bool(decisions.wrong[row]),
                "sentences": parts_of_image.sentences(),
                "drawings": _drawings(parts_of_image),
            }
            for row, parts_of_image in zip(rows, explained, strict=True)
        ],
        "concepts": [concept.sentence() for concept in concepts(model)[:_CONCEPTS]] if model.has_patches else [],
        "n_concepts": len(model.prototypes),
    }


def _name_of(material: Material, row: int) -> str:
    """Returns what to call a test image that the page does not show on its own."""
    index, class_name = (
        int(material.store.indices[row]),
        material.model.class_names[int(material.decisions.labels[row])],
    )
    return image_names([material.test.name_of(index)], [index], [class_name])[0]


def _drawings(explained: ExplainedParts) -> list[dict[str, Any]]:
    """Returns the pictures of an image's parts that can be drawn."""
    drawn: list[tuple[Difference | PairedRegions | Segments | None, str]] = [
        (explained.difference, "The parts that decide, and what each position adds"),
        (explained.pairs, "Regions that look alike"),
        (explained.segments, "The concept of each position"),
    ]
    shown = [
        (*drawing(part.plot), alt)
        for part, alt in drawn
        if part is not None and (part.images if isinstance(part, Segments) else part.image) is not None
    ]
    return [{"source": source, "width": width, "alt": alt} for source, width, alt in shown]
