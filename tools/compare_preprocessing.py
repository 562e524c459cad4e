"""Compares lookalike's Preprocessing, value by value, with timm, torchvision and Transformers, as installed.

    python tools/compare_preprocessing.py [timm|torchvision|transformers ...]

It needs no network and builds none: every pretrained configuration of timm, the transforms of every set of
torchvision's classification weights, every image processor of Transformers' image classifiers with its default
settings and with others. Images are tall, wide, tiny, of odd sizes, grey and half transparent. Each line is a family:
how many settings are equal bit for bit, equal up to float rounding, or refused and why. Exits with 1 if any differs.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike.data import Preprocessing
from lookalike.data.foreign import from_timm, from_torchvision
from lookalike.data.processors import read_processor

SIZES = ((97, 131), (140, 93), (61, 250), (257, 60), (5, 7), (2, 40), (224, 224), (333, 500), (501, 334))
TOLERANCE = 1e-6  # relative above 1: a float's own rounding
Case = tuple[str, Callable[[], Preprocessing], Callable[[Image.Image], Tensor]]


def pictures() -> list[Image.Image]:
    """Returns images of noise over a slope: RGB of all sizes, a grey one and a transparent one."""
    generator = np.random.default_rng(1)
    made = []
    for height, width in SIZES:
        slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 100, width))[..., None]
        noise = generator.integers(0, 36, (height, width, 3))
        made.append(Image.fromarray((slope + noise).astype(np.uint8)))
    clear = made[0].convert("RGBA")
    clear.putalpha(90)
    return [*made, made[1].convert("L"), clear]


def timm_cases() -> Iterator[Case]:
    """Yields timm's distinct evaluation transforms, for colour and for grey networks."""
    import timm
    from timm.data import create_transform, resolve_data_config

    seen: set[str] = set()
    for name in timm.list_models(pretrained=True):
        published = timm.get_pretrained_cfg(name).to_dict()
        for use_test_size in (False, True):
            config = resolve_data_config({}, pretrained_cfg=published, use_test_size=use_test_size)
            if str(config) in seen:
                continue
            seen.add(str(config))
            transform = create_transform(**config, is_training=False)
            yield (
                f"timm {config['crop_mode']} {config['interpolation']}",
                lambda config=config: from_timm(config),
                lambda image, transform=transform: transform(image.convert("RGB")),
            )
            grey = config | {"input_size": (1, *config["input_size"][1:])}
            average = {key: (float(np.mean(config[key])),) for key in ("mean", "std")}
            in_grey = create_transform(**(grey | average), is_training=False)
            yield (
                f"timm grey {config['crop_mode']}",
                lambda grey=grey: from_timm(grey),
                lambda image, in_grey=in_grey: in_grey(image.convert("L")),
            )


def torchvision_cases() -> Iterator[Case]:
    """Yields the transforms of every set of classification weights."""
    from torchvision import models

    for name in models.list_models(module=models) + models.list_models(module=models.quantization):
        for weights in models.get_model_weights(name):
            preset = weights.transforms()
            yield (
                "torchvision classification",
                lambda preset=preset: from_torchvision(preset),
                lambda image, preset=preset: preset(image.convert("RGB")),
            )


