"""Every architecture that the package promises to work on, small and with random weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.families import CONVOLUTIONAL, FAMILIES, QUICK, SHRUNK


def randomised(model: nn.Module) -> nn.Module:
    """Gives a model statistics and biases as training leaves them, so that nothing cancels by being 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    for parameter in model.parameters():
        if parameter.ndim == 1 and bool((parameter == parameter[0]).all()) and bool(parameter.any()):
            with torch.no_grad():  # scales of norms and layers: factors matter
                parameter.mul_(torch.empty_like(parameter).uniform_(0.7, 1.4, generator=generator))
        if not parameter.any():  # heads and biases that start at zero
            nn.init.normal_(parameter, 0, 0.02, generator=generator)
    return model.eval()


def channels_last(value: Any) -> Any:
    """Returns images, or a network in place, in the channels-last format: what has four axes; the rest as it is."""
    if isinstance(value, torch.Tensor):
        return value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
    for parameter in value.parameters():
        parameter.data = channels_last(parameter.data)
    return value


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        extra = {"init_weights": False} if name == "googlenet" else {}
        return torchvision.models.get_model(name, weights=None, num_classes=7, **extra, **options)

    return make


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=7, **options)

    return make


def _hf_resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 32, 48], depths=[1, 1, 1, 1], num_labels=7)
    return ResNetForImageClassification(config)


def _hf_vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=7,
    )
    return ViTForImageClassification(config)


def plain_cnn(n_classes: int = 7) -> nn.Module:
    """A small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, n_classes),
    )


class Wrapped(nn.Module):
    """A network inside another, as training frameworks leave it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class TwoInputs(nn.Module):
    """A network that takes an image and a scale, wrapped once more."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Wrapped(plain_cnn())

    def forward(self, image: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        return self.body(image if scale is None else image * scale.view(-1, 1, 1, 1))


class DictOutput(nn.Module):
    """A network that returns a dict with more than the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain_cnn()

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        scores = self.net(x)
        return {"probabilities": scores.softmax(1), "n": len(x)}


class TupleOutput(nn.Module):
    """A network that returns features, then scores."""

    def __init__(self) -> None:
        super().__init__()
        self.features = plain_cnn()[:-1]
        self.head = nn.Linear(12, 7)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(x)
        return features, self.head(features)


# name: (make, image size); those of torchvision that have no small variant are shrunk, tools/families.py has them whole
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    **{name: (build, shape[-1]) for name, (build, shape) in SHRUNK.items()},
    "torchvision-resnet18": (_torchvision("resnet18"), 32),
    "torchvision-resnet34": (_torchvision("resnet34"), 32),
    "torchvision-densenet121": (_torchvision("densenet121"), 32),
    "torchvision-mobilenet_v3_small": (_torchvision("mobilenet_v3_small"), 32),
    "torchvision-efficientnet_b0": (_torchvision("efficientnet_b0"), 32),
    "torchvision-squeezenet1_1": (_torchvision("squeezenet1_1"), 64),
    "torchvision-googlenet": (_torchvision("googlenet"), 64),
    "timm-resnet18": (_timm("resnet18"), 32),
    "timm-efficientnet_lite0": (_timm("efficientnet_lite0"), 32),
    "timm-vit_tiny": (_timm("vit_tiny_patch16_224", img_size=32), 32),
    "timm-deit": (_timm("deit_tiny_patch16_224", img_size=32), 32),
    "timm-convnext": (_timm("convnext_atto"), 32),
    "timm-mixer": (_timm("mixer_s32_224", img_size=64), 64),
    "hf-resnet": (_hf_resnet, 32),
    "hf-vit": (_hf_vit, 32),
    "plain-sequential": (plain_cnn, 32),
    "plain-wrapped-twice": (lambda: Wrapped(Wrapped(plain_cnn())), 32),
    "plain-two-inputs": (TwoInputs, 32),
    "plain-dict": (DictOutput, 32),
    "plain-tuple": (TupleOutput, 32),
}


# Those, and one network of each other family that is quick: what must hold on every network is tried on all.
EVERY: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (build, (3, size, size)) for name, (build, size) in ARCHITECTURES.items()},
    **{name: FAMILIES[name] for name in QUICK},
    **CONVOLUTIONAL,
}


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Returns a model by its name, ready for inference, and two images for it."""
    build, shape = EVERY[name]
    torch.manual_seed(0)
    model = randomised(build())
    return model, torch.randn(2, *shape)
