"""Hyper-parameters of the baselines: defaults from one readable file, overridden by the user's values."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from typing import Any, Literal

from lookalike._core import checks
from lookalike._core.errors import LookalikeError

Preset = Literal["paper", "reference-code"]

_FILE = "hyperparameters.toml"
_POSITIVE = (
    "image_size", "epochs", "batch_size", "learning_rate", "n_prototypes", "embedding_dim", "hidden_layers",
    "push_every", "conciseness_from",
)  # fmt: skip
_NOT_NEGATIVE = ("weight_decay", "final_learning_rate", "warm_up", "warm_epochs", "last_layer_epochs")


@dataclass(frozen=True)
class Hyperparameters:
    """The hyper-parameters of a training.

    Attributes:
        network: ``torchvision:NAME``, ``timm:NAME`` or ``lookalike:NAME``.
        pretrained: Start from published weights, if they are available.
        image_size: Side of the images in pixels.
        epochs: Number of epochs; ProtoPNet trains its last layer for further epochs.
        batch_size: Images per step.
        optimiser: ``"sgd"`` or ``"adam"``.
        learning_rate: The highest learning rate.
        momentum: Momentum of stochastic gradient descent.
        weight_decay: Weight decay of either optimiser.
        schedule: ``"constant"`` or ``"cosine"``; the rate changes once per epoch.
        final_learning_rate: The learning rate at which the cosine ends.
        warm_up: Number of epochs in which the learning rate rises linearly.
        augment: Flip images left to right at random, and crop them after padding by 2 pixels.
        n_prototypes: Number of prototypes per class.
        own: Hyper-parameters that only this method has, such as the weights of its losses.
    """

    network: str
    pretrained: bool
    image_size: int
    epochs: int
    batch_size: int
    optimiser: str
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str
    final_learning_rate: float
    warm_up: int
    augment: bool
    n_prototypes: int
    own: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name, self.own.get(name, 1))
            checks.number(name, value, above=0)
        for name in _NOT_NEGATIVE:
            checks.number(name, getattr(self, name, self.own.get(name, 0)), least=0)
        checks.number("momentum", self.momentum, least=0, below=1)
        for name, allowed in (("optimiser", ("sgd", "adam")), ("schedule", ("constant", "cosine"))):
            if getattr(self, name) not in allowed:
                raise LookalikeError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Returns all hyper-parameters by name, as plain JSON values."""
        values = asdict(self)
        method_values: dict[str, Any] = values.pop("own")
        return values | method_values


def hyperparameters(
    method: str,
    dataset: str,
    preset: Preset = "paper",
    given: Mapping[str, Any] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Hyperparameters:
    """Returns the defaults of a method on a data set, overridden by the given values.

    Args:
        method: ``"blackbox"``, ``"protopnet"``, ``"flint"`` or ``"protovae"``; or your own method, with ``defaults``.
        dataset: The name of a data set; names without special defaults get the general ones.
        preset: ``"paper"``, or ``"reference-code"`` for the values in its code: a larger, falling learning rate.
        given: Values by name that override the defaults.
        defaults: Defaults of your own method, for which the file has no section.

    Raises:
        LookalikeError: If a name is unknown, or a value has another type than the default.

    Example:
        >>> hyperparameters("blackbox", "mnist").learning_rate
        0.001
        >>> hyperparameters("blackbox", "mnist", "reference-code").learning_rate
        0.01
        >>> hyperparameters("protovae", "mnist").own["divergence"]
        1.0
    """
    sections = _read_defaults()
    checks.instance("method", method, str, "a text")
    checks.instance("dataset", dataset, str, "a text")
    checks.instance("preset", preset, str, "a text")
    checks.optional(checks.mapping, "given", given)
    checks.optional(checks.mapping, "defaults", defaults)
    if (method not in sections and defaults is None) or method in ("common", "presets", "datasets"):
        raise LookalikeError(f"no method is called {method!r}")
    if preset not in sections["presets"]:
        raise LookalikeError(f"no preset is called {preset!r}; there are {', '.join(sections['presets'])}")
    base = sections["common"] | dict(defaults or {}) | sections.get(method, {})
    dataset_table = sections["datasets"].get(dataset, {})
    overrides = [  # later ones take precedence
        sections["presets"][preset],
        {key: value for key, value in dataset_table.items() if not isinstance(value, dict)},
        dataset_table.get(method, {}),
        given or {},
    ]
    values = dict(base)
    for override in overrides:
        for name, value in override.items():
            if name not in base:
                raise LookalikeError(f"{method} has no hyper-parameter {name!r}; there are {', '.join(base)}")
            values[name] = _convert(name, value, base[name])
    common = {option.name for option in fields(Hyperparameters)} - {"own"}
    return Hyperparameters(
        **{name: values[name] for name in common},
        own={name: value for name, value in values.items() if name not in common},
    )


def _convert(name: str, value: Any, default: Any) -> Any:
    """Returns a value in the default's type; integers become floats where the default is a float."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        raise LookalikeError(f"{name} must be like {default!r}, not {value!r}")
    return value


@functools.cache
def _read_defaults() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath(_FILE).read_text(encoding="utf-8"))
