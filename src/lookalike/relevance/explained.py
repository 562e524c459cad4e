"""The heat-maps of an explanation: those of the inputs, and those on prototypes' images, which many inputs share."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import RelevanceError
from lookalike._core.profiling import step
from lookalike.encoder import Encoder
from lookalike.encoder.calls import n_rows
from lookalike.model import PrototypeModel
from lookalike.relevance.attribution import lrp, prp, to_model
from lookalike.relevance.composites import Composite
from lookalike.relevance.operations import stabilised
from lookalike.relevance.propagation import RelevanceStart, propagate
from lookalike.relevance.result import join
from lookalike.relevance.similarity_layer import PrpRule, channel_relevance

_BATCH_SIZE = 32  # as ``prp`` and ``lrp``
# Of a GPU's whole memory, for each image at once: twice of what the maps of a VGG16 take at 224².
_BYTES_PER_ROW = 1 << 29


@dataclass(frozen=True)
class InputMaps:
    """The heat-maps of n inputs.

    Attributes:
        likenesses: Those of the similarities to M prototypes [n, M, H, W].
        black_box: Those of the black box's predictions; None where there is none.
        cautions: Why each input's maps should not be relied on; None if they can be.
    """

    likenesses: Tensor
    black_box: list[np.ndarray | None]
    cautions: list[str | None]


def maps_on_inputs(
    model: PrototypeModel,
    inputs: Tensor,
    prototypes: Tensor,
    composite: str | Composite,
    rule: PrpRule,
    outputs: Tensor | None = None,
) -> InputMaps:
    """Returns the heat-maps of inputs: of their similarities to prototypes, and of the black box's predictions.

    The engine runs the network once for all of them: relevance starts at the embedding for similarities, and at the
    class scores for predictions. Only a black box that gives probabilities has a pass of its own, from its logits.

    Args:
        model: The prototype model.
        inputs: The inputs [n, C, H, W].
        prototypes: Indices of the prototypes [n, M].
        composite: The rules of relevance propagation.
        rule: Rule by which relevance starts at the similarity layer.
        outputs: Embeddings and class scores of the inputs side by side [n, D + C], if they are known: the network's own
            outputs, with which the engine compares its own. None runs the network once more, on the first input.
    """
    encoder = model.encoder
    if isinstance(encoder, Encoder) and encoder.outputs is not None and encoder.outputs.logits_from is None:
        try:
            with step("maps on the inputs"):
                return _maps_of_one_pass(model, encoder, to_model(inputs, model), prototypes, composite, rule, outputs)
        except RelevanceError:  # perhaps in the head alone, so that the similarities have maps
            pass
    with step("maps on the inputs"):
        relevance = prp(model, inputs, prototypes, composite, rule=rule)
    black_box, cautions = _maps_of_black_box(model, inputs, composite)
    cautions = [own or other for own, other in zip(relevance.cautions, cautions, strict=True)]
    return InputMaps(relevance.pixels, black_box, cautions)


def _maps_of_one_pass(
    model: PrototypeModel,
    encoder: Encoder,
    images: Tensor,
    prototypes: Tensor,
    composite: str | Composite,
    rule: PrpRule,
    known: Tensor | None,
) -> InputMaps:
    """Returns the maps of similarities and of predictions, from one pass of the engine per batch."""
    assert encoder.outputs is not None  # the caller has looked
    class_outputs, n_scores = encoder.outputs, encoder.outputs.n_columns

    def run(x: Tensor) -> Tensor:
        embeddings, scores = encoder.embed_and_score(x)
        assert scores is not None  # it has outputs
        return torch.cat([embeddings, scores], 1)

    def starts(outputs: Tensor, _: slice, given: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        assert given is not None  # as below
        z, scores = outputs.detach().split([outputs.shape[1] - n_scores, n_scores], 1)
        for column in given.unbind(1):
            at_embedding = channel_relevance(model, z, column, rule)
            yield torch.cat([at_embedding / stabilised(z), torch.zeros_like(scores)], 1), at_embedding.sum(1)
        gradient = class_outputs.gradient(scores, class_outputs.predicted(scores), "score")
        yield torch.cat([torch.zeros_like(z), gradient], 1), (scores * gradient).sum(1)

    start = RelevanceStart(starts, prototypes.to(images.device), ("inputs", rule, class_outputs))
    relevance = join(
        list(propagate(model, images, run, start, composite, _batch_size(images.device), False, plain=known))
    )
    pixels = relevance.pixels
    black_box: list[np.ndarray | None] = list(pixels[:, -1].float().cpu().numpy())
    return InputMaps(pixels[:, :-1], black_box, relevance.cautions)


def _batch_size(device: torch.device) -> int:
    """Returns how many images pass at once: on a GPU as many as it has memory for, since it gets its work faster so."""
    if device.type != "cuda":
        return _BATCH_SIZE
    return max(_BATCH_SIZE, min(128, torch.cuda.get_device_properties(device).total_memory // _BYTES_PER_ROW))


def maps_of_contrasts(
    model: PrototypeModel, inputs: Tensor, contrasts: dict[int, int], composite: str | Composite, rule: PrpRule
) -> dict[int, np.ndarray]:
    """Returns, by row, the heat-map of each contrast, given the prototypes by row."""
    rows = list(contrasts)
    prototypes = torch.tensor([[prototype] for prototype in contrasts.values()])
    with step("maps of the contrasts"):
        maps = prp(model, inputs[rows], prototypes, composite, rule=rule).pixels[:, 0].float().cpu().numpy()
    return dict(zip(rows, maps, strict=True))


def maps_on_prototypes(
    model: PrototypeModel, prototypes: Tensor, composite: str | Composite, rule: PrpRule
) -> dict[int, np.ndarray]:
    """Returns the heat-map on the nearest training image of each prototype that has one; empty without any images."""
    training_inputs = model.prototype_inputs()
    prototypes = prototypes[model.prototypes.have_image[prototypes.cpu()]]
    if training_inputs is None or not len(prototypes):
        return {}
    with step("maps on the prototypes' images"):
        inputs = training_inputs[prototypes.to(training_inputs.device)]
        n_at_once = _batch_size(model.device)
        relevance = prp(model, inputs, prototypes[:, None], composite, rule=rule, batch_size=n_at_once)
        maps = relevance.pixels[:, 0].float().cpu().numpy()
    return dict(zip(prototypes.tolist(), maps, strict=True))


def _maps_of_black_box(
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
