"""The ``teacher`` commands: what they refuse, and that they start nothing that they need not."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from fedmentor.cli import run
from fedmentor.errors import EXIT_CONFIG, EXIT_PEER
from fedmentor.teacher.contract import image_digest
from teacher_service.models.lite_medsam import bundled_checkpoint
from teacher_service.models.registry import ARCHITECTURES


@pytest.fixture
def picture(tmp_path):
    """A small grey PNG."""
    path = tmp_path / "x.png"
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--box", "1,2,3"], "a box is x0,y0,x1,y1"),
        (["--box", "1,2,3,x"], "a box is x0,y0,x1,y1"),
        (["--point", "1,2"], "a point is x,y,label"),
        (["--point", "1,2,nan"], "a point is x,y,label"),
        (["--point", "1,2,0.5"], "the label is 1 inside and 0 outside"),
        (["--auto", "lungs", "--answer", "answer.txt"], "neither .safetensors nor .json"),
        (["--auto", "lungs", "--box", "1,2,3,4"], "--auto does not go together"),
        (["--auto", "whole", "--window", "5,1"], "upside down"),
        (["--auto", "whole", "--window", "5"], "a window is low,high"),
        (["--box", "1,2,3,4", "--url", "http://127.0.0.1:1"], "--url and --key-file go together"),
        (["--auto", "whole", "--device", "cuda"], "--device is for a teacher in this process"),
        (["--auto", "whole", "--precision", "float16"], "--precision is for a teacher in this process"),
        (["--auto", "whole", "--local", "--url", "http://127.0.0.1:1"], "--url is for a teacher elsewhere"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_one_line(capfd, picture, arguments, sentence):
    assert run(["teacher", "query", picture, *arguments]) == EXIT_CONFIG
    assert sentence in capfd.readouterr().err.splitlines()[0]


def test_query_without_a_server_says_how_to_start_one(capfd, picture, tmp_path):
    assert run(["teacher", "query", picture, "--auto", "central", "--run-dir", str(tmp_path)]) == EXIT_PEER
    error = capfd.readouterr().err
    assert "no teacher is running" in error
    assert "fedmentor teacher serve" in error


def test_query_of_what_is_no_picture(capfd, tmp_path):
    (tmp_path / "x.png").write_text("text")
    assert run(["teacher", "query", str(tmp_path / "x.png"), "--auto", "central"]) == EXIT_CONFIG
    assert "not a PNG or JPEG" in capfd.readouterr().err


def test_help_says_when_something_is_encrypted(capfd):
    assert run(["teacher", "serve", "--help"]) == 0
    words = " ".join(capfd.readouterr().out.split())
    assert "Without --tls nothing is encrypted: then 0.0.0.0 is only for a container on a private network." in words
    assert "Encrypt REST and gRPC" in words


@pytest.mark.parametrize("command", ["status", "stop"])
def test_status_and_stop_without_a_server(capfd, tmp_path, command):
    assert run(["teacher", command, "--run-dir", str(tmp_path)]) == EXIT_PEER
    assert "no teacher is running" in capfd.readouterr().err


def test_a_local_query_prints_numbers_and_writes_what_is_asked_for(capfd, picture, tmp_path):
    outputs = {"--overlay": tmp_path / "o.png", "--answer": tmp_path / "a.safetensors"}
    arguments = [word for pair in outputs.items() for word in map(str, pair)]
    assert run(["teacher", "query", picture, "--local", "--box", "4,4,60,44", "--box", "0,0,20,20", "--json", *arguments]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["teacher"]["architecture"] == "lite-medsam"
    assert len(facts["objects"]) == 2
    assert load_file(outputs["--answer"])["logits"].shape == (2, 256, 256)
    with Image.open(outputs["--overlay"]) as overlay:
        assert overlay.format == "PNG"


def test_a_window_is_looked_through(capfd, tmp_path):
    deep = np.tile(np.arange(64, dtype=np.uint16) * 60, (48, 1))
    np.save(tmp_path / "x.npy", deep)
    words = ["teacher", "query", str(tmp_path / "x.npy"), "--local", "--auto", "whole", "--window", "0,3780", "--json"]
    assert run(words) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["image_digest"] == image_digest(np.rint(deep * (255 / 3780)).astype(np.uint8))


def test_the_known_architectures_are_listed_with_where_their_weights_are(capfd):
    assert run(["teacher", "architectures", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert [one["id"] for one in listed] == list(ARCHITECTURES)
    assert all(one["weights_page"].startswith("https://") and one["licence"] and one["prompts"] for one in listed)
    assert run(["teacher", "architectures"]) == 0
    assert "sam-med2d" in capfd.readouterr().out


def test_convert_then_build_from_the_command_line(capfd, tmp_path):
    (tmp_path / "lite.pth").write_bytes(bundled_checkpoint())
    assert run(["teacher", "convert", str(tmp_path / "lite.pth"), "--out", str(tmp_path / "w.safetensors")]) == 0
    assert "lite-medsam, digest" in capfd.readouterr().out
    assert run(["teacher", "build", "--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "t.mar")]) == 0
    assert (tmp_path / "t.mar").stat().st_size > 39_000_000
