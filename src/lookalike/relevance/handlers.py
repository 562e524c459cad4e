"""What the engine does with each kind of operation that has a rule of its own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lookalike.relevance.attention import multi_head_attention, scaled_dot_product_attention
from lookalike.relevance.dependence import tensors_in, with_tensors
from lookalike.relevance.functions import rescaled
from lookalike.relevance.names import PASSED, raw_name
from lookalike.relevance.operations import Convolution, Linear, stabilised

if TYPE_CHECKING:
    from lookalike.relevance.engine import Engine

Handler = Callable[["Engine", Any, str, Any, Any], Any]


def _convolution(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    read = _read_transposed if "transpose" in name else _read_convolution
    x, weight, bias, padding, options = read(*args, **kwargs)
    if weight.requires_grad:
        return _computed_weights(engine, func, name, (x, weight, bias, *args[3:]), kwargs)
    if weight.ndim == x.ndim + 1:  # without a batch axis
        return engine.by_gradient(func, name, args, kwargs)
    dims = weight.ndim - 2
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(_many(options["dilation"], dims), weight.shape[2:], strict=True)]
        sides = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
        x, padding = engine.by_gradient(F.pad, "pad", (x, sides), {}), 0
    operation = Convolution(
        stride=_many(options["stride"], dims),
        padding=_many(0 if padding == "valid" else padding, dims),
        dilation=_many(options["dilation"], dims),
        transposed="transpose" in name,
        output_padding=_many(options.get("output_padding", 0), dims),
        groups=options["groups"],
    )
    return engine.execute("convolution", operation, x, weight, bias)


def _read_convolution(
    input: Tensor,  # noqa: A002 - torch's own names
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, Any, dict[str, Any]]:
    return input, weight, bias, padding, {"stride": stride, "dilation": dilation, "groups": groups}


def _read_transposed(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> tuple[Tensor, Tensor, Tensor | None, Any, dict[str, Any]]:
    options = {"stride": stride, "dilation": dilation, "groups": groups, "output_padding": output_padding}
    return input, weight, bias, padding, options


def _linear(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    def read(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:  # noqa: A002
        return input, weight, bias

    x, weight, bias = read(*args, **kwargs)
    if weight.requires_grad:
        return _computed_weights(engine, func, name, (x, weight, bias), {})
    if bias is not None and bias.requires_grad:
        return engine.by_name(torch.add, "add", (_linear(engine, func, name, (x, weight), {}), bias))
    return engine.execute("linear", Linear(), x, weight, bias)


def _computed_weights(engine: "Engine", func: Any, name: str, given: Any, options: Any) -> Any:
    """A layer whose weights depend on the image: a product like any other, and its bias added."""
    x, weight, bias, *rest = given
    options = {key: value for key, value in options.items() if key not in ("input", "weight", "bias")}
    x, weight = engine.leave_pixels(x), engine.leave_pixels(weight)
    half = 0.5 if x.requires_grad else 1.0
    parts = [rescaled(t, t, half) if t.requires_grad else t for t in (x, weight)]
    out = func(*parts, None, *rest, **options)
    engine.note(name, "half" if x.requires_grad else "proportional", out)
    if bias is None:
        return out
    axis = -1 if name == "linear" else 1
    shape = [1] * out.ndim
    shape[axis] = -1
    return engine.by_name(torch.add, "add", (out, bias.view(shape)))


def _batch_norm(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    def read(
        input: Tensor,  # noqa: A002
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

    given = args
    if func is not F.batch_norm:  # the function beneath orders its arguments otherwise
        given = (args[0], args[3], args[4], args[1], args[2], *args[5:8])
    x, mean, variance, weight, bias, training, eps = read(*given, **kwargs)
    if training or mean is None or variance is None or any(t.requires_grad for t in tensors_in(given[1:])):
        return engine.by_gradient(func, name, args, kwargs)
    with torch.no_grad():
        output = func(*args, **kwargs)
        scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
    layer = engine.calls.get(x)
    if layer is not None and layer[1].scale is None and not layer[1].operation.transposed:
        kind, call = layer
        folded_bias = shift if call.bias is None else shift + scale * call.bias
        tensors = tuple(t for t in (mean, variance, weight, bias) if t is not None)
        engine.forget(x)
        return engine.linear(kind, call.folded(scale, folded_bias, output, tensors))
    if engine.in_pixels(x):
        out = engine.pass_in_pixels(x, output)
    else:
        out = rescaled(x, output, scale.view(1, -1, *[1] * (x.ndim - 2)).expand_as(output))
    engine.note("batch norm", "affine", out)
    return out


def _norm(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Layer, group, instance and RMS norms: what they divide by is held constant (AttnLRP)."""
    x = args[0] if args else kwargs["input"]
    arguments = _NORM_ARGUMENTS[name if name != "instance_norm" or func is F.instance_norm else "torch.instance_norm"]
    given = dict(zip(arguments, args, strict=False)) | kwargs
    if any(t.requires_grad for key, t in given.items() if isinstance(t, Tensor) and key != "input"):
        return _norm_with_computed_weights(engine, func, name, given)
    if given.get("use_input_stats") is False:
        return engine.by_gradient(func, name, args, kwargs)
    with torch.no_grad():
        output = func(*args, **kwargs)
    if engine.in_pixels(x):
        out = engine.pass_in_pixels(x, output)
        engine.note(name, "norm", out)
        return out
    eps = given.get("eps")
    if name in ("layer_norm", "rms_norm"):
        shape, axes = x, tuple(range(-len(given["normalized_shape"]), 0))
        eps = torch.finfo(x.dtype).eps if eps is None else eps
    else:
        groups = given["num_groups"] if name == "group_norm" else x.shape[1]
        shape, axes = x.reshape(len(x), groups, -1), (-1,)
        eps = 1e-5 if eps is None else eps
    centred = shape if name == "rms_norm" else shape - shape.mean(axes, keepdim=True)
    with torch.no_grad():
        deviation = (centred.square().mean(axes, keepdim=True) + eps).sqrt()
    normed = (centred / deviation).reshape(x.shape)
    weight = given.get("weight")
    if weight is not None:
        normed = normed * (weight if name in ("layer_norm", "rms_norm") else weight.view(1, -1, *[1] * (x.ndim - 2)))
    out = rescaled(normed, output, 1.0)
    engine.note(name, "norm", out)
    return out


