"""Reads preprocessing from Transformers' image processors, exactly or not at all."""

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
    preprocessing_from,
    probes,
)
from lookalike.data.preprocessing import Preprocessing

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's codes
_UNDERSTOOD = frozenset(  # settings that `from_hf` reads
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
_IGNORED = frozenset(  # settings that do not change an image's values
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
_OTHER_OUTPUTS = {  # processors whose result is no image
    "ImageGPTImageProcessor": "colour clusters",
    "Siglip2ImageProcessor": "patches",
}
_CONVNEXT_STRETCHES_FROM = 384  # pixels; for smaller sizes ConvNeXT's processor resizes and crops


def from_hf(config: Mapping[str, Any], *, backend: str = "pil") -> Preprocessing:
    """Reads the settings of an image processor.

    Args:
        config: The result of the processor's ``to_dict``. A ``preprocessor_config.json`` is not enough, because it
            omits the defaults of the processor's class.
        backend: The library that the processor resizes with: ``"torchvision"`` (the fast processors) or ``"pil"``.

    Raises:
        NotUnderstoodError: If a setting is unknown; the message names it.
    """
    kind = str(config.get("image_processor_type", "")).removesuffix("Fast").removesuffix("Pil")
    if kind in _OTHER_OUTPUTS:
        raise NotUnderstoodError(
            f"image_processor_type={kind!r} makes {_OTHER_OUTPUTS[kind]} of an image",
            IN_PYTHON,
        )
    if "data_config" in config:  # timm's wrapper
        return from_timm(config["data_config"])
    unknown = [key for key in config if key.lstrip("_") not in _UNDERSTOOD | _IGNORED and _is_set(config[key])]
    if unknown:
        raise NotUnderstoodError(f"{unknown[0]}={reprlib.repr(config[unknown[0]])} is not understood")
    mean, std = _mean_and_std(config)
    geometry = _perceiver_geometry(config) if kind.startswith("Perceiver") else _geometry(config, kind)
    conventions = {"pil": "transformers-pillow", "torchvision": "transformers"}
    if backend not in conventions:
        raise NotUnderstoodError(f"backend={backend!r} is neither 'pil' nor 'torchvision'")
    convention = "transformers-float" if kind.startswith("DINOv3") else conventions[backend]
    return preprocessing_from(
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
    """Reads an image processor's settings, and checks on some images that the result is the same.

    Raises:
        NotUnderstoodError: If a setting is unknown, or an image is prepared differently.
    """
    name = type(processor).__name__
    backend = getattr(processor, "backend", None) or ("torchvision" if name.endswith("Fast") else "pil")
    try:
        preprocessing = from_hf({"image_processor_type": name} | processor.to_dict(), backend=backend)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, NotUnderstoodError):
            raise
        raise NotUnderstoodError(f"image_processor_type={name!r} has settings that cannot be read: {error}") from error

    def prepare(image: Image.Image) -> Tensor:
        values = processor(image, return_tensors="pt")["pixel_values"][0]
        return torch.as_tensor(values).float()

    if preprocessing.transparency == "white" and not _lays_on_white(preprocessing, prepare):
        preprocessing = replace(preprocessing, transparency="dropped")  # as older versions of Transformers do
    check_equal(preprocessing, prepare, f"image_processor_type={name!r}")
    return preprocessing


def _lays_on_white(preprocessing: Preprocessing, prepare: Any) -> bool:
    """Says whether a processor shows transparent images on white, by trying one."""
    transparent = probes(preprocessing.channels)[0].convert("RGBA")
    transparent.putalpha(100)
    return differs_at_most(preprocessing(transparent), prepare(transparent), 1e-6)


def _is_set(value: Any) -> bool:
    return value is not None and value is not False and value != {} and value != []


def _geometry(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Reads ``resize``, ``fit`` and ``crop``."""
    crop = _size(config, "crop_size") if config.get("do_center_crop") else None
    if isinstance(crop, int):
        raise NotUnderstoodError(f"crop_size={config['crop_size']!r} is not understood")
    if not config.get("do_resize", True):
        return {"resize": None, "crop": crop}
    resize = _size(config, "size")
    crop_share = config.get("crop_pct")
    if kind.startswith("ConvNext"):
        if not isinstance(resize, int) or crop is not None:
            raise NotUnderstoodError(f"size={config.get('size')!r} with crop_size={crop} is not understood")
        if resize >= _CONVNEXT_STRETCHES_FROM:
            return {"resize": (resize, resize), "crop": None}
        return {"resize": int(resize / (crop_share or 224 / 256)), "crop": (resize, resize)}
    if kind.startswith("PoolFormer") and crop_share:
        if isinstance(resize, tuple) and resize[0] != resize[1]:
            return {"resize": (int(resize[0] / crop_share), int(resize[1] / crop_share)), "crop": crop}
        return {"resize": int((resize if isinstance(resize, int) else resize[0]) / crop_share), "crop": crop}
    if crop_share:
        raise NotUnderstoodError(
            f"crop_pct={crop_share!r} of a {kind or 'processor of unknown type'} is not understood"
        )
    if kind.startswith("Levit") and isinstance(resize, int):  # its class enlarges the size before it crops
        resize = int((256 / 224) * resize)
    return {"resize": resize, "crop": crop}


def _perceiver_geometry(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a Perceiver processor's geometry: a crop to shares of the shorter side, then a stretch."""
    size = _size(config, "size")
    crop = _size(config, "crop_size") if config.get("do_center_crop", True) else None
    if isinstance(size, int) or isinstance(crop, int):
        raise NotUnderstoodError(f"size={config.get('size')!r} is not understood")
    window = (size[0] / crop[0], size[1] / crop[1]) if crop else None
    return {"resize": size if config.get("do_resize", True) else None, "crop": None, "window": window}


def _size(config: Mapping[str, Any], key: str) -> Any:
    """Reads a size: an int for the shorter side, or a tuple (height, width)."""
    size = config.get(key)
    sides = {} if size is None or isinstance(size, int) else {k: v for k, v in dict(size).items() if v is not None}
    if set(sides) == {"shortest_edge"}:
        return int(sides["shortest_edge"])
    if set(sides) == {"height", "width"}:
        return int(sides["height"]), int(sides["width"])
    raise NotUnderstoodError(f"{key}={size!r} is not understood")


def _mean_and_std(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Folds rescaling and normalisation into a mean and deviation of pixels in [0, 1].

    A processor computes (value · scale − offset − mean) / std with values in 0…255 and an offset of 0 or 1. For pixels
    p = value / 255 that is (p − mean') / std' with mean' = (mean + offset) / (255 · scale) and
    std' = std / (255 · scale). ``include_top`` (EfficientNet) divides by std once more.
    """
    scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    scale = 1.0 if abs(scale * 255 - 1) < 1e-12 else scale * 255  # of pixels in [0, 1]
    offset = 1.0 if config.get("rescale_offset") and config.get("do_rescale", True) else 0.0
    mean, std = (_per_channel(config.get(key)) for key in ("image_mean", "image_std"))
    # MobileViT's classes have no normalisation, whatever the configuration says.
    normalised = bool(config.get("do_normalize", True)) and "MobileViT" not in str(config.get("image_processor_type"))
    if (normalised or config.get("include_top")) and (mean is None or std is None):
        raise NotUnderstoodError(f"do_normalize=True with image_mean={mean} and image_std={std} is not understood")
    if not normalised:
        mean = (0.0,) * len(mean or (0.0,) * 3)
    divisors = (std,) * (int(normalised) + int(bool(config.get("include_top"))))
    means, stds = [], []
    for channel, value in enumerate(mean or ()):
        divisor = 1.0
        for deviations in divisors:
            divisor *= deviations[channel] if deviations else 1.0
        means.append((value + offset) / scale)
        stds.append(divisor / scale)
    return tuple(means), tuple(stds)


def _per_channel(values: Any) -> tuple[float, ...] | None:
    """Reads a mean or deviation; a single number is repeated for three channels."""
    if values is None:
        return None
    if isinstance(values, int | float):
        return (float(values),) * 3
    return tuple(float(value) for value in values)


def _interpolation(config: Mapping[str, Any], convention: str) -> str:
    resample = config.get("resample", 2)
    code = 2 if resample is None else resample
    name = _RESAMPLING.get(int(code)) if isinstance(code, int) else getattr(code, "value", None)
    if name is None:
        raise NotUnderstoodError(f"resample={resample!r} is not understood")
    return "nearest-exact" if name == "nearest" and convention != "transformers-pillow" else str(name)


def _pad(config: Mapping[str, Any], geometry: Mapping[str, Any]) -> tuple[int, int] | None:
    """Reads the size that images are padded to; None if they already have it."""
    if not config.get("do_pad"):
        return None
    crop, resize = geometry["crop"], geometry["resize"]
    size: Sequence[int] | None = crop or (resize if isinstance(resize, tuple) else None)
    if not _is_set(config.get("pad_size")):
        if size is None:
            raise NotUnderstoodError("do_pad=True without pad_size, which pads to the largest image of a batch")
        return None
    pad = _size(config, "pad_size")
    if isinstance(pad, int) or (size is not None and (pad[0] < size[0] or pad[1] < size[1])):
        raise NotUnderstoodError(f"pad_size={config['pad_size']!r} is not understood")
    return None if size == pad else pad
