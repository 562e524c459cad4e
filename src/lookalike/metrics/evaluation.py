"""evaluate(): the paper's framework (section 4.3) for any prototype model."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, RelevanceError
from lookalike._core.identity import current_scheme
from lookalike._core.progress import Advance, duration, print_line, progress_bar
from lookalike._core.provenance import fingerprint_json, fingerprint_tensors, versions
from lookalike._core.records import from_json, plain_json
from lookalike._core.replacing import remove_leftovers
from lookalike._core.untouched import keeps_random_states
from lookalike._core.wording import counted
from lookalike._core.working_folder import alone, differences, lock_beside, read_record, write_record, writing_to
from lookalike.data import Batches, warn_of_transparency
from lookalike.embedding import EmbeddingStore, embed
from lookalike.embedding.key import fingerprint_layers, identify_unsaved
from lookalike.encoder import Encoder, LoadedClassifier
from lookalike.metrics.black_box import BlackBox, find_black_box
from lookalike.metrics.budget import Budget, OutOfTimeError, Plan, by_worth, plan
from lookalike.metrics.class_order import untested_notes
from lookalike.metrics.context import Context, Options, aligned_labels, check_given_store, unbundle_data
from lookalike.metrics.data_check import check_data
from lookalike.metrics.object_section import ReadMasks, mask_reader
from lookalike.metrics.options import EvaluationOptions, EvaluationSettings
from lookalike.metrics.passes import Passes
from lookalike.metrics.scale import scale_notes
from lookalike.metrics.scorecard import Scorecard
from lookalike.metrics.sections import Section, stored_activations
from lookalike.metrics.selection import select_sections, select_standard, uses_train
from lookalike.model import PrototypeModel
from lookalike.model.classifier import NearestPrototype

_IDENTITIES = "identities"  # entry of a key: how data are identified


@keeps_random_states
def evaluate(
    model: PrototypeModel,
    test: Any,
    *,
    black_box: nn.Module | LoadedClassifier | BlackBox | None = None,
    train: Any = None,
    only: Sequence[str] | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    **options: Unpack[EvaluationOptions],
) -> Scorecard:
    """Measures transparency, faithfulness, robustness and diversity of a prototype model.

    Args:
        model: Any prototype model.
        test: Test data: a folder, of which the model's training images are left out, a data set, loader, pair of
            arrays, ``DataBundle`` (which also supplies training data and attributes), or an ``EmbeddingStore``, which
            is enough for the measures that need no images.
        black_box: The classifier to compare with; None takes the one that the model was converted from. A ``BlackBox``
            that several evaluations share is measured once.
        train: Training data, or their ``EmbeddingStore``: for ghosting and the diagnosis of the embedding.
        only: Names of sections, e.g. ``("transparency", "faithfulness")``; None takes all that can be measured, with a
            note for each of the others. Standard measures are optional sections, and can be named here too.
        seed: Seed of the first run; each later run adds 1. The same seed gives the same figures.
        resume: A file that saves each section once it is measured. A later call with the same model, data and options
            reads these sections from it.
        **options: Everything else, by name:

            - what is measured: ``sanity``, ``measures``, ``attributes``, ``masks``, ``scope``
            - how much: ``n_images``, ``n_runs``, ``n_steps``, ``n_draws``, ``noise``, ``budget``
            - relevance: ``composite``, ``rule``
            - reading: ``batch_size``, ``num_workers``, ``on_error``, ``precision``, ``test_embeddings``,
              ``train_embeddings``
            - ``class_order``, ``progress``

            ``lookalike.metrics.EvaluationSettings`` documents each.

    Returns:
        The scorecard.

    Raises:
        LookalikeError: If the inputs of a section requested by name are missing, the black box or the data have other
            classes than the model, embeddings were made by another encoder, or there are no test samples.
        TypeError: If there is no option of a name.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    checks.optional(checks.path, "resume", resume)
    settings = EvaluationSettings.of("evaluate", options)
    budget = Budget.of(settings.budget)
    measuring = settings.measuring(model, seed)
    test, train, attributes, data_notes = unbundle_data(model, test, train, settings.attributes)
    data = settings.read(test)
    train = None if train is None else settings.read(train)
    test_data, store = (None, data) if isinstance(data, EmbeddingStore) else (data, None)
    warn_of_transparency(getattr(test_data, "dataset", None), "test")
    box, no_box_reason = find_black_box(model, black_box, test_data, settings.class_order)
    store = store if settings.test_embeddings is None else settings.test_embeddings
    for given in (store, train, settings.train_embeddings):
        if isinstance(given, EmbeddingStore):
            check_given_store(given, model, test_data if given is settings.test_embeddings else None)
    masks = mask_reader(settings.masks, test_data)
    inputs = _Inputs(test_data, store, train, attributes, box, masks, settings.train_embeddings)
    available = inputs.available(model, settings.scope)
    sections, notes = select_sections(only, available, settings.sanity)
    standard, standard_notes = select_standard(settings.measures, available)
    sections += [section for section in standard if section not in sections]
    notes += [*standard_notes, *([f"the black box is not compared with: {no_box_reason}"] if no_box_reason else [])]
    with progress_bar("Evaluating", _count_steps(model, sections, measuring, inputs), settings.progress) as advance:
        context, sections, unread = _embedded(
            model, measuring, inputs, sections, advance, budget if resume is None else None
        )
        check = check_data(
            model, test_data, context.test_store, train if isinstance(train, Batches) else None, context.train_store
        )
        if check.training_data == "other" and only is None and attributes is not None:
            sections = [section for section in sections if "attributes" not in section.needs]
            notes.append("attributes were not measured: they belong to other training data than the model's")
        info = _info(context, sections) | {"data_check": check.to_dict()}
        with nullcontext() if resume is None else alone(lock_beside(Path(resume))):
            saved = _SavedSections(resume, {} if resume is None else _evaluation_key(context, info))
            planned = plan(context, [each for each in sections if saved.get(each.name, 0) is None], budget)
            planned.left_out |= unread
            print_line(planned.announcement(measuring.n_runs), settings.progress)
            if budget is not None:
                sections, context.advance = by_worth(sections), budget.stopping(advance)
                info["budget"] = planned.to_dict()
            named = () if settings.measures is None or settings.measures == "all" else settings.measures
            asked_for = {*(only or ()), *named}
            runs, details = _measure(context, sections, saved, planned, asked_for)
    notes = [*planned.notes(), *data_notes, *notes, *_notes_on_figures(context, sections, set(runs))]
    if check.sentences():
        details["data"] = [{"sentences": check.sentences(), "n_leaked": check.n_leaked}]
    return Scorecard(runs, details, list(model.class_names), notes, info)


