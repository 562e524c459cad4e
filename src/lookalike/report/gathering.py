"""Gathers what a page shows: embeds, explains, measures and compares, within the time that there is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike._core.identity import are_comparable
from lookalike._core.provenance import fingerprint_tensors
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import LoadedClassifier
from lookalike.explanation import Explainer
from lookalike.metrics import EvaluationSettings, Scorecard, evaluate
from lookalike.metrics.black_box import BlackBox, find_black_box
from lookalike.metrics.budget import Budget
from lookalike.metrics.context import aligned_labels, unbundle_data
from lookalike.model import PrototypeModel
from lookalike.report.commands import Commands
from lookalike.report.duplicates import Duplicates, find_duplicates, mirrored_embeddings
from lookalike.report.examples import Examples, decide, explain_examples
from lookalike.report.extras import fitting_extras
from lookalike.report.material import Material, PageOptions

# A report should take a minute, not half an hour: most of the time goes into the curves of relevance ordering, which
# need images × steps × draws × 4 passes. ``evaluate`` measures more.
_QUICK = {"n_images": 30, "n_draws": 1}
# Of what is left of a budget after the embedding: the test images with their heat-maps, then of the rest the figures.
# Drawing the page takes what remains.
_SHARE_OF_IMAGES, _SHARE_OF_FIGURES = 0.4, 0.5
_OF_EVALUATE = ("only", "seed", "resume")  # options of ``evaluate`` that are no settings
_ASKS_FOR_FIGURES = ("only", "resume", "measures", "sanity")


@dataclass(frozen=True)
class _Training:
    """The training data, as far as the page can show them.

    Attributes:
        images: The model's own training data, if they can be read again.
        store: Their embeddings, if they were made.
        why_not: Why there are no images or embeddings, and the way out; empty if there are.
    """

    images: Batches | None
    store: EmbeddingStore | None = None
    why_not: str = ""


class Gathering:
    """Gathers what a page shows of a model and test data.

    Args:
        model: Prototype model.
        test: Test images with labels.
        train: Training data, or None.
        black_box: Classifier to compare with; None takes the one that was converted.
        card: Scorecard of the same model and data, if there is one.
        options: The keyword options of ``write_report``.

    Raises:
        LookalikeError: If the test data are not images, the scorecard is of another model or of other test data, or
            options ask for figures beside it.
    """

    def __init__(
        self,
        model: PrototypeModel,
        test: Any,
        train: Any,
        black_box: nn.Module | LoadedClassifier | None,
        card: Scorecard | None,
        options: Mapping[str, Any],
    ) -> None:
        unused = [name for name in _ASKS_FOR_FIGURES if options.get(name)]
        if card is not None and unused:
            raise LookalikeError(f"with a scorecard (card=…) nothing is measured: leave out {' and '.join(unused)}")
        self.model, self.given_card = model, card
        rest = _QUICK | dict(options)
        self.page = PageOptions(**_taken(rest, [field.name for field in fields(PageOptions)]))
        self.of_evaluate = {"only": None, **_taken(rest, _OF_EVALUATE)}
        self.settings, self.settings_given = EvaluationSettings.of("write_report", rest), rest
        self.budget = Budget.of(self.settings.budget)
        self.explainer = Explainer(
            model,
            n_nearest=self.page.n_nearest,
            relevance=True,
            composite=self.settings.composite,
            rule=self.settings.rule,
        )
        test, self.train, self.attributes, self.data_notes = unbundle_data(model, test, train, self.settings.attributes)
        self.test = Batches(test, self.settings.batch_size, self.settings.num_workers, self.settings.on_error)
        self.black_box = find_black_box(model, black_box, self.test, self.settings.class_order).box
        with Budget.embedding_within(self.budget) as took:
            self.store = embed(model, self.test, progress=self.settings.progress)
            took(len(self.store))
        original = self._original_predictions()
        if card is not None:
            _check_card(card, model, self.store, self.black_box)
        self.decisions = decide(model, self.store, original)

    def material(self) -> Material:
        """Explains, measures and compares, in the order of what a page needs most."""
        examples = self._examples()
        training = _training_images(self.model, self.train)
        card, train_store = (self.given_card, None) if self.given_card is not None else self._measured()
        if training.images is not None:  # other data than the model's own are not shown
            training = replace(training, store=train_store)
        extras = fitting_extras(self.model, examples, self.budget)
        examples.notes.extend(extras.notes)
        commands = self._commands(training)
        if training.store is None and not training.why_not:
            training = replace(training, why_not=self._why_not_read(commands))
        duplicates = self._duplicates(card, training, commands, examples.seconds_per_image)
        for entry in examples.entries:
            entry["is_copy"] = duplicates is not None and entry["row"] in duplicates.of_training
        return Material(
            self.model, card, self.store, self.decisions, examples, self.explainer, self.test, training.images,
            self.page, extras, training.store, duplicates, training.why_not, commands,
        )  # fmt: skip

    def _original_predictions(self) -> Tensor | None:
        """Returns what the original predicts for the test images, in the model's classes."""
        if self.black_box is None:
            return None
        labels = aligned_labels(self.store, self.model, "test")
        return self.black_box.predictions_in_model_classes(self.model, labels, self.store, self.test)

    def _part_of_left(self, share: float) -> Budget | None:
        return None if self.budget is None else self.budget.part_of_left(share)

    def _examples(self) -> Examples:
        return explain_examples(
            self.explainer,
            self.test,
            self.store,
            self.decisions,
            n_browse=self.page.n_browse,
            n_maps=self.page.n_maps,
            progress=self.settings.progress,
            budget=self._part_of_left(1 if self.given_card is not None else _SHARE_OF_IMAGES),
        )

    def _measured(self) -> tuple[Scorecard, EmbeddingStore | None]:
        """Measures the scorecard; returns it, and the embeddings of the training data if they were made."""
        bound = self.budget if self.of_evaluate.get("resume") is None else None
        train, store = _embedded_training_data(self.model, self.train, self.of_evaluate["only"], self.settings, bound)
        measured_already = {
            "black_box": self.black_box, "train": train, "attributes": self.attributes, "rule": self.explainer.rule,
            "test_embeddings": self.store, "train_embeddings": store, "budget": self._part_of_left(_SHARE_OF_FIGURES),
        }  # fmt: skip
        card = evaluate(self.model, self.test, **{**self.settings_given, **self.of_evaluate, **measured_already})
        card.notes[:0] = self.data_notes
        return card, store

    def _commands(self, training: _Training) -> Commands:
        commands = replace(self.page.commands, is_audited=not self.model.has_patches)
        return commands if training.images is None else commands.with_own_training_data()

    def _why_not_read(self, commands: Commands) -> str:
        """Returns why the page has no embeddings of training images that are there, and the way out."""
        audit = commands.audit()
        also = "" if audit is None else f", or list near duplicates by '{audit}'"
        if self.given_card is not None:
            return (
                "the figures are those of a given scorecard, for which nothing is read again; leave out '--scorecard' "
                f"(card=…) to have them read{also}"
            )
        return f"they were not read for this report; leave out 'budget' and 'only' to have them read{also}"

    def _duplicates(
        self, card: Scorecard, training: _Training, commands: Commands, seconds_per_image: float
    ) -> Duplicates | None:
        # to embed an image takes less time than to explain it
        has_time = self.budget is None or self.budget.left > len(self.store) * seconds_per_image
        reads_again = self.given_card is None and has_time
        return find_duplicates(
            self.model,
            self.store,
            training.store,
            self.decisions,
            training.why_not,
            audit=commands.audit(),
            n_leaked=card.details.get("data", [{}])[0].get("n_leaked", 0),
            mirrored=mirrored_embeddings(self.model, self.test, self.store) if reads_again else None,
        )


