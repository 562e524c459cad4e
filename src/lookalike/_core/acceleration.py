"""Faster forward passes, without a change to the network.

Three avoidable things make convolutions slow: images stored channel by channel; weights that are reordered
(or cast to bfloat16) again for each batch; and maps of a single position, where all taps but one fall on padding and
are computed nevertheless. While ``Accelerated`` is active, the operations get inputs and weights in their fastest
form. Modules, weights and hooks stay as they are.

The network's own code must not notice that channels come last. So a tensor whose memory it looks at, as
``x.view(len(x), -1)`` does, gets torch's own layout again, in place. What cannot be helped so, such as ``view`` in
TorchScript, ends in an error of torch; then the network runs once more, and from then on in torch's own layout::

    convolution ──▶ channels last ──▶ relu, pooling … ──▶ view ──▶ channels first, the same tensor
                                                      └─▶ error ──▶ all of the pass again, channels first
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from lookalike._core.untouched import FunctionMode, is_autocast

_DEVICES = ("cpu", "cuda")
# Operations that need or show how a tensor's memory is laid out.
_SEES_MEMORY = frozenset(
    [
        Tensor.view, Tensor.view_as, Tensor.stride, Tensor.data_ptr, Tensor.untyped_storage,
        Tensor.as_strided, Tensor.as_strided_, torch.as_strided, torch.view_as_complex,
    ]
)  # fmt: skip
_READS_AS_LAID_OUT = frozenset([Tensor.as_strided, Tensor.as_strided_, torch.as_strided, Tensor.untyped_storage])
_ENOUGH_FOR_ONEDNN = 16  # images, from which on torch uses it in one thread, too
_TINY_MAP = 20  # positions: on fewer, kernels of more than one tap take up to half longer with channels last


class Accelerated(FunctionMode):
    """While it is active, convolutions and linear layers are computed in the fastest equivalent way.

    - On a CPU, a convolution of a 1×1 map becomes a matrix product with the one tap that meets the map; a depthwise
      convolution becomes a product per channel. Their gradients are computed in the same way.
    - Without gradients, a convolution takes images with channels last, if its map is not tiny. Weights are reordered
      (under autocast also cast) once and not for each batch.

    Results are those of the plain pass, up to rounding. Weights that change are reordered again.

    Example:
        >>> layer, x = nn.Conv2d(8, 4, 3, padding=1), torch.randn(2, 8, 1, 1)
        >>> with Accelerated():
        ...     fast = layer(x)
        >>> torch.allclose(fast, layer(x), atol=1e-6)
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self._prepared: dict[tuple[int, torch.dtype, torch.memory_format], tuple[Tensor, int, Tensor]] = {}
        self._keeps_layout = False
        self._origin: Accelerated | None = None  # the mode that this one was made of

    def for_thread(self) -> "Accelerated":
        """Returns a mode for another thread, with the same prepared weights."""
        mode = Accelerated()
        mode._prepared, mode._keeps_layout, mode._origin = self._prepared, self._keeps_layout, self
        return mode

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs an operation, or its faster equivalent."""
        if func in _SEES_MEMORY and args and not self._keeps_layout:
            args = (self._in_own_layout(func, args[0]), *args[1:])
        if func is F.conv2d:
            return self._convolve(*args, **(kwargs or {}))
        if func is F.linear and is_autocast():
            return self._linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _convolve(
        self,
        input: Tensor,  # torch's name
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        """Computes a convolution in the fastest equivalent way; takes the arguments of ``conv2d``."""
        device = input.device.type
        if input.ndim != 4 or device not in _DEVICES:
            return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
        depthwise = groups == input.shape[1] == weight.shape[0]
        may_be_point = device == "cpu" and (groups == 1 or depthwise)
        tap = _tap_at_point(input, weight, padding, dilation) if may_be_point else None
        if tap is not None:
            weight_at_tap = weight[:, :, tap[0], tap[1]]
            if groups == 1:
                return F.linear(input.flatten(1), weight_at_tap, bias)[:, :, None, None]
            return _convolve_points_depthwise(input, weight_at_tap, bias)
        if not torch.is_grad_enabled():
            layout = torch.contiguous_format if self._keeps_layout else _fastest_layout(input, weight, groups)
            input = input.contiguous(memory_format=layout)
            weight = self._prepared_weight(weight, layout, device)
            if layout == torch.channels_last and not isinstance(padding, str) and _misses_onednn(input, weight, groups):
                return torch.mkldnn_convolution(
                    input, weight, bias, _pair(padding), _pair(stride), _pair(dilation), groups
                )
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)

    def keep_layout(self) -> bool:
        """Leaves tensors in torch's own layout from now on; returns whether that is new."""
        is_new, self._keeps_layout = not self._keeps_layout, True
        if self._origin is not None:
            self._origin.keep_layout()
        return is_new

    def _in_own_layout(self, func: Callable[..., Any], value: Any) -> Any:
        """Returns a tensor in the layout that torch would have given it, as the network is about to look at it.

        It stays the same tensor, so that the network can write into it through a view.
        """
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_contiguous():
            return value
        has_channels_last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
        if has_channels_last and value.requires_grad:
            return value.contiguous()
        if has_channels_last and value._base is None:
            return value.set_(value.contiguous())  # type: ignore[call-overload]
        # other views of its memory would be left behind, or other values be read without an error
        if has_channels_last or func in _READS_AS_LAID_OUT:
            raise RuntimeError("the network reads memory as it is laid out")
        return value

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        device = input.device.type
        if device in _DEVICES and not torch.is_grad_enabled():
            weight = self._prepared_weight(weight, torch.contiguous_format, device)
        return F.linear(input, weight, bias)

    def _prepared_weight(self, weight: Tensor, layout: torch.memory_format, device: str) -> Tensor:
        """Returns a weight in the given layout and in the type of autocast, from the cache if it has not changed."""
        if not isinstance(weight, nn.Parameter):  # such a weight is computed in each pass, so it is used only once
            return weight
        version = 0 if weight.is_inference() else weight._version
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        key = id(weight), dtype, layout
        cached = self._prepared.get(key)
        if cached is not None and cached[1] == version:
            return cached[2]
        prepared = weight.detach().to(dtype).contiguous(memory_format=layout)
        # Holding the weight itself keeps its id from being given to another tensor.
        self._prepared[key] = weight, version, prepared
        return prepared


