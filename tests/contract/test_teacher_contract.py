"""One contract, every teacher: the fake, the one in this process, the cache in front of one, and the one behind TorchServe."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fedmentor.errors import PromptRefused, UnreadableImage
from fedmentor.teacher.cache import CachedTeacher, MemoryStore
from fedmentor.teacher.client import TorchServeTeacher
from fedmentor.teacher.contract import Box, Extras, Point, Prompt, image_digest, logits_at, soft_label_key
from fedmentor.testing.teacher import AnalyticTeacher
from teacher_service.local import local_teacher
from teacher_service.server import ServerConfig, serving

HEIGHT, WIDTH = 120, 200
NAN = float("nan")


def phantom():
    """A dark disc on a bright ground, with noise: something that every teacher can find."""
    down, across = np.mgrid[:HEIGHT, :WIDTH]
    disc = np.hypot(down - 60, across - 90) < 35
    noise = np.random.default_rng(0).normal(0, 6, (HEIGHT, WIDTH))
    return np.clip(np.where(disc, 60, 190) + noise, 0, 255).astype(np.uint8)


PIXELS = phantom()
BOX = Box(50, 20, 130, 100)
ONE = Prompt((BOX,))


@pytest.fixture(scope="module", params=["analytic", "cached", "local", pytest.param("torchserve", marks=pytest.mark.e2e)])
def teacher(request, tmp_path_factory):
    """Each teacher in turn."""
    if request.param == "analytic":
        yield AnalyticTeacher()
    elif request.param == "cached":
        yield CachedTeacher(AnalyticTeacher(), MemoryStore())
    elif request.param == "local":
        yield local_teacher()
    else:
        with serving(ServerConfig(tmp_path_factory.mktemp("teacher"))) as server, TorchServeTeacher(server.endpoint) as client:
            yield client


def test_the_card_says_who_answers(teacher):
    card = teacher.card()
    assert card == teacher.card()
    assert len(card.digest) == 64
    assert card.prompts
    assert teacher.soften(PIXELS, ONE).teacher == card


def test_an_answer_has_the_documented_form(teacher):
    soft = teacher.soften(PIXELS, ONE)
    side = teacher.card().mask_size
    assert soft.logits.shape == (1, side, side)
    assert soft.logits.dtype == np.float16
    assert np.isfinite(soft.logits).all()
    assert soft.predicted_iou.shape == (1,)
    assert soft.predicted_iou.dtype == np.float32
    assert soft.image_size == (HEIGHT, WIDTH)
    assert soft.image_digest == image_digest(PIXELS)
    assert soft.prompt == ONE
    assert all(1 <= extent <= side for extent in soft.content)


@pytest.mark.parametrize("foundation", [AnalyticTeacher, local_teacher])
def test_exact_logits_are_those_that_the_soft_labels_were_rounded_from(foundation):
    told = foundation().ask(PIXELS, ONE, Extras(exact=True))
    assert told.exact.dtype == np.float32
    assert told.exact.astype(np.float16).tobytes() == told.soft.logits.tobytes()
    assert (told.exact != told.soft.logits).any()
    assert foundation().ask(PIXELS, ONE, Extras()).exact is None


def test_what_is_in_the_box_is_found(teacher):
    mask = logits_at(teacher.soften(PIXELS, ONE), (HEIGHT, WIDTH)) > 0
    down, across = np.mgrid[:HEIGHT, :WIDTH]
    truth = np.hypot(down - 60, across - 90) < 35
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.8


def test_the_same_question_has_the_same_answer_to_the_last_bit(teacher):
    first, second = teacher.soften(PIXELS, ONE), teacher.soften(PIXELS.copy(), Prompt((Box(50.0, 20.0, 130.0, 100.0),)))
    assert first.logits.tobytes() == second.logits.tobytes()
    assert first.predicted_iou.tobytes() == second.predicted_iou.tobytes()
    keys = {soft_label_key(soft.image_digest, soft.prompt, soft.teacher) for soft in (first, second)}
    assert len(keys) == 1


def test_each_box_is_an_object_in_the_order_given(teacher):
    other = Box(0, 0, 60, 60)
    both = teacher.soften(PIXELS, Prompt((BOX, other))).logits.astype(np.float32)
    swapped = teacher.soften(PIXELS, Prompt((other, BOX))).logits.astype(np.float32)
    assert both.shape[0] == 2
    np.testing.assert_allclose(both, swapped[::-1], atol=0.02)
    assert np.abs(both[0] - both[1]).max() > 1


def test_colour_is_taken(teacher):
    colour = np.stack([PIXELS] * 3, axis=-1)
    soft = teacher.soften(colour, ONE)
    assert soft.image_digest == image_digest(colour) != image_digest(PIXELS)
    grey = teacher.soften(PIXELS, ONE).logits.astype(np.float32)
    np.testing.assert_allclose(soft.logits.astype(np.float32), grey, atol=0.02)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(),
        Prompt((Box(100, 20, 50, 100),)),
        Prompt((Box(50, 20, 50, 100),)),
        Prompt((Box(-1, 20, 50, 100),)),
        Prompt((Box(0, 0, WIDTH + 1, 100),)),
        Prompt((Box(NAN, 0, 50, 100),)),
        Prompt((Box(0, 0, float("inf"), 100),)),
        Prompt((BOX,) * 65),
        Prompt((), (Point(WIDTH + 1, 0),)),
        Prompt((), (Point(5, 5, 2),)),
        Prompt((BOX, Box(3, 3, 3, 3))),
    ],
)
def test_prompts_that_mean_nothing_are_refused(teacher, prompt):
    with pytest.raises(PromptRefused) as caught:
        teacher.soften(PIXELS, prompt)
    assert caught.value.message


def test_a_kind_of_prompt_it_was_not_trained_for_is_refused_with_what_it_was_trained_for(teacher):
    assert teacher.card().prompts == ("box",)
    with pytest.raises(PromptRefused, match="box"):
        teacher.soften(PIXELS, Prompt((), (Point(90, 60),)))


@pytest.mark.parametrize("pixels", [PIXELS.astype(np.float32), np.zeros((1, 1), np.uint8), np.zeros((64, 64, 4), np.uint8)])
def test_pixels_that_are_no_picture_are_refused(teacher, pixels):
    with pytest.raises(UnreadableImage):
        teacher.soften(pixels, Prompt((Box(0, 0, 1, 1),)))


def test_a_refusal_does_no_harm(teacher):
    before = teacher.soften(PIXELS, ONE)
    with pytest.raises(PromptRefused):
        teacher.soften(PIXELS, Prompt())
    assert teacher.soften(PIXELS, ONE).logits.tobytes() == before.logits.tobytes()


def test_several_threads_may_ask(teacher):
    boxes = [Box(50 - i, 20, 130, 100 - i) for i in range(4)]
    alone = [teacher.soften(PIXELS, Prompt((box,))).logits.tobytes() for box in boxes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda box: teacher.soften(PIXELS, Prompt((box,))).logits.tobytes(), boxes))
    assert together == alone
