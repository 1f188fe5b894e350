"""What every SAM-like teacher is: an image encoder that runs once a picture, and a decoder that runs once a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import nn

from teacher_service.models.decoding import FoldedDecoder

Points = tuple[torch.Tensor, torch.Tensor]
"""float32 [K, N, 2] x, y on the input, and int [K, N] labels: 1 foreground, 0 background."""

_LARGE_GRID = 32

OBJECTS_AT_ONCE = 8
"""Objects decoded together. LiteMedSAM's decoder needs about 25 MB for each; sixty-four at once would need more than a gigabyte."""


class SamModules(nn.Module):
    """The three parts under the names that the authors' checkpoints use."""

    def __init__(self, image_encoder: nn.Module, prompt_encoder: nn.Module, mask_decoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder


@dataclass(frozen=True)
class Network:
    """A loaded teacher on a device, ready to answer.

    Attributes:
        modules: the parts, in eval mode.
        multimask: the decoder offers three candidate masks for each object, not one.
        position: the image grid's positional encoding [1, 256, g, g], computed once.
        half: type of matrix products and convolutions (torch.autocast); None for float32. What goes in and out stays float32.
    """

    modules: SamModules
    multimask: bool
    position: torch.Tensor
    half: torch.dtype | None = None

    @torch.inference_mode()
    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Embed pictures.

        Args:
            image: float32 [B, 3, S, S], pre-processed.

        Returns:
            float32 [B, 256, g, g].
        """
        on_device = image.to(self.position.device, memory_format=torch.channels_last)
        with self._precision():
            embedding: torch.Tensor = self.modules.image_encoder(on_device).float()
        # One layout whether it comes from the encoder or from a disk: the last bit of an answer would otherwise depend on it.
        return embedding.contiguous()

    @torch.inference_mode()
    def decode(
        self, embedding: torch.Tensor, boxes: torch.Tensor | None, points: Points | None, hints: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Segment K objects of one picture.

        Args:
            embedding: what encode returned.
            boxes: float32 [K, 4] x0, y0, x1, y1 on the input, or None.
            points: coordinates and labels for the same K objects, or None.
            hints: float32 [K, 1, 4g, 4g] rough masks as the network takes them, or None. One of the three is given.

        Returns:
            float32 logits [K, h, w] and the teacher's own IoU estimates [K].
        """
        return best(*self.decode_all(embedding, boxes, points, hints))

    @torch.inference_mode()
    def decode_all(
        self, embedding: torch.Tensor, boxes: torch.Tensor | None, points: Points | None, hints: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Like decode, with every mask that the decoder offers: [K, M, h, w] and [K, M], M is 3 with multimask, else 1."""
        parts = zip(_groups(boxes), _points_groups(points), _groups(hints), strict=False)
        decoded = [self.candidates(embedding, *part) for part in parts]
        return torch.cat([logits for logits, _ in decoded]), torch.cat([quality for _, quality in decoded])

    @torch.inference_mode()
    def candidates(
        self, embedding: torch.Tensor, boxes: torch.Tensor | None, points: Points | None, hints: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Like decode_all, in one go however many objects there are."""
        device = self.position.device
        with self._precision():
            sparse, dense = self.modules.prompt_encoder(
                points=None if points is None else (points[0].to(device), points[1].to(device)),
                boxes=None if boxes is None else boxes.to(device),
                masks=None if hints is None else hints.to(device),
            )
            masks, quality = self.modules.mask_decoder(
                image_embeddings=embedding,
                image_pe=self.position,
                sparse_prompt_embeddings=sparse.to(device),  # made on the CPU where a hint is all there is
                dense_prompt_embeddings=dense,
                multimask_output=self.multimask,
            )
        return masks.float(), quality.float()

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.position.device.type, self.half, enabled=self.half is not None)


def _groups(tensor: torch.Tensor | None) -> Iterator[torch.Tensor | None]:
    """OBJECTS_AT_ONCE rows at a time; None for ever if there are none."""
    return repeat(None) if tensor is None else iter(torch.split(tensor, OBJECTS_AT_ONCE))


def _points_groups(points: Points | None) -> Iterator[Points | None]:
    if points is None:
        return repeat(None)
    return zip(torch.split(points[0], OBJECTS_AT_ONCE), torch.split(points[1], OBJECTS_AT_ONCE), strict=True)


def best(masks: torch.Tensor, quality: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidate with the highest predicted IoU, object by object: a batch shares no winner."""
    winners = quality.argmax(dim=1)
    rows = torch.arange(winners.shape[0], device=winners.device)
    return masks[rows, winners], quality[rows, winners]


def channels_last(module: nn.Module) -> None:
    """Lay four-dimensional weights out as the convolutions like them, in place."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's own annotations


def fold_decoder(network: Network) -> Network:
    """Swap the decoder for the one that needs less arithmetic, in place, where that pays.

    On a CPU, and where the image has many tokens: a GPU, and SAM-Med2D's 256 tokens, are faster with all objects at once.
    """
    if network.position.is_cpu and network.position.shape[-1] >= _LARGE_GRID:
        network.modules.mask_decoder = FoldedDecoder(network.modules.mask_decoder)
    return network


def network_of(modules: SamModules, *, multimask: bool, device: str) -> Network:
    """Put loaded parts on a device.

    The ``train`` before ``eval`` drops what LiteMedSAM derives from its weights in ``eval`` and would otherwise keep from before
    they were loaded.
    """
    _without_tf32(torch.device(device))
    modules.train().eval().requires_grad_(requires_grad=False)
    modules.to(device)
    channels_last(modules.image_encoder)
    with torch.inference_mode():
        position = modules.prompt_encoder.get_dense_pe()  # type: ignore[operator]  # untyped third-party class
    return Network(modules, multimask, position)


def _without_tf32(device: torch.device) -> None:
    """Keep a GPU from rounding float32 operands to ten bits, which cuDNN's convolutions do unasked (torch.backends.cudnn)."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
