"""TorchServe's way in: loads the packed weights, answers each request of a batch on its own. Thin on purpose.

A copy of this file lies in every model archive; it finds its weights beside itself and everything else in the installed package.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from fedmentor.errors import FedMentorError
from fedmentor.ids import Digest
from fedmentor.teacher.contract import Foundation
from fedmentor.teacher.payload import encode_error
from teacher_service.archive import CONFIG_FILE, WEIGHTS_FILE
from teacher_service.embedding_store import EmbeddingStore
from teacher_service.local import LocalTeacher
from teacher_service.payload import JSON_TYPE, Reply, answer
from teacher_service.settings import EMBEDDINGS_VARIABLE, REFUSAL_FILE, RUN_FOLDER_VARIABLE
from teacher_service.weights import read_weights

logger = logging.getLogger(__name__)


class TeacherHandler:
    """One worker's teacher. TorchServe makes it without arguments and then initializes it."""

    def __init__(self, teacher: Foundation | None = None) -> None:
        self._teacher = teacher

    def initialize(self, context: Any) -> None:
        """Load the weights that the archive carries, after checking that they are the ones it was built with.

        Why it refuses is left for the supervisor in its run folder, because TorchServe would only start the worker again.

        Raises:
            DigestMismatch: the weights are not those that were packed.
            ModelError: they fit no architecture.
        """
        folder = Path(context.system_properties["model_dir"])
        try:
            config = json.loads((folder / CONFIG_FILE).read_text())
            weights = read_weights(folder / WEIGHTS_FILE, expected=Digest(config["weights_sha256"]))
            folder_of_embeddings = os.environ.get(EMBEDDINGS_VARIABLE)
            self._teacher = LocalTeacher(
                weights,
                device=_device(context.system_properties.get("gpu_id")),
                kept=EmbeddingStore(Path(folder_of_embeddings)) if folder_of_embeddings else None,
            )
        except FedMentorError as error:
            if run_folder := os.environ.get(RUN_FOLDER_VARIABLE):
                (Path(run_folder) / REFUSAL_FILE).write_text(json.dumps(encode_error(error)))
            raise

    def handle(self, batch: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch. A bad request becomes an error in its own place; its neighbours never notice."""
        return [self._answer(fields, index, context) for index, fields in enumerate(batch)]

    def _answer(self, fields: dict[str, Any], index: int, context: Any) -> bytes:
        try:
            reply = self._reply(fields)
        except FedMentorError as error:
            body = encode_error(error)
            logger.info("request refused code=%s", body["code"])
            context.set_response_status(body["status"], body["code"], index)
            reply = Reply(json.dumps(body).encode(), JSON_TYPE)
        context.set_response_content_type(index, reply.content_type)
        if _came_by_grpc(context, index):
            # TorchServe's streaming call on a handler that does not stream would kill the worker without this mark of the last
            # answer. REST would wait for ever for what comes before a last answer, so only gRPC gets it.
            context.set_response_header(index, "ts_stream_next", "false")
        return reply.body

    def _reply(self, fields: dict[str, Any]) -> Reply:
        if self._teacher is None:
            raise FedMentorError("the teacher is not loaded")
        try:
            return answer(self._teacher, fields)
        except FedMentorError:
            raise
        except Exception as error:  # a bug on one request must not fail the whole batch
            logger.exception("request failed")
            raise FedMentorError("the teacher failed on this request") from error


def _came_by_grpc(context: Any, index: int) -> bool:
    """TorchServe hands no request headers over from gRPC; every HTTP request has a Host (RFC 9110, section 7.2)."""
    return all(context.get_request_header(index, name) is None for name in ("Host", "host", "Authorization", "authorization"))


def _device(gpu: int | None) -> str:
    return "cpu" if gpu is None else f"cuda:{gpu}"
