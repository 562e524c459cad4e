"""The black box: an ordinary classifier (paper, appendix A.2)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lookalike.baselines.baseline import METHODS, Baseline, Spec, Start, Step, Task
from lookalike.baselines.losses import cross_entropy
from lookalike.baselines.phases import Phase


@METHODS.register("blackbox")
class BlackBox(Baseline):
    """A network with a linear head without bias, trained with cross entropy."""

    name = "blackbox"
    title = "black box"

    @override
    def build(self, task: Task, start: Start) -> tuple[nn.Module, Spec]:
        return start.with_head(task.n_classes)

    @override
    def parts(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {"network": model}

    @override
    def phases(self) -> list[Phase]:
        return [Phase("all", self.options.epochs, ("network",), {"cross_entropy": 1.0})]

    @override
    def step(self, model: Any, images: Tensor, y: Tensor) -> Step:
        scores = model(images)
        return Step(scores, {"cross_entropy": cross_entropy(scores, y)})
