"""Asking a teacher elsewhere: one client for every door, with retries, deadlines, bounded concurrency and token renewal."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from fedmentor.errors import FedMentorError, LimitExceeded, TeacherUnreachable, UnknownImage
from fedmentor.ids import Digest
from fedmentor.teacher.contract import Pixels, Prompt, SoftLabels, TeacherCard, check_prompt, image_digest
from fedmentor.teacher.door import Absent, Busy, Door, Part, Response, TokenRefused, TryAgain
from fedmentor.teacher.endpoint import Endpoint, pace_at, read_token
from fedmentor.teacher.grey_levels import AS_IT_IS
from fedmentor.teacher.http_door import PREDICTIONS, HttpDoor
from fedmentor.teacher.images import MAX_IMAGE_BYTES, check_pixels, png_bytes
from fedmentor.teacher.pace import Pace
from fedmentor.teacher.payload import (
    DESCRIBE,
    IMAGE_FIELD,
    PROMPT_FIELD,
    Outputs,
    decode_answer,
    decode_card,
    decode_error,
    decode_outputs,
    request_question,
)
from fedmentor.teacher.question import SAFETENSORS, Question

__all__ = ["PREDICTIONS", "Patience", "TeacherClient", "TorchServeTeacher"]

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0
_TOKEN_PAUSES_S = (0.0, 0.2, 1.0)
"""Before a refused token is read again: TorchServe refuses an old one a moment before it has written down the new one."""

_REMEMBERED_IMAGES = 4096

_RIGHT_KEY = "give the key_file.json of the running teacher"

Client = TypeVar("Client", bound="TeacherClient")


@dataclass(frozen=True)
class Patience:
    """How long a client waits, and how much it asks at a time.

    Attributes:
        answer_s: for the answer to one request, its time in the server's queue included.
        busy_s: in all, between tries, while the server is up but has no worker free or has just lost one.
        absent_s: in all, between tries, while nothing listens at an address that never answered, or its token cannot be read.
        lost_s: in all, between tries, while nothing listens where somebody answered before: its keeper starts it again.
        in_flight: requests at a time; other threads wait for their turn, so that the server's queue stays short.
    """

    answer_s: float = Pace().answer_s
    busy_s: float = 120.0
    absent_s: float = 5.0
    lost_s: float = 120.0
    in_flight: int = 8

    @staticmethod
    def of(pace: Pace) -> Patience:
        """What a teacher of that pace needs."""
        return Patience(pace.answer_s, float(pace.response_s), lost_s=float(pace.response_s), in_flight=pace.in_flight)


class TeacherClient:
    """Implements fedmentor.teacher.contract.Teacher through a door. Safe to use from several threads.

    Predictions change nothing on the server, so every failed request may be repeated. An image that was sent before is named by its
    digest only, and sent again where the teacher no longer holds it.

    Args:
        door: closed with the client.
        key_file: where the token is read, again whenever it is refused; None where none is needed.
        patience: limits.
        sleep: between tries.
    """

    def __init__(
        self,
        door: Door,
        key_file: Path | None = None,
        patience: Patience = Patience(),  # frozen
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._door = door
        self._key_file = key_file
        self._patience = patience
        self._sleep = sleep
        self._turns = threading.BoundedSemaphore(patience.in_flight)
        self._guard = threading.Lock()
        self._sent: OrderedDict[Digest, None] = OrderedDict()
        self._token: str | None = None
        self._card: TeacherCard | None = None
        self._has_answered = False

    def __enter__(self: Client) -> Client:  # noqa: PYI019  # typing.Self is new in Python 3.11
        """The client closes its connections when the block ends."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._door.close()

    def card(self) -> TeacherCard:
        """See Teacher. Asked once; later answers carry the card with them."""
        if self._card is None:
            self._card = self.describe()
        return self._card

    def describe(self) -> TeacherCard:
        """Ask the worker itself who it is: a full round trip, so an answer means that predictions work.

        Raises:
            TeacherUnreachable: see Teacher.
        """
        return decode_card(_json(self._ask({PROMPT_FIELD: Part(DESCRIBE, media_type="application/json")})))

    def soften(self, pixels: Pixels, prompt: Prompt) -> SoftLabels:
        """See Teacher."""
        check_pixels(pixels)
        check_prompt(prompt, (pixels.shape[0], pixels.shape[1]))
        soft = decode_answer(self._exchange(pixels, Question(prompt)))
        self._card = soft.teacher
        return soft

    def ask(self, image: Pixels | bytes | Digest, question: Question) -> Outputs:
        """Ask for anything that a teacher can give.

        Args:
            image: uint8 pixels; or a picture file as it is; or the digest of an image that the teacher was asked about.
            question: its ``image_id`` and the form of its wish are set here.

        Raises:
            UnknownImage: only a digest was given, and the teacher does not hold the image.
            PromptRefused, UnreadableImage, LimitExceeded, TeacherUnreachable: see Teacher.
        """
        plain = replace(question, image_id=None, wish=replace(question.wish, form=SAFETENSORS))
        return decode_outputs(self._exchange(image, plain))

    def _exchange(self, image: Pixels | bytes | Digest, question: Question) -> bytes:
        if isinstance(image, str):
            return self._ask(_fields(replace(question, image_id=image), None))
        if isinstance(image, bytes):
            return self._ask(_fields(question, image))
        check_pixels(image)
        if question.view != AS_IT_IS:  # what the teacher then sees has another digest
            return self._ask(_fields(question, png_bytes(image)))
        name = image_digest(image)
        if self._was_sent(name):
            try:
                return self._ask(_fields(replace(question, image_id=name), None))
            except UnknownImage:
                pass  # the worker was restarted, or has seen many others since
        body = self._ask(_fields(question, png_bytes(image)))
        self._remember(name)
        return body

    def _was_sent(self, name: Digest) -> bool:
        with self._guard:
            return name in self._sent

    def _remember(self, name: Digest) -> None:
        with self._guard:
            self._sent[name] = None
            self._sent.move_to_end(name)
            while len(self._sent) > _REMEMBERED_IMAGES:
                self._sent.popitem(last=False)

    def _ask(self, fields: Mapping[str, Part]) -> bytes:
        """Send until there is an answer, or patience ends."""
        absent_s = self._patience.lost_s if self._has_answered else self._patience.absent_s
        pauses = {Absent: _delays(absent_s), Busy: _delays(self._patience.busy_s), TokenRefused: iter(_TOKEN_PAUSES_S)}
        while True:
            try:
                return _body(self._send(fields))
            except TryAgain as again:
                pause = next(pauses[type(again)], None)
                if pause is None or (isinstance(again, Absent) and not self._comes_back()):
                    raise self._given_up(again) from again
                if isinstance(again, TokenRefused):
                    self._token = None  # read the file again: tokens expire and are renewed
                self._sleep(pause)

    def _comes_back(self) -> bool:
        """Whether it makes sense to wait for a server that has gone."""
        return True

    def _send(self, fields: Mapping[str, Part]) -> Response:
        token = self._token
        if token is None and self._key_file is not None:
            self._token = token = _read_token(self._key_file)
        with self._turns:
            response = self._door.send(fields, token, self._patience.answer_s)
        self._has_answered = True
        return response

    def _given_up(self, again: TryAgain) -> TeacherUnreachable:
        if isinstance(again, TokenRefused):
            return TeacherUnreachable(f"{again.message} in {self._key_file}", cure=_RIGHT_KEY)
        return TeacherUnreachable(again.message, cure=again.cure)


