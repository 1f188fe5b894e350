"""SAM's three sizes against Meta's own code: names and shapes, pre-processing, and the whole way from pixels to logits."""

import importlib
import math

import numpy as np
import pytest
import torch

from fedmentor.errors import ModelError, WrongArchitecture
from fedmentor.ids import Digest
from fedmentor.teacher.contract import Box, ObjectPrompt, Prompt, SoftLabels, logits_at, mask_hint
from teacher_service.hints import LOGITS, PROBABILITY, Frame, masks_on_input
from teacher_service.models import sam
from teacher_service.models.decoding import FoldedDecoder
from teacher_service.models.loading import check_shapes, shapes_of
from teacher_service.models.registry import ARCHITECTURES, architecture, recognise
from teacher_service.preprocess import SAM1024

# Not at the top: it needs what teacher_service.models declares first.
meta_sam = importlib.import_module("segment_anything.modeling")
transforms = importlib.import_module("segment_anything.utils.transforms")

SIZES = [sam.VIT_B, sam.VIT_L, sam.VIT_H]
TINY = sam.Size("sam-tiny", 32, 2, 2, (1,))


def reference(size):
    """Meta's own builder."""
    return importlib.import_module("segment_anything.build_sam")._build_sam(
        size.width, size.depth, size.heads, list(size.global_blocks)
    )


def meta_without_a_network():
    """What Meta's model does before and after its network."""
    model = meta_sam.Sam.__new__(meta_sam.Sam)
    torch.nn.Module.__init__(model)
    model.pixel_mean, model.pixel_std = (
        torch.tensor(values).view(-1, 1, 1) for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    model.image_encoder = torch.nn.Module()
    model.image_encoder.img_size = 1024
    return model


def answered(maps, size):
    """Soft labels of SAM with these maps about a picture of that size."""
    known, digest = architecture("sam-vit-b"), Digest("0" * 64)
    return SoftLabels(
        logits=maps.astype(np.float16),
        predicted_iou=np.ones(len(maps), np.float32),
        content=known.content(size),
        image_size=size,
        image_digest=digest,
        prompt=Prompt((Box(0, 0, 5, 5),)),
        teacher=known.card(digest),
    )


def metas(maps, size):
    """Meta's way from maps to the size of the picture."""
    on_input = SAM1024.content(size)
    return meta_without_a_network().postprocess_masks(torch.from_numpy(maps)[None], on_input, size)[0].numpy()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.id)
def test_names_and_shapes_are_those_of_the_official_files(size):
    with torch.device("meta"):
        expected = shapes_of(reference(size).state_dict())
    assert shapes_of(sam.skeleton(size).state_dict()) == expected
    assert recognise({name: torch.empty(shape, device="meta") for name, shape in expected.items()}).id == size.id


@pytest.mark.parametrize("shape", [(300, 200), (200, 300, 3), (2000, 1500), (1024, 1024), (8, 999)])
def test_pre_processing_is_metas(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    colour = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, -1)
    transform = transforms.ResizeLongestSide(1024)
    resized = torch.from_numpy(transform.apply_image(colour)).permute(2, 0, 1)[None].float()
    model = meta_without_a_network()
    np.testing.assert_allclose(SAM1024.image(pixels), model.preprocess(resized)[0].numpy(), atol=1e-5)
    assert SAM1024.content(shape[:2]) == tuple(resized.shape[-2:])
    xy = np.array([[0.0, 0.0], [shape[1], shape[0]], [3.5, 7.25]])
    np.testing.assert_allclose(SAM1024.coordinates(xy, shape[:2]), transform.apply_coords(xy, shape[:2]), rtol=1e-6)


def test_contents_are_whole_but_for_sam():
    assert architecture("sam-vit-b").content((1000, 683)) == (256, 174.75)
    assert architecture("sam-vit-b").content((8, 9000)) == (0.25, 256)
    for name in ("lite-medsam", "sam-med2d"):
        assert all(type(extent) is int for extent in architecture(name).content((1000, 683)))


ODD = [(1000, 683), (683, 1000), (1024, 1022), (257, 301), (2311, 1999), (400, 9)]


