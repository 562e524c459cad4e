"""train(): trains a method by name on a data set, and returns a model that can explain itself."""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.identity import identifying_as
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
from lookalike.baselines.baseline import METHODS, Spec, Task
from lookalike.baselines.hyperparameters import Hyperparameters, Preset, hyperparameters
from lookalike.baselines.options import TrainingOptions, TrainingSettings, training_settings
from lookalike.baselines.start import start_from
from lookalike.conversion.training_images import with_training_images
from lookalike.data import Batches, DataBundle
from lookalike.encoder import LoadedClassifier, read_checkpoint, save_classifier
from lookalike.model import Origin, PrototypeModel
from lookalike.saved import read_provenance

if TYPE_CHECKING:
    from lookalike.baselines.loop import Report, Row

_STATE = "training.json"
_BATCH_SIZE = 256  # images that are embedded at a time after the training


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        model: A ``PrototypeModel``, or a ``LoadedClassifier`` for the black box.
        log: A row per epoch: phase, losses, accuracies, seconds.
        provenance: Method, hyper-parameters, seed, training seconds, data and versions.
    """

    model: PrototypeModel | LoadedClassifier
    log: "list[Row]"
    provenance: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Duration of all epochs in seconds, including pushes, without evaluation on the test images."""
        return float(self.provenance["train_seconds"])

    def save(self, folder: str | Path, *, images: bool = True, names: bool = True, overwrite: bool = False) -> None:
        """Saves the model and its log to a folder for ``load``, or for ``load_classifier`` if it is a black box."""
        from lookalike.baselines.loop import LOG, as_csv

        files = {LOG: as_csv(self.log)}
        if isinstance(self.model, PrototypeModel):
            self.model.save(folder, images=images, names=names, extra_files=files, overwrite=overwrite)
        else:
            save_classifier(self.model, folder, provenance=self.provenance, files=files, overwrite=overwrite)


@keeps_random_states
def train(
    method: str,
    data: DataBundle,
    *,
    preset: Preset = "paper",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    working_folder: str | Path | None = None,
    on_epoch: "Report | None" = None,
    **run: Unpack[TrainingOptions],
) -> Trained:
    """Trains a baseline.

    The same seed gives the same weights on one machine, also if the training was interrupted and resumed: random
    numbers are seeded for every batch, and an unfinished epoch starts again.

    Args:
        method: ``"blackbox"``, ``"protopnet"``, ``"flint"`` or ``"protovae"``.
        data: Training and test images, all of one size.
        preset: The set of default hyper-parameters; see ``hyperparameters``.
        options: Hyper-parameters by name that override the defaults.
        seed: Seed for initial weights, order, augmentation and the method's random draws.
        working_folder: Folder from which an interrupted training resumes. None saves nothing.
        on_epoch: Called with the log's row of each epoch.
        **run: Everything that is no hyper-parameter, by name:

            - the start: ``weights``, ``weights_key``
            - hardware: ``precision``, ``accelerator``, ``devices``, ``num_workers``
            - ``n_images``, ``progress``

            ``lookalike.baselines.options`` documents each.

    Returns:
        The trained model, its log and its provenance.

    Raises:
        LookalikeError: If Lightning is not installed, the method or an option is unknown, a class has no training
            images, the loss is not finite, or the working folder holds another training.
        TypeError: If there is no option of that name.
    """
    _check_arguments(data, options, working_folder, seed, on_epoch)
    settings = training_settings(run)
    hardware, given = settings.hardware, settings.start
    method_class = METHODS[method]
    chosen = hyperparameters(method, data.name, preset, options, defaults=method_class.defaults)
    baseline = method_class(chosen)
    loop = _import_loop()
    batches = Batches(data, _BATCH_SIZE, hardware.num_workers)
    task = _task_of(data)
    key = training_key(baseline.title, data, chosen, preset=preset, settings=settings, seed=seed)
    # Lightning starts the program once for each further device; these processes do not own the working folder
    is_child_process = hardware.has_several_devices and os.environ.get("LOCAL_RANK", "0") != "0"
    folder = None if working_folder is None else Path(working_folder)

    def build_and_fit() -> "tuple[Any, Spec, list[Row]]":
        if folder is not None:
            _prepare_folder(folder, key, write=not is_child_process)
        torch.manual_seed(seed)
        start = start_from(
            chosen.network,
            task.sample(),
            pretrained=chosen.pretrained,
            weights=given.path,
            weights_key=given.weights_key,
        )
        model, spec = baseline.build(task, start)
        log = loop.fit(
            baseline,
            model,
            data,
            hardware,
            seed=seed,
            folder=folder,
            on_epoch=on_epoch,
            progress=settings.progress,
        )
        return model, spec, log

    with nullcontext() if folder is None or is_child_process else alone(lock_in(folder)):
        model, spec, log = undoing(process_settings(loggers=loop.LOGGERS), build_and_fit)
    seconds = round(sum(row["seconds"] for row in log), 3)
    provenance = {**key, "train_seconds": seconds, "versions": versions()}
    model.eval().requires_grad_()
    if not isinstance(model, PrototypeModel):
        return Trained(LoadedClassifier(model, spec, data.preprocessing, task.class_names), log, provenance)
    trained = model.with_parts(preprocessing=data.preprocessing, origin=Origin(provenance=provenance))
    finished = with_training_images(
        trained, batches, n_images=settings.n_images, nearest_by=baseline.nearest_by, spec=spec, progress=False
    )
    return Trained(finished, log, provenance)


