"""Preprocessing read off Transformers' image processors, exactly or not at all."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lookalike.data.foreign import (
    IN_PYTHON,
    NotUnderstoodError,
    check_equal,
    differs_at_most,
    from_timm,
    made_of,
    probes,
)
from lookalike.data.preprocessing import Preprocessing

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's codes
_READ = frozenset(
    {
        "do_resize",
        "size",
        "resample",
        "do_center_crop",
        "crop_size",
        "crop_pct",
        "do_rescale",
        "rescale_factor",
        "rescale_offset",
        "do_normalize",
        "image_mean",
        "image_std",
        "do_convert_rgb",
        "do_pad",
        "pad_size",
        "include_top",
        "do_flip_channel_order",
        "image_processor_type",
    }
)
_WITHOUT_EFFECT = frozenset(
    {
        "auto_map",
        "backend",
        "data_format",
        "default_to_square",
        "device",
        "disable_grouping",
        "do_reduce_labels",
        "feature_extractor_type",
        "image_seq_length",
        "input_data_format",
        "model_input_names",
        "num_channels",
        "processor_class",
        "reduce_labels",
        "return_tensors",
        "use_fast",
        "valid_kwargs",
    }
)
_OTHER_OUTPUTS = {  # what these make is no image
    "ImageGPTImageProcessor": "colour clusters",
    "Siglip2ImageProcessor": "patches",
}
_CONVNEXT_STRETCHES_FROM = 384  # pixels; below, ConvNeXT's processor crops


def from_hf(config: Mapping[str, Any], *, backend: str = "pil") -> Preprocessing:
    """Reads what an image processor's ``to_dict`` returns.

    Args:
        config: Complete: a ``preprocessor_config.json`` leaves out what its class adds, ``to_dict`` does not.
        backend: What the processor resizes with: ``"torchvision"`` (the fast ones) or ``"pil"``.

    Raises:
        NotUnderstoodError: If a setting is not understood; it is named.
    """
    kind = str(config.get("image_processor_type", "")).removesuffix("Fast").removesuffix("Pil")
    if kind in _OTHER_OUTPUTS:
        raise NotUnderstoodError(
            f"image_processor_type={kind!r} makes {_OTHER_OUTPUTS[kind]} of an image",
            IN_PYTHON,
        )
    if "data_config" in config:  # timm's wrapper
        return from_timm(config["data_config"])
    unknown = [key for key in config if key.lstrip("_") not in _READ | _WITHOUT_EFFECT and _matters(config[key])]
    if unknown:
        raise NotUnderstoodError(f"{unknown[0]}={reprlib.repr(config[unknown[0]])} is not understood")
    mean, std = _affine(config)
    geometry = _perceiver(config) if kind.startswith("Perceiver") else _geometry(config, kind)
    pillow = {"pil": "transformers-pillow", "torchvision": "transformers"}
    if backend not in pillow:
        raise NotUnderstoodError(f"backend={backend!r} is neither 'pil' nor 'torchvision'")
    convention = "transformers-float" if kind.startswith("DINOv3") else pillow[backend]
    return made_of(
        mean=mean,
        std=std,
        interpolation=_interpolation(config, convention),
        convention=convention,
        channel_order="bgr" if config.get("do_flip_channel_order") else "rgb",
        transparency="white" if config.get("do_convert_rgb") else "dropped",
        **geometry,
        pad=_pad(config, geometry),
    )


def read_processor(processor: Any) -> Preprocessing:
    """Reads an image processor of the installed Transformers, and compares it with what that makes of some images.

    Raises:
        NotUnderstoodError: If a setting is not understood or an image comes out otherwise.
    """
    name = type(processor).__name__
    fast = getattr(processor, "backend", None) or ("torchvision" if name.endswith("Fast") else "pil")
    try:
        preprocessing = from_hf({"image_processor_type": name} | processor.to_dict(), backend=fast)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, NotUnderstoodError):
            raise
        raise NotUnderstoodError(f"image_processor_type={name!r} has settings that cannot be read: {error}") from error

    def prepare(image: Image.Image) -> Tensor:
        values = processor(image, return_tensors="pt")["pixel_values"][0]
        return torch.as_tensor(values).float()

    if preprocessing.transparency == "white" and not _lays_on_white(preprocessing, prepare):
        preprocessing = replace(preprocessing, transparency="dropped")  # Transformers before 5
    check_equal(preprocessing, prepare, f"image_processor_type={name!r}")
    return preprocessing


def _lays_on_white(preprocessing: Preprocessing, prepare: Any) -> bool:
    clear = probes(preprocessing.channels)[0].convert("RGBA")
    clear.putalpha(100)
    return differs_at_most(preprocessing(clear), prepare(clear), 1e-6)


def _matters(value: Any) -> bool:
    return value is not None and value is not False and value != {} and value != []


def _geometry(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Reads ``resize``, ``fit`` and ``crop``."""
    crop = _size(config, "crop_size") if config.get("do_center_crop") else None
    if isinstance(crop, int):
        raise NotUnderstoodError(f"crop_size={config['crop_size']!r} is not understood")
    if not config.get("do_resize", True):
        return {"resize": None, "crop": crop}
    resize = _size(config, "size")
    share = config.get("crop_pct")
    if kind.startswith("ConvNext"):
        if not isinstance(resize, int) or crop is not None:
            raise NotUnderstoodError(f"size={config.get('size')!r} with crop_size={crop} is not understood")
        if resize >= _CONVNEXT_STRETCHES_FROM:
            return {"resize": (resize, resize), "crop": None}
        return {"resize": int(resize / (share or 224 / 256)), "crop": (resize, resize)}
    if kind.startswith("PoolFormer") and share:
        if isinstance(resize, tuple) and resize[0] != resize[1]:
            return {"resize": (int(resize[0] / share), int(resize[1] / share)), "crop": crop}
        return {"resize": int((resize if isinstance(resize, int) else resize[0]) / share), "crop": crop}
    if share:
        raise NotUnderstoodError(f"crop_pct={share!r} of a {kind or 'processor of unknown type'} is not understood")
    if kind.startswith("Levit") and isinstance(resize, int):
        resize = int((256 / 224) * resize)
    return {"resize": resize, "crop": crop}