def transformers_cases() -> Iterator[Case]:
    """Yields the image processors of Transformers' image classifiers, with default and other settings."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    transformers.logging.set_verbosity_error()
    names = {
        name
        for kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
        for name in (IMAGE_PROCESSOR_MAPPING_NAMES.get(kind) or {}).values()
    } | {"DINOv3ViTImageProcessor"}
    for name in sorted(names):
        for settings in transformers_settings(name):
            try:
                processor = getattr(transformers, name)(**settings)
            except (TypeError, ValueError, AttributeError, ImportError):
                continue  # not a setting of this class
            yield (
                f"transformers {name}",
                lambda processor=processor: read_processor(processor),
                lambda image, processor=processor: _prepared(processor, image),
            )


def transformers_settings(name: str) -> list[dict[str, Any]]:
    """Returns settings to make an image processor with: the defaults first."""
    if name.startswith("TimmWrapper"):
        import timm

        kinds = ("resnet18", "vit_base_patch16_clip_224", "efficientnet_lite0", "eva02_large_patch14_448")
        return [{"pretrained_cfg": timm.get_pretrained_cfg(kind).to_dict(), "architecture": kind} for kind in kinds]
    square = {"height": 64, "width": 63}
    settings: list[dict[str, Any]] = [
        {},
        {"do_resize": False},
        {"size": {"height": 33, "width": 57}},
        {"size": {"shortest_edge": 37}},
        {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 41, "width": 50}},
        {"size": {"shortest_edge": 50}, "do_center_crop": True, "crop_size": square},
        {"size": {"height": 50, "width": 41}, "do_center_crop": True, "crop_size": square},
        {"size": {"shortest_edge": 48, "longest_edge": 64}},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": 0.5, "image_std": 0.25},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]},
        {"do_pad": True},
        {"do_pad": True, "pad_size": {"height": 600, "width": 700}},
        {"do_convert_rgb": True},
        {"do_flip_channel_order": False},
        *({"resample": code} for code in range(6)),
    ]
    if name.startswith("ConvNext"):
        sides, shares = (32, 224, 383, 384, 400), (0.875, 0.95, 1.0)
        settings += [{"size": {"shortest_edge": side}, "crop_pct": share} for side, share in product(sides, shares)]
    if name.startswith("Levit"):
        settings += [{"size": {"shortest_edge": side}} for side in (33, 192, 384)]
    if name.startswith("PoolFormer"):
        sizes = ({"shortest_edge": 100}, {"height": 100, "width": 100}, {"height": 100, "width": 80})
        settings += [{"size": size, "crop_pct": share} for size, share in product(sizes, (0.9, 1.0))]
    if name.startswith("Perceiver"):
        size = {"height": 100, "width": 80}
        settings += [{"size": size, "crop_size": {"height": side, "width": side}} for side in (90, 120)]
    if name.startswith("EfficientNet"):
        keys = ("include_top", "rescale_offset", "do_rescale", "do_normalize")
        settings += [dict(zip(keys, values, strict=True)) for values in product((False, True), repeat=4)]
    return settings


def _prepared(processor: Any, image: Image.Image) -> Tensor:
    converts = image.mode == "RGB" or getattr(processor, "do_convert_rgb", False)
    values = processor(image if converts else image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
    return torch.as_tensor(values).float()


def compare(cases: Iterator[Case], images: list[Image.Image]) -> bool:
    """Prints a line per family; says whether no value differed by more than the tolerance."""
    results: dict[str, Counter[str]] = {}
    largest: Counter[str] = Counter()
    for family, read, prepare in cases:
        counts = results.setdefault(family, Counter())
        try:
            preprocessing = read()
        except LookalikeError as error:
            counts[f"refused: {error}"] += 1
            continue
        worst = max(_difference(preprocessing, prepare, image) for image in images)
        largest[family] = max(largest[family], worst)
        counts["equal" if worst == 0 else "rounded" if worst <= TOLERANCE else "DIFFERENT"] += 1
    for family, counts in results.items():
        summary = ", ".join(f"{counts[key]} {key}" for key in ("equal", "rounded", "DIFFERENT") if counts[key])
        print(f"{family}: {summary or 'none read'}; largest difference {largest[family]:.1e}")
        for reason, count in counts.items():
            if reason.startswith("refused"):
                print(f"    {count} {reason}")
    return not any(counts["DIFFERENT"] for counts in results.values())


def _difference(preprocessing: Preprocessing, prepare: Callable[[Image.Image], Tensor], image: Image.Image) -> float:
    if preprocessing.window is not None and int(min(preprocessing.window) * min(image.size)) < 1:
        return 0.0  # the library crops such an image to nothing, and stretches that
    try:
        theirs = prepare(image)
    except Exception:  # an image that the library itself cannot prepare is no difference
        return 0.0
    ours = preprocessing(image)
    if ours.shape != theirs.shape:
        return float("inf")
    return float(((ours - theirs).abs() / theirs.abs().clamp_min(1)).max())


def main() -> int:
    """Compares all, or the libraries named on the command line."""
    libraries = {"timm": timm_cases, "torchvision": torchvision_cases, "transformers": transformers_cases}
    images = pictures()
    fine = [compare(libraries[name](), images) for name in sys.argv[1:] or libraries]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
