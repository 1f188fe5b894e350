"""One request contract, every door: this process, TorchServe's REST and TorchServe's gRPC."""

import io
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset

from fedmentor.errors import LimitExceeded, PromptRefused, UnknownImage
from fedmentor.ids import Digest
from fedmentor.teacher.client import Patience, TeacherClient, TorchServeTeacher
from fedmentor.teacher.contract import Box, Extras, ObjectPrompt, Prompt, image_digest, maps_at
from fedmentor.teacher.door import Part
from fedmentor.teacher.encodings import LOGITS_ERROR, PROBABILITY_ERROR, mask_of_runs
from fedmentor.teacher.endpoint import read_endpoint, read_token
from fedmentor.teacher.images import MAX_IMAGE_BYTES, View, png_bytes
from fedmentor.teacher.payload import decode_answer, decode_outputs
from fedmentor.teacher.prompts import central_box
from fedmentor.teacher.question import Question, Wish
from teacher_service.door import InProcessDoor
from teacher_service.local import local_teacher
from teacher_service.server import ServerConfig, serving

HEIGHT, WIDTH = 120, 200


def phantom():
    """A dark disc on a bright ground, with noise, in 12 bits."""
    down, across = np.mgrid[:HEIGHT, :WIDTH]
    disc = np.hypot(down - 60, across - 90) < 35
    noise = np.random.default_rng(0).normal(0, 100, (HEIGHT, WIDTH))
    return np.clip(np.where(disc, 1000, 3000) + noise, 0, 4095).astype(np.uint16)


DEEP = phantom()
PIXELS = np.rint((DEEP - DEEP.min()) * (255.0 / (DEEP.max() - DEEP.min()))).astype(np.uint8)
PROMPT = Prompt((Box(50, 20, 130, 100), Box(0, 0, 60, 60)))
QUESTION = Question(PROMPT)
SHIFTS = itertools.count(1)
"""So that no two doors to one server are asked about the same new picture."""


def dicom_file(pixels):
    """Uncompressed, without a window."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = pixels.shape[-2:]
    data.NumberOfFrames = len(pixels) if pixels.ndim == 3 else 1
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit = 15
    data.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def numpy_file(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def picture_file(pixels, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def bomb():
    """A picture of 20 000 x 20 000 pixels in half a megabyte."""
    return picture_file(np.zeros((20_000, 20_000), np.bool_), "PNG")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server with two doors."""
    with serving(ServerConfig(tmp_path_factory.mktemp("teacher"))) as running:
        yield running


@pytest.fixture(
    scope="module",
    params=["process", pytest.param("rest", marks=pytest.mark.e2e), pytest.param("grpc", marks=pytest.mark.e2e)],
)
def client(request):
    """A client at each door in turn."""
    if request.param == "process":
        with TeacherClient(InProcessDoor(local_teacher())) as client:
            yield client
        return
    running = request.getfixturevalue("server")
    door = {"rest": "url", "grpc": "grpc_url"}[request.param]
    with TorchServeTeacher(read_endpoint(running.endpoint.key_file.parent, door)) as client:
        yield client


def raw(client, prompt, image=None):
    """A request as somebody else's client would send it; the answer's bytes."""
    fields = {} if image is None else {"image": Part(image, "image")}
    if prompt is not None:
        fields["prompt"] = Part(prompt if isinstance(prompt, bytes) else json.dumps(prompt).encode(), media_type="application/json")
    token = None if client._key_file is None else read_token(client._key_file)
    return client._door.send(fields, token, 120.0)


BOXES = {"boxes": [[50, 20, 130, 100], [0, 0, 60, 60]]}


@pytest.mark.parametrize(
    "file",
    [
        png_bytes(PIXELS),
        picture_file(DEEP, "PNG"),
        dicom_file(DEEP),
        numpy_file(DEEP),
        numpy_file(PIXELS),
        numpy_file(DEEP.astype(np.float64)),
    ],
    ids=["PNG 8", "PNG 16", "DICOM 16", "NumPy 16", "NumPy 8", "NumPy float"],
)
def test_every_file_format_of_one_picture_is_the_same_picture(client, file):
    outputs = client.ask(file, QUESTION)
    assert outputs.image_id == image_digest(PIXELS)
    assert outputs.image_size == (HEIGHT, WIDTH)
    assert outputs.arrays["logits"].tobytes() == client.soften(PIXELS, PROMPT).logits.tobytes()


