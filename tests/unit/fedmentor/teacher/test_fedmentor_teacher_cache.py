"""The soft-label cache: one contract for both stores, and a teacher that is never asked twice."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmentor.errors import ConfigError, DigestMismatch, PromptRefused
from fedmentor.ids import Digest
from fedmentor.teacher.cache import CachedTeacher, FolderStore, MemoryStore
from fedmentor.teacher.contract import Box, Prompt, SoftLabels, TeacherCard, image_digest, soft_label_key
from fedmentor.testing.teacher import AnalyticTeacher

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
PROMPT = Prompt(boxes=(Box(5.0, 5.5, 45.0, 35.0),))
OTHER_PROMPT = Prompt(boxes=(Box(5.0, 6.5, 45.0, 35.0),))


def answer_and_key() -> tuple[SoftLabels, Digest]:
    soft = AnalyticTeacher().soften(PIXELS, PROMPT)
    return soft, soft_label_key(soft.image_digest, soft.prompt, soft.teacher)


def same(left: SoftLabels, right: SoftLabels) -> bool:
    plain = {"logits": np.zeros(0, np.float16), "predicted_iou": np.zeros(0, np.float32)}
    return (
        np.array_equal(left.logits, right.logits)
        and np.array_equal(left.predicted_iou, right.predicted_iou)
        and repr(replace(left, **plain)) == repr(replace(right, **plain))
    )


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "cache")


class RelabelledTeacher(AnalyticTeacher):
    """Names other weights than the ones its answers come from, as a teacher does that is replaced while it is asked."""

    def card(self) -> TeacherCard:
        """A wrong name."""
        return replace(super().card(), digest=Digest("0" * 64))

    def soften(self, pixels, prompt) -> SoftLabels:
        """The right answer under the right name."""
        return replace(super().soften(pixels, prompt), teacher=super().card())


class SlowTeacher(AnalyticTeacher):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_once = threading.Event()
        self.go_on = threading.Event()

    def soften(self, pixels, prompt) -> SoftLabels:
        """Wait for go_on."""
        self.asked_once.set()
        assert self.go_on.wait(30)
        return super().soften(pixels, prompt)


def test_an_absent_answer_is_none(store):
    assert store.get(answer_and_key()[1]) is None


def test_what_is_put_is_got_without_its_timings(store):
    soft, key = answer_and_key()
    store.put(key, replace(soft, timings_ms={"encode": 1.0}))
    found = store.get(key)
    assert found is not None
    assert found.timings_ms == {}
    assert found.logits.dtype == np.float16
    assert same(found, soft)


def test_putting_again_replaces(store):
    soft, key = answer_and_key()
    store.put(key, soft)
    store.put(key, replace(soft, predicted_iou=np.array([0.25], np.float32)))
    found = store.get(key)
    assert found is not None
    assert found.predicted_iou.tolist() == [0.25]


def test_the_teacher_is_asked_once_for_the_same_question(store):
    teacher = AnalyticTeacher()
    cached = CachedTeacher(teacher, store)
    first, second = cached.soften(PIXELS, PROMPT), cached.soften(PIXELS.copy(), PROMPT)
    assert (teacher.asked, cached.hits, cached.misses) == (1, 1, 1)
    assert same(first, second)


def test_another_image_or_prompt_is_another_question(store):
    teacher = AnalyticTeacher()
    cached = CachedTeacher(teacher, store)
    for pixels, prompt in ((PIXELS, PROMPT), (PIXELS, OTHER_PROMPT), (255 - PIXELS, PROMPT), (PIXELS[:-1], PROMPT)):
        cached.soften(pixels, prompt)
    assert (teacher.asked, cached.hits) == (4, 0)


def test_other_weights_or_preprocessing_are_another_address():
    card = AnalyticTeacher().card()
    cards = (card, replace(card, digest=Digest("1" * 64)), replace(card, preprocessing="other-v1"))
    assert len({soft_label_key(image_digest(PIXELS), PROMPT, one) for one in cards}) == 3


def test_a_second_teacher_object_on_the_same_store_asks_nobody(store):
    CachedTeacher(AnalyticTeacher(), store).soften(PIXELS, PROMPT)
    teacher = AnalyticTeacher()
    CachedTeacher(teacher, store).soften(PIXELS, PROMPT)
    assert teacher.asked == 0


def test_threads_that_want_the_same_answer_ask_once(store):
    teacher = SlowTeacher()
    cached = CachedTeacher(teacher, store)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(cached.soften, PIXELS, PROMPT) for _ in range(4)]
        assert teacher.asked_once.wait(30)
        teacher.go_on.set()
        results = [answer.result(30) for answer in answers]
    assert (teacher.asked, cached.hits, cached.misses) == (1, 3, 1)
    assert all(same(result, results[0]) for result in results)


def test_a_refusal_is_not_kept(store):
    cached = CachedTeacher(AnalyticTeacher(), store)
    with pytest.raises(PromptRefused):
        cached.soften(PIXELS, Prompt())
    assert (cached.hits, cached.misses) == (0, 0)


def test_an_answer_from_other_weights_is_refused_and_not_kept(store):
    cached = CachedTeacher(RelabelledTeacher(), store)
    with pytest.raises(DigestMismatch, match="other weights"):
        cached.soften(PIXELS, PROMPT)
    assert store.get(soft_label_key(image_digest(PIXELS), PROMPT, cached.card())) is None


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None], ids=["empty", "text", "truncated"])
def test_a_corrupt_file_is_absent_counted_and_overwritten(tmp_path, damage):
    soft, key = answer_and_key()
    store = FolderStore(tmp_path)
    store.put(key, soft)
    whole = store.path(key).read_bytes()
    store.path(key).write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    teacher = AnalyticTeacher()
    CachedTeacher(teacher, store).soften(PIXELS, PROMPT)
    assert (teacher.asked, store.corrupt) == (1, 1)
    assert store.path(key).read_bytes() == whole


def test_a_file_at_another_answers_address_is_corrupt(tmp_path):
    soft, key = answer_and_key()
    store = FolderStore(tmp_path)
    elsewhere = soft_label_key(soft.image_digest, OTHER_PROMPT, soft.teacher)
    store.put(elsewhere, soft)
    assert store.get(elsewhere) is None
    assert store.corrupt == 1
    assert store.get(key) is None


def test_folders_have_two_levels_and_belong_to_their_owner(tmp_path):
    soft, key = answer_and_key()
    root = tmp_path / "cache"
    FolderStore(root).put(key, soft)
    assert [path.relative_to(root) for path in root.rglob("*.safetensors")] == [Path(key[:2]) / f"{key}.safetensors"]
    assert {path.stat().st_mode & 0o077 for path in root.rglob("*")} == {0}


def test_an_aborted_write_leaves_no_file(tmp_path):
    soft, key = answer_and_key()
    store = FolderStore(tmp_path)
    # A folder where the file should go: the rename fails after everything was written.
    store.path(key).mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be written"):
        store.put(key, soft)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_store_that_cannot_be_read_says_so(tmp_path):
    _, key = answer_and_key()
    store = FolderStore(tmp_path)
    store.path(key).mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        store.get(key)
