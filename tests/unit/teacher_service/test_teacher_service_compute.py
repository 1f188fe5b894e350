"""Where and how a teacher computes: what is refused, what half precision changes, and what a batch encodes together."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmentor.cli import run
from fedmentor.errors import EXIT_CONFIG, ConfigError
from fedmentor.teacher.contract import Box, Prompt, image_digest, soft_label_key
from fedmentor.teacher.images import png_bytes
from fedmentor.teacher.payload import decode_answer, request_prompt
from fedmentor.testing.teacher import AnalyticTeacher
from teacher_service.archive import MODEL_CONFIG_FILE, build_archive, check_archive
from teacher_service.compute import MAX_IMAGES_AT_ONCE, Compute
from teacher_service.convert import convert_bundled
from teacher_service.handler import TeacherHandler, worker_compute
from teacher_service.local import LocalTeacher, local_teacher
from teacher_service.models import lite_medsam
from teacher_service.preprocess import LONGEST256
from teacher_service.server import ServerConfig, start
from teacher_service.settings import PRECISION_VARIABLE, environment
from teacher_service.weights import read_weights

PROMPT = Prompt((Box(8, 8, 56, 56),))


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """LiteMedSAM, converted."""
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    convert_bundled(path)
    return path


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"precision": "float8"}, "not a precision"),
        ({"precision": "bfloat16"}, "differ by up to 0.38"),
        ({"precision": "float16"}, "is for a GPU"),
        ({"precision": "float16", "device": "cpu:0"}, "is for a GPU"),
        ({"images_at_once": 0}, "out of range"),
        ({"images_at_once": MAX_IMAGES_AT_ONCE + 1}, "out of range"),
    ],
)
def test_what_is_refused(choice, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Compute(**choice)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_told(weights, device):
    with pytest.raises(ConfigError, match="no device"):
        local_teacher(weights, compute=Compute(device))


def test_float32_on_a_gpu_is_never_tf32():
    """TF32 is what cuDNN would choose, with errors of a thousandth. In a process of its own: the choice is a process's."""
    lines = (
        "import torch; from teacher_service.models.network import _without_tf32",
        "_without_tf32(torch.device('cpu')); assert torch.backends.cudnn.allow_tf32",
        "_without_tf32(torch.device('cuda:1'))",
        "assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=300)


def test_labels_of_two_precisions_never_meet_in_a_cache():
    card = AnalyticTeacher().card()
    image = image_digest(picture(0))
    marks = {Compute("cuda", precision).mark for precision in ("float32", "float16", "bfloat16")}
    cards = [replace(card, preprocessing=card.preprocessing + mark) for mark in marks]
    assert "" in marks
    assert len({soft_label_key(image, PROMPT, each) for each in cards}) == 3


def test_half_precision_keeps_float32_outside_and_is_not_exact_inside(weights):
    """The path that a GPU takes, on the CPU, where the configuration would refuse it."""
    exact = lite_medsam.build_as_published(read_weights(weights).tensors)  # without the rearrangements for a CPU
    image = torch.from_numpy(LONGEST256.image(picture(1)))[None]
    embedding = exact.encode(image)
    half = replace(exact, half=torch.bfloat16)
    rough = half.encode(image)
    logits, quality = half.decode(rough, torch.tensor([[30.0, 30.0, 220.0, 220.0]]), None)
    assert (rough.dtype, logits.dtype, quality.dtype) == (torch.float32,) * 3
    error = (rough - embedding).abs().max() / embedding.abs().max()
    assert 1e-4 < error < 0.5


def test_images_of_a_batch_are_encoded_together_and_answered_as_alone(weights):
    alone = local_teacher(weights)
    together = LocalTeacher(read_weights(weights), compute=Compute(images_at_once=2))
    pictures = [picture(seed) for seed in (1, 2, 3, 2)]
    together.expect(pictures)
    for pixels in pictures:
        soft = together.soften(pixels, PROMPT)
        assert soft.timings_ms["embedding_cached"] == 1.0
        np.testing.assert_allclose(soft.logits, alone.soften(pixels, PROMPT).logits, atol=2e-2)
    assert together.card() == alone.card()


class Expecting(AnalyticTeacher):
    """Remembers what it was told of."""

    def __init__(self, error=None):
        super().__init__()
        self.expected, self.error = [], error

    def expect(self, images):
        """See Foundation."""
        self.expected += [image_digest(pixels) for pixels in images]
        if self.error is not None:
            raise self.error


class Context:
    """What a handler uses of TorchServe's context."""

    def __init__(self):
        self.statuses = {}

    def set_response_status(self, code, phrase, index):
        """As TorchServe's."""
        self.statuses[index] = (code, phrase)

    def set_response_content_type(self, _index, _value):
        """As TorchServe's."""

    def set_response_header(self, _index, _key, _value):
        """As TorchServe's."""

    def get_request_header(self, _index, _key):
        """As TorchServe's."""


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA out of memory")])
def test_a_handler_tells_of_the_whole_batch_first(error):
    teacher = Expecting(error)
    handler = TeacherHandler(teacher, looks_ahead=True)
    fields = [{"image": png_bytes(picture(seed)), "prompt": request_prompt(PROMPT)} for seed in (1, 2)]
    context = Context()
    replies = handler.handle([fields[0], {"image": b"no picture"}, fields[1]], context)
    assert teacher.expected == [image_digest(picture(1)), image_digest(picture(2))]
    assert context.statuses == {1: (422, "unreadable_image")}
    assert json.loads(replies[1])["code"] == "unreadable_image"
    assert decode_answer(replies[2]).image_digest == image_digest(picture(2))


@pytest.mark.parametrize(
    ("system", "cuda", "expected"),
    [
        ({"gpu_id": None, "batch_size": 4}, True, Compute()),
        ({"gpu_id": 0, "batch_size": 4}, False, Compute()),
        ({"gpu_id": 1, "batch_size": 16}, True, Compute("cuda:1", images_at_once=16)),
        ({"gpu_id": 0, "batch_size": None}, True, Compute("cuda:0")),
    ],
    ids=["no GPU", "a GPU that torch cannot use", "a GPU", "a GPU, no batch"],
)
def test_a_worker_computes_on_the_gpu_that_it_is_given_if_it_can(system, cuda, expected):
    assert worker_compute(system, "float32", cuda=cuda) == expected


def test_larger_batches_are_a_matter_of_the_archive(weights, tmp_path):
    for images in (1, 4, 16):
        archive = build_archive(weights, tmp_path / f"{images}.mar", images)
        assert check_archive(archive).batch_images == images
        with zipfile.ZipFile(archive) as opened:
            assert f"batchSize: {images}\n" in opened.read(MODEL_CONFIG_FILE).decode()
    with pytest.raises(ConfigError, match="out of range"):
        build_archive(weights, tmp_path / "many.mar", MAX_IMAGES_AT_ONCE + 1)
    words = ["teacher", "serve", "--run-dir", str(tmp_path / "run"), "--archive", str(archive), "--batch-images", "8"]
    assert run(words) == EXIT_CONFIG


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes half precision")
def test_half_precision_without_a_gpu_is_refused_before_anything_is_started(tmp_path):
    with pytest.raises(ConfigError, match="is for a GPU"):
        start(ServerConfig(tmp_path / "run", precision="bfloat16"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == []


def test_the_worker_is_told_its_precision(tmp_path):
    assert environment({}, tmp_path, 1)[PRECISION_VARIABLE] == "float32"
    assert environment({PRECISION_VARIABLE: "float16"}, tmp_path, 1, None, "bfloat16")[PRECISION_VARIABLE] == "bfloat16"
