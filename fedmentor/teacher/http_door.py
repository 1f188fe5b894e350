"""TorchServe's REST door through httpx; connections are reused."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from fedmentor.errors import ConfigError, LimitExceeded, TeacherUnreachable
from fedmentor.teacher.door import LOOK, MODEL, Absent, Busy, Part, Response, TokenRefused

PREDICTIONS = f"/predictions/{MODEL}"
"""Path of the teacher's model in TorchServe."""

TORCHSERVE_CIPHERS = "ECDHE+AESGCM:ECDHE-RSA-AES128-SHA"
"""TorchServe 0.12 offers TLS 1.2 with two RSA cipher suites, of which this is the better one; gateways offer the first."""

_REFUSED_TOKEN = (401, 403)
_BUSY = (500, 502, 503, 504, 507)


class HttpDoor:
    """Implements fedmentor.teacher.door.Door.

    Args:
        url: e.g. ``http://127.0.0.1:8080``.
        ca_file: whom to trust for ``https``; None for the system's authorities.
        transport: instead of sockets, for tests.

    Raises:
        TeacherUnreachable: not a URL.
        ConfigError: ``ca_file`` holds no certificate.
    """

    def __init__(self, url: str, ca_file: Path | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url
        try:
            # Proxies from the environment are ignored: an image goes to the configured address and nowhere else.
            self._http = httpx.Client(base_url=url, verify=_trust(url, ca_file), transport=transport, trust_env=False)
        except httpx.InvalidURL as error:
            raise _no_url(url) from error

    def close(self) -> None:
        """See Door."""
        self._http.close()

    def send(self, fields: Mapping[str, Part], token: str | None, seconds: float) -> Response:
        """See Door. What httpx raises becomes ours here and nowhere else."""
        url = self._url
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        files: dict[str, Any] = {name: (part.file_name, part.content, part.media_type) for name, part in fields.items()}
        try:
            answer = self._http.post(PREDICTIONS, files=files, headers=headers, timeout=seconds)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Absent(f"no teacher answers at {url}", cure=LOOK) from error
        except httpx.TimeoutException as error:
            raise TeacherUnreachable(f"the teacher at {url} did not answer within {seconds:g} s", cure=LOOK) from error
        except httpx.UnsupportedProtocol as error:
            raise _no_url(url) from error
        except httpx.TransportError as error:
            raise Busy(f"the connection to the teacher at {url} broke", cure=LOOK) from error
        return _checked(Response(answer.status_code, answer.content), url)


def _trust(url: str, ca_file: Path | None) -> ssl.SSLContext | bool:
    if not url.startswith("https://"):
        return True  # unused
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca_file} holds no certificate that can be trusted", cure="give the teacher's certificate") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TORCHSERVE_CIPHERS)
    return context


def _no_url(url: str) -> TeacherUnreachable:
    return TeacherUnreachable(f"{url!r} is not a teacher's URL", cure="give one like http://127.0.0.1:8080")


def _checked(answer: Response, url: str) -> Response:
    """Pass on what a teacher said; raise what TorchServe or something else said instead."""
    body = _json(answer.body)
    is_teachers = isinstance(body, dict) and isinstance(body.get("code"), str) and "status" in body
    if answer.status == httpx.codes.OK or is_teachers:
        return answer
    # TorchServe 0.12 answers 400 InvalidKeyException to a wrong, missing or expired token; a gateway would answer 401 or 403.
    invalid_key = isinstance(body, dict) and body.get("type") == "InvalidKeyException"
    if answer.status in _REFUSED_TOKEN or (answer.status == httpx.codes.BAD_REQUEST and invalid_key):
        raise TokenRefused(f"the teacher at {url} refuses the token")
    if answer.status in _BUSY:
        raise Busy(f"the teacher at {url} is busy or has lost its worker", cure=LOOK)
    if answer.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        raise LimitExceeded("the teacher refuses a request of this size", cure="send a smaller image")
    raise TeacherUnreachable(
        f"{url} answered with status {answer.status}", cure="check that the URL is that of a FedMentor teacher"
    )


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
