"""Names and groups of torch operations, and operations in place."""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NO_RULE = "gradient (no rule)"
UNSEEN = "none (not seen)"
LEFT = "none (left torch)"
WITHOUT_RULE = frozenset({NO_RULE, UNSEEN, LEFT})

# Operations whose gradient is their relevance rule: they are homogeneous of degree one, or select or move values.
_BY_GRADIENT = {
    "proportional": """
        add sub sum mean norm linalg_norm linalg_vector_norm vector_norm frobenius_norm std nanmean cumsum avg_pool1d
        avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        interpolate upsample upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d
        upsample_linear1d
        upsample_bicubic2d upsample_trilinear3d grid_sample lerp rsub fold col2im
    """,
    "pass": "abs relu leaky_relu threshold prelu rrelu",
    "winner takes all": """
        max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max amax min amin
        maximum minimum topk sort median nanmedian kthvalue mode cummax fmax fmin
    """,
    "softmax (Jacobian)": "softmax log_softmax",
}
# Functions that run the linear operations whose results the plain pass takes from the engine's.
POOL = "max_pool2d"  # takes as long as a convolution; its result is taken likewise
LARGEST = frozenset(  # operations that select a largest value, which counts as a pixel if one of its candidates is
    [
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "amax",
        "maximum",
    ]
)
LINEAR = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "convolution",
        "linear",
        "matmul",
        "mm",
        "addmm",
        "multi_head_attention_forward",
    ]
)
GRADIENT = {name: rule for rule, names in _BY_GRADIENT.items() for name in names.split()}
STRUCTURAL = frozenset(
    [
        "reshape",
        "view",
        "view_as",
        "reshape_as",
        "flatten",
        "unflatten",
        "ravel",
        "permute",
        "transpose",
        "t",
        "swapaxes",
        "movedim",
        "moveaxis",
        "squeeze",
        "unsqueeze",
        "expand",
        "expand_as",
        "repeat",
        "repeat_interleave",
        "tile",
        "contiguous",
        "clone",
        "detach",
        "to",
        "float",
        "double",
        "half",
        "bfloat16",
        "type",
        "type_as",
        "cpu",
        "cuda",
        "cat",
        "concat",
        "concatenate",
        "stack",
        "hstack",
        "vstack",
        "split",
        "chunk",
        "unbind",
        "tensor_split",
        "getitem",
        "select",
        "narrow",
        "index_select",
        "gather",
        "take",
        "masked_fill",
        "where",
        "pad",
        "constant_pad_nd",
        "flip",
        "roll",
        "rot90",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "unfold",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "feature_dropout",
        "identity",
        "neg",
        "neg_",
        "positive",
        "copy",
        "as_strided",
        "split_with_sizes",
        "broadcast_to",
        "atleast_1d",
        "atleast_2d",
        "atleast_3d",
        "diagonal",
        "unsafe_view",
        "slice",
        "alias",
        "data",
        "T",
        "mT",
        "H",
        "mH",
        "adjoint",
        "matrix_transpose",
        "real",
        "swapdims",
        "column_stack",
        "dstack",
        "block_diag",
        "hsplit",
        "vsplit",
        "dsplit",
        "unsafe_chunk",
        "unsafe_split",
        "take_along_dim",
        "masked_select",
        "masked_scatter",
        "scatter",
        "slice_scatter",
        "select_scatter",
        "as_strided_scatter",
        "index_put",
        "index_copy",
        "index_fill",
        "setitem",
        "zero",
        "fill",
        "im2col",
        "reflection_pad2d",
        "replication_pad2d",
        "native_channel_shuffle",
        "meshgrid",
        "nan_to_num",
        "tril",
        "triu",
        "diag",
        "diag_embed",
        "rename",
        "align_to",
        "refine_names",
        "iter",
        "to_dense",
        "pin_memory",
        "lift_fresh",
        "native_dropout",
        "feature_alpha_dropout",
        "to_copy",
    ]
)
# Operations whose other arguments give a form only: a constant in an image's form is a constant.
VALUES_OF_FIRST = frozenset(["expand_as", "view_as", "reshape_as", "type_as", "to"])
# Operations whose results depend only on the shape, type or device of their argument.
SHAPE_ONLY = frozenset(
    [
        "zeros_like",
        "ones_like",
        "empty_like",
        "full_like",
        "rand_like",
        "randn_like",
        "randint_like",
        "new_zeros",
        "new_ones",
        "new_empty",
        "new_full",
        "new_tensor",
        "new_empty_strided",
        "new",
        "rand",
        "randn",
        "bernoulli",
        "size",
    ]
)

