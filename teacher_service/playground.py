"""A page to try a teacher, served to this machine's browser: drop an image, draw, look, keep.

One self-contained page and four calls, which fedmentor.pages serves on loopback: another site that is open in the same browser
cannot use them. The teacher's token stays in this process. Images are held in memory, the last few, and written nowhere.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import numpy as np

from fedmentor.errors import DataError, FedMentorError, PromptRefused, UnknownImage
from fedmentor.ids import Digest, digest
from fedmentor.pages.document import page_answer
from fedmentor.pages.values import Answer, Asked, Call, Route, Served, json_answer
from fedmentor.teacher.client import TeacherClient
from fedmentor.teacher.contract import Pixels, Prompt, image_digest
from fedmentor.teacher.images import MAX_IMAGE_BYTES, png_bytes, read_image
from fedmentor.teacher.payload import encode_answer, encode_error
from fedmentor.teacher.prompts import AUTOMATIC
from fedmentor.teacher.question import Question, Wish, question_from_json

MAX_QUESTION_BYTES = 1 << 20
HELD_IMAGES = 8
_FULL = 255


class Playground:
    """What the page's calls do.

    Args:
        client: of the teacher.
    """

    def __init__(self, client: TeacherClient) -> None:
        self._client = client
        self._held: OrderedDict[Digest, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def card(self, _body: bytes) -> dict[str, Any]:
        """Who answers."""
        return self._client.card().to_json()

    def image(self, body: bytes) -> dict[str, Any]:
        """Read a picture file: its digest, its size, and what it looks like."""
        pixels = read_image(body)
        name = image_digest(pixels)
        with self._lock:
            self._held[name] = pixels
            while len(self._held) > HELD_IMAGES:
                self._held.popitem(last=False)
        picture = base64.b64encode(png_bytes(pixels)).decode()
        return {"image_id": name, "height": pixels.shape[0], "width": pixels.shape[1], "png_base64": picture}

    def ask(self, body: bytes) -> dict[str, Any]:
        """The union of all objects' probabilities at the size of the image, as a grey picture."""
        pixels, prompt = self._question(body)
        wish = Wish(outputs=("probability", "predicted_iou"), encoding="uint8", size="original", compress="zlib")
        told = self._client.ask(pixels, Question(prompt, wish=wish))
        union = np.rint(told.arrays["probability"].max(axis=0) * _FULL).astype(np.uint8)
        return {
            "probability_png_base64": base64.b64encode(png_bytes(union)).decode(),
            "predicted_iou": [round(float(value), 4) for value in told.arrays["predicted_iou"]],
            "boxes": [[box.x0, box.y0, box.x1, box.y1] for box in told.prompt.boxes],
            "timings_ms": dict(told.timings_ms),
        }

    def soft(self, body: bytes) -> bytes:
        """The soft label as a student would get it: safetensors."""
        pixels, prompt = self._question(body)
        return encode_answer(self._client.soften(pixels, prompt))

    def _question(self, body: bytes) -> tuple[Pixels, Prompt]:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise PromptRefused("the question is not JSON") from error
        if not isinstance(value, dict) or not isinstance(value.get("image_id"), str):
            raise DataError("the question names no image")
        question = question_from_json(value)
        with self._lock:
            pixels = self._held.get(digest(value["image_id"]))
        if pixels is None:
            raise UnknownImage("this image is no longer held", cure="drop it again")
        if isinstance(question.prompt, str):
            return pixels, Prompt(AUTOMATIC[question.prompt]((pixels.shape[0], pixels.shape[1])))
        return pixels, question.prompt


def playground(client: TeacherClient, observe: Callable[[str], None]) -> Served:
    """The page and its calls, for fedmentor.pages.server.

    Args:
        client: of the teacher.
        observe: is told the traceback of what failed without a sentence for the page.
    """
    held, key = Playground(client), secrets.token_urlsafe(24)
    page = page_answer(files("teacher_service").joinpath("playground.html").read_text(encoding="utf-8").replace("@@KEY@@", key))
    calls = {
        "/card": Call(_told(held.card), MAX_QUESTION_BYTES),
        "/image": Call(_told(held.image), MAX_IMAGE_BYTES),
        "/ask": Call(_told(held.ask), MAX_QUESTION_BYTES),
        "/soft": Call(_told(held.soft), MAX_QUESTION_BYTES),
    }
    return Served("the page", {"/": lambda _asked: page}, observe, calls, key=key)


def _told(work: Callable[[bytes], Any]) -> Route:
    """A call's answer: bytes as they are, anything else as JSON, an error as the teacher's doors tell it."""

    def route(asked: Asked) -> Answer:
        try:
            value = work(asked.body)
        except FedMentorError as error:
            body = encode_error(error)
            return json_answer(body, HTTPStatus(body["status"]))
        return Answer(value, "application/octet-stream") if isinstance(value, bytes) else json_answer(value)

    return route