def _check_arguments(data: Any, options: Any, working_folder: Any, seed: Any, on_epoch: Any) -> None:
    checks.instance("data", data, DataBundle, "a DataBundle")
    checks.optional(checks.mapping, "options", options)
    checks.optional(checks.path, "working_folder", working_folder)
    checks.seed("seed", seed)
    if on_epoch is not None and not callable(on_epoch):
        raise checks.unfit("on_epoch", on_epoch, "a function")


def training_key(
    method: str, data: DataBundle, chosen: Hyperparameters, *, preset: str, settings: TrainingSettings, seed: int
) -> dict[str, Any]:
    """Returns everything that the result of a training depends on, as JSON values by name.

    The accelerator and the versions of libraries are not part of it: a training may resume with others, and its weights
    then differ by rounding.
    """
    weights, hardware = settings.start.path, settings.hardware
    key = {
        "method": method,
        "dataset": data.name,
        "preset": preset,
        **chosen.to_dict(),
        "weights": None if weights is None else weights.name,
        "precision": hardware.precision,
        "seed": seed,
        "n_samples": len(data.train),
        "split": None if data.split is None else data.split.to_dict(),
        "fingerprints": {
            **_identities(data),
            "preprocessing": fingerprint_json(data.preprocessing.to_dict()),
            "start": None if weights is None else _fingerprint_checkpoint(weights),
        },
    }
    if hardware.has_several_devices:
        key["devices"] = hardware.devices
    weights_key = settings.start.weights_key
    return key if weights_key is None else {**key, "weights_key": weights_key}


def _identities(data: DataBundle) -> dict[str, str | None]:
    """Returns the SHA-256 of both parts, by which trainings have always been resumed."""
    with identifying_as("sha256"):
        return {
            "data": Batches(data).fingerprint(),
            "test": Batches(data.test).fingerprint() if len(data.test) else None,
        }


def _fingerprint_checkpoint(path: Path) -> str:
    """Returns the SHA-256 of all weights in a checkpoint."""
    sets = read_checkpoint(path).weights
    if len(sets) == 1:
        return fingerprint_tensors(next(iter(sets.values())))
    return fingerprint_json({key: fingerprint_tensors(tensors) for key, tensors in sets.items()})


def _task_of(data: DataBundle) -> Task:
    """Reads the class names and the image shape from the data.

    Raises:
        LookalikeError: If there are no images, the first sample is no image, or a class has no images.
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


def _prepare_folder(folder: Path, key: Mapping[str, Any], *, write: bool) -> None:
    """Creates the working folder of a training, or checks that it belongs to this training.

    Args:
        folder: The working folder.
        key: What the training depends on.
        write: False in the processes that Lightning starts for further devices.

    Raises:
        LookalikeError: If the folder holds another training, and the message says what differs; or other files.
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
        record = read_record(state)
    except LookalikeError as error:
        raise LookalikeError(f"{str(state)!r} cannot be read: {error}; remove its folder to start anew") from error
    differing = differences(_flatten(record), _flatten(key))
    if differing:
        raise LookalikeError(
            f"{str(folder)!r} holds an unfinished training with other {differing}; remove it, or repeat its command to "
            "finish it"
        )


def _flatten(key: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a training's key with the fingerprints at the top level."""
    return {name: value for name, value in key.items() if name != "fingerprints"} | dict(key.get("fingerprints", {}))


def _import_loop() -> Any:
    """Imports the training loop, which needs the optional package Lightning."""
    try:
        from lookalike.baselines import loop
    except ImportError as error:
        if (error.name or "").startswith("lookalike"):
            raise
        raise LookalikeError("training needs Lightning: pip install lightning") from error
    return loop


def remove_finished(folder: str | Path, output: str | Path) -> None:
    """Removes the working folder of a training whose result is saved.

    The training's own command removes it too, unless it was killed before that.

    Args:
        folder: The working folder; it stays if it belongs to another training.
        output: The folder of the saved model or classifier.
    """
    folder = Path(folder)
    remove_leftovers(folder)
    try:
        provenance, record = read_provenance(output), read_record(folder / _STATE)
    except LookalikeError:
        return
    if all(provenance.get(name) == value for name, value in record.items()):
        remove_folder(folder)


def is_unfinished(folder: str | Path) -> bool:
    """Says whether a folder holds an unfinished training that can resume."""
    return (Path(folder) / _STATE).is_file()
