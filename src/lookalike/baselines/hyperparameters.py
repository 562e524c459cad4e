"""How the baselines are trained: one readable file of defaults, and what a user gives over them."""

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
_POSITIVE = ("image_size", "epochs", "batch_size", "learning_rate", "n_prototypes", "embedding_dim", "hidden_layers")


@dataclass(frozen=True)
class Hyperparameters:
    """What a training is made with.

    Attributes:
        network: ``torchvision:NAME``, ``timm:NAME`` or ``lookalike:NAME``.
        pretrained: Start from published weights, where they can be had.
        image_size: Side of the images in pixels.
        epochs: How many; of ProtoPNet, without those of the last layer alone.
        batch_size: Images per step.
        optimiser: ``"sgd"`` or ``"adam"``.
        learning_rate: The largest.
        momentum: Of stochastic gradient descent.
        weight_decay: Of either.
        schedule: ``"constant"`` or ``"cosine"``, epoch by epoch.
        final_learning_rate: Where the cosine ends.
        warm_up: Epochs in which the learning rate rises linearly.
        augment: Flip images left to right at random, and crop them after padding by 2 pixels.
        n_prototypes: Per class.
        own: The method's own, such as the weights of its losses.
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
        for name, allowed in (("optimiser", ("sgd", "adam")), ("schedule", ("constant", "cosine"))):
            if getattr(self, name) not in allowed:
                raise LookalikeError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, the method's own among the others."""
        values = asdict(self)
        own: dict[str, Any] = values.pop("own")
        return values | own


def hyperparameters(
    method: str,
    dataset: str,
    preset: Preset = "paper",
    given: Mapping[str, Any] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Hyperparameters:
    """Returns the defaults of a method on a data set, with what is given in their place.

    Args:
        method: ``"blackbox"``, ``"protopnet"``, ``"flint"`` or ``"protovae"``; or one of your own, with ``defaults``.
        dataset: A registered name; the defaults of no special data set for any other.
        preset: ``"paper"``, or ``"reference-code"`` where its code differs: a larger, falling learning rate.
        given: Values by name.
        defaults: Those of a method of your own, which the file has no section for.

    Raises:
        LookalikeError: If a name is unknown or a value is of another kind than the default.

    Example:
        >>> hyperparameters("blackbox", "mnist").learning_rate
        0.001
        >>> hyperparameters("blackbox", "mnist", "reference-code").learning_rate
        0.01
        >>> hyperparameters("protovae", "mnist").own["divergence"]
        1.0
    """
    table = _table()
    checks.instance("method", method, str, "a text")
    checks.instance("dataset", dataset, str, "a text")
    checks.instance("preset", preset, str, "a text")
    checks.optional(checks.mapping, "given", given)
    checks.optional(checks.mapping, "defaults", defaults)
    if (method not in table and defaults is None) or method in ("common", "presets", "datasets"):
        raise LookalikeError(f"no method is called {method!r}")
    if preset not in table["presets"]:
        raise LookalikeError(f"no preset is called {preset!r}; there are {', '.join(table['presets'])}")
    known = table["common"] | dict(defaults or {}) | table.get(method, {})
    special = table["datasets"].get(dataset, {})
    layers = [
        table["presets"][preset],
        {key: value for key, value in special.items() if not isinstance(value, dict)},
        special.get(method, {}),
        given or {},
    ]
    values = dict(known)
    for layer in layers:
        for name, value in layer.items():
            if name not in known:
                raise LookalikeError(f"{method} has no hyper-parameter {name!r}; there are {', '.join(known)}")
            values[name] = _of_kind(name, value, known[name])
    common = {one.name for one in fields(Hyperparameters)} - {"own"}
    return Hyperparameters(
        **{name: values[name] for name in common},
        own={name: value for name, value in values.items() if name not in common},
    )


def _of_kind(name: str, value: Any, default: Any) -> Any:
    """Returns a value as the default's type."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        raise LookalikeError(f"{name} must be like {default!r}, not {value!r}")
    return value


@functools.cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath(_FILE).read_text(encoding="utf-8"))
