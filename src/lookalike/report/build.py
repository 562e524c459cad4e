"""Building the report: measures and explains a model, and renders everything into one page."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Unpack, get_type_hints

from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.files import check_writable, write_whole
from lookalike._core.identity import are_comparable
from lookalike._core.names import visible
from lookalike._core.provenance import fingerprint_tensors
from lookalike._core.untouched import keeps_random_states
from lookalike._core.wording import counted
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import LoadedClassifier
from lookalike.explanation import Explainer
from lookalike.metrics import EvaluationOptions, EvaluationSettings, Scorecard, evaluate
from lookalike.metrics.black_box import find_black_box
from lookalike.metrics.budget import Budget
from lookalike.metrics.context import aligned_labels, unbundle_data
from lookalike.model import PrototypeModel
from lookalike.report.commands import Commands
from lookalike.report.duplicates import find_duplicates, mirrored_embeddings
from lookalike.report.examples import decide, explain_examples
from lookalike.report.extras import fitting_extras
from lookalike.report.material import Material, PageOptions
from lookalike.report.page import render
from lookalike.report.prototypes import prototype_entries
from lookalike.report.reservations import reservations
from lookalike.report.sections import render_sections
from lookalike.report.words import unfamiliar_means


class ReportOptions(EvaluationOptions, total=False):
    """The keyword options of ``write_report``: its own, and those of ``evaluate``."""

    title: str
    n_browse: int
    n_maps: int
    n_nearest: int
    intended_use: str | None
    command: str | None
    commands: Commands
    only: Sequence[str] | None
    seed: int
    resume: str | Path | None


# A report should take a minute, not half an hour: most of the time goes into the curves of relevance ordering, which
# need images × steps × draws × 4 passes. ``evaluate`` measures more.
_QUICK = {"n_images": 30, "n_draws": 1}
# Of what is left of a budget after the embedding: the test images with their heat-maps, then of the rest the figures.
# Drawing the page takes what remains.
_ASKS_FOR_FIGURES = ("only", "resume", "measures", "sanity")
_SHARE_OF_IMAGES, _SHARE_OF_FIGURES = 0.4, 0.5
_PAGE_OPTIONS = tuple(field.name for field in fields(PageOptions))


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
        test: Test images with labels: as for ``evaluate``. A folder or a ``DataBundle`` also
            provides the training data.
        path: File to write. It appears only when it is complete.
        train: Training data, for ghosting and the nearest training images.
        black_box: Classifier to compare with; None takes the one that was converted.
        card: Scorecard of the same model and data, if ``evaluate`` has been called already.
        overwrite: Replace the file if it exists.
        **options: By name: ``title`` of the page; ``n_browse``, the largest number of test images to show, and
            ``n_maps``, the number of these with heat-maps, of which wrong and disagreeing ones come first;
            ``n_nearest``, the number of prototypes to show for each; ``intended_use`` and ``command``, texts for the
            reader; ``commands``, the model's folder and the data's for the commands that the page names; and the
            options of ``evaluate``, of which ``n_images`` is 30 and ``n_draws`` 1 by default. With ``rule="share"`` the
            report also shows how stable its heat-maps are.

    Returns:
        The scorecard shown in the report.

    Raises:
        LookalikeError: If the file exists, the test data are not images, or the scorecard is of another model or of
            other test data, or options ask for figures beside it.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    path = checks.path("path", path)
    check_writable(path, checks.flag("overwrite", overwrite))
    checks.optional(checks.instance, "card", card, Scorecard, "a Scorecard")
    checks.option_names("write_report", options, get_type_hints(ReportOptions))
    unused = [name for name in _ASKS_FOR_FIGURES if options.get(name)]
    if card is not None and unused:
        raise LookalikeError(f"with a scorecard (card=…) nothing is measured: leave out {' and '.join(unused)}")
    report_options: dict[str, Any] = _QUICK | dict(options)
    page = PageOptions(**{name: report_options.pop(name) for name in _PAGE_OPTIONS if name in report_options})
    of_evaluate: dict[str, Any] = {
        name: report_options.pop(name) for name in ("only", "seed", "resume") if name in report_options
    }
    of_evaluate.setdefault("only", None)
    settings = EvaluationSettings.of("write_report", report_options)
    budget = Budget.of(settings.budget)
    explainer = Explainer(
        model, n_nearest=page.n_nearest, relevance=True, composite=settings.composite, rule=settings.rule
    )
    test, train, attributes, data_notes = unbundle_data(model, test, train, settings.attributes)
    data = test
    if not isinstance(test, Batches):
        data = Batches(test, settings.batch_size, settings.num_workers, settings.on_error)
    box = find_black_box(model, black_box, data, settings.class_order).box
    with nullcontext() if budget is None else budget.embedding(data.total or 0):
        store = embed(model, data, progress=settings.progress)
    standing = (
        None if box is None else box.compare_with_labels(model, aligned_labels(store, model, "test"), store, data)
    )
    is_given_card = card is not None
    if card is not None:
        _check_card(card, model, store)
    decisions = decide(model, store, None if standing is None else standing.predictions)
    examples = explain_examples(
        explainer,
        data,
        store,
        decisions,
        n_browse=page.n_browse,
        n_maps=page.n_maps,
        progress=settings.progress,
        budget=None if budget is None else budget.part_of_left(1 if card is not None else _SHARE_OF_IMAGES),
    )
    training_images, why_no_training = _training_images(model, train)
    train_store: EmbeddingStore | None = None
    if card is None:
        of_evaluate |= {**report_options, "attributes": attributes, "test_embeddings": store, "rule": explainer.rule}
        bound = budget if of_evaluate.get("resume") is None else None
        train, train_store = _embedded_training_data(model, train, of_evaluate["only"], settings, bound)
        of_evaluate["train_embeddings"] = train_store
        of_evaluate["budget"] = None if budget is None else budget.part_of_left(_SHARE_OF_FIGURES)
        card = evaluate(model, data, black_box=box, train=train, **of_evaluate)
        card.notes[:0] = data_notes
    extras = fitting_extras(model, examples, budget)
    examples.notes.extend(extras.notes)
    if training_images is None:
        train_store = None  # other data than the model's own
    commands = replace(page.commands, is_audited=not model.has_patches)
    if training_images is not None:
        commands = commands.with_own_training_data()
    if train_store is None and not why_no_training:
        why_no_training = _why_not_read(is_given_card, commands)
    n_leaked = card.details.get("data", [{}])[0].get("n_leaked", 0)
    # to embed an image takes less time than to explain it
    reads_again = not is_given_card and (budget is None or budget.left > len(store) * examples.seconds_per_image)
    mirrored = mirrored_embeddings(model, data, store) if reads_again else None
    duplicates = find_duplicates(
        model, store, train_store, decisions, why_no_training, n_leaked=n_leaked, audit=commands.audit(),
        mirrored=mirrored,
    )  # fmt: skip
    for entry in examples.entries:
        entry["is_copy"] = duplicates is not None and entry["row"] in duplicates.of_training
    material = Material(
        model, card, store, decisions, examples, explainer, data, training_images, page, extras, train_store,
        duplicates, why_no_training, commands,
    )  # fmt: skip
    write_whole(path, _page_of(material), replace=overwrite)
    return card


def _why_not_read(is_given_card: bool, commands: Commands) -> str:
    """Returns why the page has no embeddings of training images that are there, and the way out."""
    audit = commands.audit()
    also = "" if audit is None else f", or list near duplicates by '{audit}'"
    if is_given_card:
        return (
            "the figures are those of a given scorecard, for which nothing is read again; leave out '--scorecard' "
            f"(card=…) to have them read{also}"
        )
    return f"they were not read for this report; leave out 'budget' and 'only' to have them read{also}"


def _embedded_training_data(
    model: PrototypeModel, train: Any, only: Sequence[str] | None, settings: EvaluationSettings, budget: Budget | None
) -> tuple[Any, EmbeddingStore | None]:
    """Embeds the training data once, for the evaluation and the page, if the evaluation reads them in its time."""
    if train is None or isinstance(train, EmbeddingStore):
        return train, train
    if only is not None and not {"transparency", "embedding"} & set(only):
        return train, None
    batches = settings.read(train)
    if isinstance(batches, EmbeddingStore) or not (budget is None or budget.allows_reading(batches.total or 0)):
        return train, None
    return batches, embed(model, batches, progress=settings.progress)


def _check_card(card: Scorecard, model: PrototypeModel, store: EmbeddingStore) -> None:
    """Checks that a given scorecard is of this model and these test data.

    Raises:
        LookalikeError: If it is not.
    """
    weights = fingerprint_tensors({name: x for name, x in model.state_dict().items() if isinstance(x, Tensor)})
    pairs = (("model", weights), ("test_data", store.info.get("data")), ("n_test", len(store)))
    for name, value in pairs:
        measured = card.info.get(name)
        if name == "test_data" and isinstance(measured, str) and value and not are_comparable(measured, value):
            raise LookalikeError(
                "the scorecard was measured by an earlier version of lookalike, which identified data differently; "
                "measure again, or leave the scorecard out"
            )
        if measured is not None and value is not None and measured != value:
            other_subject = "another model" if name == "model" else "other test data"
            raise LookalikeError(
                f"the scorecard is of {other_subject}; measure this one again, or leave the scorecard out"
            )


def _page_of(material: Material) -> str:
    """Renders the whole page."""
    model = material.model
    subtitle = (
        f"{counted(len(model.prototypes), 'prototype')} of {counted(model.n_classes, 'class', 'classes')} · "
        f"{counted(len(material.decisions.labels), 'test image')}"
    )
    data = {
        "classes": [visible(name) for name in model.class_names],
        "prototypes": prototype_entries(model, material.decisions),
        "samples": material.examples.entries,
        "unfamiliar": unfamiliar_means(model),
        "reservations": reservations(material),
    }
    return render(material.page.title, subtitle, render_sections(material), data)


def _training_images(model: PrototypeModel, train: Any) -> tuple[Batches | None, str]:
    """Returns the training images, to show those nearest to prototypes, or why not, with the way out.

    The model stores the nearest images by their row number, which means another image in other data.
    """
    if train is None:
        return None, "none were given; give those that the model was made from"
    if not hasattr(train, "__getitem__"):
        return None, "they cannot be read one by one; give a data set or a folder"
    source, record = Batches(train), model.training_record
    if record.fingerprint is None or record.matches(source):
        return source, ""
    return None, (
        "those given are not the ones that the model was made from, or were changed since; give the folder or the data "
        "set that it was converted with"
    )
