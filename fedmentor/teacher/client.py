"""The teacher over HTTP: a thread-safe client for the service behind TorchServe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from fedmentor.errors import FedMentorError, LimitExceeded, TeacherUnreachable
from fedmentor.teacher.contract import Pixels, Prompt, SoftLabels, TeacherCard, check_prompt
from fedmentor.teacher.endpoint import Endpoint, read_token
from fedmentor.teacher.images import MAX_IMAGE_BYTES, check_pixels, png_bytes
from fedmentor.teacher.payload import DESCRIBE, IMAGE_FIELD, PROMPT_FIELD, decode_answer, decode_card, decode_error, request_prompt

PREDICTIONS = "/predictions/teacher"
"""Path of the teacher's model in TorchServe."""

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0
_REFUSED_TOKEN = (401, 403)
_BUSY = (500, 502, 503, 504, 507)

_LOOK = "start it with 'fedmentor teacher serve', or look at the logs in its run folder"
_RIGHT_KEY = "give the key_file.json of the running teacher"


class _TryAgain(TeacherUnreachable):
    """A failure that may pass; raised to the caller as TeacherUnreachable once patience ends."""


class _Absent(_TryAgain):
    """Nothing listens at the address."""


class _Busy(_TryAgain):
    """The server is up, its worker is not free or not there."""


class _TokenRefused(_TryAgain):
    """The token is wrong or has expired."""


@dataclass(frozen=True)
class Patience:
    """How long a client waits.

    Attributes:
        answer_s: for the answer to one request, its time in the server's queue included.
        busy_s: in all, between tries, while the server is up but has no worker free or has just lost one.
        absent_s: in all, between tries, while nothing listens at the address.
    """

    answer_s: float = 120.0
    busy_s: float = 120.0
    absent_s: float = 5.0


class TorchServeTeacher:
    """Implements fedmentor.teacher.contract.Teacher over HTTP. Safe to use from several threads; connections are reused.

    Predictions change nothing on the server, so every failed request may be repeated.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        patience: Patience = Patience(),  # frozen
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoint = endpoint
        self._patience = patience
        self._sleep = sleep
        self._token: str | None = None
        self._card: TeacherCard | None = None
        self._http = _http_client(endpoint.url, patience.answer_s, transport)

    def __enter__(self) -> TorchServeTeacher:  # noqa: PYI034  # typing.Self is new in Python 3.11
        """The client closes its connections when the block ends."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

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
        return decode_card(_json(self._ask({PROMPT_FIELD: (None, DESCRIBE, "application/json")})))

    def soften(self, pixels: Pixels, prompt: Prompt) -> SoftLabels:
        """See Teacher."""
        check_pixels(pixels)
        check_prompt(prompt, (pixels.shape[0], pixels.shape[1]))
        picture = png_bytes(pixels)
        if len(picture) > MAX_IMAGE_BYTES:
            raise LimitExceeded(f"an image of {len(picture)} bytes is over the limit of {MAX_IMAGE_BYTES}")
        soft = decode_answer(
            self._ask(
                {
                    IMAGE_FIELD: ("image.png", picture, "image/png"),
                    PROMPT_FIELD: (None, request_prompt(prompt), "application/json"),
                }
            ).content
        )
        self._card = soft.teacher
        return soft

    def _ask(self, fields: dict[str, Any]) -> httpx.Response:
        """Send until there is an answer, or patience ends."""
        pauses = {_Absent: _delays(self._patience.absent_s), _Busy: _delays(self._patience.busy_s), _TokenRefused: iter((0.0,))}
        while True:
            try:
                return _checked(self._send(fields), self._endpoint)
            except _TryAgain as again:
                pause = next(pauses[type(again)], None)
                if pause is None:
                    raise TeacherUnreachable(again.message, cure=again.cure) from again
                if isinstance(again, _TokenRefused):
                    self._token = None  # read the file again: tokens expire and are renewed
                self._sleep(pause)

    def _send(self, fields: dict[str, Any]) -> httpx.Response:
        """One try; what httpx raises becomes ours here and nowhere else."""
        url = self._endpoint.url
        try:
            return self._http.post(PREDICTIONS, files=fields, headers={"Authorization": f"Bearer {self._current_token()}"})
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Absent(f"no teacher answers at {url}", cure=_LOOK) from error
        except httpx.TimeoutException as error:
            raise TeacherUnreachable(
                f"the teacher at {url} did not answer within {self._patience.answer_s:g} s", cure=_LOOK
            ) from error
        except httpx.UnsupportedProtocol as error:
            raise _no_url(url) from error
        except httpx.TransportError as error:
            raise _Busy(f"the connection to the teacher at {url} broke", cure=_LOOK) from error

    def _current_token(self) -> str:
        if self._token is None:
            self._token = read_token(self._endpoint.key_file)
        return self._token


def _http_client(url: str, answer_s: float, transport: httpx.BaseTransport | None) -> httpx.Client:
    """Proxies from the environment are ignored: an image goes to the configured address and nowhere else."""
    try:
        return httpx.Client(base_url=url, timeout=answer_s, transport=transport, trust_env=False)
    except httpx.InvalidURL as error:
        raise _no_url(url) from error


def _no_url(url: str) -> TeacherUnreachable:
    return TeacherUnreachable(f"{url!r} is not a teacher's URL", cure="give one like http://127.0.0.1:8080")


def _delays(patience_s: float) -> Iterator[float]:
    """Doubling pauses up to a longest one, until together they would be over the patience."""
    spent, delay = 0.0, _FIRST_DELAY_S
    while spent + delay <= patience_s:
        yield delay
        spent, delay = spent + delay, min(2 * delay, _LONGEST_DELAY_S)


def _json(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except ValueError:
        return None


def _refusal(response: httpx.Response) -> FedMentorError | None:
    """The teacher's own error, if that is what the body holds. TorchServe's errors carry a number as their code."""
    body = _json(response)
    if isinstance(body, dict) and isinstance(body.get("code"), str) and "status" in body:
        return decode_error(body)
    return None


def _token_refused(response: httpx.Response) -> bool:
    """TorchServe 0.12 answers 400 InvalidKeyException to a wrong, missing or expired token; a gateway would answer 401 or 403."""
    if response.status_code in _REFUSED_TOKEN:
        return True
    body = _json(response)
    return response.status_code == httpx.codes.BAD_REQUEST and isinstance(body, dict) and body.get("type") == "InvalidKeyException"


def _checked(response: httpx.Response, endpoint: Endpoint) -> httpx.Response:
    """Pass an answer on; raise what any other response means."""
    if response.status_code == httpx.codes.OK:
        return response
    if (refusal := _refusal(response)) is not None:
        raise refusal
    if _token_refused(response):
        raise _TokenRefused(f"the teacher at {endpoint.url} refuses the token in {endpoint.key_file}", cure=_RIGHT_KEY)
    if response.status_code in _BUSY:
        raise _Busy(f"the teacher at {endpoint.url} is busy or has lost its worker", cure=_LOOK)
    if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        raise LimitExceeded("the teacher refuses a request of this size", cure="send a smaller image")
    raise TeacherUnreachable(
        f"{endpoint.url} answered with status {response.status_code}", cure="check that the URL is that of a FedMentor teacher"
    )
