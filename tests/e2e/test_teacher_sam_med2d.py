"""SAM-Med2D's true architecture, under seeded weights, behind TorchServe's two doors and in this process: the same bits."""

import gc

import numpy as np
import pytest
import torch

from fedmentor.errors import PromptRefused
from fedmentor.ids import Digest
from fedmentor.teacher.client import TeacherClient, TorchServeTeacher
from fedmentor.teacher.contract import Box, ObjectPrompt, Point, Prompt, mask_hint
from fedmentor.teacher.endpoint import read_endpoint
from fedmentor.teacher.question import Question, Wish
from teacher_service.archive import build_archive
from teacher_service.door import InProcessDoor
from teacher_service.local import local_teacher
from teacher_service.models import sam_med2d
from teacher_service.server import ServerConfig, serving
from teacher_service.weights import weights_bytes, write_weights

pytestmark = pytest.mark.e2e

PIXELS = np.clip(np.random.default_rng(1).normal(120, 30, (180, 140)), 0, 255).astype(np.uint8)
HINT = mask_hint(np.hypot(*np.mgrid[-30:30, -30:30]) < 20)

QUESTIONS = {
    "box": Question(Prompt((Box(20, 20, 120, 160),))),
    "boxes": Question(Prompt(tuple(Box(i, i, 60 + i, 90 + i) for i in range(50)))),
    "points": Question(Prompt((), (Point(50, 50), Point(5, 5, 0)))),
    "box and points": Question(Prompt((Box(20, 20, 120, 160),), (Point(50, 50),))),
    "mask": Question(Prompt(objects=(ObjectPrompt(mask=HINT),))),
    "objects": Question(
        Prompt(objects=(ObjectPrompt(Box(5, 5, 90, 90)), ObjectPrompt(None, (Point(9, 9),)), ObjectPrompt(mask=HINT)))
    ),
    "automatic": Question("whole"),
    "three masks": Question(Prompt((Box(20, 20, 120, 160),)), wish=Wish(masks=3)),
    "everything": Question(
        Prompt((Box(20, 20, 120, 160),)),
        wish=Wish(outputs=("logits", "probability", "mask", "predicted_iou", "embedding"), size=256, compress="zlib"),
    ),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A converted file of the official file's names and shapes, a gigabyte; gone when the tests end."""
    generator = torch.Generator().manual_seed(5)
    shapes = {name: tensor.shape for name, tensor in sam_med2d.skeleton().state_dict().items()}
    tensors = {name: torch.randn(shape, generator=generator).mul_(0.02) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("weights") / "sam-med2d.safetensors"
    write_weights(path, weights_bytes(tensors, sam_med2d.ARCHITECTURE, Digest("0" * 64)))
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def clients(weights, tmp_path_factory):
    """One at each door."""
    folder = tmp_path_factory.mktemp("served")
    archive = build_archive(weights, folder / "teacher.mar")
    with serving(ServerConfig(folder / "run", archive=archive)):
        rest, grpc = (TorchServeTeacher(read_endpoint(folder / "run", door)) for door in ("url", "grpc_url"))
        with rest, grpc:
            yield {"process": TeacherClient(InProcessDoor(local_teacher(weights))), "rest": rest, "grpc": grpc}
    archive.unlink()
    for path in (folder / "run" / "store").iterdir():
        path.unlink()
    gc.collect()


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_door_gives_the_same_bits(clients, name):
    here, *elsewhere = (client.ask(PIXELS, QUESTIONS[name]) for client in clients.values())
    assert here.teacher.architecture == "sam-med2d"
    for told in elsewhere:
        assert told.teacher == here.teacher
        assert told.prompt == here.prompt
        assert {name: array.shape for name, array in told.arrays.items()} == {k: a.shape for k, a in here.arrays.items()}
        assert all(told.arrays[output].tobytes() == array.tobytes() for output, array in here.arrays.items())


def test_shapes_of_three_masks_and_of_a_larger_size(clients):
    three = clients["grpc"].ask(PIXELS, QUESTIONS["three masks"]).arrays
    assert (three["logits"].shape, three["predicted_iou"].shape) == ((1, 3, 64, 64), (1, 3))
    larger = clients["rest"].ask(PIXELS, QUESTIONS["everything"])
    assert larger.arrays["logits"].shape == (1, 256, 256)
    assert larger.arrays["embedding"].shape == (256, 16, 16)
    assert larger.content == (256, 256)


def test_fifty_prompts_on_one_image_are_one_encoding(clients):
    clients["rest"].ask(PIXELS, QUESTIONS["box"])
    told = clients["rest"].ask(PIXELS, QUESTIONS["boxes"])
    assert told.arrays["logits"].shape == (50, 64, 64)
    assert told.timings_ms["embedding_cached"] == 1.0


def test_what_means_nothing_is_refused_at_every_door(clients):
    for client in clients.values():
        with pytest.raises(PromptRefused, match="outside the image"):
            client.ask(PIXELS, Question(Prompt(objects=(ObjectPrompt(None, (Point(500, 5),)),))))