# Functions of each value by itself; on pixels, they pass relevance on.
ELEMENTWISE = frozenset(
    [
        "pow",
        "square",
        "sqrt",
        "exp",
        "log",
        "log2",
        "log10",
        "log1p",
        "expm1",
        "abs",
        "round",
        "floor",
        "ceil",
        "clamp_min",
        "clamp_max",
        "relu",
        "leaky_relu",
        "threshold",
        "prelu",
        "float_power",
        "nan_to_num",
    ]
)

# Operations in place that change how a tensor reads its memory, but not the memory.
RESHAPES_IN_PLACE = frozenset(
    ["t_", "transpose_", "squeeze_", "unsqueeze_", "swapaxes_", "swapdims_", "as_strided_", "detach_", "rename_"]
)

# Questions about a tensor's form, which neither need nor give values.
DESCRIBES = frozenset(
    [
        "dim", "ndim", "size", "shape", "numel", "nelement", "ndimension", "dtype", "device", "layout",
        "is_floating_point", "is_complex", "element_size", "get_device", "is_cuda", "is_sparse", "is_quantized",
        "is_meta",
    ]
)  # fmt: skip

# Calls about gradients and pictures of a tensor, which the network may make and which change no value.
PASSIVE = frozenset(
    ["requires_grad_", "retain_grad", "register_hook", "backward", "__repr__", "__hash__", "__format__"]
)

# Operations by which values leave torch, as numbers or as arrays, and by which they come back.
LEAVES_AS_VALUE = frozenset(["__float__", "__complex__", "item"])
LEAVES_AS_STEP = frozenset(["__bool__", "__int__", "__index__", "__len__", "__contains__"])  # changes in jumps
LEAVES_AS_ARRAY = frozenset(["numpy", "__array__", "tolist", "__dlpack__"])
LEAVES_AS_MEMORY = frozenset(["data_ptr", "untyped_storage", "storage"])
COMES_FROM_OUTSIDE = frozenset(
    ["tensor", "as_tensor", "asarray", "from_dlpack", "frombuffer", "from_numpy", "scalar_tensor"]
)

# Activations whose rule is to pass relevance on, and whose gradient is another.
PASSED = frozenset(
    [
        "gelu",
        "silu",
        "mish",
        "elu",
        "selu",
        "celu",
        "relu6",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
        "logit",
        "tanh",
        "softplus",
        "softsign",
        "logsigmoid",
        "clamp",
        "clip",
        "tanhshrink",
        "hardshrink",
        "softshrink",
    ]
)

_ALIASES = {
    "add": "iadd radd",
    "sub": "isub subtract",
    "rsub": "rsubtract",
    "mul": "imul rmul multiply",
    "div": "itruediv truediv true_divide divide",
    "rdiv": "rtruediv",
    "pow": "ipow",
    "matmul": "mm bmm rmatmul imatmul linalg_matmul",
    "max": "max_dim",
    "min": "min_dim",
    "convolution": "conv_default",
    "softmax": "softmax_default safe_softmax",
    "hardswish": "hard_swish",
}
_PLAIN_NAMES = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}


@functools.lru_cache(maxsize=4096)
def name_of(func: Any) -> str:
    """Returns an operation's plain name: ``add`` for ``__iadd__``, ``add_``, ``aten.add.Tensor`` and ``add``."""
    if isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        namespace, _, name = str(func).partition(".")
        if namespace != "aten":
            return f"{namespace}.{name.removesuffix('.default')}"
        name = name.partition(".")[0]
    else:
        name = raw_name(func)
    name = name.strip("_")
    name = name.removesuffix("_with_indices")
    return _PLAIN_NAMES.get(name, name)


@functools.lru_cache(maxsize=4096)
def raw_name(func: Any) -> str:
    """Returns torch's name of a function, or the attribute's name for the access to an attribute."""
    name: str = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__", "__delete__"):
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return name.partition(".")[0]


# Operations whose handlers tell their tensors by position; torch takes these by name, too.
_TENSORS_BY_NAME = {
    "addmm": ("input", "mat1", "mat2"),
    **dict.fromkeys(("baddbmm", "addbmm"), ("input", "batch1", "batch2")),
    **dict.fromkeys(("addcmul", "addcdiv"), ("input", "tensor1", "tensor2")),
    **dict.fromkeys(("mm", "bmm"), ("input", "mat2")),
    **dict.fromkeys(
        ("add", "sub", "rsub", "subtract", "mul", "multiply", "div", "divide", "true_divide", "matmul", "inner"),
        ("input", "other"),
    ),
    "linalg_matmul": ("input", "other"),
    "lerp": ("input", "end", "weight"),
    "grid_sample": ("input", "grid"),
}


