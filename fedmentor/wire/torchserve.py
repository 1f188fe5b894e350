"""TorchServe's gRPC inference door.

TorchServe drops the status of single items of a batch here, so an answer that is an error arrives as OK; the client reads the
status inside the payload. Its calls that stream are not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import grpc

from fedmentor.errors import ConfigError, LimitExceeded, TeacherUnreachable
from fedmentor.teacher.door import LOOK, MODEL, Absent, Busy, Part, Response, TokenRefused
from fedmentor.wire.v1.torchserve_pb2 import PredictionsRequest
from fedmentor.wire.v1.torchserve_pb2_grpc import InferenceAPIsServiceStub

_MESSAGE_BYTES = 64 << 20
"""Above the largest request and answer; gRPC's own default of 4 MiB is below both."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    # Proxies from the environment are ignored: an image goes to the configured address and nowhere else.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

_LARGER = "larger than max"
"""In what gRPC itself says to a message over a limit."""

_NEVER_CONNECTED = "failed to connect to all addresses"


class GrpcDoor:
    """Implements fedmentor.teacher.door.Door.

    Args:
        url: ``grpc://host:port``, or ``grpcs://host:port`` with TLS.
        ca_file: whom to trust for ``grpcs``; None for gRPC's own authorities.

    Raises:
        TeacherUnreachable: not such a URL.
        ConfigError: ``ca_file`` cannot be read.
    """

    def __init__(self, url: str, ca_file: Path | None = None) -> None:
        self._url = url
        self._channel = _channel(url, ca_file)
        self._predict = InferenceAPIsServiceStub(self._channel).Predictions

    def close(self) -> None:
        """See Door."""
        self._channel.close()

    def send(self, fields: Mapping[str, Part], token: str | None, seconds: float) -> Response:
        """See Door. What gRPC raises becomes ours here and nowhere else."""
        request = PredictionsRequest(model_name=MODEL, input={name: part.content for name, part in fields.items()})
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        try:
            return Response(200, self._predict(request, timeout=seconds, metadata=metadata).prediction)
        except grpc.RpcError as error:
            raise self._ours(error, seconds) from error

    def _ours(self, error: grpc.RpcError, seconds: float) -> Exception:
        code = error.code()
        if code == grpc.StatusCode.UNAVAILABLE:
            if _NEVER_CONNECTED in (error.details() or ""):
                return Absent(f"no teacher answers at {self._url}", cure=LOOK)
            return Busy(f"the connection to the teacher at {self._url} broke", cure=LOOK)
        if code == grpc.StatusCode.PERMISSION_DENIED:
            return TokenRefused(f"the teacher at {self._url} refuses the token")
        exhausted = code == grpc.StatusCode.RESOURCE_EXHAUSTED
        # TorchServe resets the stream of a request over its limit; gRPC, and a gateway, say so in words.
        if code == grpc.StatusCode.CANCELLED or (exhausted and _LARGER in (error.details() or "")):
            return LimitExceeded("the teacher refuses a request of this size", cure="send a smaller image")
        if exhausted or code == grpc.StatusCode.INTERNAL:  # a worker that died, idle or at work; a full queue
            return Busy(f"the teacher at {self._url} is busy or has lost its worker", cure=LOOK)
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return TeacherUnreachable(f"the teacher at {self._url} did not answer within {seconds:g} s", cure=LOOK)
        return TeacherUnreachable(
            f"{self._url} answered with {code.name}", cure="check that the URL is that of a FedMentor teacher's gRPC door"
        )


def _channel(url: str, ca_file: Path | None) -> grpc.Channel:
    parts = _parts(url)
    if parts is None:
        raise TeacherUnreachable(f"{url!r} is not a teacher's URL", cure="give one like grpc://127.0.0.1:7070")
    if parts.scheme == "grpc":
        return grpc.insecure_channel(parts.netloc, options=_OPTIONS)
    try:
        roots = None if ca_file is None else ca_file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{ca_file} cannot be read", cure="give the teacher's certificate") from error
    return grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials(roots), options=_OPTIONS)


def _parts(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("grpc", "grpcs") and bool(parts.hostname) and bool(parts.port)
    except ValueError:  # brackets or a port that are none
        return None
    return parts if is_whole else None
