"""Building the report: everything measured and shown, put into one page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.files import write_whole
from lookalike._core.names import json_text, visible
from lookalike._core.progress import Advance
from lookalike._core.untouched import keeps_random_states
from lookalike.data import Batches
from lookalike.embedding import embed
from lookalike.encoder import ClassOrder, LoadedClassifier
from lookalike.metrics import Scorecard, evaluate
from lookalike.metrics.black_box import find_black_box
from lookalike.metrics.context import aligned_labels, unbundle_data
from lookalike.model import PrototypeModel
from lookalike.relevance import COMPOSITES, PrpRule, prp_rule
from lookalike.report.charts import charts_of
from lookalike.report.gallery import gallery_of
from lookalike.report.samples import samples_of

_MATRIX = 20  # classes whose confusion fits into a table


@keeps_random_states
def write_report(
    model: PrototypeModel,
    test: Any,
    path: str | Path,
    *,
    train: Any = None,
    black_box: nn.Module | LoadedClassifier | None = None,
    class_order: ClassOrder = None,
    card: Scorecard | None = None,
    title: str = "Prototype model",
    n_browse: int = 1000,
    n_nearest: int = 3,
    batch_size: int = 256,
    num_workers: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    composite: str = "epsilon-plus-flat",
    rule: PrpRule | None = None,
    overwrite: bool = False,
    progress: bool | Advance | None = None,
    **options: Any,
) -> Scorecard:
    """Writes one HTML file that shows a model, what it decides by, and how far it can be trusted. It works offline.

    Args:
        model: Any prototype model.
        test: Test images with labels; a ``DataBundle`` brings its training part along.
        path: The file to write; it appears only when it is complete.
        train: Training data, for ghosting and the nearest training images.
        black_box: The classifier to compare with; None takes the one that was converted.
        class_order: The names of its outputs, in their order; see ``evaluate``.
        card: A scorecard of the same model and data, where ``evaluate`` has made it already.
        title: What to call it.
        n_browse: The most test images to show: wrong and disagreeing ones first.
        n_nearest: How many prototypes to show for each.
        batch_size: The most rows that pass through a network at once.
        num_workers: Processes that read images.
        on_error: ``"skip"`` leaves out images that cannot be read.
        composite: Rules of relevance propagation.
        rule: How relevance starts at the similarity layer; see ``relevance.prp``. With ``"share"`` the report says how
            stable its heat-maps are.
        overwrite: Replace the file if there is one.
        progress: Show progress bars.
        **options: For ``evaluate``.

    Returns:
        The scorecard in it.

    Raises:
        LookalikeError: If the file exists, or the test data are no images.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    path = checks.path("path", path)
    check_writable(path, checks.flag("overwrite", overwrite))
    checks.text("title", title)
    checks.whole_number("n_browse", n_browse, 0)
    checks.whole_number("n_nearest", n_nearest, 1)
    checks.optional(checks.instance, "card", card, Scorecard, "a Scorecard")
    checks.progress("progress", progress)
    _ = COMPOSITES[composite]
    rule = prp_rule(model, rule)
    test, train, attributes, data_notes = unbundle_data(test, train)
    options.setdefault("attributes", attributes)
    data = test if isinstance(test, Batches) else Batches(test, batch_size, num_workers, on_error)
    box = find_black_box(model, black_box, data, class_order).box
    store = embed(model, data, progress=progress)
    standing = (
        None if box is None else box.compare_with_labels(model, aligned_labels(store, model, "test"), store, data)
    )
    theirs = None if standing is None else standing.predictions
    if card is None:
        card = evaluate(
            model,
            data,
            black_box=box,
            train=train,
            test_embeddings=store,
            composite=composite,
            rule=rule,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=on_error,
            progress=progress,
            **options,
        )
        card.notes[:0] = data_notes
    samples = samples_of(model, data, store, theirs, n_browse, n_nearest, (composite, rule), progress)
    source = _training_images(model, train)
    page = render(
        {
            "title": title,
            "card": card,
            "rows": card.rows(),
            "verdict": card.verdict(),
            "model": model,
            "gallery": gallery_of(model, card, samples.decides, source, (composite, rule)),
            "charts": charts_of(model, card, store),
            "classes": _classes(card),
            "confusion": _confusion(card),
            "facts": _facts(card),
            "map_rule": rule,
            "map_notes": [note for note in samples.notes if note not in card.notes],
            "browse": {"n_shown": len(samples.shown), "n_test": len(store), "has_black_box": theirs is not None},
            "data": _as_json({"classes": [visible(name) for name in model.class_names], "samples": samples.shown}),
        }
    )
    write_whole(path, page, replace=overwrite)
    return card