def _perceiver(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a Perceiver's: a crop to shares of the shorter side, then a stretch."""
    size = _size(config, "size")
    crop = _size(config, "crop_size") if config.get("do_center_crop", True) else None
    if isinstance(size, int) or isinstance(crop, int):
        raise NotUnderstoodError(f"size={config.get('size')!r} is not understood")
    window = (size[0] / crop[0], size[1] / crop[1]) if crop else None
    return {"resize": size if config.get("do_resize", True) else None, "crop": None, "window": window}


def _size(config: Mapping[str, Any], key: str) -> Any:
    """Reads a size: an int for the shorter side, or (height, width)."""
    given = config.get(key)
    sides = {} if given is None or isinstance(given, int) else dict(given)
    known = {name: value for name, value in sides.items() if value is not None}
    if set(known) == {"shortest_edge"}:
        return int(known["shortest_edge"])
    if set(known) == {"height", "width"}:
        return int(known["height"]), int(known["width"])
    raise NotUnderstoodError(f"{key}={given!r} is not understood")


def _affine(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Folds rescaling and normalisation into a mean and deviation of pixels in [0, 1]."""
    scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    scale = 1.0 if abs(scale * 255 - 1) < 1e-12 else scale * 255  # of pixels in [0, 1]
    offset = 1.0 if config.get("rescale_offset") and config.get("do_rescale", True) else 0.0
    mean, std = (_per_channel(config.get(key)) for key in ("image_mean", "image_std"))
    normalised = bool(config.get("do_normalize", True)) and "MobileViT" not in str(config.get("image_processor_type"))
    if (normalised or config.get("include_top")) and (mean is None or std is None):
        raise NotUnderstoodError(f"do_normalize=True with image_mean={mean} and image_std={std} is not understood")
    if not normalised:
        mean = (0.0,) * len(mean or (0.0,) * 3)
    divisors = (std,) * (int(normalised) + int(bool(config.get("include_top"))))
    means, stds = [], []
    for channel, value in enumerate(mean or ()):
        divisor = 1.0
        for again in divisors:
            divisor *= again[channel] if again else 1.0
        means.append((value + offset) / scale)
        stds.append(divisor / scale)
    return tuple(means), tuple(stds)


def _per_channel(values: Any) -> tuple[float, ...] | None:
    """Reads a mean or deviation: one number is for each of three channels."""
    if values is None:
        return None
    if isinstance(values, int | float):
        return (float(values),) * 3
    return tuple(float(value) for value in values)


def _interpolation(config: Mapping[str, Any], convention: str) -> str:
    given = config.get("resample", 2)
    code = 2 if given is None else given
    name = _RESAMPLING.get(int(code)) if isinstance(code, int) else getattr(code, "value", None)
    if name is None:
        raise NotUnderstoodError(f"resample={given!r} is not understood")
    return "nearest-exact" if name == "nearest" and convention != "transformers-pillow" else str(name)


def _pad(config: Mapping[str, Any], geometry: Mapping[str, Any]) -> tuple[int, int] | None:
    """Reads what an image is padded to; None where it is of that size anyway."""
    if not config.get("do_pad"):
        return None
    crop, resize = geometry["crop"], geometry["resize"]
    size: Sequence[int] | None = crop or (resize if isinstance(resize, tuple) else None)
    if not _matters(config.get("pad_size")):
        if size is None:
            raise NotUnderstoodError("do_pad=True without pad_size, which pads to the largest image of a batch")
        return None
    pad = _size(config, "pad_size")
    if isinstance(pad, int) or (size is not None and (pad[0] < size[0] or pad[1] < size[1])):
        raise NotUnderstoodError(f"pad_size={config['pad_size']!r} is not understood")
    return None if size == pad else pad
