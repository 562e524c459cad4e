"""The model card: a page of Markdown that is saved with a model."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from lookalike._core.names import visible
from lookalike._core.wording import counted, why_unfamiliar
from lookalike.data import Preprocessing
from lookalike.encoder import describe_spec
from lookalike.model.classifier import NearestPrototype
from lookalike.model.prototypes import Prototypes
from lookalike.model.record import SavedModel
from lookalike.saved import NamedOptions

if TYPE_CHECKING:
    from jinja2 import Template

HEAD_METHOD = "the weights of the classifier's own head"  # of a model whose prototypes were taken from a network
_MOST_ROWS = 200  # prototypes in the card's table; a page of thousands is read by nobody
_MOST_CLASSES = 40  # class names in one cell
_FIGURES = {"accuracy": "accuracy", "black_box_accuracy": "accuracy of the original network", "agreement": "agreement"}


def model_card(record: SavedModel, prototypes: Prototypes) -> str:
    """Returns the model card: what the model is, how good it is, how it was made, and its prototypes."""
    page: str = _template().render(_values(record, prototypes))
    return page


@cache
def _template() -> "Template":
    """Returns the card's template; it is compiled once."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # no HTML is made here, and each value is escaped for Markdown by _cell
    environment = Environment(  # noqa: S701
        loader=PackageLoader("lookalike.model"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("card.md.jinja")


def _values(record: SavedModel, prototypes: Prototypes) -> dict[str, Any]:
    """Returns the template's values, as text that is safe in Markdown."""
    encoder, provenance = record.encoder, record.provenance
    network = visible(describe_spec(encoder.spec) if encoder.spec else encoder.network).replace("`", "'")
    table = prototypes.to_table()
    names = [_cell(name) for name in prototypes.class_names]
    listed = ", ".join(names[:_MOST_CLASSES]) + (", …" if len(names) > _MOST_CLASSES else "")
    split = provenance.get("split")
    is_random_split = isinstance(split, dict) and split.get("by") == "seed"
    return {
        "made_by": _made_by(record),
        "method": _cell(provenance.get("method", "unknown means")),
        "network": network,
        "network_class": encoder.network,
        "head": encoder.head or "nothing: its output is the embedding",
        "embedding_dim": encoder.embedding_dim,
        "images": _images(record.preprocessing),
        "similarity": _name_and_options(record.similarity),
        "classifier": _name_and_options(record.classifier),
        "probabilities": _probabilities(record),
        "classes": f"{len(names)}: {listed}",
        "prototypes": table,
        "test": _test_figures(provenance.get("test")),
        "of_split": " that a random split held out" if is_random_split else "",
        "takes_files": record.preprocessing is not None,
        "origin": _origin(provenance),
        "gallery": record.gallery,
        "has_pictures": record.images is not None,
        "shown": [
            {**row, "class": _cell(row["class"]), "purity": _share(row["purity"]), "said": _said(record, j)}
            for j, row in enumerate(table[:_MOST_ROWS])
        ],
        "is_named": record.annotations is not None and not record.annotations.is_empty,
        "n_left_out": max(0, len(table) - _MOST_ROWS),
        "why_unfamiliar": why_unfamiliar(
            is_calibrated=record.doubt is not None, of_patches=encoder.patches is not None
        ),
        "is_rebuilt_by_name": _is_rebuilt_by_name(encoder.spec),
    }


def _made_by(record: SavedModel) -> str:
    """Returns what kind of conversion made a model: ``"images"``, ``"patches"`` or ``"head"``; else ``"training"``."""
    if record.classifier.name == NearestPrototype.name:
        return "images"
    if record.classifier.name.startswith("patch-"):
        return "patches"
    return "head" if record.provenance.get("method") == HEAD_METHOD else "training"


def _said(record: SavedModel, prototype: int) -> str:
    """Returns what people have said about a prototype: its name and description."""
    if record.annotations is None:
        return ""
    name, description = record.annotations.names[prototype], record.annotations.descriptions[prototype]
    return ": ".join(_cell(" ".join(text.split())) for text in (name, description) if text)


def _test_figures(recorded: Any) -> dict[str, Any] | None:
    """Returns what was measured on test images when the model was made, or None."""
    if not isinstance(recorded, Mapping) or not isinstance(recorded.get("n_samples"), int):
        return None
    values = {title: recorded.get(name) for name, title in _FIGURES.items()}
    return {
        "n_samples": f"{recorded['n_samples']:,}",
        "rows": [(title, f"{value:.1%}") for title, value in values.items() if isinstance(value, float | int)],
    }


def _origin(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns how the model was made, in words: the training images, the options, the versions."""
    rows: list[tuple[str, Any]] = [("training images", provenance.get("n_samples"))]
    if provenance.get("skipped"):
        rows.append(("left out, as they could not be read", provenance["skipped"]))
    for name, title in (
        ("dataset", "data set"),
        ("n_prototypes", "prototypes per class"),
        ("clusterer", "clusterer"),
        ("seed", "seed"),
        ("epochs", "epochs"),
        ("precision", "embedded in"),
    ):
        if provenance.get(name) is not None:
            is_of_all = name == "n_prototypes" and provenance.get("shared")
            rows.append(("prototypes" if is_of_all else title, provenance[name]))
    if provenance.get("clustered_in_parts"):
        rows.append(("clustered in parts", ", ".join(map(str, provenance["clustered_in_parts"]))))
    updates = provenance.get("joined")
    if isinstance(updates, list) and updates:
        rows.append(("updated with more data", f"{counted(len(updates), 'time')}"))
    fingerprints = provenance.get("fingerprints")
    if isinstance(fingerprints, Mapping):
        short = [f"{name} {str(value)[:12]}" for name, value in fingerprints.items() if value]
        rows.append(("fingerprints", ", ".join(short)))
    versions = provenance.get("versions")
    if isinstance(versions, Mapping):
        rows.append(("versions", ", ".join(f"{name} {value}" for name, value in versions.items())))
    return [(title, _cell(value)) for title, value in rows if value is not None]


def _is_rebuilt_by_name(spec: dict[str, Any] | None) -> bool:
    """Says whether ``load`` can build the network again without the user's own code."""
    while spec and "network" in spec:
        spec = spec["network"]
    return bool(spec) and spec is not None and spec["source"] != "file"


def _images(preprocessing: Preprocessing | None) -> str:
    return (
        "ready tensors: it is not known how to prepare an image"
        if preprocessing is None
        else _cell(preprocessing.describe())
    )


def _probabilities(record: SavedModel) -> str:
    """Describes how similarities become probabilities, and where the temperature comes from."""
    recorded = record.provenance.get("calibration")
    calibration = recorded if isinstance(recorded, dict) else {}
    text = f"softmax of similarity over a temperature of {record.classifier.options.get('temperature', 1.0):.4g}"
    if record.doubt is not None:
        facts = record.doubt
        return (
            f"{text}, fitted to {facts.n_fitted:,} validation images; on {facts.n_validation:,} others the calibration "
            f"error ECE is {facts.after.ece:.3f} (it was {facts.before.ece:.3f})"
        )
    fitted = [calibration.get(name) for name in ("n_samples", "n_folds", "log_loss", "log_loss_at_1")]
    if calibration.get("source") == "fitted" and all(isinstance(value, int | float) for value in fitted):
        n_samples, n_folds, log_loss, log_loss_at_1 = fitted
        return (
            f"{text}, fitted to {n_samples:,} training samples held out in {n_folds} folds "
            f"(log loss {log_loss:.3f}; with a temperature of 1 it is {log_loss_at_1:.3f})"
        )
    if calibration.get("source") == "kept":
        return f"{text}, kept from the conversion before the update"
    if calibration.get("note"):
        return f"{text}; {_cell(calibration['note'])}"
    return f"{text}, not fitted: read them as likeness, not as chances"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _name_and_options(component: NamedOptions) -> str:
    """Formats a similarity or classifier with its options."""
    options = ", ".join(f"{key}={value}" for key, value in component.options.items())
    return f"`{component.name}`" + (f" ({_cell(options)})" if options else "")


def _cell(value: Any) -> str:
    """Formats a value for a cell of a Markdown table, with its markup escaped."""
    text = visible(" ".join(str(value).split()))
    for mark in "\\`|*_<>[]":
        text = text.replace(mark, "\\" + mark)
    return text
