"""The networks against their authors': SAM-Med2D against reference arrays, LiteMedSAM against its published code."""

import gc
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedmentor.ids import Digest
from fedmentor.teacher.contract import Box, Extras, ObjectPrompt, Point, Prompt, mask_hint
from fedmentor.teacher.encodings import float16_logits
from teacher_service.hints import LOGITS, PROBABILITY, Frame, masks_on_input
from teacher_service.local import LocalTeacher
from teacher_service.models import lite_medsam, sam_med2d
from teacher_service.models.decoding import FoldedDecoder
from teacher_service.models.network import OBJECTS_AT_ONCE
from teacher_service.models.onednn import GELU, NONE, DepthwiseGelu, of_linear
from teacher_service.models.sam_parts import mask_decoder
from teacher_service.models.tiny_vit import InvertedBottleneck, rows_of, windows_of
from teacher_service.models.winograd import WinogradConvolution
from teacher_service.preprocess import LONGEST256, STRETCH256
from teacher_service.weights import Weights

DIGEST = Digest("0" * 64)


@pytest.fixture(scope="module")
def reference(sam_med2d_reference):
    """The fill procedure of the reference, its golden arrays, and our network under that fill; one gigabyte, freed at the end."""
    names = {name: tuple(tensor.shape) for name, tensor in sam_med2d.skeleton().state_dict().items()}
    tensors = {}
    for index, name in enumerate(sorted(names)):
        value = torch.randn(names[name], generator=torch.Generator().manual_seed(1000 + index)).mul_(0.02)
        tensors[name] = 1 + value if name.endswith("weight") and value.ndim == 1 and "norm" in name else value
    teacher = LocalTeacher(Weights("sam-med2d", DIGEST, DIGEST, tensors))
    image = torch.rand((1, 3, 256, 256), generator=torch.Generator().manual_seed(7))
    with np.load(sam_med2d_reference / "sam_med2d_golden.npz") as golden:
        yield teacher, teacher._network.encode(image), {name: golden[name] for name in golden.files}
    del teacher, tensors
    gc.collect()


BOX = torch.tensor([[40.0, 60, 200, 220]])
BOXES = torch.tensor([[40.0, 60, 200, 220], [100, 20, 180, 90]])
POINT = (torch.tensor([[[128.0, 128]]]), torch.tensor([[1]], dtype=torch.int32))
POINTS = (torch.tensor([[[128.0, 128], [30, 200], [10, 10]]]), torch.tensor([[1, 0, 1]], dtype=torch.int32))


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() / np.abs(expected).max() < 1e-4


