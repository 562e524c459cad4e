"""FLINT: a predictor and its interpreter, trained together (Parekh et al. 2021; paper, appendix A.2)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lookalike.baselines import losses
from lookalike.baselines.baseline import METHODS, PrototypeBaseline, Spec, Start, Step, Task, own_spec
from lookalike.baselines.phases import Phase
from lookalike.model import PrototypeModel
from lookalike.model.classifier import RectifiedLinearHead
from lookalike.model.similarity import make_similarity
from lookalike.networks import FLINTNetwork
from lookalike.networks.flint import hidden_layers

_FROM_LATER = ("output_fidelity", "conciseness", "entropy", "diversity")


@METHODS.register("flint")
class FLINT(PrototypeBaseline):
    """The interpreter is the prototype model: similarity ``dot``, a linear head on the attributes max(0, z · p)."""

    name = "flint"
    title = "FLINT"
    nearest_by = "similarity"

    def build(self, task: Task, start: Start) -> tuple[PrototypeModel, Spec]:  # noqa: D102
        layers, channels = hidden_layers(start.network, task.sample(), self._own("hidden_layers"))
        predictor, spec = start.with_head(task.n_classes)
        args = {
            "layers": layers,
            "channels": channels,
            "n_attributes": self.n_prototypes(task),
            "image": list(task.image),
            "dim": self._own("embedding_dim"),
        }
        vectors = torch.nn.init.kaiming_uniform_(torch.empty(args["n_attributes"], args["dim"]))
        model = self.assemble(
            task, FLINTNetwork(predictor, **args), vectors, make_similarity("dot"), RectifiedLinearHead
        )
        return model, own_spec("flint", spec, args)

    def parts(self, model: PrototypeModel) -> Mapping[str, nn.Module]:  # noqa: D102
        encoder: Any = model.encoder
        return {
            "predictor": encoder.predictor,
            "interpreter": nn.ModuleList([encoder.readers, encoder.trunk, model.prototypes, model.classifier]),
            "decoder": encoder.decoder,
        }

    def phases(self) -> list[Phase]:
        """Switches the losses on one after the other, from the epochs (counted from 1) that the options name."""
        starts = {name: self._own(f"{name}_from") if name in _FROM_LATER else 1 for name in _names()}
        edges = sorted({start for start in starts.values() if start <= self.options.epochs})
        found = []
        for start, end in zip(edges, [*edges[1:], self.options.epochs + 1], strict=True):
            on = {name: float(self._own(name)) for name in _names() if starts[name] <= start}
            label = "predict, reconstruct" if start == 1 else "all" if len(on) == len(starts) else "and be faithful"
            found.append(Phase(label, end - start, ("predictor", "interpreter", "decoder"), on))
        return found

    def step(self, model: PrototypeModel, images: Tensor, y: Tensor) -> Step:
        """Computes the terms; what g says of f reaches f neither through f's scores nor through its hidden layers."""
        network: Any = model.encoder
        predicted, hidden = network.predict(images)
        attributes = model.similarities_of(network.interpret(hidden)).relu()
        scores = model.scores_of(network.interpret([one.detach() for one in hidden]))
        return Step(
            scores,
            {
                "cross_entropy": losses.cross_entropy(predicted, y),
                "input_fidelity": losses.reconstruction(images, network.reconstruct(attributes)),
                "output_fidelity": losses.output_fidelity(scores, predicted),
                "conciseness": losses.conciseness(attributes),
                "entropy": losses.attribute_entropy(attributes),
                "diversity": losses.attribute_diversity(attributes),
            },
        )


def _names() -> tuple[str, ...]:
    return ("cross_entropy", "input_fidelity", *_FROM_LATER)
