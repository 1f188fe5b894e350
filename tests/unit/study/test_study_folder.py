"""A study's folder: what may be replaced, what must not be, and that two studies keep out of each other's way."""

from __future__ import annotations

import pytest

from fedmentor.errors import ConfigError
from study.folder import LOCK_FILE, PLAN_FILE, study_folder
from study.plan import StudyPlan


def left_by_a_study(folder):
    with study_folder(folder):
        (folder / PLAN_FILE).write_text(StudyPlan().model_dump_json())
        (folder / "data").mkdir()
        (folder / "data" / "file").touch()
    return folder


def test_an_earlier_study_is_replaced_through_a_link_too(tmp_path):
    real = left_by_a_study(tmp_path / "big-disk")
    (tmp_path / "demo").symlink_to(real)
    with study_folder(tmp_path / "demo"):
        assert [entry.name for entry in real.iterdir()] == [LOCK_FILE]
    with study_folder(real):  # nothing but the lock: a study that was ended before it wrote anything
        pass


def test_what_a_link_in_the_folder_points_to_is_kept(tmp_path):
    folder = left_by_a_study(tmp_path / "demo")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    (folder / "link").symlink_to(tmp_path / "mine")
    with study_folder(folder):
        assert (tmp_path / "mine" / "thesis").exists()


@pytest.mark.parametrize("plan", [None, "", "{}", "[1]", '{"rounds": 6}'])
def test_another_folder_is_not_touched(tmp_path, plan):
    (tmp_path / "thesis").write_text("years of work")
    if plan is not None:
        (tmp_path / PLAN_FILE).write_text(plan)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="was not written by a study"), study_folder(tmp_path):
        pytest.fail("entered")
    assert sorted(tmp_path.iterdir()) == before


def test_a_second_study_in_the_same_folder_is_refused_and_disturbs_nothing(tmp_path):
    with study_folder(tmp_path / "demo"):
        (tmp_path / "demo" / PLAN_FILE).write_text(StudyPlan().model_dump_json())
        with pytest.raises(ConfigError, match="another study is running"), study_folder(tmp_path / "demo"):
            pytest.fail("entered")
        assert (tmp_path / "demo" / PLAN_FILE).exists()