def _norm_with_computed_weights(engine: "Engine", func: Any, name: str, given: dict[str, Any]) -> Any:
    """A norm whose scale or shift depends on the image: the norm, then a product and a sum."""
    weight, bias = given.pop("weight", None), given.pop("bias", None)
    out = _norm(engine, func, name, (), given)
    over_channels = name in ("group_norm", "instance_norm")
    for value, apply, kind in ((weight, torch.mul, "mul"), (bias, torch.add, "add")):
        if value is not None:
            shaped = value.view(1, -1, *[1] * (out.ndim - 2)) if over_channels else value
            out = engine.by_name(apply, kind, (out, shaped))
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


def _activation(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    x = args[0] if args else kwargs["input"]
    with torch.no_grad():
        output = func(*args, **kwargs)
    if not isinstance(output, Tensor) or output.shape != x.shape:  # clamped by a tensor of another shape
        return engine.by_gradient(func, name, args, kwargs)
    if engine.in_pixels(x):
        out = engine.pass_in_pixels(x, output)
    else:
        divisor = stabilised(x.detach())
        out = rescaled(x, output, torch.div(output, divisor, out=divisor))
    engine.note(name, "pass", out)
    return out


def _sum(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Sums and differences; of pixels and a constant, a shift that relevance passes."""
    operands = [tensor for tensor in tensors_in((args, kwargs)) if tensor.requires_grad]
    if not engine.in_pixels(*operands):
        return engine.by_gradient(func, name, args, kwargs)
    with torch.no_grad():
        output = func(*args, **kwargs)
    whole = [operand for operand in operands if operand.shape == output.shape]
    if len(whole) == 1:  # what else there is, as an image's mean, is held constant
        out = engine.pass_in_pixels(whole[0], output)
    elif engine.composite.first is not None:
        out = engine.spread_in_pixels(_total, tuple(whole or operands), {}, output, whole or operands)
    else:
        return engine.by_gradient(func, name, *with_tensors(engine.leave_pixels, (args, kwargs)))
    engine.note(name, "pass" if len(whole) == 1 else "flat", out)
    return out


def _total(*operands: Tensor) -> Tensor:
    return sum(operands[1:], operands[0])


def _product(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Products: of n factors that depend on the image each gets one n-th, of two half; a constant gets nothing."""
    tensors = tensors_in((args, kwargs))
    operands = [tensor for tensor in tensors if tensor.requires_grad]
    if name == "matmul" and raw_name(func) != "__rmatmul__" and len(tensors) == 2 and len(operands) == 1:
        x, weight = tensors
        if operands[0] is x and weight.ndim == 2 and engine.is_learned(weight) and x.ndim > 1:
            return engine.execute("linear", Linear(), x, _transposed(engine, weight), None)
    if engine.in_pixels(*operands):
        return _product_of_pixels(engine, func, name, args, kwargs, operands)
    if len(operands) == 1:
        if name == "div" and not (args and args[0] is operands[0]):
            return _held(engine, func, name, args, kwargs)
        out = func(*args, **kwargs)
        engine.note(name, "proportional", out)
        return out
    if name == "div":  # what is divided by is held constant, as in a norm
        out = func(args[0], args[1].detach(), *args[2:], **kwargs)
        engine.note(name, "norm", out)
        return out
    part = 1 / len(operands)
    halved = with_tensors(lambda v: rescaled(v, v, part) if v.requires_grad else v, (args, kwargs))
    out = func(*halved[0], **halved[1])
    engine.note(name, "half", out)
    return out


def _transposed(engine: "Engine", weight: Tensor) -> Tensor:
    turned = weight.t()
    engine.names[id(turned)] = engine.names.get(id(weight), engine.where)
    return turned


def _product_of_pixels(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any, operands: list[Tensor]) -> Any:
    with torch.no_grad():
        output = func(*args, **kwargs)
    factors = [tensor for tensor in tensors_in((args, kwargs)) if not tensor.requires_grad]
    if name == "div" and len(operands) > 1:
        operands, func, args, kwargs = [args[0]], torch.div, (args[0], args[1].detach()), {}
    if len(operands) == 1 and operands[0].shape == output.shape and name in ("mul", "div"):
        source = operands[0]
        seen = factors[0] != 0 if name == "mul" and factors and factors[0].is_floating_point() else None
        if seen is not None and not bool(seen.all()):  # what a mask hides has no relevance
            out = engine.mark_pixels(rescaled(source, output, seen.to(output.dtype)))
        else:
            out = engine.pass_in_pixels(source, output)
        engine.note(name, "pass", out)
    elif len(operands) == 1 and engine.composite.first is not None and name != "div":
        out = engine.spread_in_pixels(func, args, kwargs, output, operands)
        engine.note(name, "flat", out)
        if any(engine.is_learned(factor) for factor in factors):  # a layer, which the network has learned
            out = engine.leave_pixels(out)
    else:
        out = _product(engine, func, name, *with_tensors(engine.leave_pixels, (args, kwargs)))
    return out


def _held(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """What others are divided by (1 / x, rsqrt) is held constant, as in a norm."""
    held = with_tensors(Tensor.detach, (args, kwargs))
    return func(*held[0], **held[1])


def _power(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """X to a constant n, a product of n equal factors, passes relevance; to a power below zero it divides others."""
    exponent = _DEGREES.get(name, args[1] if len(args) > 1 else kwargs.get("exponent"))
    base = args[0] if args else kwargs["input"]
    if isinstance(exponent, int | float) and exponent < 0:
        return _held(engine, func, name, args, kwargs)
    if not isinstance(exponent, int | float) or exponent == 0 or engine.in_pixels(base):
        return engine.by_gradient(func, name, args, kwargs)
    args, kwargs = with_tensors(lambda v: rescaled(v, v, 1 / exponent) if v is base else v, (args, kwargs))
    out = func(*args, **kwargs)
    engine.note(name, "half" if exponent > 1 else "pass", out)
    return out


_DEGREES = {"square": 2, "sqrt": 0.5, "var": 2}


def _normalize(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Division by a norm, which is held constant."""
    x = args[0] if args else kwargs["input"]
    with torch.no_grad():
        output = func(*args, **kwargs)
    out = engine.pass_in_pixels(x, output) if engine.in_pixels(x) else rescaled(x, output, output / stabilised(x))
    engine.note(name, "norm", out)
    return out


def _softmax(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """The softmax by its Jacobian (AttnLRP), or held constant (CP-LRP)."""
    if engine.composite.softmax == "constant":
        return _held(engine, func, name, args, kwargs)
    return engine.by_gradient(func, name, args, kwargs)


def _many(value: Any, dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list | torch.Size) else (value,) * dims
    return values * dims if len(values) == 1 else values


def _added_product(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """A sum and a product in one (baddbmm, addbmm, addmm): a + b @ c, told apart."""
    bias, *_ = args
    if name == "addmm" and engine.is_learned(args[2]) and not bias.requires_grad and bias.ndim == 1 and not kwargs:
        return engine.execute("linear", Linear(), args[1], _transposed(engine, args[2]), bias)
    product = engine.by_name(torch.matmul, "matmul", args[1:3])
    if name == "addbmm":
        product = product.sum(0)
    scaled = product if "alpha" not in kwargs else product * kwargs["alpha"]
    other = args[0] if "beta" not in kwargs else args[0] * kwargs["beta"]
    return engine.by_name(torch.add, "add", (other, scaled))


def _with_added_product(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """A sum and a product of coefficients in one (addcmul, addcdiv): a + value b c, told apart."""
    value = kwargs.get("value", 1)
    if len(args) != 3 or set(kwargs) - {"value"}:
        return engine.by_gradient(func, name, args, kwargs)
    kind = "mul" if name == "addcmul" else "div"
    product = engine.by_name(getattr(torch, kind), kind, args[1:])
    scaled = product if value == 1 else engine.by_name(torch.mul, "mul", (product, value))
    return engine.by_name(torch.add, "add", (args[0], scaled))


def _gated(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """One half of the channels times the sigmoid of the other (GLU)."""
    x = args[0] if args else kwargs["input"]
    axis = args[1] if len(args) > 1 else kwargs.get("dim", -1)
    value, gate = engine.by_name(torch.chunk, "chunk", (x, 2, axis))
    return engine.by_name(torch.mul, "mul", (value, engine.by_name(torch.sigmoid, "sigmoid", (gate,))))


def _any_convolution(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """The operation beneath all convolutions, as exported networks call it."""
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args[:9]
    if weight.requires_grad or kwargs:
        return engine.by_gradient(func, name, args, kwargs)
    dims = weight.ndim - 2
    operation = Convolution(
        stride=_many(stride, dims),
        padding=_many(padding, dims),
        dilation=_many(dilation, dims),
        transposed=transposed,
        output_padding=_many(output_padding, dims),
        groups=groups,
    )
    return engine.execute("convolution", operation, x, weight, bias)


# Products hold a factor that has no gradient (a mask, a choice) constant.
CONSTANT_FACTORS = frozenset({"mul", "div", "matmul", "einsum", "scaled_dot_product_attention"})

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution
    ),
    "linear": _linear,
    **dict.fromkeys(("baddbmm", "addbmm", "addmm"), _added_product),
    "batch_norm": _batch_norm,
    "convolution": _any_convolution,
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm", "instance_norm"), _norm),
    **dict.fromkeys(PASSED, _activation),
    **dict.fromkeys(("add", "sub", "rsub"), _sum),
    **dict.fromkeys(("mul", "div", "matmul", "einsum", "tensordot"), _product),
    **dict.fromkeys(("mv", "dot", "vdot", "inner", "outer", "kron", "linalg_vecdot", "linalg_matmul"), _product),
    **dict.fromkeys(("addcmul", "addcdiv"), _with_added_product),
    "glu": _gated,
    **dict.fromkeys(("rsqrt", "reciprocal", "rdiv"), _held),
    **dict.fromkeys(("pow", "square", "sqrt", "var"), _power),
    "normalize": _normalize,
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention,
}
