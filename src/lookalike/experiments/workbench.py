"""The models that experiments study. Each is trained or converted once, then read from disk."""

import glob
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from lookalike._core.errors import LookalikeError
from lookalike._core.identity import identifying_as
from lookalike._core.provenance import fingerprint_json
from lookalike._core.replacing import remove_folder
from lookalike._core.working_folder import alone, lock_beside
from lookalike.baselines import METHODS, hyperparameters, train
from lookalike.conversion.convert import convert
from lookalike.data import DATASETS, Batches, DataBundle, load_training_data
from lookalike.encoder import LoadedClassifier, is_saved_classifier, load_classifier
from lookalike.metrics import BlackBox, Scorecard, evaluate
from lookalike.model import PrototypeModel, load
from lookalike.relevance import PrpRule
from lookalike.saved import read_provenance

Say = Callable[[str], None]

KMEX = "kmex"
PAPERS_RULE: PrpRule = "share"  # the paper's rule for PRP; prp_rules compares it with others
SMALL = "lookalike:small-cnn"
BASELINES = ("protopnet", "flint", "protovae")
QUICK_EPOCHS = {"blackbox": 3, "protopnet": 2, "flint": 2, "protovae": 2}
_IMAGES, _QUICK_IMAGES = 100, 10  # test images on which explanations are measured
MODELS = (KMEX, *(name for method in BASELINES for name in (method, f"{method}+{KMEX}")))


def data_name(dataset: str) -> str:
    """Returns a data set's name in tables and files; a folder's is its last component.

    Example:
        >>> data_name("digits"), data_name("/data/birds/")
        ('digits', 'birds')
    """
    return dataset if dataset in DATASETS else Path(dataset).resolve().name


def network_name(network: str) -> str:
    """Returns a network's name in tables and files.

    Example:
        >>> network_name("torchvision:resnet34")
        'resnet34'
    """
    return network.partition(":")[2]


@dataclass(frozen=True)
class Subject:
    """A model under study.

    Attributes:
        dataset: Name of a data set, or a folder.
        network: Network that the model is built on.
        model: ``"blackbox"``, a baseline's name, ``"kmex"`` (of the black box), or ``"BASELINE+kmex"``.
        seed: Seed of training and conversion.
        n_prototypes: Number of prototypes per class; None takes the data set's default.
        epochs: Number of epochs of training; None takes the method's default on the data set.
    """

    dataset: str
    network: str
    model: str
    seed: int
    n_prototypes: int | None = None
    epochs: int | None = None

    @property
    def name(self) -> str:
        """A name for files: data set, network, model, any number of prototypes and of epochs, and seed."""
        number = "" if self.n_prototypes is None else f"-{self.n_prototypes}-per-class"
        length = "" if self.epochs is None else f"-{self.epochs}-epochs"
        prefix = f"{data_name(self.dataset)}-{network_name(self.network)}"
        return f"{prefix}-{self.model}{number}{length}-seed{self.seed}".replace("/", "_")


@cache
def _of_process(folder: Path, quick: bool, say: Say, accelerator: str) -> "Workbench":
    """Returns this process's workbench: what failed there, or was read, is not tried or read again."""
    return Workbench(folder, quick, say, progress=False, accelerator=accelerator)


def title_of(model: str) -> str:
    """Returns a model's name in tables.

    Example:
        >>> title_of("protopnet+kmex")
        'ProtoPNet + KMEx'
    """
    if model == KMEX:
        return "KMEx"
    if model == "blackbox":
        return "black box"
    base, _, converted = model.partition("+")
    return METHODS[base].title + (" + KMEx" if converted else "")


def _say_nothing(_: str) -> None:  # by a name, to be sent to another process
    pass


