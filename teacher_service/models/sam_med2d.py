"""SAM-Med2D: SAM's ViT-B at 256x256 with an adapter in every encoder block, on top of Meta's ``segment_anything`` classes.

Cheng et al., "SAM-Med2D", arXiv 2308.16184; reference code OpenGVLab/SAM-Med2D, commit bfd2b93b. Names and shapes of the tensors
are those of the official ``sam-med2d_b.pth``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block, window_partition, window_unpartition
from torch import nn

from teacher_service.models.loading import load_strictly
from teacher_service.models.network import Network, SamModules, fold_decoder, network_of
from teacher_service.models.sam_parts import PATCH, PROMPT_WIDTH, block_norm, mask_decoder, prompt_encoder

ARCHITECTURE = "sam-med2d"
INPUT_SIZE = 256
MASK_SIZE = 64

_GRID = INPUT_SIZE // PATCH
_WIDTH = 768
_DEPTH = 12
_HEADS = 12
_WINDOW = 14
_GLOBAL_BLOCKS = (2, 5, 8, 11)


class Adapter(nn.Module):
    """A gate per channel, then a small hourglass of convolutions; the residual is the ungated input."""

    def __init__(self, width: int, reduction: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)  # PyTorch's default epsilon, unlike the blocks'
        self.channel = nn.Sequential(
            nn.Linear(width, width // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(width // reduction, width, bias=False),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, kernel_size=4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, H, W, C] to the same shape."""
        gate = self.channel(tokens.mean(dim=(1, 2)))[:, None, None, :]
        gated = (tokens * gate).permute(0, 3, 1, 2)
        spatial: torch.Tensor = self.spatial(gated).permute(0, 2, 3, 1)
        adapted: torch.Tensor = self.norm(tokens + spatial)
        return adapted


class AdaptedBlock(Block):  # type: ignore[misc]  # segment_anything ships no types
    """SAM's transformer block with the adapter beside the MLP: ``x + mlp(n) + adapter(n)``, ``n = norm2(x)``."""

    def __init__(self, window_size: int) -> None:
        super().__init__(
            dim=_WIDTH,
            num_heads=_HEADS,
            norm_layer=block_norm,
            use_rel_pos=True,
            window_size=window_size,
            input_size=(_GRID, _GRID),
        )
        self.Adapter = Adapter(_WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, H, W, C] to the same shape."""
        attended = tokens + self._attention(self.norm1(tokens))
        normal = self.norm2(attended)
        mixed: torch.Tensor = attended + self.mlp(normal) + self.Adapter(normal)
        return mixed

    def _attention(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.window_size == 0:
            attended: torch.Tensor = self.attn(tokens)
            return attended
        windows, padded = window_partition(tokens, self.window_size)
        whole: torch.Tensor = window_unpartition(self.attn(windows), self.window_size, padded, tokens.shape[1:3])
        return whole


def skeleton() -> SamModules:
    """The architecture without values, on the meta device: names and shapes cost nothing there."""
    with torch.device("meta"):
        encoder = ImageEncoderViT(
            img_size=INPUT_SIZE,
            patch_size=PATCH,
            embed_dim=_WIDTH,
            depth=0,
            num_heads=_HEADS,
            out_chans=PROMPT_WIDTH,
            norm_layer=block_norm,
            use_rel_pos=True,
        )
        encoder.blocks.extend(AdaptedBlock(0 if i in _GLOBAL_BLOCKS else _WINDOW) for i in range(_DEPTH))
        return SamModules(encoder, prompt_encoder(INPUT_SIZE), mask_decoder())


def build(tensors: Mapping[str, torch.Tensor], device: str = "cpu") -> Network:
    """Load the weights.

    Raises:
        WrongArchitecture: names or shapes differ.
    """
    modules = skeleton()
    load_strictly(modules, tensors, ARCHITECTURE)
    return fold_decoder(network_of(modules, multimask=True, device=device))
