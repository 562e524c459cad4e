"""train(): from a method's name and a data set to a model that is ready to explain itself."""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.progress import Advance
from lookalike._core.provenance import fingerprint_json, fingerprint_tensors, versions
from lookalike._core.replacing import remove_folder, remove_leftovers
from lookalike._core.untouched import keeps_random_states, process_settings, undoing
from lookalike._core.working_folder import (
    alone,
    clean,
    differences,
    is_foreign,
    lock_in,
    read_record,
    write_record,
    writing_to,
)
from lookalike.baselines.baseline import METHODS, Baseline, Spec, Task
from lookalike.baselines.children import check_devices
from lookalike.baselines.hyperparameters import Hyperparameters, Preset, hyperparameters
from lookalike.baselines.start import start_from
from lookalike.conversion.survey import survey
from lookalike.data import Batches, DataBundle
from lookalike.embedding import embed
from lookalike.encoder import Encoder, LoadedClassifier, read_checkpoint, save_classifier
from lookalike.model import PrototypeModel
from lookalike.model.images import read_prototype_images, record_of
from lookalike.model.prototypes import Prototypes
from lookalike.saved import read_provenance

if TYPE_CHECKING:
    from lookalike.baselines.loop import Report, Row

_STATE = "training.json"
_BATCH = 256
_PRECISIONS = (
    "32-true", "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "transformer-engine",
    "transformer-engine-float16", "32", "64", "16", "bf16",
)  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What a training has made.

    Attributes:
        model: A ``PrototypeModel``; of the black box a ``LoadedClassifier``.
        log: A row per epoch: phase, losses, accuracies, seconds.
        provenance: Method, hyper-parameters, seed, training seconds, data and versions.
    """

    model: PrototypeModel | LoadedClassifier
    log: "list[Row]"
    provenance: dict[str, Any]

    @property
    def seconds(self) -> float:
        """How long the epochs took, pushes included, tests not."""
        return float(self.provenance["train_seconds"])

    def save(self, folder: str | Path, *, images: bool = True, overwrite: bool = False) -> None:
        """Writes the model's folder, with its log: for ``load``, or, of the black box, ``load_classifier``."""
        from lookalike.baselines.loop import LOG, as_csv

        files = {LOG: as_csv(self.log)}
        if isinstance(self.model, PrototypeModel):
            self.model.save(folder, images=images, extra_files=files, overwrite=overwrite)
        else:
            save_classifier(self.model, folder, provenance=self.provenance, files=files, overwrite=overwrite)


