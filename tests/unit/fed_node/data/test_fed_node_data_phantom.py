"""Phantoms are reproducible, carry anatomy and metadata, and show what their metadata says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import label

from fed_node.cli.data import data
from fed_node.data.check import check_dataset
from fed_node.data.dataset import open_dataset
from fed_node.data.phantom import draw_person, draw_phantoms, draw_shot, phantom, write_phantoms
from fed_node.data.phantom_body import AP_SUPINE, PA
from fed_node.data.phantom_film import HOSPITALS
from fedmentor.errors import ConfigError


@pytest.fixture(scope="module")
def series():
    """Forty phantoms at the usual size."""
    return list(draw_phantoms(40, seed=5))


@pytest.fixture
def person():
    return draw_person(np.random.default_rng(1), 0)


@pytest.fixture
def shot(person):
    plain = draw_shot(np.random.default_rng(2), person)
    return replace(plain, view=PA, severity=0.0, turn=0.0, tilt_deg=0.0, inspiration=0.0)


def test_the_same_seed_gives_the_same_pixels(series):
    again = list(draw_phantoms(12, seed=5))
    assert all(np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask) for a, b in zip(series, again, strict=False))
    assert [a.metadata for a in series[:12]] == [b.metadata for b in again]


def test_a_longer_series_starts_like_a_shorter_one(series):
    assert all(np.array_equal(a.image, b.image) for a, b in zip(draw_phantoms(5, seed=5), series, strict=False))


def test_another_seed_gives_other_pixels(series):
    assert not np.array_equal(next(draw_phantoms(1, seed=6)).image, series[0].image)


def test_every_phantom_has_two_lungs_of_a_plausible_size(series):
    for image in series:
        assert label(image.mask)[1] == 2
        assert 0.15 < image.mask.mean() < 0.55


def test_images_use_the_grey_scale_and_differ(series):
    assert all(image.image.dtype == np.uint8 and image.image.std() > 15 for image in series)
    assert len({image.image.tobytes() for image in series}) == len(series)


def test_lungs_are_darker_than_what_surrounds_them(series):
    darker = [image.image[image.mask].mean() < image.image[40:220, 40:216][~image.mask[40:220, 40:216]].mean() for image in series]
    assert all(darker)


def test_metadata_covers_sexes_views_hospitals_and_repeated_patients(series):
    def values(column):
        return {image.metadata[column] for image in series}

    assert values("sex") == {"F", "M"}
    assert values("view") == {PA, AP_SUPINE}
    assert values("location") == {hospital.name for hospital in HOSPITALS}
    assert values("finding") == {"clear", "opacity"}
    assert len(values("patient_id")) < len(series)
    assert all(18 <= int(image.metadata["age"]) <= 95 for image in series)


def test_a_patient_keeps_age_sex_and_hospital(series):
    known = {}
    for image in series:
        fixed = tuple(image.metadata[name] for name in ("age", "sex", "location"))
        assert known.setdefault(image.metadata["patient_id"], fixed) == fixed


def test_shallow_inspiration_makes_smaller_lungs(person, shot):
    assert phantom(person, replace(shot, inspiration=0.1)).mask.sum() < phantom(person, shot).mask.sum()


def test_opacities_brighten_the_lungs(person, shot):
    clear, ill = phantom(person, shot), phantom(person, replace(shot, severity=1.0))
    assert ill.image[clear.mask].mean() > clear.image[clear.mask].mean() + 3


def test_breasts_brighten_the_lower_lungs(person, shot):
    woman, man = (phantom(replace(person, sex=sex, habitus=0.6), shot) for sex in "FM")
    changed = woman.image.astype(int) - man.image
    assert changed[130:180].mean() > 3
    assert abs(changed[:60].mean()) < 3


def test_young_ribs_show_more_contrast(person, shot):
    strong, weak = (phantom(replace(person, bone=bone), shot) for bone in (1.2, 0.5))
    assert strong.image[strong.mask].std() > weak.image[weak.mask].std()


def test_hospitals_can_be_told_apart(person, shot):
    histograms = [np.histogram(phantom(replace(person, hospital=index), shot).image, 16, (0, 255))[0] for index in range(4)]
    for index, first in enumerate(histograms):
        for second in histograms[index + 1 :]:
            assert np.abs(first - second).sum() > 0.1 * 65536


def test_a_supine_view_changes_what_lies_over_the_lungs_and_not_the_lungs(person, shot):
    supine = phantom(person, replace(shot, view=AP_SUPINE))
    assert np.array_equal(supine.mask, phantom(person, shot).mask)
    assert not np.array_equal(supine.image, phantom(person, shot).image)


def test_the_mask_turns_with_the_patient(person, shot):
    rows = [np.nonzero(phantom(person, replace(shot, tilt_deg=tilt)).mask[:, :100])[0].min() for tilt in (-8.0, 8.0)]
    assert rows[1] < rows[0]


def test_other_sizes_show_the_same_body(person, shot):
    small, large = phantom(person, shot, 128).mask, phantom(person, shot, 256).mask[::2, ::2]
    assert 2 * (small & large).sum() / (small.sum() + large.sum()) > 0.97


@pytest.mark.parametrize(("count", "side"), [(0, 256), (10**9, 256), (1, 63), (1, 258), (1, 10**6)])
def test_impossible_orders_are_refused_at_once(count, side):
    with pytest.raises(ConfigError):
        draw_phantoms(count, 0, side)


def test_a_written_folder_is_a_good_dataset(tmp_path):
    ids = write_phantoms(tmp_path / "d", 6, seed=1, side=64)
    dataset = open_dataset(tmp_path / "d")
    assert [sample.id for sample in dataset] == list(ids)
    assert check_dataset(tmp_path / "d").good
    assert np.array_equal(dataset[3].pixels(), list(draw_phantoms(6, 1, 64))[3].image)


def test_the_command_says_what_it_made(tmp_path):
    result = CliRunner().invoke(data, ["phantoms", "--out", str(tmp_path / "d"), "--count", "3", "--seed", "2", "--side", "64"])
    assert result.exit_code == 0
    assert "3 phantoms" in result.stdout
    assert len(open_dataset(tmp_path / "d")) == 3