def test_jpeg_is_taken(client):
    assert client.ask(picture_file(PIXELS, "JPEG"), QUESTION).image_size == (HEIGHT, WIDTH)


def test_a_frame_and_a_window_are_taken(client):
    stack = dicom_file(np.stack([DEEP[::-1], DEEP]))
    view = View(frame=1, window=(float(DEEP.min()), float(DEEP.max())))
    assert client.ask(stack, replace(QUESTION, view=view)).image_id == image_digest(PIXELS)


def test_the_default_answer_is_what_it_always_was(client):
    soft = decode_answer(raw(client, BOXES, png_bytes(PIXELS)).body)
    again = client.soften(PIXELS, PROMPT)
    assert soft.logits.tobytes() == again.logits.tobytes()
    assert soft.prompt == again.prompt == PROMPT
    assert {"encode", "decode", "read", "embedding_cached"} <= soft.timings_ms.keys()


def test_an_image_that_was_seen_is_named_by_its_digest(client):
    first = client.ask(png_bytes(PIXELS), QUESTION)
    again = client.ask(first.image_id, QUESTION)
    assert again.timings_ms["embedding_cached"] == 1.0
    assert again.arrays["logits"].tobytes() == first.arrays["logits"].tobytes()
    with pytest.raises(PromptRefused, match="choose from a file"):  # the pixels were made from the file before
        client.ask(first.image_id, Question("central", view=View(window=(9, 99))))
    assert client.ask(first.image_id, Question("central")).prompt == Prompt(central_box((HEIGHT, WIDTH)))


def test_an_image_that_was_never_seen_is_refused_and_the_client_sends_it(client):
    unseen = np.roll(PIXELS, next(SHIFTS), axis=1)
    with pytest.raises(UnknownImage):
        client.ask(image_digest(unseen), QUESTION)
    client._remember(image_digest(unseen))  # as after a restart of the worker
    assert client.ask(unseen, QUESTION).timings_ms["embedding_cached"] == 0.0
    assert client.ask(unseen, QUESTION).timings_ms["embedding_cached"] == 1.0


def test_a_request_without_a_prompt_gets_the_automatic_one(client):
    soft = decode_answer(raw(client, None, png_bytes(PIXELS)).body)
    assert soft.prompt == Prompt(central_box((HEIGHT, WIDTH)))


def test_objects_one_by_one_are_the_boxes_one_by_one(client):
    objects = Prompt(objects=tuple(ObjectPrompt(box) for box in PROMPT.boxes))
    outputs = client.ask(PIXELS, Question(objects))
    assert outputs.prompt == objects
    assert outputs.arrays["logits"].tobytes() == client.soften(PIXELS, PROMPT).logits.tobytes()


@pytest.fixture(scope="module")
def exact():
    """What the network itself said about PROMPT, and the soft labels to it."""
    told = local_teacher().ask(PIXELS, PROMPT, Extras(exact=True))
    return told.exact, told.soft


@pytest.mark.parametrize(
    ("size", "encoding", "compress"),
    [("native", "float16", "none"), ("native", "uint8", "zlib"), (256, "uint16", "none"), ("original", "uint16", "zlib")],
)
def test_outputs_by_name_in_every_encoding_and_size(client, exact, size, encoding, compress):
    names = ("logits", "probability", "mask", "predicted_iou")
    outputs = client.ask(PIXELS, Question(PROMPT, wish=Wish(outputs=names, encoding=encoding, size=size, compress=compress)))
    assert set(outputs.arrays) == set(names)
    shape, content = ((HEIGHT, WIDTH), (HEIGHT, WIDTH)) if size == "original" else ((256, 256), (154, 256))
    assert outputs.content == content
    logits = outputs.arrays["logits"]
    assert logits.shape == outputs.arrays["probability"].shape == outputs.arrays["mask"].shape == (2, *shape)
    assert outputs.arrays["predicted_iou"].shape == (2,)
    true = exact[0] if size != "original" else maps_at(*exact, (HEIGHT, WIDTH))
    likely = 1 / (1 + np.exp(-true.astype(np.float64)))
    assert np.abs(outputs.arrays["probability"] - likely).max() <= PROBABILITY_ERROR[encoding]
    assert np.abs(1 / (1 + np.exp(-logits.astype(np.float64))) - likely).max() <= LOGITS_ERROR
    assert (outputs.arrays["mask"] == (true > 0)).all()


