"""The typed content of ``config.json``: how to rebuild a saved classifier, or the encoder of a saved model.

To add a field, add a line here; with a default value, older folders still load.
"""

import inspect
import math
import typing
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lookalike._core.errors import LookalikeError
from lookalike._core.records import from_json, shown
from lookalike.data import Preprocessing

_SOURCES = ("torchvision", "timm", "hf", "open_clip", "lookalike", "file")
_INPUT_TYPES = ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
_MAX_INPUT_VALUES = 2**26  # in one row: 4,096 × 4,096 pixels in RGB
_MAX_SIDE = 2**15  # pixels
_MAX_DEPTH = 4  # of networks within networks, and of nested inputs


@dataclass(frozen=True)
class NamedOptions:
    """A similarity or a classifier, by name.

    Attributes:
        name: Its registered name.
        options: The arguments of its constructor.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def check(self, noun: str, classes: typing.Mapping[str, Any]) -> None:
        """Checks the name and the type of each option.

        Args:
            noun: What it is, for messages, such as ``"similarity"``.
            classes: The classes by name; the annotations of their constructors are the allowed options.

        Raises:
            LookalikeError: If the name or an option is unknown, or an option has another type.
        """
        if self.name not in classes:
            raise LookalikeError(f"no {noun} is called {shown(self.name)}; there are: {', '.join(classes)}")
        constructor = classes[self.name].__init__
        parameters = inspect.signature(constructor).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        try:
            hints = typing.get_type_hints(constructor)
        except NameError:  # a user's class whose annotations name types that are imported only for type checkers
            hints = {}
        for name, value in self.options.items():
            if not takes_any and (name not in parameters or name in ("self", "weight", "bias")):
                raise LookalikeError(f"the {noun} {self.name!r} has no option {shown(name)}")
            from_json(hints.get(name, Any), value, f"{noun}.options.{name}")


@dataclass(frozen=True)
class SavedNetwork:
    """How to rebuild a classifier's network.

    Attributes:
        network: The name of its class.
        spec: What ``rebuild`` builds it from; None if the user gave the network as an object.
        not_finite: The names of buffers that had NaN or infinite values when it was saved.
    """

    network: str
    spec: dict[str, Any] | None
    not_finite: list[str] = field(default_factory=list, kw_only=True)

    def __post_init__(self) -> None:
        if self.spec is not None:
            _check_spec(self.spec, 0)


@dataclass(frozen=True)
class SavedPatches:
    """Which feature maps an encoder of patches reads.

    Attributes:
        layers: Names of the layers.
        scales: Factor of each layer.
        grid: Height and width of the joined map.
    """

    layers: list[str]
    scales: list[float]
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers) or len(self.scales) != len(self.layers):
            raise LookalikeError("encoder.patches needs different layers, and a scale for each")
        if not all(math.isfinite(scale) and scale > 0 for scale in self.scales):
            raise LookalikeError(f"encoder.patches.scales must be positive, not {shown(self.scales)}")
        if not all(1 <= side <= _MAX_SIDE for side in self.grid):
            raise LookalikeError(f"encoder.patches.grid must lie between 1 and {_MAX_SIDE}, not {shown(self.grid)}")

    @property
    def n_patches(self) -> int:
        """S."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class SavedEncoder(SavedNetwork):
    """How to rebuild an encoder.

    Attributes:
        head: The name of the layer at whose input it is cut; None if its output is the embedding.
        output: The key or position of the output with the class scores; None for the only output.
        inputs: Shape and type of one row of its inputs.
        embedding_dim: D.
        output_names: The names of the outputs, if known.
        patches: Which feature maps it reads, if it is an encoder of patches; ``embedding_dim`` is that of all patches.
    """

    head: str | None
    output: str | int | None
    inputs: dict[str, Any]
    embedding_dim: int
    output_names: list[str] | None = None
    patches: SavedPatches | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding_dim < 1:
            raise LookalikeError(f"embedding_dim must be positive, not {self.embedding_dim}")
        if self.patches is not None and self.embedding_dim % self.patches.n_patches:
            raise LookalikeError(f"embedding_dim {self.embedding_dim} is not that of {self.patches.n_patches} patches")
        if _n_values(self.inputs, 0) > _MAX_INPUT_VALUES:
            raise LookalikeError(f"one row of the inputs has more than {_MAX_INPUT_VALUES:,} values")


