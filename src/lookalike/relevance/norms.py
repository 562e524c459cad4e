"""Handlers of norms: a batch norm joins the layer before it, and the others hold the deviation constant."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lookalike.relevance.dependence import tensors_in
from lookalike.relevance.functions import with_factor

if TYPE_CHECKING:
    from lookalike.relevance.engine import Engine


def batch_norm(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Folds a batch norm into the layer that feeds it; without such a layer, it is a scale that keeps its gradient.

    In eval mode a batch norm is a fixed scale and shift per channel, so layer and norm are one linear operation, to
    which one rule applies::

        scale · (A x + b) + shift  =  (scale · A) x + (scale · b + shift)

    With separate rules, maps would depend on how the network splits its bias between layer and norm.
    """
    arguments = args
    if func is not F.batch_norm:  # torch.batch_norm has another order of arguments
        arguments = (args[0], args[3], args[4], args[1], args[2], *args[5:8])
    x, mean, variance, weight, bias, training, eps = _read_batch_norm(*arguments, **kwargs)
    if training or mean is None or variance is None or any(t.requires_grad for t in tensors_in(arguments[1:])):
        return engine.apply_gradient(func, name, args, kwargs)
    with torch.no_grad():
        output = func(*args, **kwargs)
        scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
        shift = -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)
    layer = engine.calls.get(x)
    # not into a transposed convolution, whose weights [inputs, outputs, …] would need another scaling, nor into a layer
    # whose outputs lie along another axis than that of the norm
    if layer is not None and layer[1].scale is None and _has_outputs_at(1, layer[1].operation, x):
        kind, call = layer
        folded_bias = shift if call.bias is None else torch.addcmul(shift, scale, call.bias)
        tensors = tuple(t for t in (mean, variance, weight, bias) if t is not None)
        engine.uses.drop(x)
        return engine.apply_rule(kind, call.folded(scale, folded_bias, output, tensors))
    if engine.pixels.include(x):
        out = engine.pixels.pass_through(x, output)
    else:
        out = with_factor(x, output, scale.view(1, -1, *[1] * (x.ndim - 2)).expand_as(output))
    engine.uses.add("batch norm", "affine", out)
    return out


def _has_outputs_at(axis: int, operation: Any, x: Tensor) -> bool:
    """Returns whether the outputs of a layer that gave x lie along this axis, and its weights as [outputs, …]."""
    return not operation.transposed and operation.output_axis % x.ndim == axis


def _read_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    _momentum: float = 0.1,
    eps: float = 1e-5,
    **_: Any,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, bool, float]:
    return input, running_mean, running_var, weight, bias, training, eps


def norm(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Layer, group, instance and RMS norms: the deviation that they divide by is held constant (AttnLRP).

    The norm is computed once more, with a constant deviation, for its gradient; its values are torch's own.
    """
    x = args[0] if args else kwargs["input"]
    argument_names = _NORM_ARGUMENTS[
        name if name != "instance_norm" or func is F.instance_norm else "torch.instance_norm"
    ]
    arguments = dict(zip(argument_names, args, strict=False)) | kwargs
    if any(t.requires_grad for key, t in arguments.items() if isinstance(t, Tensor) and key != "input"):
        return _norm_with_computed_weights(engine, func, name, arguments)
    if arguments.get("use_input_stats") is False:
        return engine.apply_gradient(func, name, args, kwargs)
    with torch.no_grad():
        output = func(*args, **kwargs)
    if engine.pixels.include(x):
        out = engine.pixels.pass_through(x, output)
        engine.uses.add(name, "norm", out)
        return out
    eps = arguments.get("eps")
    if name in ("layer_norm", "rms_norm"):
        grouped, axes = x, tuple(range(-len(arguments["normalized_shape"]), 0))
        eps = torch.finfo(x.dtype).eps if eps is None else eps
    else:
        groups = arguments["num_groups"] if name == "group_norm" else x.shape[1]
        grouped, axes = x.reshape(len(x), groups, -1), (-1,)
        eps = 1e-5 if eps is None else eps
    centred = grouped if name == "rms_norm" else grouped - grouped.mean(axes, keepdim=True)
    with torch.no_grad():
        deviation = (centred.square().mean(axes, keepdim=True) + eps).sqrt()
    normed = (centred / deviation).reshape(x.shape)
    weight = arguments.get("weight")
    if weight is not None:
        normed = normed * (weight if name in ("layer_norm", "rms_norm") else weight.view(1, -1, *[1] * (x.ndim - 2)))
    out = with_factor(normed, output, 1.0)
    engine.uses.add(name, "norm", out)
    return out


def _norm_with_computed_weights(engine: "Engine", func: Any, name: str, arguments: dict[str, Any]) -> Any:
    """Runs a norm whose scale or shift depends on the image as a norm, a product and a sum."""
    weight, bias = arguments.pop("weight", None), arguments.pop("bias", None)
    out = norm(engine, func, name, (), arguments)
    over_channels = name in ("group_norm", "instance_norm")
    for value, apply, kind in ((weight, torch.mul, "mul"), (bias, torch.add, "add")):
        if value is not None:
            shaped = value.view(1, -1, *[1] * (out.ndim - 2)) if over_channels else value
            out = engine.apply(apply, kind, (out, shaped))
    return out


_NORM_ARGUMENTS = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "instance_norm": ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
    "torch.instance_norm": (
        "input", "weight", "bias", "running_mean", "running_var", "use_input_stats", "momentum", "eps", "cudnn_enabled",
    ),
}  # fmt: skip
