"""One network of each family of torchvision and timm: the smallest variants, with small images."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

Entry = tuple[Callable[[], nn.Module], tuple[int, ...]]

_TORCHVISION = {
    "alexnet": 64, "vgg11": 32, "vgg11_bn": 32, "resnext50_32x4d": 32, "wide_resnet50_2": 32, "densenet121": 32,
    "inception_v3": 96, "mnasnet0_5": 32, "mobilenet_v2": 32, "mobilenet_v3_large": 32, "regnet_x_400mf": 32,
    "regnet_y_400mf": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_0": 64, "efficientnet_v2_s": 32, "swin_v2_t": 64,
    "maxvit_t": 224,
}  # fmt: skip

_TIMM_ANY_SIZE = {
    "cspresnet50": 32, "darknet17": 32, "densenet121": 32, "dla34": 32, "dpn48b": 32, "edgenext_xx_small": 64,
    "efficientnet_b0": 32, "efficientvit_b0": 64, "fastvit_t8": 64, "focalnet_tiny_srf": 64, "ghostnet_050": 32,
    "hgnetv2_b0": 32, "hrnet_w18_small": 32, "inception_next_atto": 64, "lcnet_035": 32, "mambaout_femto": 64,
    "caformer_s18": 64, "poolformer_s12": 64, "mobilenetv3_small_050": 32, "mobilenetv4_conv_small": 32,
    "mobilevit_xxs": 64, "mobilevitv2_050": 64, "nextvit_small": 64, "dm_nfnet_f0": 32, "nf_regnet_b0": 32,
    "pvt_v2_b0": 64, "regnety_002": 32, "repghostnet_050": 32, "repvit_m0_9": 64, "repvgg_a0": 32,
    "res2net50_14w_8s": 32, "resnest14d": 64, "resnetv2_50": 32, "rexnet_100": 32, "selecsls42": 64, "seresnet18": 32,
    "legacy_seresnet18": 32, "shvit_s1": 64, "skresnet18": 32, "starnet_s050": 64, "swiftformer_xs": 64,
    "tresnet_m": 64, "vovnet39a": 32, "xception41": 64, "xception65p": 64, "gernet_s": 32, "tf_efficientnetv2_b0": 32,
    "mixnet_s": 32, "mnasnet_small": 32, "spnasnet_100": 32, "fbnetc_100": 32, "hardcorenas_a": 32,
    "ese_vovnet19b_dw": 32, "semnasnet_075": 32, "tinynet_e": 32, "fasternet_t0": 64, "efficientvim_m1": 64,
    "rdnet_tiny": 64, "convmixer_768_32": 32, "inception_v3": 96, "convnextv2_atto": 32, "bat_resnext26ts": 256,
    "cpubone_nano": 64, "cspnext_tiny": 64, "lcnetv2_small": 32, "inception_resnet_v2": 96, "inception_v4": 96,
    "legacy_xception": 96, "vgg11": 32, "csatv2": 64, "lowformer_b0": 64,
    "iformer_s": 64, "lambda_resnet26t": 64, "resnet26d": 32, "resnet10t": 32,
}  # fmt: skip

_TIMM_FIXED_SIZE = {
    "beit_base_patch16_224": 32, "cait_xxs24_224": 32, "coat_tiny": 64, "convit_tiny": 32, "crossvit_tiny_240": 240,
    "davit_tiny": 64, "deit3_small_patch16_224": 32, "efficientformer_l1": 224, "efficientformerv2_s0": 224,
    "efficientvit_m0": 224, "eva02_tiny_patch14_224": 28, "gcvit_xxtiny": 224, "hiera_tiny_224": 224,
    "gmlp_ti16_224": 32, "resmlp_12_224": 32, "levit_128s": 224, "mvitv2_tiny": 224, "nest_tiny": 224,
    "pit_ti_224": 224, "sequencer2d_s": 224, "swin_tiny_patch4_window7_224": 56, "swinv2_tiny_window8_256": 64,
    "swinv2_cr_tiny_224": 56, "tiny_vit_5m_224": 64, "tnt_s_patch16_224": 32, "twins_svt_small": 64,
    "visformer_tiny": 64, "vit_relpos_small_patch16_224": 32, "volo_d1_224": 64, "xcit_nano_12_p8_224": 32,
    "maxvit_nano_rw_256": 256, "coatnet_nano_rw_224": 224, "vit_tiny_r_s16_p8_224": 32, "flexivit_small": 64,
    "samvit_base_patch16_224": 64, "hieradet_small": 64, "naflexvit_base_patch16_gap": 64, "qwen3_vit_88m": 64,
    "eca_halonext26ts": 256, "vitamin_small_224": 64, "halonet26t": 256, "botnet26t_256": 256,
}  # fmt: skip


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        extra = {"init_weights": False} if name == "inception_v3" else {}
        return torchvision.models.get_model(name, weights=None, num_classes=7, **extra)

    return build


def _timm(name: str, size: int | None = None) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        if size is None:
            return timm.create_model(name, num_classes=7)
        try:
            return timm.create_model(name, num_classes=7, img_size=size)
        except TypeError:
            return timm.create_model(name, num_classes=7)

    return build


def _shrunk(name: str) -> Callable[[], nn.Module]:
    """Returns what builds a torchvision network that has no small variant, with fewer and narrower layers."""

    def build() -> nn.Module:
        from torchvision import models
        from torchvision.models import convnext, resnet, swin_transformer, vgg

        if name == "vit":
            return models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=7)
        if name == "swin":
            return models.SwinTransformer([4, 4], 16, [1, 1], [1, 2], [4, 4], num_classes=7)
        if name == "swin_v2":
            block, merging = swin_transformer.SwinTransformerBlockV2, swin_transformer.PatchMergingV2
            kinds = {"block": block, "downsample_layer": merging}
            return models.SwinTransformer([4, 4], 16, [1, 1], [1, 2], [4, 4], num_classes=7, **kinds)
        if name == "convnext":
            blocks = [convnext.CNBlockConfig(16, 32, 1), convnext.CNBlockConfig(32, None, 1)]
            return models.ConvNeXt(blocks, num_classes=7)
        if name == "maxvit":
            return models.MaxVit((64, 64), 8, 2, [8, 16], [1, 1], 8, 0.0, num_classes=7)
        if name == "resnet_bottleneck":
            return models.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=7)
        network = models.VGG(vgg.make_layers([8, "M", 16, "M"], batch_norm=True), num_classes=7, init_weights=False)
        network.classifier = nn.Sequential(nn.Linear(16 * 49, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 7))
        return network

    return build


class Signal(nn.Module):
    """A one-dimensional convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 6, 5), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean(-1))


