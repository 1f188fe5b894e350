"""SAM's mask decoder, rearranged: the same answer for a fraction of the work on a CPU.

Kirillov et al., "Segment Anything", arXiv 2304.02643, appendix A; reference ``segment_anything.modeling.MaskDecoder``. Half of
the reference's time goes into projecting the image's 4096 tokens for attention with about seven prompt tokens. Since the scores are
q (W k + b), the projection can be applied to the few prompt tokens instead: (W^T q) k. A bias on the attended side adds the same to
every score of a softmax and vanishes. Likewise a softmax's rows sum to one, so an output's bias can ride on its values. Up-scaling
by transposed convolutions of size and stride 2 is a product of each token with a matrix. Differences to the reference are rounding:
below 1e-5 of a probability.

Objects are decoded one after another: one image's tokens stay in the processor's cache, those of eight do not.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from teacher_service.models.onednn import GELU, NONE, FusedLinear

MOST_TOKENS = 15
"""With more prompt tokens than this, folding is no less work than projecting; the reference answers."""


class FoldedDecoder(nn.Module):
    """Stands in for a trained MaskDecoder; eval mode only, and exact for decoders of the reference's form.

    Args:
        trained: the reference, which also answers prompts of very many points.
    """

    def __init__(self, trained: Any) -> None:
        super().__init__()
        self.trained = trained
        first, norm, _, second, _ = trained.output_upscaling
        self.norm = norm
        self.up_first, self.up_second = _doubling(first), _doubling(second, GELU)

    def forward(
        self,
        image_embeddings: torch.Tensor,
        image_pe: torch.Tensor,
        sparse_prompt_embeddings: torch.Tensor,
        dense_prompt_embeddings: torch.Tensor,
        multimask_output: bool,  # noqa: FBT001  # the reference's signature
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the reference: logits [K, M, 4g, 4g] and predicted IoU [K, M] for one image and K objects."""
        own = torch.cat([self.trained.iou_token.weight, self.trained.mask_tokens.weight])
        if len(own) + sparse_prompt_embeddings.shape[1] > MOST_TOKENS:
            masks, quality = self.trained(
                image_embeddings=image_embeddings,
                image_pe=image_pe,
                sparse_prompt_embeddings=sparse_prompt_embeddings,
                dense_prompt_embeddings=dense_prompt_embeddings,
                multimask_output=multimask_output,
            )
            return masks, quality
        position = _tokens(image_pe)
        chosen = range(1, self.trained.num_mask_tokens) if multimask_output else range(1)
        answers = [
            self._object(_tokens(image_embeddings + dense[None]), position, torch.cat([own, sparse]), chosen)
            for sparse, dense in zip(sparse_prompt_embeddings, dense_prompt_embeddings, strict=True)
        ]
        return torch.stack([masks for masks, _ in answers]), torch.stack([quality for _, quality in answers])

    def _object(
        self, image: torch.Tensor, position: torch.Tensor, tokens: torch.Tensor, chosen: range
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One object: image and position [N, C], tokens [T, C] to logits [M, 4g, 4g] and quality [M]."""
        found, image = _two_ways(self.trained.transformer, image, position, tokens)
        hyper = torch.stack([self.trained.output_hypernetworks_mlps[index](found[1 + index]) for index in chosen])
        masks = self._upscaled(image) @ hyper.T
        quality = self.trained.iou_prediction_head(found[0])[chosen.start : chosen.stop]
        return _pictures(masks, math.isqrt(len(image))), quality

    def _upscaled(self, image: torch.Tensor) -> torch.Tensor:
        """[N, C] to [16 N, C / 8]; the sixteen of a token are (row, column) of the first doubling, then of the second."""
        width = self.norm.weight.shape[0]
        first = self.up_first(image).view(-1, width)
        first = functional.gelu(functional.layer_norm(first, (width,), self.norm.weight, self.norm.bias, self.norm.eps))
        second: torch.Tensor = self.up_second(first)
        return second.view(16 * len(image), -1)


def _doubling(layer: nn.ConvTranspose2d, activation: str = NONE) -> FusedLinear:
    """A transposed convolution of size and stride 2, [in, out, 2, 2]: each token becomes four, its rows before its columns."""
    assert layer.bias is not None  # noqa: S101  # the reference's have one
    return FusedLinear(layer.weight.permute(2, 3, 1, 0).flatten(0, 2), layer.bias.repeat(4), activation)


def _tokens(picture: torch.Tensor) -> torch.Tensor:
    """[1, C, g, g] to [g * g, C]."""
    return picture[0].flatten(1).T.contiguous()


def _pictures(values: torch.Tensor, grid: int) -> torch.Tensor:
    """[16 g g, M], see FoldedDecoder._upscaled, to [M, 4g, 4g]."""
    nested = values.view(grid, grid, 2, 2, 2, 2, -1)
    return nested.permute(6, 0, 2, 4, 1, 3, 5).reshape(-1, 4 * grid, 4 * grid)


def _two_ways(
    transformer: Any, image: torch.Tensor, position: torch.Tensor, prompt: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """TwoWayTransformer.forward for one object, layer by layer; [N, C], [N, C], [T, C] to tokens [T, C] and image [N, C]."""
    tokens = prompt
    for layer in transformer.layers:
        placed = image + position
        tokens = layer.norm1(_among_tokens(layer, tokens, prompt))
        tokens = layer.norm2(tokens + tokens_to_image(layer.cross_attn_token_to_image, tokens + prompt, placed, image))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        image = layer.norm4(image_to_tokens(layer.cross_attn_image_to_token, placed, tokens + prompt, tokens, image))
    last = transformer.final_attn_token_to_image
    tokens = transformer.norm_final_attn(tokens + tokens_to_image(last, tokens + prompt, image + position, image))
    return tokens, image


def _among_tokens(layer: Any, tokens: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    if layer.skip_first_layer_pe:
        alone: torch.Tensor = layer.self_attn(q=tokens[None], k=tokens[None], v=tokens[None])[0]
        return alone
    placed = (tokens + prompt)[None]
    attended: torch.Tensor = tokens + layer.self_attn(q=placed, k=placed, v=tokens[None])[0]
    return attended


def tokens_to_image(attention: Any, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A few tokens look at the image.

    Args:
        attention: a trained ``segment_anything`` Attention.
        query: [T, C].
        keys, values: [N, C].

    Returns:
        [T, C].
    """
    heads, count = attention.num_heads, len(query)
    folded = _folded(attention.q_proj(query), attention.k_proj.weight, heads) / _root(attention)
    seen = torch.softmax(folded @ keys.T, dim=-1) @ values
    into = attention.v_proj.weight.view(heads, -1, values.shape[1])
    narrow = (seen.view(heads, count, -1) @ into.transpose(1, 2)).transpose(0, 1).reshape(count, -1)
    out: torch.Tensor = attention.out_proj(narrow + attention.v_proj.bias)
    return out


def image_to_tokens(
    attention: Any, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, image: torch.Tensor
) -> torch.Tensor:
    """The image looks at a few tokens; what it sees is added to it.

    Args:
        attention: a trained ``segment_anything`` Attention.
        query: [N, C].
        keys, values: [T, C].
        image: [N, C].

    Returns:
        [N, C].
    """
    heads, count = attention.num_heads, len(keys)
    key = attention.k_proj(keys)
    folded = _folded(key, attention.q_proj.weight, heads) / _root(attention)
    per_head = key.view(count, heads, -1) * attention.q_proj.bias.view(heads, -1)
    bias = per_head.sum(dim=-1).T.reshape(-1) / _root(attention)
    scores = torch.addmm(bias[:, None], folded, query.T).view(heads, count, -1)
    out = _folded(attention.v_proj(values), attention.out_proj.weight.T.contiguous(), heads) + attention.out_proj.bias / heads
    # Over the tokens, not along the image: a softmax of a few values that lie together is not vectorised.
    return torch.addmm(image, torch.softmax(scores, dim=1).view(heads * count, -1).T, out)


def _folded(narrow: torch.Tensor, weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Each head's part [T, D / h] of narrow through its rows of weight [D, C]: [h T, C]."""
    parts = narrow.view(len(narrow), heads, -1).transpose(0, 1)
    return (parts @ weight.view(heads, -1, weight.shape[1])).flatten(0, 1)


def _root(attention: Any) -> float:
    return math.sqrt(attention.internal_dim / attention.num_heads)
