"""SAM at 1024x1024 in its three published sizes, on Meta's ``segment_anything`` classes.

Kirillov et al., "Segment Anything", arXiv 2304.02643; official files ``sam_vit_b_01ec64.pth``, ``sam_vit_l_0b3195.pth`` and
``sam_vit_h_4b8939.pth``. Trained on photographs, not on medical images: a general teacher to compare the medical ones with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from segment_anything.modeling import ImageEncoderViT

from teacher_service.models.loading import load_strictly
from teacher_service.models.network import Network, SamModules, fold_decoder, network_of
from teacher_service.models.sam_parts import PATCH, PROMPT_WIDTH, block_norm, mask_decoder, prompt_encoder

INPUT_SIZE = 1024
MASK_SIZE = 256

_WINDOW = 14


@dataclass(frozen=True)
class Size:
    """One of the published sizes (segment_anything.build_sam).

    Attributes:
        id: of the architecture.
        width: of the encoder's tokens.
        depth: number of its blocks.
        heads: of each block.
        global_blocks: which of them attend to the whole image.
    """

    id: str
    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


VIT_B = Size("sam-vit-b", 768, 12, 12, (2, 5, 8, 11))
VIT_L = Size("sam-vit-l", 1024, 24, 16, (5, 11, 17, 23))
VIT_H = Size("sam-vit-h", 1280, 32, 16, (7, 15, 23, 31))


def skeleton(size: Size) -> SamModules:
    """The architecture without values, on the meta device: names and shapes cost nothing there."""
    with torch.device("meta"):
        encoder = ImageEncoderViT(
            img_size=INPUT_SIZE,
            patch_size=PATCH,
            embed_dim=size.width,
            depth=size.depth,
            num_heads=size.heads,
            out_chans=PROMPT_WIDTH,
            norm_layer=block_norm,
            use_rel_pos=True,
            window_size=_WINDOW,
            global_attn_indexes=size.global_blocks,
        )
        return SamModules(encoder, prompt_encoder(INPUT_SIZE), mask_decoder())


def build(size: Size, tensors: Mapping[str, torch.Tensor], device: str = "cpu") -> Network:
    """Load the weights.

    Raises:
        WrongArchitecture: names or shapes differ.
    """
    modules = skeleton(size)
    load_strictly(modules, tensors, size.id)
    return fold_decoder(network_of(modules, multimask=True, device=device))
