"""The page's calls, without a browser: they work for the page and for nobody else."""

import base64
import json

import httpx
import numpy as np
import pytest

from fedmentor.pages.hosts import LOOPBACK
from fedmentor.pages.server import serving
from fedmentor.pages.values import KEY_HEADER
from fedmentor.teacher.client import TeacherClient
from fedmentor.teacher.contract import Box, Prompt, image_digest, logits_at, probability
from fedmentor.teacher.images import MAX_IMAGE_BYTES, png_bytes, read_image
from fedmentor.teacher.payload import decode_answer
from fedmentor.testing.teacher import AnalyticTeacher
from teacher_service.door import InProcessDoor
from teacher_service.playground import HELD_IMAGES, MAX_QUESTION_BYTES, playground

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)


@pytest.fixture
def page():
    """A client of the served page, which shows its key."""
    failures = []
    served = playground(TeacherClient(InProcessDoor(AnalyticTeacher())), failures.append)
    with serving((LOOPBACK, 0), served) as url, httpx.Client(base_url=url, headers={KEY_HEADER: served.key}) as client:
        yield client
    assert failures == []


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(page):
    answer = page.get("/")
    assert answer.status_code == 200
    assert page.headers["X-FedMentor-Key"] in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    assert "src=" not in answer.text
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_an_image_is_read_asked_about_and_kept(page):
    seen = page.post("/image", content=png_bytes(PIXELS)).json()
    assert seen["image_id"] == image_digest(PIXELS)
    assert (seen["height"], seen["width"]) == (60, 80)
    assert (read_image(base64.b64decode(seen["png_base64"])) == PIXELS).all()
    question = {"boxes": [[10, 10, 60, 50]], "image_id": seen["image_id"]}
    told = page.post("/ask", json=question).json()
    expected = AnalyticTeacher().soften(PIXELS, Prompt((Box(10, 10, 60, 50),)))
    shown = read_image(base64.b64decode(told["probability_png_base64"]))
    assert np.abs(shown / 255 - probability(logits_at(expected, (60, 80)))).max() < 0.005
    assert told["predicted_iou"] == [1.0]
    kept = page.post("/soft", json=question).content
    assert decode_answer(kept).logits.tobytes() == expected.logits.tobytes()
    assert page.post("/ask", json={"auto": "whole", "image_id": seen["image_id"]}).json()["boxes"] == [[0, 0, 80, 60]]


def test_the_card_says_who_answers(page):
    assert page.post("/card", content=b"{}").json() == AnalyticTeacher().card().to_json()


def test_only_the_last_images_are_held(page):
    first = page.post("/image", content=png_bytes(PIXELS)).json()["image_id"]
    for shift in range(HELD_IMAGES):
        page.post("/image", content=png_bytes(np.roll(PIXELS, shift + 1)))
    forgotten = page.post("/ask", json={"auto": "whole", "image_id": first})
    assert (forgotten.status_code, forgotten.json()["code"]) == (404, "unknown_image")


@pytest.mark.parametrize(
    ("headers", "status"),
    [({KEY_HEADER: ""}, 403), ({KEY_HEADER: "guess"}, 403), ({"Host": "evil.example"}, 421), ({"Host": LOOPBACK}, 421)],
)
@pytest.mark.parametrize("path", ["/card", "/image", "/ask", "/soft"])
def test_another_sites_page_gets_nothing(page, path, headers, status):
    assert page.post(path, content=b"{}", headers=headers).status_code == status


def test_the_page_itself_is_shown_under_its_own_address_only(page):
    assert page.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert page.get("/etc/passwd").status_code == 404
    assert page.post("/nothing", content=b"").status_code == 404


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("/image", b"text", 422, "unreadable_image"),
        ("/ask", b"{", 422, "prompt_refused"),
        ("/ask", b"[]", 400, "bad_request"),
        ("/ask", b'{"image_id": "x"}', 422, "prompt_refused"),
        ("/ask", json.dumps({"image_id": "f" * 64, "auto": "whole"}).encode(), 404, "unknown_image"),
    ],
)
def test_bad_calls_get_one_sentence(page, path, content, status, code):
    answer = page.post(path, content=content)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_every_call_has_its_limit():
    calls = playground(TeacherClient(InProcessDoor(AnalyticTeacher())), [].append).calls
    limits = dict.fromkeys(("/card", "/ask", "/soft"), MAX_QUESTION_BYTES) | {"/image": MAX_IMAGE_BYTES}
    assert {path: call.most_bytes for path, call in calls.items()} == limits


class BrokenDoor:
    """Fails in a way that no door should."""

    def send(self, *_arguments):
        """See Door."""
        raise ZeroDivisionError


def test_a_bug_is_told_beside_the_page():
    failures = []
    served = playground(TeacherClient(BrokenDoor()), failures.append)
    with serving((LOOPBACK, 0), served) as url:
        assert httpx.post(f"{url}card", headers={KEY_HEADER: served.key}).status_code == 500
    (private,) = failures
    assert "ZeroDivisionError" in private
