"""Handlers: relevance rules for the operations whose rule differs from their gradient.

A handler computes the operation's values and puts them into the relevance graph with a derivative that is the rule, in
the form g = R / a (see ``engine``). The rules, for an operation that turns x into y::

    layer             y = A x + b     the composite's rule                          ``rules``
    activation        y = f(x)        pass: R_x = R_y           → g_x = g_y · y / x
    sum               y = a + b       in proportion             → the gradient
    product           y = a · b       half to each              → half the gradient   R_a + R_b = 2 · ½ y g_y = R_y
    norm, quotient    y = x / s       s is held constant        → the gradient, without that of s
    softmax                           its Jacobian, or constant (the composite's choice)

For a product of n factors that depend on the image, the gradient alone would give n times the relevance: a · g_a is
y · g_y for each of them. So each gets one n-th (Achtibat et al. 2024).

Each handler has the same arguments: the engine, the function, its plain name, and the function's arguments, with twins
in place of tensors. A twin requires gradients if it depends on the pixels.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lookalike.relevance.attention import multi_head_attention, scaled_dot_product_attention
from lookalike.relevance.convolutions import CONVOLUTIONS, read_aten_convolution, read_convolution
from lookalike.relevance.dependence import map_tensors, tensors_in
from lookalike.relevance.functions import max_pool2d, with_factor
from lookalike.relevance.names import GRADIENT, PASSED, POOL, raw_name
from lookalike.relevance.norms import batch_norm, norm
from lookalike.relevance.operations import STABILISER, Linear, stabilised
from lookalike.relevance.signs import cannot_be_negative, note_not_negative

if TYPE_CHECKING:
    from lookalike.relevance.engine import Engine

Handler = Callable[["Engine", Any, str, Any, Any], Any]


def _convolution(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Convolutions of any dimension, transposed or not."""
    call = read_convolution(name, args, kwargs)
    if call.weight.requires_grad:
        return _layer_with_computed_weights(engine, func, name, (call.x, call.weight, call.bias, *args[3:]), kwargs)
    if call.weight.ndim == call.x.ndim + 1:  # an image without a batch axis
        return engine.apply_gradient(func, name, args, kwargs)
    if call.padding == "same":
        sides = call.same_padding()
        if sides[::2] == sides[1::2]:  # as a convolution's own padding, whose zeros are no pixels
            call = call._replace(padding=tuple(reversed(sides[::2])))
        else:
            call = call._replace(x=_pad(engine, F.pad, "pad", (call.x, sides), {}), padding=0)
    return engine.apply_linear("convolution", call.operation(), call.x, call.weight, call.bias)


