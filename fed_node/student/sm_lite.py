"""SM-lite: the small U-Net that is distilled, federated and deployed.

A U-Net (Ronneberger et al. 2015) made for one CPU thread: a strided stem brings 256 x 256 down to 64 x 64 before the first wide
layer, skips are added instead of concatenated (as in LinkNet, Chaurasia & Culurciello 2017), which halves the widest convolution,
and the logits are interpolated back to full size. GroupNorm (Wu & He 2018) throughout: its statistics belong to one sample, so
per-sample gradients are defined (DP-SGD) and there are no running averages that federated averaging would have to invent a rule
for. docs/student.md has the measurements behind every choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmentor.tensors import Spec, TensorSpec, check_fits

ARCHITECTURE = "sm-lite-v1"
MAX_PARAMETERS = 600_000
"""A promise to sites: an update is at most 2.4 MB of float32."""


@dataclass(frozen=True)
class SmLiteConfig:
    """The numbers of the architecture; another set is another architecture and needs another id.

    Attributes:
        side: height and width of the input, pixels.
        stem_channels: channels at half resolution.
        channels: channels at 1/4, 1/8, 1/16 and 1/32 of the resolution.
        norm_groups: groups of every GroupNorm.
    """

    side: int = 256
    stem_channels: int = 16
    channels: tuple[int, ...] = (32, 48, 64, 96)
    norm_groups: int = 8


CONFIG = SmLiteConfig()


class ConvBlock(nn.Module):
    """Convolution without bias, GroupNorm, ReLU. No operation is in place, which per-sample gradients need."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.GroupNorm(CONFIG.norm_groups, channels_out)

    def forward(self, features: Tensor) -> Tensor:
        """[B, Cin, H, W] to [B, Cout, H / stride, W / stride]."""
        return functional.relu(self.norm(self.convolution(features)))


class UpBlock(nn.Module):
    """Fewer channels, twice the size, plus the skip, one convolution.

    Channels shrink (1 x 1) before the interpolation, at a quarter of the pixels. Nearest neighbour suffices because the 3 x 3
    convolution that follows smooths; its backward pass is cheaper than that of bilinear interpolation.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels_in, channels_out, 1)
        self.block = ConvBlock(channels_out, channels_out)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """[B, Cin, H, W] and [B, Cout, 2H, 2W] to [B, Cout, 2H, 2W]."""
        larger = functional.interpolate(self.reduce(features), scale_factor=2.0, mode="nearest")
        merged: Tensor = self.block(larger + skip)
        return merged


class SmLite(nn.Module):
    """The network. Make it with new_student or load_student, which fix initialisation and memory format."""

    def __init__(self, config: SmLiteConfig = CONFIG) -> None:
        super().__init__()
        widths = config.channels
        self.stem = nn.Sequential(
            ConvBlock(1, config.stem_channels, kernel=5, stride=2),
            ConvBlock(config.stem_channels, widths[0], stride=2),
            ConvBlock(widths[0], widths[0]),
        )
        self.down = nn.ModuleList(
            nn.Sequential(ConvBlock(narrow, wide, stride=2), ConvBlock(wide, wide)) for narrow, wide in pairwise(widths)
        )
        self.up = nn.ModuleList(UpBlock(wide, narrow) for wide, narrow in pairwise(reversed(widths)))
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Segment images.

        Args:
            images: float32 [B, 1, 256, 256] in [0, 1] (fed_node.data.student_input).

        Returns:
            float32 logits [B, 1, 256, 256] of the probability that a pixel is foreground.
        """
        skips = [self.stem(images)]
        for block in self.down:
            skips.append(block(skips[-1]))
        features = skips.pop()
        for block in self.up:
            features = block(features, skips.pop())
        return functional.interpolate(self.head(features), size=images.shape[-2:], mode="bilinear", align_corners=False)


def new_student(seed: int) -> SmLite:
    """A freshly initialised student; the same seed gives the same digest on every machine with this torch.

    Kaiming normal for ReLU (He et al. 2015) from an own generator, so nothing else in the process moves the numbers.
    """
    student = SmLite()
    generator = torch.Generator().manual_seed(seed)
    for module in student.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return _fast(student)


def load_student(tensors: Mapping[str, npt.NDArray[np.float32]]) -> SmLite:
    """Build a student from named arrays, which are copied.

    Raises:
        WrongArchitecture: names or shapes are not those of sm-lite-v1.
    """
    check_fits(tensors, SPEC)
    student = _fast(SmLite())
    put_tensors(student, tensors)
    return student


def put_tensors(student: nn.Module, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Overwrite a student's parameters with a copy of named arrays, which the caller has checked against SPEC."""
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(tensors[name], np.float32)))


def student_tensors(student: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters as named float32 arrays; copies. There are no buffers."""
    return {
        name: np.array(parameter.detach().cpu().numpy(), np.float32, order="C") for name, parameter in student.named_parameters()
    }


def _fast(student: SmLite) -> SmLite:
    # channels_last is what oneDNN's convolutions work in on a CPU; without it every one of them reorders its input.
    fast: SmLite = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this keyword
    return fast


def _spec() -> Spec:
    with torch.device("meta"):  # names and shapes only: no memory, no random numbers
        parameters: dict[str, Any] = dict(SmLite().named_parameters())
    return tuple(TensorSpec(name, tuple(parameters[name].shape)) for name in sorted(parameters))


SPEC: Spec = _spec()
"""Names and shapes of sm-lite-v1, sorted by name."""
