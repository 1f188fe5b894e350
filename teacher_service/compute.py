"""Where a teacher computes, how exactly, and how much at a time. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from fedmentor.errors import ConfigError

FLOAT32 = "float32"
PRECISIONS = (FLOAT32, "float16", "bfloat16")

MAX_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class Compute:
    """How a teacher computes.

    Attributes:
        device: as torch names it, e.g. ``cpu`` or ``cuda:0``.
        precision: of matrix products and convolutions, one of PRECISIONS; norms and soft-maxima stay float32 (torch.autocast).
            ``float32`` is IEEE 754's on every device, never TF32.
        images_at_once: pictures encoded together, where several are asked about.

    Raises:
        ConfigError: out of range, or half precision on a CPU.
    """

    device: str = "cpu"
    precision: str = FLOAT32
    images_at_once: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"{self.precision[:40]!r} is not a precision", cure=f"use one of {', '.join(PRECISIONS)}")
        if self.precision != FLOAT32 and self.device.partition(":")[0] == "cpu":
            raise ConfigError(
                f"{self.precision} is for a GPU; on a CPU, bfloat16 makes soft labels differ by up to 0.38",
                cure=f"use {FLOAT32}, or a machine with a GPU",
            )
        if not 1 <= self.images_at_once <= MAX_IMAGES_AT_ONCE:
            raise ConfigError(f"{self.images_at_once} images at once are out of range", cure=f"give 1 to {MAX_IMAGES_AT_ONCE}")

    @property
    def mark(self) -> str:
        """What a pre-processing id gets after it, so that labels of two precisions never meet in a cache; empty for float32."""
        return "" if self.precision == FLOAT32 else f"+{self.precision}"


ON_CPU = Compute()
