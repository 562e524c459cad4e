"""Attention, written out as products and a softmax, so that each has its rule.

    scores = query · keyᵀ       product: half of the relevance to each factor
    weights = softmax(scores)   its Jacobian, or constant (the composite's choice)
    out = weights · value       product: half to each factor

Source: Achtibat et al. 2024 (AttnLRP).
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lookalike.relevance.dependence import map_tensors
from lookalike.relevance.functions import with_factor
from lookalike.relevance.operations import Linear

if TYPE_CHECKING:
    from lookalike.relevance.engine import Engine

_SDPA_ARGUMENTS = "query key value attn_mask dropout_p is_causal"
_ARGUMENTS = """
    query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn dropout_p
    out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask use_separate_proj_weight
    q_proj_weight k_proj_weight v_proj_weight static_k static_v average_attn_weights is_causal
"""
_UNSUPPORTED = "bias_k bias_v add_zero_attn key_padding_mask static_k static_v use_separate_proj_weight"


def scaled_dot_product_attention(engine: "Engine", _func: Any, _name: str, args: Any, kwargs: Any) -> Any:
    """Handles torch's scaled dot-product attention. Dropout is left out: the network is in eval mode."""
    args, kwargs = map_tensors(engine.pixels.leave, (args, kwargs))
    arguments = dict(zip(_SDPA_ARGUMENTS.split(), args, strict=False)) | kwargs
    arguments.pop("dropout_p", None)
    return _attended(engine, **arguments)[0]


def _attended(
    engine: "Engine",
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """Computes scaled dot-product attention from products and a softmax; returns its weights [..., L, S], too."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scores = _product(engine, query, key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = scores.softmax(-1)
    if engine.composite.softmax == "constant":
        weights = weights.detach()
    if weights.requires_grad:
        engine.uses.add("softmax", "softmax (Jacobian)", weights)
    return _product(engine, weights, value), weights


def _product(engine: "Engine", a: Tensor, b: Tensor) -> Tensor:
    """Multiplies matrices; if both depend on the image, each gets half of the relevance."""
    if a.requires_grad and b.requires_grad:
        product: Tensor = with_factor(a, a, 0.5) @ with_factor(b, b, 0.5)
        engine.uses.add("matmul", "half", product)
        return product
    return a @ b


def multi_head_attention(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Handles ``nn.MultiheadAttention``: projections, attention per head, output; unusual options keep the gradient."""
    names = _ARGUMENTS.split()
    arguments = dict(zip(names, args, strict=False)) | kwargs
    if (
        any(arguments.get(key) is not None and arguments.get(key) is not False for key in _UNSUPPORTED.split())
        or arguments["query"].ndim != 3
    ):
        return engine.apply_gradient(func, name, args, kwargs)
    width, n_heads = arguments["embed_dim_to_check"], arguments["num_heads"]
    weights, biases = arguments["in_proj_weight"], arguments["in_proj_bias"]
    engine.twins.names.setdefault(id(weights), "in_proj_weight")
    sources = arguments["query"], arguments["key"], arguments["value"]
    if all(source is sources[0] for source in sources):
        projections = engine.apply_linear("linear", Linear(), sources[0], weights, biases).chunk(3, -1)
    else:
        row_slices = (slice(i * width, (i + 1) * width) for i in range(3))
        projections = tuple(
            engine.apply_linear("linear", Linear(), source, weights[rows], None if biases is None else biases[rows])
            for source, rows in zip(sources, row_slices, strict=True)
        )
    per_head = []
    for projection in projections:
        length, batch, _ = projection.shape
        per_head.append(projection.reshape(length, batch, n_heads, width // n_heads).permute(1, 2, 0, 3))
    query, key, value = per_head
    mask = arguments.get("attn_mask")
    if mask is not None and mask.dtype == torch.bool:
        mask = ~mask  # True hides here, and shows in scaled_dot_product_attention
    if mask is not None and mask.ndim == 3:  # [n · heads, L, S]
        mask = mask.view(-1, n_heads, *mask.shape[1:])
    attended, attention_weights = _attended(engine, query, key, value, mask)
    joined = attended.permute(2, 0, 1, 3).flatten(2)
    out = engine.apply_linear("linear", Linear(), joined, arguments["out_proj_weight"], arguments["out_proj_bias"])
    if not arguments.get("need_weights", True):
        return out, None
    return out, attention_weights.mean(1) if arguments.get("average_attn_weights", True) else attention_weights
