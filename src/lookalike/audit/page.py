"""The suspects as one HTML page with pictures that works offline."""

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.wording import counted
from lookalike.editing.sources import Source
from lookalike.model.images import pixels_of, value_range_of
from lookalike.report.pictures import picture

if TYPE_CHECKING:
    from lookalike.audit.suspects import Audit, Suspect

_MOST = 60  # suspects of each kind that are shown with pictures; the CSV has all
_SIDE = 160  # pixels
_STYLES = ("tokens.css", "page.css", "tables.css", "cards.css", "print.css")

_TITLES = {
    "label": "Probably wrong labels",
    "exact duplicate": "Exact duplicates",
    "near duplicate": "Near duplicates",
    "outlier": "Far from everything",
    "impure": "Impure prototypes",
    "starved": "Starved prototypes",
    "one source": "Prototypes of one source",
    "shortcut": "Prototypes of which a part decides alone",
}


def audit_page(audit: "Audit") -> str:
    """Returns the page. All text in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lookalike.audit"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["counted"] = counted
    components = files("lookalike.report") / "templates" / "components"
    style = "\n".join((components / name).read_text(encoding="utf-8") for name in _STYLES)
    sections = [
        {"kind": kind, "title": _TITLES[kind], "n": n, "rows": [_row(audit, s) for s in audit.of_kind(kind)[:_MOST]]}
        for kind, n in audit.counts().items()
    ]
    return environment.get_template("audit.html").render(
        style=style, sections=sections, n_samples=audit.n_samples, most=_MOST, notes=audit.notes
    )


def _row(audit: "Audit", suspect: "Suspect") -> dict[str, Any]:
    pictured = [] if not suspect.part else [(suspect.part, suspect.sample)]
    if suspect.other is not None:
        pictured.append(suspect.other)
    source_by_part: dict[str, Source | None] = {"train": audit.source, "test": audit.test}
    pictures = [_picture(source_by_part[part_name], sample) for part_name, sample in pictured]
    return {"suspect": suspect, "pictures": [data for data in pictures if data is not None]}


def _picture(source: Source | None, sample: int) -> str | None:
    """Returns an image as a data URI; None if it cannot be read again."""
    if source is None or source.batches is None or not source.batches.can_fetch:
        return None
    try:
        inputs = source.batches.fetch([sample])
    except LookalikeError:
        return None
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return None
    from lookalike.model.images import preprocessing_of

    preprocessing = preprocessing_of(source.batches)
    pixels = pixels_of(inputs, value_range_of(inputs, preprocessing), preprocessing)
    return picture(pixels[0].numpy(), _SIDE)
