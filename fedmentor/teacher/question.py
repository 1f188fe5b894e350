"""One question to a teacher, whatever the door: which image, what to segment, and what to send back in which form. Pure.

The JSON form is the ``prompt`` field of a request; docs/teacher.schema.json describes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmentor.errors import ConfigError, PromptRefused
from fedmentor.ids import Digest, digest
from fedmentor.teacher.grey_levels import AS_IT_IS, View
from fedmentor.teacher.prompt_form import Prompt, prompt_from_json
from fedmentor.teacher.prompts import AUTOMATIC

SAFETENSORS = "safetensors"
JSON = "json"

FORMS = (SAFETENSORS, JSON)
"""For programs, and for people."""

OUTPUTS = ("logits", "probability", "mask", "predicted_iou", "embedding")
ENCODINGS = ("float16", "uint16", "uint8")
"""Of probabilities; logits are always float16."""

SIZES = ("native", 256, "original")
"""The teacher's own maps; those maps at 256x256; the image as sent."""

MASKS = (1, 3)
COMPRESSIONS = ("none", "zlib")
MASK_FORMATS = ("png", "rle")

DEFAULT_AUTO = "central"
"""What is segmented where a request has no prompt at all."""

MAX_FRAME = 100_000
MAX_LEVEL = 1e9

_PROMPT_KEYS = {"boxes", "points", "objects"}
_KEYS = _PROMPT_KEYS | {
    "answer",
    "architecture",
    "auto",
    "compress",
    "encoding",
    "frame",
    "image_id",
    "mask_format",
    "masks",
    "outputs",
    "size",
    "window",
}


@dataclass(frozen=True)
class Wish:
    """What to send back.

    Attributes:
        form: SAFETENSORS or JSON.
        outputs: names of OUTPUTS, safetensors only.
        encoding: of the probability, one of ENCODINGS.
        size: of every map, one of SIZES; safetensors only.
        masks: 1, the one with the highest predicted IoU; or 3, all that the decoder offers, for each object.
        compress: ``zlib`` packs each map (level 1); safetensors only.
        mask_format: ``png`` or ``rle`` of the JSON form.
    """

    form: str = SAFETENSORS
    outputs: tuple[str, ...] = ("logits", "predicted_iou")
    encoding: str = "float16"
    size: str | int = "native"
    masks: int = 1
    compress: str = "none"
    mask_format: str = "png"

    def to_json(self) -> dict[str, Any]:
        """The members of a question's JSON form that differ from the defaults, and always ``answer``."""
        plain = SOFT_LABELS
        value: dict[str, Any] = {"answer": self.form}
        for name in ("encoding", "size", "masks", "compress", "mask_format"):
            if getattr(self, name) != getattr(plain, name):
                value[name] = getattr(self, name)
        if self.outputs != plain.outputs:
            value["outputs"] = list(self.outputs)
        return value


SOFT_LABELS = Wish()
"""What a student learns from: the best mask's logits of each object, exact to float16."""


@dataclass(frozen=True)
class Question:
    """Everything a request says beside the image itself.

    Attributes:
        prompt: what to segment, or the name of an automatic prompt (fedmentor.teacher.prompts.AUTOMATIC).
        image_id: the image's digest, instead of the image, where the teacher has seen it before.
        wish: what to send back.
        view: frame and window of the image file.
        architecture: refuse to be answered by any other; None for whichever teacher answers.
    """

    prompt: Prompt | str
    image_id: Digest | None = None
    wish: Wish = SOFT_LABELS
    view: View = AS_IT_IS
    architecture: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        value: dict[str, Any] = {"auto": self.prompt} if isinstance(self.prompt, str) else self.prompt.to_json()
        value |= self.wish.to_json()
        if self.image_id is not None:
            value["image_id"] = self.image_id
        if self.view.frame is not None:
            value["frame"] = self.view.frame
        if self.view.window is not None:
            value["window"] = list(self.view.window)
        if self.architecture is not None:
            value["architecture"] = self.architecture
        return value


def question_from_json(value: Mapping[str, Any]) -> Question:
    """Read the JSON form; form only, not against an image.

    Raises:
        PromptRefused: an unknown member, or one of another form than documented.
    """
    if not value.keys() <= _KEYS:
        unknown = min(str(key)[:40] for key in value.keys() - _KEYS)
        raise PromptRefused(f"a prompt has no member {unknown!r}", cure=f"it has {', '.join(sorted(_KEYS))}")
    return Question(
        prompt=_prompt(value),
        image_id=_image_id(value.get("image_id")),
        wish=_wish(value),
        view=View(_frame(value.get("frame")), _window(value.get("window"))),
        architecture=_architecture(value.get("architecture")),
    )


def _prompt(value: Mapping[str, Any]) -> Prompt | str:
    given = {key: value[key] for key in _PROMPT_KEYS if key in value}
    if "auto" not in value:
        return prompt_from_json(given)
    if any(given.values()):
        raise PromptRefused("'auto' does not go together with boxes, points or objects")
    return str(_one_of(value["auto"], tuple(AUTOMATIC), "'auto'"))


def _wish(value: Mapping[str, Any]) -> Wish:
    plain = SOFT_LABELS
    outputs = value.get("outputs", list(plain.outputs))
    if not isinstance(outputs, list) or not 1 <= len(outputs) <= len(OUTPUTS):
        raise PromptRefused(f"'outputs' is a list with some of {', '.join(OUTPUTS)}")
    return Wish(
        form=_one_of(value.get("answer", plain.form), FORMS, "'answer'"),
        outputs=tuple(dict.fromkeys(_one_of(name, OUTPUTS, "an output") for name in outputs)),
        encoding=_one_of(value.get("encoding", plain.encoding), ENCODINGS, "'encoding'"),
        size=_one_of(value.get("size", plain.size), SIZES, "'size'"),
        masks=_one_of(value.get("masks", plain.masks), MASKS, "'masks'"),
        compress=_one_of(value.get("compress", plain.compress), COMPRESSIONS, "'compress'"),
        mask_format=_one_of(value.get("mask_format", plain.mask_format), MASK_FORMATS, "'mask_format'"),
    )


def _one_of(value: Any, allowed: tuple[Any, ...], what: str) -> Any:
    # True equals 1 and 3.0 equals 3 in Python, but neither is what the schema says.
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        raise PromptRefused(f"{what} is one of {', '.join(str(choice) for choice in allowed)}")
    return value


def _image_id(value: object) -> Digest | None:
    if value is None:
        return None
    try:
        return digest(value if isinstance(value, str) else "")
    except ConfigError as error:
        raise PromptRefused("an image_id is the SHA-256 that an earlier answer named: 64 hexadecimal digits") from error


def _frame(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_FRAME:
        raise PromptRefused(f"a frame is a whole number from 0 to {MAX_FRAME}")
    return value


def _window(value: object) -> tuple[float, float] | None:
    if value is None:
        return None
    form = "a window is [low, high] with low < high"
    if not isinstance(value, list) or len(value) != len(("low", "high")):
        raise PromptRefused(form)
    if not all(isinstance(level, (int, float)) and not isinstance(level, bool) and abs(level) <= MAX_LEVEL for level in value):
        raise PromptRefused(form)
    low, high = (float(level) for level in value)
    if not (math.isfinite(low) and low < high):
        raise PromptRefused(form)
    return low, high


def _architecture(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise PromptRefused("an architecture is named by its id, e.g. 'sam-med2d'")
    return value
