"""From a dataset to the folders of pool and sites; refusals name files and write nothing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fed_node.data.dataset import HELD_OUT, SPLIT_COLUMN, TRAIN, open_dataset
from fed_node.data.phantom import write_phantoms
from fedmentor.errors import ConfigError, DataError, EmptyDataset
from study.partition import PartitionPlan, plan_sites
from study.plan import StudyPlan
from study.prepare import PHANTOMS, prepare, write_split

PLAN = StudyPlan(partition=PartitionPlan(sites=2, held_out=0.3), phantoms=20)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "data"
    write_phantoms(folder, count=20, seed=3, side=64)
    return folder


def test_pool_and_sites_are_the_dataset_and_share_no_patient(phantoms, tmp_path):
    prepared = prepare(PLAN, phantoms, tmp_path)
    folders = [prepared.proxy, *prepared.sites.values()]
    parts = [open_dataset(folder) for folder in folders]
    ids = [sample.id for part in parts for sample in part]
    patients = [{sample.patient_id for sample in part} for part in parts]
    assert sorted(ids) == [sample.id for sample in open_dataset(phantoms)]
    assert sum(len(part) for part in patients) == len(set.union(*patients))


def test_the_facts_are_those_of_the_folders(phantoms, tmp_path):
    prepared = prepare(PLAN, phantoms, tmp_path)
    facts = prepared.facts
    assert (facts.source, facts.images) == ("data", 20)
    assert facts.fingerprint == open_dataset(phantoms).fingerprint()
    assert facts.proxy_images == len(open_dataset(prepared.proxy))
    for site, folder in prepared.sites.items():
        data = open_dataset(folder)
        assert facts.sites[site].train_images == len(data.where(SPLIT_COLUMN, TRAIN))
        assert facts.sites[site].held_out_patients == data.where(SPLIT_COLUMN, HELD_OUT).patients


def test_without_data_phantoms_are_made_and_the_same_seed_makes_the_same(tmp_path):
    plan = PLAN.model_copy(update={"phantoms": 16})
    first = prepare(plan.seeded(5), None, tmp_path / "a").facts
    second = prepare(plan.seeded(5), None, tmp_path / "b").facts
    other = prepare(plan.seeded(6), None, tmp_path / "c").facts
    assert first.source == PHANTOMS
    assert first == second
    assert first.fingerprint != other.fingerprint


def test_a_bad_mask_is_named_and_nothing_is_written(tmp_path):
    write_phantoms(tmp_path / "data", count=16, seed=3, side=64)
    victim = min((tmp_path / "data" / "masks").iterdir())
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(victim)
    with pytest.raises(DataError, match=victim.name):
        prepare(PLAN, tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_of_a_site_without_a_mask_is_named(tmp_path):
    write_phantoms(tmp_path / "data", count=16, seed=3, side=64)
    for mask in (tmp_path / "data" / "masks").iterdir():
        mask.unlink()
    with pytest.raises(EmptyDataset, match="has no mask"):
        prepare(PLAN, tmp_path / "data", tmp_path / "out")


def test_a_second_split_leaves_nothing_of_the_first(phantoms, tmp_path):
    dataset = open_dataset(phantoms)
    for plan in (PartitionPlan(sites=3), PartitionPlan(sites=2, proxy=0)):
        folders = write_split(dataset, plan_sites(dataset, plan), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sites"]
    assert sorted((tmp_path / "sites").iterdir()) == sorted(folders.values())
    assert sorted(sample.id for folder in folders.values() for sample in open_dataset(folder)) == [s.id for s in dataset]


def test_a_split_never_replaces_its_own_source_or_what_is_no_split(phantoms, tmp_path):
    write_split(open_dataset(phantoms), plan_sites(open_dataset(phantoms), PartitionPlan(sites=2, proxy=0.6)), tmp_path)
    pool = open_dataset(tmp_path / "proxy")
    with pytest.raises(ConfigError, match="holds the images"):
        write_split(pool, plan_sites(pool, PartitionPlan(sites=2, proxy=0)), tmp_path)
    (tmp_path / "sites" / "site-1" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="not a dataset folder"):
        write_split(open_dataset(phantoms), plan_sites(open_dataset(phantoms), PartitionPlan(sites=2)), tmp_path)
    assert open_dataset(tmp_path / "proxy").fingerprint() == pool.fingerprint()