class TorchServeTeacher(TeacherClient):
    """A client of the service behind TorchServe, at the door that the endpoint's URL names.

    Args:
        endpoint: ``http://``, ``https://``, ``grpc://`` or ``grpcs://``.
        patience: limits; None for what the teacher there needs.
        transport: instead of sockets, for tests of the REST door.
        sleep: between tries.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        patience: Patience | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        patience = Patience.of(pace_at(endpoint)) if patience is None else patience
        super().__init__(_door(endpoint, transport), endpoint.key_file, patience, sleep=sleep)
        self._endpoint = endpoint
        # Its state file was written when it answered, and its keeper starts it again.
        self._has_answered = endpoint.keeper_pid is not None and endpoint.is_kept

    def _comes_back(self) -> bool:
        return self._endpoint.is_kept


def _read_token(key_file: Path) -> str:
    """The token, or Absent: its file is gone while a server is started again, and empty for a moment while TorchServe writes it."""
    try:
        return read_token(key_file)
    except TeacherUnreachable as error:
        raise Absent(error.message, cure=error.cure) from error


def _door(endpoint: Endpoint, transport: httpx.BaseTransport | None) -> Door:
    if endpoint.url.startswith(("grpc://", "grpcs://")):
        from fedmentor.wire.torchserve import GrpcDoor  # noqa: PLC0415  # gRPC is heavy, and most callers use REST

        return GrpcDoor(endpoint.url, endpoint.ca_file)
    return HttpDoor(endpoint.url, endpoint.ca_file, transport)


def _fields(question: Question, picture: bytes | None) -> dict[str, Part]:
    fields = {PROMPT_FIELD: Part(request_question(question), media_type="application/json")}
    if picture is None:
        return fields
    if len(picture) > MAX_IMAGE_BYTES:
        raise LimitExceeded(f"an image of {len(picture)} bytes is over the limit of {MAX_IMAGE_BYTES}")
    return {IMAGE_FIELD: Part(picture, "image", "application/octet-stream"), **fields}


def _delays(patience_s: float) -> Iterator[float]:
    """Doubling pauses up to a longest one, until together they would be over the patience."""
    spent, delay = 0.0, _FIRST_DELAY_S
    while spent + delay <= patience_s:
        yield delay
        spent, delay = spent + delay, min(2 * delay, _LONGEST_DELAY_S)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _body(response: Response) -> bytes:
    """Pass an answer on; raise the teacher's own error, wherever its status stands."""
    if (refusal := _refusal(response.body)) is not None:
        raise refusal
    return response.body


def _refusal(body: bytes) -> FedMentorError | None:
    """The teacher's own error, if that is what the body holds."""
    value = _json(body) if body[:1] == b"{" else None
    if isinstance(value, dict) and isinstance(value.get("code"), str) and "status" in value:
        return decode_error(value)
    return None
