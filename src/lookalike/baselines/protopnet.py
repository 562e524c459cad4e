"""ProtoPNet at image level (Chen et al. 2019; paper, section 4.1 and appendix A.2)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lookalike._core.untouched import keeps_torch_settings
from lookalike.baselines.baseline import METHODS, PrototypeBaseline, Spec, Start, Step, Task, own_spec
from lookalike.baselines.losses import clustering, cross_entropy, off_class_sparsity, separation
from lookalike.baselines.phases import Phase
from lookalike.model import PrototypeModel
from lookalike.model.similarity import make_similarity, squared_distances
from lookalike.networks import ProtoPNetNetwork


@METHODS.register("protopnet")
class ProtoPNet(PrototypeBaseline):
    """ProtoPNet: prototypes in [0, 1]^D, similarity ``log``, a linear head; prototypes are pushed onto embeddings."""

    name = "protopnet"
    title = "ProtoPNet"

    @override
    def build(self, task: Task, start: Start) -> tuple[PrototypeModel, Spec]:
        args = {"head": start.head, "dim": self._own_option("embedding_dim")}
        encoder = ProtoPNetNetwork(start.network, **args)
        vectors = torch.rand(self.n_prototypes(task), args["dim"])
        return self.assemble(task, encoder, vectors, make_similarity("log")), own_spec("protopnet", start.spec, args)

    @override
    def parts(self, model: PrototypeModel) -> Mapping[str, nn.Module]:
        encoder: Any = model.encoder
        return {
            "backbone": encoder.backbone,
            "add-on": encoder.add_on,
            "prototypes": model.prototypes,
            "classifier": model.classifier,
        }

    def phases(self) -> list[Phase]:
        """Returns a warm-up, joint phases that each end with a push, and a phase that trains only the last layer.

        The classifier keeps its initial votes until the last phase [paper]. In that phase everything else is in eval
        mode: new statistics of batch norms would move the embeddings away from the pushed prototypes [ours].
        """
        names = ("cross_entropy", "clustering", "separation")
        losses = {name: float(self._own_option(name)) for name in names}
        total, push_every = self.options.epochs, self._own_option("push_every")
        warm_epochs = min(self._own_option("warm_epochs"), total)
        ends = [*range(push_every, total, push_every), total]
        phases = [Phase("warm", warm_epochs, ("add-on", "prototypes"), losses)] if warm_epochs else []
        start = warm_epochs
        for end in ends:
            if end > start:
                phases.append(Phase("joint", end - start, ("backbone", "add-on", "prototypes"), losses, push=True))
                start = end
        if start == warm_epochs == total:  # there is only the warm phase
            phases[-1] = replace(phases[-1], push=True)
        last = {"cross_entropy": losses["cross_entropy"], "sparsity": float(self._own_option("sparsity"))}
        if self._own_option("last_layer_epochs"):
            still = ("backbone", "add-on", "prototypes")
            phases.append(Phase("last layer", self._own_option("last_layer_epochs"), ("classifier",), last, still))
        return phases

    @override
    def step(self, model: PrototypeModel, images: Tensor, y: Tensor) -> Step:
        embeddings = model.encoder(images)
        scores = model.scores_of(embeddings)
        p, head = model.prototypes, model.classifier.weight
        assert isinstance(head, Tensor)
        distances = squared_distances(embeddings, p.vectors)
        return Step(
            scores,
            {
                "cross_entropy": cross_entropy(scores, y),
                "clustering": clustering(distances, y, p.labels),
                "separation": separation(distances, y, p.labels),
                "sparsity": off_class_sparsity(head, p.labels),
            },
        )


@keeps_torch_settings
@torch.no_grad()
def push(prototypes: Tensor, labels: Tensor, embeddings: Tensor, y: Tensor) -> None:
    """Moves each prototype, in place, onto the nearest training embedding of its class [paper].

    Two prototypes of a class may move onto the same embedding.

    Args:
        prototypes: Prototype vectors [P, D].
        labels: Their classes [P].
        embeddings: Embeddings of the training samples, without augmentation [N, D].
        y: Their classes [N].
    """
    for k in labels.unique():
        rows, candidates = torch.nonzero(labels == k)[:, 0], embeddings[y == k]
        if len(candidates):
            nearest_index = squared_distances(candidates, prototypes[rows]).argmin(0)
            prototypes[rows] = candidates[nearest_index].to(prototypes)
