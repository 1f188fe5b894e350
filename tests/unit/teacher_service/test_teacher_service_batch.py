"""A batch labels every image once, goes on where it stopped, and what it stored needs no teacher."""

import json

import numpy as np
import pytest
from PIL import Image

from fed_node.data.dataset import open_dataset
from fed_node.data.phantom import write_phantoms
from fed_node.student.prompting import prompt_source
from fedmentor.cli import run
from fedmentor.errors import EXIT_CONFIG, EXIT_PEER, ConfigError, EmptyDataset, TeacherUnreachable
from fedmentor.teacher.cache import CachedTeacher, FolderStore, stored_teacher
from fedmentor.teacher.client import TeacherClient
from fedmentor.teacher.contract import Box, Prompt, image_digest
from fedmentor.teacher.prompts import central_box
from fedmentor.testing.teacher import AnalyticTeacher
from teacher_service.batch import Batch, BatchOptions, pictures_of
from teacher_service.batch_prompts import prompt_rule
from teacher_service.door import InProcessDoor
from teacher_service.embedding_store import EmbeddingStore
from teacher_service.local import local_teacher

COUNT = 5


def picture(seed, shape=(40, 48)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def dataset(tmp_path):
    """A dataset folder: grey PNG, colour PNG, 16-bit NumPy, something else."""
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for index in range(3):
        Image.fromarray(picture(index)).save(images / f"{index}.png")
    Image.fromarray(picture(3, (40, 48, 3))).save(images / "3.PNG")
    np.save(images / "4.npy", picture(4).astype(np.uint16) * 100)
    (images / "notes.txt").write_text("no picture")
    return tmp_path / "data"


class Forgetful(AnalyticTeacher):
    """Ends after some images, as a server that was stopped."""

    def __init__(self, images):
        super().__init__()
        self.left = images

    def soften(self, pixels, prompt):
        """See Teacher."""
        self.left -= 1
        if self.left < 0:
            raise TeacherUnreachable("stopped")
        return super().soften(pixels, prompt)


def passed(teacher, store, dataset, embeddings=None, **options):
    """One batch; its result and what it told."""
    told = []
    client = TeacherClient(InProcessDoor(teacher))
    result = Batch(client, store, BatchOptions(**options), embeddings).run(pictures_of(dataset), lambda *now: told.append(now))
    return result, told


def test_every_image_is_asked_about_once(dataset, tmp_path):
    store, teacher = FolderStore(tmp_path / "cache"), AnalyticTeacher()
    result, told = passed(teacher, store, dataset)
    assert (result.asked, result.known, result.failures) == (COUNT, 0, ())
    assert [done for done, _total, _fault in told] == list(range(1, COUNT + 1))
    again, _told = passed(teacher, store, dataset)
    assert (again.asked, again.known) == (0, COUNT)
    assert teacher.asked == COUNT


def test_an_interrupted_batch_goes_on_where_it_stopped(dataset, tmp_path):
    store = FolderStore(tmp_path / "cache")
    with pytest.raises(TeacherUnreachable):
        passed(Forgetful(2), store, dataset, in_flight=1)
    teacher = AnalyticTeacher()
    result, _told = passed(teacher, store, dataset)
    assert (result.asked, result.known) == (COUNT - 2, 2)
    assert teacher.asked == COUNT - 2


def test_a_bad_image_is_left_out_and_the_others_are_not(dataset, tmp_path):
    (dataset / "images" / "0.png").write_bytes(b"no picture")
    result, told = passed(AnalyticTeacher(), FolderStore(tmp_path / "cache"), dataset)
    assert result.asked == COUNT - 1
    ((name, reason),) = result.failures
    assert name == "0.png"
    assert "not a PNG" in reason
    assert sum(bool(fault) for _done, _total, fault in told) == 1


def test_what_was_stored_needs_no_teacher(dataset, tmp_path):
    passed(AnalyticTeacher(), FolderStore(tmp_path / "cache"), dataset)
    stored = stored_teacher(tmp_path / "cache")
    prompt = Prompt(central_box((40, 48)))
    soft = stored.soften(picture(0), prompt)
    assert soft.logits.tobytes() == AnalyticTeacher().soften(picture(0), prompt).logits.tobytes()
    assert stored.card() == AnalyticTeacher().card()
    luma = np.asarray(Image.fromarray(picture(3, (40, 48, 3))).convert("L"))
    assert stored.soften(luma, prompt).image_digest == image_digest(luma)
    with pytest.raises(TeacherUnreachable, match="holds no answer"):
        stored.soften(picture(9), prompt)
    with pytest.raises(TeacherUnreachable, match="holds no answer"):
        stored.soften(picture(0), Prompt((Box(0, 0, 9, 9),)))


def test_colour_may_be_kept(dataset, tmp_path):
    passed(AnalyticTeacher(), FolderStore(tmp_path / "cache"), dataset, keep_colour=True)
    colour = picture(3, (40, 48, 3))
    assert stored_teacher(tmp_path / "cache").soften(colour, Prompt(central_box((40, 48)))).image_digest == image_digest(colour)


def test_a_store_of_nobody_or_of_several_is_told(tmp_path, dataset):
    with pytest.raises(TeacherUnreachable, match="holds none"):
        stored_teacher(tmp_path / "nowhere")
    store = FolderStore(tmp_path / "cache")
    passed(AnalyticTeacher(), store, dataset)
    other = AnalyticTeacher().card().__class__(**{**vars(AnalyticTeacher().card()), "architecture": "another", "digest": "f" * 64})
    store.put_card(other)
    with pytest.raises(TeacherUnreachable, match="one teacher"):
        stored_teacher(tmp_path / "cache")
    assert stored_teacher(tmp_path / "cache", "another").card() == other


def test_embeddings_are_kept_by_content(dataset, tmp_path):
    embeddings = EmbeddingStore(tmp_path / "embeddings")
    teacher = AnalyticTeacher()
    passed(teacher, FolderStore(tmp_path / "cache"), dataset, embeddings)
    found = embeddings.get(image_digest(picture(1)), teacher.card())
    assert found.shape == (1, 1, 1)
    assert found[0, 0, 0] == pytest.approx(picture(1).mean())
    asked = teacher.asked
    passed(teacher, FolderStore(tmp_path / "cache"), dataset, embeddings)
    assert teacher.asked == asked
    assert oct((tmp_path / "embeddings").stat().st_mode & 0o777) == "0o700"


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_what_is_no_embedding_counts_as_absent(tmp_path, content):
    embeddings, card = EmbeddingStore(tmp_path), AnalyticTeacher().card()
    image = image_digest(picture(0))
    embeddings.put(image, card, np.full((1, 2, 2), np.nan if content is None else 1.0, np.float32))
    if content is not None:
        embeddings.path(image, card).write_bytes(content)
    assert embeddings.get(image, card) is None
    embeddings.put(image, card, np.ones((1, 2, 2), np.float32))
    assert (embeddings.get(image, card) == 1).all()


def test_an_embedding_on_disk_spares_the_encoding(tmp_path):
    prompt = Prompt((Box(4, 4, 40, 30),))
    first = local_teacher(embeddings=tmp_path).soften(picture(1), prompt)
    later = local_teacher(embeddings=tmp_path).soften(picture(1), prompt)
    assert (first.timings_ms["embedding_cached"], later.timings_ms["embedding_cached"]) == (0.0, 1.0)
    assert later.logits.tobytes() == first.logits.tobytes()


@pytest.mark.parametrize("options", [{"in_flight": 0}, {"in_flight": 65}])
def test_options_out_of_range(options):
    with pytest.raises(ConfigError):
        BatchOptions(**options)


@pytest.mark.parametrize("choice", ["liver", "mask:-1", "mask:wide", "mask:nan", "mask:", "absent.csv", "boxes.xlsx"])
def test_what_is_no_prompt_is_told(choice):
    with pytest.raises(ConfigError, match=choice):
        prompt_rule(choice)


def test_every_image_gets_the_prompt_of_its_row(dataset, tmp_path):
    table = tmp_path / "prompts.jsonl"
    table.write_text('{"id": "0", "boxes": [[1, 2, 30, 20]]}\n\n{"id": "1", "boxes": [[3, 3, 9, 9], [4, 4, 8, 8]]}\n')
    result, _told = passed(AnalyticTeacher(), FolderStore(tmp_path / "cache"), dataset, rule=prompt_rule(str(table)))
    assert result.asked == 2
    assert [name for name, _reason in result.failures] == ["2.png", "3.PNG", "4.npy"]
    assert "no prompt for image '2'" in result.failures[0][1]
    stored = stored_teacher(tmp_path / "cache")
    stored.soften(picture(0), Prompt((Box(1, 2, 30, 20),)))
    stored.soften(picture(1), Prompt((Box(3, 3, 9, 9), Box(4, 4, 8, 8))))


def test_a_box_outside_its_image_leaves_that_image_out(dataset, tmp_path):
    table = tmp_path / "prompts.csv"
    table.write_text("id,x0,y0,x1,y1\n" + "".join(f"{index},0,0,{40 + 3 * index},9\n" for index in range(5)))
    result, _told = passed(AnalyticTeacher(), FolderStore(tmp_path / "cache"), dataset, rule=prompt_rule(str(table)))
    assert result.asked == 3
    assert [name for name, _reason in result.failures] == ["3.PNG", "4.npy"]
    assert "outside the image of 48x40" in result.failures[0][1]


def test_the_box_around_a_mask_is_what_distillation_asks_for(tmp_path):
    """Batch and distillation read the same rule in two packages; the labels of one must be found by the other."""
    write_phantoms(tmp_path / "phantoms", count=2, seed=0, side=64)
    for sample in open_dataset(tmp_path / "phantoms"):
        size = sample.pixels().shape
        for choice in ("mask", "mask:5", "central", "lungs", "whole"):
            assert prompt_rule(choice).prompt(sample.image, size) == prompt_source(choice).prompt(sample, size)
        tight, wide = (prompt_rule(choice).prompt(sample.image, size).boxes[0] for choice in ("mask", "mask:5"))
        assert (tight.x0 - wide.x0, wide.y1 - tight.y1) == (5.0, 5.0)


def test_an_image_whose_mask_is_missing_empty_or_of_another_size_is_left_out(dataset, tmp_path):
    masks = dataset / "masks"
    masks.mkdir()
    Image.fromarray(np.pad(np.full((10, 10), 255, np.uint8), ((5, 25), (6, 32)))).save(masks / "0.png")
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(masks / "1.png")
    Image.fromarray(np.ones((48, 40), np.uint8)).save(masks / "2.png")
    (masks / "3.png").write_bytes(b"no picture")
    result, _told = passed(AnalyticTeacher(), FolderStore(tmp_path / "cache"), dataset, rule=prompt_rule("mask:2"))
    assert result.asked == 1
    reasons = dict(result.failures)
    assert "empty mask" in reasons["1.png"]
    assert "masks/2.png has shape (48, 40)" in reasons["2.png"]
    assert "masks/3.png: the file is not" in reasons["3.PNG"]
    assert "masks/4.png cannot be opened" in reasons["4.npy"]
    stored_teacher(tmp_path / "cache").soften(picture(0), Prompt((Box(4, 3, 18, 17),)))


def test_the_command_takes_a_table_and_names_rows_without_an_image(dataset, tmp_path, capfd):
    table = tmp_path / "prompts.csv"
    table.write_text("id,x0,y0,x1,y1\n0,1,1,40,30\nelsewhere,0,0,9,9\n")
    words = ["teacher", "batch", str(dataset), "--local", "--cache", str(tmp_path / "cache"), "--prompt", str(table)]
    assert run(words) == 0
    output, errors = capfd.readouterr()
    assert "1 images asked about, 0 known already, 4 left out" in output
    assert "names 1 images that" in errors
    assert "'elsewhere'" in errors
    table.write_text("id,x0,y0,x1,y1\n0,1,1,40,30\n1,40,1,1,30\n")
    assert run(words) == EXIT_CONFIG
    assert "prompts.csv, line 3: box (40.0, 1.0, 1.0, 30.0) is inverted or empty" in capfd.readouterr().err.replace("\n", " ")


def test_a_folder_without_images(tmp_path):
    with pytest.raises(EmptyDataset):
        pictures_of(tmp_path)


def test_the_command_labels_a_folder_and_distillation_finds_the_labels(dataset, tmp_path, capfd):
    for name in ("1.png", "2.png", "3.PNG", "4.npy"):
        (dataset / "images" / name).unlink()
    words = ["teacher", "batch", str(dataset), "--local", "--cache", str(tmp_path / "cache"), "--json"]
    assert run(words) == 0
    first = json.loads(capfd.readouterr().out)
    assert (first["asked"], first["known"], first["left_out"]) == (1, 0, {})
    assert run(words[:-1]) == 0
    assert "0 images asked about, 1 known already, 0 left out" in capfd.readouterr().out
    cached = CachedTeacher(stored_teacher(tmp_path / "cache"), FolderStore(tmp_path / "cache"))
    cached.soften(picture(0), Prompt(central_box((40, 48))))
    assert cached.hits == 1


def test_the_command_fails_where_nothing_could_be_labelled(dataset, tmp_path, capfd):
    for path in (dataset / "images").iterdir():
        path.write_bytes(b"text")
    assert run(["teacher", "batch", str(dataset), "--local", "--cache", str(tmp_path / "cache")]) == EXIT_CONFIG
    assert "no image" in capfd.readouterr().err


def test_distillation_from_an_empty_store_asks_nobody_and_says_what_to_do(tmp_path, capfd):
    write_phantoms(tmp_path / "phantoms", count=2, seed=0, side=64)
    words = ["distil", str(tmp_path / "phantoms"), "--out", str(tmp_path / "out"), "--stored", "--cache", str(tmp_path / "cache")]
    assert run(words) == EXIT_PEER
    assert "fedmentor teacher batch" in capfd.readouterr().err
    assert run(["teacher", "batch", str(tmp_path / "phantoms"), "--local", "--cache", str(tmp_path / "cache")]) == 0
    assert run([*words, "--epochs", "1"]) == 0
    assert (tmp_path / "out" / "model.json").exists()


def test_a_link_that_leads_nowhere_is_left_out_and_named(dataset, tmp_path):
    (dataset / "images" / "5.png").symlink_to(tmp_path / "gone.png")
    result, _told = passed(AnalyticTeacher(), FolderStore(tmp_path / "cache"), dataset)
    assert result.asked == COUNT
    assert dict(result.failures) == {"5.png": "it cannot be opened: No such file or directory"}