class _Inputs(NamedTuple):
    """The data and the black box of an evaluation, before anything is embedded.

    Attributes:
        data: The test data; None if there are only embeddings.
        store: Embeddings of the test data; None if they are still to be made.
        train: The training data, their embeddings, or None.
        attributes: Attributes of the training samples, or None.
        box: The black box, or None.
        masks: Reads the masks of the test images, or None.
        train_store: Embeddings of the training data; None if they are still to be made.
    """

    data: Batches | None
    store: EmbeddingStore | None
    train: Batches | EmbeddingStore | None
    attributes: Any
    box: BlackBox | None
    masks: ReadMasks | None = None
    train_store: EmbeddingStore | None = None

    def available(self, model: PrototypeModel, scope: str) -> dict[str, bool]:
        """Returns which needs of sections these inputs fulfil."""
        return {
            "train": self.train is not None,
            "activations": self.train is not None or stored_activations(model, scope) is not None,
            "images": self.data is not None and self.data.can_fetch and _has_images(self.data),
            "attributes": self.attributes is not None,
            "masks": self.masks is not None,
            "black box": self.box is not None,
            "no black box": self.box is None and isinstance(model.classifier, NearestPrototype),
            "whole images": not model.has_patches,
            "clusters": model.provenance.get("clusterer") is not None,
            "prototype images": model.images is not None,
            "three classes": model.n_classes >= 3,
            "two classes": model.n_classes >= 2,
        }


def _embedded(
    model: PrototypeModel,
    options: Options,
    inputs: _Inputs,
    sections: list[Section],
    advance: Advance,
    budget: Budget | None,
) -> tuple[Context, list[Section], dict[str, str]]:
    """Embeds the test data, and the training data if a section uses them and they can be read within the budget.

    Without a budget they are read in any case. So they are for an evaluation that is resumed: its file is for one
    training set.

    Returns:
        The context, the sections that it suits, and why each of the others is left out.
    """
    data, store, train, attributes, box, masks, train_store = inputs
    if store is None:
        assert data is not None  # there is one or the other
        with Budget.embedding_within(budget) as took:
            store = embed(model, data, progress=advance)
            took(len(store))
    unread: dict[str, str] = {}
    train_rows = train.rows if isinstance(train, Batches) else None
    if isinstance(train, Batches) and uses_train(sections):
        if train_store is not None:
            train = train_store
        elif budget is None or budget.allows_reading(train.total):
            train = embed(model, train, progress=advance)
        else:
            seconds = None if train.total is None else train.total * budget.seconds_per_image
            sections, unread = _without_train(model, options, sections, seconds)
    train_store = train if isinstance(train, EmbeddingStore) else None
    labels = aligned_labels(store, model, "test")
    context = Context(
        model,
        options,
        data,
        store,
        labels,
        train_store,
        None if train_store is None else aligned_labels(train_store, model, "training"),
        box,
        None if box is None else box.compare_with_labels(model, labels, store, data),
        None if attributes is None else checks.tensor("attributes", attributes, ("N", "A")),
        masks,
        advance,
        train_rows=train_rows,
    )
    return context, sections, unread


