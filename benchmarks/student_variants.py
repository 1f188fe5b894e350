"""The students that SM-lite was chosen from, and two of MONAI's networks of about its size; for benchmarks/student.py only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from monai.networks.nets import BasicUNet, UNet
from torch import Tensor, nn
from torch.nn import functional

from fed_node.student.sm_lite import ConvBlock, new_student


@dataclass(frozen=True)
class Variant:
    """One point of the search: SM-lite differs from each in one respect."""

    stem: Literal["half", "quarter", "patch"] = "quarter"
    skips: Literal["add", "concatenate"] = "add"
    upsampling: Literal["nearest", "bilinear", "transposed"] = "nearest"
    channels: tuple[int, ...] = (32, 48, 64, 96)


class Up(nn.Module):
    """One decoder level."""

    def __init__(self, wide: int, narrow: int, variant: Variant) -> None:
        super().__init__()
        self.mode = variant.upsampling
        self.concatenate = variant.skips == "concatenate"
        transposed = self.mode == "transposed"
        self.reduce = nn.ConvTranspose2d(wide, narrow, 2, 2) if transposed else nn.Conv2d(wide, narrow, 1)
        self.block = ConvBlock(2 * narrow if self.concatenate else narrow, narrow)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """Features and the skip at twice their size."""
        larger = self.reduce(features)
        if self.mode == "bilinear":
            larger = functional.interpolate(larger, scale_factor=2.0, mode="bilinear", align_corners=False)
        elif self.mode == "nearest":
            larger = functional.interpolate(larger, scale_factor=2.0, mode="nearest")
        merged: Tensor = self.block(torch.cat([larger, skip], 1) if self.concatenate else larger + skip)
        return merged


class VariantNet(nn.Module):
    """A U-Net as ``variant`` says."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        widths = (16, *variant.channels) if variant.stem == "half" else variant.channels
        stems: dict[str, Callable[[], nn.Module]] = {
            "half": lambda: ConvBlock(1, 16, kernel=5, stride=2),
            "quarter": lambda: nn.Sequential(
                ConvBlock(1, 16, kernel=5, stride=2), ConvBlock(16, widths[0], stride=2), ConvBlock(widths[0], widths[0])
            ),
            "patch": lambda: nn.Sequential(nn.PixelUnshuffle(4), ConvBlock(16, widths[0]), ConvBlock(widths[0], widths[0])),
        }
        self.stem = stems[variant.stem]()
        self.down = nn.ModuleList(
            nn.Sequential(ConvBlock(narrow, wide, stride=2), ConvBlock(wide, wide)) for narrow, wide in pairwise(widths)
        )
        self.up = nn.ModuleList(Up(wide, narrow, variant) for wide, narrow in pairwise(reversed(widths)))
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits of the same size."""
        skips = [self.stem(images)]
        for block in self.down:
            skips.append(block(skips[-1]))
        features = skips.pop()
        for block in self.up:
            features = block(features, skips.pop())
        return functional.interpolate(self.head(features), size=images.shape[-2:], mode="bilinear", align_corners=False)


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    network = make()
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


_GROUP = ("GROUP", {"num_groups": 8})
_INSTANCE = ("INSTANCE", {"affine": True})  # this network normalises its one output channel too, which has no eight groups

STUDENTS: dict[str, Callable[[], nn.Module]] = {
    "SM-lite (chosen)": lambda: new_student(0),
    "stem to 1/2": lambda: _seeded(lambda: VariantNet(Variant(stem="half"))),
    "stem of 4x4 patches": lambda: _seeded(lambda: VariantNet(Variant(stem="patch"))),
    "skips concatenated": lambda: _seeded(lambda: VariantNet(Variant(skips="concatenate"))),
    "upsampling bilinear": lambda: _seeded(lambda: VariantNet(Variant(upsampling="bilinear"))),
    "upsampling transposed": lambda: _seeded(lambda: VariantNet(Variant(upsampling="transposed"))),
    "channels 24-48-80-96": lambda: _seeded(lambda: VariantNet(Variant(channels=(24, 48, 80, 96)))),
    "channels 48-64-80-96": lambda: _seeded(lambda: VariantNet(Variant(channels=(48, 64, 80, 96)))),
    "MONAI UNet": lambda: _seeded(
        lambda: UNet(2, 1, 1, channels=(16, 32, 64, 96, 96), strides=(2, 2, 2, 2), num_res_units=1, norm=_INSTANCE)
    ),
    "MONAI BasicUNet": lambda: _seeded(lambda: BasicUNet(2, 1, 1, features=(16, 16, 32, 64, 96, 16), norm=_GROUP)),
}
