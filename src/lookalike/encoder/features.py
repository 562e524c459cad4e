"""Networks without a head: what their embedding is, by the convention of the library that they come from.

image_embeds, image_features   the embedding that CLIP compares with texts
pooler_output                  the model's own pooling: class token, attention, or mean over positions
last_hidden_state              tokens: the class token if there is one, else the mean of all; a feature map: its mean
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike.encoder.outputs import named_outputs

_LAST = "last_hidden_state"
_CONVENTIONS = {
    "image_embeds": "its projected image embedding, 'image_embeds'",
    "image_features": "its projected image embedding, 'image_features'",
    "pooler_output": "its own pooled output, 'pooler_output'",
    _LAST: f"its '{_LAST}'",
}
# Outputs that encoders return beside these. A network with any other output may be a classifier.
_BESIDE = frozenset(
    {"hidden_states", "attentions", "text_features", "text_embeds", "logit_scale", "logit_bias", "mask", "ids_restore"}
)
_CLASS_TOKENS = frozenset({"cls_token", "class_token", "class_embedding"})


@dataclass(frozen=True)
class Tokens:
    """Which tokens of a sequence [N, T, D] make the embedding.

    Attributes:
        use: The ``"class"`` token, which is the first, or the mean of the ``"patches"`` after it.
    """

    use: Literal["class", "patches"]

    def pool(self, tokens: Tensor) -> Tensor:
        """Returns the embedding [N, D] of a sequence of tokens [N, T, D]."""
        return tokens[:, 0] if self.use == "class" else tokens[:, 1:].mean(1)

    def describe(self) -> str:
        """Returns which tokens these are, in words."""
        return "the class token of" if self.use == "class" else "the mean of all patches, without the class token, of"


def embedding_key(result: Any) -> str | None:
    """Returns the key of the output that is an encoder's embedding by convention; None if it follows none.

    Args:
        result: What the network returned.
    """
    if isinstance(result, Tensor):
        return None
    keys = {str(key).split(".")[0] for key, _ in named_outputs(result)}
    keys |= {str(key) for key in result} if isinstance(result, Mapping) else set()
    if not keys <= _CONVENTIONS.keys() | _BESIDE:
        return None
    outputs = dict(named_outputs(result))
    return next((key for key in _CONVENTIONS if isinstance(outputs.get(key), Tensor)), None)


def output_key_of(result: Any) -> str | int | None:
    """Returns the key of the embedding among an encoder's outputs: by convention, or the only one; else None."""
    keys = [key for key, _ in named_outputs(result)]
    return embedding_key(result) or (keys[0] if len(keys) == 1 else None)


def tokens_of(model: nn.Module, key: str | int | None, features: Tensor) -> Tokens | None:
    """Returns which tokens of an encoder's output make its embedding; None if all, or if it is no sequence of tokens.

    Args:
        model: The encoder.
        key: The output that is its embedding.
        features: That output.
    """
    if key != _LAST or features.ndim != 3 or not has_class_token(model):
        return None
    averages = bool(getattr(getattr(model, "config", None), "use_mean_pooling", False))
    return Tokens("patches" if averages else "class")


def has_class_token(model: nn.Module) -> bool:
    """Says whether a network puts a class token before its patches, by the names of its parameters."""
    return any(name.rpartition(".")[2] in _CLASS_TOKENS for name, _ in model.named_parameters())


def describe_embedding(key: str | int | None, tokens: Tokens | None, features: Tensor) -> str:
    """Says in words what the embedding of a network without a head is.

    Args:
        key: The output that it is.
        tokens: Which of its tokens.
        features: That output.
    """
    output = _CONVENTIONS.get(str(key), "its output" if key is None else f"its output {key!r}")
    if tokens is not None:
        return f"{tokens.describe()} {output}"
    positions = features.shape[2:].numel() if features.ndim == 4 else features.shape[1] if features.ndim == 3 else 1
    return f"the mean over {positions} positions of {output}" if positions > 1 else output


def is_image_tower(model: nn.Module) -> bool:
    """Says whether a network is the image encoder of an open_clip model, which ends in a projection and not a head."""
    name = type(model).__name__
    return type(model).__module__.startswith("open_clip.") and name != "CoCa" and not hasattr(model, "visual")


def check_encodes_images(model: nn.Module) -> None:
    """Checks that a network encodes an image alone, and the same image always in the same way.

    Raises:
        LookalikeError: If it also wants a text, or hides a random part of the image.
    """
    for attribute in ("visual", "vision_model"):
        if hasattr(model, attribute) and any(hasattr(model, text) for text in ("text_model", "text", "encode_text")):
            raise LookalikeError(
                f"the {type(model).__name__} compares images with texts: give its image encoder, model.{attribute}"
            )
    config = getattr(model, "config", None)
    hidden = getattr(config, "mask_ratio", 0)
    if isinstance(hidden, float) and hidden > 0 and getattr(config, "model_type", "") == "vit_mae":
        raise LookalikeError(
            f"the {type(model).__name__} hides a random {hidden:.0%} of each image: set model.config.mask_ratio = 0"
        )
