"""The training loop, on Lightning: runs the phases, is deterministic, and resumes interrupted trainings."""

import csv
import io
import logging
import math
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

from lookalike._core.acceleration import Accelerated
from lookalike._core.draws import combined_seed, seeded
from lookalike._core.errors import LookalikeError, first_line
from lookalike._core.files import write_whole
from lookalike._core.progress import Advance, progress_bar
from lookalike._core.working_folder import unsealed, write_sealed, writing_to
from lookalike.baselines.baseline import Baseline
from lookalike.baselines.children import with_children
from lookalike.baselines.hyperparameters import Hyperparameters
from lookalike.baselines.options import Hardware
from lookalike.baselines.phases import is_last, n_epochs, phase_at
from lookalike.baselines.protopnet import push
from lookalike.data import DataBundle
from lookalike.data.augmentation import Augmentation
from lookalike.embedding import embed
from lookalike.encoder import Encoder
from lookalike.model import PrototypeModel

CHECKPOINT = "last.ckpt"
LOG = "training.csv"
LOGGERS = ("lightning.pytorch", "lightning.fabric")

Row = dict[str, Any]
Report = Callable[[Row], None]


def fit(
    baseline: Baseline,
    model: nn.Module,
    data: DataBundle,
    hardware: Hardware,
    *,
    seed: int,
    folder: Path | None,
    on_epoch: Report | None,
    progress: bool | Advance | None,
) -> list[Row]:
    """Trains a model in place.

    Args:
        baseline: The method, with its phases and losses.
        model: The model that it has built.
        data: Training and test images.
        hardware: Where and how it computes.
        seed: Seed for everything random.
        folder: Folder for the last finished epoch; if it holds one, the training resumes from it.
        on_epoch: Called with the log's row of each epoch.
        progress: Show a progress bar.

    Returns:
        The log: a row per epoch.

    Raises:
        KeyboardInterrupt: If the training was interrupted.
        LookalikeError: If the loss is not finite, or the saved epoch cannot be read.
    """
    saver = _EpochSaver(folder)
    module = _Module(baseline, model, data, seed, hardware.num_workers, on_epoch)
    total = n_epochs(module.phases) * len(module.train_dataloader())
    with _restoring_global_state(), progress_bar(f"Training {baseline.title}", total, progress) as module.advance:
        trainer = _trainer(
            max_epochs=n_epochs(module.phases),
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            strategy="ddp_find_unused_parameters_true" if hardware.has_several_devices else "auto",
            precision=hardware.precision,
            callbacks=[saver, _EndsOnSigterm()],
            plugins=[_SealedCheckpoints()],
            default_root_dir=folder,
        )
        checkpoint = None if folder is None or not (folder / CHECKPOINT).exists() else folder / CHECKPOINT
        _run(trainer, module, saver, checkpoint)
        if not trainer.is_global_zero:  # with several devices, only the first process goes on; the others are done
            raise SystemExit(0)
    model.to(memory_format=torch.contiguous_format)
    return module.rows


