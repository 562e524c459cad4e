"""Building the report: measures and explains a model, and renders everything into one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Unpack, get_type_hints

import torch
from torch import nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.files import write_whole
from lookalike._core.names import json_text, visible
from lookalike._core.options import check_option_names
from lookalike._core.untouched import keeps_random_states
from lookalike.data import Batches
from lookalike.embedding import embed
from lookalike.encoder import LoadedClassifier
from lookalike.metrics import EvaluationOptions, EvaluationSettings, Scorecard, evaluate
from lookalike.metrics.black_box import find_black_box
from lookalike.metrics.context import aligned_labels, unbundle_data
from lookalike.model import PrototypeModel
from lookalike.relevance import COMPOSITES, prp_rule
from lookalike.report.charts import draw_charts
from lookalike.report.gallery import gallery_by_class
from lookalike.report.samples import Samples, explain_samples

_LARGEST_MATRIX = 20  # classes; a confusion matrix of more does not fit on the page


class ReportOptions(EvaluationOptions, total=False):
    """The keyword options of ``write_report``: its own, and those of ``evaluate``."""

    title: str
    n_browse: int
    n_nearest: int
    only: Sequence[str] | None
    seed: int
    resume: str | Path | None


@dataclass(frozen=True)
class _Page:
    """What the page shows."""

    title: str = "Prototype model"
    n_browse: int = 1000
    n_nearest: int = 3

    def __post_init__(self) -> None:
        checks.text("title", self.title)
        checks.whole_number("n_browse", self.n_browse, 0)
        checks.whole_number("n_nearest", self.n_nearest, 1)


_PAGE_OPTIONS = tuple(field.name for field in fields(_Page))


@keeps_random_states
def write_report(
    model: PrototypeModel,
    test: Any,
    path: str | Path,
    *,
    train: Any = None,
    black_box: nn.Module | LoadedClassifier | None = None,
    card: Scorecard | None = None,
    overwrite: bool = False,
    **options: Unpack[ReportOptions],
) -> Scorecard:
    """Writes one HTML file that shows a model's prototypes, its decisions and its scores. The file works offline.

    Args:
        model: Prototype model.
        test: Test images with labels. A ``DataBundle`` also provides the training data.
        path: File to write. It appears only when it is complete.
        train: Training data, for ghosting and the nearest training images.
        black_box: Classifier to compare with; None takes the one that was converted.
        card: Scorecard of the same model and data, if ``evaluate`` has been called already.
        overwrite: Replace the file if it exists.
        **options: By name: ``title`` of the page; ``n_browse``, the largest number of test images to show, of which
            wrong and disagreeing ones come first; ``n_nearest``, the number of prototypes to show for each; and the
            options of ``evaluate``. With ``rule="share"`` the report also shows how stable its heat-maps are.

    Returns:
        The scorecard shown in the report.

    Raises:
        LookalikeError: If the file exists, or the test data are not images.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    path = checks.path("path", path)
    check_writable(path, checks.flag("overwrite", overwrite))
    checks.optional(checks.instance, "card", card, Scorecard, "a Scorecard")
    check_option_names("write_report", options, get_type_hints(ReportOptions))
    given: dict[str, Any] = dict(options)
    page = _Page(**{name: given.pop(name) for name in _PAGE_OPTIONS if name in given})
    of_evaluate: dict[str, Any] = {name: given.pop(name) for name in ("only", "seed", "resume") if name in given}
    settings = EvaluationSettings.of("write_report", given)
    _ = COMPOSITES[settings.composite]
    rule = prp_rule(model, settings.rule)
    rules = (settings.composite, rule)
    test, train, attributes, data_notes = unbundle_data(test, train, settings.attributes)
    data = test
    if not isinstance(test, Batches):
        data = Batches(test, settings.batch_size, settings.num_workers, settings.on_error)
    box = find_black_box(model, black_box, data, settings.class_order).box
    store = embed(model, data, progress=settings.progress)
    standing = (
        None if box is None else box.compare_with_labels(model, aligned_labels(store, model, "test"), store, data)
    )
    box_predictions = None if standing is None else standing.predictions
    if card is None:
        of_evaluate |= {**given, "attributes": attributes, "test_embeddings": store, "rule": rule}
        card = evaluate(model, data, black_box=box, train=train, **of_evaluate)
        card.notes[:0] = data_notes
    samples = explain_samples(
        model, data, store, box_predictions, page.n_browse, page.n_nearest, rules, settings.progress
    )
    gallery = gallery_by_class(model, card, samples.decisions, _training_images(model, train), rules)
    values: dict[str, Any] = {
        "title": page.title,
        "gallery": gallery,
        "charts": draw_charts(model, card, store),
        "map_rule": rule,
        **_score_values(model, card),
        **_browser_values(model, card, samples, len(store), box_predictions is not None),
    }
    write_whole(path, render(values), replace=overwrite)
    return card


def _score_values(model: PrototypeModel, card: Scorecard) -> dict[str, Any]:
    """Returns the template's values for the model's scores."""
    return {
        "card": card,
        "rows": card.rows(),
        "verdict": card.verdict(),
        "model": model,
        "classes": _class_rows(card),
        "confusion": _disagreements(card),
        "facts": _provenance_facts(card),
    }


