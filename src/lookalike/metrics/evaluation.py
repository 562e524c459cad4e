"""evaluate(): the paper's framework (section 4.3) for any prototype model."""

import difflib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, RelevanceError
from lookalike._core.progress import Advance, progress_bar
from lookalike._core.provenance import fingerprint_json, fingerprint_tensors, versions
from lookalike._core.records import from_json, plain_json
from lookalike._core.replacing import remove_leftovers
from lookalike._core.untouched import keeps_random_states
from lookalike._core.working_folder import alone, differences, lock_beside, read_record, write_record, writing_to
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore, embed
from lookalike.embedding.key import fingerprint_layers
from lookalike.encoder import ClassOrder, LoadedClassifier
from lookalike.metrics.black_box import BlackBox, Precision, find_black_box
from lookalike.metrics.context import Context, Options, aligned_labels, unbundle_data
from lookalike.metrics.data_check import check_data
from lookalike.metrics.scale import scale_notes
from lookalike.metrics.scorecard import Scorecard
from lookalike.metrics.sections import SECTIONS, Section, stored_activations
from lookalike.model import PrototypeModel
from lookalike.relevance import PrpRule, prp_rule

_LACKING = {
    "train": "no training data were given",
    "activations": "no training data were given, and the model does not know how often they activate its prototypes",
    "images": "the test data are no images that can be read again",
    "attributes": "no attributes of the training data were given",
    "black box": "there is no black box with these classes to compare with",
}