def by_position(raw: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Returns the arguments of an operation with those tensors by position that were given by name.

    Example:
        >>> by_position("addmm", (1,), {"mat2": 3, "mat1": 2, "alpha": 4})
        ((1, 2, 3), {'alpha': 4})
    """
    names = _TENSORS_BY_NAME.get(raw.strip("_")) if kwargs else None
    if not names:
        return args, kwargs
    positional, rest = list(args), dict(kwargs)
    for name in names[len(positional) :]:
        if name not in rest:
            break
        positional.append(rest.pop(name))
    return tuple(positional), rest


class TorchFunction(NamedTuple):
    """What the engine must know of a torch function before it runs it; looked up once per function.

    Attributes:
        raw: Torch's name of it, or the attribute's name.
        name: Its plain name.
        describes: Whether it is a question about a tensor's form.
        is_attribute: Whether it reads or sets an attribute of a tensor.
        is_passive: Whether it changes and gives no values.
        leaves_torch: Whether values leave torch by it.
        comes_from_outside: Whether it makes tensors of values from outside torch.
        reshapes_in_place: Whether it changes how a tensor reads its memory.
        changes_in_place: Whether it changes its first argument.
    """

    raw: str
    name: str
    describes: bool
    is_attribute: bool
    is_passive: bool
    leaves_torch: bool
    comes_from_outside: bool
    reshapes_in_place: bool
    changes_in_place: bool


@functools.lru_cache(maxsize=4096)
def known_function(func: Any) -> TorchFunction:
    """Returns what is known of a torch function."""
    raw = raw_name(func)
    return TorchFunction(
        raw,
        name_of(func),
        describes=raw in DESCRIBES,
        is_attribute=getattr(func, "__name__", "") in ("__get__", "__set__", "__delete__"),
        is_passive=raw in PASSIVE,
        leaves_torch=raw in LEAVES_AS_VALUE | LEAVES_AS_STEP | LEAVES_AS_ARRAY | LEAVES_AS_MEMORY,
        comes_from_outside=raw in COMES_FROM_OUTSIDE,
        reshapes_in_place=raw in RESHAPES_IN_PLACE,
        changes_in_place=raw in _IN_PLACE_OPERATORS
        or (raw.endswith("_") and not raw.endswith("__") and raw not in PASSIVE and raw != "retains_grad_"),
    )


_IN_PLACE_OPERATORS = frozenset(
    [
        "__iadd__", "__isub__", "__imul__", "__itruediv__", "__setitem__", "__imatmul__", "__ipow__", "__iand__",
        "__ior__", "__ixor__", "__ifloordiv__", "__imod__", "__ilshift__", "__irshift__",
    ]
)  # fmt: skip


@functools.lru_cache(maxsize=1024)
def out_of_place(func: Any) -> Any:
    """Returns an operation with the same result that does not change its argument."""
    raw, name = raw_name(func), name_of(func)
    if not isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket) and raw not in ("copy_", "fill_"):
        for namespace in (Tensor, torch, F):
            if hasattr(namespace, name) and callable(getattr(namespace, name)) and name not in ("copy", "set", "zero"):
                return getattr(namespace, name)

    def on_a_copy(target: Tensor, *args: Any, **options: Any) -> Tensor:
        changed = target.clone()
        func(changed, *args, **options)
        return changed

    return on_a_copy


class Contents(NamedTuple):
    """What a network consists of.

    Attributes:
        tensors: Parameters and buffers, each with its first name.
        has_scripts: Whether some of its modules are TorchScript.
    """

    tensors: list[tuple[str, Tensor]]
    has_scripts: bool


def contents_of(model: nn.Module) -> Contents:
    """Lists what a network consists of; in a third of the time of torch's own methods."""
    named: dict[int, tuple[str, Tensor]] = {}
    visited_ids: set[int] = set()
    has_scripts = False
    remaining: list[tuple[nn.Module, str]] = [(model, "")]  # a function that called itself would be left as garbage
    while remaining:
        module, prefix = remaining.pop()
        if id(module) in visited_ids:
            continue
        visited_ids.add(id(module))
        has_scripts = has_scripts or isinstance(module, torch.jit.ScriptModule)
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    named.setdefault(id(tensor), (prefix + name, tensor))
        for name, child in reversed(module._modules.items()):
            if child is not None:
                remaining.append((child, f"{prefix}{name}."))
    return Contents(list(named.values()), has_scripts)
