"""Which output of a network is explained, by the rule of ``Encoder``, and where its logits are."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import in_eval_mode
from lookalike.encoder import Encoder, Outputs, unwrapped
from lookalike.encoder.calls import call, n_rows, output_of, take_rows, with_output
from lookalike.encoder.head import find_head
from lookalike.encoder.outputs import as_columns, can_only_be_logits, kind_of, named_outputs, select_output


class ScoreReader:
    """Reads a network's logits, and what follows them.

    Relevance starts at the logits: a softmax or sigmoid behind them keeps its gradient, whatever rule the operation
    has elsewhere in the network.

    Args:
        model: The network.
        images: All the images [N, C, H, W].
        output: Which output, or how the outputs are read, where that is known.

    Attributes:
        outputs: How the class scores are read.
        tail: Turns logits of some rows of the images into class scores; None if they are the class scores.

    Raises:
        LookalikeError: If it is not clear which output is meant, or it is no row of scores.
    """

    def __init__(self, model: nn.Module, images: Tensor, output: str | int | Outputs | None) -> None:
        model = unwrapped(model)  # no compiling for a batch of this size, which the engine's pass would not use
        self._model, self._images = model, images
        self.outputs = output if isinstance(output, Outputs) else _outputs_of(model, images[:2], output)
        name = self.outputs.logits_from
        self._layer = None if name is None else model.get_submodule(name)
        self.tail = None if self._layer is None else self._scores

    def logits(self, images: Tensor) -> Tensor:
        """Returns the network's logits [n, C], or in the layout in which the layer of ``logits_from`` gives them."""
        if self._layer is None:
            return self._columns(call(self._model, images), n_rows(images))
        return output_of(self._layer, lambda: call(self._model, images))

    def _scores(self, logits: Tensor, rows: slice) -> Tensor:
        assert self._layer is not None  # noqa: S101 - else there is no tail
        images = take_rows(self._images, rows)
        layer, copied = self._layer, logits.clone()
        result = in_eval_mode(self._model, lambda: with_output(layer, copied, lambda: call(self._model, images)))
        return self._columns(result, len(logits))

    def _columns(self, result: Any, rows: int) -> Tensor:
        return _row_of_scores(select_output(result, self.outputs.key), rows)


_KNOWN: "weakref.WeakKeyDictionary[nn.Module, dict[Any, tuple[list[weakref.ref[nn.Module]], Outputs]]]" = (
    weakref.WeakKeyDictionary()
)


def _outputs_of(model: nn.Module, sample: Tensor, output: str | int | None) -> Outputs:
    """Returns how a network's outputs are read; found once, and again when its modules are others."""
    modules = list(model.modules())
    known = _KNOWN.setdefault(model, {})
    key = (output, tuple(sample.shape[1:]))
    if key in known:
        seen, outputs = known[key]
        if len(seen) == len(modules) and all(ref() is module for ref, module in zip(seen, modules, strict=True)):
            return outputs
    outputs = _find_outputs(model, sample, output)
    known[key] = ([weakref.ref(module) for module in modules], outputs)
    return outputs


@torch.no_grad()
def _find_outputs(model: nn.Module, sample: Tensor, output: str | int | None) -> Outputs:
    result = in_eval_mode(model, lambda: call(model, sample))
    several = dict(named_outputs(result))
    if output is None and len(several) > 1 and "logits" not in several:
        output = find_head(model, sample)[1]
    scores = _row_of_scores(select_output(result, output), len(sample))
    if can_only_be_logits(scores):
        return Outputs(output, scores.shape[1])
    try:
        found = Encoder(model, sample, output=output).outputs
    except LookalikeError:  # no head to try it at: the numbers themselves must tell
        found = None
    return Outputs(output, scores.shape[1], kind_of(scores)) if found is None else found


def _row_of_scores(selected: Tensor, rows: int) -> Tensor:
    scores = as_columns(selected, rows)
    if scores is None:
        raise LookalikeError(
            f"the network's output has shape {tuple(selected.shape)}: relevance needs a row of scores per image; if "
            "these are scores for each position, wrap the network to return their mean over the positions"
        )
    return scores