def _training_images(model: PrototypeModel, train: Any) -> Batches | None:
    """Returns the training images, to read those nearest to prototypes again; None for other data than the model's.

    Nearest images are known by number: in other data the same numbers are other images.
    """
    if train is None or not hasattr(train, "__getitem__"):
        return None
    source, record = Batches(train), model.training_record
    return source if record.fingerprint is None or record.is_of(source) else None


def check_writable(path: Path, overwrite: bool) -> None:
    """Sees to it that a file may be written, before any work is done.

    Raises:
        LookalikeError: If it exists, is a folder, or its folder is missing.
    """
    if path.is_dir():
        raise LookalikeError(f"{str(path)!r} is a folder; give the name of a file, e.g. report.html")
    if path.exists() and not overwrite:
        raise LookalikeError(f"{str(path)!r} exists already; choose another place, or overwrite it (--overwrite)")
    if not path.resolve().parent.is_dir():
        raise LookalikeError(f"the folder {str(path.resolve().parent)!r} does not exist")


def render(values: Mapping[str, Any]) -> str:
    """Returns the page; all text in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lookalike.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{share:.1%}"
    return environment.get_template("report.html").render(**values)


def _shown(value: Any) -> Any:
    """Returns a value as the page shows it: a name that a browser would obey, hide or turn round is written out."""
    return visible(value) if type(value) is str else value


def _as_json(value: Any) -> str:
    """Returns JSON that cannot end the script element that it stands in."""
    text = json_text(value, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _classes(card: Scorecard) -> list[dict[str, Any]]:
    """Returns a line for each class: what became of it."""
    if "faithfulness" not in card.details:
        return []
    separations = {one["label"]: one for one in card.details.get("embedding", [{}])[0].get("classes", [])}
    lines = []
    for one in card.details["faithfulness"][0]["per_class"]:
        near = separations.get(one["label"], {})
        rival = near.get("rival")
        lines.append(
            {
                "name": card.class_names[one["label"]],
                "n": one["n"],
                **{key: one[key] and one[key]["value"] for key in ("accuracy", "black_box_accuracy", "agreement")},
                "low": one["accuracy"] and one["accuracy"]["low"],
                "high": one["accuracy"] and one["accuracy"]["high"],
                "overlap": near.get("overlap"),
                "rival": None if rival is None else card.class_names[rival],
            }
        )
    return lines


def _confusion(card: Scorecard) -> dict[str, Any] | None:
    """Returns where black box and model disagree: the pairs, most frequent first, and the matrix if it is small."""
    matrix = card.details.get("faithfulness", [{}])[0].get("confusion")
    if matrix is None:
        return None
    counts = torch.tensor(matrix)
    off = counts.clone().fill_diagonal_(0)
    order = off.flatten().argsort(descending=True, stable=True)[:20].tolist()
    k = len(counts)
    pairs = [
        {"black_box": card.class_names[i // k], "model": card.class_names[i % k], "n": int(off.flatten()[i])}
        for i in order
        if off.flatten()[i] > 0
    ]
    elsewhere = card.details["faithfulness"][0].get("elsewhere") or 0
    return {
        "pairs": pairs,
        "matrix": matrix if k <= _MATRIX else None,
        "total": int(off.sum()) + elsewhere,
        "elsewhere": elsewhere,
    }


def _facts(card: Scorecard) -> list[tuple[str, str]]:
    """Returns how everything was computed, as names and values."""
    info = card.info
    options = dict(info["options"])
    provenance = info["model_provenance"]
    facts = [
        ("method", str(provenance.get("method", "–"))),
        ("options of the model", _plain({k: v for k, v in provenance.items() if not isinstance(v, dict)})),
        ("images as", str(info.get("images_as") or "ready tensors")),
        ("similarity", _plain(info["similarity"])),
        ("classifier", _plain(info["classifier"])),
        ("options of the evaluation", _plain(options)),
        ("runs and seeds", f"{info['n_runs']}: {', '.join(map(str, info['seeds']))}"),
        ("test samples", f"{info['n_test']:,}" + (f", {info['skipped']} skipped" if info["skipped"] else "")),
        ("training samples", "–" if info["n_train"] is None else f"{info['n_train']:,}"),
        ("model (SHA-256)", str(info["model"])),
        ("black box (SHA-256)", str(info["black_box"] or "–")),
        ("test data (SHA-256)", str(info["test_data"] or "–")),
        ("training data (SHA-256)", str(info["train_data"] or "–")),
        ("versions", ", ".join(f"{name} {version}" for name, version in info["versions"].items())),
    ]
    if info["samples"]:
        facts.append(("test images whose explanations were measured", ", ".join(map(str, info["samples"][0]))))
    return facts


def _plain(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(v) if isinstance(v, dict) else v}" for name, v in values.items() if v != {})
