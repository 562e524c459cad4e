"""Reads the class scores to explain: selects the output as ``Encoder`` does, and finds its logits."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike._core.network_state import state_of
from lookalike._core.untouched import in_eval_mode
from lookalike.encoder import Encoder, Outputs, unwrapped
from lookalike.encoder.calls import call, n_rows, output_of, take_rows, with_output
from lookalike.encoder.head import find_head
from lookalike.encoder.outputs import as_columns, can_only_be_logits, kind_of, named_outputs, select_output

# operations that leave values as they are, as autograd names them
_REARRANGES = frozenset(
    [
        "Alias", "Cat", "Clone", "Contiguous", "Expand", "Index", "IndexSelect", "Permute", "ReshapeAlias", "Select",
        "Slice", "Split", "Squeeze", "Stack", "T", "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View",
    ]
)  # fmt: skip


class ScoreReader:
    """Reads a network's logits, and the class scores computed from them.

    Relevance starts at the logits: a softmax or sigmoid behind them keeps its gradient, whatever rule the same
    operation has elsewhere in the network. Where no one layer gives the logits, as with two heads side by side, those
    of sigmoids are computed from them: the logit undoes the sigmoid, and the rule of both is to pass relevance on.

    Args:
        model: The network.
        images: All images [N, C, H, W].
        output: The output to read, or how to read the outputs, if that is known.

    Attributes:
        outputs: How to read the class scores.
        tail: Maps logits, and their rows among the images, to class scores; None if the logits are the class scores.

    Raises:
        LookalikeError: If it is not clear which output to read, or it is not a row of scores per image.
    """

    def __init__(self, model: nn.Module, images: Tensor, output: str | int | Outputs | None) -> None:
        model = unwrapped(model)  # a compiled model would be compiled for this batch size, for nothing
        self._model, self._images = model, images
        self.outputs = output if isinstance(output, Outputs) else _outputs_of(model, images[:2], output)
        name = self.outputs.logits_from
        self._layer = None if name is None else model.get_submodule(name)
        self._undoes_sigmoids = (
            self._layer is None and self.outputs.kind == "sigmoids" and self._ends_in_sigmoids(images[:1])
        )
        self.tail = _sigmoids if self._undoes_sigmoids else None if self._layer is None else self._scores

    def logits(self, images: Tensor) -> Tensor:
        """Returns the network's logits [n, C], or the output of the layer ``logits_from``, in its own layout."""
        if self._layer is None:
            scores = self._columns(call(self._model, images), n_rows(images))
            return scores.logit(torch.finfo(scores.dtype).eps) if self._undoes_sigmoids else scores
        return output_of(self._layer, lambda: call(self._model, images))

    @torch.enable_grad()
    def _ends_in_sigmoids(self, image: Tensor) -> bool:
        """Says whether each score is a sigmoid, and not another number from 0 to 1, by the graph of a pass."""
        copied = image.detach().clone().requires_grad_()
        result = in_eval_mode(self._model, lambda: self._columns(call(self._model, copied), n_rows(image)))
        found = [result.grad_fn]
        for function in found:  # which grows meanwhile
            name = "" if function is None else function.name().rstrip("0123456789").removesuffix("Backward")
            if function is not None and name in _REARRANGES:
                found += [earlier for earlier, _ in function.next_functions]
            elif name != "Sigmoid":
                return False
        return True

    def _scores(self, logits: Tensor, rows: slice) -> Tensor:
        assert self._layer is not None  # else there is no tail
        images = take_rows(self._images, rows)
        layer, copied = self._layer, logits.clone()
        result = in_eval_mode(self._model, lambda: with_output(layer, copied, lambda: call(self._model, images)))
        return self._columns(result, len(logits))

    def _columns(self, result: Any, rows: int) -> Tensor:
        return _row_of_scores(select_output(result, self.outputs.key), rows)


def _sigmoids(logits: Tensor, _rows: slice) -> Tensor:
    return logits.sigmoid()


_CACHE: "weakref.WeakKeyDictionary[nn.Module, dict[Any, tuple[Any, Outputs]]]" = weakref.WeakKeyDictionary()


def _outputs_of(model: nn.Module, sample: Tensor, output: str | int | None) -> Outputs:
    """Returns how to read a network's outputs; cached until what it computes changes, other than by values."""
    cached = _CACHE.setdefault(model, {})
    key = (output, tuple(sample.shape[1:]))
    state = state_of(model)
    if state is None:  # it is too large to be compared; its modules at least are the same
        state = tuple(weakref.ref(module) for module in model.modules())
    if key not in cached or cached[key][0] != state:
        cached[key] = state, _find_outputs(model, sample, output)
    return cached[key][1]


@torch.no_grad()
def _find_outputs(model: nn.Module, sample: Tensor, output: str | int | None) -> Outputs:
    sample = sample.clone()  # the network may write into it
    result = in_eval_mode(model, lambda: call(model, sample))
    by_name = dict(named_outputs(result))
    if output is None and len(by_name) > 1 and "logits" not in by_name:
        output = find_head(model, sample)[1]
    scores = _row_of_scores(select_output(result, output), len(sample))
    if can_only_be_logits(scores):
        return Outputs(output, scores.shape[1])
    try:
        outputs = Encoder(model, sample, output=output).outputs
    except LookalikeError:  # without a head to test, the numbers themselves must tell
        outputs = None
    return Outputs(output, scores.shape[1], kind_of(scores)) if outputs is None else outputs


def _row_of_scores(selected: Tensor, rows: int) -> Tensor:
    scores = as_columns(selected, rows)
    if scores is None:
        raise LookalikeError(
            f"the network's output has shape {tuple(selected.shape)}: relevance needs a row of scores per image; if "
            "these are scores for each position, wrap the network to return their mean over the positions"
        )
    return scores
