"""Where the teacher is told to look in each image of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fed_node.data.dataset import Sample
from fedmentor.errors import DataError
from fedmentor.teacher.contract import Prompt
from fedmentor.teacher.prompt_table import named_table
from fedmentor.teacher.prompts import AUTOMATIC, mask_box, mask_margin


@dataclass(frozen=True)
class PromptSource:
    """A rule that gives every image its prompt.

    Attributes:
        name: for the record: ``central``, ``lungs``, ``whole``, ``mask``, ``mask:5``; of a table, its kind and SHA-256.
        prompt: (sample, (H, W) of its image) to a prompt; raises DataError where it has none.
    """

    name: str
    prompt: Callable[[Sample, tuple[int, int]], Prompt]


def prompt_source(choice: str) -> PromptSource:
    """Read the rule that a person named.

    Args:
        choice: an automatic prompt (fedmentor.teacher.prompts.AUTOMATIC), ``mask`` or ``mask:PIXELS`` (the box around the image's
            own mask, wider by so much), or the path of a table (fedmentor.teacher.prompt_table).

    Raises:
        ConfigError: neither a rule nor a readable file.
        DataError: the file is not of that form.
    """
    if choice in AUTOMATIC:
        return PromptSource(choice, lambda _sample, size: Prompt(AUTOMATIC[choice](size)))
    if (margin := mask_margin(choice)) is not None:
        return PromptSource(choice, lambda sample, size: _around_mask(sample, size, margin))
    table = named_table(choice)
    return PromptSource(table.name, lambda sample, _size: table.of(sample.id))


def _around_mask(sample: Sample, size: tuple[int, int], margin: float) -> Prompt:
    truth = sample.truth(size)
    if truth is None:
        raise DataError(f"image {sample.id!r} has no mask to draw a box around", cure="use --prompt central or lungs")
    return Prompt(boxes=mask_box(truth, margin))
