"""What every method that is trained has in common: how its model is made, in which phases, with which losses."""

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
    """What is to be learned.

    Attributes:
        class_names: K names.
        image: Shape of the images (C, H, W).
    """

    class_names: list[str]
    image: tuple[int, int, int]

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def sample(self) -> Tensor:
        """Returns two empty images [2, C, H, W] to try a network with."""
        return torch.zeros(2, *self.image)


@dataclass(frozen=True)
class Start:
    """A classifier of any number of classes, with random or published weights, that a model is made from.

    Attributes:
        network: The classifier.
        spec: What ``rebuild`` makes it of.
        head: The name of its head.
    """

    network: nn.Module
    spec: Spec
    head: str

    def with_head(self, n_classes: int) -> tuple[nn.Module, Spec]:
        """Returns the network with a new head, and its spec."""
        args: dict[str, Any] = {"head": self.head, "n_classes": n_classes}
        return with_head(self.network, **args), own_spec("with-head", self.spec, args)


def own_spec(name: str, network: Spec, args: Spec) -> Spec:
    """Returns the spec of a network of lookalike's own that stands on another."""
    return {"source": "lookalike", "name": name, "network": network, "args": args}


@dataclass(frozen=True)
class Step:
    """What a batch gives.

    Attributes:
        scores: Class scores [N, K].
        losses: The terms of the loss, by name, without their weights.
    """

    scores: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class Baseline(ABC):
    """A method: it makes a model, and says how the model learns.

    To add one, subclass this and register it.

    Args:
        options: Its hyper-parameters.

    Attributes:
        name: The name it is registered under.
        title: As it is called in texts.
        nearest_by: How the training images that show a prototype are chosen; see ``survey``.
        defaults: Hyper-parameters of its own, where ``hyperparameters.toml`` has no section for it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    nearest_by: ClassVar[Literal["distance", "similarity"]] = "distance"
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, options: Hyperparameters) -> None:
        self.options = options

    @abstractmethod
    def build(self, task: Task, start: Start) -> tuple[Any, Spec]:
        """Makes the model, untrained.

        Args:
            task: What is to be learned.
            start: The network to make it from; it is changed.

        Returns:
            A classifier or a ``PrototypeModel``, and the spec that ``rebuild`` makes its network of.
        """

    @abstractmethod
    def parts(self, model: Any) -> Mapping[str, nn.Module]:
        """Returns the model's parts by the names that the phases use; each weight is in one of them."""

    @abstractmethod
    def phases(self) -> list[Phase]:
        """Returns the phases of the training."""

    @abstractmethod
    def step(self, model: Any, images: Tensor, y: Tensor) -> Step:
        """Computes the terms of the loss.

        Args:
            model: What ``build`` has made.
            images: [N, C, H, W].
            y: Their classes [N].
        """


class PrototypeBaseline(Baseline):
    """A method whose model is a prototype model with as many prototypes for each class."""

    def assemble(
        self,
        task: Task,
        encoder: nn.Module,
        vectors: Tensor,
        similarity: Similarity,
        head: type[LinearHead] = LinearHead,
    ) -> PrototypeModel:
        """Puts the four parts together; each prototype first votes for its own class and against the others.

        Args:
            task: What is to be learned.
            encoder: Maps images to embeddings [N, D].
            vectors: First prototypes [P, D], class by class.
            similarity: Compares the two.
            head: The kind of linear classifier.
        """
        labels = torch.arange(task.n_classes).repeat_interleave(self.options.n_prototypes)
        classifier: TransparentClassifier = head.from_labels(labels, task.n_classes)
        prototypes = Prototypes(nn.Parameter(vectors), labels, task.class_names)
        return PrototypeModel(encoder, prototypes, similarity, classifier)

    def n_prototypes(self, task: Task) -> int:
        """Returns P."""
        return self.options.n_prototypes * task.n_classes

    def _own(self, name: str) -> Any:
        return self.options.own[name]
