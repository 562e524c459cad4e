"""What the engine does with each kind of operation that has a rule of its own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from lookalike.relevance.attention import multi_head_attention, scaled_dot_product_attention
from lookalike.relevance.composites import Kind
from lookalike.relevance.functions import rescaled
from lookalike.relevance.names import PASSED
from lookalike.relevance.operations import Call, Convolution, Linear, stabilised

if TYPE_CHECKING:
    from lookalike.relevance.engine import Engine

Handler = Callable[["Engine", Any, str, Any, Any], Any]


def _convolution(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    read = _read_transposed if "transpose" in name else _read_convolution
    x, weight, bias, padding, options = read(*args, **kwargs)
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


def _linear(engine: "Engine", _func: Any, _name: str, args: Any, kwargs: Any) -> Any:
    def read(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:  # noqa: A002
        return input, weight, bias

    return engine.execute("linear", Linear(), *read(*args, **kwargs))


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
    if func is torch.batch_norm:  # the function beneath orders its arguments otherwise
        given = (args[0], args[3], args[4], args[1], args[2], *args[5:8])
    x, mean, variance, weight, bias, training, eps = read(*given, **kwargs)
    if training or mean is None or variance is None:
        return engine.by_gradient(func, name, args, kwargs)
    with torch.no_grad():
        output = func(*args, **kwargs)
        scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
    kind, call = engine.calls.get(x, (None, None))
    if call is not None and call.scale is None and not call.operation.transposed:
        folded_bias = shift if call.bias is None else shift + scale * call.bias
        tensors = tuple(t for t in (mean, variance, weight, bias) if t is not None)
        engine.table[kind, engine.names.get(id(call.weight), engine.where), _rule_name(engine, kind, call)] -= 1
        return engine.linear(kind, call.folded(scale, folded_bias, output, tensors))
    engine.note("batch norm", "affine")
    if engine.in_pixels(x):
        return pass_in_pixels(engine, x, output)
    return rescaled(x, output, scale.view(1, -1, *[1] * (x.ndim - 2)).expand_as(output))


def _rule_name(engine: "Engine", kind: Kind, call: Call) -> str:
    return engine.composite.rule_for(kind, first=engine.in_pixels(call.source)).name


def pass_in_pixels(engine: "Engine", x: Tensor, values: Tensor) -> Tensor:
    """Passes relevance through something that happens to pixels one by one."""
    out = rescaled(x, values, 1.0)
    engine.mark_pixels(out)
    return out


def _norm(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Layer, group, instance and RMS norms: what they divide by is held constant (AttnLRP)."""
    x = args[0] if args else kwargs["input"]
    given = dict(zip(_NORM_ARGUMENTS[name], args, strict=False)) | kwargs
    with torch.no_grad():
        output = func(*args, **kwargs)
    if engine.in_pixels(x):
        engine.note(name, "norm")
        return pass_in_pixels(engine, x, output)
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
    engine.note(name, "norm")
    return rescaled(normed, output, 1.0)


_NORM_ARGUMENTS = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "instance_norm": ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
}


def _activation(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    x = args[0] if args else kwargs["input"]
    with torch.no_grad():
        output = func(*args, **kwargs)
    engine.note(name, "pass")
    if engine.in_pixels(x):
        return pass_in_pixels(engine, x, output)
    return rescaled(x, output, (output / stabilised(x)).detach())


def _sum(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Sums and differences; with a constant in the pixel domain, a shift that relevance passes."""
    operands = [leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if len(operands) == 1 and engine.in_pixels(operands[0]):
        with torch.no_grad():
            output = func(*args, **kwargs)
        return pass_in_pixels(engine, operands[0], output) if output.shape == operands[0].shape else output
    return engine.by_gradient(func, name, args, kwargs)


def _product(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Products: of n factors that depend on the input each gets one n-th, of two half; a constant gets nothing."""
    operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if len(operands) == 1:
        if name in ("mul", "div") and engine.in_pixels(operands[0]):
            with torch.no_grad():
                output = func(*args, **kwargs)
            return pass_in_pixels(engine, operands[0], output) if output.shape == operands[0].shape else output
        engine.note(name, "proportional")
        return func(*args, **kwargs)
    if name == "div":  # what is divided by is held constant, as in a norm
        engine.note(name, "norm")
        return func(args[0], args[1].detach(), *args[2:], **kwargs)
    engine.note(name, "half")
    part = 1 / len(operands)
    halved = tree_map(
        lambda v: rescaled(v, v, part) if isinstance(v, Tensor) and v.requires_grad else v, (args, kwargs)
    )
    return func(*halved[0], **halved[1])


def _many(value: Any, dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list | torch.Size) else (value,) * dims
    return values * dims if len(values) == 1 else values


def _added_product(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """A sum and a product in one (baddbmm, addbmm, addmm): a + b @ c, told apart."""
    product = engine.by_name(torch.matmul, "matmul", args[1:3])
    if name == "addbmm":
        product = product.sum(0)
    scaled = product * kwargs.get("alpha", 1)
    return engine.by_name(torch.add, "add", (args[0] * kwargs.get("beta", 1), scaled))


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution
    ),
    "linear": _linear,
    **dict.fromkeys(("baddbmm", "addbmm", "addmm"), _added_product),
    "batch_norm": _batch_norm,
    **dict.fromkeys(_NORM_ARGUMENTS, _norm),
    **dict.fromkeys(PASSED, _activation),
    **dict.fromkeys(("add", "sub", "rsub"), _sum),
    **dict.fromkeys(("mul", "div", "matmul", "einsum"), _product),
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention,
}