@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize("axis", [0, 1])
def test_maps_lie_on_the_picture_where_metas_do(size, axis):
    # The value of a ramp tells where on the map it was read, in map pixels.
    ramp = np.mgrid[:256, :256][axis : axis + 1].astype(np.float32)
    apart = 4 * np.abs(logits_at(answered(ramp, size), size) - metas(ramp, size)[0]).max(axis=1 - axis)
    scale = size[axis] / SAM1024.content(size)[axis]
    edge = math.ceil(3 * scale)
    assert apart[edge:-edge].max() * scale < 0.02  # pixels of the picture
    assert apart.max() < 0.5  # pixels of the input: theirs hold still in its first and last half


@pytest.mark.parametrize("size", ODD)
def test_masks_are_metas_but_for_single_pixels(size):
    coarse = np.random.default_rng(0).normal(0, 4, (2, 1, 12, 12)).astype(np.float32)
    maps = torch.nn.functional.interpolate(torch.from_numpy(coarse), (256, 256), mode="bicubic")[:, 0].numpy()
    maps = maps.astype(np.float16).astype(np.float32)
    ours, theirs = logits_at(answered(maps, size), size) > 0, metas(maps, size).max(axis=0) > 0
    assert (ours != theirs).mean() < 5e-4  # they interpolate twice


@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize("form", [PROBABILITY, LOGITS])
def test_a_hint_lies_on_the_input_where_the_picture_does(size, form):
    down, across = ((np.arange(extent) + 0.5) / extent for extent in (480, 360))
    blob = np.exp(-(((down[:, None] - 0.9) / 0.2) ** 2) - ((across[None] - 0.9) / 0.2) ** 2)
    hint = mask_hint(np.rint(255 * blob).astype(np.uint8))
    found = masks_on_input([ObjectPrompt(mask=hint)], Frame(SAM1024, 1024, 256, form, size))[0, 0]
    found = found if form == PROBABILITY else found.sigmoid()
    height, width = SAM1024.content(size)
    grey = torch.from_numpy(hint.array().astype(np.float32) / 255)[None, None]
    padded = torch.zeros(1, 1, 1024, 1024)
    padded[..., :height, :width] = torch.nn.functional.interpolate(grey, (height, width), mode="bilinear", antialias=True)
    expected = torch.nn.functional.avg_pool2d(padded, 4)[0, 0]
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_the_whole_way_from_pixels_to_logits_is_metas():
    torch.manual_seed(0)
    meta = reference(TINY).eval()
    network = sam.build(TINY, meta.state_dict())
    assert isinstance(network.modules.mask_decoder, FoldedDecoder)
    pixels = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    predictor = importlib.import_module("segment_anything.predictor").SamPredictor(meta)
    predictor.set_image(pixels)
    box = np.array([10.0, 20.0, 70.0, 100.0])
    _masks, quality, logits = predictor.predict(box=box, multimask_output=True)
    found = network.encode(torch.from_numpy(SAM1024.image(pixels))[None])
    on_input = torch.from_numpy(SAM1024.coordinates(box.reshape(2, 2), (120, 90))).reshape(1, 4)
    masks, own = network.decode_all(found, on_input, None)
    np.testing.assert_allclose(masks[0].numpy(), logits, atol=1e-4)
    np.testing.assert_allclose(own[0].numpy(), quality, atol=1e-5)


def test_a_sam_file_is_known_for_what_it_is_not_taken_for_sam_med2d():
    shapes = shapes_of(sam.skeleton(sam.VIT_B).state_dict())
    with pytest.raises(WrongArchitecture, match="sam-med2d") as caught:
        check_shapes(shapes, shapes_of(architecture("sam-med2d").skeleton().state_dict()), "sam-med2d")
    assert "1024-pixel" in caught.value.cure


def test_a_sam_file_that_lacks_something_is_compared_with_the_nearest_size():
    tensors = dict(sam.skeleton(sam.VIT_L).state_dict())
    tensors.pop("image_encoder.blocks.23.mlp.lin2.bias")
    with pytest.raises(ModelError, match=r"sam-vit-l: image_encoder\.blocks\.23\.mlp\.lin2\.bias is missing"):
        recognise(tensors)


def test_the_registry_knows_three_sizes():
    assert {size.id for size in SIZES} <= ARCHITECTURES.keys()
