"""The HTTP client against a transport that plays TorchServe; no socket is opened and no time passes."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from fedmentor.errors import FedMentorError, LimitExceeded, PromptRefused, TeacherUnreachable, UnknownImage, UnreadableImage
from fedmentor.teacher.client import Patience, TorchServeTeacher
from fedmentor.teacher.contract import Box, Prompt, image_digest
from fedmentor.teacher.door import Busy
from fedmentor.teacher.endpoint import STATE_FILE, Endpoint, read_endpoint
from fedmentor.teacher.grey_levels import View
from fedmentor.teacher.payload import encode_answer, encode_card, encode_error
from fedmentor.teacher.question import Question
from fedmentor.testing.teacher import AnalyticTeacher

PIXELS = np.zeros((32, 48), np.uint8)
PROMPT = Prompt((Box(4, 4, 40, 28),))
TEACHER = AnalyticTeacher()
ANSWER = httpx.Response(200, content=encode_answer(TEACHER.soften(PIXELS, PROMPT)))
INVALID_KEY = {"code": 400, "type": "InvalidKeyException", "message": "Token Authorization failed."}
BUSY = {"code": 503, "type": "ServiceUnavailableException", "message": "Model has no worker to serve inference request."}


class Served:
    """Answers in turn; an exception is raised instead of answered. Remembers requests and pauses."""

    def __init__(self, tmp_path, *answers, patience=None):
        self.key_file = tmp_path / "key_file.json"
        self.write_token("first")
        self.answers = list(answers)
        self.requests = []
        self.pauses = []
        self.client = TorchServeTeacher(
            Endpoint("http://teacher", self.key_file),
            patience or Patience(),
            transport=httpx.MockTransport(self.answer),
            sleep=self.pauses.append,
        )

    def write_token(self, token):
        """As TorchServe writes it."""
        self.key_file.write_text(json.dumps({"inference": {"key": token}}))

    def answer(self, request):
        """The next answer; the last one is repeated."""
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            return answer(request)
        return httpx.Response(answer.status_code, content=answer.content)


def tokens(served):
    return [request.headers["authorization"].removeprefix("Bearer ") for request in served.requests]


def test_soften_sends_picture_and_prompt_and_reads_the_answer(tmp_path):
    served = Served(tmp_path, ANSWER)
    soft = served.client.soften(PIXELS, PROMPT)
    assert (soft.logits == TEACHER.soften(PIXELS, PROMPT).logits).all()
    (request,) = served.requests
    assert request.url.path == "/predictions/teacher"
    assert b'name="image"' in request.content
    assert b'name="prompt"' in request.content
    assert b'"answer": "safetensors"' in request.content


def test_the_card_is_asked_once_and_comes_with_answers(tmp_path):
    served = Served(tmp_path, httpx.Response(200, json=encode_card(TEACHER.card())))
    assert served.client.card() == served.client.card() == TEACHER.card()
    assert len(served.requests) == 1
    answered = Served(tmp_path, ANSWER)
    answered.client.soften(PIXELS, PROMPT)
    assert answered.client.card() == TEACHER.card()
    assert len(answered.requests) == 1


def test_an_expired_token_is_read_again_once(tmp_path):
    served = Served(tmp_path, ANSWER)
    served.client.soften(PIXELS, PROMPT)

    def refuse_first(request):
        if request.headers["authorization"] == "Bearer first":
            served.write_token("second")
            return httpx.Response(400, json=INVALID_KEY)
        return httpx.Response(200, content=ANSWER.content)

    served.answers = [refuse_first]
    served.client.soften(PIXELS, PROMPT)
    served.client.soften(PIXELS, PROMPT)
    assert tokens(served) == ["first", "first", "second", "second"]


@pytest.mark.parametrize("refusal", [httpx.Response(400, json=INVALID_KEY), httpx.Response(403), httpx.Response(401)])
def test_a_wrong_token_is_not_tried_for_ever(tmp_path, refusal):
    served = Served(tmp_path, refusal)
    with pytest.raises(TeacherUnreachable, match="refuses the token") as caught:
        served.client.soften(PIXELS, PROMPT)
    assert "key_file.json" in caught.value.cure
    assert len(served.requests) == 4


def test_a_missing_key_file_is_named(tmp_path):
    served = Served(tmp_path, ANSWER)
    served.key_file.unlink()
    with pytest.raises(TeacherUnreachable, match=r"token cannot be read from .*key_file\.json"):
        served.client.soften(PIXELS, PROMPT)
    assert sum(served.pauses) <= Patience().absent_s


def test_a_token_that_is_being_written_is_waited_for(tmp_path):
    """TorchServe refuses the old token first, then empties its file, then writes the new one."""
    served = Served(tmp_path, ANSWER)
    served.client.soften(PIXELS, PROMPT)
    contents = iter(["first", None, "second"])

    def next_content(pause):
        served.pauses.append(pause)
        token = next(contents)
        served.key_file.write_text("") if token is None else served.write_token(token)

    def refuse_first(request):
        if request.headers["authorization"] == "Bearer first":
            return httpx.Response(400, json=INVALID_KEY)
        return httpx.Response(200, content=ANSWER.content)

    served.answers, served.client._sleep = [refuse_first], next_content
    served.client.soften(PIXELS, PROMPT)
    assert tokens(served) == ["first", "first", "first", "second"]


def test_a_server_that_is_started_again_is_waited_for_by_a_client_that_comes_meanwhile(tmp_path):
    """Neither its token nor its port is there then; its keeper is."""
    key_file, pauses = tmp_path / "key_file.json", []

    def until_it_is_back(pause):
        pauses.append(pause)
        if sum(pauses) > 20:
            key_file.write_text(json.dumps({"inference": {"key": "new"}}))

    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=ANSWER.content))
    kept = Endpoint("http://teacher", key_file, keeper_pid=os.getpid())
    TorchServeTeacher(kept, transport=transport, sleep=until_it_is_back).soften(PIXELS, PROMPT)
    assert 20 < sum(pauses) < Patience().lost_s


def test_a_busy_server_is_asked_again_with_growing_pauses(tmp_path):
    served = Served(tmp_path, httpx.Response(503, json=BUSY), httpx.Response(500, json={"code": 500}), httpx.ReadError(""), ANSWER)
    served.client.soften(PIXELS, PROMPT)
    assert served.pauses == [0.1, 0.2, 0.4]


def test_a_server_that_is_being_stopped_is_asked_again(tmp_path):
    stopping = encode_error(Busy("the teacher is being stopped"))
    assert (stopping["status"], stopping["code"]) == (503, "stopping")
    over_grpc = httpx.Response(200, json=stopping)  # the status stands in the payload alone
    served = Served(tmp_path, httpx.Response(503, json=stopping), over_grpc, ANSWER)
    served.client.soften(PIXELS, PROMPT)
    assert served.pauses == [0.1, 0.2]
    served = Served(tmp_path, over_grpc, patience=Patience(busy_s=0.0))
    with pytest.raises(TeacherUnreachable, match="being stopped"):
        served.client.soften(PIXELS, PROMPT)


def test_patience_with_a_busy_server_ends(tmp_path):
    served = Served(tmp_path, httpx.Response(503, json=BUSY), patience=Patience(busy_s=10.0))
    with pytest.raises(TeacherUnreachable, match="busy or has lost its worker"):
        served.client.soften(PIXELS, PROMPT)
    assert served.pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]


def test_an_absent_server_is_given_up_sooner(tmp_path):
    served = Served(tmp_path, httpx.ConnectError("refused"), patience=Patience(absent_s=1.0))
    with pytest.raises(TeacherUnreachable, match="no teacher answers at http://teacher") as caught:
        served.client.soften(PIXELS, PROMPT)
    assert sum(served.pauses) <= 1.0
    assert "fedmentor teacher serve" in caught.value.cure


def test_a_server_that_was_there_is_waited_for_longer(tmp_path):
    served = Served(tmp_path, ANSWER, patience=Patience(absent_s=0.0, lost_s=60.0))
    served.client.soften(PIXELS, PROMPT)
    served.answers = [httpx.ConnectError("refused")] * 9 + [ANSWER]
    served.client.soften(PIXELS, PROMPT)
    assert len(served.requests) == 11
    served.answers = [httpx.ConnectError("refused")]
    with pytest.raises(TeacherUnreachable):
        served.client.soften(PIXELS, PROMPT)
    assert 50 <= sum(served.pauses[9:]) <= 60


def test_an_image_is_sent_once_and_named_by_its_digest_afterwards(tmp_path):
    served = Served(tmp_path, ANSWER)
    served.client.soften(PIXELS, PROMPT)
    served.client.soften(PIXELS.copy(), PROMPT)
    first, second = (request.content for request in served.requests)
    assert b'name="image"' in first
    assert b'name="image"' not in second
    assert b'"image_id": "' + image_digest(PIXELS).encode() in second


def test_an_image_that_is_looked_at_through_a_window_is_always_sent(tmp_path):
    served = Served(tmp_path, ANSWER)
    served.client.soften(PIXELS, PROMPT)
    served.client.ask(PIXELS, Question(PROMPT, view=View(window=(9, 99))))
    served.client.soften(PIXELS, PROMPT)
    assert [b'name="image"' in request.content for request in served.requests] == [True, True, False]


def test_an_image_that_the_teacher_forgot_is_sent_again(tmp_path):
    forgotten = encode_error(UnknownImage("the teacher does not hold this image"))
    served = Served(tmp_path, ANSWER)
    served.client.soften(PIXELS, PROMPT)
    served.answers = [httpx.Response(404, json=forgotten), ANSWER]
    served.client.soften(PIXELS, PROMPT)
    assert [b'name="image"' in request.content for request in served.requests] == [True, False, True]
    served.answers = [httpx.Response(404, json=forgotten)]
    with pytest.raises(UnknownImage):
        served.client.ask(image_digest(PIXELS), Question(PROMPT))


def test_a_refusal_is_known_by_its_payload_whatever_the_status_line_says(tmp_path):
    served = Served(tmp_path, httpx.Response(200, json=encode_error(PromptRefused("no"))))
    with pytest.raises(PromptRefused):
        served.client.soften(PIXELS, PROMPT)


def test_a_request_that_takes_too_long_is_not_repeated(tmp_path):
    served = Served(tmp_path, httpx.ReadTimeout(""), patience=Patience(answer_s=7.0))
    with pytest.raises(TeacherUnreachable, match="did not answer within 7 s"):
        served.client.soften(PIXELS, PROMPT)
    assert len(served.requests) == 1


@pytest.mark.parametrize("error", [PromptRefused("p", cure="c"), UnreadableImage("u"), LimitExceeded("l")])
def test_the_teachers_own_errors_come_back_as_they_were(tmp_path, error):
    body = encode_error(error)
    served = Served(tmp_path, httpx.Response(body["status"], json=body))
    with pytest.raises(type(error)) as caught:
        served.client.soften(PIXELS, PROMPT)
    assert (caught.value.message, caught.value.cure) == (error.message, error.cure)
    assert len(served.requests) == 1


def test_a_bug_inside_the_teacher_is_not_asked_for_again(tmp_path):
    served = Served(tmp_path, httpx.Response(500, json=encode_error(FedMentorError("the teacher failed on this request"))))
    with pytest.raises(TeacherUnreachable, match="failed on this request"):
        served.client.soften(PIXELS, PROMPT)
    assert len(served.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(200, content=b"<html>"), TeacherUnreachable),
        (httpx.Response(404, json={"code": 404, "type": "ModelNotFoundException"}), TeacherUnreachable),
        (httpx.Response(413), LimitExceeded),
    ],
)
def test_what_is_no_teacher_is_told(tmp_path, answer, error):
    with pytest.raises(error):
        Served(tmp_path, answer).client.soften(PIXELS, PROMPT)


def test_bad_input_never_leaves_the_machine(tmp_path):
    served = Served(tmp_path, ANSWER)
    with pytest.raises(PromptRefused):
        served.client.soften(PIXELS, Prompt())
    with pytest.raises(UnreadableImage):
        served.client.soften(PIXELS.astype(np.float32), PROMPT)
    assert served.requests == []


def test_threads_share_one_client(tmp_path):
    served = Served(tmp_path, ANSWER)
    with served.client as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.soften(PIXELS, PROMPT), range(32)))
    assert len(answers) == len(served.requests) == 32


def test_a_running_teacher_is_found_by_its_state_file(tmp_path):
    (tmp_path / STATE_FILE).write_text(json.dumps({"url": "http://127.0.0.1:1", "key_file": "/k", "keeper_pid": 1}))
    endpoint = read_endpoint(tmp_path)
    assert endpoint.url == "http://127.0.0.1:1"
    assert str(endpoint.key_file) == "/k"


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_no_or_another_state_file(tmp_path, content):
    if content is not None:
        (tmp_path / STATE_FILE).write_text(content)
    with pytest.raises(TeacherUnreachable):
        read_endpoint(tmp_path)


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://[::1", ""])
def test_what_is_no_url_is_refused_at_once(tmp_path, url):
    (tmp_path / "key_file.json").write_text(json.dumps({"inference": {"key": "token"}}))
    pauses = []
    with (
        pytest.raises(TeacherUnreachable, match="is not a teacher's URL"),
        TorchServeTeacher(Endpoint(url, tmp_path / "key_file.json"), sleep=pauses.append) as teacher,
    ):
        teacher.describe()
    assert not pauses


@pytest.mark.parametrize("token", ["", "two\nlines", "日", 7, None])
def test_a_token_that_no_header_can_carry_is_refused(tmp_path, token):
    served = Served(tmp_path, ANSWER)
    served.write_token(token)
    with pytest.raises(TeacherUnreachable, match="token cannot be read"):
        served.client.describe()
