"""The TorchServe handler: one bad request never harms its neighbours, and other weights than the packed ones are not served."""

import json

import numpy as np
import pytest

from fedmentor.errors import DigestMismatch
from fedmentor.teacher.contract import Box, Prompt
from fedmentor.teacher.images import png_bytes
from fedmentor.teacher.payload import DESCRIBE, decode_answer, request_prompt
from fedmentor.testing.teacher import AnalyticTeacher
from teacher_service.handler import TeacherHandler
from teacher_service.models.lite_medsam import BUNDLED_SHA256
from teacher_service.settings import REFUSAL_FILE, RUN_FOLDER_VARIABLE, STOPPING_FILE
from teacher_service.weights import weights_bytes, write_weights

GOOD = {"image": png_bytes(np.zeros((32, 32), np.uint8)), "prompt": request_prompt(Prompt((Box(0, 0, 32, 32),)))}
BAD = {"image": b"no picture", "prompt": request_prompt(Prompt((Box(0, 0, 32, 32),)))}


class Context:
    """What a handler uses of TorchServe's context."""

    def __init__(self, model_folder=None):
        self.system_properties = {"model_dir": str(model_folder), "gpu_id": None}
        self.types = {}
        self.headers = {}
        self.statuses = {}

    def set_response_content_type(self, index, value):
        """As TorchServe's."""
        self.types[index] = value

    def get_request_header(self, _index, key):
        """As TorchServe's: from REST."""
        return {"Host": "127.0.0.1"}.get(key)

    def set_response_header(self, index, key, value):
        """As TorchServe's."""
        self.headers[index] = (key, value)

    def set_response_status(self, code, phrase, index):
        """As TorchServe's."""
        self.statuses[index] = (code, phrase)


class Broken(AnalyticTeacher):
    """A teacher with a bug on every second image."""

    def soften(self, pixels, prompt):
        """See Teacher."""
        soft = super().soften(pixels, prompt)
        if self.asked % 2 == 0:
            raise ZeroDivisionError
        return soft


def test_a_bad_request_in_a_batch_fails_alone():
    context = Context()
    replies = TeacherHandler(AnalyticTeacher()).handle([GOOD, BAD, {}, {"prompt": DESCRIBE}, GOOD], context)
    assert [index in context.statuses for index in range(5)] == [False, True, True, False, False]
    assert context.statuses[1] == (422, "unreadable_image")
    assert context.statuses[2] == (400, "bad_request")
    assert json.loads(replies[1])["status"] == 422
    assert json.loads(replies[1])["code"] == "unreadable_image"
    assert json.loads(replies[3])["teacher"]["architecture"] == "analytic-ellipse"
    assert (decode_answer(replies[0]).logits == decode_answer(replies[4]).logits).all()
    assert context.types[0] == "application/octet-stream"


def test_a_bug_on_one_request_fails_that_request():
    context = Context()
    replies = TeacherHandler(Broken()).handle([GOOD, GOOD, GOOD], context)
    assert list(context.statuses) == [1]
    body = json.loads(replies[1])
    assert (body["status"], body["code"]) == (500, "internal")
    assert "Zero" not in replies[1].decode()  # what went wrong inside stays inside


class FromGrpc(Context):
    """What TorchServe hands over from its gRPC door."""

    def get_request_header(self, _index, _key):
        """None: gRPC requests have no headers."""


def test_only_answers_over_grpc_are_marked_as_the_last_of_a_stream():
    rest, grpc = Context(), FromGrpc()
    for context in (rest, grpc):
        TeacherHandler(AnalyticTeacher()).handle([GOOD, BAD], context)
    assert rest.headers == {}
    assert grpc.headers == {0: ("ts_stream_next", "false"), 1: ("ts_stream_next", "false")}


def test_what_comes_while_the_server_is_stopped_is_told_to_come_again(tmp_path, monkeypatch):
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, str(tmp_path))
    handler = TeacherHandler(AnalyticTeacher())
    (tmp_path / STOPPING_FILE).touch()
    context = Context()
    refused, described = handler.handle([GOOD, {"prompt": bytearray(DESCRIBE)}], context)
    assert context.statuses == {0: (503, "stopping")}
    body = json.loads(refused)
    assert (body["status"], body["code"]) == (503, "stopping")
    assert json.loads(described)["teacher"]["architecture"] == "analytic-ellipse"
    (tmp_path / STOPPING_FILE).unlink()
    (answered,) = handler.handle([GOOD], Context())
    assert decode_answer(answered).logits.any()


def test_a_batch_that_was_taken_before_is_finished(tmp_path, monkeypatch):
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, str(tmp_path))

    class Stopped(AnalyticTeacher):
        """The server is stopped while the first image is computed."""

        def ask(self, image, prompt, extras):
            """See Foundation."""
            (tmp_path / STOPPING_FILE).touch()
            return super().ask(image, prompt, extras)

    context = Context()
    replies = TeacherHandler(Stopped()).handle([GOOD, GOOD], context)
    assert context.statuses == {}
    assert all(decode_answer(reply).logits.any() for reply in replies)


def test_reason_phrases_are_plain_ascii():
    context = Context()
    TeacherHandler(AnalyticTeacher()).handle([{"image": b"\xff", "prompt": "\u2028".encode()}], context)
    ((_status, phrase),) = context.statuses.values()
    assert phrase.isascii()
    assert phrase.isprintable()


def test_weights_that_were_not_packed_are_refused_and_the_reason_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, str(tmp_path))
    write_weights(tmp_path / "weights.safetensors", weights_bytes({}, "lite-medsam", BUNDLED_SHA256))
    (tmp_path / "teacher.json").write_text(json.dumps({"weights_sha256": BUNDLED_SHA256}))
    with pytest.raises(DigestMismatch):
        TeacherHandler().initialize(Context(tmp_path))
    assert json.loads((tmp_path / REFUSAL_FILE).read_text())["code"] == "digest_mismatch"