def test_only_what_is_asked_for_is_sent(client):
    outputs = client.ask(PIXELS, Question(PROMPT, wish=Wish(outputs=("mask",), compress="zlib")))
    assert set(outputs.arrays) == {"mask"}
    small = raw(client, {**BOXES, "outputs": ["mask"], "compress": "zlib"}, png_bytes(PIXELS)).body
    assert len(small) < 0.1 * len(raw(client, BOXES, png_bytes(PIXELS)).body)
    assert (decode_outputs(small).arrays["mask"] == outputs.arrays["mask"]).all()


def test_the_embedding_is_given(client):
    embedding = client.ask(PIXELS, Question(PROMPT, wish=Wish(outputs=("embedding",)))).arrays["embedding"]
    assert embedding.shape == (256, 64, 64)
    assert embedding.dtype == np.float32


def test_people_get_png_or_run_lengths(client):
    body = json.loads(raw(client, {**BOXES, "answer": "json"}, png_bytes(PIXELS)).body)
    runs = json.loads(raw(client, {**BOXES, "answer": "json", "mask_format": "rle"}, png_bytes(PIXELS)).body)
    for plain, rle in zip(body["objects"], runs["objects"], strict=True):
        assert rle["mask_rle"]["size"] == [HEIGHT, WIDTH]
        mask = mask_of_runs(rle["mask_rle"]["counts"], (HEIGHT, WIDTH))
        assert int(mask.sum()) == plain["area_px"] == rle["area_px"]
        assert "mask_png_base64" in plain


MULTI_FRAME = dicom_file(np.stack([DEEP, DEEP]))