class Volume(nn.Module):
    """A three-dimensional convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4), nn.GELU(), nn.MaxPool3d(2), nn.Conv3d(4, 8, 3)
        )
        self.head = nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.silu(self.body(x)).mean((2, 3, 4)))


class ChannelsLastInput(nn.Module):
    """A network that takes images as [N, H, W, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.permute(0, 3, 1, 2)).mean((2, 3)))


class Segmentation(nn.Module):
    """A head per position, whose scores are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.head = nn.Conv2d(6, 7, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.up(self.body(x)))).mean((2, 3))


class MultiTask(nn.Module):
    """Scores of two tasks by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.logits, self.colour = nn.Linear(8, 7), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        z = self.body(x).mean((2, 3))
        return {"logits": self.logits(z), "colour": self.colour(z)}


CONVOLUTIONAL: dict[str, Entry] = {
    "plain-signal": (Signal, (2, 40)),
    "plain-volume": (Volume, (1, 12, 12, 12)),
    "plain-nhwc": (ChannelsLastInput, (16, 16, 3)),
    "plain-segmentation": (Segmentation, (3, 17, 17)),
    "plain-multi-task": (MultiTask, (3, 17, 17)),
}

SHRUNK: dict[str, Entry] = {
    f"torchvision-small_{name}": (_shrunk(name), (3, size, size))
    for name, size in {
        "vit": 32, "swin": 32, "swin_v2": 32, "convnext": 32, "maxvit": 64, "resnet_bottleneck": 32, "vgg_bn": 32,
    }.items()
}  # fmt: skip

FAMILIES: dict[str, Entry] = {
    **{f"torchvision-{name}": (_torchvision(name), (3, size, size)) for name, size in _TORCHVISION.items()},
    **{f"timm-{name}": (_timm(name), (3, size, size)) for name, size in _TIMM_ANY_SIZE.items()},
    **{f"timm-{name}": (_timm(name, size), (3, size, size)) for name, size in _TIMM_FIXED_SIZE.items()},
}

# Those of a few million parameters at most, for the test suite.
QUICK = (
    "torchvision-squeezenet1_0", "torchvision-shufflenet_v2_x0_5", "torchvision-mnasnet0_5", "torchvision-mobilenet_v2",
    "torchvision-regnet_x_400mf", "torchvision-regnet_y_400mf", "torchvision-swin_v2_t",
    "timm-lcnet_035", "timm-edgenext_xx_small", "timm-efficientvit_b0", "timm-ghostnet_050", "timm-hgnetv2_b0",
    "timm-inception_next_atto", "timm-dpn48b", "timm-mambaout_femto", "timm-fastvit_t8", "timm-mobilenetv3_small_050",
    "timm-mobilenetv4_conv_small", "timm-mobilevit_xxs", "timm-mobilevitv2_050", "timm-nf_regnet_b0", "timm-pvt_v2_b0",
    "timm-regnety_002", "timm-repghostnet_050", "timm-repvit_m0_9", "timm-repvgg_a0", "timm-rexnet_100",
    "timm-shvit_s1", "timm-starnet_s050", "timm-swiftformer_xs", "timm-mixnet_s", "timm-tinynet_e",
    "timm-convnextv2_atto", "timm-cait_xxs24_224", "timm-xcit_nano_12_p8_224", "timm-eva02_tiny_patch14_224",
    "timm-resnet10t", "timm-levit_128s",
)  # fmt: skip