@dataclass
class Workbench:
    """Trains and converts models, and stores them in a folder.

    Attributes:
        folder: Folder of the models.
        quick: Train for a few epochs only, to check that everything works.
        say: Called with a message before each long task.
        progress: Show progress bars.
        accelerator: Where models are trained, as Lightning names it; everything else runs on the CPU.
    """

    folder: Path
    quick: bool = False
    say: Say = _say_nothing
    progress: bool | None = None
    accelerator: str = "cpu"
    _bundles: dict[tuple[str, int], DataBundle] = field(default_factory=dict)
    _fingerprints: dict[tuple[str, int], str] = field(default_factory=dict)
    _boxes: dict[str, BlackBox] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process has one workbench for all that it is sent, and reads the data itself."""
        return _of_process, (self.folder, self.quick, self.say, self.accelerator)

    @property
    def n_images(self) -> int:
        """Number of test images on which explanations are measured."""
        return _QUICK_IMAGES if self.quick else _IMAGES

    def options(self, subject: Subject) -> dict[str, Any]:
        """Returns the hyperparameters of a subject's training."""
        method = subject.model.removesuffix(f"+{KMEX}")
        method = "blackbox" if method == KMEX else method
        given: dict[str, Any] = {"network": subject.network}
        if self.quick:
            given["epochs"] = QUICK_EPOCHS[method]
        if subject.epochs is not None:
            given["epochs"] = subject.epochs
        if subject.n_prototypes is not None:
            given["n_prototypes"] = subject.n_prototypes
        return hyperparameters(method, subject.dataset, given=given).to_dict()

    def key(self, subject: Subject, **more: Any) -> dict[str, Any]:
        """Returns everything that a cell about a subject depends on: options, black box's options, data, and more."""
        options = {"made": self.options(subject), "black_box": self.options(self._box_subject(subject))}
        conversion = {"temperature": "auto", "data": self._fingerprint(subject)}
        # a default number is left out, so that results from before there were other numbers are still found
        named = {name: value for name, value in vars(subject).items() if value is not None}
        return {"subject": named, **options, **conversion, **more}

    def data(self, subject: Subject) -> DataBundle:
        """Returns a subject's data in the image size of its network, read once."""
        name_and_size = subject.dataset, self.options(subject)["image_size"]
        if name_and_size not in self._bundles:
            self._bundles[name_and_size] = load_training_data(*name_and_size)
        return self._bundles[name_and_size]

    def _fingerprint(self, subject: Subject) -> str:
        name_and_size = subject.dataset, self.options(subject)["image_size"]
        if name_and_size not in self._fingerprints:
            with identifying_as("sha256"):  # by which kept results have always been found again
                self._fingerprints[name_and_size] = self.data(subject).fingerprint()
        return self._fingerprints[name_and_size]

    def black_box(self, subject: Subject) -> LoadedClassifier:
        """Returns the black box with the subject's data, network and seed."""
        return load_classifier(str(self._trained(self._box_subject(subject))))

    def measured_box(self, subject: Subject) -> BlackBox:
        """Returns the same black box with cached results, so that it is measured once for all models."""
        box_subject = self._box_subject(subject)
        if box_subject.name not in self._boxes:
            self._boxes[box_subject.name] = BlackBox.of(self.black_box(subject), Batches(self.data(subject).test))
        return self._boxes[box_subject.name]

    def evaluate(
        self, subject: Subject, model: PrototypeModel, data: Any, box: BlackBox | None, **options: Any
    ) -> Scorecard:
        """Measures a model as all experiments do: the paper's rule for maps, and the subject's seed.

        Args:
            subject: Whose seed selects images and noise.
            model: The model to measure.
            data: Test data, or a data bundle.
            box: The black box to compare with; None compares with none.
            **options: Further options of ``lookalike.evaluate``.
        """
        return evaluate(
            model,
            data,
            black_box=box,
            n_images=self.n_images,
            seed=subject.seed,
            rule=PAPERS_RULE,
            noise="mersenne",
            progress=self.progress,
            **options,
        )

    def model(self, subject: Subject) -> PrototypeModel:
        """Returns a prototype model. Trains or converts it if the folder does not have it yet."""
        base, _, converted = subject.model.partition("+")
        if subject.model != KMEX and not converted:
            return load(self._trained(subject))
        source: Any = self.black_box(subject) if subject.model == KMEX else self.model(replace(subject, model=base))
        folder = self.folder / subject.name
        with self._locked(subject):
            if folder.exists() and "calibration" not in read_provenance(folder):
                self.say(f"{subject.name} was converted without a temperature; it is converted again")
                remove_folder(folder)
            if not folder.exists():
                self.say(f"converting {subject.name}")
                data = self.data(subject)
                prototype_model = self.convert(subject, source, data.train)
                prototype_model.provenance["dataset"] = data.name
                prototype_model.save(folder)
        return load(folder)

    def convert(self, subject: Subject, source: Any, train: Any, **variant: Any) -> PrototypeModel:
        """Converts a subject's black box or baseline, with the subject's number of prototypes and seed, or others."""
        options = {"n_prototypes": self.options(subject)["n_prototypes"], "seed": subject.seed, **variant}
        converted: PrototypeModel = convert(source, train, progress=self.progress, **options)
        return converted

    def black_box_seconds(self, subject: Subject) -> float:
        """Returns the training time of the subject's black box, in seconds."""
        return float(read_provenance(self.folder / self._box_subject(subject).name)["train_seconds"])

    @staticmethod
    def _box_subject(subject: Subject) -> Subject:
        return replace(subject, model="blackbox", n_prototypes=None, epochs=None)

    def _is_up_to_date(self, folder: Path, subject: Subject) -> bool:
        try:
            provenance = read_provenance(folder)
        except LookalikeError:  # an interruption while it was removed left part of it
            return False
        recorded = provenance.get("fingerprints", {}).get("data")
        with identifying_as(recorded):
            data = Batches(self.data(subject).train).fingerprint()
        return recorded == data and all(provenance.get(name) == value for name, value in self.options(subject).items())

    def _folders_of(self, subject: Subject) -> list[Path]:
        """Returns the folders of a subject's conversion and of the subject."""
        converted = KMEX if subject.model == "blackbox" else f"{subject.model}+{KMEX}"
        return [self.folder / replace(subject, model=converted).name, self.folder / subject.name]

    def _trained(self, subject: Subject) -> Path:
        """Returns the folder of a black box or a baseline. Trains it if it is missing or out of date.

        Raises:
            LookalikeError: If training fails, or has failed before in this run; it is not tried again.
        """
        # Many cells ask for the same model: a training that fails after minutes must not be repeated for each of them.
        if subject.name in self._failed:
            raise LookalikeError(self._failed[subject.name])
        with self._locked(subject):
            folder = self.folder / subject.name
            if folder.exists() and not self._is_up_to_date(folder, subject):
                self.say(f"{subject.name} was made with other options or data; it and its conversion are made again")
                for outdated in self._folders_of(subject):
                    remove_folder(outdated)
            if not folder.exists():
                try:
                    self._train(subject, folder)
                except Exception as error:
                    expected = isinstance(error, LookalikeError)
                    self._failed[subject.name] = str(error) if expected else f"{type(error).__name__}: {error}"
                    raise
        if subject.model == "blackbox" and not is_saved_classifier(folder):
            raise LookalikeError(f"{str(folder)!r} holds no classifier; remove it")
        return folder

    def _train(self, subject: Subject, folder: Path) -> None:
        """Trains a black box or a baseline; an interrupted training with the same options and data is resumed."""
        self.say(f"training {subject.name}")
        data, options = self.data(subject), self.options(subject)
        fingerprint = fingerprint_json([options, self._fingerprint(subject)])[:8]
        working = folder.with_name(f"{subject.name}.{fingerprint}.training")
        trained = train(
            subject.model,
            data,
            options=options,
            seed=subject.seed,
            working_folder=working,
            accelerator=self.accelerator,
            progress=self.progress,
        )
        trained.save(folder)
        # unfinished trainings with other options go, too
        for unfinished in self.folder.glob(f"{glob.escape(subject.name)}.*.training"):
            shutil.rmtree(unfinished, ignore_errors=True)

    @contextmanager
    def _locked(self, subject: Subject) -> Iterator[None]:
        """Locks a subject's folder: other runs with the same folder wait while this one makes the model."""
        with alone(lock_beside(self.folder / subject.name), wait=self.say):
            yield
