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
"""

from typing import Any

import torch
from torch import Tensor

from lookalike.relevance.dependence import map_tensors
from lookalike.relevance.functions import end_pixel_domain, pass_through, spread_evenly
from lookalike.relevance.names import raw_name
from lookalike.relevance.weak import TensorMap

_KEPT = {"grid_sample": 1, "grid_sampler": 1, "grid_sampler_2d": 1, "grid_sampler_3d": 1, "lerp": 2}  # which argument


class PixelDomain:
    """The twins that lie before the first layer.

    Args:
        inputs: The network's inputs.
    """

    def __init__(self, inputs: list[Tensor]) -> None:
        self._members: TensorMap[bool] = TensorMap()
        for tensor in inputs:
            self._members[tensor] = True

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._members

    def include(self, *tensors: Any) -> bool:
        """Returns whether any of these values is a tensor in the pixel domain."""
        return any(isinstance(tensor, Tensor) and tensor in self._members for tensor in tensors)

    def mark(self, tensor: Tensor) -> Tensor:
        """Adds a tensor to the pixel domain, and returns it."""
        self._members[tensor] = True
        return tensor

    def leave(self, tensor: Tensor) -> Tensor:
        """Ends the pixel domain at a tensor: behind it, R = a ⊙ g. Other tensors stay as they are."""
        return end_pixel_domain(tensor) if tensor in self._members else tensor

    def mark_view(self, memory: Tensor, view: Tensor) -> Tensor:
        """Adds a view to the domain if its memory is in it, and returns the view."""
        return self.mark(view) if memory in self._members else view

    def pass_through(self, source: Tensor, values: Tensor) -> Tensor:
        """Returns the results of an operation on each pixel by itself, which passes relevance on."""
        return self.mark(pass_through(source, values))

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

        return self.mark(spread_evenly(values, run, sources))


def _nonzero(tensor: Tensor) -> Tensor:
    """Returns 1 for each coefficient that is not zero, and 0 for the others: which pixels a sum has, not how much."""
    return (tensor != 0).to(tensor.dtype) if tensor.is_floating_point() else tensor
