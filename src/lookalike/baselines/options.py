"""The keyword options of ``train``, in groups that travel together; each group checks its own values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

from lookalike._core import checks
from lookalike._core.progress import Advance
from lookalike.baselines.children import check_devices

_PRECISIONS = (
    "32-true", "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "transformer-engine",
    "transformer-engine-float16", "32", "64", "16", "bf16",
)  # fmt: skip


class TrainingOptions(TypedDict, total=False):
    """The keyword options of ``train``; the groups below say what each means and its default."""

    weights: str | Path | None
    weights_key: str | None
    num_workers: int
    precision: str
    accelerator: str
    devices: int | str
    n_images: int
    progress: bool | Advance | None


@dataclass(frozen=True)
class StartingWeights:
    """The weights that a training starts from, if they are the user's.

    Attributes:
        weights: A checkpoint for the network to start from; it may lack the head. None takes published or random
            weights.
        weights_key: The set of weights to use if several in the checkpoint fit.
    """

    weights: str | Path | None = None
    weights_key: str | None = None

    def __post_init__(self) -> None:
        checks.optional(checks.path, "weights", self.weights)

    @property
    def path(self) -> Path | None:
        """The checkpoint's path."""
        return None if self.weights is None else Path(self.weights)


@dataclass(frozen=True)
class Hardware:
    """Where and how a training computes; the arguments are Lightning's.

    Attributes:
        precision: E.g. ``"bf16-mixed"``.
        accelerator: E.g. ``"gpu"``.
        devices: Number of devices. With several, Lightning runs the program once for each, and all processes but the
            first end with the training.
        num_workers: Number of processes that read images.
    """

    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int | str = 1
    num_workers: int = 0

    def __post_init__(self) -> None:
        checks.one_of("precision", self.precision, _PRECISIONS)
        checks.text("accelerator", self.accelerator)
        if not isinstance(self.devices, str):
            checks.field(self, "devices", checks.whole_number, 1)
        check_devices(self.accelerator, self.devices)
        checks.field(self, "num_workers", checks.whole_number, 0)

    @property
    def has_several_devices(self) -> bool:
        """Whether Lightning starts the program more than once."""
        return self.devices not in (1, "1")


@dataclass(frozen=True)
class TrainingSettings:
    """All keyword options of a training.

    Attributes:
        start: See ``StartingWeights``.
        hardware: See ``Hardware``.
        n_images: Number of training images per prototype whose pixels are kept in the model.
        progress: Show a progress bar; None shows one on a terminal. Or a function that advances your own.
    """

    start: StartingWeights = field(default_factory=StartingWeights)
    hardware: Hardware = field(default_factory=Hardware)
    n_images: int = 3
    progress: bool | Advance | None = None

    def __post_init__(self) -> None:
        checks.field(self, "n_images", checks.whole_number, 0)
        checks.progress("progress", self.progress)


OPTIONS = tuple(get_type_hints(TrainingOptions))


def training_settings(options: Mapping[str, Any]) -> TrainingSettings:
    """Sorts plain keyword options into their groups and checks them.

    Raises:
        LookalikeError: If an option has an invalid value.
        TypeError: If there is no option of that name.

    Example:
        >>> training_settings({"devices": 1, "n_images": 5}).n_images
        5
    """
    checks.option_names("train", options, OPTIONS)
    values = dict(options)

    def taken(group: Any) -> dict[str, Any]:
        return {entry.name: values.pop(entry.name) for entry in fields(group) if entry.name in values}

    start, hardware = StartingWeights(**taken(StartingWeights)), Hardware(**taken(Hardware))
    return TrainingSettings(start, hardware, **values)
