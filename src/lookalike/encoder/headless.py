"""Loads encoders that come without a head: base models of Hugging Face and the image encoders of open_clip."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from lookalike._core.errors import LookalikeError, listing, warn_of
from lookalike._core.untouched import with_log_level
from lookalike.data import Preprocessing
from lookalike.data.foreign import check_equal, preprocessing_from
from lookalike.encoder.building import building, downloading, import_extra
from lookalike.encoder.filling import LoadedNetwork, UserWeights, check_finite_weights, load_network

_LOGGERS = ("transformers.modeling_utils",)
_BASE = re.compile(r"[A-Za-z0-9]+Model(WithProjection)?")
_RESIZING = {"shortest": "cover", "longest": "contain", "squash": "stretch"}  # of open_clip, and ours


def base_architecture(transformers: Any, config: Any) -> str | None:
    """Returns the class that encodes images, for a checkpoint without a head; None for a classifier's.

    Of models that compare images with texts, it is the image encoder, with its projection if it has one.

    Args:
        transformers: The library.
        config: The checkpoint's configuration, which names the class that it was saved from.
    """
    names = [str(name) for name in getattr(config, "architectures", None) or ()]
    base = next((name for name in names if _BASE.fullmatch(name)), None)
    if base is None or any("Classification" in name for name in names):
        return None
    if getattr(config, "vision_config", None) is not None:
        stem = base.removesuffix("Model")
        towers = (f"{stem}VisionModelWithProjection", f"{stem}VisionModel")
        return next((name for name in towers if hasattr(transformers, name)), None)
    return base if hasattr(transformers, base) else None


def load_base(name: str, architecture: str, config: Any, args: Mapping[str, Any]) -> LoadedNetwork:
    """Loads a Hugging Face encoder with its published weights.

    Args:
        name: A name on the hub, or a local folder.
        architecture: Its class, from ``base_architecture``.
        config: The checkpoint's configuration.
        args: Entries of it to change.

    Raises:
        LookalikeError: If weights are missing that the embedding depends on.

    Warns:
        LookalikeWarning: If the checkpoint has no trained pooling layer; the embedding is then another one.
    """
    base: Any = _base_class(architecture)
    config = _config_of_images(config)
    for entry, value in args.items():
        setattr(config, entry, value)

    def load(**extra: Any) -> tuple[Any, list[str]]:
        options = {"trust_remote_code": False, "output_loading_info": True, "config": config, **extra}
        # the library would report the text encoder's weights as unexpected, one a line
        model, info = with_log_level(logging.ERROR, _LOGGERS, lambda: base.from_pretrained(name, **options))
        return model, [key for key in info["missing_keys"] if key in model.state_dict()]

    extra: dict[str, Any] = {}
    model, missing = load()
    if missing and all("pooler." in key for key in missing):
        extra["add_pooling_layer"] = False
        model, missing = load(**extra)
        warn_of(f"hf:{name} has no trained pooling layer, so the embedding is taken from its tokens")
    if missing:
        raise LookalikeError(
            f"the weights of hf:{name} do not fit the {architecture}: missing: {listing(sorted(missing), 6)}; they "
            "would be random numbers"
        )
    if getattr(model.config, "model_type", "") == "vit_mae":
        model.config.mask_ratio = 0.0  # it would hide a random part of each image
    check_finite_weights(model, f"the weights of hf:{name}")
    return LoadedNetwork(model, {"architecture": architecture, **extra})


def build_base(config: Any, args: Mapping[str, Any]) -> nn.Module:
    """Builds a Hugging Face encoder with random weights.

    Args:
        config: Its configuration.
        args: ``architecture``, the name of its class, and arguments of the class.

    Raises:
        LookalikeError: If the name is not that of a base model.
    """
    options = {key: value for key, value in args.items() if key != "architecture"}
    model: nn.Module = _base_class(str(args["architecture"]))._from_config(config, **options)
    return model


def load_open_clip(
    name: str, args: dict[str, Any], user_weights: UserWeights | None
) -> tuple[LoadedNetwork, Preprocessing]:
    """Loads the image encoder of an open_clip model, and its preprocessing.

    Args:
        name: ``NAME/TAG`` for published weights, such as ``ViT-B-32/laion2b_s34b_b79k``; ``NAME`` with a checkpoint.
        args: Must be empty: the model's configuration decides.
        user_weights: A checkpoint of the whole model or of its image encoder.

    Raises:
        LookalikeError: If there is no such model, no weights were named, or they need another activation.
    """
    open_clip = import_extra("open_clip", "open-clip-torch")
    if args:
        raise LookalikeError(f"open_clip:{name} takes no arguments; leave out {', '.join(args)}")
    name, _, tag = name.partition("/")
    if user_weights is not None:
        network = load_network(lambda _: build_open_clip(name), {}, _of_image_encoder(user_weights), None)
    else:
        tags = open_clip.list_pretrained_tags_by_model(name)
        if tag not in tags:
            published = f"its published weights are {', '.join(tags)}" if tags else "it has no published weights"
            raise LookalikeError(
                f"open_clip:{name} needs weights: {published}: open_clip:{name}/TAG, or --weights FILE"
            )
        check_activation(
            f"{name}/{tag}",
            open_clip.get_pretrained_cfg(name, tag),
            open_clip.get_model_config,
            open_clip.list_models(),
        )
        with downloading(f"open_clip:{name}/{tag}"):
            network = LoadedNetwork(open_clip.create_model(name, pretrained=tag).visual, {})
    return network, _open_clip_preprocessing(open_clip, network.model)


def check_activation(
    name: str,
    weights: Mapping[str, Any],
    config_of: Callable[[str], Mapping[str, Any] | None],
    models: Sequence[str],
) -> None:
    """Refuses weights that were trained with another activation than the model has; open_clip only logs it.

    Weights that do not say their activation are taken as fitting: open_clip lists them for their own model alone.

    Args:
        name: ``NAME/TAG`` of the model and the weights.
        weights: open_clip's entry for the weights.
        config_of: Returns the configuration of a model by name.
        models: Names of all models.

    Raises:
        LookalikeError: If the weights need QuickGELU and the model has GELU, or the reverse.
    """
    model, _, tag = name.partition("/")
    needed = weights.get("quick_gelu")
    has = bool((config_of(model) or {}).get("quick_gelu", False))
    if needed is None or bool(needed) == has:
        return
    right_name = f"{model}-quickgelu" if needed else model.removesuffix("-quickgelu")
    way_out = (
        f"use open_clip:{right_name}/{tag}" if right_name != model and right_name in models else "choose other weights"
    )
    kinds = {True: "QuickGELU", False: "GELU"}
    raise LookalikeError(
        f"the weights of open_clip:{name} were trained with {kinds[bool(needed)]}, and the model {model} has "
        f"{kinds[has]}: its embeddings would be wrong; {way_out}"
    )


def build_open_clip(name: str) -> nn.Module:
    """Builds the image encoder of an open_clip model with random weights; nothing is downloaded.

    Raises:
        LookalikeError: If open_clip has no model of this name.
    """
    open_clip = import_extra("open_clip", "open-clip-torch")
    config = open_clip.get_model_config(name)
    if config is None:
        raise LookalikeError(f"open_clip has no model {name!r}; open_clip.list_models() lists them")
    from open_clip.model import _build_vision_tower

    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    with building(f"open_clip:{name}", {}):
        tower: nn.Module = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
    return tower


def _config_of_images(config: Any) -> Any:
    """Returns the configuration of the image encoder; CLIP's says the size of its projection one level above."""
    images = getattr(config, "vision_config", None)
    if images is None:
        return config
    if getattr(config, "projection_dim", None) is not None and hasattr(images, "projection_dim"):
        images.projection_dim = config.projection_dim
    return images


