"""The pixel domain: everything before the first layer of a network.

Behind the first layer, the backward pass carries g, with R = a ⊙ g (see ``engine``). That does not work for pixels. A
black pixel has the value 0, so R would be 0 whatever g is; but rules for the first layer give relevance to black pixels
too. So in the pixel domain, the backward pass carries relevance R itself::

    pixels ──normalise──▶ x ──conv1──▶ a ──relu──▶ b ──…──▶ score
    └──── pixel domain ───┘            └─── gradient × input ───┘
      backward carries R                 backward carries g, R = a ⊙ g

Operations on each pixel by itself (a shift, a scale, a clamp) pass R on. Linear operations that mix pixels (resizing,
the mean of channels) spread it evenly. The first layer turns g into R by its rule. If another operation comes first,
``leave`` ends the domain: it turns g into R = x ⊙ g.

Not all values in the domain are pixels: a network may pad its images, or join a channel of coordinates to them. What is
spread evenly must be spread over pixels alone, or the share of the others is lost. So tensors in which there are others
have a mask (``pixel_masks``).
"""

from typing import Any

import torch
from torch import Tensor

from lookalike.relevance.dependence import map_tensors
from lookalike.relevance.functions import end_pixel_domain, pass_through, spread_evenly
from lookalike.relevance.names import name_of
from lookalike.relevance.pixel_masks import in_form_of, in_memory_of, masks_of_moved
from lookalike.relevance.weak import TensorMap

_KEPT = {"grid_sample": 1, "grid_sampler": 1, "grid_sampler_2d": 1, "grid_sampler_3d": 1, "lerp": 2}  # which argument
# linear operations of which a result may have no pixel in it
_MAY_MISS_PIXELS = frozenset((*_KEPT, "fold", "col2im", "einsum", "matmul", "tensordot", "mul"))


class PixelDomain:
    """The twins that lie before the first layer.

    Args:
        inputs: The network's inputs.
        has_masks: Whether to find which values are pixels; only rules that spread relevance evenly need it.
    """

    def __init__(self, inputs: list[Tensor], *, has_masks: bool = True) -> None:
        self._masks: TensorMap[Tensor | None] = TensorMap()  # None: all are pixels
        self._has_masks = has_masks
        for tensor in inputs:
            self.mark(tensor)

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._masks

    def include(self, *tensors: Any) -> bool:
        """Returns whether any of these values is a tensor in the pixel domain."""
        return any(isinstance(tensor, Tensor) and tensor in self._masks for tensor in tensors)

    def mark(self, tensor: Tensor, mask: Tensor | None = None) -> Tensor:
        """Adds a tensor to the pixel domain, and returns it.

        Args:
            tensor: The tensor.
            mask: 1 where it has a pixel and 0 elsewhere, of its shape; None if all its values are pixels.
        """
        self._masks[tensor] = None if mask is None or not self._has_masks else in_form_of(tensor, mask)
        return tensor

    def mask_of(self, tensor: Tensor) -> Tensor | None:
        """Returns where a tensor has pixels, or None if all its values are."""
        return self._masks.get(tensor)

    def mark_moved(self, func: Any, name: str, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
        """Adds the results of an operation that moves or selects values; what it takes from elsewhere is no pixel."""
        masks: list[Tensor | None] = [None] * len(outputs)
        if self._has_masks:
            masks = masks_of_moved(
                func, name, args, kwargs, outputs, has_others=self._has_others, mask_of=self._full_mask
            )
        for tensor, mask in zip(outputs, masks, strict=True):
            self.mark(tensor, mask)

    def _has_others(self, tensor: Tensor) -> bool:
        """Says whether a tensor has values that are no pixels."""
        return tensor not in self._masks or self.mask_of(tensor) is not None

    def _full_mask(self, tensor: Tensor) -> Tensor:
        """Returns a tensor's mask: ones if all of its values are pixels, zeros if none is."""
        if tensor not in self._masks:
            return torch.zeros_like(tensor)
        mask = self.mask_of(tensor)
        return torch.ones_like(tensor) if mask is None else mask

    def leave(self, tensor: Tensor) -> Tensor:
        """Ends the pixel domain at a tensor: behind it, R = a ⊙ g. Other tensors stay as they are."""
        return end_pixel_domain(tensor) if tensor in self._masks else tensor

    def mark_view(self, memory: Tensor, view: Tensor) -> Tensor:
        """Adds a view to the domain if its memory is in it, and returns the view."""
        if memory not in self._masks:
            return view
        mask = self.mask_of(memory)
        if mask is not None:
            offset = view.storage_offset() - memory.storage_offset()
            mask = in_memory_of(memory, mask).as_strided(view.shape, view.stride(), offset)
        return self.mark(view, mask)

    def mark_overwritten(self, memory: Tensor, before: Tensor, result: Tensor) -> None:
        """Adds memory that an operation in place has changed, if what it wrote is in the domain.

        Args:
            memory: The current values of the whole memory.
            before: The tensor that was changed, as it was: the memory, or a view of a part of it.
            result: Its new values.
        """
        if result not in self._masks or memory is result:
            return
        owner = before if before._base is None else before._base
        if not self._has_masks or not (self._has_others(owner) or self._has_others(result)):
            self.mark(memory)
            return
        mask = in_memory_of(memory, self._full_mask(owner))
        offset = before.storage_offset() - owner.storage_offset()
        mask.as_strided(before.shape, before.stride(), offset).copy_(self._full_mask(result))
        self.mark(memory, mask)

    def pass_through(self, source: Tensor, values: Tensor) -> Tensor:
        """Returns the results of an operation on each pixel by itself, which passes relevance on."""
        return self.mark(pass_through(source, values), self.mask_of(source))

    def spread(self, func: Any, args: Any, kwargs: Any, values: Tensor, sources: list[Tensor]) -> Tensor:
        """Returns the results of a linear operation that mixes pixels, which spreads relevance evenly over them.

        Args:
            func: The operation.
            args: Its arguments.
            kwargs: Its keyword arguments.
            values: Its results.
            sources: Those of its arguments that are pixels.
        """
        sources = list({id(source): source for source in sources}.values())  # x + x has one
        index_of_source = {id(source): index for index, source in enumerate(sources)}
        # places in an image and weights of a mean stay: 1 for each that is not zero would be another operation
        name = name_of(func)
        kept = args[_KEPT[name]] if name in _KEPT and len(args) > _KEPT[name] else None

        def run(*replaced: Tensor) -> Tensor:
            def fill(tensor: Tensor) -> Tensor:
                index = index_of_source.get(id(tensor))
                if index is not None:
                    return replaced[index]
                if kept is not None:  # another constant, such as what is blended in, is no pixel
                    return tensor if tensor is kept else torch.zeros_like(tensor)
                return _nonzero(tensor)

            filled_args, filled_kwargs = map_tensors(fill, (args, kwargs))
            result: Tensor = func(*filled_args, **filled_kwargs)
            return result

        masks = [self._full_mask(source) for source in sources]
        mask = None
        if name in _MAY_MISS_PIXELS or any(self.mask_of(source) is not None for source in sources):
            with torch.no_grad():
                mask = (run(*masks) != 0).to(values.dtype)
        return self.mark(spread_evenly(values, run, sources, masks), mask)


def _nonzero(tensor: Tensor) -> Tensor:
    """Returns 1 for each coefficient that is not zero, and 0 for the others: which pixels a sum has, not how much."""
    return (tensor != 0).to(tensor.dtype) if tensor.is_floating_point() else tensor
