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
have a *mask*, 1 where a pixel is; it is made by the operation that brought the others in, run on masks.
"""

from typing import Any

import torch
from torch import Tensor

from lookalike.relevance.dependence import map_tensors, tensors_in, tensors_in_call
from lookalike.relevance.functions import end_pixel_domain, pass_through, spread_evenly
from lookalike.relevance.names import raw_name
from lookalike.relevance.weak import TensorMap

# which argument fills places with a number; -1: none, they are filled with zeros
_FILLED = {"pad": 3, "constant_pad_nd": 2, "masked_fill": 2, "index_fill": 3, "scatter": 3, "setitem": 2, "fill": 1}
_FILLED |= dict.fromkeys(("zero", "unfold", "im2col", "tril", "triu", "diag_embed", "block_diag"), -1)
_KEPT = {"grid_sample": 1, "grid_sampler": 1, "grid_sampler_2d": 1, "grid_sampler_3d": 1, "lerp": 2}  # which argument


class PixelDomain:
    """The twins that lie before the first layer.

    Args:
        inputs: The network's inputs.
    """

    def __init__(self, inputs: list[Tensor]) -> None:
        self._masks: TensorMap[Tensor | None] = TensorMap()  # None: all are pixels
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
        self._masks[tensor] = mask
        return tensor

    def mask_of(self, tensor: Tensor) -> Tensor | None:
        """Returns where a tensor has pixels, or None if all its values are."""
        return self._masks.get(tensor)

    def mark_moved(self, func: Any, name: str, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
        """Adds the results of an operation that moves values; what it does not take from pixels is none."""
        given = tensors_in_call(args, kwargs)
        others = [tensor for tensor in given if tensor not in self._masks and tensor.is_floating_point()]
        masks: list[Tensor] | list[None] = [None] * len(outputs)
        if others or name in _FILLED or any(self.mask_of(tensor) is not None for tensor in given):
            with torch.no_grad():
                args, kwargs = map_tensors(self._mask_for, _without_fill(name, args, kwargs))
                moved = [mask for mask in tensors_in(func(*args, **kwargs)) if mask.is_floating_point()]
            if [mask.shape for mask in moved] == [output.shape for output in outputs]:
                masks = [(mask != 0).to(mask.dtype) for mask in moved]
        for tensor, mask in zip(outputs, masks, strict=True):
            self.mark(tensor, mask)

    def _mask_for(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor  # indices, and masks of the network's own
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
            in_place = torch.empty_strided(memory.shape, memory.stride(), dtype=mask.dtype, device=mask.device)
            offset = view.storage_offset() - memory.storage_offset()
            mask = in_place.copy_(mask).as_strided(view.shape, view.stride(), offset)
        return self.mark(view, mask)

    def mark_overwritten(self, memory: Tensor, before: Tensor, result: Tensor) -> None:
        """Adds memory that an operation in place has changed, if what it wrote is in the domain.

        Args:
            memory: The current values of the whole memory.
            before: The tensor that was changed, as it was: the memory, or a view of a part of it.
            result: Its new values.
        """
        if result not in self._masks:
            return
        owner = before if before._base is None else before._base
        if memory.shape == result.shape or (self._are_all_pixels(owner) and self._are_all_pixels(result)):
            self.mark(memory, self.mask_of(result))
            return
        mask = torch.empty_strided(memory.shape, memory.stride(), dtype=memory.dtype, device=memory.device)
        mask.copy_(self._mask_for(owner))
        offset = before.storage_offset() - owner.storage_offset()
        mask.as_strided(before.shape, before.stride(), offset).copy_(self._mask_for(result))
        self.mark(memory, mask)

    def _are_all_pixels(self, tensor: Tensor) -> bool:
        return tensor in self._masks and self.mask_of(tensor) is None

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
        index_of_source = {id(source): index for index, source in enumerate(sources)}
        # places in an image and weights of a mean stay: 1 for each that is not zero would be another operation
        name = raw_name(func).strip("_")
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

        masks = [self._mask_for(source) for source in sources]
        mask = None
        if any(self.mask_of(source) is not None for source in sources):
            with torch.no_grad():
                mask = (run(*masks) != 0).to(values.dtype)
        return self.mark(spread_evenly(values, run, sources, masks), mask)


def _nonzero(tensor: Tensor) -> Tensor:
    """Returns 1 for each coefficient that is not zero, and 0 for the others: which pixels a sum has, not how much."""
    return (tensor != 0).to(tensor.dtype) if tensor.is_floating_point() else tensor


def _without_fill(name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Returns the arguments of an operation that fills places with a number, with 0 as that number."""
    position = _FILLED.get(name)
    kwargs = {key: 0 if key == "value" and isinstance(value, int | float) else value for key, value in kwargs.items()}
    filled = (0 if i == position and isinstance(value, int | float) else value for i, value in enumerate(args))
    return tuple(filled), kwargs