@dataclass(frozen=True)
class SavedClassifier:
    """A saved classifier that has not been converted.

    Attributes:
        encoder: Its network.
        class_names: The names of its outputs, if known.
        preprocessing: The preprocessing of its images, if known.
        provenance: Options, seeds, fingerprints and versions of its training.
    """

    kind: ClassVar[str] = "classifier"

    encoder: SavedNetwork
    class_names: list[str] | None
    preprocessing: Preprocessing | None
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        if self.encoder.spec is None:
            raise LookalikeError("encoder.spec is null: nothing says how to build the network")
        if self.class_names is not None:
            check_class_names(self.class_names, unique=False)  # ImageNet has two classes called crane
        check_preprocessing(self.preprocessing)


def prototype_dim(encoder: SavedEncoder) -> int:
    """Returns the dimensions of a prototype: those of an embedding, or of one patch of it."""
    return encoder.embedding_dim // (1 if encoder.patches is None else encoder.patches.n_patches)


def check_class_names(names: list[str], *, unique: bool) -> None:
    """Checks that there are class names, that none is empty and, if ``unique``, that they differ.

    Raises:
        LookalikeError: If a name is empty or repeated.
    """
    if not names:
        raise LookalikeError("class_names is empty")
    if not all(names):
        raise LookalikeError(f"class_names[{names.index('')}] is empty")
    if unique and len(set(names)) < len(names):
        repeated = next(name for k, name in enumerate(names) if name in names[:k])
        raise LookalikeError(f"two classes are called {shown(repeated)}; give each a name of its own")


def check_preprocessing(preprocessing: Preprocessing | None) -> None:
    """Checks that the preprocessing does not resize images to a size that would fill the memory.

    Raises:
        LookalikeError: If a size is out of range.
    """
    for name in ("resize", "crop", "pad"):
        value = getattr(preprocessing, name, None)
        sides = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(1 <= side <= _MAX_SIDE for side in sides):
            raise LookalikeError(f"preprocessing.{name} must lie between 1 and {_MAX_SIDE}, not {shown(value)}")


def _check_spec(spec: dict[str, Any], depth: int) -> None:
    """Checks the entries of a spec, and of the networks inside it."""
    if depth > _MAX_DEPTH:
        raise LookalikeError("spec has networks within networks, too deeply")
    unknown = set(spec) - {"source", "name", "args", "network", "config"}
    if unknown:
        raise LookalikeError(f"spec has an unknown entry {shown(min(unknown))}")
    source = spec.get("source")
    if source not in _SOURCES:
        raise LookalikeError(f"spec.source must be one of {', '.join(_SOURCES)}, not {shown(source)}")
    from_json(str, spec.get("name"), "spec.name")
    args = from_json(dict[str, Any], spec.get("args", {}), "spec.args")
    nested = next((name for name, value in args.items() if isinstance(value, dict)), None)
    if nested is not None and source != "file":
        raise LookalikeError(f"spec.args.{nested} must be a plain value")
    if source == "hf":
        from_json(dict[str, Any], spec.get("config"), "spec.config")
    if "network" in spec:
        _check_spec(from_json(dict[str, Any], spec["network"], "spec.network"), depth + 1)


def _n_values(inputs: Any, depth: int) -> int:
    """Checks the description of one row of inputs, and returns how many values it has."""
    if not isinstance(inputs, dict) or depth > _MAX_DEPTH:
        raise LookalikeError(f"inputs must be described by shape and dtype, not {shown(inputs)}")
    if set(inputs) == {"named"}:
        named = from_json(dict[str, Any], inputs["named"], "inputs.named")
        return sum(_n_values(value, depth + 1) for value in named.values())
    if set(inputs) == {"positional"}:
        return sum(_n_values(value, depth + 1) for value in from_json(list[Any], inputs["positional"], "inputs"))
    if set(inputs) != {"shape", "dtype"}:
        raise LookalikeError(f"inputs must have shape and dtype, not {shown(sorted(inputs))}")
    shape = from_json(list[int], inputs["shape"], "inputs.shape")
    if any(size < 0 for size in shape):
        raise LookalikeError(f"inputs.shape must not be negative, but is {shown(shape)}")
    if inputs["dtype"] not in _INPUT_TYPES:
        raise LookalikeError(f"inputs.dtype must be one of {', '.join(_INPUT_TYPES)}, not {shown(inputs['dtype'])}")
    return math.prod(shape)
