"""The door into this process: the same handler as behind TorchServe, without TorchServe. What a replacement would stand on."""

from __future__ import annotations

from collections.abc import Mapping

from fedmentor.teacher.contract import Foundation
from fedmentor.teacher.door import Part, Response
from teacher_service.handler import TeacherHandler

_OK = 200


class _Batch:
    """What the handler uses of TorchServe's context."""

    def __init__(self) -> None:
        self.status: dict[int, int] = {}

    def set_response_status(self, code: int, _phrase: str, index: int) -> None:
        self.status[index] = code

    def set_response_content_type(self, _index: int, _value: str) -> None:
        pass

    def set_response_header(self, _index: int, _key: str, _value: str) -> None:
        pass

    def get_request_header(self, _index: int, _key: str) -> str | None:
        return None


class InProcessDoor:
    """Implements fedmentor.teacher.door.Door; needs no token."""

    def __init__(self, teacher: Foundation) -> None:
        self._handler = TeacherHandler(teacher)

    def send(self, fields: Mapping[str, Part], token: str | None, seconds: float) -> Response:  # noqa: ARG002  # nobody to show a token to, nothing to wait for
        """See Door."""
        batch = _Batch()
        (body,) = self._handler.handle([{name: part.content for name, part in fields.items()}], batch)
        return Response(batch.status.get(0, _OK), body)

    def close(self) -> None:
        """See Door."""
