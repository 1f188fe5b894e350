"""TorchServe's way in: loads the packed weights, answers each request of a batch on its own. Thin on purpose.

A copy of this file lies in every model archive; it finds its weights beside itself and everything else in the installed package.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from fedmentor.errors import FedMentorError
from fedmentor.ids import Digest
from fedmentor.teacher.contract import Foundation
from fedmentor.teacher.door import Busy
from fedmentor.teacher.payload import DESCRIBE, PROMPT_FIELD, encode_error
from teacher_service.archive import CONFIG_FILE, WEIGHTS_FILE
from teacher_service.compute import FLOAT32, Compute
from teacher_service.embedding_store import EmbeddingStore
from teacher_service.local import LocalTeacher
from teacher_service.payload import JSON_TYPE, Describe, Reply, Request, read_request, reply_to
from teacher_service.settings import (
    EMBEDDINGS_VARIABLE,
    PRECISION_VARIABLE,
    REFUSAL_FILE,
    RUN_FOLDER_VARIABLE,
    STOPPING_FILE,
)
from teacher_service.weights import read_weights

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


class TeacherHandler:
    """One worker's teacher. TorchServe makes it without arguments and then initializes it.

    Args:
        teacher: who answers, where nobody initializes.
        looks_ahead: read a whole batch before answering any of it, and tell the teacher of its images.
    """

    def __init__(self, teacher: Foundation | None = None, *, looks_ahead: bool = False) -> None:
        self._teacher = teacher
        self._looks_ahead = looks_ahead
        run_folder = os.environ.get(RUN_FOLDER_VARIABLE)
        self._run_folder = Path(run_folder) if run_folder else None

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
            precision = os.environ.get(PRECISION_VARIABLE, FLOAT32)
            compute = worker_compute(context.system_properties, precision, cuda=torch.cuda.is_available())
            self._looks_ahead = compute.images_at_once > 1
            self._teacher = LocalTeacher(
                weights,
                compute=compute,
                kept=EmbeddingStore(Path(folder_of_embeddings)) if folder_of_embeddings else None,
            )
        except FedMentorError as error:
            if self._run_folder is not None:
                (self._run_folder / REFUSAL_FILE).write_text(json.dumps(encode_error(error)))
            raise

    def handle(self, batch: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch. A bad request becomes an error in its own place; its neighbours never notice.

        A batch that was taken before the server is stopped is finished; one that comes later is told to try again.
        """
        stopping = self._run_folder is not None and (self._run_folder / STOPPING_FILE).exists()
        read: Iterable[Request | Describe | FedMentorError] = (_guarded(self._read, fields, stopping) for fields in batch)
        if self._looks_ahead:
            read = list(read)
            self._expect(read)
        return [self._answer(request, index, context) for index, request in enumerate(read)]

    def _read(self, fields: dict[str, Any], stopping: bool) -> Request | Describe:  # noqa: FBT001  # passed on by position
        # Who answers may be asked to the end: it is how whoever stops the server knows that the worker has finished.
        if stopping and fields.get(PROMPT_FIELD) != DESCRIBE:
            raise Busy("the teacher is being stopped", cure="ask again once it is back")
        return read_request(fields)

    def _expect(self, read: Iterable[object]) -> None:
        images = [request.pixels for request in read if isinstance(request, Request) and request.pixels is not None]
        try:
            self._loaded().expect(images)
        except Exception:  # too much for the GPU's memory, say: then each is encoded when its turn comes
            logger.exception("images could not be encoded together")

    def _answer(self, request: Request | Describe | FedMentorError, index: int, context: Any) -> bytes:
        told = request if isinstance(request, FedMentorError) else _guarded(reply_to, self._loaded(), request)
        if isinstance(told, FedMentorError):
            body = encode_error(told)
            logger.info("request refused code=%s", body["code"])
            context.set_response_status(body["status"], body["code"], index)
            told = Reply(json.dumps(body).encode(), JSON_TYPE)
        context.set_response_content_type(index, told.content_type)
        if _came_by_grpc(context, index):
            # TorchServe's streaming call on a handler that does not stream would kill the worker without this mark of the last
            # answer. REST would wait for ever for what comes before a last answer, so only gRPC gets it.
            context.set_response_header(index, "ts_stream_next", "false")
        return told.body

    def _loaded(self) -> Foundation:
        assert self._teacher is not None  # noqa: S101  # TorchServe initializes a handler before it handles anything
        return self._teacher


def _guarded(work: Callable[..., Value], *arguments: Any) -> Value | FedMentorError:
    """What some work returns, or what is wrong with the request; a bug on one must not fail the whole batch."""
    try:
        return work(*arguments)
    except FedMentorError as error:
        return error
    except Exception:
        logger.exception("request failed")
        return FedMentorError("the teacher failed on this request")


def _came_by_grpc(context: Any, index: int) -> bool:
    """TorchServe hands no request headers over from gRPC; every HTTP request has a Host (RFC 9110, section 7.2)."""
    return all(context.get_request_header(index, name) is None for name in ("Host", "host", "Authorization", "authorization"))


def worker_compute(system: Mapping[str, Any], precision: str, *, cuda: bool) -> Compute:
    """On the GPU that TorchServe gives a worker, a batch's pictures together; else on the CPU, where that gains nothing.

    Args:
        system: TorchServe's context.system_properties.
        precision: one of teacher_service.compute.PRECISIONS.
        cuda: whether torch can use a GPU. TorchServe looks for the driver only, and torch may be a CPU build.

    Raises:
        ConfigError: see Compute.
    """
    gpu = system.get("gpu_id") if cuda else None
    return Compute("cpu", precision) if gpu is None else Compute(f"cuda:{gpu}", precision, int(system.get("batch_size") or 1))