def _misses_onednn(input: Tensor, weight: Tensor, groups: int) -> bool:
    """Says whether torch would compute a 1×1 convolution without oneDNN, as it does for few images in one thread.

    With channels last, that way first moves the channels to the front. For 6 images oneDNN takes 0.6 to 1 of its time
    on most layers of EfficientNet-Lite0 and ResNet50.
    """
    return (
        input.device.type == "cpu"
        and groups == 1
        and weight.shape[2:] == (1, 1)
        and 1 < len(input) < _ENOUGH_FOR_ONEDNN
        and input.dtype == weight.dtype == torch.float32
        and torch.get_num_threads() == 1
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def _convolve_points_depthwise(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns a depthwise convolution of 1×1 maps [N, C, 1, 1], with one weight per channel [C, 1]."""
    if torch.is_autocast_enabled("cpu"):  # torch casts for convolutions, but not for products
        dtype = torch.get_autocast_dtype("cpu")
        input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    products = input * weight[:, :, None]
    return products if bias is None else products + bias[:, None, None]


def _fastest_layout(input: Tensor, weight: Tensor, groups: int) -> torch.memory_format:
    """Returns the layout in which a convolution of images [N, C, H, W] is fastest."""
    is_plain = input.device.type == "cpu" and groups == 1 and not torch.is_autocast_enabled("cpu")
    is_tiny = input.shape[2] * input.shape[3] < _TINY_MAP
    return torch.contiguous_format if is_plain and is_tiny and weight.shape[2:].numel() > 1 else torch.channels_last


def _tap_at_point(input: Tensor, weight: Tensor, padding: Any, dilation: Any) -> tuple[int, int] | None:
    """Returns the kernel's tap that meets a 1×1 map. None if the map or the output has more than one position.

    The output has one position if the padding on each side is half of the kernel's extent: then only the central tap
    meets the map, and all others meet padding.

        padding  0 0 0
                 0 x 0     3×3 kernel, padding 1: tap (1, 1) meets x
                 0 0 0
    """
    if input.shape[2:] != (1, 1) or weight.shape[2:] == (1, 1) or isinstance(padding, str):
        return None
    sizes = tuple(weight.shape[2:])
    for size, pad, spacing in zip(sizes, _pair(padding), _pair(dilation), strict=True):
        if 2 * pad != spacing * (size - 1) or size % 2 == 0:
            return None
    return sizes[0] // 2, sizes[1] // 2


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def keep_layout() -> bool:
    """Has accelerated passes that are running leave tensors in torch's own layout; returns whether that is new."""
    is_new = False
    for mode in _get_current_function_mode_stack():
        if isinstance(mode, Accelerated):
            is_new = mode.keep_layout() or is_new
    return is_new
