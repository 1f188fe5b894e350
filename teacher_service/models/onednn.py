"""Layers with bias and activation in one pass of oneDNN, where this torch has it; the same answer everywhere else.

``torch.nn.functional.linear`` on a CPU first writes the bias into the result and then multiplies onto it; an activation reads and
writes everything once more. For the tens of thousands of tokens here that traffic costs as much as the arithmetic. PyTorch's own
compiler calls the operators below; they are not part of its public interface, so they are looked for once and never relied on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

NONE = "none"
GELU = "gelu"
"""With the error function, not its approximation."""

_TYPICAL_ROWS = 4096
"""What oneDNN lays the weights out for; any other number of rows is right, too."""


def onednn_has_it() -> bool:
    """Whether this torch brings the operators, and they work on this processor."""
    try:
        weight, row = torch.eye(2), torch.ones(1, 2)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)  # noqa: SLF001  # see the module's text
        told = torch.ops.mkldnn._linear_pointwise(row, packed, None, GELU, [], NONE)  # noqa: SLF001  # see the module's text
        picture = _convolved(torch.ones(1, 2, 3, 3), nn.Conv2d(2, 2, 3, groups=2), 1)
    except (AttributeError, RuntimeError):
        return False
    return bool(torch.allclose(told, functional.gelu(row))) and picture.shape == (1, 2, 1, 3)


def _convolved(picture: torch.Tensor, layer: nn.Conv2d, stride: int) -> torch.Tensor:
    told: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001  # see the module's text
        picture, layer.weight, layer.bias, [0, 1], [stride, stride], [1, 1], layer.groups, GELU, [], NONE
    )
    return told


HAS_ONEDNN = onednn_has_it()


class FusedLinear(nn.Module):
    """``activation(x W^T + b)`` for trained values; inference only.

    Args:
        weight: [out, in].
        bias: [out], or None.
        activation: NONE or GELU.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: str = NONE) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().contiguous(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)
        self.activation = activation
        # Not a buffer: oneDNN's layout cannot be moved to another device or written to a file.
        self._packed: Any = None
        if HAS_ONEDNN and self.weight.is_cpu and self.weight.dtype == torch.float32:
            with torch.inference_mode():
                self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, _TYPICAL_ROWS)  # noqa: SLF001  # see the module's text

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        if self._packed is not None and rows.is_cpu and rows.dtype == torch.float32:
            fused: torch.Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001  # see the module's text
                rows, self._packed, self.bias, self.activation, [], NONE
            )
            return fused
        plain = functional.linear(rows, self.weight, self.bias)
        return functional.gelu(plain) if self.activation == GELU else plain


def of_linear(layer: nn.Linear, activation: str = NONE) -> FusedLinear:
    """From a trained layer."""
    return FusedLinear(layer.weight, layer.bias, activation)


def of_pointwise(layer: nn.Conv2d, activation: str = NONE) -> FusedLinear:
    """From a trained 1x1 convolution, which is a linear layer on every pixel's channels."""
    return FusedLinear(layer.weight.flatten(1), layer.bias, activation)


class DepthwiseGelu(nn.Module):
    """A trained 3x3 depthwise convolution and the GELU after it; zeros are padded on the left and the right only."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer, self.stride, self.fused = layer, int(layer.stride[0]), HAS_ONEDNN

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, C, (H - 3) / stride + 1, W / stride]."""
        if self.fused and picture.is_cpu and picture.dtype == torch.float32:
            return _convolved(picture, self.layer, self.stride)
        layer = self.layer
        return functional.gelu(functional.conv2d(picture, layer.weight, layer.bias, self.stride, (0, 1), groups=layer.groups))
