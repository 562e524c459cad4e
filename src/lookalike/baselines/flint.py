"""FLINT: a predictor and its interpreter, trained together (Parekh et al. 2021; paper, appendix A.2)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lookalike.baselines import losses
from lookalike.baselines.baseline import METHODS, PrototypeBaseline, Spec, Start, Step, Task, own_spec
from lookalike.baselines.phases import Phase
from lookalike.model import PrototypeModel
from lookalike.model.classifier import RectifiedLinearHead
from lookalike.model.similarity import make_similarity
from lookalike.networks import FLINTNetwork
from lookalike.networks.flint import hidden_layers

_DELAYED_LOSSES = ("output_fidelity", "conciseness", "entropy", "diversity")


@METHODS.register("flint")
class FLINT(PrototypeBaseline):
    """FLINT; its interpreter is the prototype model: similarity ``dot``, a linear head on attributes max(0, z · p)."""

    name = "flint"
    title = "FLINT"
    nearest_by = "similarity"

    @override
    def build(self, task: Task, start: Start) -> tuple[PrototypeModel, Spec]:
        layers, channels = hidden_layers(start.network, task.sample(), self._own_option("hidden_layers"))
        predictor, spec = start.with_head(task.n_classes)
        args = {
            "layers": layers,
            "channels": channels,
            "n_attributes": self.n_prototypes(task),
            "image": list(task.image),
            "dim": self._own_option("embedding_dim"),
        }
        vectors = torch.nn.init.kaiming_uniform_(torch.empty(args["n_attributes"], args["dim"]))
        model = self.assemble(
            task, FLINTNetwork(predictor, **args), vectors, make_similarity("dot"), RectifiedLinearHead
        )
        return model, own_spec("flint", spec, args)

    @override
    def parts(self, model: PrototypeModel) -> Mapping[str, nn.Module]:
        encoder: Any = model.encoder
        return {
            "predictor": encoder.predictor,
            "interpreter": nn.ModuleList([encoder.readers, encoder.trunk, model.prototypes, model.classifier]),
            "decoder": encoder.decoder,
        }

    def phases(self) -> list[Phase]:
        """Returns a phase for each set of active losses; the options name the epoch, from 1, at which a loss starts."""
        starts = {name: self._own_option(f"{name}_from") if name in _DELAYED_LOSSES else 1 for name in _loss_names()}
        edges = sorted({start for start in starts.values() if start <= self.options.epochs})
        phases = []
        for start, end in zip(edges, [*edges[1:], self.options.epochs + 1], strict=True):
            active = {name: float(self._own_option(name)) for name in _loss_names() if starts[name] <= start}
            label = "predict, reconstruct" if start == 1 else "all" if len(active) == len(starts) else "and be faithful"
            phases.append(Phase(label, end - start, ("predictor", "interpreter", "decoder"), active))
        return phases

    def step(self, model: PrototypeModel, images: Tensor, y: Tensor) -> Step:
        """Computes the terms of the loss; output fidelity sends no gradient into the predictor."""
        network: Any = model.encoder
        predicted, hidden = network.predict(images)
        attributes = model.similarities_of(network.interpret(hidden)).relu()
        scores = model.scores_of(network.interpret([layer.detach() for layer in hidden]))
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


def _loss_names() -> tuple[str, ...]:
    return ("cross_entropy", "input_fidelity", *_DELAYED_LOSSES)
