"""The model card: a page of Markdown that is saved with a model."""

from typing import Any

from lookalike._core.names import visible
from lookalike.data import Preprocessing
from lookalike.encoder import describe_spec
from lookalike.model.classifier import NearestPrototype
from lookalike.model.prototypes import Prototypes
from lookalike.model.record import SavedModel
from lookalike.saved import NamedOptions

_ROWS = 200  # prototypes in the card's table


def model_card(record: SavedModel, prototypes: Prototypes) -> str:
    """Returns the model card: what the model is, how it was made, and its prototypes."""
    encoder, provenance = record.encoder, record.provenance
    spec = encoder.spec
    network = visible(describe_spec(spec) if spec else encoder.network).replace("`", "'")
    method = provenance.get("method", "unknown means")
    converted = record.classifier.name == NearestPrototype.name
    lines = [
        "# A prototypical self-explainable model",
        "",
        f"Made with lookalike by {method} from `{network}`, whose weights are unchanged. It predicts the class of "
        "the most similar prototype."
        if converted
        else f"Trained with lookalike as a {method}: `{network}`. Its prototypes vote for the classes.",
        "",
        "| | |",
        "|---|---|",
        f"| network | `{network}`, cut before `{encoder.head or 'nothing: its output is the embedding'}` |",
        f"| embedding | {encoder.embedding_dim} dimensions |",
        f"| images | {_images(record.preprocessing)} |",
        f"| similarity | {_name_and_options(record.similarity)} |",
        f"| classifier | {_name_and_options(record.classifier)} |",
        *([f"| probabilities | {_probabilities(record)} |"] if converted else []),
        f"| classes | {len(prototypes.class_names)} |",
        f"| prototypes | {len(prototypes)} |",
        *(f"| {key} | {_cell(value)} |" for key, value in provenance.items() if not isinstance(value, dict)),
        "",
        "## Prototypes",
        "",
        *(["![The prototypes, each by its nearest training image](gallery.png)", ""] if record.gallery else []),
        ("A prototype is a centroid of training embeddings. " if converted else "")
        + "*count*: training samples of its class nearest to it; "
        "*purity*: share of the training samples most similar to it that carry its class.",
        "",
        "| prototype | class | count | purity |",
        "|---:|---|---:|---:|",
    ]
    table = prototypes.to_table()
    lines += [
        f"| {r['prototype']} | {_cell(r['class'])} | {r['count']} | {_share(r['purity'])} |" for r in table[:_ROWS]
    ]
    if len(table) > _ROWS:
        lines.append(f"\n… and {len(table) - _ROWS} more.")
    lines += ["", "## Use", "", "```python", "from lookalike import load", ""]
    inner = spec
    while inner and "network" in inner:
        inner = inner["network"]
    if inner and inner["source"] != "file":
        lines += ['model = load("path/to/this/folder")', "```"]
    else:  # no name rebuilds the network
        lines += [
            f'model = load("path/to/this/folder", model=network)  # network: any {encoder.network} like the one saved'
        ]
        lines += ["```", "", "```sh"]
        lines += ["lookalike predict path/to/this/folder IMAGES --network path/to/file.py:function", "```"]
    return "\n".join(lines) + "\n"


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
    return f"`{component.name}`" + (f" ({options})" if options else "")


def _cell(value: Any) -> str:
    """Formats a value for a cell of a Markdown table, with its markup escaped."""
    text = visible(" ".join(str(value).split()))
    for mark in "\\`|*_<>[]":
        text = text.replace(mark, "\\" + mark)
    return text
