"""ProtoPNet at image level (Chen et al. 2019; paper, section 4.1 and appendix A.2)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lookalike.baselines.baseline import METHODS, PrototypeBaseline, Spec, Start, Step, Task, own_spec
from lookalike.baselines.losses import clustering, cross_entropy, off_class_sparsity, separation
from lookalike.baselines.phases import Phase
from lookalike.model import PrototypeModel
from lookalike.model.similarity import make_similarity, squared_distances
from lookalike.networks import ProtoPNetNetwork


@METHODS.register("protopnet")
class ProtoPNet(PrototypeBaseline):
    """Prototypes in [0, 1]^D, similarity ``log``, a linear head; pushed onto training embeddings."""

    name = "protopnet"
    title = "ProtoPNet"

    def build(self, task: Task, start: Start) -> tuple[PrototypeModel, Spec]:  # noqa: D102
        args = {"head": start.head, "dim": self._own("embedding_dim")}
        encoder = ProtoPNetNetwork(start.network, **args)
        vectors = torch.rand(self.n_prototypes(task), args["dim"])
        return self.assemble(task, encoder, vectors, make_similarity("log")), own_spec("protopnet", start.spec, args)

    def parts(self, model: PrototypeModel) -> Mapping[str, nn.Module]:  # noqa: D102
        encoder: Any = model.encoder
        return {
            "backbone": encoder.backbone,
            "add-on": encoder.add_on,
            "prototypes": model.prototypes,
            "classifier": model.classifier,
        }

    def phases(self) -> list[Phase]:
        """Warms up, trains all with a push every so often, then fits the last layer to the pushed prototypes.

        The classifier keeps its first votes until then [paper]. In its phase all else is in eval mode: batch norm's
        statistics would move the embeddings away from the prototypes [ours].
        """
        names = ("cross_entropy", "clustering", "separation")
        losses = {name: float(self._own(name)) for name in names}
        warm, every, total = self._own("warm_epochs"), self._own("push_every"), self.options.epochs
        warm = min(warm, total)
        ends = [*range(every, total, every), total]
        found = [Phase("warm", warm, ("add-on", "prototypes"), losses)] if warm else []
        start = warm
        for end in ends:
            if end > start:
                found.append(Phase("joint", end - start, ("backbone", "add-on", "prototypes"), losses, push=True))
                start = end
        if start == warm == total:  # nothing but the warm phase
            found[-1] = replace(found[-1], push=True)
        last = {"cross_entropy": losses["cross_entropy"], "sparsity": float(self._own("sparsity"))}
        if self._own("last_layer_epochs"):
            still = ("backbone", "add-on", "prototypes")
            found.append(Phase("last layer", self._own("last_layer_epochs"), ("classifier",), last, still))
        return found

    def step(self, model: PrototypeModel, images: Tensor, y: Tensor) -> Step:  # noqa: D102
        embeddings = model.encoder(images)
        scores = model.scores_of(embeddings)
        p, head = model.prototypes, model.classifier.weight
        assert isinstance(head, Tensor)  # noqa: S101 - narrows the type
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


@torch.no_grad()
def push(prototypes: Tensor, labels: Tensor, embeddings: Tensor, y: Tensor) -> None:
    """Moves each prototype, in place, onto the nearest training embedding of its class [paper].

    Two prototypes of a class may land on the same one.

    Args:
        prototypes: [P, D].
        labels: Their classes [P].
        embeddings: Of the training samples, without augmentation [N, D].
        y: Their classes [N].
    """
    for k in labels.unique():
        mine, own = torch.nonzero(labels == k)[:, 0], embeddings[y == k]
        if len(own):
            prototypes[mine] = own[squared_distances(own, prototypes[mine]).argmin(0)].to(prototypes)
