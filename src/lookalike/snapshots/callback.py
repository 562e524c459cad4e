"""A callback for Lightning that shows prototypes as they emerge."""

from typing import Any

import numpy as np
from torch import nn
from typing_extensions import override

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike.conversion.options import settings_of
from lookalike.snapshots.snapshot import Snapshot, take_snapshot

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise LookalikeError("the callback needs the extra 'train': pip install lightning") from error


class SnapshotCallback(Callback):
    """Takes a snapshot after every n epochs and gives it to the trainer's loggers.

    The figures go to every logger, as ``prototypes/accuracy`` and so on; the gallery to those that take images:
    TensorBoard, Weights & Biases, MLflow. A snapshot that fails is a warning and does not stop the training.

    Args:
        train: Training data, as for ``convert``, without augmentation.
        test: Test data.
        every: Number of epochs between snapshots.
        network: Name of the module's attribute that is the classifier, such as ``"model"``; None takes the module.
        options: Further options of ``convert``.

    Attributes:
        snapshots: All snapshots so far, by the number of finished epochs. Their models share the network.

    Raises:
        LookalikeError: If an option is none of ``convert``'s, or a value cannot be used.
    """

    def __init__(
        self,
        train: Any,
        test: Any,
        *,
        every: int = 1,
        network: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.train, self.test = train, test
        self.every = checks.whole_number("every", every, 1)
        self.network = None if network is None else checks.text("network", network)
        self.options = _checked_options(options)
        self.snapshots: dict[int, Snapshot] = {}

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every or not trainer.is_global_zero:
            return
        try:
            snapshot = take_snapshot(self._classifier(pl_module), self.train, self.test, **self.options)
        except Exception as error:  # whatever it is, hours of training are worth more than a snapshot
            warn_of(f"there is no snapshot after epoch {epoch}: {_said(error)}")
            return
        self.snapshots[epoch] = snapshot
        for logger in trainer.loggers:
            try:
                log_snapshot(logger, snapshot, trainer.global_step)
            except Exception as error:
                warn_of(f"a {type(logger).__name__} has no snapshot after epoch {epoch}: {_said(error)}")

    def _classifier(self, module: nn.Module) -> nn.Module:
        network = module if self.network is None else getattr(module, self.network, None)
        if not isinstance(network, nn.Module):
            raise LookalikeError(f"a {type(module).__name__} has no module {self.network!r}")
        return network


def _checked_options(options: dict[str, Any] | None) -> dict[str, Any]:
    """Refuses options that ``convert`` would refuse in every epoch, before the training begins."""
    snapshot_options = dict(options or {})
    further = {
        name: value for name, value in snapshot_options.items() if name not in ("similarity", "level", "backend")
    }
    try:
        settings_of("convert", further.pop("n_prototypes", 5), further.pop("seed", 0), further)
    except TypeError as error:
        raise LookalikeError(f"the options of a SnapshotCallback are those of convert: {error}") from None
    return snapshot_options


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, LookalikeError) else f"{type(error).__name__}: {error}"


def log_snapshot(logger: Any, snapshot: Snapshot, step: int) -> None:
    """Gives a snapshot to one of Lightning's loggers.

    Args:
        logger: The logger.
        snapshot: What it is given.
        step: Number of the training step.
    """
    logger.log_metrics({f"prototypes/{name}": value for name, value in snapshot.figures.items()}, step=step)
    if snapshot.gallery is not None:
        _log_image(logger, "prototypes/gallery", snapshot.gallery, step)


def _log_image(logger: Any, name: str, pixels: np.ndarray, step: int) -> None:
    """Logs a picture in the way that the logger has, if any."""
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(logger, "log_image"):  # Weights & Biases
        logger.log_image(key=name, images=[pixels], step=step)
    elif hasattr(experiment, "add_image"):  # TensorBoard
        experiment.add_image(name, pixels, step, dataformats="HWC")
    elif hasattr(experiment, "log_image") and hasattr(logger, "run_id"):  # MLflow
        experiment.log_image(logger.run_id, pixels, key=name.replace("/", "."), step=step)