@keeps_random_states
def train(
    method: str,
    data: DataBundle,
    *,
    preset: Preset = "paper",
    options: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    seed: int = 0,
    working_folder: str | Path | None = None,
    num_workers: int = 0,
    precision: str = "32-true",
    accelerator: str = "auto",
    devices: int | str = 1,
    n_images: int = 3,
    on_epoch: "Report | None" = None,
    progress: bool | Advance | None = None,
) -> Trained:
    """Trains a baseline.

    The same seed gives the same weights on one machine, whether or not the training was stopped in between: chance
    starts anew with every batch, and an epoch that was not finished is run again.

    Args:
        method: ``"blackbox"``, ``"protopnet"``, ``"flint"`` or ``"protovae"``.
        data: Training and test images, all of one size.
        preset: Which defaults; see ``hyperparameters``.
        options: Hyper-parameters by name, in place of the defaults.
        weights: A checkpoint for the network to start from; its head need not be in it.
        weights_key: Which of its weights, where it holds several sets that fit.
        seed: For first weights, order, augmentation and what a method draws.
        working_folder: Keeps what is needed to go on after an interruption; if it holds the same training, that one
            goes on. None keeps nothing.
        num_workers: Processes that read images.
        precision: Lightning's, e.g. ``"bf16-mixed"``.
        accelerator: Lightning's, e.g. ``"gpu"``.
        devices: Lightning's: how many. With several, Lightning runs the program once for each, and all but the
            first end when the training does.
        n_images: Of how many training images to keep the pixels, per prototype.
        on_epoch: Is given each epoch's row of the log.
        progress: Show a progress bar; None shows one on a terminal.

    Returns:
        The model, and how it came about.

    Raises:
        LookalikeError: If Lightning is not installed, the method or an option is unknown, a class has no training
            images, the loss is not finite, or the working folder holds another training.
    """
    checks.instance("data", data, DataBundle, "a DataBundle")
    checks.optional(checks.mapping, "options", options)
    checks.optional(checks.path, "weights", weights)
    checks.optional(checks.path, "working_folder", working_folder)
    checks.seed("seed", seed)
    checks.whole_number("num_workers", num_workers, 0)
    checks.whole_number("n_images", n_images, 0)
    checks.one_of("precision", precision, _PRECISIONS)
    checks.text("accelerator", accelerator)
    if not isinstance(devices, str):
        checks.whole_number("devices", devices, 1)
    check_devices(accelerator, devices)
    if on_epoch is not None and not callable(on_epoch):
        raise checks.unfit("on_epoch", on_epoch, "a function")
    checks.progress("progress", progress)
    given = None if weights is None else Path(weights)
    made_by = METHODS[method]
    chosen = hyperparameters(method, data.name, preset, options, defaults=made_by.defaults)
    baseline = made_by(chosen)
    loop = _loop()
    batches = Batches(data, _BATCH, num_workers)
    task = _task(data)
    key = training_key(
        baseline.title, data, chosen, preset=preset, weights=given, weights_key=weights_key,
        precision=precision, devices=devices, seed=seed,
    )  # fmt: skip
    helper = devices not in (1, "1") and os.environ.get("LOCAL_RANK", "0") != "0"  # one of Lightning's other processes
    folder = None if working_folder is None else Path(working_folder)

    def run() -> "tuple[Any, Spec, list[Row]]":
        if folder is not None:
            _prepare(folder, key, write=not helper)
        torch.manual_seed(seed)
        start = start_from(
            chosen.network, task.sample(), pretrained=chosen.pretrained, weights=given, weights_key=weights_key
        )
        model, spec = baseline.build(task, start)
        log = loop.fit(
            baseline,
            model,
            data,
            seed=seed,
            folder=folder,
            num_workers=num_workers,
            precision=precision,
            accelerator=accelerator,
            devices=devices,
            on_epoch=on_epoch,
            progress=progress,
        )
        return model, spec, log

    with nullcontext() if folder is None or helper else alone(lock_in(folder)):
        model, spec, log = undoing(process_settings(loggers=loop.LOGGERS), run)
    seconds = round(sum(row["seconds"] for row in log), 3)
    provenance = {**key, "train_seconds": seconds, "versions": versions()}
    model.eval().requires_grad_()
    if not isinstance(model, PrototypeModel):
        return Trained(LoadedClassifier(model, spec, data.preprocessing, task.class_names), log, provenance)
    return Trained(_finished(baseline, model, spec, task, batches, data, provenance, n_images), log, provenance)


def training_key(
    method: str,
    data: DataBundle,
    chosen: Hyperparameters,
    *,
    preset: str,
    weights: Path | None,
    weights_key: str | None,
    precision: str,
    devices: int | str,
    seed: int,
) -> dict[str, Any]:
    """Returns everything that a training depends on, as JSON values by name.

    The accelerator and the versions of libraries are not in it: with another one a training goes on, and its weights
    differ by rounding.
    """
    key = {
        "method": method,
        "dataset": data.name,
        "preset": preset,
        **chosen.to_dict(),
        "weights": None if weights is None else weights.name,
        "precision": precision,
        "random_state": seed,
        "n_samples": len(data.train),
        "split": None if data.split is None else data.split.to_dict(),
        "fingerprints": {
            "data": Batches(data).fingerprint(),
            "test": Batches(data.test).fingerprint() if len(data.test) else None,
            "preprocessing": fingerprint_json(data.preprocessing.to_dict()),
            "start": None if weights is None else _fingerprint_checkpoint(weights),
        },
    }
    if devices not in (1, "1"):
        key["devices"] = devices
    return key if weights_key is None else {**key, "weights_key": weights_key}


def _fingerprint_checkpoint(path: Path) -> str:
    """Returns a SHA-256 of all weights in a checkpoint."""
    sets = read_checkpoint(path).weights
    if len(sets) == 1:
        return fingerprint_tensors(next(iter(sets.values())))
    return fingerprint_json({key: fingerprint_tensors(tensors) for key, tensors in sets.items()})


