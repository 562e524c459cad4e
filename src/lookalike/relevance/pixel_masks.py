"""Which values before a network's first layer are pixels: masks, found by running the operations on masks.

A mask has 1 where a value is a pixel and 0 elsewhere: in a padding, a canvas, a channel of coordinates. An operation
that moves values moves a mask likewise, if whatever else it takes counts as 0.
"""

from collections.abc import Callable
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from lookalike.relevance.dependence import map_tensors, tensors_in, tensors_in_call

MaskOf = Callable[[Tensor], Tensor]

# Which arguments of an operation join values to the pixels; numbers there, and tensors of whatever type, are none.
_VALUES = {
    "pad": (3,), "constant_pad_nd": (2,), "masked_fill": (2,), "index_fill": (3,), "fill": (1,), "where": (1, 2),
    "scatter": (3,), "masked_scatter": (2,), "index_put": (2,), "index_copy": (3,), "slice_scatter": (1,),
    "select_scatter": (1,), "setitem": (2,), "copy": (1,),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack"), (0,)),
}  # fmt: skip
_VALUE_NAMES = frozenset(("value", "values", "other", "src", "source", "tensors"))
_WITH_ZEROS = frozenset(("zero", "unfold", "im2col", "tril", "triu", "diag_embed", "block_diag"))
_BY_MEMORY = frozenset(("as_strided", "as_strided_scatter"))  # a mask does not lie where its tensor lies


def masks_of_moved(
    func: Any,
    name: str,
    args: Any,
    kwargs: Any,
    outputs: list[Tensor],
    has_others: Callable[[Tensor], bool],
    mask_of: MaskOf,
) -> list[Tensor | None]:
    """Returns the masks of what an operation makes by moving or selecting values; None where all are pixels.

    Args:
        func: The operation.
        name: Its plain name.
        args: Its arguments.
        kwargs: Its keyword arguments.
        outputs: Its results.
        has_others: Says whether a tensor has values that are no pixels.
        mask_of: Returns a tensor's mask: ones if all of its values are pixels, zeros if none is.
    """
    given = tensors_in_call(args, kwargs)
    if "dropout" in name:  # drawn again, it would be another one
        return [mask_of(given[0]) if has_others(given[0]) else None] * len(outputs)
    brings_others = name in _VALUES or name in _WITH_ZEROS
    if name in _BY_MEMORY or not (brings_others or any(_has_values(t) and has_others(t) for t in given)):
        return [None] * len(outputs)
    try:
        with torch.no_grad():
            args, kwargs = _on_masks(name, args, kwargs, mask_of)
            moved = [mask for mask in tensors_in(func(*args, **kwargs)) if _has_values(mask)]
    except (RuntimeError, TypeError, ValueError):  # it works on its values alone
        return [None] * len(outputs)
    if [mask.shape for mask in moved] != [output.shape for output in outputs]:
        return [None] * len(outputs)
    return [(mask != 0).to(mask.dtype) for mask in moved]


def in_form_of(tensor: Tensor, mask: Tensor) -> Tensor:
    """Returns a mask in its tensor's type and strides, so that what works on the tensor works on the mask."""
    if mask.stride() == tensor.stride() and mask.dtype == tensor.dtype and mask.device == tensor.device:
        return mask
    return torch.empty_like(tensor, requires_grad=False).copy_(mask)


def in_memory_of(memory: Tensor, mask: Tensor) -> Tensor:
    """Returns a mask that lies as its tensor does, from the beginning of its own memory."""
    laid_out = torch.empty_strided(memory.shape, memory.stride(), dtype=memory.dtype, device=memory.device)
    return laid_out.copy_(mask)


def _has_values(tensor: Tensor) -> bool:
    """Says whether a tensor holds values, and no indices or conditions."""
    return tensor.is_floating_point() or tensor.is_complex()


def _on_masks(name: str, args: Any, kwargs: Any, mask_of: MaskOf) -> tuple[Any, Any]:
    """Returns the arguments with masks in place of values."""

    def mask_for(tensor: Tensor) -> Tensor:
        return mask_of(tensor) if _has_values(tensor) else tensor

    def joined(value: Any) -> Any:
        if isinstance(value, Number):
            return 0
        if isinstance(value, tuple | list):
            return type(value)(joined(item) for item in value)
        if not isinstance(value, Tensor) or value.dtype == torch.bool:  # a condition, where an image's method has it
            return value
        return mask_for(value) if _has_values(value) else torch.zeros_like(value)

    positions = _VALUES.get(name, ())
    on_masks = tuple(joined(value) if i in positions else map_tensors(mask_for, value) for i, value in enumerate(args))
    named = {
        key: joined(value) if key in _VALUE_NAMES else map_tensors(mask_for, value) for key, value in kwargs.items()
    }
    return on_masks, named