def _base_class(name: str) -> Any:
    transformers = import_extra("transformers")
    network_class = getattr(transformers, name, None) if _BASE.fullmatch(name) else None
    if not (isinstance(network_class, type) and issubclass(network_class, transformers.PreTrainedModel)):
        raise LookalikeError(f"transformers has no base model {name!r}")
    return network_class


def _of_image_encoder(weights: UserWeights) -> UserWeights:
    """Keeps the image encoder's weights of a checkpoint of the whole model, if it is one."""
    from dataclasses import replace

    sets = {
        key: {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
        for key, tensors in weights.checkpoint.weights.items()
    }
    if not any(sets.values()):
        return weights
    sets = {key: tensors for key, tensors in sets.items() if tensors}
    return replace(weights, checkpoint=replace(weights.checkpoint, weights=sets))


def _open_clip_preprocessing(open_clip: Any, model: nn.Module) -> Preprocessing:
    """Reads an image encoder's preprocessing, and checks it against open_clip's own transform, to the pixel."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    settings = PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
    size = (settings.size * 2)[:2] if isinstance(settings.size, tuple | list) else (settings.size, settings.size)
    square = settings.resize_mode == "shortest" and size[0] == size[1]
    preprocessing = preprocessing_from(
        resize=size[0] if square else tuple(size),
        crop=tuple(size),
        mean=tuple(settings.mean),
        std=tuple(settings.std),
        interpolation=settings.interpolation,
        fit="stretch" if square else _RESIZING.get(settings.resize_mode, "stretch"),
        fill=(settings.fill_color,),
    )
    check_equal(preprocessing, image_transform_v2(settings, is_train=False), "open_clip's transform")
    return preprocessing