def _finished(
    baseline: Baseline,
    model: PrototypeModel,
    spec: Spec,
    task: Task,
    batches: Batches,
    data: DataBundle,
    provenance: Mapping[str, Any],
    n_images: int,
) -> PrototypeModel:
    """Makes of a trained model one that can be saved, with the training data behind each prototype."""
    encoder = Encoder(model.encoder, task.sample(), head="output", spec=spec)
    store = embed(encoder, batches, progress=False)
    p = model.prototypes
    learned = Prototypes(p.vectors.detach().clone(), p.labels, p.class_names)
    prototypes = survey(
        learned,
        model.similarity,
        store.embeddings,
        store.labels,
        indices=store.indices,
        nearest_by=baseline.nearest_by,
    )
    images, value_range = read_prototype_images(batches, prototypes, n_images, data.preprocessing)
    return PrototypeModel(
        encoder,
        prototypes,
        model.similarity,
        model.classifier,
        preprocessing=data.preprocessing,
        images=images,
        value_range=value_range,
        provenance=provenance,
        training_keys=record_of(batches)[1],
    )


def _task(data: DataBundle) -> Task:
    """Reads classes and shape off the data.

    Raises:
        LookalikeError: If there are no images, or the first is none.
    """
    if not len(data.train):
        raise LookalikeError("there are no training images")
    shape = tuple(getattr(data.train[0][0], "shape", ()))
    if len(shape) != 3:
        raise LookalikeError(f"baselines are trained on images [C, H, W]; the first sample has the shape {shape}")
    labels = getattr(data.train, "labels", None)
    if labels is not None:
        present = set(map(int, labels))
        empty = [name for k, name in enumerate(data.class_names) if k not in present]
        if empty:
            raise LookalikeError(f"class {empty[0]!r} has no training images")
    return Task(list(data.class_names), shape)


def _prepare(folder: Path, key: Mapping[str, Any], *, write: bool) -> None:
    """Makes a folder for a training, or checks that the present one holds this training.

    Args:
        folder: The working folder.
        key: What the training depends on.
        write: False in the processes that Lightning starts for further devices.

    Raises:
        LookalikeError: If it holds another training, and it says what differs; or other files.
    """
    state = folder / _STATE
    if write:
        clean(folder)
        if not state.exists():
            if is_foreign(folder):
                raise LookalikeError(f"{str(folder)!r} holds files, and no training; choose another folder")
            with writing_to(folder, "nothing was done yet"):
                folder.mkdir(parents=True, exist_ok=True)
                write_record(state, key)
    try:
        held = read_record(state)
    except LookalikeError as error:
        raise LookalikeError(f"{str(state)!r} cannot be read: {error}; remove its folder to start anew") from error
    differing = differences(_flat(held), _flat(key))
    if differing:
        raise LookalikeError(
            f"{str(folder)!r} holds an unfinished training with other {differing}; remove it, or repeat its command to "
            "finish it"
        )


def _flat(key: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a key with its fingerprints beside the other values."""
    return {name: value for name, value in key.items() if name != "fingerprints"} | dict(key.get("fingerprints", {}))


def _loop() -> Any:
    try:
        from lookalike.baselines import loop
    except ImportError as error:
        if (error.name or "").startswith("lookalike"):
            raise
        raise LookalikeError("training needs Lightning: pip install 'lookalike[train]'") from error
    return loop


def remove_finished(folder: str | Path, output: str | Path) -> None:
    """Removes the working folder of a training whose result is saved; a kill can come before its own command does.

    Args:
        folder: The working folder; another training's stays.
        output: The folder of the saved model or classifier.
    """
    folder = Path(folder)
    remove_leftovers(folder)
    try:
        made, held = read_provenance(output), read_record(folder / _STATE)
    except LookalikeError:
        return
    if all(made.get(name) == value for name, value in held.items()):
        remove_folder(folder)


def is_unfinished(folder: str | Path) -> bool:
    """Says whether a folder keeps a training that can go on."""
    return (Path(folder) / _STATE).is_file()
