"""The models that experiments are about: trained or converted once, then read from disk."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookalike.artifact import read_config
from lookalike.baselines import METHODS, hyperparameters, train
from lookalike.data import Batches, DataBundle, load_training_data
from lookalike.encoder import LoadedClassifier, is_saved_classifier, load_classifier
from lookalike.errors import LookalikeError
from lookalike.kmex import KMEx
from lookalike.metrics import BlackBox
from lookalike.model import PrototypeModel, load

Say = Callable[[str], None]

KMEX = "kmex"
SMALL = "lookalike:small-cnn"
BASELINES = ("protopnet", "flint", "protovae")
QUICK_EPOCHS = {"blackbox": 3, "protopnet": 3, "flint": 2, "protovae": 3}
_IMAGES, _QUICK_IMAGES = 100, 20
MODELS = (KMEX, *(name for method in BASELINES for name in (method, f"{method}+{KMEX}")))


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
        network = self.network.partition(":")[2]
        return f"{Path(self.dataset).name}-{network}-{self.model}-seed{self.seed}".replace("/", "_")


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
    _boxes: dict[str, BlackBox] = field(default_factory=dict)

    @property
    def n_images(self) -> int:
        """On how many test images explanations are measured."""
        return _QUICK_IMAGES if self.quick else _IMAGES

    def options(self, subject: Subject) -> dict[str, Any]:
        """Returns what a subject is made with."""
        method = subject.model.removesuffix(f"+{KMEX}")
        method = "blackbox" if method == KMEX else method
        return hyperparameters(method, subject.dataset, given=self.given(method, subject.network)).to_dict()

    def given(self, method: str, network: str) -> dict[str, Any]:
        """Returns the hyper-parameters that are not a method's own defaults."""
        quick = {"epochs": QUICK_EPOCHS[method]} if self.quick else {}
        return {"network": network, **quick}

    def key(self, subject: Subject, **more: Any) -> dict[str, Any]:
        """Returns what a cell about a subject depends on."""
        return {"subject": vars(subject), "made": self.options(subject), **more}

    def data(self, subject: Subject) -> DataBundle:
        """Returns the data that a subject's network takes."""
        return _data(subject.dataset, self.options(subject)["image_size"])

    def black_box(self, subject: Subject) -> LoadedClassifier:
        """Returns the black box of the same data, network and seed."""
        folder = self._trained(Subject(subject.dataset, subject.network, "blackbox", subject.seed))
        return load_classifier(str(folder))

    def measured_box(self, subject: Subject) -> BlackBox:
        """Returns the same black box, one for all models that are compared with it, so that it is measured once."""
        own = Subject(subject.dataset, subject.network, "blackbox", subject.seed)
        if own.name not in self._boxes:
            self._boxes[own.name] = BlackBox.of(self.black_box(subject), Batches(self.data(subject).test))
        return self._boxes[own.name]

    def model(self, subject: Subject) -> PrototypeModel:
        """Returns a prototype model, trained or converted if it is not there yet."""
        base, _, converted = subject.model.partition("+")
        if subject.model != KMEX and not converted:
            return load(self._trained(subject))
        source: Any = self.black_box(subject)
        if subject.model != KMEX:
            source = self.model(Subject(subject.dataset, subject.network, base, subject.seed))
        folder = self.folder / subject.name
        if not folder.exists():
            self.say(f"converting {subject.name}")
            data = self.data(subject)
            made = KMEx(source, random_state=subject.seed, progress=self.progress).fit(data.train)
            made.provenance["dataset"] = data.name
            made.save(folder)
        return load(folder)

    def black_box_seconds(self, subject: Subject) -> float:
        """Returns how long the black box of the same data, network and seed was trained."""
        folder = self.folder / Subject(subject.dataset, subject.network, "blackbox", subject.seed).name
        return float(read_config(folder)["provenance"]["train_seconds"])

    def _is_as_asked(self, folder: Path, subject: Subject) -> bool:
        provenance = read_config(folder)["provenance"]
        return all(provenance.get(name) == value for name, value in self.options(subject).items())

    def _made_of(self, subject: Subject) -> list[Path]:
        """Returns the folders of a subject and of its conversion."""
        converted = KMEX if subject.model == "blackbox" else f"{subject.model}+{KMEX}"
        other = Subject(subject.dataset, subject.network, converted, subject.seed)
        return [self.folder / subject.name, self.folder / other.name]

    def _trained(self, subject: Subject) -> Path:
        folder = self.folder / subject.name
        if folder.exists() and not self._is_as_asked(folder, subject):
            self.say(f"{subject.name} was made with other options; it and what was made of it is made again")
            for made_of_it in self._made_of(subject):
                shutil.rmtree(made_of_it, ignore_errors=True)
        if not folder.exists():
            self.say(f"training {subject.name}")
            working = self.folder / f"{subject.name}.training"
            made = train(
                subject.model,
                self.data(subject),
                options=self.given(subject.model, subject.network),
                seed=subject.seed,
                working_folder=working,
                accelerator="cpu",
                progress=self.progress,
            )
            made.save(folder)
            shutil.rmtree(working, ignore_errors=True)
        if subject.model == "blackbox" and not is_saved_classifier(folder):
            raise LookalikeError(f"{str(folder)!r} holds no classifier; remove it")
        return folder


@functools.lru_cache(maxsize=4)
def _data(dataset: str, image_size: int) -> DataBundle:
    return load_training_data(dataset, image_size)
