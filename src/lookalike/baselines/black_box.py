"""The black box: an ordinary classifier (paper, appendix A.2)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lookalike.baselines.baseline import METHODS, Baseline, Spec, Start, Step, Task
from lookalike.baselines.losses import cross_entropy
from lookalike.baselines.phases import Phase


@METHODS.register("blackbox")
class BlackBox(Baseline):
    """A network with a linear head without bias, trained with cross entropy."""

    name = "blackbox"
    title = "black box"

    def build(self, task: Task, start: Start) -> tuple[nn.Module, Spec]:  # noqa: D102
        return start.with_head(task.n_classes)

    def parts(self, model: nn.Module) -> Mapping[str, nn.Module]:  # noqa: D102
        return {"network": model}

    def phases(self) -> list[Phase]:  # noqa: D102
        return [Phase("all", self.options.epochs, ("network",), {"cross_entropy": 1.0})]

    def step(self, model: Any, images: Tensor, y: Tensor) -> Step:  # noqa: D102
        scores = model(images)
        return Step(scores, {"cross_entropy": cross_entropy(scores, y)})