def _without_train(
    model: PrototypeModel, options: Options, sections: list[Section], seconds: float | None
) -> tuple[list[Section], dict[str, str]]:
    """Returns the sections that need no training data, and why each of the others is left out."""
    counted = stored_activations(model, options.scope) is not None
    kept = [each for each in sections if "train" not in each.needs and (counted or "activations" not in each.needs)]
    reason = "nobody knows how many training images there are to read, and so how long it takes"
    if seconds is not None:
        reason = f"reading the training images takes about {duration(seconds)}"
    return kept, {each.name: reason for each in sections if each not in kept}


def _notes_on_figures(context: Context, sections: list[Section], figures: set[str]) -> list[str]:
    """Returns notes on the black box, the number of images, the scale of the embedding and skipped images."""
    n_test, store = len(context.test_store), context.test_store
    notes = [] if context.standing is None else list(context.standing.notes)
    notes += untested_notes(context.labels, context.model.class_names)
    if n_test < context.options.n_images and any(section.per_run for section in sections):
        verb = "is" if n_test == 1 else "are"
        notes.append(f"there {verb} only {counted(n_test, 'test image')}: explanations are measured on all of them")
    notes += [*context.notes, *scale_notes(context.model, figures)]
    for role, embedded in (("test", store), ("training", context.train_store)):
        if embedded is not None and embedded.skipped:
            notes.append(f"{counted(len(embedded.skipped), f'{role} image')} could not be read and had to be left out")
    return notes


def _measure(
    context: Context, sections: list[Section], saved: "_SavedSections", planned: Plan, asked_for: set[str]
) -> tuple[dict[str, list[float]], dict[str, list[dict[str, Any]]]]:
    """Measures all sections in all runs; returns figures by name and details by section, one entry per run.

    A section that fails becomes a note, so that the others are not lost with it. It is an error if it was asked for by
    name (``asked_for``), but for relevance propagation, which some networks do not allow; and if no section can be
    measured. One that does not fit into the budget is left out.
    """
    failed: LookalikeError | None = None
    runs: dict[str, list[float]] = {}
    details: dict[str, list[dict[str, Any]]] = {}
    for run in range(context.options.n_runs):
        for section in sections:
            if run and not section.per_run:
                continue
            try:
                result = saved.get(section.name, run)
                if result is None and not planned.admits(section):
                    continue
                if result is None:
                    started = 0.0 if planned.budget is None else planned.budget.clock()
                    result = saved.put(section.name, run, *section.measure(context, run))
                    planned.measured(section, 0.0 if planned.budget is None else planned.budget.clock() - started)
            except OutOfTimeError:
                planned.stopped(section)
                continue
            except LookalikeError as error:
                if section.name in asked_for and not isinstance(error, RelevanceError):
                    raise
                failed = error if failed is None else failed
                context.note(f"section '{section.name}' was not measured: {error}")
                continue
            figures, section_details = result
            for name, value in figures.items():
                runs.setdefault(name, []).append(value)
            details.setdefault(section.name, []).append(section_details)
        context.forget(run)
    if failed is not None and not details:
        raise failed
    return runs, details


@dataclass(frozen=True)
class _SavedRecord:
    """The contents of the file: the evaluation's key, and figures and details by section and run."""

    key: dict[str, str]
    done: dict[str, tuple[dict[str, float], dict[str, Any]]]


def _evaluation_key(context: Context, info: dict[str, Any]) -> dict[str, str]:
    """Returns fingerprints of everything that the figures of a section depend on, by name."""
    box, store, train = context.black_box, context.test_store, context.train_store
    provenance = {name: info[name] for name in info if name not in ("sections", "samples", "seeds", "n_runs")}
    fingerprints = {
        "layers": fingerprint_layers(context.model),
        "unsaved": [
            identify_unsaved(encoder)
            for encoder in (context.model.encoder, None if box is None else box.encoder)
            if isinstance(encoder, Encoder)
        ],
        "outputs_of_black_box": None if box is None else [asdict(box.outputs), fingerprint_layers(box.encoder.model)],
        "class_names": list(context.model.class_names),
        _IDENTITIES: current_scheme(),
        "labels": fingerprint_tensors({"labels": context.labels}),
        "transform": [store.info.get("transform"), None if train is None else train.info.get("transform")],
        "attributes": None if context.attributes is None else fingerprint_tensors({"attributes": context.attributes}),
        "masks": _fingerprint_of_masks(context),
    }
    return {name: fingerprint_json(plain_json(value)) for name, value in (provenance | fingerprints).items()}