def _browser_values(
    model: PrototypeModel, card: Scorecard, samples: Samples, n_test: int, has_black_box: bool
) -> dict[str, Any]:
    """Returns the template's values for the test images to browse."""
    class_names = [visible(name) for name in model.class_names]
    return {
        "map_notes": [note for note in samples.notes if note not in card.notes],
        "browse": {"n_shown": len(samples.entries), "n_test": n_test, "has_black_box": has_black_box},
        "data": _as_json({"classes": class_names, "samples": samples.entries}),
    }


def _training_images(model: PrototypeModel, train: Any) -> Batches | None:
    """Returns the training images, to show those nearest to prototypes; None if they are not the model's own.

    The model stores the nearest images by their row number, which means another image in other data.
    """
    if train is None or not hasattr(train, "__getitem__"):
        return None
    source, record = Batches(train), model.training_record
    return source if record.fingerprint is None or record.matches(source) else None


def check_writable(path: Path, overwrite: bool) -> None:
    """Checks that a file may be written, before any work is done.

    Raises:
        LookalikeError: If the path is a folder, the file exists, or its folder is missing.
    """
    if path.is_dir():
        raise LookalikeError(f"{str(path)!r} is a folder; give the name of a file, e.g. report.html")
    if path.exists() and not overwrite:
        raise LookalikeError(f"{str(path)!r} exists already; choose another place, or overwrite it (--overwrite)")
    if not path.resolve().parent.is_dir():
        raise LookalikeError(f"the folder {str(path.resolve().parent)!r} does not exist")


def render(values: Mapping[str, Any]) -> str:
    """Renders the page from the template's values. All text in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lookalike.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_as_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{share:.1%}"
    return environment.get_template("report.html").render(**values)


def _as_text(value: Any) -> Any:
    """Makes control characters in text visible; a browser would hide them or reverse the text."""
    return visible(value) if type(value) is str else value


def _as_json(value: Any) -> str:
    """Returns JSON whose text cannot close the script element around it."""
    text = json_text(value, separators=(",", ":"))
    # A class may be called "</script>". JSON's own escapes mean the same to the script, and nothing to the browser.
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _class_rows(card: Scorecard) -> list[dict[str, Any]]:
    """Returns a row of the table of classes for each class: its accuracy, agreement and separability."""
    if "faithfulness" not in card.details:
        return []
    separations_by_label = {
        figures["label"]: figures for figures in card.details.get("embedding", [{}])[0].get("classes", [])
    }
    rows = []
    for figures in card.details["faithfulness"][0]["per_class"]:
        separation = separations_by_label.get(figures["label"], {})
        rival = separation.get("rival")
        rows.append(
            {
                "name": card.class_names[figures["label"]],
                "n": figures["n"],
                **{
                    key: figures[key] and figures[key]["value"]
                    for key in ("accuracy", "black_box_accuracy", "agreement")
                },
                "low": figures["accuracy"] and figures["accuracy"]["low"],
                "high": figures["accuracy"] and figures["accuracy"]["high"],
                "overlap": separation.get("overlap"),
                "rival": None if rival is None else card.class_names[rival],
            }
        )
    return rows


def _disagreements(card: Scorecard) -> dict[str, Any] | None:
    """Returns the disagreements of black box and model: class pairs, most frequent first, and the matrix if small.

    Returns None if there is no black box.
    """
    matrix = card.details.get("faithfulness", [{}])[0].get("confusion")
    if matrix is None:
        return None
    counts = torch.tensor(matrix)
    off_diagonal = counts.clone().fill_diagonal_(0)
    order = off_diagonal.flatten().argsort(descending=True, stable=True)[:20].tolist()
    k = len(counts)
    pairs = [
        {"black_box": card.class_names[i // k], "model": card.class_names[i % k], "n": int(off_diagonal.flatten()[i])}
        for i in order
        if off_diagonal.flatten()[i] > 0
    ]
    elsewhere = card.details["faithfulness"][0].get("elsewhere") or 0
    return {
        "pairs": pairs,
        "matrix": matrix if k <= _LARGEST_MATRIX else None,
        "total": int(off_diagonal.sum()) + elsewhere,
        "elsewhere": elsewhere,
    }


def _provenance_facts(card: Scorecard) -> list[tuple[str, str]]:
    """Returns names and values of the options, data and versions behind the figures."""
    info = card.info
    options = dict(info["options"])
    provenance = info["model_provenance"]
    facts = [
        ("method", str(provenance.get("method", "–"))),
        ("options of the model", _one_line({k: v for k, v in provenance.items() if not isinstance(v, dict)})),
        ("images as", str(info.get("images_as") or "ready tensors")),
        ("similarity", _one_line(info["similarity"])),
        ("classifier", _one_line(info["classifier"])),
        ("options of the evaluation", _one_line(options)),
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


def _one_line(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_one_line(v) if isinstance(v, dict) else v}" for name, v in values.items() if v != {})
