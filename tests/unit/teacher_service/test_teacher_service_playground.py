"""The page's calls, without a browser: they work for the page and for nobody else."""

import base64
import json
import socket
import threading

import httpx
import numpy as np
import pytest

from fedmentor.teacher.client import TeacherClient
from fedmentor.teacher.contract import Box, Prompt, image_digest, logits_at, probability
from fedmentor.teacher.images import MAX_IMAGE_BYTES, png_bytes, read_image
from fedmentor.teacher.payload import decode_answer
from fedmentor.testing.teacher import AnalyticTeacher
from teacher_service.door import InProcessDoor
from teacher_service.playground import HELD_IMAGES, PlaygroundServer

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)


@pytest.fixture
def page():
    """A served page; the client shows its key."""
    with PlaygroundServer(TeacherClient(InProcessDoor(AnalyticTeacher()))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with httpx.Client(base_url=server.url, headers={"X-FedMentor-Key": server.key}) as client:
            yield client
        server.shutdown()
        thread.join()


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(page):
    answer = page.get("/")
    assert answer.status_code == 200
    assert page.headers["X-FedMentor-Key"] in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    assert "src=" not in answer.text


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


@pytest.mark.parametrize("headers", [{"X-FedMentor-Key": ""}, {"X-FedMentor-Key": "guess"}, {"Host": "evil.example"}])
@pytest.mark.parametrize("path", ["/card", "/image", "/ask", "/soft"])
def test_another_sites_page_gets_nothing(page, path, headers):
    answer = page.post(path, content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_the_page_itself_is_shown_under_its_own_address_only(page):
    assert page.get("/", headers={"Host": "evil.example"}).status_code == 404
    assert page.get("/etc/passwd").status_code == 404
    assert page.post("/nothing", content=b"").status_code == 404


def test_a_refused_caller_is_told_that_the_connection_ends(page):
    assert page.get("/etc/passwd").headers["connection"] == "close"
    assert "connection" not in page.get("/").headers


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("/image", b"text", 422, "unreadable_image"),
        ("/ask", b"{", 422, "prompt_refused"),
        ("/ask", b"[]", 400, "bad_request"),
        ("/ask", b'{"image_id": "x"}', 422, "prompt_refused"),
        ("/ask", json.dumps({"image_id": "f" * 64, "auto": "whole"}).encode(), 404, "unknown_image"),
        ("/ask", b" " * (2 << 20), 413, "limit_exceeded"),
    ],
)
def test_bad_calls_get_one_sentence(page, path, content, status, code):
    answer = page.post(path, content=content)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_body_over_the_limit_is_not_read(page):
    with socket.create_connection(("127.0.0.1", page.base_url.port)) as raw:
        lines = (
            "POST /image HTTP/1.1",
            f"Host: 127.0.0.1:{page.base_url.port}",
            f"X-FedMentor-Key: {page.headers['X-FedMentor-Key']}",
            f"Content-Length: {MAX_IMAGE_BYTES + 1}",
        )
        raw.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413")