def _run(trainer: pl.Trainer, module: "_Module", saver: "_EpochSaver", checkpoint: Path | None) -> None:
    """Runs Lightning's training loop, from a checkpoint if there is one.

    Raises:
        KeyboardInterrupt: If the training was interrupted.
        LookalikeError: If the checkpoint cannot be read.
    """
    try:
        module.model.to(memory_format=torch.channels_last)
        with_children(trainer, lambda: trainer.fit(module, ckpt_path=checkpoint))
    except SystemExit:  # Lightning's answer to Ctrl-C
        if not saver.interrupted:
            raise
        raise KeyboardInterrupt from None
    except (RuntimeError, KeyError, EOFError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        if checkpoint is None or module.resumed:
            raise
        raise LookalikeError(
            f"{str(checkpoint)!r} cannot be read ({error}); remove its folder to start anew"
        ) from error


def _trainer(**options: Any) -> pl.Trainer:
    """Creates Lightning's trainer, without Lightning's own output.

    Raises:
        LookalikeError: If this machine lacks the accelerator, the number of devices or the precision.
    """
    try:
        return pl.Trainer(
            deterministic="warn",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise LookalikeError(f"this machine cannot train with these settings: {reason}") from error


def learning_rate_at(options: Hyperparameters, epoch: int) -> float:
    """Returns the learning rate of an epoch, counted from 0: a linear rise, then constant or half a cosine.

    Epochs after ``options.epochs``, in which ProtoPNet trains its last layer, have the full rate.
    """
    full = options.learning_rate
    if epoch < options.warm_up:
        return full * (epoch + 1) / (options.warm_up + 1)
    if options.schedule == "constant" or epoch >= options.epochs:
        return full
    progress = (epoch - options.warm_up) / max(1, options.epochs - options.warm_up)
    return options.final_learning_rate + (full - options.final_learning_rate) * (1 + math.cos(math.pi * progress)) / 2


def as_csv(rows: list[Row]) -> bytes:
    """Returns the log as a CSV file; cells of losses that a phase does not have are empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


class _Module(pl.LightningModule):
    """Runs the phases of a baseline.

    Attributes:
        rows: The log so far.
        resumed: Whether a saved epoch was loaded.
        advance: Moves the progress bar by a number of batches.
    """

    def __init__(
        self,
        baseline: Baseline,
        model: nn.Module,
        data: DataBundle,
        seed: int,
        num_workers: int,
        on_epoch: Report | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.baseline = baseline
        self.options = baseline.options
        self.phases = baseline.phases()
        self.data = data
        self.seed = seed
        self.num_workers = num_workers
        self.on_epoch = on_epoch
        self.rows: list[Row] = []
        self.resumed = False
        self.advance: Advance | None = None
        self._sums: dict[str, Any] = {}
        self._stopwatch = _Stopwatch()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        options, model = self.options, self.model
        network = model.encoder if isinstance(model, PrototypeModel) else model
        decayed = list(network.parameters())
        decayed_ids = {id(parameter) for parameter in decayed}
        # only the network's weights decay, prototypes and votes do not
        not_decayed = [parameter for parameter in model.parameters() if id(parameter) not in decayed_ids]
        groups = [
            {"params": decayed, "weight_decay": options.weight_decay},
            {"params": not_decayed, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if options.optimiser == "sgd":
            return torch.optim.SGD(groups, options.learning_rate, momentum=options.momentum)
        return torch.optim.Adam(groups, options.learning_rate)

    def train_dataloader(self) -> DataLoader[Any]:
        augmentation = Augmentation(self.data.preprocessing) if self.options.augment else None
        images = _TrainingImages(self.data.train, augmentation, self.seed)
        sampler: Any = _ShuffledSampler(len(self.data.train), self.seed)
        # Batch norm cannot normalise over one image, so a last batch of one is left out: another image in each epoch.
        n_per_process = -(-len(images) // self._n_processes())
        drop_last = n_per_process > self.options.batch_size and n_per_process % self.options.batch_size == 1
        return DataLoader(
            images, self.options.batch_size, sampler=sampler, num_workers=self.num_workers, drop_last=drop_last
        )

    def _n_processes(self) -> int:
        """Returns the number of processes that share the images; 1 before the training starts."""
        return 1 if self._trainer is None else self.trainer.world_size

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        images: Any = self.data.test
        return DataLoader(images, self.options.batch_size, num_workers=self.num_workers) if len(images) else []

    def on_train_epoch_start(self) -> None:
        self._stopwatch = _Stopwatch()
        self._sums = {}
        phase = phase_at(self.phases, self.current_epoch)
        for name, module in self.baseline.parts(self.model).items():
            module.train(name not in phase.still)
            module.requires_grad_(name in phase.trains)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate_at(self.options, self.current_epoch)

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(combined_seed(self.seed, self.current_epoch, batch_idx))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, y = batch
        images = images.contiguous(memory_format=torch.channels_last)
        weights = phase_at(self.phases, self.current_epoch).losses
        try:
            with Accelerated():  # not the reading of the images, which sees their memory
                step = self.baseline.step(self.model, images, y)
        except ValueError as error:
            if len(y) > 1 or "more than 1 value per channel" not in str(error):
                raise
            raise LookalikeError(
                "the network normalises over a batch, and this batch has one image: "
                "train on more images, with batch_size=2 or more"
            ) from error
        terms = {name: step.losses[name] for name in weights}
        loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        if not bool(loss.isfinite()):
            values = ", ".join(f"{name} {float(term):.3g}" for name, term in terms.items())
            raise LookalikeError(
                f"the loss is not finite in epoch {self.current_epoch + 1} ({values}): try a smaller learning rate"
            )
        self._add("rows", len(y))
        self._add("n_correct", (step.scores.argmax(1) == y).sum())
        for name, value in {"loss": loss, **terms}.items():
            self._add(name, value.detach() * len(y))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.advance is not None:
            self.advance()

    def on_validation_start(self) -> None:
        self._stopwatch.pause()

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        images, y = batch
        images = images.contiguous(memory_format=torch.channels_last)
        with Accelerated():
            predicted = self.model(images).argmax(1)
        self._add("test_rows", len(y))
        self._add("n_test_correct", (predicted == y).sum())

    def on_validation_end(self) -> None:
        self._stopwatch.resume()

    def on_train_epoch_end(self) -> None:
        phase = phase_at(self.phases, self.current_epoch)
        if phase.push and is_last(self.phases, self.current_epoch):
            self._push()
        sums = {name: self._sum_over_devices(self._sums[name]) for name in sorted(self._sums)}
        row: Row = {
            "epoch": self.current_epoch + 1,
            "phase": phase.name,
            "learning_rate": self.trainer.optimizers[0].param_groups[0]["lr"],
            "loss": sums["loss"] / sums["rows"],
            **{name: sums[name] / sums["rows"] for name in phase.losses},
            "train_accuracy": sums["n_correct"] / sums["rows"],
            "test_accuracy": sums["n_test_correct"] / sums["test_rows"] if "test_rows" in sums else None,
            "seconds": round(self._stopwatch.seconds(), 3),
        }
        self.rows.append(row)
        if self.on_epoch is not None and self.trainer.is_global_zero:
            self.on_epoch(row)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rows"] = self.rows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.rows = list(checkpoint["rows"])
        self.resumed = True
        if self.advance is not None:
            self.advance(len(self.rows) * len(self.train_dataloader()))

    def _push(self) -> None:
        """Moves the prototypes onto training embeddings, computed in eval mode without augmentation."""
        model: Any = self.model
        encoder = Encoder(model.encoder, self.data.train[0][0][None].to(self.device), head="output")
        store = embed(encoder, self.data.train, num_workers=self.num_workers, progress=False)
        z, y = (torch.from_numpy(np.asarray(array)).to(self.device) for array in (store.embeddings, store.labels))
        push(model.prototypes.vectors.data, model.prototypes.labels, z, y)

    def _sum_over_devices(self, value: Any) -> float:
        """Sums a number over all devices."""
        tensor = torch.as_tensor(value, dtype=torch.float64 if self.device.type == "cpu" else None, device=self.device)
        return float(self.trainer.strategy.reduce(tensor, reduce_op="sum"))

    def _add(self, name: str, value: Any) -> None:
        self._sums[name] = self._sums.get(name, 0) + value


class _Stopwatch:
    """Measures seconds, without pauses."""

    def __init__(self) -> None:
        self._elapsed = 0.0
        self.resume()

    def resume(self) -> None:
        self._started_at = time.perf_counter()

    def pause(self) -> None:
        self._elapsed += time.perf_counter() - self._started_at
        self._started_at = time.perf_counter()

    def seconds(self) -> float:
        self.pause()
        return self._elapsed


class _TrainingImages(Dataset[tuple[Tensor, int]]):
    """Training images by (epoch, index); seed, epoch and index decide how an image is augmented."""

    def __init__(self, samples: Any, augmentation: Augmentation | None, seed: int) -> None:
        self.samples = samples
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        image, label = self.samples[index]
        if self.augmentation is not None:
            image = self.augmentation(image, seeded(combined_seed(self.seed, epoch, 2, index)))
        return image, label


class _ShuffledSampler(Sampler[tuple[int, int]]):
    """Yields all samples as (epoch, index), in an order that depends on seed and epoch.

    Lightning calls ``set_epoch``.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = seeded(combined_seed(self.seed, self.epoch, 1))
        yield from ((self.epoch, index) for index in torch.randperm(self.n, generator=generator).tolist())


class _SealedCheckpoints(CheckpointIO):
    """Writes checkpoints atomically with a checksum, and refuses checkpoints with a wrong checksum."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_sealed(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, **_: Any) -> dict[str, Any]:
        try:
            content = unsealed(Path(path))
        except LookalikeError as error:
            raise LookalikeError(f"{str(path)!r} cannot be read ({error}); remove its folder to start anew") from error
        checkpoint: dict[str, Any] = torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class _EndsOnSigterm(Callback):
    """Restores the handler of SIGTERM that Lightning replaces, so that the signal ends the training at once.

    With several devices Lightning's handler waits forever for other processes that may have ended already. Ending at
    once loses nothing: the last finished epoch is saved.
    """

    def __init__(self) -> None:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._handler = signal.getsignal(signal.SIGTERM) if in_main_thread else None

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)


class _EpochSaver(Checkpoint):
    """Saves the last finished epoch, and records whether the training was interrupted."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.interrupted = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.folder is None:
            return
        with writing_to(self.folder, "the epochs before are safe"):
            trainer.save_checkpoint(self.folder / CHECKPOINT)
            if trainer.is_global_zero and isinstance(pl_module, _Module):
                write_whole(self.folder / LOG, as_csv(pl_module.rows).decode())

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.interrupted = isinstance(exception, KeyboardInterrupt)


@contextmanager
def _restoring_global_state() -> Iterator[None]:
    """Silences Lightning, and restores the settings that it changes for the whole process."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    handler = signal.getsignal(signal.SIGINT)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", message=".*num_workers.*")
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)
