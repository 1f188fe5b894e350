"""SAM's three sizes against Meta's own code: names and shapes, pre-processing, and the whole way from pixels to logits."""

import importlib

import numpy as np
import pytest
import torch

from fedmentor.errors import ModelError, WrongArchitecture
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
    model = meta_sam.Sam.__new__(meta_sam.Sam)
    torch.nn.Module.__init__(model)
    model.pixel_mean, model.pixel_std = (
        torch.tensor(values).view(-1, 1, 1) for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    model.image_encoder = torch.nn.Module()
    model.image_encoder.img_size = 1024
    np.testing.assert_allclose(SAM1024.image(pixels), model.preprocess(resized)[0].numpy(), atol=1e-5)
    assert SAM1024.content(shape[:2]) == tuple(resized.shape[-2:])
    xy = np.array([[0.0, 0.0], [shape[1], shape[0]], [3.5, 7.25]])
    np.testing.assert_allclose(SAM1024.coordinates(xy, shape[:2]), transform.apply_coords(xy, shape[:2]), rtol=1e-6)


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
