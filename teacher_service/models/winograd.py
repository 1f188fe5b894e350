"""A 3x3 convolution with a quarter of the multiplications, for the one large convolution of LiteMedSAM's encoder.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, F(4x4, 3x3): tiles of 6x6 inputs and the
kernels are transformed, multiplied channel by channel in 36 matrix products, and transformed back to 4x4 outputs. A transform of
rows and columns is one product with the Kronecker square of the paper's matrix. Differences to a plain convolution are rounding:
below 1e-5 of the largest value.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

_OUT = 4
_IN = 6
_TILE_ROWS = 4
"""Rows of tiles at a time, so that what lies between the products stays in the processor's cache."""

# Section 4.3 of the paper: B^T, G and A^T.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
_KERNEL_SCALE = 24
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class WinogradConvolution(nn.Module):
    """A trained convolution 3x3 of stride 1, zeros padded all around, without bias; inference only.

    Args:
        trained: of that kind.
    """

    into: torch.Tensor
    kernels: torch.Tensor
    back: torch.Tensor

    def __init__(self, trained: nn.Conv2d) -> None:
        super().__init__()
        into, back = torch.tensor(_INPUT, dtype=torch.float32), torch.tensor(_OUTPUT, dtype=torch.float32)
        kernel = torch.tensor(_KERNEL, dtype=torch.float64) / _KERNEL_SCALE
        # Not an einsum of three: its order, and so the last bits, would depend on whether opt_einsum happens to be installed.
        transformed = (kernel @ trained.weight.detach().double() @ kernel.T).permute(2, 3, 1, 0)
        self.register_buffer("into", torch.kron(into, into), persistent=False)
        self.register_buffer("kernels", transformed.flatten(0, 1).float().contiguous(), persistent=False)
        self.register_buffer("back", torch.kron(back, back), persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """[B, H, W, C], H and W multiples of four, to [B, H, W, C']."""
        batch, height, width, _ = pictures.shape
        convolved = pictures.new_empty(batch, height, width, self.kernels.shape[2])
        step = _OUT * _TILE_ROWS
        for picture, target in zip(functional.pad(pictures, (0, 0, 1, 1, 1, 1)), convolved, strict=True):
            for top in range(0, height, step):
                self._strip(picture[top : top + step + 2], target[top : top + step])
        return convolved

    def _strip(self, rows: torch.Tensor, target: torch.Tensor) -> None:
        """Rows [h + 2, W + 2, C] into target [h, W, C']."""
        tiles = rows.unfold(0, _IN, _OUT).unfold(1, _IN, _OUT).permute(3, 4, 0, 1, 2)
        down, across, channels = tiles.shape[2:]
        transformed = (self.into @ tiles.reshape(_IN * _IN, -1)).view(_IN * _IN, down * across, channels)
        products = torch.bmm(transformed, self.kernels)
        outputs = (self.back @ products.view(_IN * _IN, -1)).view(_OUT, _OUT, down, across, -1)
        target.view(down, _OUT, across, _OUT, -1).copy_(outputs.permute(2, 0, 3, 1, 4))
