"""The heat-maps of an explanation that do not depend on which prototypes an input is like."""

import numpy as np
from torch import Tensor

from lookalike._core.errors import RelevanceError
from lookalike._core.profiling import step
from lookalike.encoder import Encoder
from lookalike.encoder.calls import n_rows
from lookalike.model import PrototypeModel
from lookalike.relevance.attribution import lrp, prp
from lookalike.relevance.composites import Composite
from lookalike.relevance.similarity_layer import PrpRule


def maps_on_prototypes(
    model: PrototypeModel, prototypes: Tensor, composite: str | Composite, rule: PrpRule
) -> dict[int, np.ndarray]:
    """Returns, for each prototype, the heat-map on its nearest training image; empty if the model has no images."""
    training_inputs = model.prototype_inputs()
    if training_inputs is None or not len(prototypes):
        return {}
    with step("maps on the prototypes' images"):
        inputs = training_inputs[prototypes.to(training_inputs.device)]
        maps = prp(model, inputs, prototypes[:, None], composite, rule=rule).pixels[:, 0].float().cpu().numpy()
    return dict(zip(prototypes.tolist(), maps, strict=True))


def maps_of_black_box(
    model: PrototypeModel, inputs: Tensor, composite: str | Composite
) -> tuple[list[np.ndarray | None], list[str | None]]:
    """Returns the heat-map of the black box for each input, None without a black box; and a caution or None."""
    n_inputs = n_rows(inputs)
    if not isinstance(model.encoder, Encoder) or model.encoder.outputs is None:
        return [None] * n_inputs, [None] * n_inputs
    with step("maps of the black box"):
        try:
            relevance = lrp(model.encoder.model, inputs, composite=composite, output=model.encoder.outputs)
        except RelevanceError as error:
            return [None] * n_inputs, [f"there is no map of the black box: {error}"] * n_inputs
        return list(relevance.pixels.float().cpu().numpy()), [relevance.cautions[row] for row in range(n_inputs)]