def test_sam_med2d_has_the_names_and_shapes_of_the_official_file(sam_med2d_reference):
    expected = json.loads((sam_med2d_reference / "sam_med2d_state_dict.json").read_text())
    found = sam_med2d.skeleton().state_dict()
    assert [[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in found.items()] == expected


def test_sam_med2d_embedding_equals_the_reference(reference):
    _teacher, embedding, golden = reference
    assert_close(embedding, golden["image_embedding"])


@pytest.mark.parametrize(
    ("boxes", "points", "name"),
    [
        (BOX, None, "low_res_logits_box_multi"),
        (None, POINT, "low_res_logits_point_multi"),
        (None, POINTS, "low_res_logits_points3_multi"),
        (BOXES, None, "low_res_logits_2box_multi"),
    ],
    ids=["box", "point", "three points", "two boxes"],
)
def test_sam_med2d_masks_equal_the_reference(reference, boxes, points, name):
    teacher, embedding, golden = reference
    network = teacher._network
    masks, _quality = network.candidates(embedding, boxes, points)
    assert_close(masks, golden[name])


def test_sam_med2d_keeps_the_best_of_three_masks_for_each_box(reference):
    teacher, embedding, _golden = reference
    network = teacher._network
    masks, quality = network.candidates(embedding, BOXES, None)
    logits, best = network.decode(embedding, BOXES, None)
    assert logits.shape == (2, 64, 64)
    for row in range(2):
        winner = int(quality[row].argmax())
        assert torch.equal(logits[row], masks[row, winner])
        assert best[row] == quality[row, winner]


def test_sam_med2d_answers_points_boxes_and_both(reference):
    teacher, _embedding, _golden = reference
    pixels = np.random.default_rng(0).integers(0, 256, (100, 300), dtype=np.uint8)
    boxes, points = (Box(10, 10, 90, 90), Box(100, 20, 280, 80)), (Point(50, 50), Point(200, 30, 0))
    answers = [teacher.soften(pixels, prompt) for prompt in (Prompt(boxes), Prompt((), points), Prompt(boxes, points))]
    assert [soft.logits.shape for soft in answers] == [(2, 64, 64), (1, 64, 64), (2, 64, 64)]
    assert {soft.content for soft in answers} == {(64, 64)}
    assert [soft.timings_ms["embedding_cached"] for soft in answers] == [0.0, 1.0, 1.0]
    assert (answers[0].logits != answers[2].logits).any()  # points refine boxes


def test_sam_med2d_takes_a_mask_as_a_hint_like_the_reference(reference):
    teacher, embedding, golden = reference
    best = golden["iou_point_multi"][0].argmax()
    hint = torch.from_numpy(golden["low_res_logits_point_multi"][:, best : best + 1]).sigmoid()
    masks, _quality = teacher._network.decode_all(embedding, None, POINTS, hint)
    assert_close(masks, golden["low_res_logits_iter_multi"])


def test_objects_of_several_kinds_are_answered_as_if_each_were_alone(reference):
    teacher, _embedding, _golden = reference
    pixels = np.random.default_rng(3).integers(0, 256, (90, 160), dtype=np.uint8)
    hint = mask_hint(np.hypot(*np.mgrid[-45:45, -80:80]) < 30)
    objects = (
        ObjectPrompt(Box(10, 10, 90, 80)),
        ObjectPrompt(None, (Point(50, 50), Point(20, 20, 0))),
        ObjectPrompt(mask=hint),
        ObjectPrompt(Box(20, 20, 100, 60)),
        ObjectPrompt(Box(10, 10, 90, 80), (Point(50, 50),), hint),
    )
    together = teacher.ask(pixels, Prompt(objects=objects), Extras(candidates=True, exact=True))
    maps, quality = together.candidates
    assert together.exact.dtype == np.float32
    assert float16_logits(together.exact).tobytes() == maps.tobytes()
    assert maps.shape == (5, 3, 64, 64)
    for index, each in enumerate(objects):
        alone = teacher.soften(pixels, Prompt(objects=(each,)))
        np.testing.assert_allclose(together.soft.logits[index], alone.logits[0], atol=2e-3, rtol=2e-3)
        assert (maps[index, quality[index].argmax()] == together.soft.logits[index]).all()


def test_a_hint_lies_over_the_picture_and_nothing_beside_it():
    hint = mask_hint(np.ones((4, 8), bool))
    stretched = masks_on_input([ObjectPrompt(mask=hint)], Frame(STRETCH256, 256, 64, PROBABILITY, (100, 300)))
    assert stretched.shape == (1, 1, 64, 64)
    assert (stretched == 1).all()
    padded = masks_on_input([ObjectPrompt(mask=hint)], Frame(LONGEST256, 256, 256, LOGITS, (100, 200)))
    assert padded.shape == (1, 1, 256, 256)
    assert (padded[0, 0, :128] > 7.9).all()
    assert (padded[0, 0, 128:] < -7.9).all()


def test_more_objects_than_are_decoded_at_once(reference):
    teacher, embedding, _golden = reference
    boxes = torch.stack([BOX[0] + shift for shift in range(OBJECTS_AT_ONCE + 3)])
    many, _quality = teacher._network.decode(embedding, boxes, None)
    last, _quality = teacher._network.decode(embedding, boxes[-1:], None)
    assert many.shape == (OBJECTS_AT_ONCE + 3, 64, 64)
    torch.testing.assert_close(many[-1:], last, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def published_weights():
    """LiteMedSAM's official tensors."""
    return torch.load(io.BytesIO(lite_medsam.bundled_checkpoint()), weights_only=True)


def test_the_faster_litemedsam_answers_as_the_published_one(published_weights):
    rng = np.random.default_rng(0)
    picture = np.clip(rng.normal(128, 40, (200, 256)), 0, 255).astype(np.uint8)
    picture[60:140, 80:180] //= 2
    image = torch.from_numpy(LONGEST256.image(picture))[None]
    box = torch.tensor([[70.0, 50, 190, 150]])
    answers = []
    for build in (lite_medsam.build_as_published, lite_medsam.build):
        network = build(published_weights)
        logits, quality = network.decode(network.encode(image), box, None)
        answers.append((logits.sigmoid(), quality))
    assert float((answers[0][0] - answers[1][0]).abs().max()) < 1e-5
    assert float((answers[0][1] - answers[1][1]).abs().max()) < 1e-5
    assert 0.01 < float((answers[0][0] > 0.5).float().mean()) < 0.9  # there is something to compare


def test_no_attention_bias_from_before_the_weights_were_loaded_survives(published_weights):
    network = lite_medsam.build_as_published(published_weights)
    attentions = [module for module in network.modules.image_encoder.modules() if type(module).__name__ == "Attention"]
    assert len(attentions) == 10
    for attention in attentions:
        assert torch.equal(attention.ab, attention.attention_biases[:, attention.attention_bias_idxs])
        assert attention.ab.abs().max() > 0  # a fresh network's bias is zero


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height", [16, 21, 7])
def test_strips_give_what_the_whole_picture_gives(height, stride):
    torch.manual_seed(0)
    expand, project = torch.nn.Conv2d(4, 8, 1), torch.nn.Conv2d(8, 3, 1)
    depthwise = torch.nn.Conv2d(8, 8, 3, stride, padding=1, groups=8)
    picture = torch.randn(2, 4, height, 10)
    gelu = torch.nn.functional.gelu
    with torch.inference_mode():
        whole = project(gelu(depthwise(gelu(expand(picture)))))
        bottleneck = InvertedBottleneck(SimpleNamespace(conv1=expand, conv2=depthwise, conv3=project))
        strips = list(bottleneck.strips(picture.permute(0, 2, 3, 1)))
    assert [rows.stop - rows.start for rows, _ in strips] == [strip.shape[1] for _, strip in strips]
    assert strips[-1][0].stop == whole.shape[2]
    torch.testing.assert_close(torch.cat([strip for _, strip in strips], dim=1).permute(0, 3, 1, 2), whole)


@pytest.mark.parametrize(("height", "width"), [(7, 14), (7, 16), (3, 16), (5, 7)])
def test_windows_are_cut_and_put_back(height, width):
    rows, padding = torch.randn(2, height, width, 5), torch.full((5,), 9.0)
    windows = windows_of(rows, 7, padding)
    padded = padding.expand(2, 7, -(-width // 7) * 7, 5).clone()
    padded[:, :height, :width] = rows
    assert torch.equal(windows, padded.view(2, 7, -1, 7, 5).transpose(1, 2).reshape(-1, 49, 5))
    assert torch.equal(rows_of(windows, 7, rows.shape), rows)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_fused_depthwise_convolution_answers_as_its_parts(stride):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(6, 6, 3, stride, padding=(0, 1), groups=6)
    picture = torch.randn(1, 6, 9, 8).to(memory_format=torch.channels_last)
    fused = DepthwiseGelu(layer)
    with torch.inference_mode():
        expected = torch.nn.functional.gelu(layer(picture))
        torch.testing.assert_close(fused(picture), expected)
        fused.fused = False  # as where this torch lacks the operator
        torch.testing.assert_close(fused(picture), expected)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 64), (20, 36), (4, 8)])
def test_winograds_convolution_answers_as_the_plain_one(height, width):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(24, 40, 3, padding=1, bias=False)
    pictures = torch.randn(2, 24, height, width)
    with torch.inference_mode():
        expected = layer(pictures)
        found = WinogradConvolution(layer)(pictures.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("clicks", [0, 1, 5, 9])
def test_the_folded_decoder_answers_as_the_reference(clicks, multimask):
    torch.manual_seed(clicks)
    decoder = mask_decoder().eval()
    embedding, position = torch.randn(1, 256, 16, 16), torch.randn(1, 256, 16, 16)
    sparse, dense = torch.randn(3, 2 + clicks, 256), torch.randn(3, 256, 16, 16)
    with torch.inference_mode():
        expected = decoder(embedding, position, sparse, dense, multimask_output=multimask)
        found = FoldedDecoder(decoder)(embedding, position, sparse, dense, multimask_output=multimask)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("activation", [NONE, GELU])
@pytest.mark.parametrize("shape", [(7, 12), (1, 5, 12), (2, 3, 4, 12)])
def test_a_fused_layer_answers_as_its_parts(shape, activation):
    torch.manual_seed(0)
    layer, rows = torch.nn.Linear(12, 20), torch.randn(shape)
    with torch.inference_mode():
        expected = layer(rows)
        expected = torch.nn.functional.gelu(expected) if activation == GELU else expected
        fused = of_linear(layer, activation)
        torch.testing.assert_close(fused(rows), expected)
        fused._packed = None  # as where this torch lacks the operator
        torch.testing.assert_close(fused(rows), expected)
