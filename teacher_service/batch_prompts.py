"""What a batch asks about each image: the same choices, under the same names, as a distillation that learns from the answers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedmentor.errors import DataError, UnreadableImage
from fedmentor.teacher.contract import Prompt
from fedmentor.teacher.images import read_image
from fedmentor.teacher.prompt_table import named_table
from fedmentor.teacher.prompts import AUTOMATIC, mask_box, mask_margin

IMAGES_FOLDER = "images"
MASKS_FOLDER = "masks"


@dataclass(frozen=True)
class PromptRule:
    """Gives every image its prompt.

    Attributes:
        prompt: (image file, (H, W)) to what is asked about it; raises DataError where there is nothing to ask.
        ids: images that the rule names one by one; empty for rules that fit any.
    """

    prompt: Callable[[Path, tuple[int, int]], Prompt]
    ids: Collection[str] = ()


def prompt_rule(choice: str) -> PromptRule:
    """Read the rule that a person named.

    Args:
        choice: an automatic prompt (fedmentor.teacher.prompts.AUTOMATIC), ``mask`` or ``mask:PIXELS`` (the box around
            ``masks/ID.png``, wider by so much), or the path of a table (fedmentor.teacher.prompt_table).

    Raises:
        ConfigError: neither a rule nor a readable file.
        DataError: the file is not of that form.
    """
    if choice in AUTOMATIC:
        return PromptRule(lambda _path, size: Prompt(AUTOMATIC[choice](size)))
    if (margin := mask_margin(choice)) is not None:
        return PromptRule(partial(_around_mask, margin))
    table = named_table(choice)
    return PromptRule(lambda image, _size: table.of(image.stem), table.prompts.keys())


def _around_mask(margin: float, image: Path, size: tuple[int, int]) -> Prompt:
    """The box around everything that is not zero in an image's mask."""
    dataset = image.parent.parent if image.parent.name == IMAGES_FOLDER else image.parent
    name = f"{MASKS_FOLDER}/{image.stem}.png"
    try:
        mask = read_image((dataset / name).read_bytes())
    except OSError as error:
        raise DataError(f"{name} cannot be opened: {error.strerror}") from error
    except UnreadableImage as error:
        raise DataError(f"{name}: {error.message}", cure=error.cure) from error
    if mask.shape != size:
        raise DataError(f"{name} has shape {mask.shape}, its image {size}")
    return Prompt(mask_box(mask, margin))
