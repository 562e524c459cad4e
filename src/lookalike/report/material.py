"""What the sections of a report are made of."""

from dataclasses import dataclass, field

from lookalike._core import checks
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore
from lookalike.explanation import Explainer
from lookalike.metrics import Scorecard
from lookalike.model import PrototypeModel
from lookalike.report.commands import Commands
from lookalike.report.duplicates import Duplicates
from lookalike.report.examples import Decisions, Examples
from lookalike.report.extras import Extras


@dataclass(frozen=True)
class PageOptions:
    """What the page shows, and what its reader is told about it.

    Attributes:
        title: Heading of the page.
        n_browse: Largest number of test images to show.
        n_maps: Number of these that get heat-maps.
        n_nearest: Number of prototypes to show for each image.
        intended_use: What the model is meant for, in the words of whoever is responsible for it.
        command: The command that made the report, if one did.
        commands: The commands that the page names, for its own model and data.
    """

    title: str = "Prototype model"
    n_browse: int = 1000
    n_maps: int = 100
    n_nearest: int = 3
    intended_use: str | None = None
    command: str | None = None
    commands: Commands = field(default_factory=Commands)

    def __post_init__(self) -> None:
        checks.text("title", self.title)
        checks.field(self, "n_browse", checks.whole_number, 0)
        checks.field(self, "n_maps", checks.whole_number, 0)
        checks.field(self, "n_nearest", checks.whole_number, 1)
        for name in ("intended_use", "command"):
            checks.optional(checks.text, name, getattr(self, name))
        checks.instance("commands", self.commands, Commands, "a Commands")


@dataclass(frozen=True)
class Material:
    """Everything measured and explained, from which each section takes what it shows.

    Attributes:
        model: The model.
        card: Its scorecard.
        store: Embeddings of the test data.
        decisions: Decisions on all test images.
        examples: The test images shown, with their explanations.
        explainer: Explains more, with the heat-maps made so far.
        test: The test data.
        train: The model's own training data, if they can be read again.
        page: What the page shows.
        extras: What it shows beside the test images, if time is bounded.
        train_store: Embeddings of the training data, if they were made.
        duplicates: Test images that the network takes for the same as others; None if they were not looked for.
        why_no_training: Why training images are not read again, and the way out; empty if they are.
        commands: The commands that the page names.
    """

    model: PrototypeModel
    card: Scorecard
    store: EmbeddingStore
    decisions: Decisions
    examples: Examples
    explainer: Explainer
    test: Batches
    train: Batches | None
    page: PageOptions
    extras: Extras = field(default_factory=Extras)
    train_store: EmbeddingStore | None = None
    duplicates: Duplicates | None = None
    why_no_training: str = ""
    commands: Commands = field(default_factory=Commands)

    @property
    def has_original(self) -> bool:
        """Whether the original's predictions are known."""
        return self.decisions.original is not None
