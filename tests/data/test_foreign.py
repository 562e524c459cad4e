"""Preprocessing read off timm, torchvision and Transformers equals the library's own; tools/compare_preprocessing.py
compares all that is installed, this is a sample of each kind."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision import models

from lookalike.data.foreign import NotUnderstoodError, check_equal, from_timm, from_torchvision, probes
from lookalike.data.processors import from_hf, read_processor
from tests.versions import resizes_by_lanczos, resizes_other_shapes

CONFIG = {
    "input_size": (3, 64, 64),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
}
BYTES, PILLOW = "", "Pil"  # the two kinds of image processors that Transformers has


def largest_difference(ours, theirs):
    return max(float((ours(image) - theirs(image)).abs().max()) for image in probes(ours.channels))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_pct": 0.9, "interpolation": "bilinear"},
        {"crop_pct": 0.95, "crop_mode": "squash"},
        {"crop_pct": 1.0, "crop_mode": "squash"},
        {"crop_pct": 0.9, "crop_mode": "border"},
        {"crop_pct": 1.0, "crop_mode": "border", "input_size": (3, 64, 48)},
        pytest.param({"input_size": (3, 64, 48)}, marks=resizes_other_shapes),
        pytest.param(
            {"input_size": (3, 65, 97), "crop_pct": 0.9, "interpolation": "lanczos"}, marks=resizes_other_shapes
        ),
    ],
    ids=str,
)
def test_timms_configurations_are_followed_to_the_bit(changes):
    config = CONFIG | changes
    assert largest_difference(from_timm(config), create_transform(**config, is_training=False)) == 0


def test_a_published_configuration_of_timm_is_followed_to_the_bit():
    import timm

    config = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg("efficientnet_lite0").to_dict())
    assert largest_difference(from_timm(config), create_transform(**config, is_training=False)) == 0


def test_a_grey_network_of_timm_gets_the_mean_over_the_channels():
    grey = from_timm(CONFIG | {"input_size": (1, 64, 64)})
    assert grey.mean == (pytest.approx(0.449),)
    assert grey.std == (pytest.approx(0.226),)
    config = CONFIG | {"input_size": (1, 64, 64), "mean": grey.mean, "std": grey.std}
    assert largest_difference(grey, create_transform(**config, is_training=False)) == 0


@pytest.mark.parametrize(
    "weights",
    [models.ResNet18_Weights.DEFAULT, models.ResNet50_Weights.IMAGENET1K_V2, models.Swin_T_Weights.DEFAULT,
     models.Inception_V3_Weights.DEFAULT],
    ids=str,
)  # fmt: skip
def test_torchvisions_presets_are_followed_to_the_bit(weights):
    preset = weights.transforms()
    assert largest_difference(from_torchvision(preset), preset) == 0


@pytest.mark.parametrize("kind", [BYTES, PILLOW], ids=["bytes", "pillow"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViT", {}),
        ("ViT", {"do_rescale": False}),
        ("ViT", {"do_normalize": False, "rescale_factor": 1 / 127.5}),
        ("ViT", {"image_mean": 0.5, "image_std": 0.25}),
        ("ViT", {"do_pad": True, "pad_size": {"height": 230, "width": 240}}),
        ("ViT", {"do_pad": True}),
        ("ViT", {"resample": 0}),
        pytest.param("ViT", {"resample": 1}, marks=resizes_by_lanczos),
        ("DeiT", {"size": {"height": 50, "width": 41}, "crop_size": {"height": 64, "width": 37}}),
        ("CLIP", {"size": {"shortest_edge": 65}, "crop_size": {"height": 60, "width": 60}}),
        ("ConvNext", {"size": {"shortest_edge": 65}, "crop_pct": 0.875}),
        ("ConvNext", {"size": {"shortest_edge": 384}}),
        ("Levit", {"size": {"shortest_edge": 65}}),
        ("PoolFormer", {"size": {"shortest_edge": 65}, "crop_pct": 0.95}),
        ("Perceiver", {"size": {"height": 65, "width": 60}, "crop_size": {"height": 80, "width": 70}}),
        ("EfficientNet", {"size": {"height": 65, "width": 60}}),
        ("EfficientNet", {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False}),
        ("MobileViT", {"size": {"shortest_edge": 65}}),
    ],
    ids=str,
)
def test_image_processors_are_followed(name, settings, kind):
    processor = getattr(transformers, f"{name}ImageProcessor{kind}")(**settings)
    ours = read_processor(processor)
    for image in probes(3):
        theirs = torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"][0]).float()
        torch.testing.assert_close(ours(image), theirs, atol=1e-6, rtol=1e-6)


def test_a_processor_that_resizes_floats_is_followed():
    assert read_processor(transformers.DINOv3ViTImageProcessor()).convention == "transformers-float"


def test_timms_wrapper_is_read():
    processor = transformers.TimmWrapperImageProcessor(CONFIG | {"crop_mode": "squash"}, "resnet18")
    assert read_processor(processor) == from_timm(CONFIG | {"crop_mode": "squash"})


def test_transparency_is_laid_on_white_where_the_processor_does():
    clear = Image.new("RGBA", (70, 70), (0, 0, 0, 0))
    clip = transformers.CLIPImageProcessor()
    white_or_black = 1.0 if clip(clear, return_tensors="pt")["pixel_values"].mean() > 0 else 0.0  # by its version
    for processor, value in ((clip, white_or_black), (transformers.ViTImageProcessor(), 0.0)):
        ours = read_processor(processor)
        assert ours.pixels(ours(clear)).mean() == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ImageGPT", {}, "ImageGPTImageProcessor' makes colour clusters"),
        ("Siglip2", {}, "Siglip2ImageProcessor' makes patches"),
        ("TextNet", {}, "size_divisor=32 is not understood"),
        ("Donut", {}, "do_thumbnail=True is not understood"),
        ("CLIP", {"do_pad": True, "do_center_crop": False}, "do_pad=True without pad_size"),
        ("ViT", {"size": {"shortest_edge": 48, "longest_edge": 64}}, "size=.*longest_edge.* is not understood"),
        ("ViT", {"resample": 4}, "torch has no interpolation 'box'"),
        ("Segformer", {"do_center_crop": True, "crop_size": 32}, "differently from its settings"),
    ],
    ids=str,
)
def test_what_is_not_understood_is_named(name, settings, message):
    with pytest.raises(NotUnderstoodError, match=message):
        read_processor(getattr(transformers, f"{name}ImageProcessor")(**settings))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": 224, "do_normalize": False}, "size=224 is not understood"),
        ({"size": {"height": 8, "width": 8}, "resample": 9, "do_normalize": False}, "resample=9 is not understood"),
        ({"size": {"height": 8, "width": 8}}, "image_mean=None"),
        ({"size": {"shortest_edge": 8}, "crop_pct": 0.9, "do_normalize": False}, "crop_pct=0.9"),
        ({"do_sharpen": True}, "do_sharpen=True is not understood"),
    ],
    ids=str,
)
def test_a_configuration_that_says_too_little_or_too_much_is_refused(config, message):
    with pytest.raises(NotUnderstoodError, match=message):
        from_hf(config)


def test_other_settings_of_timm_and_torchvision_are_refused():
    for changes in ({"crop_mode": "fancy"}, {"interpolation": "random"}, {"input_size": (4, 64, 64)}):
        with pytest.raises(NotUnderstoodError, match=r"crop_mode='fancy'|unknown interpolation 'random'|in_chans=4"):
            from_timm(CONFIG | changes)
    with pytest.raises(NotUnderstoodError, match="ObjectDetection is not torchvision's preset"):
        from_torchvision(models.detection.FCOS_ResNet50_FPN_Weights.DEFAULT.transforms())


def test_a_class_with_a_mind_of_its_own_does_not_pass_for_a_known_one():
    class Flipping(transformers.ViTImageProcessor):
        def rescale_and_normalize(self, images, *args, **kwargs):
            return super().rescale_and_normalize(images, *args, **kwargs).flip(-1)

    with pytest.raises(NotUnderstoodError, match="'Flipping' prepares an image of 97×131 differently"):
        read_processor(Flipping())
    good = from_timm(CONFIG)
    with pytest.raises(NotUnderstoodError, match="the other fails on an image of 97×131: no luck"):
        check_equal(good, lambda image: exec("raise RuntimeError('no luck')"), "the other")


def test_channels_in_the_order_bgr_are_shown_in_colour():
    ours = read_processor(transformers.MobileViTImageProcessor(size={"shortest_edge": 8}, crop_size=8))
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert ours(red)[:, 0, 0].tolist() == [0, 0, 1]
    assert ours.pixels(ours(red))[:, 0, 0].tolist() == [1, 0, 0]


def test_grey_and_tiny_images_are_prepared_alike():
    config = CONFIG | {"crop_mode": "border"}
    transform, ours = create_transform(**config, is_training=False), from_timm(config)
    for shape in ((1, 1), (3, 200), (5, 7)):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
        torch.testing.assert_close(ours(image), transform(image.convert("RGB")), atol=0, rtol=0)
