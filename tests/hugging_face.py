"""One network of each image classifier of transformers: small configurations with random weights, no downloads."""

from typing import Any

from tests.families import Entry

# Options by which configurations say how large a network is, under whatever of these names a family has.
_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 8,
    "embed_dim": 16,
    "embedding_size": 8,
    "d_latents": 16,
    "num_latents": 8,
}

# What those names do not reach.
_OPTIONS: dict[str, dict[str, Any]] = {
    "bit": {"hidden_sizes": [32, 32, 64, 64], "embedding_size": 32, "num_groups": 4},
    "convnext": {"hidden_sizes": [8, 8, 16, 16]},
    "convnextv2": {"hidden_sizes": [8, 8, 16, 16]},
    "cvt": {"embed_dim": [8, 16, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
    "donut-swin": {"num_heads": [1, 2, 2, 4], "window_size": 4, "patch_size": 2},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    "focalnet": {"hidden_sizes": [16, 32, 64, 128]},
    "hgnet_v2": {
        "embedding_size": 16, "stem_channels": [3, 8, 16], "hidden_sizes": [16, 32, 32, 32],
        "stage_in_channels": [16, 16, 32, 32], "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 32, 32, 32], "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [2, 2, 2, 2],
    },
    "hiera": {"image_size": [64, 64], "num_heads": [1, 2, 4, 8]},
    "imagegpt": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 17},
    "levit": {
        "hidden_sizes": [16, 24, 32], "num_attention_heads": [1, 2, 2], "key_dim": [8, 8, 8], "patch_size": 16,
    },
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 24, 24, 32, 48], "patch_size": 2},
    "mobilevitv2": {"width_multiplier": 0.25, "patch_size": 2},
    "perceiver": {"d_model": 16, "num_self_attends_per_block": 1, "num_cross_attention_heads": 1, "image_size": 32},
    "poolformer": {"hidden_sizes": [8, 16, 16, 24]},
    "pp_lcnet": {"scale": 0.25},
    "pvt": {"hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 4]},
    "pvt_v2": {"hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 4]},
    "regnet": {"hidden_sizes": [16, 16, 32, 32], "groups_width": 8},
    "resnet": {"hidden_sizes": [16, 16, 32, 32]},
    "segformer": {"hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 4]},
    "swiftformer": {"embed_dims": [16, 16, 24, 32]},
    "swin": {"num_heads": [1, 2, 2, 4], "window_size": 4, "patch_size": 2},
    "swinv2": {"num_heads": [1, 2, 2, 4], "window_size": 4},
    "textnet": {"stem_out_channels": 8, "hidden_sizes": [8, 8, 16, 16, 24]},
    "timm_wrapper": {"architecture": "test_resnet"},
}  # fmt: skip

# Classifiers that take something else than images: what a pass on images says is what a user reads.
OTHER_INPUTS = frozenset({"hf:imagegpt", "hf:shieldgemma2", "hf:siglip2"})


def classifiers() -> dict[str, tuple[str, str]]:
    """Returns (model type, class) of all image classifiers of transformers, by what tests call them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as FAMILIES

    named = {}
    for kind, classes in sorted(FAMILIES.items()):
        first, *more = classes if isinstance(classes, tuple) else (classes,)
        named[f"hf:{kind}"] = kind, first
        named |= {f"hf:{name}": (kind, name) for name in more}
    return named


def hugging_face(name: str) -> Entry:
    """Returns what builds an image classifier of transformers, and the shape of its images.

    Raises:
        ImportError: If it asks for a package that is not installed.
    """
    import transformers

    kind, class_name = classifiers()[name]
    usual = transformers.AutoConfig.for_model(kind)
    vision = getattr(usual, "vision_config", None)
    options = {"vision_config": _shrunk("", vision)} if vision is not None else _shrunk(kind, usual)
    config = transformers.AutoConfig.for_model(kind, num_labels=7, **options)
    config.architectures = [class_name]  # as a saved folder has it
    size = getattr(config, "image_size", 64)
    if class_name.startswith("Perceiver") and not class_name.endswith("Learned"):
        size = 224  # its positions are not configured
    size = size if isinstance(size, int) else 64
    return lambda: getattr(transformers, class_name)(config), (3, size, size)


def _shrunk(kind: str, usual: Any) -> dict[str, Any]:
    """Returns the options of a small network of a family, whose usual configuration is given."""
    options = {name: value for name, value in _SMALL.items() if type(getattr(usual, name, None)) is int}
    for name in ("depths", "num_blocks"):
        if isinstance(getattr(usual, name, None), list | tuple):
            options |= {name: [1] * len(getattr(usual, name))}
            options.pop("num_hidden_layers", None)
    return options | _OPTIONS.get(kind, {})
