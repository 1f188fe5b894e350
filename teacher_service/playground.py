"""A page to try a teacher, served to this machine's browser: drop an image, draw, look, keep.

One self-contained page and four calls, all on loopback. The teacher's token stays in this process. Another site that is open in the
same browser cannot use the page's calls: they want the key that only the page holds, and answer to this address's name only (which
ends DNS rebinding). Images are held in memory, the last few, and written nowhere.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import numpy as np

from fedmentor.errors import DataError, FedMentorError, LimitExceeded, PromptRefused, UnknownImage
from fedmentor.ids import Digest, digest
from fedmentor.teacher.client import TeacherClient
from fedmentor.teacher.contract import Pixels, Prompt, image_digest
from fedmentor.teacher.images import MAX_IMAGE_BYTES, png_bytes, read_image
from fedmentor.teacher.payload import encode_answer, encode_error
from fedmentor.teacher.prompts import AUTOMATIC
from fedmentor.teacher.question import Question, Wish, question_from_json

HOST = "127.0.0.1"
MAX_QUESTION_BYTES = 1 << 20
HELD_IMAGES = 8
_FULL = 255

_HEADERS = {
    # Nothing from elsewhere is loaded, and nobody may frame the page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


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


class PlaygroundServer(ThreadingHTTPServer):
    """The page and its calls on loopback; call ``serve_forever``.

    Args:
        client: of the teacher.
        port: 0 for a free one.

    Attributes:
        key: what the page's calls show.
        page: the page, with the key in it.
        calls: path to what it does, and the most bytes that it takes.

    Raises:
        OSError: the port cannot be used.
    """

    daemon_threads = True

    def __init__(self, client: TeacherClient, port: int = 0) -> None:
        playground = Playground(client)
        self.key = secrets.token_urlsafe(24)
        self.page = files("teacher_service").joinpath("playground.html").read_text().replace("@@KEY@@", self.key).encode()
        self.calls: dict[str, tuple[Callable[[bytes], Any], int]] = {
            "/card": (playground.card, MAX_QUESTION_BYTES),
            "/image": (playground.image, MAX_IMAGE_BYTES),
            "/ask": (playground.ask, MAX_QUESTION_BYTES),
            "/soft": (playground.soft, MAX_QUESTION_BYTES),
        }
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: PlaygroundServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """The page."""
        if self._is_for_us() and self.path == "/":
            self._reply(200, self.server.page, "text/html; charset=utf-8")
        else:
            self._refuse(404, "not_found", "there is nothing here")

    def do_POST(self) -> None:
        """A call of the page."""
        shown = self.headers.get("X-FedMentor-Key", "")
        if not self._is_for_us() or not hmac.compare_digest(shown.encode(), self.server.key.encode()):
            self._refuse(403, "forbidden", "open the page at the address that the command printed")
        elif self.path not in self.server.calls:
            self._refuse(404, "not_found", "there is nothing here")
        else:
            self._call(*self.server.calls[self.path])

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the base class's name
        """Say nothing: a person looks at the page, not at a log."""

    def _is_for_us(self) -> bool:
        return self.headers.get("Host") in {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}

    def _call(self, work: Callable[[bytes], Any], limit: int) -> None:
        try:
            value = work(self._body(limit))
        except FedMentorError as error:
            body = encode_error(error)
            self._reply(body["status"], json.dumps(body).encode(), "application/json")
            return
        is_bytes = isinstance(value, bytes)
        media_type = "application/octet-stream" if is_bytes else "application/json"
        self._reply(200, value if is_bytes else json.dumps(value).encode(), media_type)

    def _body(self, limit: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()) or int(length) > limit:
            self.close_connection = True  # what is left of the body is not read
            raise LimitExceeded(f"a message without a length, or over the limit of {limit} bytes")
        return self.rfile.read(int(length))

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.close_connection = True  # the body, if there is one, is not read
        self._reply(
            status, json.dumps({"status": status, "code": code, "message": message, "cure": ""}).encode(), "application/json"
        )

    def _reply(self, status: int, body: bytes, media_type: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": media_type, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if self.close_connection:
            # Said aloud: a client that was not told sends its next request into a closed connection.
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
