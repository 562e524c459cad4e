"""The options of a conversion, in groups that travel together; each group checks its own values.

``convert`` takes them as plain keywords, typed by ``ConversionOptions``, and sorts them into these groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypedDict, get_type_hints

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.conversion.out_of_core import MemoryLimit
from lookalike.conversion.per_class import Clustering, NPrototypes
from lookalike.conversion.temperature import TemperatureOption, check_temperature
from lookalike.data import read_preprocessing
from lookalike.embedding import PRECISIONS, EmbeddingStore, Precision
from lookalike.encoder import ClassOrder
from lookalike.encoder.patches import Layers
from lookalike.model.classifier import NearestPrototype
from lookalike.model.decision import DECISIONS

LEVELS = ("image", "patch", "head")


class ConversionOptions(TypedDict, total=False):
    """The keyword options of ``convert``; the groups below say what each means and its default."""

    similarity_options: Mapping[str, Any] | None
    clusterer: str
    n_init: int
    memory_limit: MemoryLimit
    probabilities: Literal["max", "sum"]
    temperature: TemperatureOption
    n_nearest: int
    n_images: int
    nearest_from: Literal["class", "any"]
    head: str | None
    output: str | int | None
    class_order: ClassOrder
    batch_size: int | None
    num_workers: int | None
    on_error: Literal["stop", "skip"]
    precision: Precision
    devices: Sequence[str] | None
    preprocessing: Any
    layers: Layers
    decision: Literal["vote", "mean", "linear"]
    shared: bool
    max_patches: int | None
    advice: bool
    embeddings: EmbeddingStore | None
    class_names: list[str] | None
    working_folder: str | Path | None
    progress: bool | None


class UpdateOptions(TypedDict, total=False):
    """The keyword options of ``PrototypeModel.update``; they mean the same as in ``convert``."""

    clusterer: str
    n_init: int
    temperature: TemperatureOption
    n_images: int
    batch_size: int | None
    num_workers: int | None
    on_error: Literal["stop", "skip"]
    precision: Precision
    progress: bool | None


@dataclass(frozen=True)
class Probabilities:
    """How similarities become class probabilities. No prediction depends on it.

    Attributes:
        probabilities: ``"max"`` [ours] takes each class's most similar prototype, ``"sum"`` [ref] sums over all.
        temperature: Similarities are divided by it. ``"auto"`` fits it to training samples that are held out from the
            prototypes that they are compared with [ours]; 1 is the paper's reading.
    """

    probabilities: Literal["max", "sum"] = "max"
    temperature: TemperatureOption = "auto"

    def __post_init__(self) -> None:
        NearestPrototype(self.probabilities)
        check_temperature(self.temperature)


@dataclass(frozen=True)
class Gallery:
    """Which training samples show a prototype.

    Attributes:
        n_nearest: M, the number of nearest training samples that each prototype remembers.
        n_images: Number of them whose image is kept.
        nearest_from: Search the prototype's own ``"class"``, or ``"any"`` class.
    """

    n_nearest: int = 10
    n_images: int = 3
    nearest_from: Literal["class", "any"] = "class"

    def __post_init__(self) -> None:
        checks.field(self, "n_nearest", checks.whole_number, 1)
        checks.field(self, "n_images", checks.whole_number, 0)
        checks.one_of("nearest_from", self.nearest_from, ("class", "any"))


@dataclass(frozen=True)
class Cut:
    """Where the classifier is cut into an encoder and a head, and what its outputs mean.

    Attributes:
        head: Name of the head, if it cannot be found; ``"output"`` if the model's output is the embedding.
        output: Which of several outputs holds the class scores.
        class_order: Names of the classifier's outputs, in their order, if the classifier has no names or wrong ones: a
            list of names, a file with a line per output, or ``"natural"`` for the data's names in timm's order.
    """

    head: str | None = None
    output: str | int | None = None
    class_order: ClassOrder = None

    def __post_init__(self) -> None:
        checks.optional(checks.text, "head", self.head)
        checks.output_key("output", self.output)


@dataclass(frozen=True)
class Reading:
    """How the training data are read and embedded.

    Attributes:
        batch_size: Number of rows that pass through the encoder at once; None takes the loader's, or 256.
        num_workers: Number of processes that read images.
        on_error: ``"skip"`` leaves out images that cannot be read, and lists them.
        precision: Numbers in which the encoder computes: ``"auto"`` (half precision for long passes on processors
            that are faster at it; ``provenance`` records its effect), ``"fastest"`` (what a trial with a few rows
            finds), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        devices: Names of devices that embed together, such as ``["cuda:0", "cuda:1"]``; None embeds where the network
            is.
        preprocessing: Preprocessing of the images: a ``Preprocessing``, a torchvision transform, a processor of
            Transformers or a configuration of timm. None takes that of the data, or of the classifier. The model keeps
            it, and so also accepts images and files as inputs.
    """

    batch_size: int | None = None
    num_workers: int | None = None
    on_error: Literal["stop", "skip"] = "stop"
    precision: Precision = "auto"
    devices: Sequence[str] | None = None
    preprocessing: Any = None

    def __post_init__(self) -> None:
        if self.preprocessing is not None:
            object.__setattr__(self, "preprocessing", read_preprocessing(self.preprocessing))
        checks.field(self, "batch_size", checks.whole_number, 1, optional=True)
        checks.field(self, "num_workers", checks.whole_number, 0, optional=True)
        checks.one_of("on_error", self.on_error, ("stop", "skip"))
        checks.one_of("precision", self.precision, PRECISIONS)
        checks.optional(checks.names, "devices", self.devices)


@dataclass(frozen=True)
class Patches:
    """How a model of patches reads and decides; for ``level="patch"`` only.

    Attributes:
        layers: Feature maps whose positions are the patches: ``"last"``, ``"b4"``, ``"b234"`` or names of layers; see
            ``lookalike.encoder.patches.PatchEncoder``.
        decision: How the patches decide: ``"vote"`` [paper], ``"mean"`` or ``"linear"``; see
            ``lookalike.model.decision``.
        shared: Whether the patches of all classes are clustered together. ``n_prototypes`` is then the number of all
            prototypes, and the decision must be ``"linear"``, as no prototype belongs to one class alone.
        max_patches: Largest number of patches of a class to cluster. A class with more is sampled at random; None takes
            all.
    """

    layers: Layers = "last"
    decision: Literal["vote", "mean", "linear"] = "vote"
    shared: bool = False
    max_patches: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layers, str):
            checks.names("layers", self.layers)
        checks.one_of("decision", self.decision, tuple(DECISIONS))
        checks.flag("shared", self.shared)
        checks.field(self, "max_patches", checks.whole_number, 1, optional=True)
        if self.shared and self.decision != "linear":
            raise LookalikeError("shared prototypes belong to no one class: give decision='linear', or shared=False")

    def to_dict(self) -> dict[str, Any]:
        """Returns the options as plain values."""
        layers = self.layers if isinstance(self.layers, str) else list(self.layers)
        return {"layers": layers, "decision": self.decision, "shared": self.shared, "max_patches": self.max_patches}


@dataclass(frozen=True)
class Settings:
    """All options of one conversion.

    Attributes:
        clustering: See ``Clustering``.
        probabilities: See ``Probabilities``.
        gallery: See ``Gallery``.
        cut: See ``Cut``.
        reading: See ``Reading``.
        similarity_options: Options of a similarity that is given by name, e.g. ``{"sigma": 2.0}``.
        patches: See ``Patches``.
        advice: Also try other similarities and numbers of prototypes, cross-fitted on training samples, and record what
            they would give in ``provenance["advice"]``.
        embeddings: Embeddings of the training data, if ``embed`` has computed them already.
        class_names: K names; None takes the data's own, or numbers.
        working_folder: Folder that stores embeddings and clusters as soon as they exist. After any interruption the
            same call resumes from it.
        progress: Show progress bars; None shows them on a terminal.
        given: Names of the options that the caller gave.
    """

    clustering: Clustering = field(default_factory=Clustering)
    probabilities: Probabilities = field(default_factory=Probabilities)
    gallery: Gallery = field(default_factory=Gallery)
    cut: Cut = field(default_factory=Cut)
    reading: Reading = field(default_factory=Reading)
    similarity_options: Mapping[str, Any] | None = None
    patches: Patches = field(default_factory=Patches)
    advice: bool = False
    embeddings: EmbeddingStore | None = None
    class_names: list[str] | None = None
    working_folder: str | Path | None = None
    progress: bool | None = None
    given: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        checks.optional(checks.mapping, "similarity_options", self.similarity_options)
        checks.flag("advice", self.advice)
        checks.optional(checks.instance, "embeddings", self.embeddings, EmbeddingStore, "an EmbeddingStore")
        checks.optional(checks.names, "class_names", self.class_names)
        checks.optional(checks.path, "working_folder", self.working_folder)
        checks.progress("progress", self.progress)


_GROUPS = {
    "clustering": Clustering,
    "probabilities": Probabilities,
    "gallery": Gallery,
    "cut": Cut,
    "reading": Reading,
    "patches": Patches,
}
PATCH_OPTIONS = tuple(entry.name for entry in fields(Patches))
OPTIONS = tuple(get_type_hints(ConversionOptions))
UPDATE_OPTIONS = tuple(get_type_hints(UpdateOptions))


def settings_of(
    function: str,
    n_prototypes: NPrototypes,
    seed: int,
    options: Mapping[str, Any],
    allowed: tuple[str, ...] = OPTIONS,
) -> Settings:
    """Sorts plain keyword options into their groups and checks them.

    Args:
        function: Name of the function that was called, for messages.
        n_prototypes: See ``Clustering``.
        seed: See ``Clustering``.
        options: The other options, by name.
        allowed: Names of the options that the function takes.

    Raises:
        LookalikeError: If an option has an invalid value.
        TypeError: If there is no option of that name.
    """
    checks.option_names(function, options, allowed)
    values = {"n_prototypes": n_prototypes, "seed": seed, **options}
    groups = {name: group(**_fields(group, values)) for name, group in _GROUPS.items()}
    grouped = {entry.name for group in _GROUPS.values() for entry in fields(group)}
    ungrouped = {name: value for name, value in values.items() if name not in grouped}
    return Settings(**groups, **ungrouped, given=frozenset(options))


def refuse_options(settings: Settings, names: Mapping[str, str]) -> None:
    """Refuses options that one kind of conversion does not support.

    Args:
        settings: Settings of the conversion.
        names: Name of the option → reason, with the way out.

    Raises:
        LookalikeError: If the caller gave one of them.
    """
    for name, reason in names.items():
        if name in settings.given:
            raise LookalikeError(f"{name} {reason}")


def _fields(group: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {entry.name: values[entry.name] for entry in fields(group) if entry.name in values}