def _fingerprint_of_masks(context: Context) -> str | None:
    """Returns the fingerprint of the masks of all images that are explained; None without masks."""
    if context.masks is None:
        return None
    samples = sorted({sample for run in range(context.options.n_runs) for sample in context.sample(run)})
    return fingerprint_tensors({"masks": context.masks(samples)})


class _SavedSections:
    """The sections measured so far, saved in a file so that an interrupted evaluation can resume."""

    def __init__(self, path: str | Path | None, key: dict[str, str]) -> None:
        self.path = None if path is None else Path(path)
        self.key = key
        self.done: dict[str, Any] = {}
        if self.path is None:
            return
        remove_leftovers(self.path)
        if not self.path.exists():
            return
        try:
            saved: _SavedRecord = from_json(_SavedRecord, read_record(self.path), "it")
        except LookalikeError as error:
            raise LookalikeError(
                f"cannot resume the evaluation in {str(self.path)!r}: {error}; give another file, or remove it"
            ) from error
        if _IDENTITIES not in saved.key:
            raise LookalikeError(
                f"{str(self.path)!r} was begun by an earlier version of lookalike, which identified data differently; "
                "give another file, or remove it"
            )
        differing = differences(saved.key, self.key)
        if differing:
            raise LookalikeError(
                f"{str(self.path)!r} holds an evaluation with other {differing}; give another file, or remove it"
            )
        self.done = dict(saved.done)

    def get(self, section: str, run: int) -> tuple[dict[str, float], dict[str, Any]] | None:
        entry = self.done.get(f"{section}/{run}")
        return None if entry is None else (entry[0], entry[1])

    def put(
        self, section: str, run: int, figures: dict[str, float], details: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        if self.path is not None:
            self.done[f"{section}/{run}"] = [figures, details]
            with writing_to(self.path.parent, "the sections measured before are saved"):
                write_record(self.path, {"key": self.key, "done": self.done})
        return figures, details


def _count_steps(model: PrototypeModel, sections: list[Section], options: Options, inputs: _Inputs) -> int | None:
    """Returns how many rows will pass through a network, for the progress bar; None if that is not known."""
    names = {section.name for section in sections}
    if any(section.optional for section in sections):
        return None
    data, train = inputs.data, inputs.train
    row_counts: list[int | None] = [data.total if data is not None and inputs.store is None else 0]
    if isinstance(train, Batches) and inputs.train_store is None and uses_train(sections):
        row_counts.append(train.total)
    n = options.n_images if data is None or data.total is None else min(options.n_images, data.total)
    if "robustness" in names:
        passes = Passes(model, inputs.box, options.precision, options.batch_size)
        rows = passes.ordering_rows(n, options.n_steps, options.n_draws)
        row_counts.append(options.n_runs * (rows + n * (1 if inputs.box is None else 2)))
    if "explanations" in names:
        row_counts.append(options.n_runs * n * (1 if "robustness" in names else 2))
    if "sanity" in names:
        row_counts.append(None)  # the number of depths is known only when it runs
    known_counts = [count for count in row_counts if count is not None]
    return sum(known_counts) if len(known_counts) == len(row_counts) else None


def _has_images(data: Batches) -> bool:
    first = next(iter(data), None)
    if first is None:
        raise LookalikeError("there are no samples to evaluate on")
    return isinstance(first.inputs, Tensor) and first.inputs.ndim == 4


def _info(context: Context, sections: list[Section]) -> dict[str, Any]:
    """Returns the scorecard's record of its options, seeds, samples, versions and fingerprints."""
    model, box = context.model, context.black_box
    options = asdict(context.options)
    runs = options.pop("n_runs")
    per_run = any(section.per_run for section in sections)
    return {
        "model": fingerprint_tensors({k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}),
        "similarity": {"name": model.similarity.name, "options": model.similarity.options()},
        "classifier": {"name": model.classifier.name, "options": model.classifier.options()},
        "images_as": model.preprocessing.describe() if model.preprocessing else None,
        "black_box": None if box is None else box.fingerprint,
        "test_data": context.test_store.info.get("data"),
        "train_data": None if context.train_store is None else context.train_store.info.get("data"),
        "n_test": len(context.test_store),
        "n_train": None if context.train_store is None else len(context.train_store),
        "skipped": len(context.test_store.skipped),
        "options": options,
        "n_runs": runs,
        "seeds": [context.options.seed + run for run in range(runs)],
        "sections": [section.name for section in sections],
        "samples": [context.sample(run) for run in range(runs)] if per_run else [],
        "model_provenance": model.provenance,
        "versions": versions(),
    }