@keeps_random_states
def evaluate(
    model: PrototypeModel,
    test: Any,
    *,
    black_box: nn.Module | LoadedClassifier | BlackBox | None = None,
    class_order: ClassOrder = None,
    train: Any = None,
    attributes: Tensor | np.ndarray | None = None,
    only: Sequence[str] | None = None,
    sanity: bool = False,
    measures: Sequence[str] | Literal["all"] | None = None,
    n_images: int = 100,
    n_runs: int = 1,
    n_steps: int = 20,
    n_draws: int = 5,
    random_state: int = 0,
    composite: str = "epsilon-plus-flat",
    scope: Literal["class", "all"] = "class",
    precision: Precision = "float32",
    rule: PrpRule | None = None,
    batch_size: int = 256,
    num_workers: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    test_embeddings: EmbeddingStore | None = None,
    resume: str | Path | None = None,
    progress: bool | Advance | None = None,
) -> Scorecard:
    """Measures transparency, faithfulness, robustness and diversity of a prototype model.

    Args:
        model: Any prototype model.
        test: Test data: a data set, loader, pair of arrays, ``DataBundle`` (its test part; its training part and
            attributes serve as those), or an ``EmbeddingStore``, from which only what needs no images is measured.
        black_box: The classifier to compare with; None takes the one that the model was converted from. A ``BlackBox``
            that several evaluations share is measured once.
        class_order: The names of the black box's outputs, in their order, if it does not know them or wrongly: names, a
            file with a line per output, or ``"natural"`` for the model's classes as timm orders them.
        train: Training data, or the ``EmbeddingStore`` of them: for ghosting and the embedding's diagnosis.
        attributes: Binary attributes of the training samples [N, A], in the data's order.
        only: Which sections, e.g. ``("transparency", "faithfulness")``; None takes all that can be measured, and notes
            the others.
        sanity: Also randomise the model's weights from the head down and its labels, and follow its explanations.
            the others. Standard measures are optional sections, and can be named here too.
        measures: Standard measures of the field to measure besides, e.g. ``("deletion", "road", "sensitivity")``, or
            ``"all"`` that can be measured; the reference page on measures lists them.
        n_images: Of how many test images explanations are measured.
        n_runs: How often that is done, with other images and noise; figures are means then.
        n_steps: Steps of the relevance-ordering curve.
        n_draws: Draws of noise per image.
        random_state: Seed.
        composite: Rules of relevance propagation.
        scope: Whether ghosting compares prototypes within the ``"class"`` or ``"all"``.
        precision: ``"bfloat16"`` classifies noisy images in it: quicker where the processor has it.
        rule: How PRP starts at the similarity layer, see ``relevance.prp``; None takes the default, ``"neuralized"``;
            ``"share"`` is the paper's.
        batch_size: The most rows that pass through a network at once.
        num_workers: Processes that read images.
        on_error: ``"skip"`` leaves out images that cannot be read.
        test_embeddings: The embeddings of ``test``, where ``embed`` has made them already.
        resume: A file that keeps each section as soon as it is measured; with the same model, data and options, those
            in it are not measured again.
        progress: Show one progress bar for all; None shows it on a terminal.

    Returns:
        The scorecard.

    Raises:
        LookalikeError: If a section that was asked for by name lacks what it needs, the black box or the data have
            other classes than the model, or there are no test samples.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    checks.optional(checks.instance, "test_embeddings", test_embeddings, EmbeddingStore, "an EmbeddingStore")
    checks.optional(checks.path, "resume", resume)
    checks.progress("progress", progress)
    rule = prp_rule(model, rule)
    options = Options(n_images, n_runs, n_steps, n_draws, random_state, composite, scope, precision, batch_size, rule)
    test, train, attributes, data_notes = unbundle_data(test, train, attributes)
    data = None if isinstance(test, EmbeddingStore) else _batches(test, batch_size, num_workers, on_error)
    train = (
        train
        if train is None or isinstance(train, EmbeddingStore)
        else _batches(train, batch_size, num_workers, on_error)
    )
    box, lacking = find_black_box(model, black_box, data, class_order)
    train_data = train if isinstance(train, Batches) else None
    images = data is not None and data.can_fetch and _is_image(data)
    has = {
        "train": train is not None,
        "activations": train is not None or stored_activations(model, scope) is not None,
        "images": images,
        "attributes": attributes is not None,
        "black box": box is not None,
    }
    sections, notes = _chosen(only, has, checks.flag("sanity", sanity))
    standard, lacking_standard = _standard(measures, has)
    sections += [section for section in standard if section not in sections]
    notes += lacking_standard
    notes += [f"the black box is not compared with: {lacking}"] if lacking else []
    total = _steps(sections, options, data, train, box, test_embeddings)
    with progress_bar("Evaluating", total, progress) as advance:
        if data is not None and test_embeddings is None:
            test_embeddings = embed(model, data, progress=advance)
        store = test if test_embeddings is None else test_embeddings
        wanted = {need for section in sections for need in (*section.needs, *section.uses)}
        if isinstance(train, Batches) and wanted & {"train", "activations"}:
            train = embed(model, train, progress=advance)
        labels = aligned_labels(store, model, "test")
        context = Context(
            model,
            options,
            data,
            store,
            labels,
            train if isinstance(train, EmbeddingStore) else None,
            aligned_labels(train, model, "training") if isinstance(train, EmbeddingStore) else None,
            box,
            None if box is None else box.compare_with_labels(model, labels, store, data),
            None if attributes is None else checks.tensor("attributes", attributes, ("N", "A")),
            advance,
        )
        check = check_data(model, data, store, train_data, context.train_store)
        if check.training_data == "other" and only is None and attributes is not None:
            sections = [section for section in sections if "attributes" not in section.needs]
            notes.append("attributes were not measured: they are of other data than those the model was made from")
        info = _info(context, sections) | {"data_check": check.to_dict()}
        with nullcontext() if resume is None else alone(lock_beside(Path(resume))):
            kept = _Kept(resume, _evaluation_key(context, info))
            runs, details = _measure(context, sections, kept, lenient=measures == "all")
    notes[:0] = data_notes
    if context.standing is not None:
        notes += context.standing.notes
    if len(store) < options.n_images and any(section.per_run for section in sections):
        notes.append(f"there are only {len(store)} test images: explanations are measured on all of them")
    notes += [*context.notes, *scale_notes(model, set(runs))]
    for what, embedded in (("test", store), ("training", context.train_store)):
        if embedded is not None and embedded.skipped:
            notes.append(f"{len(embedded.skipped)} {what} images could not be read and are left out")
    if check.sentences():
        details["data"] = [{"sentences": check.sentences()}]
    return Scorecard(runs, details, list(model.class_names), notes, info)


def _measure(
    context: Context, sections: list[Section], kept: "_Kept", *, lenient: bool
) -> tuple[dict[str, list[float]], dict[str, list[dict[str, Any]]]]:
    runs: dict[str, list[float]] = {}
    details: dict[str, list[dict[str, Any]]] = {}
    for run in range(context.options.n_runs):
        for section in sections:
            if run and not section.per_run:
                continue
            try:
                result = kept.get(section.name, run) or kept.put(section.name, run, *section.measure(context, run))
            except LookalikeError as error:
                passes = isinstance(error, RelevanceError) or (lenient and section.optional)
                if not passes or len(sections) == 1:
                    raise
                context.note(f"{section.name} was not measured: {error}")
                continue
            figures, found = result
            for name, value in figures.items():
                runs.setdefault(name, []).append(value)
            details.setdefault(section.name, []).append(found)
        context.forget(run)
    return runs, details


@dataclass(frozen=True)
class _Sections:
    """What the file of an unfinished evaluation holds: figures and details, by section and run."""

    key: dict[str, str]
    done: dict[str, tuple[dict[str, float], dict[str, Any]]]


def _evaluation_key(context: Context, info: dict[str, Any]) -> dict[str, str]:
    """Returns everything that the figures of a section depend on, by name, as fingerprints."""
    box, store, train = context.black_box, context.test_store, context.train_store
    made = {name: info[name] for name in info if name not in ("sections", "samples", "seeds", "n_runs")}
    more = {
        "layers": fingerprint_layers(context.model),
        "outputs_of_black_box": None if box is None else [asdict(box.outputs), fingerprint_layers(box.encoder.model)],
        "class_names": list(context.model.class_names),
        "labels": fingerprint_tensors({"labels": context.labels}),
        "transform": [store.info.get("transform"), None if train is None else train.info.get("transform")],
        "attributes": None if context.attributes is None else fingerprint_tensors({"attributes": context.attributes}),
    }
    return {name: fingerprint_json(plain_json(value)) for name, value in (made | more).items()}


class _Kept:
    """What is measured already, in a file."""

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
            saved: _Sections = from_json(_Sections, read_record(self.path), "it")
        except LookalikeError as error:
            raise LookalikeError(
                f"cannot resume the evaluation in {str(self.path)!r}: {error}; give another file, or remove it"
            ) from error
        differing = differences(saved.key, self.key)
        if differing:
            raise LookalikeError(
                f"{str(self.path)!r} holds an evaluation with other {differing}; give another file, or remove it"
            )
        self.done = dict(saved.done)

    def get(self, section: str, run: int) -> tuple[dict[str, float], dict[str, Any]] | None:
        found = self.done.get(f"{section}/{run}")
        return None if found is None else (found[0], found[1])

    def put(
        self, section: str, run: int, figures: dict[str, float], details: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        if self.path is not None:
            self.done[f"{section}/{run}"] = [figures, details]
            with writing_to(self.path.parent, "the sections before are safe"):
                write_record(self.path, {"key": self.key, "done": self.done})
        return figures, details


def _batches(data: Any, batch_size: int, num_workers: int | None, on_error: Literal["stop", "skip"]) -> Batches:
    return data if isinstance(data, Batches) else Batches(data, batch_size, num_workers, on_error)


def _chosen(only: Sequence[str] | None, has: dict[str, bool], sanity: bool) -> tuple[list[Section], list[str]]:
    """Returns the sections to measure, and a note for each that lacks something."""
    if only is not None:
        if isinstance(only, str) or not isinstance(only, Sequence) or not only:
            raise LookalikeError(f"only takes names of sections: {', '.join(SECTIONS)}")
        asked = [SECTIONS[name] for name in dict.fromkeys([*only, *(["sanity"] if sanity else [])])]
        for section in asked:
            lacking = [need for need in section.needs if not has[need]]
            if lacking:
                raise LookalikeError(f"{section.name!r} cannot be measured: {_LACKING[lacking[0]]}")
        return asked, []
    sections, notes = [], []
    for name in SECTIONS:
        if SECTIONS[name].optional and not (sanity and name == "sanity"):
            continue
        lacking = [need for need in SECTIONS[name].needs if not has[need]]
        if not lacking:
            sections.append(SECTIONS[name])
        elif lacking != ["attributes"]:
            notes.append(f"{name} was not measured: {_LACKING[lacking[0]]}")
    return sections, notes


def _standard(measures: Sequence[str] | Literal["all"] | None, has: dict[str, bool]) -> tuple[list[Section], list[str]]:
    """Returns the standard measures to measure, and a note for each of "all" that lacks something.

    Raises:
        LookalikeError: If a name is none of a standard measure's, or one that was named lacks what it needs.
    """
    there = [name for name in SECTIONS if SECTIONS[name].optional and name != "sanity"]  # which has its own option
    if measures is None:
        return [], []
    if measures == "all":
        lacking = {name: [need for need in SECTIONS[name].needs if not has[need]] for name in there}
        notes = [f"{name} was not measured: {_LACKING[needs[0]]}" for name, needs in lacking.items() if needs]
        return [SECTIONS[name] for name in there if not lacking[name]], notes
    if isinstance(measures, str) or not isinstance(measures, Sequence) or not measures:
        raise LookalikeError(f"measures takes 'all', or names of standard measures: {', '.join(there)}")
    for name in measures:
        if name not in there:
            close = difflib.get_close_matches(str(name), there, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ";"
            raise LookalikeError(f"no standard measure is called {name!r}{hint} There are: {', '.join(there)}")
    return _chosen(measures, has, sanity=False)


def _steps(
    sections: list[Section],
    options: Options,
    data: Batches | None,
    train: Any,
    box: BlackBox | None,
    test_embeddings: EmbeddingStore | None,
) -> int | None:
    """Returns how many rows pass through a network; None if that is not known."""
    names = {section.name for section in sections}
    if any(section.optional for section in sections):
        return None
    parts: list[int | None] = [data.total if data is not None and test_embeddings is None else 0]
    if isinstance(train, Batches) and names & {"transparency", "embedding"}:
        parts.append(train.total)
    n = options.n_images if data is None or data.total is None else min(options.n_images, data.total)
    curves = 4 if box is not None else 2
    if "robustness" in names:
        parts.append(options.n_runs * n * (curves * (1 + options.n_steps * options.n_draws) + curves // 2))
    if "explanations" in names:
        parts.append(options.n_runs * n * (1 if "robustness" in names else 2))
    if "sanity" in names:
        parts.append(None)  # the network's layers are counted when it runs
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _is_image(data: Batches) -> bool:
    first = next(iter(data), None)
    if first is None:
        raise LookalikeError("there are no samples to evaluate on")
    return isinstance(first.inputs, Tensor) and first.inputs.ndim == 4


def _info(context: Context, sections: list[Section]) -> dict[str, Any]:
    """Returns how everything is computed."""
    model, box = context.model, context.black_box
    options = asdict(context.options)
    runs = options.pop("n_runs")
    per_run = any(section.per_run for section in sections)
    return {
        "model": fingerprint_tensors({k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}),
        "similarity": {"name": model.similarity.name, "options": model.similarity.options()},
        "classifier": {"name": model.classifier.name, "options": model.classifier.options()},
        "images_as": model.preprocessing.describe() if model.preprocessing else None,
        "black_box": None if box is None else fingerprint_tensors(box.encoder.model.state_dict()),
        "test_data": context.test_store.info.get("data"),
        "train_data": None if context.train_store is None else context.train_store.info.get("data"),
        "n_test": len(context.test_store),
        "n_train": None if context.train_store is None else len(context.train_store),
        "skipped": len(context.test_store.skipped),
        "options": options,
        "n_runs": runs,
        "seeds": [context.options.random_state + run for run in range(runs)],
        "sections": [section.name for section in sections],
        "samples": [context.sample(run) for run in range(runs)] if per_run else [],
        "model_provenance": model.provenance,
        "versions": versions(),
    }
