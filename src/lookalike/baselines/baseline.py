"""The base classes of trained methods: each builds a model and defines its training phases and losses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lookalike._core.registry import Registry
from lookalike.baselines.hyperparameters import Hyperparameters
from lookalike.baselines.phases import Phase
from lookalike.model import PrototypeModel, Prototypes
from lookalike.model.classifier import LinearHead, TransparentClassifier
from lookalike.model.similarity import Similarity
from lookalike.networks import with_head

Spec = dict[str, Any]

METHODS: Registry[type["Baseline"]] = Registry("method")


@dataclass(frozen=True)
class Task:
    """The classification task of a data set.

    Attributes:
        class_names: The names of the K classes.
        image: Shape of the images (C, H, W).
    """

    class_names: list[str]
    image: tuple[int, int, int]

    @property
    def n_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    def sample(self) -> Tensor:
        """Returns two blank images [2, C, H, W] to try a network on."""
        return torch.zeros(2, *self.image)


@dataclass(frozen=True)
class Start:
    """The network that a model starts from: a classifier with any number of classes.

    Attributes:
        network: The classifier, with random or trained weights.
        spec: The spec that ``rebuild`` builds it from.
        head: The name of its head.
    """

    network: nn.Module
    spec: Spec
    head: str

    def with_head(self, n_classes: int) -> tuple[nn.Module, Spec]:
        """Returns the network with a new head for ``n_classes``, and the spec of the result."""
        args: dict[str, Any] = {"head": self.head, "n_classes": n_classes}
        return with_head(self.network, **args), own_spec("with-head", self.spec, args)


def own_spec(name: str, network: Spec, args: Spec) -> Spec:
    """Returns the spec of a lookalike network on top of another network.

    Args:
        name: Its registered name.
        network: The spec of the other network.
        args: The arguments of its constructor.
    """
    return {"source": "lookalike", "name": name, "network": network, "args": args}


@dataclass(frozen=True)
class Step:
    """The result of a training step on a batch.

    Attributes:
        scores: Class scores [N, K].
        losses: The terms of the loss by name, not yet weighted.
    """

    scores: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class Baseline(ABC):
    """A method that builds a model and trains it.

    To add a method, subclass this and register the class.

    Args:
        options: The hyper-parameters.

    Attributes:
        name: The name under which it is registered.
        title: Its name in reports.
        nearest_by: How the training images that show a prototype are chosen; see ``survey``.
        defaults: Default hyper-parameters of a method without a section in ``hyperparameters.toml``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    nearest_by: ClassVar[Literal["distance", "similarity"]] = "distance"
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, options: Hyperparameters) -> None:
        self.options = options

    @abstractmethod
    def build(self, task: Task, start: Start) -> tuple[Any, Spec]:
        """Builds the untrained model.

        Args:
            task: Classes and image shape.
            start: The network to build on; it is modified in place.

        Returns:
            A classifier or a ``PrototypeModel``, and the spec that ``rebuild`` builds its network from.
        """

    @abstractmethod
    def parts(self, model: Any) -> Mapping[str, nn.Module]:
        """Returns the model's parts by the names that the phases use; every weight is in exactly one part."""

    @abstractmethod
    def phases(self) -> list[Phase]:
        """Returns the phases of the training."""

    @abstractmethod
    def step(self, model: Any, images: Tensor, y: Tensor) -> Step:
        """Computes the terms of the loss.

        Args:
            model: The model that ``build`` returned.
            images: A batch of images [N, C, H, W].
            y: Their classes [N].
        """


class PrototypeBaseline(Baseline):
    """A method whose model is a prototype model with the same number of prototypes for each class."""

    def assemble(
        self,
        task: Task,
        encoder: nn.Module,
        vectors: Tensor,
        similarity: Similarity,
        head: type[LinearHead] = LinearHead,
    ) -> PrototypeModel:
        """Builds a prototype model; initially each prototype votes for its own class and against the others.

        Args:
            task: Classes and image shape.
            encoder: Maps images to embeddings [N, D].
            vectors: Initial prototypes [P, D], class by class.
            similarity: Compares embeddings with prototypes.
            head: The class of the linear classifier.
        """
        labels = torch.arange(task.n_classes).repeat_interleave(self.options.n_prototypes)
        classifier: TransparentClassifier = head.from_labels(labels, task.n_classes)
        prototypes = Prototypes(nn.Parameter(vectors), labels, task.class_names)
        return PrototypeModel(encoder, prototypes, similarity, classifier)

    def n_prototypes(self, task: Task) -> int:
        """Returns P, the number of prototypes of all classes."""
        return self.options.n_prototypes * task.n_classes

    def _own_option(self, name: str) -> Any:
        """Returns a hyper-parameter that only this method has."""
        return self.options.own[name]
