"""ProtoVAE: a variational auto-encoder around prototypes (Gautam et al. 2022; paper, appendix A.2)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lookalike.baselines import losses
from lookalike.baselines.baseline import METHODS, PrototypeBaseline, Spec, Start, Step, Task, own_spec
from lookalike.baselines.phases import Phase
from lookalike.model import PrototypeModel
from lookalike.model.similarity import make_similarity
from lookalike.networks import ProtoVAENetwork

_TERMS = ("cross_entropy", "reconstruction", "divergence", "orthonormality")


@METHODS.register("protovae")
class ProtoVAE(PrototypeBaseline):
    """ProtoVAE: trainable prototypes in the latent space, similarity ``log-l2``, a linear head, and a decoder."""

    name = "protovae"
    title = "ProtoVAE"

    @override
    def build(self, task: Task, start: Start) -> tuple[PrototypeModel, Spec]:
        args = {"head": start.head, "image": list(task.image), "dim": self._own_option("embedding_dim")}
        encoder = ProtoVAENetwork(start.network, **args)
        vectors = torch.randn(self.n_prototypes(task), args["dim"])
        return self.assemble(task, encoder, vectors, make_similarity("log-l2")), own_spec("protovae", start.spec, args)

    @override
    def parts(self, model: PrototypeModel) -> Mapping[str, nn.Module]:
        return {"encoder": model.encoder, "prototypes": model.prototypes, "classifier": model.classifier}

    @override
    def phases(self) -> list[Phase]:
        weights = {name: float(self._own_option(name)) for name in _TERMS}
        return [Phase("all", self.options.epochs, ("encoder", "prototypes", "classifier"), weights)]

    @override
    def step(self, model: PrototypeModel, images: Tensor, y: Tensor) -> Step:
        network: Any = model.encoder
        mean, log_variance = network.distribution(images)
        embeddings = network.draw(mean, log_variance)
        similarities = model.similarities_of(embeddings)
        p = model.prototypes
        scores = model.classifier(similarities, p.labels, model.n_classes)
        return Step(
            scores,
            {
                "cross_entropy": losses.cross_entropy(scores, y),
                "reconstruction": losses.reconstruction(images, network.decode_embeddings(embeddings)),
                "divergence": losses.divergence_from_prototypes(
                    mean, log_variance, p.vectors, similarities, y, p.labels
                ),
                "orthonormality": losses.orthonormality(p.vectors, p.labels),
            },
        )