BAD = {
    "no image": (BOXES, None, 400, "bad_request"),
    "another image than named": ({**BOXES, "image_id": "0" * 64}, png_bytes(PIXELS), 400, "bad_request"),
    "unknown image": ({**BOXES, "image_id": "0" * 64}, None, 404, "unknown_image"),
    "unknown architecture": ({**BOXES, "architecture": "vit-9000"}, png_bytes(PIXELS), 404, "unknown_architecture"),
    "another architecture": ({**BOXES, "architecture": "sam-med2d"}, png_bytes(PIXELS), 404, "unknown_architecture"),
    "text": (BOXES, b"text", 422, "unreadable_image"),
    "one pixel": (BOXES, png_bytes(np.zeros((1, 1), np.uint8)), 422, "unreadable_image"),
    "bomb": (BOXES, bomb, 422, "unreadable_image"),
    "NaN pixels": (BOXES, numpy_file(np.full((20, 20), np.nan)), 422, "unreadable_image"),
    "truncated PNG": (BOXES, png_bytes(PIXELS)[:-500], 422, "unreadable_image"),
    "truncated DICOM": (BOXES, dicom_file(DEEP)[:-500], 422, "unreadable_image"),
    "frames and no number": (BOXES, MULTI_FRAME, 422, "unreadable_image"),
    "no such frame": ({**BOXES, "frame": 2}, MULTI_FRAME, 422, "unreadable_image"),
    "image over the limit": (BOXES, lambda: png_bytes(PIXELS) + bytes(MAX_IMAGE_BYTES), 413, "limit_exceeded"),
    "prompt over the limit": (json.dumps(BOXES).encode() + b" " * (1 << 20), png_bytes(PIXELS), 413, "limit_exceeded"),
    "answer over the limit": (
        {"boxes": [[0, 0, 9, 9]] * 64, "outputs": ["logits", "probability", "mask"]},
        png_bytes(PIXELS),
        413,
        "limit_exceeded",
    ),
    "no prompt": ({"boxes": []}, png_bytes(PIXELS), 422, "prompt_refused"),
    "nothing at all": ({}, png_bytes(PIXELS), 422, "prompt_refused"),
    "box outside": ({"boxes": [[0, 0, 201, 20]]}, png_bytes(PIXELS), 422, "prompt_refused"),
    "box inverted": ({"boxes": [[20, 20, 10, 30]]}, png_bytes(PIXELS), 422, "prompt_refused"),
    "box of NaN": (b'{"boxes": [[NaN, 0, 9, 9]]}', png_bytes(PIXELS), 422, "prompt_refused"),
    "point it was not trained for": ({"points": [[9, 9, 1]]}, png_bytes(PIXELS), 422, "prompt_refused"),
    "mask that is no picture": ({"objects": [{"mask": "AAAA"}]}, png_bytes(PIXELS), 422, "prompt_refused"),
    "three masks of a teacher of one": ({**BOXES, "masks": 3}, png_bytes(PIXELS), 422, "prompt_refused"),
    "unknown automatic prompt": ({"auto": "liver"}, png_bytes(PIXELS), 422, "prompt_refused"),
    "unknown member": ({**BOXES, "colour": "red"}, png_bytes(PIXELS), 422, "prompt_refused"),
    "unknown output": ({**BOXES, "outputs": ["weights"]}, png_bytes(PIXELS), 422, "prompt_refused"),
    "unknown encoding": ({**BOXES, "encoding": "float8"}, png_bytes(PIXELS), 422, "prompt_refused"),
    "window upside down": ({**BOXES, "window": [5, 1]}, png_bytes(PIXELS), 422, "prompt_refused"),
    "no JSON": (b"{", png_bytes(PIXELS), 422, "prompt_refused"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_status_a_code_and_one_sentence(client, case):
    prompt, image, status, code = BAD[case]
    answer = raw(client, prompt, image() if callable(image) else image)
    body = json.loads(answer.body)
    assert (body["status"], body["code"]) == (status, code)
    assert answer.status in (status, 200)  # gRPC has no status line
    assert body["message"]
    assert "\n" not in body["message"]
    assert "Traceback" not in body["message"]


def test_a_bad_request_never_harms_its_neighbours(client):
    before = client.soften(PIXELS, PROMPT).logits.tobytes()
    requests = [(BOXES, png_bytes(PIXELS)), (BOXES, b"text"), ({"boxes": []}, png_bytes(PIXELS)), (b"{", None)] * 4
    with ThreadPoolExecutor(8) as pool:
        bodies = [answer.body for answer in pool.map(lambda request: raw(client, *request), requests)]
    assert all(decode_answer(body).logits.tobytes() == before for body in bodies[::4])
    assert all(json.loads(body)["status"] >= 400 for index, body in enumerate(bodies) if index % 4)


def test_a_message_far_over_the_limit_is_refused_and_the_teacher_goes_on(client):
    fields = {"image": Part(bytes(3 * MAX_IMAGE_BYTES // 2), "image"), "prompt": Part(json.dumps(BOXES).encode())}
    token = None if client._key_file is None else read_token(client._key_file)
    try:
        answer = client._door.send(fields, token, 60.0)
    except LimitExceeded:
        pass
    else:
        assert json.loads(answer.body)["code"] == "limit_exceeded"
    assert client.describe() == client.card()


def test_a_client_bounds_what_it_has_under_way(client):
    class Counting:
        """Passes on and counts."""

        def __init__(self, door):
            self.door, self.now, self.most = door, 0, 0

        def send(self, *arguments):
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                return self.door.send(*arguments)
            finally:
                self.now -= 1

    counting = Counting(client._door)
    narrow = TeacherClient(counting, client._key_file, Patience(in_flight=2))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: narrow.describe(), range(16)))
    assert counting.most <= 2


def test_an_unknown_digest_is_told_as_such(client):
    with pytest.raises(UnknownImage, match="does not hold"):
        client.ask(Digest("f" * 64), QUESTION)
