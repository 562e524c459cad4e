"""The models that experiments are about: trained or converted once, then read from disk."""

import glob
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lookalike._core.errors import LookalikeError
from lookalike._core.provenance import fingerprint_json
from lookalike._core.replacing import remove_folder
from lookalike._core.working_folder import alone, lock_beside
from lookalike.baselines import METHODS, hyperparameters, train
from lookalike.conversion.convert import convert
from lookalike.data import DATASETS, Batches, DataBundle, load_training_data
from lookalike.encoder import LoadedClassifier, is_saved_classifier, load_classifier
from lookalike.metrics import BlackBox
from lookalike.model import PrototypeModel, load
from lookalike.relevance import PrpRule
from lookalike.saved import read_provenance

Say = Callable[[str], None]

KMEX = "kmex"
PAPERS_RULE: PrpRule = "share"  # of PRP; the other rules are compared in prp_rules
SMALL = "lookalike:small-cnn"
BASELINES = ("protopnet", "flint", "protovae")
QUICK_EPOCHS = {"blackbox": 3, "protopnet": 2, "flint": 2, "protovae": 2}
_IMAGES, _QUICK_IMAGES = 100, 10
MODELS = (KMEX, *(name for method in BASELINES for name in (method, f"{method}+{KMEX}")))


def data_name(dataset: str) -> str:
    """Returns what a data set is called in tables and files: a folder by its own name alone.

    Example:
        >>> data_name("digits"), data_name("/data/birds/")
        ('digits', 'birds')
    """
    return dataset if dataset in DATASETS else Path(dataset).resolve().name


def network_name(network: str) -> str:
    """Returns what a network is called in tables and files.

    Example:
        >>> network_name("torchvision:resnet34")
        'resnet34'
    """
    return network.partition(":")[2]


@dataclass(frozen=True)
class Subject:
    """A model under study.

    Attributes:
        dataset: A data set's name, or a folder.
        network: What it is built on.
        model: ``"blackbox"``, a baseline's name, ``"kmex"`` (of the black box), or ``"BASELINE+kmex"``.
        seed: Of training and conversion.
    """

    dataset: str
    network: str
    model: str
    seed: int

    @property
    def name(self) -> str:
        """A name for files: data set, network, model and seed."""
        place = f"{data_name(self.dataset)}-{network_name(self.network)}"
        return f"{place}-{self.model}-seed{self.seed}".replace("/", "_")