def _taken(options: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Takes options of these names out of a dictionary."""
    return {name: options.pop(name) for name in names if name in options}


def _embedded_training_data(
    model: PrototypeModel, train: Any, only: Sequence[str] | None, settings: EvaluationSettings, budget: Budget | None
) -> tuple[Any, EmbeddingStore | None]:
    """Embeds the training data once, for the evaluation and the page, if the evaluation reads them in its time."""
    if train is None or isinstance(train, EmbeddingStore):
        return train, train
    if only is not None and not {"transparency", "embedding"} & set(only):
        return train, None
    batches = settings.read(train)
    if isinstance(batches, EmbeddingStore) or not (budget is None or budget.allows_reading(batches.total)):
        return train, None
    return batches, embed(model, batches, progress=settings.progress)


def _check_card(card: Scorecard, model: PrototypeModel, store: EmbeddingStore, box: BlackBox | None) -> None:
    """Checks that a given scorecard is of this model, these test data and this original.

    Raises:
        LookalikeError: If it is not.
    """
    weights = fingerprint_tensors({name: x for name, x in model.state_dict().items() if isinstance(x, Tensor)})
    original = None if box is None else box.fingerprint
    pairs = (
        ("model", weights), ("test_data", store.info.get("data")), ("n_test", len(store)), ("black_box", original),
    )  # fmt: skip
    for name, value in pairs:
        measured = card.info.get(name)
        if name == "test_data" and isinstance(measured, str) and value and not are_comparable(measured, value):
            raise LookalikeError(
                "the scorecard was measured by an earlier version of lookalike, which identified data differently; "
                "measure again, or leave the scorecard out"
            )
        if measured is not None and value is not None and measured != value:
            subjects = {"model": "another model", "black_box": "a comparison with another original (--black-box)"}
            other_subject = subjects.get(name, "other test data")
            raise LookalikeError(
                f"the scorecard is of {other_subject}; measure this one again, or leave the scorecard out"
            )


def _training_images(model: PrototypeModel, train: Any) -> _Training:
    """Returns the training images, to show those nearest to prototypes, or why not, with the way out.

    The model stores the nearest images by their row number, which means another image in other data.
    """
    if train is None:
        return _Training(None, why_not="none were given; give those that the model was made from")
    if not hasattr(train, "__getitem__"):
        return _Training(None, why_not="they cannot be read one by one; give a data set or a folder")
    source, record = Batches(train), model.training_record
    if record.fingerprint is None or record.matches(source):
        return _Training(source)
    return _Training(
        None,
        why_not="those given are not the ones that the model was made from, or were changed since; give the folder or "
        "the data set that it was converted with",
    )