def _pad(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Padding has its gradient; by values that are not negative, it also keeps the sign of what it pads."""
    out = engine.apply_gradient(func, name, args, kwargs)
    x = args[0] if args else kwargs["input"]
    fill_values = [value for value in (*args[2:], *kwargs.values()) if isinstance(value, int | float)]
    if isinstance(out, Tensor) and all(value >= 0 for value in fill_values) and cannot_be_negative(x):
        note_not_negative(out)
    return out


def _linear(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Linear layers; a bias that depends on the image is a summand like any other."""

    def read(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        return input, weight, bias

    x, weight, bias = read(*args, **kwargs)
    if weight.requires_grad:
        return _layer_with_computed_weights(engine, func, name, (x, weight, bias), {})
    if bias is not None and bias.requires_grad:
        return engine.apply(torch.add, "add", (_linear(engine, func, name, (x, weight), {}), bias))
    return engine.apply_linear("linear", Linear(), x, weight, bias)


def _layer_with_computed_weights(engine: "Engine", func: Any, name: str, tensors: Any, options: Any) -> Any:
    """Runs a layer whose weights depend on the image: a product of two factors, and a sum with its bias."""
    x, weight, bias, *other_args = tensors
    options = {key: value for key, value in options.items() if key not in ("input", "weight", "bias")}
    x, weight = engine.pixels.leave(x), engine.pixels.leave(weight)
    share = 0.5 if x.requires_grad else 1.0
    factors = [with_factor(t, t, share) if t.requires_grad else t for t in (x, weight)]
    out = func(*factors, None, *other_args, **options)
    engine.uses.add(name, "half" if x.requires_grad else "proportional", out)
    if bias is None:
        return out
    axis = -1 if name == "linear" else 1
    shape = [1] * out.ndim
    shape[axis] = -1
    return engine.apply(torch.add, "add", (out, bias.view(shape)))


def _relu(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """A ReLU is joined with the linear operation before it, or else keeps its gradient."""
    out = engine.join_relu(args[0] if args else kwargs["input"], lambda: func(*args, **kwargs))
    if out is None:
        return engine.apply_gradient(func, name, args, kwargs)
    engine.uses.add(name, GRADIENT[name], out)
    return out


def _activation(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Activations pass relevance on."""
    return _passed_on(engine, func, name, args, kwargs, args[0] if args else kwargs["input"])


def _extreme(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """The larger of values and a constant is what clamping them gives; of other candidates, the winner takes all."""
    if len(args) == 2 and not kwargs and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
        depending = [tensor for tensor in args if tensor.requires_grad]
        if len(depending) == 1:
            return _passed_on(engine, func, name, args, kwargs, depending[0])
    return engine.apply_gradient(func, name, args, kwargs)


def _passed_on(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any, x: Tensor) -> Any:
    """Runs an operation that passes relevance on: y = f(x) by value, and R_x = R_y, so g_x = g_y · y / x."""
    with torch.no_grad():
        output = func(*args, **kwargs)
    if not isinstance(output, Tensor) or output.shape != x.shape:  # clamped by a tensor that broadcasts it
        return engine.apply_gradient(func, name, args, kwargs)
    if engine.pixels.include(x):
        out = engine.pixels.pass_through(x, output)
    else:
        least = _least_value(name, args, kwargs)
        # where y is 0, any divisor gives 0: one that needs no sign takes half the time
        divisor = x.detach().clamp(min=0).add_(STABILISER) if least == 0 else stabilised(x.detach())
        factor = torch.div(output, divisor, out=divisor)
        is_positive = name in _POSITIVE or (least is not None and least >= 0)
        out = with_factor(x, output, factor, cannot_be_negative=is_positive)
    engine.uses.add(name, "pass", out)
    return out


_POSITIVE = ("sigmoid", "hardsigmoid", "softplus")  # but not 0 where the input is at most 0


def _least_value(name: str, args: Any, kwargs: Any) -> float | None:
    """Returns the number that an activation puts in place of any smaller input; None if it does something else."""
    least = 0 if name == "relu6" else None
    if name in ("clamp", "clip"):
        least = args[1] if len(args) > 1 else kwargs.get("min")
    elif name == "hardtanh":
        least = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
    return least if isinstance(least, int | float) else None


def _max_pool(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Maximum pooling keeps its gradient; it is computed in another layout where that is faster."""
    x = args[0] if args else kwargs["input"]
    with_indices = raw_name(func) != "max_pool2d" or kwargs.get("return_indices") or len(args) > 6
    is_slow = x.ndim == 4 and x.shape[1] > 1 and x.is_contiguous() and x.device.type == "cpu" and x.requires_grad
    return engine.apply_gradient(max_pool2d if is_slow and not with_indices else func, name, args, kwargs)


def _sum(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Sums and differences keep their gradient; in the pixel domain they pass relevance on, or spread it."""
    operands = [tensor for tensor in tensors_in((args, kwargs)) if tensor.requires_grad]
    if not engine.pixels.include(*operands):
        return engine.apply_gradient(func, name, args, kwargs)
    with torch.no_grad():
        output = func(*args, **kwargs)
    full_size = [operand for operand in operands if operand.shape == output.shape]
    # a grey image less the means of three colours is repeated, as by expand
    full_size = full_size or [engine.apply(Tensor.expand, "expand", (one, output.shape)) for one in operands]
    if len(full_size) == 1:  # other operands, such as an image's mean, are held constant
        out = engine.pixels.pass_through(full_size[0], output)
    elif engine.composite.first is not None:
        out = engine.pixels.spread(_sum_of, tuple(full_size), {}, output, full_size)
    else:
        return engine.apply_gradient(func, name, *map_tensors(engine.pixels.leave, (args, kwargs)))
    engine.uses.add(name, "pass" if len(full_size) == 1 else "flat", out)
    return out


def _sum_of(*operands: Tensor) -> Tensor:
    """Adds tensors; relevance is spread evenly over operands, whatever their signs in the original operation."""
    return sum(operands[1:], operands[0])


def _product(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Products: each of n factors that depend on the image gets one n-th of the relevance; constants get nothing."""
    tensors = tensors_in((args, kwargs))
    operands = [tensor for tensor in tensors if tensor.requires_grad]
    if name == "matmul" and raw_name(func) != "__rmatmul__" and len(tensors) == 2 and len(operands) == 1:
        x, weight = tensors
        if operands[0] is x and _is_layer(engine, x, weight):
            return engine.apply_linear("linear", Linear(), x, engine.twins.transpose(weight), None)
    if engine.pixels.include(*operands):
        return _product_of_pixels(engine, func, name, args, kwargs, operands)
    if len(operands) == 1:
        if name == "div" and not (args and args[0] is operands[0]):
            return _hold_constant(engine, func, name, args, kwargs)
        out = func(*args, **kwargs)
        engine.uses.add(name, "proportional", out)
        return out
    if name == "div":  # the divisor is held constant, as in a norm
        out = func(args[0], args[1].detach(), *args[2:], **kwargs)
        engine.uses.add(name, "norm", out)
        return out
    share = 1 / len(operands)
    shared = map_tensors(lambda v: with_factor(v, v, share) if v.requires_grad else v, (args, kwargs))
    out = func(*shared[0], **shared[1])
    engine.uses.add(name, "half", out)
    return out


def _is_layer(engine: "Engine", x: Tensor, weight: Tensor) -> bool:
    """Says whether x @ weight (matmul, mm or addmm) is a linear layer: a product with a matrix of constants.

    Of the pixels, only a product with a parameter or a view of one is: any other matrix mixes colours or weighs pixels.
    Rules are for real numbers in ordinary memory: complex and sparse matrices keep their gradient.
    """
    is_plain = weight.is_floating_point() and weight.layout is torch.strided and x.layout is torch.strided
    if weight.ndim != 2 or x.ndim < 2 or not is_plain:
        return False
    is_weight = engine.twins.is_parameter(weight) or engine.twins.is_view_of_parameter(weight)
    return is_weight or not engine.pixels.include(x)


def _product_of_pixels(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any, operands: list[Tensor]) -> Any:
    """Products in the pixel domain: a scale passes relevance on, a mixture spreads it, others end the domain."""
    with torch.no_grad():
        output = func(*args, **kwargs)
    factors = [tensor for tensor in tensors_in((args, kwargs)) if not tensor.requires_grad]
    if name == "div" and len(operands) > 1:
        operands, func, args, kwargs = [args[0]], torch.div, (args[0], args[1].detach()), {}
    if len(operands) == 1 and operands[0].shape == output.shape and name in ("mul", "div"):
        source = operands[0]
        if name == "mul" and factors:  # pixels hidden by a mask get no relevance
            visible, mask = (factors[0] != 0).to(output), engine.pixels.mask_of(source)
            if any(size > 1 for size in visible.shape[-2:]):  # one number per channel is a scale and hides nothing
                visible = visible.expand_as(output) if mask is None else visible * mask
                mask = visible
            out = engine.pixels.mark(with_factor(source, output, visible), mask)
        else:
            out = engine.pixels.pass_through(source, output)
        engine.uses.add(name, "pass", out)
    elif len(operands) == 1 and engine.composite.first is not None and name != "div":
        out = engine.pixels.spread(func, args, kwargs, output, operands)
        engine.uses.add(name, "flat", out)
        # a product with a parameter is the first layer
        if any(engine.twins.is_parameter(factor) for factor in factors):
            out = engine.pixels.leave(out)
    else:
        out = _product(engine, func, name, *map_tensors(engine.pixels.leave, (args, kwargs)))
    return out


def _hold_constant(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Holds a divisor (1 / x, rsqrt) constant, as in a norm: no relevance goes to it."""
    constants = map_tensors(Tensor.detach, (args, kwargs))
    return func(*constants[0], **constants[1])


def _power(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Powers with a constant exponent n pass relevance on, as products of n equal factors; x⁻ⁿ is a divisor.

    By the gradient alone, x · g_x = x · n xⁿ⁻¹ g_y would be n times the relevance y g_y; hence the factor 1 / n.
    """
    exponent = _DEGREES.get(name, args[1] if len(args) > 1 else kwargs.get("exponent"))
    base = args[0] if args else kwargs["input"]
    if isinstance(exponent, int | float) and exponent < 0:
        return _hold_constant(engine, func, name, args, kwargs)
    if not isinstance(exponent, int | float) or exponent == 0 or engine.pixels.include(base):
        return engine.apply_gradient(func, name, args, kwargs)
    args, kwargs = map_tensors(lambda v: with_factor(v, v, 1 / exponent) if v is base else v, (args, kwargs))
    out = func(*args, **kwargs)
    engine.uses.add(name, "half" if exponent > 1 else "pass", out)
    return out


# the exponent of operations that are powers by another name; a variance is quadratic in its input
_DEGREES = {"square": 2, "sqrt": 0.5, "var": 2}


def _normalize(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Division of a vector by its norm, which is held constant."""
    x = args[0] if args else kwargs["input"]
    with torch.no_grad():
        output = func(*args, **kwargs)
    out = (
        engine.pixels.pass_through(x, output)
        if engine.pixels.include(x)
        else with_factor(x, output, output / stabilised(x))
    )
    engine.uses.add(name, "norm", out)
    return out


def _softmax(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """The softmax keeps its Jacobian (AttnLRP), or is held constant (CP-LRP)."""
    if engine.composite.softmax == "constant":
        return _hold_constant(engine, func, name, args, kwargs)
    return engine.apply_gradient(func, name, args, kwargs)


def _added_product(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Splits a + b @ c in one operation (baddbmm, addbmm, addmm) into a product and a sum."""
    bias, *_ = args
    is_constant = not bias.requires_grad and not args[2].requires_grad
    if name == "addmm" and is_constant and bias.ndim == 1 and not kwargs and _is_layer(engine, args[1], args[2]):
        return engine.apply_linear("linear", Linear(), args[1], engine.twins.transpose(args[2]), bias)
    product = engine.apply(torch.matmul, "matmul", args[1:3])
    if name == "addbmm":
        product = product.sum(0)
    scaled = product if "alpha" not in kwargs else product * kwargs["alpha"]
    summand = args[0] if "beta" not in kwargs else args[0] * kwargs["beta"]
    return engine.apply(torch.add, "add", (summand, scaled))


def _added_elementwise_product(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Splits a + value · b · c in one operation (addcmul, addcdiv) into products and a sum."""
    value = kwargs.get("value", 1)
    if len(args) != 3 or set(kwargs) - {"value"}:
        return engine.apply_gradient(func, name, args, kwargs)
    kind = "mul" if name == "addcmul" else "div"
    product = engine.apply(getattr(torch, kind), kind, args[1:])
    scaled = product if value == 1 else engine.apply(torch.mul, "mul", (product, value))
    return engine.apply(torch.add, "add", (args[0], scaled))


def _interpolated(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Splits a + weight · (b − a) (lerp) into operations, if the weight depends on the image; else it is linear."""
    if len(args) != 3 or kwargs or not (isinstance(args[2], Tensor) and args[2].requires_grad):
        return engine.apply_gradient(func, name, args, kwargs)
    start, end, weight = args
    step = engine.apply(torch.mul, "mul", (engine.apply(torch.sub, "sub", (end, start)), weight))
    return engine.apply(torch.add, "add", (start, step))


def _sampled_at_grid(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Sampling is linear in what is sampled; a grid that depends on the image, too, is held constant [ours].

    Where the grid alone depends on the image, there is no rule.
    """
    source, grid = args[:2]
    if not source.requires_grad:
        return engine.apply_gradient(func, f"{name} at a grid of the image", args, kwargs)
    return engine.apply_gradient(func, name, (source, grid.detach(), *args[2:]), kwargs)


def _gated(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """GLU: one half of the channels times the sigmoid of the other, a product like any other."""
    x = args[0] if args else kwargs["input"]
    axis = args[1] if len(args) > 1 else kwargs.get("dim", -1)
    value, gate = engine.apply(torch.chunk, "chunk", (x, 2, axis))
    return engine.apply(torch.mul, "mul", (value, engine.apply(torch.sigmoid, "sigmoid", (gate,))))


def _aten_convolution(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """The one operation behind all convolutions, which exported networks call."""
    call = read_aten_convolution(args)
    if call.weight.requires_grad or kwargs:
        return engine.apply_gradient(func, name, args, kwargs)
    return engine.apply_linear("convolution", call.operation(), call.x, call.weight, call.bias)


# Products in which a factor without a gradient (a mask, a one-hot choice) counts as a constant. In other operations,
# relevance that goes to such a tensor ends there, and is measured.
CONSTANT_FACTORS = frozenset({"mul", "div", "matmul", "einsum", "scaled_dot_product_attention"})

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    "linear": _linear,
    **dict.fromkeys(("baddbmm", "addbmm", "addmm"), _added_product),
    "batch_norm": batch_norm,
    "convolution": _aten_convolution,
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm", "instance_norm"), norm),
    "relu": _relu,
    **dict.fromkeys(PASSED, _activation),
    **dict.fromkeys(("maximum", "minimum", "max", "min", "fmax", "fmin"), _extreme),
    POOL: _max_pool,
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("add", "sub", "rsub"), _sum),
    **dict.fromkeys(("mul", "div", "matmul", "einsum", "tensordot"), _product),
    **dict.fromkeys(("mv", "dot", "vdot", "inner", "outer", "kron", "linalg_vecdot"), _product),
    **dict.fromkeys(("addcmul", "addcdiv"), _added_elementwise_product),
    "lerp": _interpolated,
    "grid_sample": _sampled_at_grid,
    "glu": _gated,
    **dict.fromkeys(("rsqrt", "reciprocal", "rdiv"), _hold_constant),
    **dict.fromkeys(("pow", "square", "sqrt", "var"), _power),
    "normalize": _normalize,
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention,
}