def title_of(model: str) -> str:
    """Returns what a model is called in tables.

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


@dataclass
class Workbench:
    """Makes models and keeps them in a folder.

    Attributes:
        folder: Theirs.
        quick: Train for a few epochs only, to see that all works.
        say: Is told what is being done.
        progress: Show progress bars.
    """

    folder: Path
    quick: bool = False
    say: Say = lambda _: None
    progress: bool | None = None
    _bundles: dict[tuple[str, int], DataBundle] = field(default_factory=dict)
    _fingerprints: dict[tuple[str, int], str] = field(default_factory=dict)
    _boxes: dict[str, BlackBox] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)

    @property
    def n_images(self) -> int:
        """On how many test images explanations are measured."""
        return _QUICK_IMAGES if self.quick else _IMAGES

    def options(self, subject: Subject) -> dict[str, Any]:
        """Returns what a subject is made with."""
        method = subject.model.removesuffix(f"+{KMEX}")
        method = "blackbox" if method == KMEX else method
        quick = {"epochs": QUICK_EPOCHS[method]} if self.quick else {}
        return hyperparameters(method, subject.dataset, given={"network": subject.network, **quick}).to_dict()

    def key(self, subject: Subject, **more: Any) -> dict[str, Any]:
        """Returns what a cell about a subject depends on: how it and its black box are made, the data, and more."""
        made = {"made": self.options(subject), "black_box": self.options(self._box_of(subject))}
        how = {"temperature": "auto", "data": self._fingerprint(subject)}
        return {"subject": vars(subject), **made, **how, **more}

    def data(self, subject: Subject) -> DataBundle:
        """Returns the data that a subject's network takes, read once."""
        which = subject.dataset, self.options(subject)["image_size"]
        if which not in self._bundles:
            self._bundles[which] = load_training_data(*which)
        return self._bundles[which]

    def _fingerprint(self, subject: Subject) -> str:
        which = subject.dataset, self.options(subject)["image_size"]
        if which not in self._fingerprints:
            self._fingerprints[which] = self.data(subject).fingerprint()
        return self._fingerprints[which]

    def black_box(self, subject: Subject) -> LoadedClassifier:
        """Returns the black box of the same data, network and seed."""
        return load_classifier(str(self._trained(self._box_of(subject))))

    def measured_box(self, subject: Subject) -> BlackBox:
        """Returns the same black box, one for all models that are compared with it, so that it is measured once."""
        own = self._box_of(subject)
        if own.name not in self._boxes:
            self._boxes[own.name] = BlackBox.of(self.black_box(subject), Batches(self.data(subject).test))
        return self._boxes[own.name]

    def model(self, subject: Subject) -> PrototypeModel:
        """Returns a prototype model, trained or converted if it is not there yet."""
        base, _, converted = subject.model.partition("+")
        if subject.model != KMEX and not converted:
            return load(self._trained(subject))
        source: Any = self.black_box(subject) if subject.model == KMEX else self.model(replace(subject, model=base))
        folder = self.folder / subject.name
        with self._alone_at(subject):
            if folder.exists() and "calibration" not in read_provenance(folder):
                self.say(f"{subject.name} was converted without a temperature; it is converted again")
                remove_folder(folder)
            if not folder.exists():
                self.say(f"converting {subject.name}")
                data = self.data(subject)
                made = self.convert(subject, source, data.train)
                made.provenance["dataset"] = data.name
                made.save(folder)
        return load(folder)

    def convert(self, subject: Subject, source: Any, train: Any, **variant: Any) -> PrototypeModel:
        """Converts a subject's black box or baseline: with its number of prototypes and seed, unless varied."""
        options = {"n_prototypes": self.options(subject)["n_prototypes"], "seed": subject.seed, **variant}
        converted: PrototypeModel = convert(source, train, progress=self.progress, **options)
        return converted

    def black_box_seconds(self, subject: Subject) -> float:
        """Returns how long the black box of the same data, network and seed was trained."""
        return float(read_provenance(self.folder / self._box_of(subject).name)["train_seconds"])

    @staticmethod
    def _box_of(subject: Subject) -> Subject:
        return replace(subject, model="blackbox")

    def _is_as_asked(self, folder: Path, subject: Subject) -> bool:
        try:
            provenance = read_provenance(folder)
        except LookalikeError:  # half removed
            return False
        data = Batches(self.data(subject).train).fingerprint()
        return provenance.get("fingerprints", {}).get("data") == data and all(
            provenance.get(name) == value for name, value in self.options(subject).items()
        )

    def _made_of(self, subject: Subject) -> list[Path]:
        """Returns the folders of a subject's conversion and of itself."""
        converted = KMEX if subject.model == "blackbox" else f"{subject.model}+{KMEX}"
        return [self.folder / replace(subject, model=converted).name, self.folder / subject.name]

    def _trained(self, subject: Subject) -> Path:
        """Returns the folder of a black box or a baseline, trained if it is not there as asked.

        Raises:
            LookalikeError: If it cannot be trained, or could not be before: it is not tried again.
        """
        if subject.name in self._failed:
            raise LookalikeError(self._failed[subject.name])
        with self._alone_at(subject):
            folder = self.folder / subject.name
            if folder.exists() and not self._is_as_asked(folder, subject):
                self.say(
                    f"{subject.name} was made with other options or data; it and what was made of it is made again"
                )
                for made_of_it in self._made_of(subject):
                    remove_folder(made_of_it)
            if not folder.exists():
                try:
                    self._train(subject, folder)
                except Exception as error:
                    known = isinstance(error, LookalikeError)
                    self._failed[subject.name] = str(error) if known else f"{type(error).__name__}: {error}"
                    raise
        if subject.model == "blackbox" and not is_saved_classifier(folder):
            raise LookalikeError(f"{str(folder)!r} holds no classifier; remove it")
        return folder

    def _train(self, subject: Subject, folder: Path) -> None:
        self.say(f"training {subject.name}")
        data, options = self.data(subject), self.options(subject)
        same = fingerprint_json([options, self._fingerprint(subject)])[:8]
        working = folder.with_name(f"{subject.name}.{same}.training")
        made = train(
            subject.model,
            data,
            options=options,
            seed=subject.seed,
            working_folder=working,
            accelerator="cpu",
            progress=self.progress,
        )
        made.save(folder)
        for left in self.folder.glob(f"{glob.escape(subject.name)}.*.training"):  # with other options, too
            shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def _alone_at(self, subject: Subject) -> Iterator[None]:
        """Makes another run with the same folder wait while this one makes a model, and the other way round."""
        with alone(lock_beside(self.folder / subject.name), wait=self.say):
            yield
