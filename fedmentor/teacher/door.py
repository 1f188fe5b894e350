"""What a client needs of a way to a teacher: fields in, a status and bytes out. REST, gRPC and this process are such doors.

A door maps everything that its library raises to the errors below, once; the client decides what is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fedmentor.errors import TeacherUnreachable

MODEL = "teacher"
"""The name under which TorchServe serves."""

LOOK = "start it with 'fedmentor teacher serve', or look at the logs in its run folder"


class TryAgain(TeacherUnreachable):
    """A failure that may pass; raised to the caller as TeacherUnreachable once patience ends."""


class Absent(TryAgain):
    """Nothing listens at the address."""


class Busy(TryAgain):
    """The server is up, its worker is not free or not there."""


class TokenRefused(TryAgain):
    """The token is wrong or has expired."""


@dataclass(frozen=True)
class Part:
    """One field of a request.

    Attributes:
        content: its bytes.
        file_name: given to files only.
        media_type: given where a door can say it.
    """

    content: bytes
    file_name: str | None = None
    media_type: str = "application/octet-stream"


@dataclass(frozen=True)
class Response:
    """An answer as it came. A door without a status line says 200; the payload has its own status."""

    status: int
    body: bytes


class Door(Protocol):
    """A way to a teacher. Safe to use from several threads.

    Implementations: fedmentor.teacher.http_door.HttpDoor, fedmentor.wire.torchserve.GrpcDoor and
    teacher_service.door.InProcessDoor; all pass tests/contract/test_teacher_doors.py.
    """

    def send(self, fields: Mapping[str, Part], token: str | None, seconds: float) -> Response:
        """One try.

        Raises:
            Absent, Busy, TokenRefused: worth another try.
            LimitExceeded: the server refuses a message of this size.
            TeacherUnreachable: no answer within ``seconds``, or what answers is no teacher.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...
