"""How long everybody waits for a teacher, and where each reads it."""

import json

import pytest

from fedmentor.errors import ConfigError, TeacherUnreachable
from fedmentor.teacher.client import Patience
from fedmentor.teacher.endpoint import STATE_FILE, Endpoint, pace_at, read_endpoint
from fedmentor.teacher.pace import Pace, pace_of, read_pace

SLOW = Pace(800, 1)


def state(folder, **more):
    facts = {"url": "http://127.0.0.1:1", "key_file": str(folder / "key_file.json"), "keeper_pid": 1, **more}
    (folder / STATE_FILE).write_text(json.dumps(facts))


def test_the_usual_pace_is_what_the_small_teachers_need():
    usual = Pace()
    assert (usual.response_s, usual.batch_images, usual.in_flight) == (120, 4, 8)
    assert (usual.probe_s, usual.unhealthy_s, usual.answer_s) == (120, 240, 300)
    assert (usual.status_s, usual.alone_s, usual.startup_s) == (30, 60, 180)
    assert Patience.of(usual) == Patience()


@pytest.mark.parametrize("batch_images", [None, *range(1, 65)])
@pytest.mark.parametrize("image_seconds", [0.01, 0.94, 3.75, 3.76, 20.0, 100.0])
def test_each_waits_longer_than_those_behind_him(image_seconds, batch_images):
    pace = pace_of(image_seconds, batch_images)
    assert pace.response_s >= 7.9 * image_seconds * min(pace.batch_images, 4)
    assert pace.response_s < pace.unhealthy_s < pace.answer_s
    assert image_seconds < pace.status_s < pace.alone_s < pace.response_s <= pace.probe_s < pace.unhealthy_s
    assert pace.alone_s < pace.startup_s
    assert pace.in_flight * image_seconds < pace.unhealthy_s
    assert read_pace({"pace": pace.to_json()}) == pace


def test_a_slow_teacher_gets_one_image_at_a_time():
    assert [pace_of(seconds).batch_images for seconds in (3.75, 3.76)] == [4, 1]


def test_a_client_learns_it_from_the_state_file(tmp_path):
    state(tmp_path, pace=SLOW.to_json())
    endpoint = read_endpoint(tmp_path)
    assert endpoint.pace == SLOW
    assert Patience.of(pace_at(endpoint)).answer_s == 2000
    assert Patience.of(pace_at(endpoint)).in_flight == 2


def test_a_client_that_was_given_a_url_learns_it_from_the_state_beside_the_key(tmp_path):
    endpoint = Endpoint("https://elsewhere", tmp_path / "key_file.json")
    assert pace_at(endpoint) == Pace()
    state(tmp_path, pace=SLOW.to_json())
    assert pace_at(endpoint) == SLOW
    for junk in ("[]", "{", '{"pace": []}', '{"pace": {"response_s": 0, "batch_images": 1}}'):
        (tmp_path / STATE_FILE).write_text(junk)
        assert pace_at(endpoint) == Pace()


def test_the_state_of_a_server_that_tells_no_pace_is_read(tmp_path):
    state(tmp_path)
    assert read_endpoint(tmp_path).pace == Pace()


@pytest.mark.parametrize("pace", [{"response_s": 119, "batch_images": 4}, {"response_s": 10**9, "batch_images": 1}, {}, 7])
def test_nonsense_is_refused(tmp_path, pace):
    state(tmp_path, pace=pace)
    with pytest.raises(TeacherUnreachable, match="not a teacher's state file"):
        read_endpoint(tmp_path)
    with pytest.raises(ConfigError, match="cannot have"):
        Pace(120, 0)
