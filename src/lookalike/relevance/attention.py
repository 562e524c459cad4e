"""Attention, written out, so that its products and its softmax take their rules (AttnLRP)."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lookalike.relevance.dependence import with_tensors
from lookalike.relevance.functions import rescaled
from lookalike.relevance.operations import Linear

if TYPE_CHECKING:
    from lookalike.relevance.engine import Engine

_MULTI_HEAD = """
    query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn dropout_p
    out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask
"""
_UNUSUAL = "bias_k bias_v add_zero_attn key_padding_mask static_k static_v use_separate_proj_weight"


def scaled_dot_product_attention(engine: "Engine", _func: Any, _name: str, args: Any, kwargs: Any) -> Any:
    """Reads the arguments of torch's attention."""
    args, kwargs = with_tensors(engine.leave_pixels, (args, kwargs))
    return attention(engine, *args, **kwargs)


def attention(
    engine: "Engine",
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001 - eval mode
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention, written out: products take halves, the softmax its Jacobian (AttnLRP)."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scores = _halved(engine, query, key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = scores.softmax(-1)
    if engine.composite.softmax == "constant":
        weights = weights.detach()
    if weights.requires_grad:
        engine.note("softmax", "softmax (Jacobian)", weights)
    return _halved(engine, weights, value)


def _halved(engine: "Engine", a: Tensor, b: Tensor) -> Tensor:
    if a.requires_grad and b.requires_grad:
        product: Tensor = rescaled(a, a, 0.5) @ rescaled(b, b, 0.5)
        engine.note("matmul", "half", product)
        return product
    return a @ b


def multi_head_attention(engine: "Engine", func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Projects, attends and joins the heads of ``nn.MultiheadAttention``; unusual kinds go by their gradient."""
    names = _MULTI_HEAD.split()
    given = dict(zip(names, args, strict=False)) | kwargs
    if (
        any(given.get(key) is not None and given.get(key) is not False for key in _UNUSUAL.split())
        or given["query"].ndim != 3
    ):
        return engine.by_gradient(func, name, args, kwargs)
    width, heads = given["embed_dim_to_check"], given["num_heads"]
    weights, biases = given["in_proj_weight"], given["in_proj_bias"]
    engine.names.setdefault(id(weights), "in_proj_weight")
    sources = given["query"], given["key"], given["value"]
    if all(source is sources[0] for source in sources):
        each = engine.execute("linear", Linear(), sources[0], weights, biases).chunk(3, -1)
    else:
        parts = (slice(i * width, (i + 1) * width) for i in range(3))
        each = tuple(
            engine.execute("linear", Linear(), source, weights[rows], None if biases is None else biases[rows])
            for source, rows in zip(sources, parts, strict=True)
        )
    projected = []
    for heads_of in each:
        length, batch, _ = heads_of.shape
        projected.append(heads_of.reshape(length, batch, heads, width // heads).permute(1, 2, 0, 3))
    query, key, value = projected
    attended = attention(engine, query, key, value, given.get("attn_mask"))
    joined = attended.permute(2, 0, 1, 3).flatten(2)
    out = engine.execute("linear", Linear(), joined, given["out_proj_weight"], given["out_proj_bias"])
    return out, None
