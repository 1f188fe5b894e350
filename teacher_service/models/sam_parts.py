"""What all of SAM's descendants share: Meta's prompt encoder and mask decoder at their published sizes."""

from __future__ import annotations

from functools import partial

from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn

PATCH = 16
PROMPT_WIDTH = 256

block_norm = partial(nn.LayerNorm, eps=1e-6)
"""The normalisation of SAM's encoder blocks; PyTorch's default epsilon is larger."""


def prompt_encoder(input_size: int) -> nn.Module:
    """For a network whose input is a square of that side, pixels."""
    grid = input_size // PATCH
    encoder: nn.Module = PromptEncoder(
        embed_dim=PROMPT_WIDTH,
        image_embedding_size=(grid, grid),
        input_image_size=(input_size, input_size),
        mask_in_chans=16,
    )
    return encoder


def mask_decoder() -> nn.Module:
    """Three masks and one, as published."""
    decoder: nn.Module = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_WIDTH, mlp_dim=2048, num_heads=8),
        transformer_dim=PROMPT_WIDTH,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return decoder
